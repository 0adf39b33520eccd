//! What a transformer block is made of: candle's operations or, on CUDA devices, fewer passes of
//! [`crate::cuda`]. What has no gradient in candle has its backward pass here, written down.
//!
//! Norms are float32, products in the number type of their weights, residuals as [`Sum`] says.

use std::sync::MutexGuard;

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops;

#[cfg(feature = "cuda")]
use crate::cuda;

use crate::clip::{config::Activation, weights::Weights};

/// √(8/π), and the factor of x³, in gelu's approximation x·σ(√(8/π) (x + 0.044715 x³)).
const TWICE_ROOT: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::SQRT_2;
const CUBIC: f64 = 0.044715;

/// Runs the kernels where they can, as the expression before says.
macro_rules! on_cuda {
    ($if_possible:expr, $call:expr) => {
        #[cfg(feature = "cuda")]
        if $if_possible {
            return $call;
        }
    };
}

/// A frozen affine map.
pub struct Linear {
    weight: Tensor, // (O, I)
    bias: Option<Tensor>,
}

/// A frozen layer norm over the last dimension, in float32.
pub struct LayerNorm {
    weight: Tensor, // (W)
    bias: Tensor,   // (W)
    eps: f64,
}

/// A residual (N, W) to which something may still be added: the norm that comes next does both in a
/// pass. It is float32, or as [`crate::cuda`] keeps it.
pub struct Sum {
    pub x: Tensor,
    pub more: Option<Tensor>,
}

impl Sum {
    /// x (N, W), float32, alone.
    pub fn of(x: Tensor) -> Self {
        Sum { x, more: None }
    }

    /// (N, W), float32
    pub fn total(&self) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        let x = &cuda::residual(&self.x)?;
        #[cfg(not(feature = "cuda"))]
        let x = &self.x;
        Ok(match &self.more {
            Some(more) => (x + more.to_dtype(DType::F32)?)?,
            None => x.clone(),
        })
    }
}

impl Linear {
    /// What is below `weights`. The result has the number type of the weights.
    pub fn new(weights: &Weights, out: usize, inputs: usize) -> Result<Self> {
        Ok(Linear { weight: weights.get("weight", &[out, inputs])?, bias: Some(weights.get("bias", &[out])?) })
    }

    /// As `new`, in float32, for what few rows pass.
    pub fn in_float32(weights: &Weights, out: usize, inputs: usize) -> Result<Self> {
        let get = |name, shape: &[usize]| weights.get_in(DType::F32, name, shape);
        Ok(Linear { weight: get("weight", &[out, inputs])?, bias: Some(get("bias", &[out])?) })
    }

    /// As `in_float32`, without a bias.
    pub fn without_bias(weights: &Weights, out: usize, inputs: usize) -> Result<Self> {
        Ok(Linear { weight: weights.get_in(DType::F32, "weight", &[out, inputs])?, bias: None })
    }

    /// Of a weight (O, I) and a bias (O).
    pub fn of(weight: Tensor, bias: Option<Tensor>) -> Self {
        Linear { weight, bias }
    }

    /// Several maps of the same input side by side.
    pub fn stacked(parts: &[Linear]) -> Result<Self> {
        let weights: Vec<&Tensor> = parts.iter().map(|part| &part.weight).collect();
        let biases: Vec<&Tensor> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        Ok(Linear { weight: Tensor::cat(&weights, 0)?, bias: Some(Tensor::cat(&biases, 0)?) })
    }

    /// x (N, I) → (N, O)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        on_cuda!(x.device().is_cuda(), cuda::affine(&x.contiguous()?, &self.weight, self.bias.as_ref()));
        let y = x.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// Gradient of the input (N, I) from that of the output (N, O).
    pub fn backward(&self, grad: &Tensor) -> Result<Tensor> {
        on_cuda!(grad.device().is_cuda(), cuda::affine_backward(grad, &self.weight));
        Ok(grad.matmul(&self.weight)?)
    }
}

impl LayerNorm {
    pub fn new(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        let get = |name| weights.get_in(DType::F32, name, &[width]);
        Ok(LayerNorm { weight: get("weight")?, bias: get("bias")?, eps })
    }

