//! Prompts, alone or with class statistics beside them.

use std::{ops::Range, sync::Arc};

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, Float32Array, Int64Array, StringArray};
use serde_json::json;

use super::recipe::Recipe;
use crate::{
    baseline::{Discriminant, Evidence, Incremental, ensemble::Ensemble},
    choice::choices,
    dense::cosine::{cosines, normalise},
    evaluate::{Scores, TestSet, ZeroShot, evaluate},
    profile::{Phase, time},
    prompt::{Learner, training::Training},
    results::{Made, Step, StepTable},
    states::States,
    stream::Stream,
    table::{contract, file},
    task::Class,
};

choices! {
    /// What stands beside prompts.
    pub enum Beside {
        Evidence = "evidence": "Zero-shot text and class statistics, which also say whether a class is a learned one",
        Lda = "lda": "Linear discriminant analysis, which counts half when learned classes are told apart",
        Off = "off": "Nothing: the paper's",
    }
}

/// Class statistics beside prompts.
pub enum Statistics<'a> {
    /// Linear discriminant analysis, among the seen classes alone.
    Discriminant {
        /// On the stream.
        states: Box<States<'a, Discriminant>>,
        /// What it counts, 0 to 1.
        weight: f64,
    },
    /// Evidence, which with zero-shot text also says whether a class is seen.
    Evidence(Box<States<'a, Evidence>>),
}

/// The statistics after a number of tasks.
#[derive(Clone, Copy)]
enum Own<'a> {
    Discriminant(&'a Discriminant, f64),
    Evidence(&'a Evidence),
}

/// What makes the prompts of classes.
type Load<'a> = dyn Fn(&[Class]) -> Result<Box<dyn Learner>> + 'a;

/// Prompts of the seen classes, and the zero-shot text features of the others.
pub struct Prompted<'a> {
    stream: &'a Stream,
    training: Training<'a>,
    statistics: Option<Statistics<'a>>,
    load: Box<Load<'a>>,
    /// With what its classes are called.
    learner: Option<(Vec<Class>, Box<dyn Learner>)>,
    tick: Box<dyn Fn(usize, f64) + 'a>,
}

impl<'a> Prompted<'a> {
    /// `load` makes the prompts of classes as they are before the first task, when they are needed;
    /// `tick` is called after each epoch of training with the task (from 0) and the mean loss.
    pub fn new(
        stream: &'a Stream,
        training: Training<'a>,
        statistics: Option<Statistics<'a>>,
        load: impl Fn(&[Class]) -> Result<Box<dyn Learner>> + 'a,
        tick: impl Fn(usize, f64) + 'a,
    ) -> Self {
        Prompted { stream, training, statistics, load: Box::new(load), learner: None, tick: Box::new(tick) }
    }

    /// Makes the prompts what they are after `learned` tasks, each class called as it was then. Trains
    /// what is missing.
    fn prepare(&mut self, learned: usize) -> Result<()> {
        let mut steps: Vec<usize> = if learned > 0 { self.training.missing(learned)?.collect() } else { Vec::new() };
        steps.extend(steps.is_empty().then_some(learned));
        for step in steps {
            let classes = self.stream.classes_after(step);
            if self.learner.as_ref().is_none_or(|(named, _)| *named != classes) {
                let learner = time(Phase::Load, || (self.load)(&classes))?;
                self.learner = Some((classes, learner));
                self.training.forget_learner();
            }
            if let Some((_, learner)) = &mut self.learner {
                self.training.after(step, &mut **learner, &self.tick)?;
            }
        }
        Ok(())
    }

    /// The classifier after `learned` tasks as a table: normalised text features, learned for seen
    /// classes, zero-shot for the others. Where prompts depend on the image, those of the others
    /// alone.
    fn text_features(&self, learned: usize, keys: &[f32], zero_shot: &[f32]) -> Result<StepTable> {
        let (stream, seen) = (self.stream, self.stream.seen(learned));
        let all = stream.classes_after(learned);
        let dim = zero_shot.len() / all.len();
        let mut features = keys.to_vec();
        features.extend_from_slice(&zero_shot[seen * dim..]);
        normalise(&mut features[keys.len()..], dim);
        if features.iter().any(|x| !x.is_finite()) {
            bail!("the text features are not finite: use a smaller --lr, or look whether the checkpoint is whole");
        }
        let first = all.len() - features.len() / dim; // those before it have none
        let shown = candidates(stream, learned, first..all.len());
        let tasks = || shown.iter().map(|&class| stream.task_of(class));
        let feature = |&class: &usize| &features[(class - first) * dim..][..dim];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(tasks().map(|t| t as i64 + 1))),
            Arc::new(Int64Array::from_iter_values(shown.iter().map(|&class| all[class].label))),
            Arc::new(StringArray::from_iter_values(shown.iter().map(|&class| &all[class].name))),
            Arc::new(StringArray::from_iter_values(tasks().map(|t| if t < learned { "prompt" } else { "zero_shot" }))),
            file::vectors(shown.iter().flat_map(feature).copied().collect(), dim),
        ];
        Ok(StepTable { contract: contract::text_features(), dim, rows: shown.len(), columns })
    }
}

