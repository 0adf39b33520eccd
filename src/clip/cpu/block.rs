//! A residual attention block's layers: the parts that both encoders are made of.

use anyhow::Result;

use super::affine::{Affine, Pass};
use crate::{
    clip::{
        config::{Activation, Size},
        weights::Weights,
    },
    dense::layers,
};

/// A frozen layer norm.
pub struct Norm {
    weight: Vec<f32>, // (W)
    bias: Vec<f32>,   // (W)
    eps: f32,
}

/// A pre-norm block: x + attention(norm1(x)), then + fc2(activation(fc1(norm2(x)))).
pub struct Block {
    pub norm1: Norm,
    pub qkv: Affine, // (3W, W): queries, keys, values
    pub out: Affine,
    pub norm2: Norm,
    pub fc1: Affine,
    pub fc2: Affine,
    pub activation: Activation,
}

impl Norm {
    pub fn new(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        let (weight, bias) = (weights.values("weight", &[width])?, weights.values("bias", &[width])?);
        Ok(Norm { weight, bias, eps: eps as f32 })
    }

    /// x (N, W) → y (N, W)
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        layers::layer_norm(x, &self.weight, &self.bias, self.eps, y);
    }

    /// dx (N, W) += the gradient of the input x (N, W), from that of the output.
    pub fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        layers::layer_norm_backward(x, &self.weight, self.eps, dy, dx);
    }
}

impl Block {
    pub fn new(weights: &Weights, size: &Size, pass: Pass) -> Result<Self> {
        let Size { width, intermediate, activation, eps, .. } = *size;
        let (attention, mlp) = (weights.at("self_attn"), weights.at("mlp"));
        Ok(Block {
            norm1: Norm::new(&weights.at("layer_norm1"), width, eps)?,
            qkv: Affine::new(&attention, &["q_proj", "k_proj", "v_proj"], width, width, pass)?,
            out: Affine::new(&attention, &["out_proj"], width, width, pass)?,
            norm2: Norm::new(&weights.at("layer_norm2"), width, eps)?,
            fc1: Affine::new(&mlp, &["fc1"], intermediate, width, pass)?,
            fc2: Affine::new(&mlp, &["fc2"], width, intermediate, pass)?,
            activation,
        })
    }

    /// The blocks of an encoder.
    pub fn all(weights: &Weights, size: &Size, pass: Pass) -> Result<Vec<Self>> {
        let layers = weights.at("encoder").at("layers");
        layers.require_no_more(size.layers)?;
        (0..size.layers).map(|i| Block::new(&layers.at(i), size, pass)).collect()
    }
}
