//! Text and mean hybrid: a class is known by its text feature and by the mean of its embeddings.

use anyhow::{Result, bail};

use super::{Classifier, Examples, Known, Stored, cosines, mean::unit_mean, named};

/// Weighs a class's cosine to its text feature against the one to its mean.
pub struct TextAndMean {
    known: Known,
    text: Vec<f32>, // (C, P), of length 1
    /// What the text counts; the mean counts the rest.
    weight: f64,
    keys: Vec<f32>, // (n, P)
}

impl TextAndMean {
    /// For the classes whose text features are `text` (C, P), of any length, in the order in which they will be learned.
    /// `weight` is what the text counts, 0 to 1.
    pub fn new(text: &[f32], dim: usize, weight: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&weight) {
            bail!("the text cannot count {weight}: give a weight from 0 to 1");
        }
        let text = super::text::zero_shot(text, text.len() / dim, dim)?;
        Ok(TextAndMean { known: Known::new(dim), text, weight, keys: Vec::new() })
    }
}

impl Classifier for TextAndMean {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        let (dim, start) = (self.known.dim, self.known.count());
        self.known.admit(classes)?;
        for (i, examples) in (start..).zip(classes) {
            let Some(text) = self.text.chunks_exact(dim).nth(i) else {
                bail!("{} has no text feature: there are {} only", named(examples.class), self.text.len() / dim);
            };
            let mean = unit_mean(examples, dim)?;
            let key = text.iter().zip(mean).map(|(&t, m)| self.weight * f64::from(t) + (1.0 - self.weight) * m);
            self.keys.extend(key.map(|x| x as f32));
        }
        Ok(())
    }

    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        cosines(embeddings, &self.keys, self.known.dim)
    }

    fn stored(&self) -> Stored {
        Stored { per_class: self.known.dim * size_of::<f32>(), shared: 0 }
    }
}
