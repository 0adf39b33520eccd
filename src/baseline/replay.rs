//! A linear head with Gaussian replay: past classes are drawn from a Gaussian each, beside the real
//! embeddings of the new ones.

use std::{f64::consts::PI, sync::Arc};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::{
    classifier::{Classifier, Examples, Incremental, Known, State, Stored, finish, take_f32, tensor},
    statistics::{ClassStatistics, NO_COVARIANCE},
};
use crate::{
    choice::choices,
    dense::{
        adam::Adam,
        covariance::{add_scatter, mean_variance, shrink},
        layers,
        moments::mean_row,
        product::{Matrix, Product, Threads},
        softmax::cross_entropy,
        symmetric::{Cholesky, Triangle},
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

choices! {
    /// What is kept of how embeddings of a class vary.
    pub enum Covariance {
        Class = "class": "The covariance of each class, shrunk by oracle approximating shrinkage",
        Shared = "shared": "One covariance within classes that all share, shrunk in the same way",
        Diagonal = "diagonal": "The variance of every dimension, of each class",
    }
}

/// A class's embeddings, as a Gaussian.
struct Gaussian {
    mean: Vec<f32>, // (D)
    spread: Spread,
}

/// How a class's embeddings vary; 0 where its rows are equal.
enum Spread {
    /// The standard deviations (D) of dimensions that are independent.
    Diagonal(Vec<f32>),
    /// The factor L (D (D + 1) / 2) of the covariance L Lᵀ, row after row, each up to the diagonal.
    Full(Arc<Vec<f32>>),
}

/// Softmax regression, trained anew after every task on as many rows of each class: real ones of
/// the new classes, draws from their Gaussians of the past ones.
pub struct ReplayHead {
    known: Known,
    covariance: Covariance,
    seed: u64,
    gaussians: Vec<Gaussian>, // (n)
    shared: ClassStatistics,  // of all classes, where these share a covariance; else of none
    weights: Vec<f32>,        // (n, D)
    offsets: Vec<f32>,        // (n)
}

impl Covariance {
    /// The name of a class's own spread in a state, and how many values it has with `dim`
    /// dimensions; none where it has none of its own.
    fn field(self, dim: usize) -> Option<(&'static str, usize)> {
        match self {
            Covariance::Diagonal => Some(("deviations", dim)),
            Covariance::Class => Some(("factors", Triangle::len(dim))),
            Covariance::Shared => None,
        }
    }
}

impl Spread {
    fn values(&self) -> &[f32] {
        match self {
            Spread::Diagonal(values) => values,
            Spread::Full(values) => values,
        }
    }

    /// The variance of dimension `j`.
    fn variance(&self, j: usize) -> f64 {
        match self {
            Spread::Diagonal(deviations) => f64::from(deviations[j]).powi(2),
            Spread::Full(factor) => row_of(factor, j).iter().map(|&x| f64::from(x).powi(2)).sum(),
        }
    }
}

/// Row `j` of a factor, up to the diagonal.
fn row_of(factor: &[f32], j: usize) -> &[f32] {
    &factor[Triangle::len(j)..Triangle::len(j + 1)]
}

impl Gaussian {
    /// With a spread of its own, of all dimensions or of each.
    fn fit(rows: &[f32], dim: usize, is_diagonal: bool) -> Self {
        let mean = mean_row(rows, dim);
        let n = rows.len() / dim;
        let mut matrix = vec![0.0; dim * dim];
        add_scatter(&mut matrix, rows, &mean);
        matrix.iter_mut().for_each(|x| *x /= (n - 1).max(1) as f64);
        let spread = if is_diagonal {
            Spread::Diagonal((0..dim).map(|i| matrix[i * dim + i].sqrt() as f32).collect())
        } else {
            shrink(&mut matrix, dim, n);
            let factor = factor(matrix, dim);
            Spread::Full(Arc::new(factor.unwrap_or_else(|| unreachable!("shrunk towards an identity above 0"))))
        };
        Gaussian { mean: mean.into_iter().map(|x| x as f32).collect(), spread }
    }

    /// `n` draws (n, D).
    fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let dim = self.mean.len();
        let mut rows = rng.normals(n * dim);
        for row in rows.chunks_exact_mut(dim) {
            match &self.spread {
                Spread::Diagonal(deviations) => {
                    row.iter_mut().zip(deviations).for_each(|(x, deviation)| *x *= deviation)
                }
                Spread::Full(factor) => vectorised(
                    #[inline(always)]
                    || {
                        for i in (0..dim).rev() {
                            row[i] = vector::dot(&row[..=i], row_of(factor, i)); // those before i are noise yet
                        }
                    },
                ),
            }
            row.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x += mean);
        }
        rows
    }
}

