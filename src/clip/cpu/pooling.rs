//! SigLIP's head: what a learned query sees of all positions of an image, and a feed-forward layer
//! after it.

use anyhow::Result;

use super::{
    affine::{Affine, Pass, add_both},
    attention::Heads,
    block::Norm,
};
use crate::{
    clip::{
        config::{Activation, Size},
        weights::Weights,
    },
    dense::{huge_pages::HugePages, product::Threads},
};

/// Rows of a product at least, where there is a row per image: of one row it is another sum, and an
/// image's embedding would depend, by rounding, on whether others are encoded with it.
pub const LEAST_ROWS: usize = 2;

/// A frozen head. W is the encoder's width.
pub struct PoolingHead {
    query: Vec<f32>, // (W), scaled
    kv: Affine,      // (2W, W): keys, values
    out: Affine,
    norm: Norm,
    fc1: Affine,
    fc2: Affine,
    activation: Activation,
    heads: Heads,
}

impl PoolingHead {
    pub fn new(weights: &Weights, size: &Size, pass: Pass) -> Result<Self> {
        let Size { width: w, intermediate, activation, eps, heads, .. } = *size;
        let (attention, mlp) = (weights.at("attention"), weights.at("mlp"));
        let heads = Heads { heads, width: w };
        let (weight, bias) =
            (attention.values("in_proj_weight", &[3 * w, w])?, attention.values("in_proj_bias", &[3 * w])?);
        let (query_weight, kv_weight) = weight.split_at(w * w);
        let (query_bias, kv_bias) = bias.split_at(w);
        let mut query = vec![0.0; w];
        let probe = weights.values("probe", &[1, 1, w])?;
        Affine::of(query_weight.to_vec(), query_bias.to_vec(), Pass::Forward).forward(&probe, &mut query, Threads::One);
        Ok(PoolingHead {
            query: heads.scaled(query),
            kv: Affine::of(kv_weight.to_vec(), kv_bias.to_vec(), pass),
            out: Affine::new(&attention, &["out_proj"], w, w, pass)?,
            norm: Norm::new(&weights.at("layernorm"), w, eps)?,
            fc1: Affine::new(&mlp, &["fc1"], intermediate, w, pass)?,
            fc2: Affine::new(&mlp, &["fc2"], w, intermediate, pass)?,
            activation,
            heads,
        })
    }

    /// x (B·T, W) of B images to embeddings (B, W). On the calling thread alone; `kv`, `mixed` and
    /// `hidden` are buffers.
    pub fn forward(&self, x: &[f32], b: usize, [kv, mixed, hidden]: [&mut HugePages<f32>; 3]) -> Vec<f32> {
        let one = Threads::One;
        let w = self.heads.width;
        let t = x.len() / w / b;
        let kv = kv.room(2 * x.len()); // (B·T, 2W)
        self.kv.forward(x, kv, one);
        let rows = b.max(LEAST_ROWS);
        let (mixed, logits) = mixed.room(rows * w + t).split_at_mut(rows * w); // (B, W), (T)
        for (kv, mixed) in kv.chunks_exact(2 * t * w).zip(mixed.chunks_exact_mut(w)) {
            self.heads.pool(&self.query, kv, mixed, logits);
        }
        if rows > b {
            mixed.copy_within(..w, w);
        }
        let mut pooled = vec![0.0; rows * w]; // (B, W)
        self.out.forward(mixed, &mut pooled, one);
        self.norm.forward(&pooled, mixed);
        add_both(&self.fc1, self.activation, &self.fc2, mixed, &mut pooled, hidden);
        pooled.truncate(b * w);
        pooled
    }
}
