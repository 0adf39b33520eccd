//! An image encoder as operators, from RGB pixels to embeddings, all in float32: the computation of
//! [`crate::clip`], whose weights it reads by the same names. Weights of products are stored
//! transposed, (I, O).

use anyhow::Result;

use super::graph::{Attribute, Graph, Number, Side, Value};
use crate::{
    clip::{
        Checkpoint,
        config::{Activation, Family, Size},
        layout::Tower,
        weights::Weights,
    },
    dense::product::transposed,
};

/// √(2/π), and the factor of x³, in gelu's approximation ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).
const ROOT: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
const CUBIC: f32 = 0.044715;

/// Takes `pixels` (N, S, S, 3), as a picture's bytes are after it was resized and cropped. Returns
/// embeddings (N, P), not normalised.
pub fn embeddings(graph: &mut Graph, checkpoint: &Checkpoint) -> Result<Value> {
    let (config, weights) = (&checkpoint.config, checkpoint.on_the_cpu());
    let c = &config.vision_config;
    let (size, w, p, side) = (c.size(), c.hidden_size, c.patch_size, c.image_size);
    let (patches, model) = ((side / p).pow(2), weights.at("vision_model"));
    let mut g = Operators { graph, size };
    let shape = [Side::Any("N"), Side::Of(side), Side::Of(side), Side::Of(3)];
    let pixels = g.graph.input("pixels", Number::Byte, &shape);

    // every byte is what the checkpoint's preprocessing normalises it to
    let table = checkpoint.preprocess()?.normalisation();
    let table = g.graph.float("normalised", &[3 * 256], table.values().as_flattened());
    let colours = g.graph.places("colours", &[0, 256, 512]);
    let bytes = g.graph.node("Cast", &[&pixels], &[("to", Attribute::Int(Number::Int as i64))]);
    let bytes = g.of("Add", &bytes, &colours);
    let x = g.of("Gather", &table, &bytes); // (N, S, S, 3)
    let x = g.permuted(&x, &[0, 3, 1, 2]);

    let embeddings = model.at("embeddings");
    let patch = embeddings.at("patch_embedding");
    let filter = g.graph.float("patches", &[w, 3, p, p], &patch.values("weight", &[w, c.num_channels, p, p])?);
    let x = g.graph.node("Conv", &[&x, &filter], &[("strides", Attribute::Ints(&[p as i64; 2]))]); // (N, W, S/p, S/p)
    let x = g.reshaped(&x, "flat", &[0, 0, patches as i64]);
    let mut x = g.permuted(&x, &[0, 2, 1]); // (N, patches, W)
    let positions = |count| embeddings.at("position_embedding").values("weight", &[count, w]);
    let found = match config.family {
        Family::Clip => {
            let class = g.graph.float("class", &[1, 1, w], &embeddings.values("class_embedding", &[w])?);
            let of_n = [("start", Attribute::Int(0)), ("end", Attribute::Int(1))];
            let n = g.graph.node("Shape", &[&x], &of_n);
            let rest = g.graph.places("class_shape", &[1, w as i64]);
            let shape = g.graph.node("Concat", &[&n, &rest], &[("axis", Attribute::Int(0))]);
            let class = g.of("Expand", &class, &shape);
            x = g.graph.node("Concat", &[&class, &x], &[("axis", Attribute::Int(1))]); // (N, T, W)
            let positions = g.graph.float("positions", &[1 + patches, w], &positions(1 + patches)?);
            x = g.of("Add", &x, &positions);
            x = g.norm(&x, &model.at("pre_layrnorm"))?; // so spelled in every checkpoint
            x = g.transformer(x, &model, Operators::class_token)?; // (N, 1, W)
            let x = g.reshaped(&x, "rows", &[0, w as i64]);
            let x = g.norm(&x, &model.at("post_layernorm"))?;
            g.product(&x, "visual_projection", &weights.at("visual_projection"), config.projection_dim, w)?
        }
        Family::Siglip => {
            let bias = g.graph.float("patch_bias", &[w], &patch.values("bias", &[w])?);
            let positions = g.graph.float("positions", &[patches, w], &positions(patches)?);
            x = g.of("Add", &x, &bias);
            x = g.of("Add", &x, &positions);
            x = g.transformer(x, &model, |_, x| x.clone())?;
            x = g.norm(&x, &model.at("post_layernorm"))?;
            g.pooled(&x, &model.at("head"))?
        }
    };
    weights.require_all_read(Tower::Image)?;
    Ok(found)
}

