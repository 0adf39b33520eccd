//! Matrices in float64, row after row.

use crate::dense::product::{Matrix, Product, Threads};

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
