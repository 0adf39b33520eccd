//! Covariances (D, D) in float64. Of a symmetric matrix what stands on and below the diagonal
//! counts.

use super::{product::Matrix, symmetric::add_outer};

/// Rows whose differences from the mean are in hand at a time.
const BATCH: usize = 1024;

/// scatter (D, D) += Σ (x - mean)(x - mean)ᵀ over rows (N, D).
pub fn add_scatter<T: Copy + Into<f64>>(scatter: &mut [f64], rows: &[T], mean: &[f64]) {
    let dim = mean.len();
    for rows in rows.chunks(BATCH * dim) {
        let from_mean: Vec<f64> =
            rows.chunks_exact(dim).flat_map(|row| row.iter().zip(mean).map(|(&x, mean)| x.into() - mean)).collect(); // (B, D)
        add_outer(scatter, dim, dim, 1.0, Matrix::new(&from_mean, dim).t());
    }
}

/// The mean of the diagonal.
pub fn mean_variance(covariance: &[f64], dim: usize) -> f64 {
    (0..dim).map(|i| covariance[i * dim + i]).sum::<f64>() / dim as f64
}

/// How far oracle approximating shrinkage shrinks a covariance (D, D) of `rows` rows (Chen, Wiesel,
/// Eldar and Hero, 2010, as scikit-learn computes it), by the mean square of its values in units of
/// the squared mean variance.
pub fn oas(mean_square: f64, dim: usize, rows: usize) -> f64 {
    let excess = (rows as f64 + 1.0) * (mean_square - 1.0 / dim as f64);
    if excess > 0.0 { ((mean_square + 1.0) / excess).min(1.0) } else { 1.0 }
}

/// Shrinks the covariance of `rows` rows towards a multiple of the identity, as far as [`oas`] says.
pub fn shrink(covariance: &mut [f64], dim: usize, rows: usize) {
    shrink_by(covariance, dim, rows, 0.0);
}

/// As [`shrink`], but by `least` at least. One without variance stays.
pub fn shrink_by(covariance: &mut [f64], dim: usize, rows: usize, least: f64) {
    let d = dim as f64;
    let mean = mean_variance(covariance, dim);
    if mean == 0.0 {
        return;
    }
    let square = |i: usize, j: usize| (covariance[i * dim + j] / mean).powi(2); // of the mean's, whatever the scale
    let squares: f64 = (0..dim).map(|i| square(i, i) + 2.0 * (0..i).map(|j| square(i, j)).sum::<f64>()).sum();
    let mean_square = squares / (d * d);
    let shrinkage = oas(mean_square, dim, rows).max(least);
    covariance.iter_mut().for_each(|x| *x *= 1.0 - shrinkage);
    (0..dim).for_each(|i| covariance[i * dim + i] += shrinkage * mean);
}
