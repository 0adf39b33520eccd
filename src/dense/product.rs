//! Matrix products.

use std::ops::Range;

use gemm::Parallelism;

/// The number types of products.
pub trait Number: Copy + From<f32> + 'static {}

impl Number for f32 {}
impl Number for f64 {}

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T = f32> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// Whom a product may be shared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threads {
    /// No one: others of its kind run beside it.
    One,
    /// The whole pool, where the product is large enough.
    All,
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub struct Product {
    /// It is added to what stands there, instead of replacing it.
    pub add: bool,
    /// It is multiplied with this.
    pub scale: f32,
    /// Who computes it.
    pub threads: Threads,
}

impl<'a, T> Matrix<'a, T> {
    /// A slice (rows, columns) without gaps.
    pub fn new(data: &'a [T], columns: usize) -> Self {
        Self::strided(data, data.len() / columns, columns, columns)
    }

    /// Rows of `columns` values, `stride` values apart.
    pub fn strided(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride && (rows == 0 || (rows - 1) * stride + columns <= data.len()));
        Matrix { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Transposed.
    pub fn t(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// A row, whose values have to lie one after another.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [T] {
        assert!(self.column_stride == 1);
        &self.data[i * self.row_stride..][..self.columns]
    }

    /// Some of its rows, at least one.
    pub fn part(self, rows: Range<usize>) -> Self {
        assert!(rows.start < rows.end && rows.end <= self.rows);
        Matrix { data: &self.data[rows.start * self.row_stride..], rows: rows.len(), ..self }
    }
}

/// A copy of `data` (rows, columns), transposed. Worth it for the right side of many products with
/// few rows on the left, which are two to six times as fast where its rows, not its columns, are
/// contiguous.
pub fn transposed(data: &[f32], columns: usize) -> Vec<f32> {
    const TILE: usize = 32; // a tile of both stays in the cache
    let rows = data.len() / columns;
    let mut out = vec![0.0; data.len()]; // (columns, rows)
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            for i in row..rows.min(row + TILE) {
                for j in column..columns.min(column + TILE) {
                    out[j * rows + i] = data[i * columns + j];
                }
            }
        }
    }
    out
}

impl Product {
    /// a b, which replaces what stands there.
    pub fn on(threads: Threads) -> Self {
        Product { add: false, scale: 1.0, threads }
    }

    /// Multiplied with `scale`.
    pub fn scaled(self, scale: f32) -> Self {
        Product { scale, ..self }
    }

    /// Added to what stands there.
    pub fn added(self) -> Self {
        Product { add: true, ..self }
    }

    /// Computes a b into `out`, whose rows are `stride` values apart.
    pub fn into<T: Number>(self, out: &mut [T], stride: usize, a: Matrix<T>, b: Matrix<T>) {
        let (m, n, k) = (a.rows, b.columns, a.columns);
        if m == 0 || n == 0 {
            return;
        }
        assert!(b.rows == k && n <= stride && (m - 1) * stride + n <= out.len());
        let parallelism = match self.threads {
            Threads::One => Parallelism::None,
            Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
        };
        // Safety: the shapes were checked, and every stride stays inside its slice.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                stride as isize,
                self.add,
                a.data.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0.into(),
                self.scale.into(),
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}
