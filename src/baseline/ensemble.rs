//! Prompts and class statistics, asked together.

use anyhow::Result;

use super::{Classifier, Discriminant, Shrinkage, Stored, learn_task};
use crate::{
    dense::vector::{exp, sum, vectorised},
    evaluate::Scores,
    table::embeddings::Embeddings,
    task::Curriculum,
};

/// What the statistics count unless something else is asked for; the prompts count the rest.
pub const WEIGHT: f64 = 0.5;

/// Prompts and linear discriminant analysis on the statistics of the training embeddings, which decide together among the classes that are
/// learned. Whether an image is of one of these, the prompts decide alone: statistics know nothing of other classes.
pub struct Ensemble {
    statistics: Discriminant,
    weight: f64,
    logit_scale: f32,
    tasks: usize,
}

impl Ensemble {
    /// With no class yet. `weight` is what the statistics count, 0 to 1; `logit_scale` what cosines are multiplied with.
    pub fn new(dim: usize, weight: f64, logit_scale: f32) -> Self {
        Ensemble { statistics: Discriminant::new(dim, Shrinkage::Oas), weight, logit_scale, tasks: 0 }
    }

    /// Learns the tasks up to the first `tasks` that it has not seen, each from its own training embeddings.
    pub fn learn(&mut self, tasks: usize, embeddings: &Embeddings, curriculum: &Curriculum) -> Result<()> {
        for task in self.tasks..tasks {
            learn_task(&mut self.statistics, embeddings, curriculum, task)?;
        }
        self.tasks = self.tasks.max(tasks);
        Ok(())
    }

    /// Scores of embeddings (N, D), whose cosines with the prompts of the n classes learned are `cosines` (N, n).
    pub fn scores(&self, embeddings: &[f32], cosines: Vec<f32>) -> Scores {
        let n = cosines.len() * self.statistics.dim() / embeddings.len();
        let logits: Vec<f32> = cosines.iter().map(|x| x * self.logit_scale).collect(); // (N, n)
        let seen = combine(&logits, &self.statistics.scores(embeddings), n, self.weight as f32);
        Scores { open: cosines, seen: Some(seen) }
    }

    pub fn statistics(&self) -> &Discriminant {
        &self.statistics
    }

    pub fn stored(&self) -> Stored {
        self.statistics.stored()
    }
}

/// Scores (N, n) of a classifier as log-probabilities, in place.
///
/// ```
/// let mut scores = [1.0, 1.0, -80.0, 20.0];
/// cgil::baseline::ensemble::log_probabilities(&mut scores, 2);
/// assert_eq!(scores, [-std::f32::consts::LN_2, -std::f32::consts::LN_2, -100.0, 0.0]);
/// ```
pub fn log_probabilities(scores: &mut [f32], n: usize) {
    vectorised(|| {
        let mut powers = vec![0.0; n];
        for row in scores.chunks_exact_mut(n) {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x -= highest);
            powers.iter_mut().zip(&*row).for_each(|(power, &x)| *power = exp(x));
            let total = sum(&powers).ln();
            row.iter_mut().for_each(|x| *x -= total);
        }
    });
}

/// Scores (N, n) of two classifiers of n classes together: their log-probabilities, weighed. `prompts` are cosines times the
/// logit scale, `statistics` scores whose softmax is a probability, such as those of
/// [`Discriminant`](super::Discriminant); `weight` is what the statistics count, 0 to 1.
pub fn combine(prompts: &[f32], statistics: &[f32], n: usize, weight: f32) -> Vec<f32> {
    let [mut prompts, mut statistics] = [prompts.to_vec(), statistics.to_vec()];
    log_probabilities(&mut prompts, n);
    log_probabilities(&mut statistics, n);
    prompts.iter().zip(&statistics).map(|(p, s)| (1.0 - weight) * p + weight * s).collect()
}
