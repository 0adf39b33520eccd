//! Linear discriminant analysis: Gaussian classes with their own means and one covariance for all.

use anyhow::{Context, Result, bail};
use nalgebra::{DMatrix, SymmetricEigen};

use super::{
    classifier::{Classifier, Examples, Incremental, OfSums, State, Stored, Sum, learn_as_sums},
    statistics::{ClassStatistics, NO_COVARIANCE},
};
use crate::{
    choice::choices,
    dense::{
        covariance::shrink,
        product::{Matrix, Product, Threads},
        symmetric::{Cholesky, Triangle},
    },
    task::Class,
};

/// Directions in which standardised embeddings vary less than this within classes count for
/// nothing, as in scikit-learn's `svd` solver, which asks for deviations of 1e-4.
const LEAST_VARIANCE: f64 = 1e-8;

/// What to do where the spread of rows is not known.
const ADVICE: &str =
    "give more, or do without their spread: `baseline ncm` in the place of lda, --statistics off for prompts";

choices! {
    /// What is done about a covariance of few rows.
    pub enum Shrinkage {
        None = "none": "Nothing. Where it has no inverse, directions without variance are left out",
        Oas = "oas": "Oracle approximating shrinkage, by the number of rows of all classes",
    }
}

/// Linear discriminant analysis. Scores are log-probabilities but for a constant per embedding;
/// classes are as probable as they have rows.
pub struct Discriminant {
    statistics: ClassStatistics,
    shrinkage: Shrinkage,
    solution: Solution,
}

/// What is made of the statistics.
#[derive(Default)]
struct Solution {
    centre: Vec<f32>,     // (D), the mean of the means
    directions: Vec<f32>, // (n, D)
    offsets: Vec<f32>,    // (n)
}

impl Discriminant {
    /// For embeddings of `dim` values.
    pub fn new(dim: usize, shrinkage: Shrinkage) -> Self {
        Discriminant { statistics: ClassStatistics::new(dim), shrinkage, solution: Solution::default() }
    }

    /// Solved from statistics. An error where no class has two different rows.
    pub fn of(statistics: ClassStatistics, shrinkage: Shrinkage) -> Result<Self> {
        if !statistics.counts().is_empty() && !statistics.varies() {
            bail!("no class has two different training embeddings, so their spread is not known: {ADVICE}");
        }
        Ok(Discriminant { solution: Solution::of(&statistics, shrinkage)?, statistics, shrinkage })
    }

    /// What it is made of.
    pub fn statistics(&self) -> &ClassStatistics {
        &self.statistics
    }

    /// Values per embedding.
    pub fn dim(&self) -> usize {
        self.statistics.dim()
    }

    /// The classifier as a linear head: directions (n, D) and offsets (n). An embedding's score for
    /// a class is its product with the direction, plus the offset.
    pub fn head(&self) -> (&[f32], Vec<f32>) {
        let Solution { centre, directions, offsets } = &self.solution;
        let along = |direction: &[f32]| -> f64 {
            direction.iter().zip(centre).map(|(&d, &c)| f64::from(d) * f64::from(c)).sum()
        };
        let offset = |(direction, offset): (&[f32], &f32)| (f64::from(*offset) - along(direction)) as f32;
        (directions, directions.chunks_exact(self.dim()).zip(offsets).map(offset).collect())
    }
}

impl Solution {
    /// Embeddings are seen from the centre of the means, which changes every score of one by the
    /// same, and keeps small what is subtracted from one another.
    fn of(statistics: &ClassStatistics, shrinkage: Shrinkage) -> Result<Self> {
        let (dim, counts, means) = (statistics.dim(), statistics.counts(), statistics.means());
        let (n, rows): (usize, usize) = (counts.len(), counts.iter().sum());
        if n == 0 {
            return Ok(Solution::default());
        }
        let centre: Vec<f64> = (0..dim).map(|j| (0..n).map(|c| means[c * dim + j]).sum::<f64>() / n as f64).collect();
        let from_centre = |c: usize, j: usize| means[c * dim + j] - centre[j];
        let mut directions: Vec<f64> = (0..dim * n).map(|i| from_centre(i % n, i / n)).collect(); // (D, n)
        match shrinkage {
            Shrinkage::None => solve_standardised(statistics.scatter(), rows, dim, &mut directions, n)?,
            Shrinkage::Oas => solve_shrunk(statistics.scatter(), rows, dim, &mut directions, n)?,
        }
        let offset = |c: usize| {
            let along: f64 = (0..dim).map(|j| from_centre(c, j) * directions[j * n + c]).sum();
            ((counts[c] as f64 / rows as f64).ln() - 0.5 * along) as f32
        };
        let solution = Solution {
            offsets: (0..n).map(offset).collect(),
            directions: (0..n * dim).map(|i| directions[i % dim * n + i / dim] as f32).collect(),
            centre: centre.iter().map(|&x| x as f32).collect(),
        };
        if solution.directions.iter().chain(&solution.offsets).any(|x| !x.is_finite()) {
            let variance = statistics.scatter().diagonal().sum::<f64>() / (rows * dim) as f64;
            bail!(
                "the training embeddings of a class differ by {:.0e} on average, too little to tell classes by it in \
                 float32: {ADVICE}",
                variance.sqrt()
            );
        }
        Ok(solution)
    }
}

