//! The softmax, its logarithm, and cross-entropy with its gradient.

use super::vector::{exp, largest, sum, vectorised};

/// The softmax of a row, in place. To be called within `vectorised`.
#[inline(always)]
pub fn softmax(row: &mut [f32]) {
    exponentiate(row);
    let scale = 1.0 / sum(row);
    row.iter_mut().for_each(|x| *x *= scale);
}

/// Scores (N, n) of classifiers become log-probabilities, in place.
///
/// ```
/// let mut scores = [1.0, 1.0, -80.0, 20.0];
/// cgil::dense::softmax::log_softmax(&mut scores, 2);
/// assert_eq!(scores, [-std::f32::consts::LN_2, -std::f32::consts::LN_2, -100.0, 0.0]);
/// ```
pub fn log_softmax(scores: &mut [f32], n: usize) {
    vectorised(
        #[inline(always)]
        || {
            let mut powers = vec![0.0; n];
            for row in scores.chunks_exact_mut(n) {
                let highest = largest(row);
                row.iter_mut().for_each(|x| *x -= highest);
                powers.iter_mut().zip(&*row).for_each(|(power, &x)| *power = exp(x));
                let total = sum(&powers).ln();
                row.iter_mut().for_each(|x| *x -= total);
            }
        },
    );
}

/// The sum over the rows of logits (N, n) of their cross-entropy with `classes` (N), in nat; the
/// logits become the gradient of that sum divided by `divisor`.
///
/// ```
/// let mut logits = [0.0, 0.0, 0.0, 0.0];
/// let loss = cgil::dense::softmax::cross_entropy(&mut logits, 2, [0, 1].into_iter(), 2);
/// assert!((loss - 2.0 * std::f64::consts::LN_2).abs() < 1e-6);
/// assert_eq!(logits, [-0.25, 0.25, 0.25, -0.25]);
/// ```
pub fn cross_entropy(logits: &mut [f32], n: usize, classes: impl Iterator<Item = usize>, divisor: usize) -> f64 {
    let divisor = divisor as f32;
    let mut loss = 0.0;
    vectorised(
        #[inline(always)]
        || {
            for (row, class) in logits.chunks_exact_mut(n).zip(classes) {
                let own = row[class] - exponentiate(row);
                let sum = sum(row);
                loss += f64::from(sum.ln() - own);
                row.iter_mut().for_each(|x| *x /= sum * divisor);
                row[class] -= 1.0 / divisor;
            }
        },
    );
    loss
}

/// Every value becomes its power, relative to the highest, which is returned.
#[inline(always)]
fn exponentiate(row: &mut [f32]) -> f32 {
    let highest = largest(row);
    row.iter_mut().for_each(|x| *x = exp(*x - highest));
    highest
}
