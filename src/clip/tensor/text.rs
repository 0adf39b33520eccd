//! The text encoder: fed with token embeddings, differentiable in them.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::{
    ops::{LayerNorm, Linear},
    transformer::{BlockState, Transformer},
};
use crate::clip::{
    Tokenizer,
    config::{Config, Family},
    layout::Tower,
    weights::Weights,
};

/// Texts encoded at a time by [`TextEncoder::features`].
const TEXT_BATCH: usize = 256;

/// A frozen text encoder. W is its width, P the projection's dimension.
pub struct TextEncoder {
    token_embedding: Tensor,    // (V, W)
    position_embedding: Tensor, // (positions, W)
    transformer: Transformer,
    final_norm: LayerNorm,
    projection: Linear,
    /// exp(logit_scale): what cosines are multiplied with.
    pub logit_scale: f64,
    /// Width W of the token embeddings.
    pub width: usize,
    /// Dimension P of the features.
    pub dim: usize,
}

/// What [`TextEncoder::backward`] needs of [`TextEncoder::encode`].
pub struct State {
    blocks: Vec<BlockState>,
    ends: Tensor,      // (C), rows of the flattened positions
    end_state: Tensor, // (C, W), before the final norm
    shape: (usize, usize, usize),
}

impl TextEncoder {
    pub(in crate::clip) fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let c = &config.text_config;
        let (width, dim) = (c.hidden_size, config.projection_dim);
        let model = weights.at("text_model");
        let embeddings = model.at("embeddings");
        let projection = match config.family {
            Family::Clip => Linear::without_bias(&weights.at("text_projection"), dim, width)?,
            Family::Siglip => {
                weights.number("logit_bias")?; // nothing to the softmax over classes: all logits have it
                Linear::in_float32(&model.at("head"), dim, width)?
            }
        };
        let encoder = TextEncoder {
            token_embedding: embeddings.at("token_embedding").get("weight", &[c.vocab_size, width])?,
            position_embedding: embeddings
                .at("position_embedding")
                .get("weight", &[c.max_position_embeddings, width])?,
            transformer: Transformer::new(&model, &c.size(), config.family == Family::Clip)?,
            final_norm: LayerNorm::new(&model.at("final_layer_norm"), width, c.layer_norm_eps)?,
            projection,
            logit_scale: f64::from(weights.number("logit_scale")?).exp(),
            width,
            dim,
        };
        weights.require_all_read(Tower::Text)?;
        Ok(encoder)
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        self.token_embedding.device()
    }

    /// Token embeddings (T, W) of T ids.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(self.token_embedding.index_select(&Tensor::new(ids, self.device())?, 0)?)
    }

    /// Token embeddings x (C, T, W), without positions, to features (C, P), not normalised. `ends`
    /// are the end-of-text positions, of SigLIP the last ones. CLIP's attention is causal: what
    /// stands after an end does not count, so T need only reach the last of them.
    pub fn encode(&self, x: &Tensor, ends: &[usize]) -> Result<(Tensor, State)> {
        let shape @ (c, t, w) = x.dims3()?;
        let x = x.broadcast_add(&self.position_embedding.narrow(0, 0, t)?)?;
        let (y, blocks) = self.transformer.forward_with_state(&x)?;
        let rows: Vec<u32> = ends.iter().enumerate().map(|(i, end)| (i * t + end) as u32).collect();
        let ends = Tensor::new(rows, self.device())?; // (C)
        let end_state = y.reshape((c * t, w))?.index_select(&ends, 0)?; // (C, W)
        let features = self.projection.forward(&self.final_norm.forward(&end_state, DType::F32)?)?; // (C, P)
        Ok((features, State { blocks, ends, end_state, shape }))
    }

    /// Gradient of the token embeddings (C, T, W) from that of the features (C, P).
    pub fn backward(&self, state: &State, grad: &Tensor) -> Result<Tensor> {
        let (c, t, w) = state.shape;
        let zeros = state.end_state.zeros_like()?;
        let end_grad = self.final_norm.backward(&zeros, &state.end_state, &self.projection.backward(grad)?)?; // (C, W)
        let grad = Tensor::zeros((c * t, w), DType::F32, self.device())?.index_add(&state.ends, &end_grad, 0)?;
        self.transformer.backward(&state.blocks, &grad.reshape((c, t, w))?)
    }

    /// Features (C, P) of C texts, not normalised.
    pub fn features(&self, tokenizer: &Tokenizer, texts: &[String]) -> Result<Tensor> {
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text, 0)).collect::<Result<_>>()?;
        let parts = ids.chunks(TEXT_BATCH).map(|ids| {
            let ends: Vec<usize> = ids.iter().map(|ids| ids.len() - 1).collect();
            let length = ends.iter().max().map_or(0, |end| end + 1);
            let padded: Vec<u32> =
                ids.iter().flat_map(|ids| (0..length).map(|i| ids.get(i).copied().unwrap_or(0))).collect();
            let x = self.embed(&padded)?.reshape((ids.len(), length, self.width))?;
            Ok(self.encode(&x, &ends)?.0)
        });
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
    }
}
