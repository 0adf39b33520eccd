//! Alignment: trains the prompts of the seen classes on one task's embedding stream.

use anyhow::{Result, bail};
use candle_core::Tensor;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

use super::{EmbeddingStream, PromptConfig, PromptLearner, learner::normalise};
use crate::{
    rng::{Draw, Rng},
    table::file,
};

/// Trains the prompts of the stream's classes, with a new optimiser. `tick` is called after each epoch with the
/// mean loss of its steps.
pub fn align(
    learner: &PromptLearner,
    stream: &EmbeddingStream,
    config: &PromptConfig,
    tick: impl Fn(f64),
) -> Result<()> {
    let mut optimiser = optimiser(learner, config.lr)?;
    let seen = stream.labels.len();
    let device = learner.zero_shot().device();
    for epoch in 0..config.epochs {
        let rows = stream.epoch(epoch)?;
        let n = rows.num_rows();
        let embeddings = Tensor::from_slice(file::floats(&rows, "embedding"), (n, stream.dim), device)?;
        let embeddings = normalise(&embeddings)?; // (N, P)
        let classes: Vec<u32> = file::int64s(&rows, "class").iter().map(|&class| class as u32).collect();
        let classes = Tensor::new(classes, device)?; // (N)

        let mut rng = Rng::new(stream.seed, Draw::Batches, &[stream.task as u64, epoch as u64]);
        let order: Vec<u32> = rng.permutation(n).into_iter().map(|i| i as u32).collect();
        let mut losses = Vec::new();
        for batch in order.chunks(config.batch_size) {
            let batch = Tensor::new(batch, device)?;
            let (loss, grads) =
                learner.loss(seen, &embeddings.index_select(&batch, 0)?, &classes.index_select(&batch, 0)?)?;
            if !loss.is_finite() {
                bail!("the prompts diverged in epoch {} of task {}: use a smaller --lr", epoch + 1, stream.task + 1);
            }
            optimiser.step(&grads)?;
            losses.push(f64::from(loss));
        }
        tick(crate::metrics::mean(losses));
    }
    Ok(())
}

/// AdamW without weight decay, over all parameters of the prompts.
pub fn optimiser(learner: &PromptLearner, lr: f64) -> Result<AdamW> {
    let vars = learner.parameters().into_iter().map(|(_, var)| var).collect();
    Ok(AdamW::new(vars, ParamsAdamW { lr, weight_decay: 0.0, ..Default::default() })?)
}
