//! A residual attention block's layers: the parts that both encoders are made of.

use anyhow::Result;

use super::affine::{Affine, Pass};
use crate::{
    clip::{
        config::{Activation, Size},
        weights::Weights,
    },
    dense::{
        layers,
        vector::{self, vectorised},
    },
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

impl Activation {
    /// x → y, elementwise.
    pub fn forward(self, x: &[f32], y: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || match self {
                Activation::QuickGelu => x.iter().zip(y).for_each(|(&x, y)| *y = quick_gelu(x)),
                Activation::Gelu => x.iter().zip(y).for_each(|(&x, y)| *y = gelu(x)),
                Activation::GeluPytorchTanh => x.iter().zip(y).for_each(|(&x, y)| *y = gelu_tanh(x)),
            },
        );
    }

    /// x → y in place.
    pub fn forward_in_place(self, x: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || match self {
                Activation::QuickGelu => x.iter_mut().for_each(|x| *x = quick_gelu(*x)),
                Activation::Gelu => x.iter_mut().for_each(|x| *x = gelu(*x)),
                Activation::GeluPytorchTanh => x.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
            },
        );
    }

    /// dy, the gradient of the output, becomes that of the input x.
    pub fn backward(self, x: &[f32], dy: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || match self {
                Activation::QuickGelu => x.iter().zip(dy).for_each(|(&x, dy)| *dy *= quick_gelu_slope(x)),
                Activation::Gelu => x.iter().zip(dy).for_each(|(&x, dy)| *dy *= gelu_slope(x)),
                Activation::GeluPytorchTanh => x.iter().zip(dy).for_each(|(&x, dy)| *dy *= gelu_tanh_slope(x)),
            },
        );
    }
}

/// x σ(1.702 x)
#[inline(always)]
pub fn quick_gelu(x: f32) -> f32 {
    x * vector::sigmoid(1.702 * x)
}

#[inline(always)]
fn quick_gelu_slope(x: f32) -> f32 {
    let s = vector::sigmoid(1.702 * x);
    s + 1.702 * x * s * (1.0 - s)
}

/// x Φ(x)
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    x * normal_cdf(x)
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const DENSITY_AT_0: f32 = 0.398_942_3; // 1 / √(2π)
    normal_cdf(x) + x * DENSITY_AT_0 * vector::exp(-0.5 * x * x)
}

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + vector::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// √(8/π) and the factor of x³ in gelu's approximation, (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2,
/// which is σ of twice that.
const TWICE_ROOT: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    x * vector::sigmoid(TWICE_ROOT * x * (1.0 + CUBIC * x * x))
}

#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    let s = vector::sigmoid(TWICE_ROOT * x * (1.0 + CUBIC * x * x));
    s + x * s * (1.0 - s) * TWICE_ROOT * (1.0 + 3.0 * CUBIC * x * x)
}
