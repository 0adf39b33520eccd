//! The pre-norm transformer that both of CLIP's encoders are made of, with its backward pass
//! written down: candle's fused layer norm and softmax have none, and its graph would also compute
//! gradients of the frozen weights, as many products again as are needed.

use anyhow::Result;
use candle_core::{D, Tensor};
use candle_nn::ops;

use crate::clip::{
    config::{Activation, Size},
    weights::Weights,
};

/// √(8/π), and the factor of x³, in gelu's approximation x·σ(√(8/π) (x + 0.044715 x³)).
const TWICE_ROOT: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::SQRT_2;
const CUBIC: f64 = 0.044715;

/// A frozen affine map.
pub struct Linear {
    weight: Tensor, // (O, I)
    bias: Option<Tensor>,
}

/// A frozen layer norm over the last dimension.
pub struct LayerNorm {
    weight: Tensor, // (W)
    bias: Tensor,   // (W)
    eps: f64,
}

/// A stack of residual attention blocks.
pub struct Transformer {
    blocks: Vec<Block>,
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

/// What a block's backward pass needs of its forward pass. N = batch × positions.
pub struct BlockState {
    input: Tensor,         // (N, W)
    q: Tensor,             // (B, H, T, W/H), scaled
    k: Tensor,             // (B, H, T, W/H)
    v: Tensor,             // (B, H, T, W/H)
    attention: Tensor,     // (B, H, T, T)
    middle: Tensor,        // (N, W), after the attention's residual
    preactivation: Tensor, // (N, F)
}

impl Linear {
    pub fn new(weights: &Weights, out: usize, inputs: usize) -> Result<Self> {
        Ok(Linear { weight: weights.get("weight", &[out, inputs])?, bias: Some(weights.get("bias", &[out])?) })
    }

    /// Of a weight (O, I) and a bias (O).
    pub fn of(weight: Tensor, bias: Tensor) -> Self {
        Linear { weight, bias: Some(bias) }
    }

    pub fn without_bias(weights: &Weights, out: usize, inputs: usize) -> Result<Self> {
        Ok(Linear { weight: weights.get("weight", &[out, inputs])?, bias: None })
    }

    /// x (N, I) → (N, O)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// Gradient of the input (N, I) from that of the output (N, O).
    pub fn backward(&self, grad: &Tensor) -> Result<Tensor> {
        Ok(grad.matmul(&self.weight)?)
    }
}

impl LayerNorm {
    pub fn new(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        Ok(LayerNorm { weight: weights.get("weight", &[width])?, bias: weights.get("bias", &[width])?, eps })
    }

    /// x (N, W) → (N, W)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32)?)
    }

    /// Gradient of the input (N, W), given the input and the gradient of the output.
    pub fn backward(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?; // (N, 1)
        let normal = centred.broadcast_div(&deviation)?;
        let g = grad.broadcast_mul(&self.weight)?;
        let along = normal.broadcast_mul(&(&g * &normal)?.mean_keepdim(D::Minus1)?)?;
        let centred_g = g.broadcast_sub(&g.mean_keepdim(D::Minus1)?)?;
        Ok((centred_g - along)?.broadcast_div(&deviation)?)
    }
}

impl Activation {
    /// The activation, elementwise.
    pub fn of_tensor(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::QuickGelu => (x * ops::sigmoid(&(x * 1.702)?)?)?,
            Activation::Gelu => x.gelu_erf()?,
            Activation::GeluPytorchTanh => x.gelu()?,
        })
    }

    /// The derivative at x, elementwise.
    fn derivative(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
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
        })
    }
}

impl Transformer {
    pub fn new(weights: &Weights, size: &Size) -> Result<Self> {
        let layers = weights.at("encoder").at("layers");
        layers.require_no_more(size.layers)?;
        let blocks = (0..size.layers).map(|i| Block::new(&layers.at(i), size)).collect::<Result<_>>()?;
        Ok(Transformer { blocks })
    }