/// The factor (D (D + 1) / 2) of a shrunk covariance (D, D); 0 where nothing varies. None where it
/// is no covariance, which only a damaged file can hold.
fn factor(mut covariance: Vec<f64>, dim: usize) -> Option<Vec<f32>> {
    if mean_variance(&covariance, dim) == 0.0 {
        return Some(vec![0.0; Triangle::len(dim)]);
    }
    let cholesky = Cholesky::factor(&mut covariance, dim, 0.0)?;
    Some(cholesky.triangle().values().iter().map(|&x| x as f32).collect())
}

/// Gaussians of classes that share a covariance.
fn sharing(statistics: &ClassStatistics) -> Result<Vec<Gaussian>> {
    let dim = statistics.dim();
    let spread = Arc::new(factor(statistics.covariance(0.0), dim).context(NO_COVARIANCE)?);
    let gaussian = |mean: &[f64]| Gaussian {
        mean: mean.iter().map(|&x| x as f32).collect(),
        spread: Spread::Full(Arc::clone(&spread)),
    };
    Ok(statistics.means().chunks_exact(dim).map(gaussian).collect())
}

impl ReplayHead {
    /// For embeddings of `dim` values; everything is drawn from `seed`.
    pub fn new(dim: usize, covariance: Covariance, seed: u64) -> Self {
        let (gaussians, weights, offsets) = (Vec::new(), Vec::new(), Vec::new());
        let (known, shared) = (Known::new(dim), ClassStatistics::new(dim));
        ReplayHead { known, covariance, seed, gaussians, shared, weights, offsets }
    }

    /// Mean and deviation (D) of all classes together, as rows are drawn of them, each weighing the
    /// same; a dimension that does not vary, or by less than float32 can divide by, has deviation
    /// 1.
    fn standard(&self) -> (Vec<f32>, Vec<f32>) {
        let n = self.gaussians.len() as f64;
        let shared: Option<Vec<f64>> = match (self.covariance, self.gaussians.first()) {
            (Covariance::Shared, Some(first)) => Some((0..self.known.dim).map(|j| first.spread.variance(j)).collect()),
            _ => None,
        };
        let own = |g: &Gaussian, j: usize| shared.as_ref().map_or_else(|| g.spread.variance(j), |shared| shared[j]);
        let over_classes = |f: &dyn Fn(&Gaussian) -> f64| self.gaussians.iter().map(f).sum::<f64>() / n;
        let both = |j: usize| {
            let mean = over_classes(&|g| f64::from(g.mean[j]));
            let variance = over_classes(&|g| own(g, j) + (f64::from(g.mean[j]) - mean).powi(2));
            let deviation = variance.sqrt() as f32;
            (mean as f32, if deviation.is_normal() { deviation } else { 1.0 })
        };
        (0..self.known.dim).map(both).unzip()
    }

