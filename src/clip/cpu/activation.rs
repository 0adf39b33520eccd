//! Activations between two affine maps, elementwise, and their slopes.

use crate::{
    clip::config::Activation,
    dense::vector::{self, vectorised},
};

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
