//! Random projection and ridge regression: RanPAC (McDonnell, Gong, Parvaneh, Abbasnejad and van
//! den Hengel, NeurIPS 2023), without its fine-tuning in the first task, on embeddings at length 1.

use anyhow::{Result, ensure};

use super::classifier::{Classifier, Examples, Incremental, Known, State, Stored, finish, take};
use crate::{
    dense::{
        cosine::normalise,
        product::{Matrix, Product, Threads},
        symmetric::{Cholesky, Triangle, add_outer},
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
    /// It is this in all tasks.
    Fixed(usize),
    /// The first task chooses one of [`FEATURES`] by its own classes, learned from four fifths of
    /// each one's rows: the one with the least squared error on the other rows, at its best ridge.
    /// Where they have one row each, the smallest.
    HeldOut,
}

/// Where the ridge λ comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ridge {
    /// It is this in all tasks.
    Fixed(f64),
    /// Every task chooses one of [`LAMBDAS`] by its own classes, learned from four fifths of each
    /// one's rows: of those whose squared error on the other rows is within one standard error of
    /// the least, the largest (Breiman et al., 1984). RanPAC takes the least error itself. But
    /// below some ridge the error hardly changes, so chance would choose among ridges of any size,
    /// and a small one fails later, when all tasks have about as many rows as there are features. A
    /// task whose classes have one row each keeps the last ridge.
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

/// Embeddings of several classes.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// (N, D), flat.
    pub embeddings: Vec<f32>,
    /// The class of each (N), from 0.
    pub classes: Vec<usize>,
}

/// Ridge regression of the classes on ReLU(x W), with x at length 1 and W random. With H the
/// features of all rows so far and Y their classes, one-hot, it keeps HᵀH and HᵀY, which are sums
/// over classes, and scores by H (HᵀH + λI)⁻¹ HᵀY.
///
/// Of HᵀH one triangle is kept; while a task is learned, there is a matrix (M, M) beside it, which
/// HᵀH is added up in, and then factored. While the ridge is chosen, the features of
/// the task's rows and one triangle more stand beside such a matrix.
pub struct RandomProjection {
    known: Known,
    ridge: Ridge,
    lambda: f64,
    seed: u64,
    choice: Features,
    /// Features per embedding, M.
    features: usize,
    projection: Vec<f32>, // (D, M), W
    gram: Triangle,       // (M, M), HᵀH
    sums: Vec<f64>,       // (n, M), (HᵀY)ᵀ
    weights: Vec<f32>,    // (n, M)
}

impl RandomProjection {
    /// For embeddings of `dim` values; W (dim, M) is standard normal, drawn from `seed`.
    pub fn new(dim: usize, features: Features, ridge: Ridge, seed: u64) -> Self {
        let first = match features {
            Features::Fixed(features) => features,
            Features::HeldOut => FEATURES[0],
        };
        RandomProjection { choice: features, ..Self::with_projection(draw(dim, first, seed), dim, ridge, seed) }
    }

    /// With a W (dim, M) of one's own. The seed is that of the rows held out.
    pub fn with_projection(projection: Vec<f32>, dim: usize, ridge: Ridge, seed: u64) -> Self {
        let features = projection.len() / dim;
        let lambda = match ridge {
            Ridge::Fixed(lambda) => lambda,
            Ridge::HeldOut => 1.0,
        };
        let (known, gram, sums, weights) = (Known::new(dim), Triangle::zeros(features), Vec::new(), Vec::new());
        let choice = Features::Fixed(features);
        RandomProjection { known, ridge, lambda, seed, choice, features, projection, gram, sums, weights }
    }

    /// The number of classes learned, n.
    pub fn class_count(&self) -> usize {
        self.known.count()
    }

    /// Labels of the classes learned so far, in the order in which they were learned.
    pub(super) fn labels(&self) -> &[i64] {
        &self.known.labels
    }

    /// The number of random features.
    pub fn feature_count(&self) -> usize {
        self.features
    }

    /// The ridge λ of the last task.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// ReLU(x W), (B, M), of embeddings (B, D), which are brought to length 1.
    fn features(&self, embeddings: &[f32]) -> Vec<f32> {
        let (dim, m) = (self.known.dim, self.features);
        let mut rows = embeddings.to_vec(); // (B, D)
        normalise(&mut rows, dim);
        let mut features = vec![0.0; embeddings.len() / dim * m];
        Product::on(Threads::All).into(&mut features, m, Matrix::new(&rows, dim), Matrix::new(&self.projection, m));
        features.iter_mut().for_each(|x| *x = x.max(0.0));
        features
    }

