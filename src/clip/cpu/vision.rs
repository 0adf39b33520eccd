//! The image encoder: a vision transformer whose class token is projected, or, of SigLIP, whose
//! positions are pooled by attention.

use anyhow::Result;

use super::{
    affine::{Affine, Pass, add_both},
    attention::Heads,
    block::{Block, Norm},
    pooling::{LEAST_ROWS, PoolingHead},
};
use crate::{
    clip::{
        config::{Config, Family},
        layout::Tower,
        normalisation::Normalisation,
        weights::Weights,
    },
    dense::{
        huge_pages::HugePages,
        layers,
        product::{Matrix, Threads, transposed},
        vector::add_scaled,
    },
};

/// Positions encoded at a time: products of fewer rows are slower.
const ROWS: usize = 800;

/// A frozen image encoder. W is its width, T the positions of an image, a class token, if there is
/// one, and its patches, P the projection's dimension.
pub struct ImageEncoder {
    patch: Affine,                // (W, 3·p·p), without a bias
    class_embedding: Vec<f32>,    // (W), or empty
    position_embedding: Vec<f32>, // (T, W), with the patches' bias where they have one
    pre_norm: Option<Norm>,
    blocks: Vec<Block>,
    post_norm: Norm,
    head: Head,
    heads: Heads,
    image_size: usize,
    patch_size: usize,
    pass: Pass,
    /// Dimension P of the embeddings.
    pub dim: usize,
}

/// What an image's embedding is made of.
enum Head {
    /// Its class token, with a projection (W, P).
    ClassToken(Vec<f32>),
    /// All its positions.
    Attention(Box<PoolingHead>),
}

/// Buffers of a batch, kept from one to the next.
#[derive(Default)]
pub struct Workspace {
    patches: HugePages<f32>,
    x: HugePages<f32>,
    normal: HugePages<f32>,
    qkv: HugePages<f32>,
    mixed: HugePages<f32>,
    hidden: HugePages<f32>,
    logits: HugePages<f32>,
}

impl ImageEncoder {
    pub(in crate::clip) fn new(config: &Config, weights: &Weights, pass: Pass) -> Result<Self> {
        let c = &config.vision_config;
        let (w, p, dim) = (c.hidden_size, c.patch_size, config.projection_dim);
        let patches = (c.image_size / p).pow(2);
        let model = weights.at("vision_model");
        let embeddings = model.at("embeddings");
        let (class_embedding, pre_norm, head) = match config.family {
            Family::Clip => {
                let norm = Norm::new(&model.at("pre_layrnorm"), w, c.layer_norm_eps)?; // so spelled in every checkpoint
                let projection = weights.at("visual_projection").values("weight", &[dim, w])?;
                let projection = transposed(&projection, w); // (W, P)
                (embeddings.values("class_embedding", &[w])?, Some(norm), Head::ClassToken(projection))
            }
            Family::Siglip => {
                (Vec::new(), None, Head::Attention(PoolingHead::new(&model.at("head"), &c.size(), pass)?.into()))
            }
        };
        let positions = class_embedding.len() / w + patches;
        let mut position_embedding = embeddings.at("position_embedding").values("weight", &[positions, w])?;
        if config.family == Family::Siglip {
            let bias = embeddings.at("patch_embedding").values("bias", &[w])?;
            layers::add_bias(&bias, &mut position_embedding);
        }
        let encoder = ImageEncoder {
            patch: Affine::of(
                embeddings.at("patch_embedding").values("weight", &[w, c.num_channels, p, p])?,
                vec![0.0; w],
                pass,
            ),
            class_embedding,
            position_embedding,
            pre_norm,
            blocks: Block::all(&model, &c.size(), pass)?,
            post_norm: Norm::new(&model.at("post_layernorm"), w, c.layer_norm_eps)?,
            head,
            heads: Heads { heads: c.num_attention_heads, width: w },
            image_size: c.image_size,
            patch_size: p,
            pass,
            dim,
        };
        weights.require_all_read(Tower::Image)?;
        Ok(encoder)
    }

    /// Images to encode at a time.
    pub fn batch(&self) -> usize {
        let positions = self.position_embedding.len() / self.heads.width;
        match self.pass {
            Pass::Rounded(unit) => (unit.rows_at_once() / positions).max(1),
            Pass::Forward | Pass::Both => ROWS.div_ceil(positions),
        }
    }

