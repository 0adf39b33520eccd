//! Linear discriminant analysis: Gaussian classes with their own means and one covariance for all.

use anyhow::{Result, bail};
use clap::ValueEnum;
use nalgebra::{DMatrix, SymmetricEigen};
use serde::Serialize;

use super::{
    Classifier, Examples, Known, Stored,
    covariance::{add_scatter, mean_variance, shrink},
    mean_row, named,
};
use crate::dense::{
    product::{Matrix, Product, Threads},
    symmetric::Cholesky,
};

/// Directions in which standardised embeddings vary less than this within classes count for nothing, as in scikit-learn's
/// `svd` solver, which asks for deviations of 1e-4.
const LEAST_VARIANCE: f64 = 1e-8;

/// What is done about a covariance of few rows.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shrinkage {
    /// Nothing. Where it has no inverse, directions without variance are left out.
    None,
    /// Oracle approximating shrinkage, by the number of rows of all classes.
    Oas,
}

/// Linear discriminant analysis. Scores are log-probabilities but for a constant per embedding; classes are as probable as
/// they have rows. Its covariance is a running sum, so the classes may come in any tasks: what is learned is the same.
pub struct Discriminant {
    known: Known,
    shrinkage: Shrinkage,
    counts: Vec<usize>,   // (n), rows of the classes
    means: Vec<f64>,      // (n, D)
    scatter: Vec<f64>,    // (D, D), Σ (x - mean)(x - mean)ᵀ
    centre: Vec<f32>,     // (D), the mean of the means
    directions: Vec<f32>, // (n, D)
    offsets: Vec<f32>,    // (n)
}

impl Discriminant {
    /// For embeddings of `dim` values.
    pub fn new(dim: usize, shrinkage: Shrinkage) -> Self {
        Discriminant {
            known: Known::new(dim),
            shrinkage,
            counts: Vec::new(),
            means: Vec::new(),
            scatter: vec![0.0; dim * dim],
            centre: Vec::new(),
            directions: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Values per embedding.
    pub fn dim(&self) -> usize {
        self.known.dim
    }

    /// The classifier as a linear head: directions (n, D) and offsets (n). An embedding's score for a class is its product with the
    /// direction, plus the offset.
    pub fn head(&self) -> (&[f32], Vec<f32>) {
        let directions = self.directions.chunks_exact(self.known.dim);
        let along = |direction: &[f32]| -> f64 {
            direction.iter().zip(&self.centre).map(|(&d, &c)| f64::from(d) * f64::from(c)).sum()
        };
        let offset = |(direction, offset): (&[f32], &f32)| (f64::from(*offset) - along(direction)) as f32;
        (&self.directions, directions.zip(&self.offsets).map(offset).collect())
    }

    /// Makes the classifier of the statistics. Embeddings are seen from the centre of the means, which changes every
    /// score of one by the same, and keeps small what is subtracted from one another.
    fn solve(&mut self) {
        let (dim, n) = (self.known.dim, self.known.count());
        let rows: usize = self.counts.iter().sum();
        let covariance: Vec<f64> = self.scatter.iter().map(|x| x / rows as f64).collect(); // (D, D)
        let centre: Vec<f64> =
            (0..dim).map(|j| (0..n).map(|c| self.means[c * dim + j]).sum::<f64>() / n as f64).collect();
        let from_centre = |c: usize, j: usize| self.means[c * dim + j] - centre[j];
        let mut directions: Vec<f64> = (0..dim * n).map(|i| from_centre(i % n, i / n)).collect(); // (D, n)
        match self.shrinkage {
            Shrinkage::None => solve_standardised(&covariance, dim, &mut directions, n),
            Shrinkage::Oas => solve_shrunk(covariance, dim, rows, &mut directions, n),
        }
        self.offsets = (0..n)
            .map(|c| {
                let along: f64 = (0..dim).map(|j| from_centre(c, j) * directions[j * n + c]).sum();
                ((self.counts[c] as f64 / rows as f64).ln() - 0.5 * along) as f32
            })
            .collect();
        self.directions = (0..n * dim).map(|i| directions[i % dim * n + i / dim] as f32).collect();
        self.centre = centre.into_iter().map(|x| x as f32).collect();
    }
}

impl Classifier for Discriminant {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.known.admit(classes)?;
        let dim = self.known.dim;
        for Examples { rows, .. } in classes {
            let mean = mean_row(rows, dim);
            add_scatter(&mut self.scatter, rows, &mean);
            self.means.extend(mean);
            self.counts.push(rows.len() / dim);
        }
        if mean_variance(&self.scatter, dim) == 0.0
            && let Some(Examples { class, .. }) = classes.first()
        {
            bail!(
                "neither {} nor another class so far has two different training embeddings, so their spread is not \
                 known: give more, or use the nearest mean",
                named(class)
            );
        }
        self.solve();
        Ok(())
    }

    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        let (dim, n) = (self.known.dim, self.known.count());
        let rows: Vec<f32> =
            embeddings.chunks_exact(dim).flat_map(|row| row.iter().zip(&self.centre).map(|(x, c)| x - c)).collect(); // (N, D)
        let mut scores = self.offsets.repeat(rows.len() / dim); // (N, n)
        Product::on(Threads::All).added().into(
            &mut scores,
            n,
            Matrix::new(&rows, dim),
            Matrix::new(&self.directions, dim).t(),
        );
        scores
    }

