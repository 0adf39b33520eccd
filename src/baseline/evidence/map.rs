//! The map from text features to class means: ridge regression around a scaled whitener.

use anyhow::{Context, Result};

use super::matrix::{less, product, scaled_rows};
use crate::dense::{
    eigen::eigen,
    moments::mean_row,
    product::{Matrix, Product, Threads},
};

/// The ridges that are tried, beside one without end: the scaled whitener alone.
const RIDGES: [f64; 11] = [1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

/// Eigenvalues below this share of the largest are directions that the text does not have.
const LEAST: f64 = 1e-12;

/// Text features of seen classes from their mean, and what spans them: made once, whatever the
/// whitener.
pub(super) struct Text {
    dim: usize,
    mean: Vec<f64>,    // (D)
    centred: Vec<f64>, // (n, D), U
    left: Vec<f64>,    // (n, r), the left singular vectors of U
    squares: Vec<f64>, // (r), the squares of its singular values
}

/// A map from text features to whitened means, and what it is off by on classes left out.
pub(super) struct Map {
    text_mean: Vec<f64>, // (D)
    mean: Vec<f64>,      // (D)
    matrix: Vec<f64>,    // (D, D)
    /// Mean of a class less what the map says of it that was learned from the others (n, D).
    pub residuals: Vec<f64>,
}

impl Text {
    /// Of the text features (n, D) of seen classes. The decomposition is of the smaller one of UUᵀ
    /// (n, n) and UᵀU (D, D), so that its cost does not grow with the cube of n beyond D.
    pub fn new(text: &[f64], dim: usize) -> Result<Self> {
        let n = text.len() / dim;
        let mean = mean_row(text, dim);
        let centred = less(text, &mean);
        let u = Matrix::new(&centred, dim);
        let (outer, inner) = if n <= dim { (u, u.t()) } else { (u.t(), u) };
        let side = n.min(dim);
        let (squares, vectors) = eigen(&product(outer, inner), side).context("the text features cannot be mapped")?;
        let most = squares.iter().copied().fold(0.0, f64::max);
        let kept: Vec<usize> = (0..side).filter(|&i| squares[i] > LEAST * most).collect();
        let r = kept.len();
        let vectors: Vec<f64> = (0..side)
            .flat_map(|row| kept.iter().map(move |&column| (row, column)))
            .map(|(i, j)| vectors[i * side + j])
            .collect(); // (side, r)
        let squares: Vec<f64> = kept.iter().map(|&i| squares[i]).collect();
        let left = if n <= dim || r == 0 {
            vectors
        } else {
            let mut left = product(u, Matrix::new(&vectors, r)); // (n, r)
            for row in left.chunks_exact_mut(r) {
                row.iter_mut().zip(&squares).for_each(|(x, square)| *x /= square.sqrt());
            }
            left
        };
        Ok(Text { dim, mean, centred, left, squares })
    }

    /// The map to whitened `means` (n, D), around the whitener (D, D) times the scale that fits
    /// best. Its ridge is the one that is off by least where each class in turn is left out, in
    /// closed form.
    pub fn map(&self, means: &[f64], whitener: &[f64]) -> Map {
        let (dim, r, n) = (self.dim, self.squares.len(), means.len() / self.dim);
        let mean = mean_row(means, dim);
        let v = less(means, &mean);
        let base = product(Matrix::new(&self.centred, dim), Matrix::new(whitener, dim)); // (n, D)
        let along: f64 = base.iter().zip(&v).map(|(base, v)| base * v).sum();
        let square: f64 = base.iter().map(|base| base * base).sum();
        let scale = if square > 0.0 { (along / square).max(0.0) } else { 0.0 };
        let rest: Vec<f64> = v.iter().zip(&base).map(|(v, base)| v - scale * base).collect(); // (n, D)

        let whole = n as f64 / (n as f64 - 1.0); // the mean of means, too, is without the class
        let mut residuals: Vec<f64> = rest.iter().map(|x| x * whole).collect();
        let mut least: f64 = residuals.iter().map(|x| x * x).sum();
        let mut best = None;
        let mut matrix: Vec<f64> = whitener.iter().map(|x| x * scale).collect();
        if r > 0 {
            let left = Matrix::new(&self.left, r);
            let onto = product(left.t(), Matrix::new(&rest, dim)); // (r, D)
            for ridge in RIDGES {
                let shares: Vec<f64> = self.squares.iter().map(|w| w / (w + ridge)).collect();
                let shrunk = scaled_rows(&onto, dim, &shares); // (r, D)
                let fitted = product(left, Matrix::new(&shrunk, dim)); // (n, D)
                let mut left_out = rest.clone();
                for ((row, fitted), q) in
                    left_out.chunks_exact_mut(dim).zip(fitted.chunks_exact(dim)).zip(self.left.chunks_exact(r))
                {
                    let leverage: f64 = q.iter().zip(&shares).map(|(q, share)| q * q * share).sum();
                    let own = 1.0 - leverage - 1.0 / n as f64;
                    row.iter_mut().zip(fitted).for_each(|(x, fitted)| *x = (*x - fitted) / own);
                }
                let error: f64 = left_out.iter().map(|x| x * x).sum();
                if error < least {
                    (least, best, residuals) = (error, Some(ridge), left_out);
                }
            }
            if let Some(ridge) = best {
                let shares: Vec<f64> = self.squares.iter().map(|w| 1.0 / (w + ridge)).collect();
                let weights = product(left, Matrix::new(&scaled_rows(&onto, dim, &shares), dim)); // (n, D)
                let u = Matrix::new(&self.centred, dim);
                Product::on(Threads::All).added().into(&mut matrix, dim, u.t(), Matrix::new(&weights, dim));
            }
        }
        Map { text_mean: self.mean.clone(), mean, matrix, residuals }
    }
}

impl Map {
    /// The means (C, D) that it says classes with text features (C, D) have.
    pub fn predict(&self, text: &[f64]) -> Vec<f64> {
        let dim = self.mean.len();
        let from_mean = less(text, &self.text_mean);
        let mut means = product(Matrix::new(&from_mean, dim), Matrix::new(&self.matrix, dim)); // (C, D)
        means.chunks_exact_mut(dim).for_each(|row| row.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x += mean));
        means
    }
}
