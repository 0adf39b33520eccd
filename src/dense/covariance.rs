//! Covariances (D, D) in float64. Of a symmetric matrix what stands on and below the diagonal
//! counts.

use super::{product::Matrix, symmetric::add_outer};

/// Rows that are in hand at a time: products of fewer are slower.
const BATCH: usize = 1024;

/// A scatter (D, D) that rows are added to: Σ x xᵀ. It has them all with [`Scatter::finish`].
pub struct Scatter<'a> {
    sum: &'a mut [f64],
    dim: usize,
    rows: Vec<f64>, // (at most BATCH, D), not added yet
}

impl<'a> Scatter<'a> {
    /// What rows of `dim` values are added to.
    pub fn onto(sum: &'a mut [f64], dim: usize) -> Self {
        Scatter { sum, dim, rows: Vec::new() }
    }

    /// Adds a row (D).
    pub fn push(&mut self, row: impl Iterator<Item = f64>) {
        self.rows.extend(row);
        if self.rows.len() == BATCH * self.dim {
            self.flush();
        }
    }

    /// Adds the differences of rows (N, D) from their mean (D).
    pub fn push_about<T: Copy + Into<f64>>(&mut self, rows: &[T], mean: &[f64]) {
        if rows.len() > mean.len() {
            // else it is its mean
            let rows = rows.chunks_exact(mean.len());
            rows.for_each(|row| self.push(row.iter().zip(mean).map(|(&x, mean)| x.into() - mean)));
        }
    }

    /// Adds what is in hand.
    pub fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        if !self.rows.is_empty() {
            add_outer(self.sum, self.dim, self.dim, 1.0, Matrix::new(&self.rows, self.dim).t());
            self.rows.clear();
        }
    }
}

/// scatter (D, D) += Σ (x - mean)(x - mean)ᵀ over rows (N, D).
pub fn add_scatter<T: Copy + Into<f64>>(scatter: &mut [f64], rows: &[T], mean: &[f64]) {
    let mut scatter = Scatter::onto(scatter, mean.len());
    scatter.push_about(rows, mean);
    scatter.finish();
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