    /// x (N, W), float32, → (N, W) in `dtype`
    pub fn forward(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.of_sum(&Sum::of(x.contiguous()?), dtype)?.1)
    }

    /// A sum (N, W), and its norm (N, W) in `dtype`, which is that of what is added.
    pub fn of_sum(&self, sum: &Sum, dtype: DType) -> Result<(Tensor, Tensor)> {
        on_cuda!(
            fits(&self.weight) && self.weight.elem_count() <= cuda::WIDEST,
            cuda::layer_norm(&sum.x, sum.more.as_ref(), [&self.weight, &self.bias], self.eps, dtype)
        );
        let x = sum.total()?;
        let y = ops::layer_norm(&x, &self.weight, &self.bias, self.eps as f32)?.to_dtype(dtype)?;
        Ok((x, y))
    }

    /// `residual` (N, W) and the gradient of the input, given the input and the gradient of the
    /// output.
    pub fn backward(&self, residual: &Tensor, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        on_cuda!(fits(&self.weight), cuda::layer_norm_backward(x, &self.weight, grad, residual, self.eps));
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?; // (N, 1)
        let normal = centred.broadcast_div(&deviation)?;
        let g = grad.broadcast_mul(&self.weight)?;
        let along = normal.broadcast_mul(&(&g * &normal)?.mean_keepdim(D::Minus1)?)?;
        let centred_g = g.broadcast_sub(&g.mean_keepdim(D::Minus1)?)?;
        Ok((residual + (centred_g - along)?.broadcast_div(&deviation)?)?)
    }
}

impl Activation {
    /// The activation, elementwise.
    pub fn of_tensor(self, x: &Tensor) -> Result<Tensor> {
        on_cuda!(fits(x), cuda::activation(x, self));
        Ok(match self {
            Activation::QuickGelu => (x * ops::sigmoid(&(x * 1.702)?)?)?,
            Activation::Gelu => x.gelu_erf()?,
            Activation::GeluPytorchTanh => x.gelu()?,
        })
    }

    /// Gradient of the input x from that of the output, elementwise.
    pub fn tensor_backward(self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        on_cuda!(fits(x), cuda::activation_backward(x, grad, self));
        let derivative = match self {
            Activation::QuickGelu => {
                let s = ops::sigmoid(&(x * 1.702)?)?;
                let slope = ((x * (1.0 - &s)?)? * 1.702)?;
                (&s * (slope + 1.0)?)? // s + 1.702 x s (1 − s)
            }
            Activation::Gelu => {
                let cdf = (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
                let pdf =
                    ((x.sqr()? * -0.5)?.exp()? * (0.5 * std::f64::consts::FRAC_2_SQRT_PI / std::f64::consts::SQRT_2))?;
                (cdf + (x * pdf)?)?
            }
            Activation::GeluPytorchTanh => {
                // σ(u) is (1 + tanh(u / 2)) / 2
                let u = ((x * TWICE_ROOT)? * ((x.sqr()? * CUBIC)? + 1.0)?)?;
                let s = ops::sigmoid(&u)?;
                let du = (((x.sqr()? * (3.0 * CUBIC))? + 1.0)? * TWICE_ROOT)?;
                (&s + ((x * du)? * (&s * (1.0 - &s)?)?)?)?
            }
        };
        Ok((grad * derivative)?)
    }
}

/// How pixels get to a device.
#[derive(Default)]
pub struct Upload {
    #[cfg(feature = "cuda")]
    pinned: cuda::Upload,
}

impl Upload {
    /// Pixels as a tensor of bytes (B, S, S, 3).
    pub fn pixels(&self, pixels: &[u8], side: usize, device: &Device) -> Result<Tensor> {
        let shape = [pixels.len() / (3 * side * side), side, side, 3];
        on_cuda!(device.is_cuda(), self.pinned.bytes(pixels, &shape, device));
        Ok(Tensor::from_slice(pixels, &shape, device)?)
    }
}

/// Waits until nobody else computes on a CUDA device, until what is returned is dropped.
pub fn turn(device: &Device) -> Option<MutexGuard<'static, ()>> {
    on_cuda!(device.is_cuda(), cuda::turn(device));
    let _ = device;
    None
}

/// Patches (B·side·side, 3·p·p), in `dtype`, of side p of pixels (B, S, S, 3), bytes, as the
/// normalisation (3, 256) has them; what is left at the right and below is not seen.
pub fn patches(pixels: &Tensor, normalisation: &Tensor, p: usize, dtype: DType) -> Result<Tensor> {
    on_cuda!(pixels.device().is_cuda(), cuda::patches(pixels, normalisation, p, dtype));
    let (b, image, _, channels) = pixels.dims4()?;
    let side = image / p;
    let planes = (0..channels).map(|c| {
        let bytes = pixels.narrow(3, c, 1)?.flatten_all()?.to_dtype(DType::U32)?;
        Ok(normalisation.get(c)?.index_select(&bytes, 0)?.reshape((b, image, image))?)
    });
    let pixels = Tensor::stack(&planes.collect::<Result<Vec<_>>>()?, 1)?.to_dtype(dtype)?; // (B, 3, S, S)
    let pixels = pixels.narrow(2, 0, side * p)?.narrow(3, 0, side * p)?;
    let pixels = pixels.reshape((b, channels, side, p, side, p))?;
    Ok(pixels.permute((0, 2, 4, 1, 3, 5))?.reshape((b * side * side, channels * p * p))?)
}

