//! A linear head with Gaussian replay: past classes are drawn from a Gaussian each, beside the real embeddings of the new
//! ones.

use std::f64::consts::PI;

use anyhow::{Result, bail};
use rayon::prelude::*;

use super::{
    Classifier, Examples, Known, Stored,
    covariance::{add_scatter, mean_variance, shrink},
    mean_row,
};
use crate::{
    dense::{
        adam::Adam,
        layers,
        product::{Matrix, Product, Threads},
        symmetric::Cholesky,
        vector::{self, vectorised},
    },
    rng::{Draw, Rng},
};

/// Epochs per task.
const EPOCHS: usize = 30;

/// Rows per class and epoch.
const SAMPLES: usize = 128;

/// Rows per step.
const BATCH: usize = 128;

/// Learning rate of Adam in the first epoch; it falls to 0 along a cosine.
const LR: f64 = 0.003;

/// What is kept of how a class's embeddings vary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Covariance {
    /// The variance of every dimension.
    Diagonal,
    /// All of it, shrunk by oracle approximating shrinkage.
    Full,
}

/// A class's embeddings, as a Gaussian.
struct Gaussian {
    mean: Vec<f32>,     // (D)
    variance: Vec<f32>, // (D)
    /// The factor's rows, each up to the diagonal; without it dimensions are independent.
    factor: Option<Vec<f32>>, // (D (D + 1) / 2)
}

/// Softmax regression, trained anew after every task on as many rows of each class: real ones of the new classes, draws from their Gaussians of
/// the past ones.
pub struct ReplayHead {
    known: Known,
    covariance: Covariance,
    seed: u64,
    gaussians: Vec<Gaussian>, // (n)
    weights: Vec<f32>,        // (n, D)
    offsets: Vec<f32>,        // (n)
}

impl Gaussian {
    fn fit(rows: &[f32], dim: usize, covariance: Covariance) -> Self {
        let mean = mean_row(rows, dim);
        let n = rows.len() / dim;
        let mut matrix = vec![0.0; dim * dim];
        add_scatter(&mut matrix, rows, &mean);
        matrix.iter_mut().for_each(|x| *x /= (n - 1).max(1) as f64);
        let variance = (0..dim).map(|i| matrix[i * dim + i] as f32).collect();
        let varies = mean_variance(&matrix, dim) > 0.0;
        let factor = (covariance == Covariance::Full && varies).then(|| {
            shrink(&mut matrix, dim, n);
            let cholesky = Cholesky::new(matrix, dim, 0.0);
            let cholesky = cholesky.unwrap_or_else(|| unreachable!("shrunk towards an identity above 0"));
            (0..dim).flat_map(|i| cholesky.row(i)).map(|&x| x as f32).collect()
        });
        Gaussian { mean: mean.into_iter().map(|x| x as f32).collect(), variance, factor }
    }

    /// `n` draws (n, D).
    fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let dim = self.mean.len();
        let mut rows = rng.normals(n * dim);
        for row in rows.chunks_exact_mut(dim) {
            match &self.factor {
                None => row.iter_mut().zip(&self.variance).for_each(|(x, variance)| *x *= variance.sqrt()),
                Some(factor) => vectorised(|| {
                    for i in (0..dim).rev() {
                        row[i] = vector::dot(&row[..=i], &factor[i * (i + 1) / 2..][..=i]); // those before i are noise yet
                    }
                }),
            }
            row.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x += mean);
        }
        rows
    }
}

impl ReplayHead {
    /// For embeddings of `dim` values; everything is drawn from `seed`.
    pub fn new(dim: usize, covariance: Covariance, seed: u64) -> Self {
        let (gaussians, weights, offsets) = (Vec::new(), Vec::new(), Vec::new());
        ReplayHead { known: Known::new(dim), covariance, seed, gaussians, weights, offsets }
    }

    /// Mean and deviation (D) of all classes together, each weighing the same; a dimension that does not vary has
    /// deviation 1.
    fn standard(&self) -> (Vec<f32>, Vec<f32>) {
        let n = self.gaussians.len() as f64;
        let over_classes = |f: &dyn Fn(&Gaussian) -> f64| self.gaussians.iter().map(f).sum::<f64>() / n;
        let both = |j: usize| {
            let mean = over_classes(&|g| f64::from(g.mean[j]));
            let variance = over_classes(&|g| f64::from(g.variance[j]) + (f64::from(g.mean[j]) - mean).powi(2));
            (mean as f32, if variance > 0.0 { variance.sqrt() as f32 } else { 1.0 })
        };
        (0..self.known.dim).map(both).unzip()
    }

