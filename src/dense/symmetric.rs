//! Symmetric positive definite matrices in float64. Only what stands on and below their diagonal
//! counts.

use rayon::prelude::*;

use super::{
    product::{Matrix, Product, Threads},
    vector::vectorised,
};

/// Rows and columns of the blocks on the diagonal, which are factored one value after another.
const BLOCK: usize = 64;

/// Columns of a product that are computed at a time, down from the diagonal.
const PANEL: usize = 256;

/// out (n, n) += scale·a aᵀ, with a (n, k); rows of `out` are `stride` values apart. What stands
/// above the diagonal is left undefined.
pub fn add_outer(out: &mut [f64], stride: usize, n: usize, scale: f32, a: Matrix<f64>) {
    for start in (0..n).step_by(PANEL) {
        let columns = a.part(start..(start + PANEL).min(n)).t();
        let out = &mut out[start * (stride + 1)..];
        Product::on(Threads::All).added().scaled(scale).into(out, stride, a.part(start..n), columns);
    }
}

/// A symmetric matrix (n, n) at half the size: its lower triangle, row after row, each up to the
/// diagonal.
///
/// ```
/// use cgil::dense::symmetric::Triangle;
/// let triangle = Triangle::of(&[1.0, f64::NAN, 2.0, 3.0], 2);
/// assert_eq!(triangle.values(), [1.0, 2.0, 3.0]);
/// assert_eq!(triangle.whole(), [1.0, 0.0, 2.0, 3.0]);
/// ```
#[derive(Clone, Debug)]
pub struct Triangle {
    values: Vec<f64>, // (n (n + 1) / 2)
    n: usize,
}

impl Triangle {
    /// Of a matrix (n, n) of zeros.
    pub fn zeros(n: usize) -> Self {
        Triangle { values: vec![0.0; Self::len(n)], n }
    }

    /// Of its values, as [`Triangle::values`] gives them.
    pub fn from_values(values: Vec<f64>, n: usize) -> Self {
        assert_eq!(values.len(), Self::len(n));
        Triangle { values, n }
    }

    /// Of a matrix (n, n).
    pub fn of(a: &[f64], n: usize) -> Self {
        let mut triangle = Self::zeros(n);
        triangle.set(a);
        triangle
    }

    /// How many values the lower triangle of a matrix (n, n) has.
    pub const fn len(n: usize) -> usize {
        n * (n + 1) / 2
    }

    /// The values (n (n + 1) / 2), row after row, each up to its diagonal.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The values on the diagonal.
    pub fn diagonal(&self) -> impl Iterator<Item = f64> {
        (0..self.n).map(|i| self.values[Self::len(i + 1) - 1])
    }

    /// Whether no value is above the root of the product of those on the diagonal of its row and
    /// column: so it is in every product B Bᵀ.
    pub fn may_be_gram(&self) -> bool {
        let roots: Vec<f64> = self.diagonal().map(f64::sqrt).collect(); // NaN of what is below 0
        let most = roots.iter().enumerate().flat_map(|(i, root)| roots[..=i].iter().map(move |other| root * other));
        self.values.iter().zip(most).all(|(x, most)| x.abs() <= most * (1.0 + 1e-6))
    }

    /// Becomes that of `a` (n, n).
    pub fn set(&mut self, a: &[f64]) {
        for i in 0..self.n {
            self.values[Self::len(i)..Self::len(i + 1)].copy_from_slice(&a[i * self.n..][..=i]);
        }
    }

    /// Writes the lower triangle into `a` (n, n); what stands above the diagonal stays.
    pub fn write(&self, a: &mut [f64]) {
        for i in 0..self.n {
            a[i * self.n..][..=i].copy_from_slice(&self.values[Self::len(i)..Self::len(i + 1)]);
        }
    }

    /// The matrix (n, n), with zeros above the diagonal.
    pub fn whole(&self) -> Vec<f64> {
        let mut a = vec![0.0; self.n * self.n];
        self.write(&mut a);
        a
    }
}

/// The factor L of A = L Lᵀ, with L (n, n) lower triangular.
///
/// ```
/// use cgil::dense::symmetric::Cholesky;
/// let mut x = [2.0, 3.0]; // (2, 1)
/// Cholesky::factor(&mut [4.0, 0.0, 2.0, 2.0], 2, 0.0).unwrap().solve(&mut x, 1);
/// assert!((x[0] + 0.5).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12, "{x:?}");
/// ```
pub struct Cholesky<'a> {
    factor: &'a [f64], // (n, n), the lower triangle
    n: usize,
}

impl<'a> Cholesky<'a> {
    /// Factors a (n, n) in place. None where a pivot, what remains of a value on the diagonal, is
    /// not above `least`; then `a` is spoilt.
    pub fn factor(a: &'a mut [f64], n: usize, least: f64) -> Option<Self> {
        for start in (0..n).step_by(BLOCK) {
            let end = (start + BLOCK).min(n);
            let width = end - start;
            factor_block(&mut a[start * (n + 1)..], n, width, least)?;
            if end == n {
                break;
            }
            let (above, below) = a.split_at_mut(end * n);
            let mut upper = vec![0.0; width * width]; // the block's factor, transposed
            for i in 0..width {
                for j in i..width {
                    upper[i * width + j] = above[(start + j) * n + start + i];
                }
            }
            below.par_chunks_mut(n).with_min_len(16).for_each(|row| divide(&mut row[start..end], &upper));
            let panel: Vec<f64> = below.chunks(n).flat_map(|row| &row[start..end]).copied().collect(); // (n - end, width)
            add_outer(&mut a[end * (n + 1)..], n, n - end, -1.0, Matrix::new(&panel, width));
        }
        Some(Cholesky { factor: a, n })
    }

