//! Random projection and ridge regression: RanPAC (McDonnell, Gong, Parvaneh, Abbasnejad and van den Hengel, NeurIPS 2023),
//! without its fine-tuning in the first task.

use anyhow::{Result, bail};

use super::{Classifier, Examples, Known, Stored, covariance::mean_variance, named};
use crate::{
    dense::{
        product::{Matrix, Product, Threads},
        symmetric::{Cholesky, add_outer},
    },
    rng::{Draw, Rng},
};

/// The ridges that are tried.
pub const LAMBDAS: [f64; 17] =
    [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

/// Embeddings that are projected at a time.
const BATCH: usize = 1024;

/// The numbers of random features that are tried.
pub const FEATURES: [usize; 3] = [500, 1_000, 2_000];

/// Where the number of random features comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Features {
    Fixed(usize),
    /// The first task chooses one of [`FEATURES`] by its own classes, learned from four fifths of each one's rows: the one with the least
    /// squared error on the other rows, at its best ridge. Where they have one row each, the smallest.
    HeldOut,
}

/// Where the ridge λ comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ridge {
    /// It is this in all tasks.
    Fixed(f64),
    /// Every task chooses one of [`LAMBDAS`] by its own classes, learned from four fifths of each one's rows: of those whose
    /// squared error on the other rows is within one standard error of the least, the largest (Breiman et al., 1984). RanPAC takes the
    /// least error itself. But below some ridge the error hardly changes, so chance would choose among ridges of any size,
    /// and a small one fails later, when all tasks have about as many rows as there are features. A task whose classes
    /// have one row each keeps the last ridge.
    HeldOut,
}

/// The squared error of a ridge on rows held out.
#[derive(Clone, Copy, Debug)]
pub struct HeldOutError {
    /// Over rows and classes.
    pub mean: f64,
    /// Of the mean, by how the rows differ.
    pub standard_error: f64,
}

/// Ridge regression of the classes on ReLU(x W), with W random. With H the features of all rows so far and Y their classes,
/// one-hot, it keeps HᵀH and HᵀY, which are sums over classes, and scores by H (HᵀH + λI)⁻¹ HᵀY.
pub struct RandomProjection {
    known: Known,
    ridge: Ridge,
    lambda: f64,
    seed: u64,
    /// Whether the number of features is still to be chosen.
    is_open: bool,
    /// Features per embedding, M.
    features: usize,
    projection: Vec<f32>, // (D, M), W
    gram: Vec<f64>,       // (M, M), HᵀH
    sums: Vec<f64>,       // (n, M), (HᵀY)ᵀ
    weights: Vec<f32>,    // (n, M)
}

impl RandomProjection {
    /// For embeddings of `dim` values; W (dim, M) is standard normal, drawn from `seed`.
    pub fn new(dim: usize, features: Features, ridge: Ridge, seed: u64) -> Self {
        let (features, is_open) = match features {
            Features::Fixed(features) => (features, false),
            Features::HeldOut => (FEATURES[0], true),
        };
        let projection = Rng::new(seed, Draw::Projection, &[]).normals(dim * features);
        RandomProjection { is_open, ..Self::with_projection(projection, dim, ridge, seed) }
    }

    /// With a W (dim, M) of one's own. The seed is that of the rows held out.
    pub fn with_projection(projection: Vec<f32>, dim: usize, ridge: Ridge, seed: u64) -> Self {
        let features = projection.len() / dim;
        let lambda = match ridge {
            Ridge::Fixed(lambda) => lambda,
            Ridge::HeldOut => 1.0,
        };
        let gram = vec![0.0; features * features];
        let (known, sums, weights) = (Known::new(dim), Vec::new(), Vec::new());
        RandomProjection { known, ridge, lambda, seed, is_open: false, features, projection, gram, sums, weights }
    }

    /// The number of random features.
    pub fn feature_count(&self) -> usize {
        self.features
    }

    /// The ridge λ of the last task.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// ReLU(x W), (N, M), of embeddings (N, D).
    fn features(&self, embeddings: &[f32]) -> Vec<f32> {
        let rows = Matrix::new(embeddings, self.known.dim);
        let mut features = vec![0.0; embeddings.len() / self.known.dim * self.features];
        Product::on(Threads::All).into(
            &mut features,
            self.features,
            rows,
            Matrix::new(&self.projection, self.features),
        );
        features.iter_mut().for_each(|x| *x = x.max(0.0));
        features
    }

