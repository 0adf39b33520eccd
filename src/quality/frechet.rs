//! The Fréchet distance of two sets of rows.

use nalgebra::{DMatrix, RowDVector, SymmetricEigen};

/// Steps per eigenvalue after which it is taken for one that does not converge; three are usual.
const STEPS: usize = 100;

/// The squared Fréchet distance of the Gaussians fitted to the rows a (N, D) and b (M, D), flat (Dowson and Landau, 1982;
/// Heusel et al., 2017), with covariances Σ of N − 1: |μa − μb|² + tr Σa + tr Σb − 2 tr (Σa^½ Σb Σa^½)^½. None where a set
/// has fewer than 2 rows.
///
/// No covariance is made. With A and B the centred rows over √(N − 1), so that Σa = AᵀA and Σb =
/// BᵀB, the eigenvalues of Σa^½ Σb Σa^½ are those of P Pᵀ with P = A Bᵀ, but for zeros. So as few
/// rows as the smaller set has decide the work, and fewer rows than dimensions are no special case.
/// Where both sets have more, the R of A's QR decomposition stands for A: RᵀR is Σa as well.
pub fn frechet(a: &[f32], b: &[f32], dim: usize) -> Option<f64> {
    let ((mean_a, a), (mean_b, b)) = (centred(a, dim)?, centred(b, dim)?);
    let traces = a.norm_squared() + b.norm_squared();
    let (mut few, many) = if a.nrows() <= b.nrows() { (a, b) } else { (b, a) };
    if few.nrows() > dim {
        few = few.qr().r(); // (D, D)
    }
    let product = few * many.transpose(); // (min(N, M, D), max(N, M))
    let gram = &product * product.transpose();
    let steps = STEPS * gram.nrows();
    let eigenvalues = SymmetricEigen::try_new(gram, f64::EPSILON, steps)?.eigenvalues;
    let root: f64 = eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum();
    // rounding may take equal sets below 0
    Some(((mean_a - mean_b).norm_squared() + traces - 2.0 * root).max(0.0))
}

/// The mean of rows (N, D), and the rows less the mean over √(N − 1).
fn centred(rows: &[f32], dim: usize) -> Option<(RowDVector<f64>, DMatrix<f64>)> {
    let n = rows.len() / dim;
    if n < 2 {
        return None;
    }
    let mut rows = DMatrix::from_row_iterator(n, dim, rows.iter().map(|&x| f64::from(x)));
    let (mean, scale) = (rows.row_mean(), 1.0 / (n as f64 - 1.0).sqrt());
    for mut row in rows.row_iter_mut() {
        row -= &mean;
        row *= scale;
    }
    Some((mean, rows))
}
