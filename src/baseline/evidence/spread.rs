//! The covariance within classes: its directions, and how far it is shrunk.

use anyhow::{Context, Result};

use super::{matrix::product, tally::LOOC_SHRINKAGES, whitened::BATCH};
use crate::{
    baseline::statistics::{ClassStatistics, NO_COVARIANCE},
    dense::{covariance::oas, eigen::eigen, product::Matrix},
};

/// What at least is left of a row's variance, where a covariance is computed without the row.
pub const LEAST_REMAINDER: f64 = 0.02;

/// What is left of a row's variance without it is above 0 where the covariance is shrunk at all, and at
/// least this where it is rounded.
const ROUNDED: f64 = 1e-12;

/// Least variance of unit rows, for classes whose rows are all equal.
const LEAST_VARIANCE: f64 = 1e-12;

/// The directions of the scatter, and how far it is shrunk at least: made once a task.
pub struct Spread {
    /// Along the directions (D), of the scatter over its degrees of freedom.
    pub variances: Vec<f64>,
    /// (D, D), columns.
    pub directions: Vec<f64>,
    /// Rows less classes, 1 at least.
    pub freedom: f64,
    /// What oracle approximating shrinkage says.
    pub oas: f64,
    /// What variances are shrunk towards: their mean, or where every class has one row, half of the
    /// variance of the means.
    mean: f64,
}

impl Spread {
    /// Of the scatter of statistics.
    pub fn of(statistics: &ClassStatistics) -> Result<Self> {
        let (dim, n) = (statistics.dim(), statistics.counts().len());
        let (scatter, directions) = eigen(&statistics.scatter().whole(), dim).context(NO_COVARIANCE)?;
        let mean = statistics.scatter().diagonal().sum::<f64>() / dim as f64;
        let mean_square = scatter.iter().map(|x| (x / mean).powi(2)).sum::<f64>() / (dim * dim) as f64;
        let oas = oas(mean_square, dim, statistics.rows());
        let freedom = (statistics.rows() as f64 - n as f64).max(1.0);
        let variances: Vec<f64> = scatter.iter().map(|x| (x / freedom).max(0.0)).collect();
        let mean = match statistics.rows() == n {
            true => statistics.half_of_means(),
            false => variances.iter().sum::<f64>() / dim as f64,
        };
        Ok(Spread { variances, directions, freedom, oas, mean: mean.max(LEAST_VARIANCE) })
    }

    /// The variances (D) of the covariance that is shrunk so far.
    pub fn shrunk(&self, shrinkage: f64) -> Vec<f64> {
        self.variances.iter().map(|x| (1.0 - shrinkage) * x + shrinkage * self.mean).collect()
    }

    /// The log-likelihood of unit rows (N, D) that were learned as the classes `classes` (N), but for a
    /// constant, with each of [`LOOC_SHRINKAGES`]: each row as a draw of what is predicted for its class
    /// by the mean and the scatter without it, a Gaussian whose covariance is the shared one and the
    /// mean's error. What variances are shrunk towards and the degrees of freedom are those of all rows.
    /// One that is alone in its class has none. After LOOC (Hoffbeck and Landgrebe, IEEE TPAMI 18, 1996).
    pub fn log_likelihoods(&self, statistics: &ClassStatistics, rows: &[f64], classes: &[usize]) -> Vec<f64> {
        let (dim, mut found) = (statistics.dim(), vec![0.0; LOOC_SHRINKAGES.len()]);
        let variances = LOOC_SHRINKAGES.map(|shrinkage| self.shrunk(shrinkage));
        let volumes = variances.each_ref().map(|variances| variances.iter().map(|x| x.ln()).sum::<f64>());
        let precisions: Vec<f64> = variances.iter().flatten().map(|x| 1.0 / x).collect(); // (shrinkages, D)
        for (rows, classes) in rows.chunks(BATCH * dim).zip(classes.chunks(BATCH)) {
            let means = classes.iter().map(|&class| &statistics.means()[class * dim..][..dim]);
            let from_means: Vec<f64> = rows
                .chunks_exact(dim)
                .zip(means)
                .flat_map(|(x, mean)| x.iter().zip(mean).map(|(x, m)| x - m))
                .collect();
            let mut along = product(Matrix::new(&from_means, dim), Matrix::new(&self.directions, dim)); // (B, D)
            along.iter_mut().for_each(|x| *x *= *x);
            let distances = product(Matrix::new(&along, dim), Matrix::new(&precisions, dim).t()); // (B, shrinkages)
            for (distances, &class) in distances.chunks_exact(LOOC_SHRINKAGES.len()).zip(classes) {
                let count = statistics.counts()[class] as f64;
                if count > 1.0 {
                    let more = count / (count - 1.0);
                    for (place, (sum, distance)) in found.iter_mut().zip(distances).enumerate() {
                        let part = (1.0 - LOOC_SHRINKAGES[place]) / self.freedom * more;
                        let remainder = (1.0 - part * distance).max(ROUNDED);
                        *sum -= 0.5 * (more * distance / remainder + volumes[place] + remainder.ln());
                    }
                }
            }
        }
        found
    }
}
