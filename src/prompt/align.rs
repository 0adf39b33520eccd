//! Alignment: trains the prompts of the seen classes on one task's embedding stream.

use anyhow::Result;

use super::{Batch, Candidates, EmbeddingStream, Learner, Learning, PromptConfig};
use crate::{
    Error,
    dense::moments::mean,
    profile::{Phase, time},
    rng::{Draw, Rng},
    table::file,
};

/// Trains the prompts of the stream's classes, or what of them is `learning`, with a new optimiser. `tick` is called after each epoch with the mean loss of its steps. Returns these
/// losses. One that is not finite is an [`Error::Diverged`].
pub(crate) fn align(
    learner: &mut dyn Learner,
    stream: &EmbeddingStream,
    learning: &Learning,
    config: &PromptConfig,
    tick: impl Fn(f64),
) -> Result<Vec<f64>> {
    learner.begin(learning)?;
    let known: Vec<usize> = (0..stream.seen.len()).filter(|class| !learning.removed.contains(class)).collect();
    let mut curve = Vec::with_capacity(config.epochs);
    for epoch in 0..config.epochs {
        let rows = time(Phase::Sample, || stream.epoch(epoch))?;
        let classes: Vec<u32> = file::int64s(&rows, "class").iter().map(|&class| class as u32).collect(); // (N)

        let mut rng = Rng::new(stream.seed, Draw::Batches, &[stream.task as u64, epoch as u64]);
        let order = rng.permutation(classes.len());
        let batches: Vec<Batch> = (order.chunks(config.batch_size).enumerate())
            .map(|(step, rows)| {
                let key = [stream.task as u64, epoch as u64, step as u64];
                let of_rows = rows.iter().map(|&row| classes[row] as usize);
                let mut rng = Rng::new(stream.seed, Draw::Candidates, &key);
                let draw = |count| Candidates::draw(&known, of_rows, count, &mut rng);
                Batch { rows, candidates: config.classes_per_step.and_then(draw) }
            })
            .collect();
        let losses = learner.steps(stream.seen.len(), file::floats(&rows, "embedding"), &classes, &batches)?;
        if losses.iter().any(|loss| !loss.is_finite()) {
            return Err(Error::Diverged { task: stream.task + 1, epoch: epoch + 1 }.into());
        }
        let loss = mean(losses.into_iter().map(f64::from));
        curve.push(loss);
        tick(loss);
    }
    Ok(curve)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use anyhow::bail;

    use super::*;
    use crate::{
        generator::{ClassRows, GeneratorConfig, fit},
        prompt::{Current, Parameters},
        rows::Rows,
        task::Class,
    };

    /// What a learner is shown in an epoch.
    #[derive(Default)]
    struct Shown {
        rows: Vec<Vec<f32>>,
        batches: Vec<Vec<Vec<usize>>>,
        begun: Vec<usize>,
        loss: f32,
    }

    impl Learner for Shown {
        fn zero_shot(&self) -> &[f32] {
            &[]
        }

        fn logit_scale(&self) -> f32 {
            1.0
        }

        fn keys(&mut self, _: usize) -> Result<Vec<f32>> {
            bail!("not asked for")
        }

        fn scores(&mut self, _: usize, _: &[f32]) -> Result<Vec<f32>> {
            bail!("not asked for")
        }

        fn begin(&mut self, learning: &Learning) -> Result<()> {
            self.begun.push(learning.past);
            Ok(())
        }

        fn steps(&mut self, n: usize, embeddings: &[f32], classes: &[u32], batches: &[Batch]) -> Result<Vec<f32>> {
            assert_eq!((n, classes), (2, &[0, 0, 0, 0, 0, 1, 1, 1, 1, 1][..]));
            self.rows.push(embeddings.to_vec());
            self.batches.push(batches.iter().map(|batch| batch.rows.to_vec()).collect());
            Ok(batches.iter().zip(1..).map(|(_, step)| self.loss * step as f32).collect())
        }

        fn parameters(&self) -> Result<Parameters> {
            bail!("not asked for")
        }

        fn set_parameters(&mut self, _: Parameters) -> Result<()> {
            bail!("not asked for")
        }
    }

    #[test]
    fn every_epoch_has_rows_and_batches_of_its_own() {
        let rows: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37).sin()).collect(); // (10, 4)
        let class = |key| ClassRows { key, rows: Rows::new(4, rows.clone()) };
        let generators: Vec<_> =
            (0..2).map(|key| fit(&class(key), 0, &GeneratorConfig::Gaussian, || ()).generator).collect();
        let seen = [0, 1].map(|label| Class { label, name: format!("class {label}") });
        let config = PromptConfig { epochs: 3, batch_size: 4, ..PromptConfig::default() };
        let learn = |task: usize, seed: u64, loss: f32| {
            let stream = EmbeddingStream {
                seen: &seen,
                drawn: &[0, 1],
                generators: &generators,
                noise: None,
                real: Default::default(),
                task,
                dim: 4,
                samples: 5,
                current: Current::Generated,
                seed,
            };
            let mut shown = Shown { loss, ..Shown::default() };
            let losses = align(&mut shown, &stream, &Learning::after(1), &config, |_| ());
            (shown, losses)
        };
        let (shown, losses) = learn(1, 7, 0.5);
        assert_eq!(losses.unwrap(), [1.0; 3]); // the mean of 0.5, 1 and 1.5
        assert_eq!(shown.begun, [1]);
        // no row, of any class or epoch, is another's
        let different: BTreeSet<Vec<u32>> = shown
            .rows
            .iter()
            .flat_map(|rows| rows.chunks(4))
            .map(|row| row.iter().map(|x| x.to_bits()).collect())
            .collect();
        assert_eq!(different.len(), 3 * 10);
        for batches in &shown.batches {
            assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
            let mut all = batches.concat();
            assert_ne!(all, (0..10).collect::<Vec<_>>());
            all.sort();
            assert_eq!(all, (0..10).collect::<Vec<_>>());
        }
        assert!(shown.batches[0] != shown.batches[1] && shown.batches[1] != shown.batches[2]);
        // another task and another seed draw others, the same ones the same
        for other in [learn(0, 7, 0.5).0, learn(1, 8, 0.5).0] {
            assert!(other.rows[0] != shown.rows[0] && other.batches[0] != shown.batches[0]);
        }
        assert!(learn(1, 7, 0.5).0.rows == shown.rows);
        let error = learn(1, 7, f32::INFINITY).1.unwrap_err().to_string();
        assert!(error.contains("epoch 1 of task 2") && error.contains("smaller --lr"), "{error}");
    }
}
