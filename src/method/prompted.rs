//! Prompts, alone or with class statistics beside them.

use std::sync::Arc;

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

/// Prompts of the seen classes, and the zero-shot text features of the others.
pub struct Prompted<'a> {
    stream: &'a Stream,
    training: Training<'a>,
    statistics: Option<Statistics<'a>>,
    load: Box<dyn Fn() -> Result<Box<dyn Learner>> + 'a>,
    learner: Option<Box<dyn Learner>>,
    tick: Box<dyn Fn(usize, f64) + 'a>,
}

impl<'a> Prompted<'a> {
    /// `load` makes the prompts as they are before the first task, when they are needed; `tick` is
    /// called after each epoch of training with the task (from 0) and the mean loss.
    pub fn new(
        stream: &'a Stream,
        training: Training<'a>,
        statistics: Option<Statistics<'a>>,
        load: impl Fn() -> Result<Box<dyn Learner>> + 'a,
        tick: impl Fn(usize, f64) + 'a,
    ) -> Self {
        Prompted { stream, training, statistics, load: Box::new(load), learner: None, tick: Box::new(tick) }
    }

    /// The classifier after `learned` tasks as a table: normalised text features, learned for seen
    /// classes, zero-shot for the others. Where prompts depend on the image, those of the others
    /// alone.
    fn text_features(&self, learned: usize, keys: &[f32], zero_shot: &[f32]) -> Result<StepTable> {
        let (classes, seen) = (&self.stream.classes, self.stream.seen(learned));
        let dim = zero_shot.len() / classes.len();
        let mut features = keys.to_vec();
        features.extend_from_slice(&zero_shot[seen * dim..]);
        normalise(&mut features[keys.len()..], dim);
        if features.iter().any(|x| !x.is_finite()) {
            bail!("the text features are not finite: use a smaller --lr, or look whether the checkpoint is whole");
        }
        let first = classes.len() - features.len() / dim; // those before it have none
        let classes = &classes[first..];
        let tasks = || (first..first + classes.len()).map(|c| self.stream.task_of(c));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(tasks().map(|t| t as i64 + 1))),
            Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
            Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
            Arc::new(StringArray::from_iter_values(tasks().map(|t| if t < learned { "prompt" } else { "zero_shot" }))),
            file::vectors(features, dim),
        ];
        Ok(StepTable { contract: contract::text_features(), dim, rows: classes.len(), columns })
    }
}

/// The linear head that class statistics make, as a table.
fn statistics_head(stream: &Stream, statistics: &Discriminant) -> StepTable {
    let (directions, offsets) = statistics.head();
    let (n, dim) = (offsets.len(), statistics.dim());
    let classes = &stream.classes[..n];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values((0..n).map(|c| stream.task_of(c) as i64 + 1))),
        Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
        Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
        Arc::new(Float32Array::from(offsets)),
        file::vectors(directions.to_vec(), dim),
    ];
    StepTable { contract: contract::statistics_head(), dim, rows: n, columns }
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
        if self.learner.is_none() {
            self.learner = Some(time(Phase::Load, &self.load)?);
        }
        let Some(learner) = self.learner.as_deref_mut() else { bail!("there are no prompts") };
        self.training.after(learned, learner, &self.tick)?;
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
        let mut stored = self.training.stored(learned, learner)?;
        let (mut tables, mut classifier) = (Vec::new(), None);
        match statistics {
            Some(Own::Discriminant(own, _)) => {
                if !self.training.keeps_statistics() {
                    stored += own.stored().total(seen);
                }
                tables.push(statistics_head(stream, own));
            }
            Some(Own::Evidence(own)) => {
                stored += own.stored().total(seen);
                // prompts that depend on the image are no tensor
                let ready = if keys.is_empty() { None } else { own.classifier(Some(&keys)) };
                classifier = ready.map(|ready| ready.file(&stream.classes)).transpose()?;
            }
            None => {}
        }
        tables.push(self.text_features(learned, &keys, &zero_shot)?);
        Ok(Step { predictions, stored, tables, classifier })
    }
}
