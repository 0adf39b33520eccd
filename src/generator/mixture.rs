//! A mixture of diagonal Gaussians, fitted by expectation maximisation (EM) from k-means.
//!
//! It is fitted to standardised rows: distances of k-means then weigh every dimension alike, and
//! the floor of the variances means the same whatever the embeddings' unit. EM itself does not
//! mind: scaling a dimension adds a constant to the log-likelihood. What is kept is scaled back, so
//! that a generator needs no scalings.

use anyhow::{Result, ensure};

use super::{
    gaussian::{Density, place},
    scaler::Scaler,
};
use crate::{
    dense::{
        moments::{mean, weighted},
        vector::{fold, vectorised},
    },
    profile::{Phase, time},
    rng::Rng,
    tensors::{self, Fields, Tensors},
};

/// Components, K, where a class has as many different rows; the weights of what it lacks are 0.
const COMPONENTS: usize = 5;

/// EM ends when the mean log-likelihood of a row changes by less, in nat.
const TOLERANCE: f64 = 1e-3;

/// EM ends after as many iterations, too.
const ITERATIONS: usize = 500;

/// Starts of k-means: a single one may leave two clouds to one centre.
const STARTS: usize = 20;

/// k-means ends after as many iterations where rows still change sides.
const LLOYD_ITERATIONS: usize = 100;

/// Added to every variance of standardised rows, as scikit-learn does.
const FLOOR: f64 = 1e-6;

/// A component has lost its rows when it has less than this of one in all.
const LOST: f64 = 0.1;

/// Components on raw embeddings; within the fit, on standardised ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// Of the components (K), with the sum 1.
    pub weights: Vec<f32>,
    /// Of the components (K, D).
    pub means: Vec<f32>,
    /// Standard deviations of the components (K, D).
    pub stds: Vec<f32>,
}

impl Mixture {
    /// Fits a mixture to `rows` (N, dim), flat; N is at least 2.
    pub fn fit(rows: &[f32], dim: usize, rng: &mut Rng) -> Self {
        let (scaler, standard) = Scaler::standardised(rows, dim);
        let (components, sides) = time(Phase::Sample, || k_means(&standard, dim, rng));
        let mut mixture = Mixture {
            weights: vec![0.0; COMPONENTS],
            means: vec![0.0; COMPONENTS * dim],
            stds: vec![1.0; COMPONENTS * dim],
        };
        mixture.maximise(&standard, |i, k| f64::from(u8::from(sides[i] == k)));
        mixture.improve(&standard, components);
        mixture.restore(&scaler);
        mixture
    }

    /// EM on `rows` (N, D), until it changes little. The first `components` are to have rows.
    fn improve(&mut self, rows: &[f32], components: usize) {
        let (k, mut before) = (self.weights.len(), f64::NEG_INFINITY);
        for _ in 0..ITERATIONS {
            let (shares, mut densities) = time(Phase::Forward, || self.expect(rows));
            time(Phase::Optimise, || self.maximise(rows, |i, component| shares[i * k + component]));
            let now = mean(densities.iter().copied());
            let lost = |&c: &usize| shares.iter().skip(c).step_by(k).sum::<f64>() < LOST;
            let lost: Vec<usize> = (0..components).filter(lost).collect();
            if lost.is_empty() && (now - before).abs() < TOLERANCE {
                break;
            }
            before = if lost.is_empty() { now } else { f64::NEG_INFINITY };
            for component in lost {
                self.seed_again(component, rows, &shares, &mut densities);
            }
        }
    }