    /// The weights that the sums so far make.
    fn solve(&mut self) {
        let (m, n) = (self.features, self.known.count());
        let mut lambda = self.lambda;
        let cholesky = loop {
            let mut system = self.gram.clone();
            (0..m).for_each(|i| system[i * (m + 1)] += lambda);
            match Cholesky::new(system, m, 0.0) {
                Some(cholesky) => break cholesky,
                // it was lost in the rounding of the sums
                None => {
                    lambda = (10.0 * lambda).max(f64::EPSILON * mean_variance(&self.gram, m)).max(f64::MIN_POSITIVE)
                }
            }
        };
        let mut weights: Vec<f64> = (0..m * n).map(|i| self.sums[i % n * m + i / n]).collect(); // (M, n)
        cholesky.solve(&mut weights, n);
        self.weights = (0..n * m).map(|i| weights[i % m * n + i / m] as f32).collect();
    }

    /// The ridge by rows held out; None where the classes have one row each.
    fn choose(&self, classes: &[Examples]) -> Option<f64> {
        choose_ridge(&self.errors(classes))
    }

    /// Takes the number of features that rows held out speak for.
    fn choose_features(&mut self, classes: &[Examples]) {
        let (dim, ridge, seed) = (self.known.dim, self.ridge, self.seed);
        let candidates = FEATURES.map(|features| Self::new(dim, Features::Fixed(features), ridge, seed));
        let error = |candidate: &Self| least(&candidate.errors(classes)).map_or(f64::INFINITY, |error| error.mean);
        let errors: Vec<f64> = candidates.iter().map(error).collect();
        let best = (0..errors.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])); // the first of equal ones
        if let Some(chosen) = candidates.into_iter().nth(best.unwrap_or(0)) {
            let known = std::mem::replace(&mut self.known, Known::new(dim));
            *self = RandomProjection { known, ..chosen };
        }
    }

    /// The errors on a fifth of the classes' rows, held out, of ridges learned from the others.
    pub fn errors(&self, classes: &[Examples]) -> Vec<HeldOutError> {
        let dim = self.known.dim;
        let (mut learned, mut held_out) = (Vec::new(), Vec::new()); // rows of each class
        for Examples { class, rows } in classes {
            let n = rows.len() / dim;
            let order = Rng::new(self.seed, Draw::HeldOut, &[class.label as u64]).permutation(n);
            let (tested, kept) = order.split_at((n / 5).max(1).min(n - 1));
            let gather = |places: &[usize]| places.iter().flat_map(|&i| &rows[i * dim..][..dim]).copied().collect();
            learned.push(gather(kept));
            held_out.push(gather(tested));
        }
        self.held_out_errors(&learned, &held_out)
    }

    /// The squared error of every one of [`LAMBDAS`] on embeddings held out, given per class (N, D), as are those that it
    /// is learned from. Infinite where rounding has made the system insoluble, NaN where nothing is held out.
    pub fn held_out_errors(&self, learned: &[Vec<f32>], held_out: &[Vec<f32>]) -> Vec<HeldOutError> {
        let (m, k) = (self.features, learned.len());
        let to_f64 = |x: Vec<f32>| -> Vec<f64> { x.into_iter().map(f64::from).collect() };
        let (x, y) = (to_f64(self.features(&learned.concat())), self.one_hot(learned)); // (N, M), (N, k)
        let (test, truth) = (to_f64(self.features(&held_out.concat())), self.one_hot(held_out)); // (V, M), (V, k)
        let (n, v) = (y.len() / k, truth.len() / k);
        let product = Product::on(Threads::All);
        // With H of fewer rows than columns, H (HᵀH + λI)⁻¹ HᵀY is better computed as H Hᵀ (H Hᵀ + λI)⁻¹ Y.
        let (size, left, right, test) = if n < m {
            let mut against = vec![0.0; v * n]; // (V, N)
            product.into(&mut against, n, Matrix::new(&test, m), Matrix::new(&x, m).t());
            (n, Matrix::new(&x, m), y, against)
        } else {
            let mut sums = vec![0.0; m * k]; // (M, k)
            product.into(&mut sums, k, Matrix::new(&x, m).t(), Matrix::new(&y, k));
            (m, Matrix::new(&x, m).t(), sums, test)
        };
        let mut system = vec![0.0; size * size];
        add_outer(&mut system, size, size, 1.0, left);
        let error = |lambda: f64| {
            let mut system = system.clone();
            (0..size).for_each(|i| system[i * (size + 1)] += lambda);
            let Some(cholesky) = Cholesky::new(system, size, 0.0) else {
                return HeldOutError { mean: f64::INFINITY, standard_error: 0.0 };
            };
            let mut weights = right.clone(); // (size, k)
            cholesky.solve(&mut weights, k);
            let mut found = vec![0.0; v * k]; // (V, k)
            product.into(&mut found, k, Matrix::new(&test, size), Matrix::new(&weights, k));
            let of_row = |(found, truth): (&[f64], &[f64])| {
                found.iter().zip(truth).map(|(found, truth)| (found - truth).powi(2)).sum::<f64>() / k as f64
            };
            let errors: Vec<f64> = found.chunks_exact(k).zip(truth.chunks_exact(k)).map(of_row).collect(); // (V)
            let mean = errors.iter().sum::<f64>() / v as f64;
            let variance = errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / v as f64;
            HeldOutError { mean, standard_error: (variance / v as f64).sqrt() }
        };
        LAMBDAS.into_iter().map(error).collect()
    }

    /// Y (N, k) of k classes' embeddings.
    fn one_hot(&self, classes: &[Vec<f32>]) -> Vec<f64> {
        let k = classes.len();
        let row = |class: usize| (0..k).map(move |i| f64::from(u8::from(i == class)));
        let counts = classes.iter().map(|rows| rows.len() / self.known.dim).enumerate();
        counts.flat_map(|(class, n)| (0..n).flat_map(move |_| row(class))).collect()
    }
}

