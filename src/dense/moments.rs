//! Means and deviations in float64.

use super::vector::vectorised;

/// The arithmetic mean; NaN of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(s, n), v| (s + v, n + 1));
    sum / count as f64
}

/// The standard deviation (n − 1); 0 of fewer than two values.
pub fn deviation(values: &[f64]) -> f64 {
    let centre = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt()
}

/// The mean (D) of rows (N, D). That of equal rows is exactly one of them.
pub fn mean_row<T: Copy + Into<f64>>(rows: &[T], dim: usize) -> Vec<f64> {
    let n = (rows.len() / dim) as f64;
    let mut mean = vec![0.0; dim];
    for row in rows.chunks_exact(dim) {
        vectorised(
            #[inline(always)]
            || mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += x.into()),
        );
    }
    mean.iter_mut().for_each(|mean| *mean /= n);
    mean
}

/// How much rows (N, D) count for in all, their mean (D) and their variance (D), where row i counts
/// `share(i)`.
pub fn weighted(rows: &[f32], dim: usize, share: impl Fn(usize) -> f64) -> (f64, Vec<f64>, Vec<f64>) {
    let total: f64 = (0..rows.len() / dim).map(&share).sum();
    let (mut mean, mut variance) = (vec![0.0; dim], vec![0.0; dim]);
    let counted =
        || rows.chunks_exact(dim).enumerate().map(|(i, row)| (share(i) / total, row)).filter(|(s, _)| *s > 0.0);
    for (share, row) in counted() {
        vectorised(
            #[inline(always)]
            || mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += share * f64::from(x)),
        );
    }
    for (share, row) in counted() {
        vectorised(
            #[inline(always)]
            || {
                for ((variance, mean), &x) in variance.iter_mut().zip(&mean).zip(row) {
                    *variance += share * (f64::from(x) - mean).powi(2);
                }
            },
        );
    }
    (total, mean, variance)
}