    /// Solves A x = b for `k` right sides: b (n, k) becomes x.
    pub fn solve(&self, b: &mut [f64], k: usize) {
        let n = self.n;
        let minus = Product::on(Threads::All).added().scaled(-1.0);
        let starts = (0..n).step_by(BLOCK);
        for start in starts.clone() {
            let width = BLOCK.min(n - start);
            let (done, rest) = b.split_at_mut(start * k);
            let rows = &mut rest[..width * k];
            minus.into(rows, k, Matrix::strided(&self.factor[start * n..], width, start, n), Matrix::new(done, k));
            for i in 0..width {
                let factors = &self.factor[(start + i) * n + start..][..=i];
                let (above, row) = rows.split_at_mut(i * k);
                for (factor, above) in factors.iter().zip(above.chunks_exact(k)) {
                    subtract(&mut row[..k], *factor, above);
                }
                row[..k].iter_mut().for_each(|x| *x /= factors[i]);
            }
        }
        for start in starts.rev() {
            let end = (start + BLOCK).min(n);
            let (rows, done) = b[start * k..].split_at_mut((end - start) * k);
            if end < n {
                let below = Matrix::strided(&self.factor[end * n + start..], n - end, end - start, n);
                minus.into(rows, k, below.t(), Matrix::new(done, k));
            }
            for i in (0..end - start).rev() {
                let factors = &self.factor[(start + i) * n + start..][..=i];
                let (above, row) = rows.split_at_mut(i * k);
                row[..k].iter_mut().for_each(|x| *x /= factors[i]);
                for (factor, above) in factors.iter().zip(above.chunks_exact_mut(k)) {
                    subtract(above, *factor, &row[..k]);
                }
            }
        }
    }

    /// L, row after row.
    pub fn triangle(&self) -> Triangle {
        Triangle::of(self.factor, self.n)
    }
}

/// Factors a block (width, width) in place; its rows are `stride` values apart.
fn factor_block(a: &mut [f64], stride: usize, width: usize, least: f64) -> Option<()> {
    for i in 0..width {
        let pivot = a[i * stride + i];
        if pivot.is_nan() || pivot <= least {
            return None;
        }
        a[i * stride + i] = pivot.sqrt();
        for row in i + 1..width {
            let factor = a[row * stride + i] / pivot.sqrt();
            a[row * stride + i] = factor;
            for column in i + 1..=row {
                a[row * stride + column] -= factor * a[column * stride + i];
            }
        }
    }
    Some(())
}

/// Solves x upper = row for x in place, with `upper` (width, width) upper triangular.
fn divide(row: &mut [f64], upper: &[f64]) {
    let width = row.len();
    vectorised(
        #[inline(always)]
        || {
            for i in 0..width {
                let (head, tail) = row.split_at_mut(i + 1);
                head[i] /= upper[i * width + i];
                for (x, upper) in tail.iter_mut().zip(&upper[i * width + i + 1..]) {
                    *x -= head[i] * upper;
                }
            }
        },
    );
}

/// y -= factor·x
fn subtract(y: &mut [f64], factor: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y -= factor * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draw, Rng};

    #[test]
    fn systems_of_several_blocks_and_panels_are_solved() {
        for n in [1, 63, 64, 65, 300] {
            let x: Vec<f64> =
                Rng::new(3, Draw::Embeddings, &[n as u64]).normals(n * 2 * n).into_iter().map(f64::from).collect();
            let mut a = vec![0.0; n * n];
            add_outer(&mut a, n, n, 1.0, Matrix::new(&x, 2 * n));
            let at = |i: usize, j: usize| if i > j { a[i * n + j] } else { a[j * n + i] };
            let b: Vec<f64> = (0..n * 3).map(|i| (i % 7) as f64 - 3.0).collect(); // (n, 3)
            let mut found = b.clone();
            Cholesky::factor(&mut a.clone(), n, 0.0).unwrap().solve(&mut found, 3);
            for i in 0..n {
                for c in 0..3 {
                    let product: f64 = (0..n).map(|j| at(i, j) * found[j * 3 + c]).sum();
                    assert!((product - b[i * 3 + c]).abs() < 1e-9, "n {n}: row {i} is {product}, not {}", b[i * 3 + c]);
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        let n = 70;
        let mut a = vec![0.0; n * n];
        (0..n).for_each(|i| a[i * n + i] = 1.0);
        assert!(Cholesky::factor(&mut a.clone(), n, 0.0).is_some());
        a[66 * n + 65] = 1.0; // rows 65 and 66 are the same
        assert!(Cholesky::factor(&mut a.clone(), n, 1e-12).is_none());
        a[66 * n + 65] = f64::NAN;
        assert!(Cholesky::factor(&mut a, n, 0.0).is_none());
    }
}