    /// The components' shares in each of `rows` (N, D): (N, K), and the logarithm of the density
    /// there, (N).
    fn expect(&self, rows: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (k, dim) = (self.weights.len(), self.dim());
        let parts = self.means.chunks_exact(dim).zip(self.stds.chunks_exact(dim));
        let parts: Vec<Density> = parts.map(|(mean, std)| Density::new(mean, std)).collect();
        let weights: Vec<f64> = self.weights.iter().map(|&w| f64::from(w).ln()).collect(); // -∞ of a component that is not there
        let (mut shares, mut densities) = (vec![0.0; rows.len() / dim * k], vec![0.0; rows.len() / dim]);
        for ((row, shares), density) in rows.chunks_exact(dim).zip(shares.chunks_exact_mut(k)).zip(&mut densities) {
            for ((share, part), weight) in shares.iter_mut().zip(&parts).zip(&weights) {
                *share = weight + part.log_at(row);
            }
            let largest = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            shares.iter_mut().for_each(|share| *share = (*share - largest).exp());
            let sum: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= sum);
            *density = largest + sum.ln();
        }
        (shares, densities)
    }

    /// The components of most likelihood, given their shares in `rows` (N, D) by row and component.
    /// One without rows keeps mean and deviations.
    fn maximise(&mut self, rows: &[f32], share: impl Fn(usize, usize) -> f64) {
        let dim = self.dim();
        let n = (rows.len() / dim) as f64;
        for k in 0..self.weights.len() {
            let (total, mean, variance) = weighted(rows, dim, |i| share(i, k));
            self.weights[k] = (total / n) as f32;
            if total < LOST {
                continue;
            }
            let range = k * dim..(k + 1) * dim;
            self.means[range.clone()].iter_mut().zip(mean).for_each(|(to, x)| *to = x as f32);
            self.stds[range].iter_mut().zip(variance).for_each(|(to, x)| *to = (x + FLOOR).sqrt() as f32);
        }
    }

    /// Puts a component that has lost its rows where the mixture explains a row worst, with half
    /// the weight and the deviations of the component which that row belongs to: so it has a share
    /// in the row.
    fn seed_again(&mut self, component: usize, rows: &[f32], shares: &[f64], densities: &mut [f64]) {
        let (k, dim) = (self.weights.len(), self.dim());
        let first_of = |values: &[f64], before: fn(f64, f64) -> bool| {
            (1..values.len()).fold(0, |best, i| if before(values[i], values[best]) { i } else { best })
        };
        let row = first_of(densities, |a, b| a < b);
        densities[row] = f64::INFINITY; // the next one goes elsewhere
        let owner = first_of(&shares[row * k..(row + 1) * k], |a, b| a > b);
        self.weights[owner] /= 2.0;
        self.weights[component] = self.weights[owner];
        self.means[component * dim..][..dim].copy_from_slice(&rows[row * dim..][..dim]);
        self.stds.copy_within(owner * dim..(owner + 1) * dim, component * dim);
    }

    /// From standardised rows to raw ones.
    fn restore(&mut self, scaler: &Scaler) {
        let dim = self.dim();
        scaler.restore(&mut self.means);
        for stds in self.stds.chunks_exact_mut(dim) {
            for (std, (scale, span)) in stds.iter_mut().zip(scaler.std.iter().zip(&scaler.span)) {
                *std *= scale * span;
            }
        }
    }

    /// Mean logarithm of the density at `rows` (N, D), in nat.
    pub fn log_likelihood(&self, rows: &[f32]) -> f64 {
        mean(self.expect(rows).1)
    }

    /// `n` draws (n, D), flat.
    pub fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let dim = self.dim();
        let components: Vec<usize> = (0..n).map(|_| draw(&self.weights, rng)).collect();
        let mut rows = rng.normals(n * dim);
        for (row, k) in rows.chunks_exact_mut(dim).zip(components) {
            place(row, &self.means[k * dim..][..dim], &self.stds[k * dim..][..dim]);
        }
        rows
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        let (k, dim) = (self.weights.len(), self.dim());
        vec![
            ("weights".into(), vec![k], &self.weights),
            ("means".into(), vec![k, dim], &self.means),
            ("stds".into(), vec![k, dim], &self.stds),
        ]
    }

    pub(super) fn take(tensors: &mut Tensors) -> Result<Self> {
        let (shape, means) = tensors::take(tensors, "means")?;
        ensure!(
            shape.len() == 2 && !means.is_empty(),
            "tensor \"means\" should have the shape [K, D], but has {shape:?}"
        );
        Ok(Mixture {
            weights: tensors::take_shaped(tensors, "weights", &shape[..1])?,
            stds: tensors::take_shaped(tensors, "stds", &shape)?,
            means,
        })
    }

    fn dim(&self) -> usize {
        self.means.len() / self.weights.len()
    }
}

/// The side of k-means that each of `rows` (N, dim) is on, and how many there are: [`COMPONENTS`],
/// or as many as there are different rows. A side may have lost its rows. Of several starts the one
/// whose rows are nearest to their centres.
fn k_means(rows: &[f32], dim: usize, rng: &mut Rng) -> (usize, Vec<usize>) {
    let start = |_| {
        let mut centres = distant_rows(rows, dim, rng);
        let (sides, squares) = lloyd(rows, dim, &mut centres);
        (squares, centres.len() / dim, sides)
    };
    let starts: Vec<_> = (0..STARTS).map(start).collect();
    let best = starts.into_iter().reduce(|best, next| if next.0 < best.0 { next } else { best });
    let (_, components, sides) = best.expect("at least one start");
    (components, sides)
}

