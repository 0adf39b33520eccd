//! Tuned prompts and class statistics, asked together.

use crate::dense::vector::{exp, sum, vectorised};

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