    /// The rows of an epoch (n·SAMPLES, D), class by class: of the last ones, `current`, real.
    fn epoch(&self, current: &[Examples], epoch: usize) -> Vec<f32> {
        let (dim, n) = (self.known.dim, self.known.count());
        let past = n - current.len();
        let mut rows = vec![0.0; n * SAMPLES * dim];
        rows.par_chunks_exact_mut(SAMPLES * dim).enumerate().for_each(|(class, out)| {
            let label = self.known.labels[class];
            let mut rng = Rng::new(self.seed, Draw::ReplayRows, &[n as u64, epoch as u64, label as u64]);
            if class < past {
                return out.copy_from_slice(&self.gaussians[class].sample(SAMPLES, &mut rng));
            }
            // each row as often as the others, give or take one
            let real = current[class - past].rows;
            let order = rng.permutation(real.len() / dim);
            for (out, &row) in out.chunks_exact_mut(dim).zip(order.iter().cycle()) {
                out.copy_from_slice(&real[row * dim..][..dim]);
            }
        });
        rows
    }

    /// Trains the head from 0, on standardised rows.
    fn train(&mut self, current: &[Examples]) -> Result<()> {
        let (dim, n) = (self.known.dim, self.known.count());
        let (mean, deviation) = self.standard();
        let mut parameters = vec![0.0; n * dim + n]; // weights (n, D), then offsets (n)
        let mut gradients = parameters.clone();
        let mut adam = Adam::new(parameters.len());
        for epoch in 0..EPOCHS {
            let mut rows = self.epoch(current, epoch);
            for row in rows.chunks_exact_mut(dim) {
                for ((x, mean), deviation) in row.iter_mut().zip(&mean).zip(&deviation) {
                    *x = (*x - mean) / deviation;
                }
            }
            let lr = LR * 0.5 * (1.0 + (PI * epoch as f64 / EPOCHS as f64).cos());
            let mut rng = Rng::new(self.seed, Draw::ReplayBatches, &[n as u64, epoch as u64]);
            for batch in rng.permutation(n * SAMPLES).chunks(BATCH) {
                let x: Vec<f32> = batch.iter().flat_map(|&row| &rows[row * dim..][..dim]).copied().collect(); // (B, D)
                let (weights, offsets) = parameters.split_at(n * dim);
                let mut scores = vec![0.0; batch.len() * n]; // (B, n), then their gradient
                layers::affine(&x, Matrix::new(weights, self.known.dim).t(), offsets, &mut scores, Threads::All);
                cross_entropy_gradient(&mut scores, n, batch.iter().map(|row| row / SAMPLES));
                let (dweights, doffsets) = gradients.split_at_mut(n * dim);
                layers::affine_backward_weight(&x, &scores, dweights, n, Threads::All);
                layers::sum_rows(&scores, doffsets);
                let rate = adam.begin(lr);
                adam.update_shared(rate, 0, &mut parameters, &gradients);
            }
        }
        if parameters.iter().any(|x| !x.is_finite()) {
            bail!("the linear head diverged with {n} classes: are the embeddings of very different lengths?");
        }
        // the standardisation goes into the head
        self.offsets = parameters.split_off(n * dim);
        for (weights, offset) in parameters.chunks_exact_mut(dim).zip(&mut self.offsets) {
            weights.iter_mut().zip(&deviation).for_each(|(weight, deviation)| *weight /= deviation);
            *offset -= vectorised(|| vector::dot(weights, &mean));
        }
        self.weights = parameters;
        Ok(())
    }
}

impl Classifier for ReplayHead {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.known.admit(classes)?;
        let dim = self.known.dim;
        self.gaussians.par_extend(classes.par_iter().map(|class| Gaussian::fit(class.rows, dim, self.covariance)));
        self.train(classes)
    }

    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        let (dim, n) = (self.known.dim, self.known.count());
        let mut scores = self.offsets.repeat(embeddings.len() / dim); // (N, n)
        let weights = Matrix::new(&self.weights, dim).t();
        Product::on(Threads::All).added().into(&mut scores, n, Matrix::new(embeddings, dim), weights);
        scores
    }

    fn stored(&self) -> Stored {
        let dim = self.known.dim;
        let values = match self.covariance {
            Covariance::Diagonal => 2 * dim,
            Covariance::Full => 2 * dim + dim * (dim + 1) / 2,
        };
        Stored { per_class: values * size_of::<f32>(), shared: 0 }
    }
}

/// Scores (B, n) become the gradient of their mean cross-entropy with the classes of the rows.
fn cross_entropy_gradient(scores: &mut [f32], n: usize, classes: impl ExactSizeIterator<Item = usize>) {
    let b = classes.len() as f32;
    vectorised(|| {
        for (row, class) in scores.chunks_exact_mut(n).zip(classes) {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = vector::exp(*x - highest));
            let sum = vector::sum(row);
            row.iter_mut().for_each(|x| *x /= sum * b);
            row[class] -= 1.0 / b;
        }
    });
}
