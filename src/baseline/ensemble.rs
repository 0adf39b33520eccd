//! Prompts and class statistics, asked together.

use super::{classifier::Classifier, discriminant::Discriminant};
use crate::{dense::softmax::log_softmax, evaluate::Scores};

/// What the statistics count unless something else is asked for; the prompts count the rest.
pub const WEIGHT: f64 = 0.5;

/// How prompts and linear discriminant analysis are scored together: their log-probabilities are
/// weighed among the classes that are learned. Whether an image is of one of these, the prompts
/// decide alone: statistics know nothing of other classes.
#[derive(Clone, Copy)]
pub struct Ensemble<'a> {
    statistics: &'a Discriminant,
    weight: f64,
    logit_scale: f32,
}

impl<'a> Ensemble<'a> {
    /// `weight` is what the statistics count, 0 to 1; `logit_scale` what cosines are multiplied
    /// with.
    pub fn new(statistics: &'a Discriminant, weight: f64, logit_scale: f32) -> Self {
        Ensemble { statistics, weight, logit_scale }
    }

    /// Scores of embeddings (N, D), whose cosines with the prompts of the n classes learned are
    /// `cosines` (N, n).
    pub fn scores(&self, embeddings: &[f32], cosines: Vec<f32>) -> Scores {
        let n = self.statistics.statistics().counts().len();
        let logits = cosines.iter().map(|x| x * self.logit_scale).collect(); // (N, n)
        let seen = combine(logits, self.statistics.scores(embeddings), n, self.weight as f32);
        Scores { seen: Some(seen), ..Scores::logits(cosines, 1.0) }
    }
}

/// Scores (N, n) of two classifiers of n classes together: their log-probabilities, weighed.
/// `prompts` are cosines times the logit scale, `statistics` scores whose softmax is a probability,
/// such as those of [`Discriminant`]; `weight` is what the statistics count, 0 to 1.
pub fn combine(mut prompts: Vec<f32>, mut statistics: Vec<f32>, n: usize, weight: f32) -> Vec<f32> {
    log_softmax(&mut prompts, n);
    log_softmax(&mut statistics, n);
    prompts.iter_mut().zip(&statistics).for_each(|(p, s)| *p = (1.0 - weight) * *p + weight * s);
    prompts
}
