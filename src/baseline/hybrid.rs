//! Text and mean hybrid: a class is known by its text feature and by the mean of its embeddings.

use anyhow::{Result, bail};

use super::{
    classifier::{
        Classifier, Examples, Incremental, OfSums, State, Stored, Sum, learn_as_sums, require_texts,
        require_texts_of_state,
    },
    mean::UnitMeans,
    text,
};
use crate::{dense::cosine::cosines, task::Class};

/// Weighs a class's cosine to its text feature against the one to its mean. The means are all that
/// it keeps: text features are made of names.
pub struct TextAndMean {
    means: UnitMeans,
    text: Vec<f32>, // (C, P), of length 1
    /// What the text counts; the mean counts the rest.
    weight: f64,
    keys: Vec<f32>, // (n, P)
}

impl TextAndMean {
    /// For the classes whose text features are `text` (C, P), of any length, in the order in which
    /// they will be learned. `weight` is what the text counts, 0 to 1.
    pub fn new(text: &[f32], dim: usize, weight: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&weight) {
            bail!("the text cannot count {weight}: give a weight from 0 to 1");
        }
        let text = text::zero_shot(text, text.len() / dim, dim)?;
        Ok(TextAndMean { means: UnitMeans::new(dim), text, weight, keys: Vec::new() })
    }

    /// The keys of the classes whose means are there.
    fn weigh(&mut self) {
        let key = |(&text, &mean): (&f32, &f32)| {
            (self.weight * f64::from(text) + (1.0 - self.weight) * f64::from(mean)) as f32
        };
        self.keys = self.text.iter().zip(self.means.values()).map(key).collect();
    }

    /// How many classes have a text feature.
    fn texts(&self) -> usize {
        self.text.len() / self.means.dim()
    }
}

impl OfSums for TextAndMean {
    fn sum(&self) -> Sum {
        self.means.sum()
    }

    fn learn_sums(&mut self, classes: &[Class], parts: &mut dyn Iterator<Item = Result<State>>) -> Result<()> {
        require_texts(classes, self.means.labels(), self.texts())?;
        self.means.learn_sums(classes, parts)?;
        self.weigh();
        Ok(())
    }
}

impl Incremental for TextAndMean {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        learn_as_sums(self, classes)
    }

    fn of_sums(&mut self) -> Option<&mut dyn OfSums> {
        Some(self)
    }

    fn state(&self) -> State {
        self.means.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let means = UnitMeans::from_state(state, self.means.dim())?;
        require_texts_of_state(means.values().len() / means.dim(), self.texts())?;
        self.means = means;
        self.weigh();
        Ok(())
    }

    fn stored(&self) -> Stored {
        self.means.stored()
    }
}

impl Classifier for TextAndMean {
    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        cosines(embeddings, &self.keys, self.means.dim())
    }
}
