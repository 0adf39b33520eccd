//! The pre-norm transformer that both of CLIP's encoders are made of, with its backward pass
//! written down: candle's graph would also compute gradients of the frozen weights, as many
//! products again as are needed.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::ops::{Attention, LayerNorm, Linear, Sum};
use crate::clip::{
    config::{Activation, Size},
    weights::Weights,
};

/// A stack of residual attention blocks.
pub struct Transformer {
    blocks: Vec<Block>,
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    attention: Attention,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
    /// Of the products.
    dtype: DType,
}

/// What a block's backward pass needs of its forward pass. N = batch × positions.
pub struct BlockState {
    input: Tensor,         // (N, W)
    qkv: Tensor,           // (N, 3W)
    middle: Tensor,        // (N, W), after the attention's residual
    preactivation: Tensor, // (N, F)
}

impl Transformer {
    /// Whose positions see none after them where it is `causal`.
    pub fn new(weights: &Weights, size: &Size, causal: bool) -> Result<Self> {
        let layers = weights.at("encoder").at("layers");
        layers.require_no_more(size.layers)?;
        let blocks = (0..size.layers).map(|i| Block::new(&layers.at(i), size, causal)).collect::<Result<_>>()?;
        Ok(Transformer { blocks })
    }

    /// x (B, T, W) → (B, T, W)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, w) = x.dims3()?;
        let mut sum = Sum::of(x.reshape((b * t, w))?);
        for block in &self.blocks {
            sum = block.forward(&sum, (b, t), t)?.0;
        }
        Ok(sum.total()?.reshape((b, t, w))?)
    }

    /// As `forward`, of the first position alone: (B, W).
    pub fn forward_to_first(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, w) = x.dims3()?;
        let mut sum = Sum::of(x.reshape((b * t, w))?);
        for (i, block) in self.blocks.iter().enumerate() {
            let queries = if i + 1 == self.blocks.len() { 1 } else { t };
            sum = block.forward(&sum, (b, t), queries)?.0;
        }
        sum.total()
    }

    /// As `forward`, and the state of every block for `backward`.
    pub fn forward_with_state(&self, x: &Tensor) -> Result<(Tensor, Vec<BlockState>)> {
        let (b, t, w) = x.dims3()?;
        let mut sum = Sum::of(x.reshape((b * t, w))?);
        let mut states = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (next, state) = block.forward(&sum, (b, t), t)?;
            states.push(state);
            sum = next;
        }
        Ok((sum.total()?.reshape((b, t, w))?, states))
    }

    /// Gradient of the input (B, T, W) from that of the output (B, T, W).
    pub fn backward(&self, states: &[BlockState], grad: &Tensor) -> Result<Tensor> {
        let (b, t, w) = grad.dims3()?;
        let mut grad = grad.reshape((b * t, w))?;
        for (block, state) in self.blocks.iter().zip(states).rev() {
            grad = block.backward(state, grad, (b, t))?;
        }
        Ok(grad.reshape((b, t, w))?)
    }
}

impl Block {
    fn new(weights: &Weights, size: &Size, causal: bool) -> Result<Self> {
        let Size { width, intermediate, heads, activation, eps, .. } = *size;
        let (attention, mlp) = (weights.at("self_attn"), weights.at("mlp"));
        let part = |name: &str| Linear::new(&attention.at(name), width, width);
        Ok(Block {
            norm1: LayerNorm::new(&weights.at("layer_norm1"), width, eps)?,
            qkv: Linear::stacked(&[part("q_proj")?, part("k_proj")?, part("v_proj")?])?,
            attention: Attention { heads, causal },
            out: Linear::new(&attention.at("out_proj"), width, width)?,
            norm2: LayerNorm::new(&weights.at("layer_norm2"), width, eps)?,
            fc1: Linear::new(&mlp.at("fc1"), intermediate, width)?,
            activation,
            fc2: Linear::new(&mlp.at("fc2"), width, intermediate)?,
            dtype: weights.dtype(),
        })
    }

    /// A sum (B·T, W) → (B·Q, W), of the first Q positions.
    fn forward(&self, sum: &Sum, (b, t): (usize, usize), queries: usize) -> Result<(Sum, BlockState)> {
        let (input, normal) = self.norm1.of_sum(sum, self.dtype)?;
        let qkv = self.qkv.forward(&normal)?; // (B·T, 3W)
        let mixed = self.out.forward(&self.attention.forward(&qkv, (b, t), queries)?)?; // (B·Q, W)
        let x = match queries < t {
            true => input.reshape((b, t, ()))?.narrow(1, 0, queries)?.flatten(0, 1)?,
            false => input.clone(),
        };
        let (middle, normal) = self.norm2.of_sum(&Sum { x, more: Some(mixed) }, self.dtype)?;
        let preactivation = self.fc1.forward(&normal)?; // (B·Q, F)
        let more = self.fc2.forward(&self.activation.of_tensor(&preactivation)?)?;
        let state = BlockState { input, qkv, middle: middle.clone(), preactivation };
        Ok((Sum { x: middle, more: Some(more) }, state))
    }

    /// Gradient of the input (N, W) from that of the output (N, W).
    fn backward(&self, state: &BlockState, grad: Tensor, sequences: (usize, usize)) -> Result<Tensor> {
        let BlockState { input, qkv, middle, preactivation } = state;
        let hidden = self.activation.tensor_backward(preactivation, &self.fc2.backward(&grad)?)?; // (N, F)
        let grad = self.norm2.backward(&grad, middle, &self.fc1.backward(&hidden)?)?;
        let mixed = self.attention.backward(qkv, &self.out.backward(&grad)?, sequences)?; // (N, 3W)
        self.norm1.backward(&grad, input, &self.qkv.backward(&mixed)?)
    }
}
