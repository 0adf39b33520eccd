//! Alignment: trains the prompts of the seen classes on one task's embedding stream.

use anyhow::{Result, bail};

use super::{EmbeddingStream, Learner, PromptConfig};
use crate::{
    metrics::mean,
    profile::{Phase, time},
    rng::{Draw, Rng},
    table::file,
};

/// Trains the prompts of the stream's classes, `past` of which earlier tasks learned, with a new optimiser. `tick` is called
/// after each epoch with the mean loss of its steps. Returns these losses.
pub fn align(
    learner: &mut dyn Learner,
    stream: &EmbeddingStream,
    past: usize,
    config: &PromptConfig,
    tick: impl Fn(f64),
) -> Result<Vec<f64>> {
    learner.begin(past)?;
    let mut curve = Vec::with_capacity(config.epochs);
    for epoch in 0..config.epochs {
        let rows = time(Phase::Sample, || stream.epoch(epoch))?;
        let classes: Vec<u32> = file::int64s(&rows, "class").iter().map(|&class| class as u32).collect(); // (N)

        let mut rng = Rng::new(stream.seed, Draw::Batches, &[stream.task as u64, epoch as u64]);
        let order = rng.permutation(classes.len());
        let batches: Vec<&[usize]> = order.chunks(config.batch_size).collect();
        let losses = learner.steps(stream.seen.len(), file::floats(&rows, "embedding"), &classes, &batches)?;
        if losses.iter().any(|loss| !loss.is_finite()) {
            bail!("the prompts diverged in epoch {} of task {}: use a smaller --lr", epoch + 1, stream.task + 1);
        }
        let loss = mean(losses.into_iter().map(f64::from));
        curve.push(loss);
        tick(loss);
    }
    Ok(curve)
}
