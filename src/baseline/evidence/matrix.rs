//! Matrices in float64, row after row.

use anyhow::{Context, Result};
use nalgebra::{DMatrix, SymmetricEigen};

use crate::dense::product::{Matrix, Product, Threads};

/// Eigenvalues (n) of a symmetric matrix (n, n), and its eigenvectors (n, n) as columns.
pub fn eigen(matrix: &[f64], n: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let whole = DMatrix::from_fn(n, n, |i, j| matrix[i.max(j) * n + i.min(j)]);
    let eigen = SymmetricEigen::try_new(whole, f64::EPSILON, 1000 * n.max(1))
        .context("the statistics of the classes have no eigenvalues: are they damaged?")?;
    let vectors = eigen.eigenvectors.transpose().as_slice().to_vec(); // columns of the transposed one are rows
    Ok((eigen.eigenvalues.as_slice().to_vec(), vectors))
}

/// a b, all threads.
pub fn product(a: Matrix<f64>, b: Matrix<f64>) -> Vec<f64> {
    let mut out = vec![0.0; a.rows() * b.columns()];
    Product::on(Threads::All).into(&mut out, b.columns(), a, b);
    out
}

/// Rows (n, D) less `centre` (D).
pub fn less(rows: &[f64], centre: &[f64]) -> Vec<f64> {
    rows.chunks_exact(centre.len()).flat_map(|row| row.iter().zip(centre).map(|(x, centre)| x - centre)).collect()
}

/// Rows (r, D), row i times `factors[i]`.
pub fn scaled_rows(rows: &[f64], dim: usize, factors: &[f64]) -> Vec<f64> {
    rows.chunks_exact(dim).zip(factors).flat_map(|(row, factor)| row.iter().map(move |x| x * factor)).collect()
}