/// The classes within `range` that were not taken out in the first `learned` tasks.
fn candidates(stream: &Stream, learned: usize, range: Range<usize>) -> Vec<usize> {
    range.filter(|&class| stream.is_candidate(class, learned)).collect()
}

/// The linear head that class statistics make, as a table.
fn statistics_head(stream: &Stream, learned: usize, statistics: &Discriminant) -> StepTable {
    let (directions, offsets) = statistics.head();
    let (dim, all) = (statistics.dim(), stream.classes_after(learned));
    let shown = candidates(stream, learned, 0..offsets.len());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(shown.iter().map(|&c| stream.task_of(c) as i64 + 1))),
        Arc::new(Int64Array::from_iter_values(shown.iter().map(|&c| all[c].label))),
        Arc::new(StringArray::from_iter_values(shown.iter().map(|&c| &all[c].name))),
        Arc::new(Float32Array::from_iter_values(shown.iter().map(|&c| offsets[c]))),
        file::vectors(shown.iter().flat_map(|&c| &directions[c * dim..][..dim]).copied().collect(), dim),
    ];
    StepTable { contract: contract::statistics_head(), dim, rows: shown.len(), columns }
}

impl Recipe for Prompted<'_> {
    fn first(&self) -> usize {
        0
    }

    fn made(&self, learned: usize) -> Result<Made> {
        let mut inputs = Vec::new();
        if learned > 0 {
            inputs.push(("prompts", self.training.input(learned)?));
            match &self.statistics {
                Some(Statistics::Discriminant { states, .. }) => inputs.push(("statistics", states.input(learned)?)),
                Some(Statistics::Evidence(states)) => inputs.push(("statistics", states.input(learned)?)),
                None => {}
            }
        }
        let weight = match &self.statistics {
            Some(Statistics::Discriminant { weight, .. }) => json!(weight),
            Some(Statistics::Evidence(_)) => json!("evidence"),
            None => json!(0.0),
        };
        let (training, template) = (&self.training, &self.training.config().template);
        let options = json!({"clip": training.clip(), "template": template, "statistics": weight});
        Ok(Made { options, device: Some(training.device()), inputs })
    }

    fn step(&mut self, learned: usize, test: &TestSet) -> Result<Step> {
        self.prepare(learned)?;
        let Some((_, learner)) = &mut self.learner else { bail!("there are no prompts") };
        let (stream, seen, dim) = (self.stream, self.stream.seen(learned), test.dim());
        let statistics = match &mut self.statistics {
            Some(Statistics::Discriminant { states, weight }) if learned > 0 => {
                Some(Own::Discriminant(states.after(learned)?, *weight))
            }
            Some(Statistics::Evidence(states)) if learned > 0 => Some(Own::Evidence(states.after(learned)?)),
            _ => None,
        };
        let scale = learner.logit_scale();
        // evidence has no form with the text's length in it
        let is_raw = !matches!(statistics, Some(Own::Evidence(_)));
        let zero_shot = learner.zero_shot().to_vec(); // (C, P)
        let keys = if seen > 0 { learner.keys(seen)? } else { Vec::new() }; // (n, P), or empty where prompts depend on the image
        let predictions = time(Phase::Evaluate, || {
            evaluate(test, stream, learned, Some(ZeroShot { features: &zero_shot, is_raw }), |images| {
                let cosines = if keys.is_empty() {
                    let mut normal = images.to_vec(); // (N, P)
                    normalise(&mut normal, dim);
                    learner.scores(seen, &normal)?
                } else {
                    cosines(images, &keys, dim)
                };
                Ok(match statistics {
                    Some(Own::Discriminant(own, weight)) => Ensemble::new(own, weight, scale).scores(images, cosines),
                    Some(Own::Evidence(own)) => own.open_scores(images, Some(&cosines)),
                    None => Scores::logits(cosines, scale),
                })
            })
        });
        let predictions = predictions
            .context("the prompts do not score: use a smaller --lr, or look whether the checkpoint is whole")?;
        let mut stored = self.training.stored(learned, &**learner)?;
        let (mut tables, mut classifier) = (Vec::new(), None);
        match statistics {
            Some(Own::Discriminant(own, _)) => {
                if !self.training.keeps_statistics() {
                    stored += own.stored().total(seen);
                }
                tables.push(statistics_head(stream, learned, own));
            }
            Some(Own::Evidence(own)) => {
                stored += own.stored().total(seen);
                // prompts that depend on the image are no tensor
                let ready = if keys.is_empty() { None } else { own.classifier(Some(&keys)) };
                let removed: Vec<usize> = stream.removed(learned).collect();
                classifier =
                    ready.map(|ready| ready.without(&removed).file(&stream.candidates_after(learned))).transpose()?;
            }
            None => {}
        }
        tables.push(self.text_features(learned, &keys, &zero_shot)?);
        Ok(Step { predictions, stored, tables, classifier })
    }
}
