//! Per-dimension scaling of a class's embeddings: to [0, 1], then to mean 0 and standard deviation
//! 1.

use anyhow::Result;

use crate::tensors::{self, Fields, Tensors};

/// Below this a span or deviation counts as zero, so that a constant dimension stays finite.
pub(super) const SMALLEST: f32 = 1e-12;

/// Both scalings, one value per dimension each.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaler {
    /// Smallest value (D).
    pub low: Vec<f32>,
    /// Largest value less the smallest (D).
    pub span: Vec<f32>,
    /// Mean (D) after the first scaling.
    pub mean: Vec<f32>,
    /// Standard deviation (D) after the first scaling.
    pub std: Vec<f32>,
}

impl Scaler {
    /// Measures `rows` (N, dim), flat. The deviation is that of a sample (N − 1); one row has none.
    pub fn fit(rows: &[f32], dim: usize) -> Self {
        let n = (rows.len() / dim) as f64;
        let column = |j: usize| rows.iter().skip(j).step_by(dim).copied();
        let low: Vec<f32> = (0..dim).map(|j| column(j).fold(f32::INFINITY, f32::min)).collect();
        let high = (0..dim).map(|j| column(j).fold(f32::NEG_INFINITY, f32::max));
        let span: Vec<f32> = high.zip(&low).map(|(high, low)| (high - low).max(SMALLEST)).collect();
        let (mut mean, mut std) = (Vec::with_capacity(dim), Vec::with_capacity(dim));
        for j in 0..dim {
            let unit = || column(j).map(|x| f64::from((x - low[j]) / span[j]));
            let centre = unit().sum::<f64>() / n;
            let variance = unit().map(|u| (u - centre).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
            mean.push(centre as f32);
            std.push((variance.sqrt() as f32).max(SMALLEST));
        }
        Scaler { low, span, mean, std }
    }

    /// Measures `rows` (N, dim), flat, and standardises a copy of them.
    pub(super) fn standardised(rows: &[f32], dim: usize) -> (Self, Vec<f32>) {
        let scaler = Self::fit(rows, dim);
        let mut standard = rows.to_vec();
        scaler.standardise(&mut standard);
        (scaler, standard)
    }

    /// Standardises `rows` (N, dim) in place.
    pub fn standardise(&self, rows: &mut [f32]) {
        for row in rows.chunks_mut(self.low.len()) {
            for (j, x) in row.iter_mut().enumerate() {
                *x = ((*x - self.low[j]) / self.span[j] - self.mean[j]) / self.std[j];
            }
        }
    }

    /// Undoes [`Scaler::standardise`].
    pub fn restore(&self, rows: &mut [f32]) {
        for row in rows.chunks_mut(self.low.len()) {
            for (j, x) in row.iter_mut().enumerate() {
                *x = (*x * self.std[j] + self.mean[j]) * self.span[j] + self.low[j];
            }
        }
    }

    /// Rows (N, D), no longer standardised.
    pub(super) fn restored(&self, mut rows: Vec<f32>) -> Vec<f32> {
        self.restore(&mut rows);
        rows
    }

    /// What the store keeps of it.
    pub(super) fn fields(&self) -> Fields<'_> {
        let all = [("low", &self.low), ("span", &self.span), ("mean", &self.mean), ("std", &self.std)];
        all.into_iter().map(|(name, values)| (name.to_owned(), vec![values.len()], &values[..])).collect()
    }

    /// Takes the scalings of `dim` dimensions out of `tensors`.
    pub(super) fn take(tensors: &mut Tensors, dim: usize) -> Result<Self> {
        let mut take = |name| tensors::take_shaped(tensors, name, &[dim]);
        Ok(Scaler { low: take("low")?, span: take("span")?, mean: take("mean")?, std: take("std")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_dimension_stays_finite_and_is_restored() {
        let rows = [1.0, 5.0, 2.0, 5.0, 4.0, 5.0];
        let scaler = Scaler::fit(&rows, 2);
        let mut scaled = rows;
        scaler.standardise(&mut scaled);
        assert!(scaled.iter().all(|x| x.is_finite()), "{scaled:?}");
        scaler.restore(&mut scaled);
        for (a, b) in rows.iter().zip(scaled) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