/// Patches (B·P, W), after a token (1, 1, W) where there is one, with positions (T, W): x (B·T, W),
/// float32.
pub fn embed(patches: &Tensor, token: Option<&Tensor>, positions: &Tensor) -> Result<Tensor> {
    on_cuda!(patches.device().is_cuda(), cuda::embed(patches, token, positions));
    let ((t, w), first) = (positions.dims2()?, usize::from(token.is_some()));
    let patches = patches.to_dtype(DType::F32)?.reshape(((), t - first, w))?;
    let x = match token {
        Some(token) => Tensor::cat(&[&token.expand((patches.dim(0)?, 1, w))?, &patches], 1)?,
        None => patches,
    };
    Ok(x.broadcast_add(positions)?.flatten_to(1)?)
}

/// Softmax attention among the T positions of each of B sequences, in `heads` heads of D values.
#[derive(Clone, Copy)]
pub struct Attention {
    pub heads: usize,
    /// Whether a position sees none after it.
    pub causal: bool,
}

impl Attention {
    /// Queries, keys and values (B·T, 3W) → (B·Q, W), what the first Q positions see of all.
    pub fn forward(self, qkv: &Tensor, (b, t): (usize, usize), queries: usize) -> Result<Tensor> {
        on_cuda!(self.fits(qkv), cuda::attention(qkv, (b, t), queries, self.heads, self.causal));
        let (_, _, v, weights) = self.weights(qkv, (b, t))?;
        let mixed = weights.narrow(2, 0, queries)?.contiguous()?.matmul(&v)?;
        Ok(mixed.transpose(1, 2)?.reshape((b * queries, qkv.dim(1)? / 3))?)
    }

    /// Gradient of the input (B·T, 3W) from that of the output (B·T, W).
    pub fn backward(self, qkv: &Tensor, grad: &Tensor, (b, t): (usize, usize)) -> Result<Tensor> {
        on_cuda!(
            self.fits(qkv) && t <= cuda::LONGEST_BACKWARD,
            cuda::attention_backward(qkv, grad, (b, t), self.heads, self.causal)
        );
        let (q, k, v, p) = self.weights(qkv, (b, t))?;
        let d = q.dim(3)?;
        let mixed = grad.reshape((b, t, self.heads, d))?.transpose(1, 2)?.contiguous()?; // (B, H, T, D)
        let dv = p.t()?.matmul(&mixed)?;
        let dp = (mixed.matmul(&v.t()?)? * &p)?; // (B, H, T, T), times p
        let ds = (&dp - p.broadcast_mul(&dp.sum_keepdim(D::Minus1)?)?)?;
        let dq = (ds.matmul(&k)? * (d as f64).powf(-0.5))?;
        let dk = ds.t()?.matmul(&q)?;
        Ok(Tensor::stack(&[dq, dk, dv], 0)?.permute((1, 3, 0, 2, 4))?.reshape((b * t, 3 * self.heads * d))?)
    }

    /// Queries, scaled, keys and values (B, H, T, D), and attention weights (B, H, T, T).
    fn weights(self, qkv: &Tensor, (b, t): (usize, usize)) -> Result<(Tensor, Tensor, Tensor, Tensor)> {
        let d = qkv.dim(1)? / 3 / self.heads;
        let qkv = qkv.reshape((b, t, 3, self.heads, d))?.permute((2, 0, 3, 1, 4))?.contiguous()?; // (3, B, H, T, D)
        let q = (qkv.get(0)? * (d as f64).powf(-0.5))?;
        let (k, v) = (qkv.get(1)?, qkv.get(2)?);
        let mut logits = q.matmul(&k.t()?)?; // (B, H, T, T)
        if self.causal {
            let mask: Vec<f32> = (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
            logits = logits.broadcast_add(&Tensor::from_vec(mask, (t, t), qkv.device())?.to_dtype(qkv.dtype())?)?;
        }
        let weights = ops::softmax_last_dim(&logits)?;
        Ok((q, k, v, weights))
    }

    /// Whether there are kernels for these heads.
    #[cfg(feature = "cuda")]
    fn fits(self, qkv: &Tensor) -> bool {
        let head = qkv.dims()[1] / 3 / self.heads;
        qkv.device().is_cuda() && head.is_multiple_of(8) && head <= cuda::LARGEST_HEAD
    }
}

/// Whether the kernels can read rows of this width, 16 bytes at a time.
#[cfg(feature = "cuda")]
fn fits(rows: &Tensor) -> bool {
    let bytes = rows.dims().last().unwrap_or(&0) * rows.dtype().size_in_bytes();
    rows.device().is_cuda() && bytes.is_multiple_of(16)
}
