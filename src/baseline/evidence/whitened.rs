//! Rows against the means of classes where the covariance within classes is the identity: all that
//! evidence is scored with.

use super::matrix::product;
use crate::dense::product::Matrix;

/// Rows that are scored at a time.
pub const BATCH: usize = 1024;

/// What a squared distance is at least, as a share of the row's squared length: what it is
/// computed to.
pub const EXACT: f64 = 1e-15;

/// The means of all classes where the covariance within classes is the identity.
#[derive(Clone)]
pub struct Whitened {
    pub dim: usize,
    pub whitener: Vec<f64>, // (D, D)
    pub centre: Vec<f64>,   // (D), the mean of the means of seen classes
    pub mu: Vec<f64>,       // (C, D), means shrunk towards their priors; of unseen classes these
}

impl Whitened {
    /// Evidence (N, C) of unit rows (N, D): −D/2 times the log of the squared distance to a class's
    /// mean over that to the mean of means, whitened. The tails are heavy: a log, not a square.
    pub fn evidence(&self, rows: &[f64]) -> Vec<f64> {
        let mut found = Vec::with_capacity(rows.len() / self.dim * self.classes());
        for rows in rows.chunks(BATCH * self.dim) {
            let z = product(Matrix::new(rows, self.dim), Matrix::new(&self.whitener, self.dim)); // (B, D)
            let mut distances = self.distances(&z); // (B, C)
            for (z, distances) in z.chunks_exact(self.dim).zip(distances.chunks_exact_mut(self.classes())) {
                let background = square(z.iter().zip(&self.centre).map(|(z, centre)| z - centre));
                let least = EXACT * square(z.iter().copied());
                distances.iter_mut().for_each(|distance| *distance = self.ratio(*distance, background, least));
            }
            found.extend(distances);
        }
        found
    }

    /// Squared distances (B, C) of whitened rows (B, D) to the means of all classes.
    pub fn distances(&self, z: &[f64]) -> Vec<f64> {
        let (dim, all) = (self.dim, self.classes());
        let squares: Vec<f64> = self.mu.chunks_exact(dim).map(|mu| square(mu.iter().copied())).collect(); // (C)
        let mut distances = product(Matrix::new(z, dim), Matrix::new(&self.mu, dim).t()); // (B, C)
        for (z, distances) in z.chunks_exact(dim).zip(distances.chunks_exact_mut(all)) {
            let own = square(z.iter().copied());
            distances.iter_mut().zip(&squares).for_each(|(x, square)| *x = own - 2.0 * *x + square);
        }
        distances
    }

    /// The evidence of squared distances, which are `least` at least.
    pub fn ratio(&self, distance: f64, background: f64, least: f64) -> f64 {
        let clamped = |x: f64| if x < least { least } else { x }; // what is no number stays none
        -0.5 * self.dim as f64 * (clamped(distance) / clamped(background)).ln()
    }

    /// Number of classes, C.
    pub fn classes(&self) -> usize {
        self.mu.len() / self.dim
    }
}

/// The sum of squares.
pub fn square(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum()
}