impl OfSums for Discriminant {
    fn sum(&self) -> Sum {
        self.statistics.sum()
    }

    fn learn_sums(&mut self, classes: &[Class], parts: &mut dyn Iterator<Item = Result<State>>) -> Result<()> {
        self.statistics.learn_sums(classes, parts)?;
        if let Some(class) = classes.first()
            && !self.statistics.varies()
        {
            bail!(
                "neither {} nor another class so far has two different training embeddings, so their spread is not \
                 known: {ADVICE}",
                class
            );
        }
        self.solution = Solution::of(&self.statistics, self.shrinkage)?;
        Ok(())
    }
}

impl Incremental for Discriminant {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        learn_as_sums(self, classes)
    }

    fn of_sums(&mut self) -> Option<&mut dyn OfSums> {
        Some(self)
    }

    fn state(&self) -> State {
        self.statistics.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        *self = Self::of(ClassStatistics::from_state(state, self.dim())?, self.shrinkage)?;
        Ok(())
    }

    fn stored(&self) -> Stored {
        self.statistics.stored()
    }
}

impl Classifier for Discriminant {
    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        let Solution { centre, directions, offsets } = &self.solution;
        let (dim, n) = (self.dim(), offsets.len());
        let rows: Vec<f32> =
            embeddings.chunks_exact(dim).flat_map(|row| row.iter().zip(centre).map(|(x, c)| x - c)).collect(); // (N, D)
        let mut scores = offsets.repeat(rows.len() / dim); // (N, n)
        Product::on(Threads::All).added().into(
            &mut scores,
            n,
            Matrix::new(&rows, dim),
            Matrix::new(directions, dim).t(),
        );
        scores
    }

    fn are_logits(&self) -> bool {
        true
    }
}

/// Solves the shrunk covariance of `rows` rows for right sides b (D, n) in place.
fn solve_shrunk(scatter: &Triangle, rows: usize, dim: usize, b: &mut [f64], n: usize) -> Result<()> {
    let mut covariance = scatter.whole();
    covariance.iter_mut().for_each(|x| *x /= rows as f64);
    shrink(&mut covariance, dim, rows);
    // what is shrunk towards an identity above 0 is positive definite, if it is a covariance at all
    Cholesky::factor(&mut covariance, dim, 0.0).context(NO_COVARIANCE)?.solve(b, n);
    Ok(())
}

/// Solves the covariance of `rows` rows for right sides b (D, n) in place, with dimensions at
/// deviation 1; where it has no inverse, with the inverse on the directions that vary, so that the
/// others get 0.
fn solve_standardised(scatter: &Triangle, rows: usize, dim: usize, b: &mut [f64], n: usize) -> Result<()> {
    let variances = scatter.diagonal().map(|x| x / rows as f64);
    let deviations: Vec<f64> = variances.map(|variance| if variance == 0.0 { 1.0 } else { variance.sqrt() }).collect();
    let correlation = || {
        let mut correlation = scatter.whole(); // (D, D)
        for (row, deviation) in correlation.chunks_exact_mut(dim).zip(&deviations) {
            for (x, other) in row.iter_mut().zip(&deviations) {
                *x = *x / rows as f64 / deviation / other;
            }
        }
        correlation
    };
    let scale = |b: &mut [f64]| {
        for (row, deviation) in b.chunks_exact_mut(n).zip(&deviations) {
            row.iter_mut().for_each(|x| *x /= deviation);
        }
    };
    scale(b);
    match Cholesky::factor(&mut correlation(), dim, LEAST_VARIANCE) {
        Some(cholesky) => cholesky.solve(b, n),
        None => {
            let lower = correlation();
            let whole = DMatrix::from_fn(dim, dim, |i, j| lower[i.max(j) * dim + i.min(j)]);
            let eigen = SymmetricEigen::try_new(whole, f64::EPSILON, 1000 * dim).context(NO_COVARIANCE)?;
            let mut along = eigen.eigenvectors.tr_mul(&DMatrix::from_row_slice(dim, n, b)); // (D, n)
            for (mut row, &variance) in along.row_iter_mut().zip(&eigen.eigenvalues) {
                row *= if variance > LEAST_VARIANCE { 1.0 / variance } else { 0.0 };
            }
            b.copy_from_slice((eigen.eigenvectors * along).transpose().as_slice());
        }
    }
    scale(b);
    Ok(())
}
