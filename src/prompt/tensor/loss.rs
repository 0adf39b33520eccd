//! Cross-entropy of scaled cosines, with its gradient written down: candle's graph takes passes of
//! its own to add gradients up.

use anyhow::Result;
use candle_core::{D, Tensor};
use candle_nn::ops::log_softmax;

/// What features are held against: embeddings (B, P), normalised, with labels (B) u32, which are
/// places among K classes.
pub struct Targets<'a> {
    pub embeddings: &'a Tensor,
    pub labels: &'a Tensor,
    /// Added to the logits of each class (K), where there is any.
    pub more: Option<&'a Tensor>,
    /// What cosines are multiplied with.
    pub logit_scale: f64,
}

impl Targets<'_> {
    /// The mean cross-entropy against the features (K, P) of the classes, not normalised, and its
    /// gradient (K, P) by them.
    pub fn loss(&self, features: &Tensor) -> Result<(Tensor, Tensor)> {
        let lengths = lengths(features)?;
        let keys = features.broadcast_div(&lengths)?;
        let (loss, grad) = self.cross_entropy(&self.embeddings.matmul(&keys.t()?)?)?; // (B, K)
        let grad = normalise_backward(&keys, &lengths, &grad.t()?.matmul(self.embeddings)?)?;
        Ok((loss, grad))
    }

    /// As `loss`, against features (B·K, P) that each image has of its own, image by image.
    pub fn loss_of_own(&self, features: &Tensor) -> Result<(Tensor, Tensor)> {
        let lengths = lengths(features)?;
        let keys = features.broadcast_div(&lengths)?;
        let (loss, grad) = self.cross_entropy(&own_products(self.embeddings, &keys)?)?; // (B, K)
        let grad = grad.unsqueeze(2)?.broadcast_mul(&self.embeddings.unsqueeze(1)?)?; // (B, K, P)
        Ok((loss, normalise_backward(&keys, &lengths, &grad.flatten(0, 1)?)?))
    }

    /// Of cosines (B, K), and its gradient (B, K).
    fn cross_entropy(&self, cosines: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut logits = (cosines * self.logit_scale)?;
        if let Some(more) = self.more {
            logits = logits.broadcast_add(more)?;
        }
        let (rows, labels) = (logits.dim(0)? as f64, self.labels.unsqueeze(1)?);
        let logs = log_softmax(&logits, D::Minus1)?;
        let loss = (logs.gather(&labels, 1)?.sum_all()? * (-1.0 / rows))?;
        // softmax, less 1 at the label
        let less = Tensor::full(-1f32, labels.shape(), logs.device())?;
        let grad = logs.exp()?.scatter_add(&labels, &less, 1)?;
        Ok((loss, (grad * (self.logit_scale / rows))?))
    }
}

/// Cosines (B, K) of embeddings (B, P), normalised, with the features (B·K, P) of each.
pub fn own_cosines(embeddings: &Tensor, features: &Tensor) -> Result<Tensor> {
    own_products(embeddings, &normalise(features)?)
}

fn own_products(embeddings: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let (b, p) = embeddings.dims2()?;
    Ok(keys.reshape((b, (), p))?.matmul(&embeddings.unsqueeze(2)?)?.squeeze(2)?)
}

/// Rows (N, P) of length 1.
pub fn normalise(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&lengths(x)?)?)
}

/// The lengths (N, 1) of rows (N, P).
fn lengths(x: &Tensor) -> Result<Tensor> {
    Ok(x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// Gradient of rows (N, P) of some lengths (N, 1) from that of the rows of length 1 that were made
/// of them.
fn normalise_backward(normal: &Tensor, lengths: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let along = normal.broadcast_mul(&(normal * grad)?.sum_keepdim(D::Minus1)?)?;
    Ok((grad - along)?.broadcast_div(lengths)?)
}
