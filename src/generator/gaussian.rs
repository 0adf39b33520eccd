//! A diagonal Gaussian: the least that can be kept of a class.

use anyhow::{Result, ensure};

use super::scaler::SMALLEST;
use crate::{
    dense::{
        moments,
        vector::{fold, vectorised},
    },
    rng::Rng,
    tensors::{self, Fields, Tensors},
};

/// Mean and standard deviation of every dimension, on raw embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    /// (D).
    pub mean: Vec<f32>,
    /// Standard deviation (D).
    pub std: Vec<f32>,
}

impl Gaussian {
    /// The Gaussian of most likelihood for `rows` (N, dim), flat: variances divide by N. A
    /// deviation is at least 1e-12, so that a constant dimension has a density.
    pub fn fit(rows: &[f32], dim: usize) -> Self {
        let (_, mean, variance) = moments::weighted(rows, dim, |_| 1.0);
        Gaussian {
            mean: mean.into_iter().map(|x| x as f32).collect(),
            std: variance.into_iter().map(|x| (x.sqrt() as f32).max(SMALLEST)).collect(),
        }
    }

    /// Mean logarithm of the density at `rows` (N, D), in nat.
    pub fn log_likelihood(&self, rows: &[f32]) -> f64 {
        let (density, dim) = (Density::new(&self.mean, &self.std), self.mean.len());
        rows.chunks_exact(dim).map(|row| density.log_at(row)).sum::<f64>() / (rows.len() / dim) as f64
    }

    /// `n` draws (n, D), flat.
    pub fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let mut rows = rng.normals(n * self.mean.len());
        rows.chunks_exact_mut(self.mean.len()).for_each(|row| place(row, &self.mean, &self.std));
        rows
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        let all = [("mean", &self.mean), ("std", &self.std)];
        all.into_iter().map(|(name, values)| (name.to_owned(), vec![values.len()], &values[..])).collect()
    }

    pub(super) fn take(tensors: &mut Tensors) -> Result<Self> {
        let (shape, mean) = tensors::take(tensors, "mean")?;
        ensure!(shape.len() == 1 && !mean.is_empty(), "tensor \"mean\" should have the shape [D], but has {shape:?}");
        Ok(Gaussian { std: tensors::take_shaped(tensors, "std", &shape)?, mean })
    }
}

/// Makes standard normal values (D) draws from N(mean, std²).
pub(super) fn place(row: &mut [f32], mean: &[f32], std: &[f32]) {
    for ((x, mean), std) in row.iter_mut().zip(mean).zip(std) {
        *x = *x * std + mean;
    }
}

/// The density of a diagonal Gaussian, ready to be evaluated at many rows.
pub(super) struct Density<'a> {
    mean: &'a [f32],   // (D)
    inverse: Vec<f32>, // (D), 1 / deviation
    constant: f64,     // the logarithm at the mean
}

impl<'a> Density<'a> {
    pub fn new(mean: &'a [f32], std: &[f32]) -> Self {
        let logarithms: f64 = std.iter().map(|&s| f64::from(s).ln()).sum();
        let constant = -0.5 * std.len() as f64 * std::f64::consts::TAU.ln() - logarithms;
        Density { mean, inverse: std.iter().map(|s| 1.0 / s).collect(), constant }
    }

    /// The density's logarithm at a row (D): -½ Σ ((x - mean) / std)² - Σ ln std - ½ D ln 2π.
    pub fn log_at(&self, row: &[f32]) -> f64 {
        let squares = vectorised(
            #[inline(always)]
            || {
                fold(row, self.mean, &self.inverse, |x, mean, inverse| {
                    let z = (x - mean) * inverse;
                    z * z
                })
            },
        );
        self.constant - 0.5 * f64::from(squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_dimension_has_a_density_and_is_restored() {
        let rows = [1.0, 5.0, 2.0, 5.0, 4.0, 5.0];
        let gaussian = Gaussian::fit(&rows, 2);
        assert_eq!((gaussian.mean[1], gaussian.std[1]), (5.0, SMALLEST));
        assert!(gaussian.log_likelihood(&rows).is_finite());
        let drawn = gaussian.sample(4, &mut Rng::new(0, crate::rng::Draw::Embeddings, &[]));
        assert!(drawn.chunks(2).all(|row| row[1] == 5.0), "{drawn:?}");
    }
}