/// A graph, and what its operators make together in a transformer of a size.
struct Operators<'a> {
    graph: &'a mut Graph,
    size: Size,
}

impl Operators<'_> {
    fn of(&mut self, operator: &str, a: &Value, b: &Value) -> Value {
        self.graph.node(operator, &[a, b], &[])
    }

    fn permuted(&mut self, x: &Value, order: &[i64]) -> Value {
        self.graph.node("Transpose", &[x], &[("perm", Attribute::Ints(order))])
    }

    /// In another shape: 0 keeps a side. A name stands for one shape.
    fn reshaped(&mut self, x: &Value, name: &str, shape: &[i64]) -> Value {
        let shape = self.graph.places(name, shape);
        self.of("Reshape", x, &shape)
    }

    /// A number, by a name.
    fn number(&mut self, name: &str, value: f32) -> Value {
        self.graph.float(name, &[1], &[value])
    }

    fn norm(&mut self, x: &Value, weights: &Weights) -> Result<Value> {
        let w = self.size.width;
        let [scale, bias] = ["weight", "bias"].map(|name| {
            Ok::<_, anyhow::Error>(self.graph.float(&weights.name(name), &[w], &weights.values(name, &[w])?))
        });
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(self.size.eps as f32))];
        Ok(self.graph.node("LayerNormalization", &[x, &scale?, &bias?], &attributes))
    }

    /// x (…, I) times the transposed of the weight (O, I).
    fn product(&mut self, x: &Value, name: &str, weights: &Weights, out: usize, inputs: usize) -> Result<Value> {
        let weight = transposed(&weights.values("weight", &[out, inputs])?, inputs);
        let weight = self.graph.float(name, &[inputs, out], &weight);
        Ok(self.of("MatMul", x, &weight))
    }

    /// x (…, I) → (…, O)
    fn affine(&mut self, x: &Value, weights: &Weights, out: usize, inputs: usize) -> Result<Value> {
        let y = self.product(x, &weights.name("weight"), weights, out, inputs)?;
        let bias = self.graph.float(&weights.name("bias"), &[out], &weights.values("bias", &[out])?);
        Ok(self.of("Add", &y, &bias))
    }

    fn activation(&mut self, x: &Value) -> Value {
        match self.size.activation {
            Activation::QuickGelu => {
                let factor = self.number("quick_gelu", 1.702);
                let y = self.of("Mul", x, &factor);
                let y = self.graph.node("Sigmoid", &[&y], &[]);
                self.of("Mul", x, &y)
            }
            Activation::Gelu => {
                let factor = self.number("gelu", std::f32::consts::FRAC_1_SQRT_2);
                let y = self.of("Mul", x, &factor);
                let y = self.graph.node("Erf", &[&y], &[]);
                self.half_gated(x, &y)
            }
            Activation::GeluPytorchTanh => {
                let [root, cubic] = [("gelu_root", ROOT), ("gelu_cubic", CUBIC)].map(|(n, x)| self.number(n, x));
                let square = self.of("Mul", x, x);
                let y = self.of("Mul", &square, &cubic);
                let one = self.number("one", 1.0);
                let y = self.of("Add", &y, &one);
                let y = self.of("Mul", &y, x);
                let y = self.of("Mul", &y, &root);
                let y = self.graph.node("Tanh", &[&y], &[]);
                self.half_gated(x, &y)
            }
        }
    }

    /// ½ x (1 + y)
    fn half_gated(&mut self, x: &Value, y: &Value) -> Value {
        let [one, half] = [("one", 1.0), ("a_half", 0.5)].map(|(name, value)| self.number(name, value));
        let y = self.of("Add", y, &one);
        let y = self.of("Mul", x, &y);
        self.of("Mul", &y, &half)
    }

    fn feed_forward(&mut self, x: &Value, weights: &Weights) -> Result<Value> {
        let (w, f) = (self.size.width, self.size.intermediate);
        let hidden = self.affine(x, &weights.at("fc1"), f, w)?;
        let hidden = self.activation(&hidden);
        self.affine(&hidden, &weights.at("fc2"), w, f)
    }

    /// x (N, T, W) → (N, Q, W): of the last block's output the Q positions alone that `wanted` takes of T.
    fn transformer(
        &mut self,
        mut x: Value,
        weights: &Weights,
        wanted: impl Fn(&mut Self, &Value) -> Value,
    ) -> Result<Value> {
        let layers = weights.at("encoder").at("layers");
        layers.require_no_more(self.size.layers)?;
        for i in 0..self.size.layers {
            let block = layers.at(i);
            let normal = self.norm(&x, &block.at("layer_norm1"))?;
            let mut asking = normal.clone();
            if i + 1 == self.size.layers {
                [asking, x] = [&normal, &x].map(|of| wanted(self, of));
            }
            let mixed = self.attention(&asking, &normal, &block.at("self_attn"))?;
            x = self.of("Add", &x, &mixed);
            let normal = self.norm(&x, &block.at("layer_norm2"))?;
            let more = self.feed_forward(&normal, &block.at("mlp"))?;
            x = self.of("Add", &x, &more);
        }
        Ok(x)
    }

    /// What positions `asking` (N, Q, W) see of all, x (N, T, W): (N, Q, W).
    fn attention(&mut self, asking: &Value, x: &Value, weights: &Weights) -> Result<Value> {
        let w = self.size.width;
        let [q, k, v] =
            [(asking, "q_proj"), (x, "k_proj"), (x, "v_proj")].map(|(x, name)| self.affine(x, &weights.at(name), w, w));
        let q = self.heads(&q?);
        let scale = self.number("attention_scale", self.scale());
        let q = self.of("Mul", &q, &scale);
        let mixed = self.attended(&q, &k?, &v?);
        self.affine(&mixed, &weights.at("out_proj"), w, w)
    }

    /// What scaled queries (…, H, Q, D) see of keys and values (N, T, W): (N, Q, W).
    fn attended(&mut self, queries: &Value, keys: &Value, values: &Value) -> Value {
        let (k, v) = (self.heads(keys), self.heads(values)); // (N, H, T, D)
        let k = self.permuted(&k, &[0, 1, 3, 2]);
        let scores = self.of("MatMul", queries, &k);
        let shares = self.graph.node("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let mixed = self.of("MatMul", &shares, &v);
        let mixed = self.permuted(&mixed, &[0, 2, 1, 3]);
        self.reshaped(&mixed, "joined", &[0, 0, self.size.width as i64])
    }

    /// x (N, T, W) → (N, 1, W)
    fn class_token(&mut self, x: &Value) -> Value {
        let first = self.graph.places("first", &[0]);
        self.graph.node("Gather", &[x, &first], &[("axis", Attribute::Int(1))])
    }

    /// (N, T, W) → (N, H, T, D)
    fn heads(&mut self, x: &Value) -> Value {
        let (heads, d) = (self.size.heads, self.size.width / self.size.heads);
        let x = self.reshaped(x, "heads", &[0, 0, heads as i64, d as i64]);
        self.permuted(&x, &[0, 2, 1, 3])
    }

    /// What products of queries and keys are multiplied with.
    fn scale(&self) -> f32 {
        ((self.size.width / self.size.heads) as f32).powf(-0.5)
    }

    /// SigLIP's head: x (N, T, W) → (N, W).
    fn pooled(&mut self, x: &Value, weights: &Weights) -> Result<Value> {
        let (w, attention) = (self.size.width, weights.at("attention"));
        let weight = attention.values("in_proj_weight", &[3 * w, w])?;
        let bias = attention.values("in_proj_bias", &[3 * w])?;
        let probe = weights.values("probe", &[1, 1, w])?;
        let scale = self.scale();
        let row = |i: usize| weight[i * w..][..w].iter().zip(&probe).map(|(a, b)| a * b).sum::<f32>();
        let query: Vec<f32> = (0..w).map(|i| scale * (row(i) + bias[i])).collect();
        let query = self.graph.float("query", &[1, self.size.heads, 1, w / self.size.heads], &query);
        let mut part = |i: usize, name: &str| {
            let own = self.graph.float(name, &[w, w], &transposed(&weight[i * w * w..][..w * w], w));
            let bias = self.graph.float(&format!("{name}_bias"), &[w], &bias[i * w..][..w]);
            let y = self.of("MatMul", x, &own);
            self.of("Add", &y, &bias)
        };
        let (keys, values) = (part(1, "head_keys"), part(2, "head_values"));
        let mixed = self.attended(&query, &keys, &values); // (N, 1, W)
        let mixed = self.reshaped(&mixed, "rows", &[0, w as i64]);
        let pooled = self.affine(&mixed, &attention.at("out_proj"), w, w)?;
        let normal = self.norm(&pooled, &weights.at("layernorm"))?;
        let more = self.feed_forward(&normal, &weights.at("mlp"))?;
        Ok(self.of("Add", &pooled, &more))
    }
}