    /// As [`RandomProjection::features`], of any number of embeddings, in float64.
    fn wide_features(&self, embeddings: &[f32]) -> Vec<f64> {
        let mut features = Vec::with_capacity(embeddings.len() / self.known.dim * self.features); // (N, M)
        for rows in embeddings.chunks(BATCH * self.known.dim) {
            features.extend(self.features(rows).into_iter().map(f64::from));
        }
        features
    }

    /// The weights that the sums so far make. `system` is room for a matrix (M, M).
    fn solve(&mut self, system: &mut [f64]) {
        let (m, n) = (self.features, self.known.count());
        let mean = self.gram.diagonal().sum::<f64>() / m as f64;
        let mut weights: Vec<f64> = (0..m * n).map(|i| self.sums[i % n * m + i / n]).collect(); // (M, n)
        let mut lambda = self.lambda;
        // a ridge that is lost in the rounding of the sums grows
        while !solve_ridge(&self.gram, lambda, system, m, &mut weights, n) {
            lambda = (10.0 * lambda).max(f64::EPSILON * mean).max(f64::MIN_POSITIVE);
        }
        self.weights = (0..n * m).map(|i| weights[i % m * n + i / m] as f32).collect();
    }

    /// The ridge by rows held out; None where the classes have one row each.
    fn choose(&self, classes: &[Examples]) -> Option<f64> {
        choose_ridge(&self.errors(classes))
    }

    /// Takes the number of features that rows held out speak for.
    fn choose_features(&mut self, classes: &[Examples]) {
        let (dim, ridge, seed) = (self.known.dim, self.ridge, self.seed);
        let mut best = f64::INFINITY;
        for features in FEATURES {
            let candidate = Self::new(dim, Features::Fixed(features), ridge, seed);
            let error = least(&candidate.errors(classes)).map_or(f64::INFINITY, |error| error.mean);
            if error < best {
                best = error;
                self.take_features(features, candidate.projection);
            }
        }
    }

    /// Another number of features, with their projection (D, M); for a classifier without classes.
    fn take_features(&mut self, features: usize, projection: Vec<f32>) {
        (self.features, self.projection, self.gram) = (features, projection, Triangle::zeros(features));
    }

    /// The errors on a fifth of the classes' rows, held out, of ridges learned from the others.
    pub fn errors(&self, classes: &[Examples]) -> Vec<HeldOutError> {
        let (mut learned, mut held_out) = (Rows::default(), Rows::default());
        for (class, Examples { class: of, rows }) in classes.iter().enumerate() {
            let n = rows.len();
            let order = Rng::new(self.seed, Draw::HeldOut, &[of.key()]).permutation(n);
            let (tested, kept) = order.split_at((n / 5).max(1).min(n - 1));
            for (part, places) in [(&mut learned, kept), (&mut held_out, tested)] {
                places.iter().for_each(|&i| part.embeddings.extend_from_slice(rows.row(i)));
                part.classes.resize(part.classes.len() + places.len(), class);
            }
        }
        self.held_out_errors(&learned, &held_out, classes.len())
    }

    /// The squared error of every one of [`LAMBDAS`] on embeddings of `k` classes held out, learned
    /// from others. Infinite where rounding has made the system insoluble, NaN where nothing is
    /// held out.
    pub fn held_out_errors(&self, learned: &Rows, held_out: &Rows, k: usize) -> Vec<HeldOutError> {
        let m = self.features;
        let (x, test) = (self.wide_features(&learned.embeddings), self.wide_features(&held_out.embeddings)); // (N, M), (V, M)
        let (n, v) = (learned.classes.len(), held_out.classes.len());
        let product = Product::on(Threads::All);
        // With H of fewer rows than columns, H (HᵀH + λI)⁻¹ HᵀY is better computed as H Hᵀ (H Hᵀ +
        // λI)⁻¹ Y.
        let mut right = vec![0.0; n.min(m) * k]; // (size, k)
        let (size, left, test) = if n < m {
            let mut against = vec![0.0; v * n]; // (V, N)
            product.into(&mut against, n, Matrix::new(&test, m), Matrix::new(&x, m).t());
            drop(test);
            learned.classes.iter().enumerate().for_each(|(row, class)| right[row * k + class] = 1.0);
            (n, Matrix::new(&x, m), against)
        } else {
            for (row, class) in x.chunks_exact(m).zip(&learned.classes) {
                row.iter().enumerate().for_each(|(j, x)| right[j * k + class] += x);
            }
            (m, Matrix::new(&x, m).t(), test)
        };
        let mut system = vec![0.0; size * size];
        add_outer(&mut system, size, size, 1.0, left);
        let gram = Triangle::of(&system, size);
        drop(x);
        let (mut weights, mut found) = (right.clone(), vec![0.0; v * k]); // (size, k), (V, k)
        let mut error = |lambda: f64| {
            weights.copy_from_slice(&right);
            if !solve_ridge(&gram, lambda, &mut system, size, &mut weights, k) {
                return HeldOutError { mean: f64::INFINITY, standard_error: 0.0 };
            }
            product.into(&mut found, k, Matrix::new(&test, size), Matrix::new(&weights, k));
            let of_row = |(found, &truth): (&[f64], &usize)| {
                let squares =
                    found.iter().enumerate().map(|(class, x)| (x - f64::from(u8::from(class == truth))).powi(2));
                squares.sum::<f64>() / k as f64
            };
            let errors: Vec<f64> = found.chunks_exact(k).zip(&held_out.classes).map(of_row).collect(); // (V)
            let mean = errors.iter().sum::<f64>() / v as f64;
            let variance = errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / v as f64;
            HeldOutError { mean, standard_error: (variance / v as f64).sqrt() }
        };
        LAMBDAS.into_iter().map(&mut error).collect()
    }
}