    fn stored(&self) -> Stored {
        let dim = self.known.dim;
        Stored {
            per_class: dim * size_of::<f64>() + size_of::<usize>(),
            shared: dim * (dim + 1) / 2 * size_of::<f64>(),
        }
    }
}

/// Solves the shrunk covariance of `rows` rows for right sides b (D, n) in place.
fn solve_shrunk(mut covariance: Vec<f64>, dim: usize, rows: usize, b: &mut [f64], n: usize) {
    shrink(&mut covariance, dim, rows);
    match Cholesky::new(covariance, dim, 0.0) {
        Some(cholesky) => cholesky.solve(b, n),
        None => unreachable!("what is shrunk towards an identity above 0 is positive definite"),
    }
}

/// Solves a covariance for right sides b (D, n) in place, with dimensions at deviation 1; where it has no inverse, with the
/// inverse on the directions that vary, so that the others get 0.
fn solve_standardised(covariance: &[f64], dim: usize, b: &mut [f64], n: usize) {
    let deviations: Vec<f64> = (0..dim)
        .map(|i| match covariance[i * dim + i] {
            0.0 => 1.0,
            variance => variance.sqrt(),
        })
        .collect();
    let correlation: Vec<f64> =
        (0..dim * dim).map(|i| covariance[i] / deviations[i / dim] / deviations[i % dim]).collect(); // (D, D)
    let scale = |b: &mut [f64]| {
        for (row, deviation) in b.chunks_exact_mut(n).zip(&deviations) {
            row.iter_mut().for_each(|x| *x /= deviation);
        }
    };
    scale(b);
    match Cholesky::new(correlation.clone(), dim, LEAST_VARIANCE) {
        Some(cholesky) => cholesky.solve(b, n),
        None => {
            let whole = DMatrix::from_fn(dim, dim, |i, j| correlation[i.max(j) * dim + i.min(j)]);
            let eigen = SymmetricEigen::new(whole);
            let mut along = eigen.eigenvectors.tr_mul(&DMatrix::from_row_slice(dim, n, b)); // (D, n)
            for (mut row, &variance) in along.row_iter_mut().zip(&eigen.eigenvalues) {
                row *= if variance > LEAST_VARIANCE { 1.0 / variance } else { 0.0 };
            }
            b.copy_from_slice((eigen.eigenvectors * along).transpose().as_slice());
        }
    }
    scale(b);
}