/// The least of the errors of [`LAMBDAS`].
fn least(errors: &[HeldOutError]) -> Option<&HeldOutError> {
    errors.iter().filter(|error| error.mean.is_finite()).min_by(|a, b| a.mean.total_cmp(&b.mean))
}

/// The largest of [`LAMBDAS`] whose error is within one standard error of the least.
///
/// ```
/// use cgil::baseline::{HeldOutError, LAMBDAS, choose_ridge};
/// let mut errors = [HeldOutError { mean: 0.5, standard_error: 0.1 }; LAMBDAS.len()];
/// errors[3].mean = 0.2; // the least
/// errors[9].mean = 0.29;
/// errors[12].mean = 0.31; // more than one standard error above it
/// assert_eq!(choose_ridge(&errors), Some(LAMBDAS[9]));
/// ```
pub fn choose_ridge(errors: &[HeldOutError]) -> Option<f64> {
    let least = least(errors)?;
    let place = errors.iter().rposition(|error| error.mean <= least.mean + least.standard_error)?;
    LAMBDAS.get(place).copied()
}

impl Classifier for RandomProjection {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.known.admit(classes)?;
        if self.is_open {
            self.choose_features(classes);
        }
        if self.ridge == Ridge::HeldOut
            && let Some(lambda) = self.choose(classes)
        {
            self.lambda = lambda;
        }
        let m = self.features;
        for Examples { class, rows } in classes {
            let start = self.sums.len();
            self.sums.resize(start + m, 0.0);
            for rows in rows.chunks(BATCH * self.known.dim) {
                let features: Vec<f64> = self.features(rows).into_iter().map(f64::from).collect(); // (B, M)
                add_outer(&mut self.gram, m, m, 1.0, Matrix::new(&features, m).t());
                for row in features.chunks_exact(m) {
                    self.sums[start..].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
            }
            if !mean_variance(&self.gram, m).is_finite() {
                bail!("the training embeddings of {} are too large to be projected", named(class));
            }
        }
        self.solve();
        Ok(())
    }

    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        let (m, n) = (self.features, self.known.count());
        let mut scores = vec![0.0; embeddings.len() / self.known.dim * n]; // (N, n)
        for (rows, scores) in embeddings.chunks(BATCH * self.known.dim).zip(scores.chunks_mut(BATCH * n)) {
            let features = self.features(rows); // (B, M)
            let weights = Matrix::new(&self.weights, m).t();
            Product::on(Threads::All).into(scores, n, Matrix::new(&features, m), weights);
        }
        scores
    }

    fn stored(&self) -> Stored {
        let m = self.features;
        Stored { per_class: m * size_of::<f64>(), shared: m * (m + 1) / 2 * size_of::<f64>() }
    }
}
