//! The prompts of a whole run: learned task after task, scored and kept after each.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Current, EmbeddingStream, Learner, PromptConfig, align::align, cpu::normalise, learner::cosines, store};
use crate::{
    baseline::{Stored, ensemble::Ensemble},
    evaluate::{Prediction, TestSet, ZeroShot, evaluate},
    generator::{Generator, LatentStore},
    metrics::History,
    profile::{Phase, time},
    results::Results,
    table::embeddings::Embeddings,
    task::{Class, Curriculum},
};

/// What prompts are trained on.
#[derive(Clone, Copy)]
pub enum Replay<'a> {
    /// CGIL: past classes from their generators, the current task's as `Current` says.
    Generated(&'a LatentStore, Current),
    /// The current task's real embeddings, nothing of past classes: what forgets.
    Nothing,
    /// The real embeddings of all classes seen, as if they had been kept.
    Real,
}

impl Replay<'_> {
    /// What has to be kept of the classes' embeddings to learn further ones: generators, or embeddings themselves.
    fn stored(&self, tuning: &Tuning) -> Result<Stored> {
        let per_class = match self {
            Replay::Generated(latents, _) => latents.read_task(0)?[0].bytes(),
            Replay::Nothing => 0,
            Replay::Real => {
                let rows = tuning.embeddings.labels("train")?.len().div_ceil(tuning.curriculum.classes.len());
                rows * tuning.embeddings.manifest.dim * size_of::<f32>()
            }
        };
        Ok(Stored { per_class, shared: 0 })
    }
}

/// A run of prompts to be made.
pub struct Tuning<'a> {
    pub embeddings: &'a Embeddings,
    pub test: &'a TestSet,
    pub curriculum: &'a Curriculum,
    pub config: &'a PromptConfig,
    pub replay: Replay<'a>,
    /// What class statistics count beside the prompts, 0 to 1.
    pub statistics: f64,
}

/// Learns the tasks that `results` lacks, from where it stopped. `tick` is called after each epoch with the task (from 0) and
/// the mean loss; for tasks that are there already, as often, without a loss.
pub fn tune(
    tuning: &Tuning,
    results: &Results,
    learner: &mut dyn Learner,
    tick: impl Fn(usize, Option<f64>),
) -> Result<History> {
    let Tuning { embeddings, test, curriculum, config, .. } = *tuning;
    let mut history = History::new(test, curriculum);
    let next = results.resume(test, 0, &mut history)?;
    if next > 0 {
        store::resume(results, next - 1, learner)?;
    }
    for task in 0..next.saturating_sub(1) {
        (0..tuning.config.epochs).for_each(|_| tick(task, None));
    }
    let stored = tuning.replay.stored(tuning)?;
    let mut generators = Vec::new();
    let scale = learner.logit_scale();
    let mut ensemble = (tuning.statistics > 0.0).then(|| Ensemble::new(test.dim, tuning.statistics, scale));
    for learned in next..=curriculum.tasks() {
        let losses = match learned {
            0 => Vec::new(),
            _ => learn(tuning, learner, &mut generators, learned - 1, &tick)?,
        };
        if let Some(ensemble) = &mut ensemble {
            ensemble.learn(learned, embeddings, curriculum)?;
        }
        let predictions = time(Phase::Evaluate, || predict(tuning, learner, ensemble.as_ref(), learned))?;
        time(Phase::Write, || {
            let n = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
            let prompts = learner.parameters()?.bytes(n, curriculum.classes.len(), config);
            let statistics = ensemble.as_ref().map_or(0, |ensemble| ensemble.stored().total(n));
            let stored = stored.total(n) + prompts + statistics;
            results.write(learned, test, &predictions, stored, &mut history, |dir| {
                store::write(dir, results, learned, learner, &losses, curriculum)?;
                ensemble
                    .as_ref()
                    .map_or(Ok(()), |e| store::write_head(dir, results, learned, e.statistics(), curriculum))
            })
        })?;
    }
    Ok(history)
}

/// Trains the prompts of all classes seen after `task` (from 0); returns the loss of each epoch. `generators` are those read
/// so far.
fn learn(
    tuning: &Tuning,
    learner: &mut dyn Learner,
    generators: &mut Vec<Generator>,
    task: usize,
    tick: impl Fn(usize, Option<f64>),
) -> Result<Vec<f64>> {
    let Tuning { embeddings, curriculum, config, .. } = *tuning;
    let seen = &curriculum.classes[..curriculum.seen(task)];
    let own = &curriculum.classes[curriculum.task(task)];
    let real = |classes: &[Class]| -> Result<BTreeMap<i64, Vec<f32>>> {
        embeddings.by_class("train", &classes.iter().collect::<Vec<_>>())
    };
    let (first, current, real) = match tuning.replay {
        Replay::Generated(latents, current) => {
            for task in 0..=task {
                if generators.len() < curriculum.seen(task) {
                    generators.extend(latents.read_task(task)?);
                }
            }
            (0, current, if current == Current::Generated { BTreeMap::new() } else { real(own)? })
        }
        Replay::Nothing => (seen.len() - own.len(), Current::Real, real(own)?),
        Replay::Real => (0, Current::Real, real(seen)?),
    };
    let dim = embeddings.manifest.dim;
    let (samples, seed) = (config.samples, curriculum.draws());
    let stream = EmbeddingStream { seen, first, generators, real, task, dim, samples, current, seed };
    align(learner, &stream, seen.len() - own.len(), config, |loss| tick(task, Some(loss)))
}

/// Predicts the test images' classes by the prompts of the seen classes, with their statistics where these count, and the
/// zero-shot features of the others.
fn predict(
    tuning: &Tuning,
    learner: &mut dyn Learner,
    ensemble: Option<&Ensemble>,
    learned: usize,
) -> Result<Vec<Option<Prediction>>> {
    let Tuning { test, curriculum, .. } = *tuning;
    let zero_shot = learner.zero_shot().to_vec(); // (C, P)
    let n = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
    let keys = if n > 0 { learner.keys(n)? } else { Vec::new() }; // (n, P), or empty where prompts depend on the image
    let zero_shot = ZeroShot { features: &zero_shot, is_raw: true };
    evaluate(test, curriculum, learned, Some(zero_shot), |images| {
        let mut normal = images.to_vec(); // (N, P)
        normalise(&mut normal, test.dim);
        let cosines = if keys.is_empty() { learner.scores(n, &normal)? } else { cosines(&normal, &keys, test.dim) };
        Ok(match ensemble {
            Some(ensemble) => ensemble.scores(images, cosines),
            None => cosines.into(),
        })
    })
}