/// W (dim, features), standard normal.
fn draw(dim: usize, features: usize, seed: u64) -> Vec<f32> {
    Rng::new(seed, Draw::Projection, &[]).normals(dim * features)
}

/// Solves (A + λI) x = b for right sides b (n, k), in place, with A (n, n) symmetric; `room` for as
/// much is written over. Whether rounding has left a solution: without one, b stays.
fn solve_ridge(a: &Triangle, lambda: f64, room: &mut [f64], n: usize, b: &mut [f64], k: usize) -> bool {
    a.write(room);
    (0..n).for_each(|i| room[i * (n + 1)] += lambda);
    let cholesky = Cholesky::factor(room, n, 0.0);
    cholesky.as_ref().inspect(|cholesky| cholesky.solve(b, k)).is_some()
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

impl Incremental for RandomProjection {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        let is_first = self.known.count() == 0;
        let places = self.known.admit(classes)?;
        if is_first && self.choice == Features::HeldOut {
            self.choose_features(classes);
        }
        if self.ridge == Ridge::HeldOut
            && let Some(lambda) = self.choose(classes)
        {
            self.lambda = lambda;
        }
        let m = self.features;
        let mut gram = self.gram.whole(); // (M, M)
        self.sums.resize(self.known.count() * m, 0.0);
        for (place, Examples { rows, .. }) in places.into_iter().zip(classes) {
            for rows in rows.values().chunks(BATCH * self.known.dim) {
                let features = self.wide_features(rows); // (B, M)
                add_outer(&mut gram, m, m, 1.0, Matrix::new(&features, m).t());
                for row in features.chunks_exact(m) {
                    self.sums[place * m..][..m].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
            }
        }
        self.gram.set(&gram);
        self.solve(&mut gram);
        Ok(())
    }

    fn state(&self) -> State {
        let (m, n) = (self.features, self.known.count());
        let mut state = State::from([
            ("gram".into(), (vec![Triangle::len(m)], self.gram.values().to_vec())),
            ("sums".into(), (vec![n, m], self.sums.clone())),
            ("lambda".into(), (vec![1], vec![self.lambda])),
        ]);
        self.known.put(&mut state);
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        let (known, n, dim) = self.known.take_next(&mut state)?;
        let features = match (self.choice, state.get("sums")) {
            (Features::HeldOut, Some((shape, _))) if n > 0 => shape.last().copied().unwrap_or(0),
            (Features::HeldOut, _) => FEATURES[0],
            (Features::Fixed(features), _) => features,
        };
        ensure!(
            self.choice != Features::HeldOut || FEATURES.contains(&features),
            "tensor \"sums\" is of {features} random features, but should be of one of {FEATURES:?}"
        );
        let sums = take(&mut state, "sums", &[n, features])?;
        let gram = Triangle::from_values(take(&mut state, "gram", &[Triangle::len(features)])?, features);
        ensure!(gram.may_be_gram(), "tensor \"gram\" holds a value above what its diagonal allows");
        let lambda = take(&mut state, "lambda", &[1])?[0];
        ensure!(lambda >= 0.0, "tensor \"lambda\" holds {lambda}, which is no ridge");
        finish(state)?;
        if self.features != features {
            self.take_features(features, draw(dim, features, self.seed));
        }
        (self.known, self.sums, self.gram, self.lambda) = (known, sums, gram, lambda);
        self.weights.clear();
        if n > 0 {
            self.solve(&mut vec![0.0; features * features]);
        }
        Ok(())
    }

    fn stored(&self) -> Stored {
        let m = self.features;
        Stored { per_class: m * size_of::<f64>(), shared: (Triangle::len(m) + 1) * size_of::<f64>() }
    }
}

impl Classifier for RandomProjection {
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
}
