//! Text and class statistics in one classifier, without prompts.

use anyhow::Result;
use serde_json::json;

use super::recipe::Recipe;
use crate::{
    baseline::{Evidence, Incremental},
    evaluate::{TestSet, ZeroShot, evaluate},
    profile::{Phase, time},
    results::{Made, Step},
    states::States,
    stream::Stream,
    texts::{self, TextModel},
};

/// Zero-shot text of all classes, and the evidence of class statistics for and against each.
pub struct TextAndEvidence<'a> {
    stream: &'a Stream,
    text: Vec<f32>, // (C, P), not normalised
    clip: TextModel,
    states: States<'a, Evidence>,
}

impl<'a> TextAndEvidence<'a> {
    /// Of the zero-shot text features (C, P), not normalised, of the classes of a stream, and what
    /// was learned beside them.
    pub fn new(stream: &'a Stream, text: Vec<f32>, clip: TextModel, states: States<'a, Evidence>) -> Self {
        TextAndEvidence { stream, text, clip, states }
    }
}

impl Recipe for TextAndEvidence<'_> {
    fn first(&self) -> usize {
        0
    }

    fn made(&self, learned: usize) -> Result<Made> {
        let inputs = if learned > 0 { vec![("statistics", self.states.input(learned)?)] } else { Vec::new() };
        let options = json!({"clip": self.clip, "template": texts::TEMPLATE});
        Ok(Made { options, device: None, inputs })
    }

    fn step(&mut self, learned: usize, test: &TestSet) -> Result<Step> {
        // evidence has no form with the text's length in it
        let zero_shot = Some(ZeroShot { features: &self.text, is_raw: learned == 0 });
        if learned == 0 {
            let predictions = evaluate(test, self.stream, 0, zero_shot, |_| Ok(Vec::new().into()))?;
            return Ok(Step { predictions, stored: 0, tables: Vec::new(), classifier: None });
        }
        let evidence = self.states.after(learned)?;
        let predictions = time(Phase::Evaluate, || {
            evaluate(test, self.stream, learned, zero_shot, |images| Ok(evidence.open_scores(images, None)))
        })?;
        let stored = evidence.stored().total(self.stream.seen(learned));
        let classifier = evidence.classifier(None).map(|classifier| classifier.file(&self.stream.classes)).transpose()?;
        Ok(Step { predictions, stored, tables: Vec::new(), classifier })
    }
}
