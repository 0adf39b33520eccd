//! SigLIP's head: what a learned query sees of all positions of an image, and a feed-forward layer
//! after it.

use anyhow::Result;
use candle_core::{DType, Tensor};
use candle_nn::ops;

use super::ops::{LayerNorm, Linear};
use crate::clip::{
    config::{Activation, Size},
    weights::Weights,
};

/// A frozen head. W is the encoder's width, of H heads with D values each.
pub struct PoolingHead {
    query: Tensor, // (1, H, 1, D), scaled
    kv: Linear,    // (2W, W): keys, values
    out: Linear,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl PoolingHead {
    pub fn new(weights: &Weights, size: &Size) -> Result<Self> {
        let Size { width: w, intermediate, activation, eps, heads, .. } = *size;
        let (attention, mlp) = (weights.at("attention"), weights.at("mlp"));
        let (weight, bias) = (attention.get("in_proj_weight", &[3 * w, w])?, attention.get("in_proj_bias", &[3 * w])?);
        let query = Linear::of(weight.narrow(0, 0, w)?, Some(bias.narrow(0, 0, w)?));
        let query = query.forward(&weights.get("probe", &[1, 1, w])?.reshape((1, w))?)?;
        let query = (query * ((w / heads) as f64).powf(-0.5))?;
        Ok(PoolingHead {
            query: query.reshape((1, heads, 1, w / heads))?,
            kv: Linear::of(weight.narrow(0, w, 2 * w)?, Some(bias.narrow(0, w, 2 * w)?)),
            out: Linear::in_float32(&attention.at("out_proj"), w, w)?,
            norm: LayerNorm::new(&weights.at("layernorm"), w, eps)?,
            fc1: Linear::in_float32(&mlp.at("fc1"), intermediate, w)?,
            fc2: Linear::in_float32(&mlp.at("fc2"), w, intermediate)?,
            activation,
        })
    }

    /// x (B, T, W), in the number type of the weights, → (B, W), float32
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, w) = x.dims3()?;
        let (_, heads, _, d) = self.query.dims4()?;
        let kv = self.kv.forward(&x.reshape((b * t, w))?)?; // (B·T, 2W)
        let kv = kv.reshape((b, t, 2, heads, d))?.permute((2, 0, 3, 1, 4))?.contiguous()?; // (2, B, H, T, D)
        let (k, v) = (kv.get(0)?, kv.get(1)?);
        let query = self.query.expand((b, heads, 1, d))?.contiguous()?;
        let attention = ops::softmax_last_dim(&query.matmul(&k.t()?)?)?; // (B, H, 1, T)
        let mixed = attention.matmul(&v)?.reshape((b, w))?.to_dtype(DType::F32)?;
        let pooled = self.out.forward(&mixed)?; // (B, W)
        let hidden = self.fc1.forward(&self.norm.forward(&pooled, DType::F32)?)?; // (B, F)
        Ok((&pooled + self.fc2.forward(&self.activation.of_tensor(&hidden)?)?)?)
    }
}