    /// RGB pixels (B, S, S, 3), flat, to embeddings (B, P), flat, not normalised. On the calling
    /// thread alone.
    pub fn encode(&self, pixels: &[u8], normalisation: &Normalisation, workspace: &mut Workspace) -> Vec<f32> {
        let one = Threads::One;
        let w = self.heads.width;
        let t = self.position_embedding.len() / w;
        let b = pixels.len() / (3 * self.image_size.pow(2));
        let n = b * t;
        let Workspace { patches, x, normal, qkv, mixed, hidden, logits } = workspace;

        let (x, normal) = (x.room(n * w), normal.room(n * w)); // (N, W)
        let patches = self.gather(pixels, normalisation, patches);
        match &self.pre_norm {
            Some(norm) => {
                self.embed(patches, normal, x);
                norm.forward(normal, x);
            }
            None => self.embed(patches, x, normal),
        }

        let (last, before) = self.blocks.split_last().expect("a transformer has layers");
        let whole = match self.head {
            Head::ClassToken(_) => before,
            Head::Attention(_) => &self.blocks,
        };
        for block in whole {
            let (qkv, mixed) = (qkv.room(n * 3 * w), mixed.room(n * w)); // (N, 3W), (N, W)
            block.norm1.forward(x, normal);
            block.qkv.forward(normal, qkv, one);
            for (qkv, mixed) in qkv.chunks_exact(t * 3 * w).zip(mixed.chunks_exact_mut(t * w)) {
                self.attend(qkv, mixed, logits);
            }
            block.out.add(mixed, x, one);
            block.feed_forward(x, normal, hidden);
        }
        let projection = match &self.head {
            Head::ClassToken(projection) => projection,
            Head::Attention(head) => {
                self.post_norm.forward(x, normal);
                return head.forward(normal, b, [qkv, mixed, hidden]);
            }
        };

        // of the last block's output only the class tokens count
        let (qkv, mixed) = (qkv.room(n * 3 * w), mixed.room(n * w)); // (N, 3W), (N, W)
        last.norm1.forward(x, normal);
        last.qkv.forward(normal, qkv, one);
        let rows = b.max(LEAST_ROWS);
        let (class, mixed) = (&mut normal[..rows * w], &mut mixed[..rows * w]); // (B, W)
        for (i, qkv) in qkv.chunks_exact(t * 3 * w).enumerate() {
            let rows = i * w..(i + 1) * w;
            self.attend(qkv, &mut mixed[rows.clone()], logits);
            class[rows].copy_from_slice(&x[i * t * w..][..w]);
        }
        if rows > b {
            mixed.copy_within(..w, w);
            class.copy_within(..w, w);
        }
        last.out.add(mixed, class, one);
        last.feed_forward(class, mixed, hidden);
        self.post_norm.forward(class, mixed);
        let mut embeddings = vec![0.0; rows * self.dim]; // (B, P)
        layers::add_linear(mixed, Matrix::new(projection, self.dim), &mut embeddings, one);
        embeddings.truncate(b * self.dim);
        embeddings
    }

    /// What the first positions of an image see of all T: qkv (T, 3W) → mixed (queries, W).
    fn attend(&self, qkv: &[f32], mixed: &mut [f32], logits: &mut HugePages<f32>) {
        match self.pass {
            Pass::Rounded(unit) => self.heads.image_rounded(unit, qkv, mixed, logits),
            Pass::Forward | Pass::Both => {
                let values = mixed.len() / self.heads.width * qkv.len() / (3 * self.heads.width);
                self.heads.image(qkv, mixed, logits.room(values));
            }
        }
    }

    /// Pixels (B, S, S, 3) to patches (B·patches, 3·p·p), normalised.
    fn gather<'a>(&self, pixels: &[u8], normalisation: &Normalisation, patches: &'a mut HugePages<f32>) -> &'a [f32] {
        let (s, p) = (self.image_size, self.patch_size);
        let (side, values) = (s / p, 3 * p * p);
        let b = pixels.len() / (3 * s * s);
        let patches = patches.room(b * side * side * values);
        for (i, patch) in patches.chunks_exact_mut(values).enumerate() {
            let (image, row, column) = (i / (side * side), i / side % side, i % side);
            for (line, out) in patch.chunks_exact_mut(p).enumerate() {
                let (colour, y) = (line / p, row * p + line % p);
                let bytes = &pixels[((image * s + y) * s + column * p) * 3..][..3 * p];
                let normalised = &normalisation.values()[colour];
                for (out, rgb) in out.iter_mut().zip(bytes.chunks_exact(3)) {
                    *out = normalised[usize::from(rgb[colour])];
                }
            }
        }
        patches
    }

    /// Patches (B·patches, 3·p·p) to the class token, if there is one, and their embeddings, with
    /// their positions, (B·T, W).
    fn embed(&self, patches: &[f32], x: &mut [f32], scratch: &mut [f32]) {
        let w = self.heads.width;
        let patches_of_image = (self.image_size / self.patch_size).pow(2);
        let b = patches.len() / patches_of_image / (3 * self.patch_size.pow(2));
        let embedded = &mut scratch[..b * patches_of_image * w]; // (B·patches, W)
        self.patch.forward(patches, embedded, Threads::One);
        let images = x.chunks_exact_mut(self.position_embedding.len());
        for (x, embedded) in images.zip(embedded.chunks_exact(patches_of_image * w)) {
            x.copy_from_slice(&self.position_embedding);
            let (class, patches) = x.split_at_mut(self.class_embedding.len());
            add_scaled(class, 1.0, &self.class_embedding);
            add_scaled(patches, 1.0, embedded);
        }
    }
}

impl Block {
    /// The second half of the block, in place: x (N, W). `normal` and `hidden` are buffers.
    fn feed_forward(&self, x: &mut [f32], normal: &mut [f32], hidden: &mut HugePages<f32>) {
        self.norm2.forward(x, normal);
        add_both(&self.fc1, self.activation, &self.fc2, normal, x, hidden);
    }
}
