//! The image encoder: a vision transformer whose class token is projected, or, of SigLIP, whose
//! positions are pooled by attention.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::{
    batches::Batches,
    ops::{LayerNorm, Linear, Upload, embed, patches, turn},
    pooling::PoolingHead,
    transformer::Transformer,
};
use crate::clip::{
    config::{Config, Family},
    layout::Tower,
    normalisation::Normalisation,
    weights::Weights,
};

/// Images to encode at a time, unless it is told.
const BATCH: usize = 256;

/// A frozen image encoder. W is its width, P the projection's dimension.
pub struct ImageEncoder {
    patch: Linear,              // (W, 3·p·p)
    position_embedding: Tensor, // (T, W), with the patches' bias where they have one
    transformer: Transformer,
    post_norm: LayerNorm,
    head: Head,
    upload: Upload,
    batches: Batches,
    dtype: DType,
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
            patch: Linear::of(patch.reshape((w, c.num_channels * p * p))?, None),
            dtype: weights.dtype(),
            position_embedding,
            transformer: Transformer::new(&model, &c.size(), false)?,
            post_norm: LayerNorm::new(&model.at("post_layernorm"), w, c.layer_norm_eps)?,
            head,
            upload: Upload::default(),
            batches: Batches::of(BATCH),
            image_size: c.image_size,
            patch_size: p,
            dim,
        };
        weights.require_all_read(Tower::Image)?;
        Ok(encoder)
    }

    /// Encodes so many images at a time.
    pub fn set_batch(&mut self, images: usize) {
        self.batches = Batches::of(images);
    }

    /// Images to encode at a time: fewer once the device's memory has run out.
    pub fn batch(&self) -> usize {
        self.batches.images()
    }

    /// RGB pixels (B, S, S, 3), flat, to embeddings (B, P), not normalised.
    pub fn encode(&self, pixels: &[u8], normalisation: &Normalisation) -> Result<Vec<f32>> {
        let image = 3 * self.image_size.pow(2);
        let wait = || drop(turn(self.position_embedding.device()));
        self.batches.encode(pixels, image, wait, |batch| self.encode_batch(batch, normalisation))
    }

    fn encode_batch(&self, pixels: &[u8], normalisation: &Normalisation) -> Result<Vec<f32>> {
        let (device, (t, w)) = (self.position_embedding.device(), self.position_embedding.dims2()?);
        let values = Tensor::from_slice(normalisation.values().as_flattened(), (3, 256), device)?;
        let pixels = self.upload.pixels(pixels, self.image_size, device)?; // (B, S, S, 3)
        let b = pixels.dim(0)?;
        let _turn = turn(device);
        let patches = self.patch.forward(&patches(&pixels, &values, self.patch_size, self.dtype)?)?; // (B·patches, W)
        let embeddings = match &self.head {
            Head::ClassToken { embedding, pre_norm, projection } => {
                let x = embed(&patches, Some(embedding), &self.position_embedding)?; // (B·T, W)
                let x = pre_norm.forward(&x, DType::F32)?.reshape((b, t, w))?;
                let y = self.transformer.forward_to_first(&x)?;
                projection.forward(&self.post_norm.forward(&y, DType::F32)?)? // (B, P)
            }
            Head::Attention(head) => {
                let x = embed(&patches, None, &self.position_embedding)?.reshape((b, t, w))?;
                let y = self.transformer.forward(&x)?.flatten_to(1)?; // (B·T, W)
                head.forward(&self.post_norm.forward(&y, self.dtype)?.reshape((b, t, w))?)? // (B, W)
            }
        };
        Ok(embeddings.flatten_all()?.to_vec1()?)
    }
}
