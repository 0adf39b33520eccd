//! A classifier that learns the tasks one after another, and cannot tell unseen classes.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::recipe::Recipe;
use crate::{
    baseline::Classifier,
    evaluate::{Scores, TestSet, evaluate},
    profile::{Phase, time},
    results::{Made, Step},
    states::States,
    stream::Stream,
};

/// The scores of a classifier after each task.
pub struct Learned<'a, C> {
    stream: &'a Stream,
    states: States<'a, C>,
    /// How it scores, beside what it has learned.
    options: Value,
}

impl<'a, C: Classifier> Learned<'a, C> {
    /// Of the states of a classifier on a stream; `options` are those of its scores.
    pub fn new(stream: &'a Stream, states: States<'a, C>, options: Value) -> Self {
        Learned { stream, states, options }
    }
}

impl<C: Classifier> Recipe for Learned<'_, C> {
    fn first(&self) -> usize {
        1
    }

    fn made(&self, learned: usize) -> Result<Made> {
        Ok(Made {
            options: json!({"scored": self.options}),
            device: None,
            inputs: vec![("statistics", self.states.input(learned)?)],
        })
    }

    fn step(&mut self, learned: usize, test: &TestSet) -> Result<Step> {
        let classifier = self.states.after(learned)?;
        let scores = |images: &[f32]| {
            let scores = classifier.scores(images);
            Ok(if classifier.are_logits() { Scores::logits(scores, 1.0) } else { scores.into() })
        };
        let predictions = time(Phase::Evaluate, || evaluate(test, self.stream, learned, None, scores))
            .context("the classifier does not score: are the embeddings of very different lengths?")?;
        let stored = classifier.stored().total(self.stream.seen(learned));
        Ok(Step { predictions, stored, tables: Vec::new(), classifier: None })
    }
}
