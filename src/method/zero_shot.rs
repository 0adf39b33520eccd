//! CLIP as it is: the text features of the class names.

use anyhow::Result;
use serde_json::json;

use super::recipe::Recipe;
use crate::{
    baseline::text,
    clip::Checkpoint,
    dense::cosine::cosines,
    evaluate::{Scores, TestSet, ZeroShot, evaluate},
    results::{Made, Step},
    stream::Stream,
    texts::{self, TextModel},
};

/// Zero-shot classification by one template or several, whose features are averaged.
pub struct ZeroShotTexts<'a> {
    stream: &'a Stream,
    checkpoint: &'a Checkpoint,
    clip: TextModel,
    templates: Vec<String>,
    /// (T, C, P), not normalised; empty until they are needed.
    text: Vec<f32>,
    /// What cosines are multiplied with.
    logit_scale: f32,
}

impl<'a> ZeroShotTexts<'a> {
    /// Of the classes of a stream in these templates.
    pub fn new(stream: &'a Stream, checkpoint: &'a Checkpoint, clip: TextModel, templates: Vec<String>) -> Self {
        ZeroShotTexts { stream, checkpoint, clip, templates, text: Vec::new(), logit_scale: 1.0 }
    }
}

impl Recipe for ZeroShotTexts<'_> {
    fn first(&self) -> usize {
        0
    }

    fn made(&self, _: usize) -> Result<Made> {
        Ok(Made { options: json!({"clip": self.clip, "templates": self.templates}), device: None, inputs: Vec::new() })
    }

    fn step(&mut self, learned: usize, test: &TestSet) -> Result<Step> {
        if self.text.is_empty() {
            let tokenizer = self.checkpoint.tokenizer()?;
            self.logit_scale = self.checkpoint.text_encoder(&tokenizer)?.logit_scale;
            self.text = texts::features(self.checkpoint, &tokenizer, &self.stream.classes, &self.templates)?;
        }
        let (dim, seen) = (test.dim(), self.stream.seen(learned));
        let keys = text::zero_shot(&self.text, self.stream.classes.len(), dim)?; // (C, P)
        // of one template the length is known, a mean of several has none
        let is_raw = self.templates.len() == 1;
        let zero_shot = ZeroShot { features: if is_raw { &self.text } else { &keys }, is_raw };
        let scores = |images: &[f32]| Ok(Scores::logits(cosines(images, &keys[..seen * dim], dim), self.logit_scale));
        let predictions = evaluate(test, self.stream, learned, Some(zero_shot), scores)?;
        Ok(Step { predictions, stored: 0, tables: Vec::new(), classifier: None })
    }
}