    /// x (B, T, W) → (B, T, W). `mask` (T, T) is added to the attention's logits.
    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (b, t, w) = x.dims3()?;
        let mut x = x.reshape((b * t, w))?;
        for block in &self.blocks {
            x = block.forward(&x, (b, t), mask)?.0;
        }
        Ok(x.reshape((b, t, w))?)
    }

    /// As `forward`, and the state of every block for `backward`.
    pub fn forward_with_state(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<(Tensor, Vec<BlockState>)> {
        let (b, t, w) = x.dims3()?;
        let mut x = x.reshape((b * t, w))?;
        let mut states = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, state) = block.forward(&x, (b, t), mask)?;
            states.push(state);
            x = y;
        }
        Ok((x.reshape((b, t, w))?, states))
    }

    /// Gradient of the input (B, T, W) from that of the output (B, T, W).
    pub fn backward(&self, states: &[BlockState], grad: &Tensor) -> Result<Tensor> {
        let (b, t, w) = grad.dims3()?;
        let mut grad = grad.reshape((b * t, w))?;
        for (block, state) in self.blocks.iter().zip(states).rev() {
            grad = block.backward(state, &grad)?;
        }
        Ok(grad.reshape((b, t, w))?)
    }
}

impl Block {
    fn new(weights: &Weights, size: &Size) -> Result<Self> {
        let Size { width, intermediate, heads, activation, eps, .. } = *size;
        let attention = weights.at("self_attn");
        let part = |name: &str| Linear::new(&attention.at(name), width, width);
        let (q, k, v) = (part("q_proj")?, part("k_proj")?, part("v_proj")?);
        let biases: Vec<Tensor> = [&q, &k, &v].iter().filter_map(|part| part.bias.clone()).collect();
        Ok(Block {
            norm1: LayerNorm::new(&weights.at("layer_norm1"), width, eps)?,
            qkv: Linear {
                weight: Tensor::cat(&[&q.weight, &k.weight, &v.weight], 0)?, // (3W, W)
                bias: Some(Tensor::cat(&biases, 0)?),                        // (3W)
            },
            out: part("out_proj")?,
            norm2: LayerNorm::new(&weights.at("layer_norm2"), width, eps)?,
            fc1: Linear::new(&weights.at("mlp").at("fc1"), intermediate, width)?,
            fc2: Linear::new(&weights.at("mlp").at("fc2"), width, intermediate)?,
            heads,
            activation,
        })
    }

    fn forward(&self, x: &Tensor, (b, t): (usize, usize), mask: Option<&Tensor>) -> Result<(Tensor, BlockState)> {
        let w = x.dim(1)?;
        let d = w / self.heads;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?; // (N, 3W)
        let qkv = qkv.reshape((b, t, 3, self.heads, d))?.permute((2, 0, 3, 1, 4))?.contiguous()?; // (3, B, H, T, D)
        let q = (qkv.get(0)? * (d as f64).powf(-0.5))?;
        let (k, v) = (qkv.get(1)?, qkv.get(2)?);
        let mut logits = q.matmul(&k.t()?)?; // (B, H, T, T)
        if let Some(mask) = mask {
            logits = logits.broadcast_add(mask)?;
        }
        let attention = ops::softmax_last_dim(&logits)?;
        let mixed = attention.matmul(&v)?.transpose(1, 2)?.reshape((b * t, w))?; // (N, W)
        let middle = (x + self.out.forward(&mixed)?)?;
        let preactivation = self.fc1.forward(&self.norm2.forward(&middle)?)?; // (N, F)
        let y = (&middle + self.fc2.forward(&self.activation.of_tensor(&preactivation)?)?)?;
        Ok((y, BlockState { input: x.clone(), q, k, v, attention, middle, preactivation }))
    }

    /// Gradient of the input (N, W) from that of the output (N, W).
    fn backward(&self, state: &BlockState, grad: &Tensor) -> Result<Tensor> {
        let BlockState { input, q, k, v, attention, middle, preactivation } = state;
        let (b, h, t, d) = q.dims4()?;
        let hidden = (self.fc2.backward(grad)? * self.activation.derivative(preactivation)?)?; // (N, F)
        let grad = (grad + self.norm2.backward(middle, &self.fc1.backward(&hidden)?)?)?;

        let mixed = self.out.backward(&grad)?.reshape((b, t, h, d))?.transpose(1, 2)?.contiguous()?; // (B, H, T, D)
        let dv = attention.t()?.matmul(&mixed)?;
        let dp = (mixed.matmul(&v.t()?)? * attention)?; // (B, H, T, T), times p
        let ds = (&dp - attention.broadcast_mul(&dp.sum_keepdim(D::Minus1)?)?)?;
        let dq = (ds.matmul(k)? * (d as f64).powf(-0.5))?;
        let dk = ds.t()?.matmul(q)?;
        let qkv = Tensor::stack(&[dq, dk, dv], 0)?.permute((1, 3, 0, 2, 4))?.reshape((b * t, 3 * h * d))?;
        Ok((grad + self.norm1.backward(input, &self.qkv.backward(&qkv)?)?)?)
    }
}
