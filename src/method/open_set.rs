//! Classifiers whose candidates are all classes: text of those that are not learned.

use anyhow::Result;
use serde_json::json;

use super::recipe::Recipe;
use crate::{
    baseline::OpenSet,
    evaluate::{TestSet, ZeroShot, evaluate},
    profile::{Phase, time},
    results::{Made, Step},
    states::States,
    stream::Stream,
    texts::{self, TextModel},
};

/// What was learned of the classes so far, and zero-shot text of all.
pub struct WithText<'a, C> {
    stream: &'a Stream,
    text: Vec<f32>, // (C, P), not normalised
    clip: TextModel,
    states: States<'a, C>,
}

impl<'a, C: OpenSet> WithText<'a, C> {
    /// Of the zero-shot text features (C, P), not normalised, of the classes of a stream, and what
    /// was learned beside them.
    pub fn new(stream: &'a Stream, text: Vec<f32>, clip: TextModel, states: States<'a, C>) -> Self {
        WithText { stream, text, clip, states }
    }
}

impl<C: OpenSet> Recipe for WithText<'_, C> {
    fn first(&self) -> usize {
        0
    }

    fn made(&self, learned: usize) -> Result<Made> {
        let inputs = if learned > 0 { vec![("statistics", self.states.input(learned)?)] } else { Vec::new() };
        let options = json!({"clip": self.clip, "template": texts::TEMPLATE});
        Ok(Made { options, device: None, inputs })
    }

    fn step(&mut self, learned: usize, test: &TestSet) -> Result<Step> {
        // once something is learned, there is no form with the text's length in it
        let zero_shot = Some(ZeroShot { features: &self.text, is_raw: learned == 0 });
        if learned == 0 {
            let predictions = evaluate(test, self.stream, 0, zero_shot, |_| Ok(Vec::new().into()))?;
            return Ok(Step { predictions, stored: 0, tables: Vec::new(), classifier: None });
        }
        let own = self.states.after(learned)?;
        let predictions = time(Phase::Evaluate, || {
            evaluate(test, self.stream, learned, zero_shot, |images| Ok(own.scores_of_all(images)))
        })?;
        let stored = own.stored().total(self.stream.seen(learned));
        let removed: Vec<usize> = self.stream.removed(learned).collect();
        let classifier = own.file(&self.stream.candidates_after(learned), &removed)?;
        Ok(Step { predictions, stored, tables: Vec::new(), classifier })
    }
}
