//! A classifier that leaves its run.

use anyhow::Result;
use serde_json::Value;

use super::made_from::MadeFrom;
use crate::{
    baseline::{ClassifierAbout, OpenClassifier},
    clip::Checkpoint,
    task::Class,
    tensors::Tensors,
};

/// Key of what stands beside the tensors, where a format has metadata of pairs.
pub(super) const KEY: &str = "cgil";

/// A classifier that leaves its run.
pub struct Head {
    /// By the names of `schemas/classifier.md`.
    pub(super) tensors: Tensors,
    pub(super) about: ClassifierAbout,
    /// Values per embedding, D.
    pub(super) dim: usize,
    /// The image encoder to export before it, if any.
    pub(super) encoder: Option<Checkpoint>,
}

impl Head {
    /// Of a classifier whose classes, in learning order, are given.
    pub fn new(classifier: &OpenClassifier, classes: &[Class], made_from: &MadeFrom) -> Result<Self> {
        let tensors = classifier.tensors();
        let about = ClassifierAbout { made_from: Some(serde_json::to_value(made_from)?), ..classifier.about(classes) };
        let dim = tensors.get("centre").map_or(0, |(_, values)| values.len());
        Ok(Head { tensors, about, dim, encoder: None })
    }

    /// With the image encoder of the CLIP before it.
    pub fn with_encoder(self, checkpoint: Checkpoint) -> Self {
        Head { encoder: Some(checkpoint), ..self }
    }

    /// The values of a tensor; empty where there is none.
    pub(super) fn values(&self, name: &str) -> &[f32] {
        self.tensors.get(name).map_or(&[], |(_, values)| values)
    }

    /// What stands beside the tensors, as JSON.
    pub(super) fn json(&self) -> Result<Value> {
        Ok(serde_json::to_value(&self.about)?)
    }
}