/// Rows to begin with, (K, dim), each drawn by its squared distance to those before it (k-means++,
/// Arthur and Vassilvitskii, 2007).
fn distant_rows(rows: &[f32], dim: usize, rng: &mut Rng) -> Vec<f32> {
    let row = |i: usize| &rows[i * dim..(i + 1) * dim];
    let mut centres = row(rng.below(rows.len() / dim)).to_vec();
    let mut distances: Vec<f32> = rows.chunks_exact(dim).map(|row| distance(row, &centres)).collect(); // (N), to the nearest
    while centres.len() < COMPONENTS * dim && distances.iter().any(|&d| d > 0.0) {
        let next = row(draw(&distances, rng));
        for (nearest, row) in distances.iter_mut().zip(rows.chunks_exact(dim)) {
            *nearest = nearest.min(distance(row, next));
        }
        centres.extend_from_slice(next);
    }
    centres
}

/// Lloyd's iterations from `centres` (K, dim): the side of each of `rows` (N, dim), and the sum of
/// their squared distances.
fn lloyd(rows: &[f32], dim: usize, centres: &mut [f32]) -> (Vec<usize>, f64) {
    let nearest = |centres: &[f32]| -> (Vec<usize>, f64) {
        let nearest = rows.chunks_exact(dim).map(|row| {
            let distances = centres.chunks_exact(dim).map(|centre| distance(row, centre));
            distances.enumerate().fold((0, f32::INFINITY), |best, d| if d.1 < best.1 { d } else { best })
        });
        let (sides, distances): (Vec<usize>, Vec<f32>) = nearest.unzip();
        (sides, distances.into_iter().map(f64::from).sum())
    };
    let mut now = nearest(centres);
    for _ in 0..LLOYD_ITERATIONS {
        for (k, centre) in centres.chunks_exact_mut(dim).enumerate() {
            let (total, mean, _) = weighted(rows, dim, |i| f64::from(u8::from(now.0[i] == k)));
            if total > 0.0 {
                centre.iter_mut().zip(mean).for_each(|(to, x)| *to = x as f32);
            }
        }
        let next = nearest(centres);
        if next.0 == now.0 {
            return next;
        }
        now = next;
    }
    now
}

/// Squared distance.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    vectorised(
        #[inline(always)]
        || fold(a, b, b, |a, b, _| (a - b) * (a - b)),
    )
}

/// A place in `weights`, not negative, drawn in proportion to them: never one whose weight is 0
/// beside others.
fn draw(weights: &[f32], rng: &mut Rng) -> usize {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let mut left = f64::from(rng.uniform()) * total;
    let mut last = 0;
    for (i, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = i;
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Draw;

    /// Two clouds of 40 rows of 3 values, around -4 and 4.
    fn clouds() -> Vec<f32> {
        let mut rows = Rng::new(1, Draw::Embeddings, &[]).normals(80 * 3);
        rows.iter_mut().enumerate().for_each(|(i, x)| *x += if i / 3 % 2 == 0 { 4.0 } else { -4.0 });
        rows
    }

    #[test]
    fn a_component_that_loses_its_rows_is_seeded_again() {
        let rows = clouds();
        // one component has both clouds, the other none
        let mut mixture = Mixture {
            weights: vec![0.5, 0.5],
            means: [[0.0; 3], [1e4; 3]].concat(),
            stds: [[4.0; 3], [1.0; 3]].concat(),
        };
        let (shares, _) = mixture.expect(&rows);
        assert!(shares.iter().skip(1).step_by(2).sum::<f64>() < LOST);
        let alone = mixture.log_likelihood(&rows);
        mixture.improve(&rows, 2);
        assert!(mixture.log_likelihood(&rows) > alone + 1.0);
        for (weight, mean) in mixture.weights.iter().zip(mixture.means.chunks(3)) {
            assert!((weight - 0.5).abs() < 1e-3, "{mixture:?}");
            assert!(mean.iter().all(|x| (x.abs() - 4.0).abs() < 0.6), "{mixture:?}");
        }
        assert!(mixture.means[0] * mixture.means[3] < 0.0, "{mixture:?}");
    }

    #[test]
    fn fewer_different_rows_have_fewer_components() {
        let rows = [[1.0f32, 2.0], [1.0, 2.0], [3.0, 2.0], [3.0, 2.0], [3.0, 2.0]].concat();
        let mixture = Mixture::fit(&rows, 2, &mut Rng::new(0, Draw::MixtureSeeds, &[]));
        let mut weights = mixture.weights.clone();
        weights.sort_by(f32::total_cmp);
        assert_eq!(weights, [0.0, 0.0, 0.0, 0.4, 0.6]);
        assert!(mixture.log_likelihood(&rows).is_finite());
        let drawn = mixture.sample(50, &mut Rng::new(0, Draw::Embeddings, &[]));
        for row in drawn.chunks(2) {
            assert!((row[0] - 1.0).abs().min((row[0] - 3.0).abs()) < 0.02 && row[1] == 2.0, "{row:?}");
        }
    }
}
