//! The image encoder: a vision transformer whose class token is projected, or, of SigLIP, whose
//! positions are pooled by attention.

use anyhow::Result;
use candle_core::{DType, IndexOp, Tensor};

use super::{
    ops::{LayerNorm, Linear},
    pooling::PoolingHead,
    transformer::Transformer,
};
use crate::clip::{
    config::{Config, Family},
    layout::Tower,
    weights::Weights,
};

/// Images to encode at a time.
pub(crate) const BATCH: usize = 256;

/// A frozen image encoder. W is its width, P the projection's dimension.
pub struct ImageEncoder {
    patch: Tensor,              // (3·p·p, W)
    position_embedding: Tensor, // (T, W), with the patches' bias where they have one
    transformer: Transformer,
    post_norm: LayerNorm,
    head: Head,
    image_size: usize,
    patch_size: usize,
    /// Dimension P of the embeddings.
    pub dim: usize,
}

/// What an image's embedding is made of.
enum Head {
    /// A class token (1, 1, W), which stands first, and a projection; all positions have a norm
    /// before the transformer.
    ClassToken { embedding: Tensor, pre_norm: LayerNorm, projection: Linear },
    /// All positions.
    Attention(Box<PoolingHead>),
}

impl ImageEncoder {
    pub(in crate::clip) fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let c = &config.vision_config;
        let (w, p, dim) = (c.hidden_size, c.patch_size, config.projection_dim);
        let patches = (c.image_size / p).pow(2);
        let model = weights.at("vision_model");
        let embeddings = model.at("embeddings");
        let patch = embeddings.at("patch_embedding").get("weight", &[w, c.num_channels, p, p])?;
        let exact = |weights: &Weights, name, shape: &[usize]| weights.get_in(DType::F32, name, shape);
        let positions = |count| exact(&embeddings.at("position_embedding"), "weight", &[count, w]);
        let (position_embedding, head) = match config.family {
            Family::Clip => {
                let embedding = exact(&embeddings, "class_embedding", &[w])?.reshape((1, 1, w))?;
                let pre_norm = LayerNorm::new(&model.at("pre_layrnorm"), w, c.layer_norm_eps)?; // so spelled in every checkpoint
                let projection = Linear::without_bias(&weights.at("visual_projection"), dim, w)?;
                (positions(1 + patches)?, Head::ClassToken { embedding, pre_norm, projection })
            }
            Family::Siglip => {
                let bias = exact(&embeddings.at("patch_embedding"), "bias", &[w])?;
                let head = PoolingHead::new(&model.at("head"), &c.size())?;
                (positions(patches)?.broadcast_add(&bias)?, Head::Attention(head.into()))
            }
        };
        let encoder = ImageEncoder {
            patch: patch.reshape((w, c.num_channels * p * p))?.t()?,
            position_embedding,
            transformer: Transformer::new(&model, &c.size(), false)?,
            post_norm: LayerNorm::new(&model.at("post_layernorm"), w, c.layer_norm_eps)?,
            head,
            image_size: c.image_size,
            patch_size: p,
            dim,
        };
        weights.require_all_read(Tower::Image)?;
        Ok(encoder)
    }

    /// Normalised pixels (B, 3, S, S), flat, to embeddings (B, P), not normalised.
    pub fn encode(&self, pixels: &[f32]) -> Result<Vec<f32>> {
        let (s, p) = (self.image_size, self.patch_size);
        let (b, side) = (pixels.len() / (3 * s * s), s / p);
        let pixels = Tensor::from_slice(pixels, (b, 3, s, s), self.patch.device())?.to_dtype(self.patch.dtype())?;
        let pixels = pixels.narrow(2, 0, side * p)?.narrow(3, 0, side * p)?; // what is left is not seen
        let pixels = pixels.reshape((b, 3, side, p, side, p))?;
        let patches = pixels.permute((0, 2, 4, 1, 3, 5))?.reshape((b * side * side, 3 * p * p))?; // (B·patches, 3·p·p)
        let w = self.position_embedding.dim(1)?;
        let patches = patches.matmul(&self.patch)?.to_dtype(DType::F32)?.reshape((b, side * side, w))?; // (B, patches, W)
        let embeddings = match &self.head {
            Head::ClassToken { embedding, pre_norm, projection } => {
                let x = Tensor::cat(&[&embedding.expand((b, 1, w))?, &patches], 1)?; // (B, T, W)
                let t = x.dim(1)?;
                let x = x.broadcast_add(&self.position_embedding)?.reshape((b * t, w))?;
                let x = pre_norm.forward(&x, DType::F32)?.reshape((b, t, w))?;
                let y = self.transformer.forward(&x)?;
                projection.forward(&self.post_norm.forward(&y.i((.., 0, ..))?, DType::F32)?)? // (B, P)
            }
            Head::Attention(head) => {
                let x = patches.broadcast_add(&self.position_embedding)?; // (B, T, W)
                let y = self.transformer.forward(&x)?.flatten_to(1)?;
                head.forward(&self.post_norm.forward(&y, self.patch.dtype())?.reshape(x.shape())?)? // (B, W)
            }
        };
        Ok(embeddings.flatten_all()?.to_vec1()?)
    }
}
