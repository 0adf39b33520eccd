//! Directions: rows brought to length 1, and cosines.

use super::{
    product::{Matrix, Product, Threads},
    vector::{dot, vectorised},
};

/// Squared lengths within these are taken as float32 sums them; beyond, they may have lost digits
/// or overflowed.
const SAFE: std::ops::Range<f32> = 1e-30..1e30;

/// The length of a row, whatever the scale of its values.
#[inline(always)]
pub fn length(row: &[f32]) -> f32 {
    let square = dot(row, row);
    match SAFE.contains(&square) {
        true => square.sqrt(),
        false => row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32,
    }
}

/// Rows of `dim` values to length 1, in place. A row of length 0 stays.
///
/// ```
/// let mut rows = [3.0, 4.0, 0.0, 0.0];
/// cgil::dense::cosine::normalise(&mut rows, 2);
/// assert_eq!(rows, [0.6, 0.8, 0.0, 0.0]);
/// ```
pub fn normalise(rows: &mut [f32], dim: usize) {
    vectorised(
        #[inline(always)]
        || rows.chunks_exact_mut(dim).for_each(|row| divide(row, length(row))),
    );
}

/// The gradient of rows of `dim` values from that of the `normal` ones that [`normalise`] made of
/// them, in place.
pub fn normalise_backward(rows: &[f32], normal: &[f32], grad: &mut [f32], dim: usize) {
    vectorised(
        #[inline(always)]
        || {
            let rows = normal.chunks_exact(dim).zip(rows.chunks_exact(dim));
            for (grad, (normal, row)) in grad.chunks_exact_mut(dim).zip(rows) {
                let (along, length) = (dot(grad, normal), length(row));
                grad.iter_mut().zip(normal).for_each(|(grad, normal)| *grad = (*grad - normal * along) / length);
            }
        },
    );
}

/// Cosines (N, n) of rows (N, D) of any length with keys (n, D) of length 1. Those of a row of
/// length 0 are 0.
///
/// ```
/// let keys = [1.0, 0.0, 0.6, 0.8];
/// assert_eq!(cgil::dense::cosine::cosines(&[0.0, 2.0, 0.0, 0.0], &keys, 2), [0.0, 0.8, 0.0, 0.0]);
/// ```
pub fn cosines(rows: &[f32], keys: &[f32], dim: usize) -> Vec<f32> {
    let n = keys.len() / dim;
    let mut cosines = vec![0.0; rows.len() / dim * n]; // (N, n)
    if n == 0 {
        return cosines;
    }
    Product::on(Threads::All).into(&mut cosines, n, Matrix::new(rows, dim), Matrix::new(keys, dim).t());
    vectorised(
        #[inline(always)]
        || {
            for (cosines, row) in cosines.chunks_exact_mut(n).zip(rows.chunks_exact(dim)) {
                divide(cosines, length(row));
            }
        },
    );
    cosines
}

/// x /= length, unless that is 0.
#[inline(always)]
fn divide(x: &mut [f32], length: f32) {
    if length != 0.0 {
        x.iter_mut().for_each(|x| *x /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_do_not_depend_on_the_scale() {
        for scale in [1e-30, 1e-20, 1e-3, 1.0, 1e3, 1e20, 1e30] {
            let mut rows = [3.0 * scale, 4.0 * scale];
            let cosine = cosines(&rows, &[0.6, 0.8], 2)[0];
            assert!((cosine - 1.0).abs() < 1e-6, "scale {scale:e}: {cosine}");
            normalise(&mut rows, 2);
            assert!((rows[0] - 0.6).abs() < 1e-6 && (rows[1] - 0.8).abs() < 1e-6, "scale {scale:e}: {rows:?}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let mut rows = [f32::NAN, 1.0, f32::INFINITY, 1.0];
        normalise(&mut rows, 2);
        assert!(rows[0].is_nan() && rows[2].is_nan(), "{rows:?}");
    }
}
