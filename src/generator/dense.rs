//! Layers of small multilayer perceptrons on plain slices, row-major, with their backward passes.
//!
//! Products are single-threaded: classes are fitted side by side, one per thread, and the result does
//! not depend on how many there are.

/// Slope of the leaky ReLU below zero.
const SLOPE: f32 = 0.2;

/// Added to a batch's variance.
const BATCH_NORM_EPS: f32 = 1e-5;

/// A matrix in a slice: rows, columns, and whether it is read transposed.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Matrix { data, rows, columns, transposed: false }
    }

    fn t(self) -> Self {
        Matrix { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// (column stride, row stride)
    fn strides(&self) -> (isize, isize) {
        if self.transposed { (self.rows as isize, 1) } else { (1, self.columns as isize) }
    }
}

/// out = a b, or out += a b.
fn product(out: &mut [f32], a: Matrix, b: Matrix, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!((out.len(), b.rows), (m * n, k));
    let ((a_cs, a_rs), (b_cs, b_rs)) = (a.strides(), b.strides());
    // Safety: the shapes were checked, and every stride stays inside its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.data.as_ptr(),
            a_cs,
            a_rs,
            b.data.as_ptr(),
            b_cs,
            b_rs,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// y (B, O) = x (B, I) wᵀ + bias, with w (O, I).
pub fn affine(x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]) {
    let (o, i) = (bias.len(), w.len() / bias.len());
    let b = x.len() / i;
    for row in y.chunks_exact_mut(o) {
        row.copy_from_slice(bias);
    }
    product(y, Matrix::new(x, b, i), Matrix::new(w, o, i).t(), true);
}

/// Gradients of the weight and the bias of [`affine`], from dy (B, O).
pub fn affine_backward(x: &[f32], dy: &[f32], dw: &mut [f32], dbias: &mut [f32]) {
    let (o, i) = (dbias.len(), dw.len() / dbias.len());
    let b = x.len() / i;
    product(dw, Matrix::new(dy, b, o).t(), Matrix::new(x, b, i), false);
    sum_rows(dy, dbias);
}

/// Gradient of the input of [`affine`], dx (B, I) from dy (B, O).
pub fn affine_backward_input(w: &[f32], dy: &[f32], dx: &mut [f32], outputs: usize) {
    let (b, i) = (dy.len() / outputs, w.len() / outputs);
    product(dx, Matrix::new(dy, b, outputs), Matrix::new(w, outputs, i), false);
}

/// Leaky ReLU in place.
pub fn leaky_relu(x: &mut [f32]) {
    for x in x {
        *x = if *x > 0.0 { *x } else { SLOPE * *x };
    }
}

/// Backward pass of [`leaky_relu`] in place, from its output, which has the sign of its input.
pub fn leaky_relu_backward(y: &[f32], dy: &mut [f32]) {
    for (dy, &y) in dy.iter_mut().zip(y) {
        *dy = if y > 0.0 { *dy } else { SLOPE * *dy };
    }
}

/// Batch normalisation in place, with the batch's own statistics; x (B, F) becomes the output, `normal`
/// (B, F) the normalised input and `scale` (F) 1 / deviation.
pub fn batch_norm(x: &mut [f32], weight: &[f32], bias: &[f32], normal: &mut [f32], scale: &mut [f32]) {
    let f = weight.len();
    let b = (x.len() / f) as f32;
    let mut mean = vec![0f32; f];
    sum_rows(x, &mut mean);
    mean.iter_mut().for_each(|m| *m /= b);
    scale.fill(0.0);
    for (row, normal) in x.chunks_exact(f).zip(normal.chunks_exact_mut(f)) {
        for j in 0..f {
            normal[j] = row[j] - mean[j];
            scale[j] += normal[j] * normal[j];
        }
    }
    scale.iter_mut().for_each(|s| *s = 1.0 / (*s / b + BATCH_NORM_EPS).sqrt());
    for (row, normal) in x.chunks_exact_mut(f).zip(normal.chunks_exact_mut(f)) {
        for j in 0..f {
            normal[j] *= scale[j];
            row[j] = normal[j] * weight[j] + bias[j];
        }
    }
}

/// Backward pass of [`batch_norm`]: `dy` (B, F) becomes the gradient of the input.
pub fn batch_norm_backward(
    dy: &mut [f32],
    weight: &[f32],
    normal: &[f32],
    scale: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let f = weight.len();
    let b = (dy.len() / f) as f32;
    sum_rows(dy, dbias);
    dweight.fill(0.0);
    for (dy, normal) in dy.chunks_exact(f).zip(normal.chunks_exact(f)) {
        for j in 0..f {
            dweight[j] += dy[j] * normal[j];
        }
    }
    for (dy, normal) in dy.chunks_exact_mut(f).zip(normal.chunks_exact(f)) {
        for j in 0..f {
            dy[j] = weight[j] * scale[j] / b * (b * dy[j] - dbias[j] - normal[j] * dweight[j]);
        }
    }
}

fn sum_rows(x: &[f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for row in x.chunks_exact(sums.len()) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}
