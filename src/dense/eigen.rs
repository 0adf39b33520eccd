//! Eigenvalues of symmetric matrices, in float64.

use anyhow::{Context, Result};
use nalgebra::{DMatrix, SymmetricEigen};

/// Eigenvalues (n) of a symmetric matrix (n, n), and its eigenvectors (n, n) as columns.
pub fn eigen(matrix: &[f64], n: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let whole = DMatrix::from_fn(n, n, |i, j| matrix[i.max(j) * n + i.min(j)]);
    let eigen = SymmetricEigen::try_new(whole, f64::EPSILON, 1000 * n.max(1))
        .context("a symmetric matrix has no eigenvalues: are its values too large?")?;
    let vectors = eigen.eigenvectors.transpose().as_slice().to_vec(); // columns of the transposed one are rows
    Ok((eigen.eigenvalues.as_slice().to_vec(), vectors))
}