    /// The rows of an epoch (n·SAMPLES, D), class by class: of the last ones, `current`, real.
    fn epoch(&self, current: &[Examples], epoch: usize) -> Vec<f32> {
        let (dim, n) = (self.known.dim, self.known.count());
        let past = n - current.len();
        let mut rows = vec![0.0; n * SAMPLES * dim];
        rows.par_chunks_exact_mut(SAMPLES * dim).enumerate().for_each(|(class, out)| {
            let key = self.known.keys[class];
            let mut rng = Rng::new(self.seed, Draw::ReplayRows, &[n as u64, epoch as u64, key]);
            if class < past {
                return out.copy_from_slice(&self.gaussians[class].sample(SAMPLES, &mut rng));
            }
            // each row as often as the others, give or take one
            let real = current[class - past].rows;
            let order = rng.permutation(real.len());
            for (out, &row) in out.chunks_exact_mut(dim).zip(order.iter().cycle()) {
                out.copy_from_slice(real.row(row));
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
                cross_entropy(&mut scores, n, batch.iter().map(|row| row / SAMPLES), batch.len());
                let (dweights, doffsets) = gradients.split_at_mut(n * dim);
                layers::affine_backward_weight(&x, &scores, dweights, n, Threads::All);
                layers::sum_rows(&scores, doffsets);
                let rate = adam.begin(lr);
                adam.update_shared(rate, 0, &mut parameters, &gradients);
            }
        }
        // the standardisation goes into the head
        self.offsets = parameters.split_off(n * dim);
        for (weights, offset) in parameters.chunks_exact_mut(dim).zip(&mut self.offsets) {
            weights.iter_mut().zip(&deviation).for_each(|(weight, deviation)| *weight /= deviation);
            *offset -= vectorised(
                #[inline(always)]
                || vector::dot(weights, &mean),
            );
        }
        self.weights = parameters;
        if self.weights.iter().chain(&self.offsets).any(|x| !x.is_finite()) {
            bail!(
                "the linear head of {n} classes has values beyond float32: the embeddings are too large, or a dimension \
                 varies too little; scale them, or use another baseline"
            );
        }
        Ok(())
    }
}

impl Incremental for ReplayHead {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.known.admit_new(classes)?;
        let dim = self.known.dim;
        match self.covariance {
            Covariance::Shared => {
                self.shared.learn(classes)?;
                self.gaussians = sharing(&self.shared)?;
            }
            own => {
                let fit = |class: &Examples| Gaussian::fit(class.rows.values(), dim, own == Covariance::Diagonal);
                self.gaussians.par_extend(classes.par_iter().map(fit));
            }
        }
        self.train(classes)
    }

    fn state(&self) -> State {
        let (n, dim) = (self.known.count(), self.known.dim);
        let mut state = self.shared.state();
        if let Some((spread, size)) = self.covariance.field(dim) {
            let means: Vec<f32> = self.gaussians.iter().flat_map(|gaussian| &gaussian.mean).copied().collect();
            let spreads: Vec<f32> =
                self.gaussians.iter().flat_map(|gaussian| gaussian.spread.values()).copied().collect();
            state = State::from([
                ("means".into(), tensor(vec![n, dim], &means)),
                (spread.into(), tensor(vec![n, size], &spreads)),
            ]);
            self.known.put(&mut state);
        }
        state.insert("weights".into(), tensor(vec![n, dim], &self.weights));
        state.insert("offsets".into(), tensor(vec![n], &self.offsets));
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        let (known, n, dim) = self.known.take_next(&mut state)?;
        let weights = take_f32(&mut state, "weights", &[n, dim])?;
        let offsets = take_f32(&mut state, "offsets", &[n])?;
        match self.covariance.field(dim) {
            None => {
                known.put(&mut state);
                let shared = ClassStatistics::from_state(state, dim)?;
                (self.gaussians, self.shared) = (sharing(&shared)?, shared);
            }
            Some((spread, size)) => {
                let means = take_f32(&mut state, "means", &[n, dim])?;
                let spreads = take_f32(&mut state, spread, &[n, size])?;
                finish(state)?;
                let gaussian = |(mean, spread): (&[f32], &[f32])| Gaussian {
                    mean: mean.to_vec(),
                    spread: match self.covariance {
                        Covariance::Diagonal => Spread::Diagonal(spread.to_vec()),
                        _ => Spread::Full(Arc::new(spread.to_vec())),
                    },
                };
                self.gaussians = means.chunks_exact(dim).zip(spreads.chunks_exact(size)).map(gaussian).collect();
            }
        }
        (self.known, self.weights, self.offsets) = (known, weights, offsets);
        Ok(())
    }

    fn stored(&self) -> Stored {
        let dim = self.known.dim;
        let head = (dim + 1) * size_of::<f32>();
        match self.covariance.field(dim) {
            Some((_, size)) => Stored { per_class: (dim + size) * size_of::<f32>() + head, shared: 0 },
            None => {
                let Stored { per_class, shared } = self.shared.stored();
                Stored { per_class: per_class + head, shared }
            }
        }
    }
}

impl Classifier for ReplayHead {
    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        let (dim, n) = (self.known.dim, self.known.count());
        let mut scores = self.offsets.repeat(embeddings.len() / dim); // (N, n)
        let weights = Matrix::new(&self.weights, dim).t();
        Product::on(Threads::All).added().into(&mut scores, n, Matrix::new(embeddings, dim), weights);
        scores
    }

    fn are_logits(&self) -> bool {
        true
    }
}
