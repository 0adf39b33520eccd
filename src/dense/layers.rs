//! Layers with their backward passes. B and N count rows, I and O, W and F the values of a row.

use super::{
    product::{Matrix, Product, Threads},
    vector::{self, add_scaled, vectorised},
};

/// Slope of the leaky ReLU below zero.
pub const LEAKY_SLOPE: f32 = 0.2;

/// Added to the variance in batch normalisation, PyTorch's default.
pub const BATCH_NORM_EPS: f32 = 1e-5;

/// y (N, O) = x (N, I) w + bias, with w (I, O).
pub fn affine(x: &[f32], w: Matrix, bias: &[f32], y: &mut [f32], threads: Threads) {
    for row in y.chunks_exact_mut(bias.len()) {
        row.copy_from_slice(bias);
    }
    add_linear(x, w, y, threads);
}

/// y (N, O) = onto (N, O) + x (N, I) w + bias, with w (I, O).
pub fn affine_onto(onto: &[f32], x: &[f32], w: Matrix, bias: &[f32], y: &mut [f32], threads: Threads) {
    let o = bias.len();
    vectorised(
        #[inline(always)]
        || {
            for (row, onto) in y.chunks_exact_mut(o).zip(onto.chunks_exact(o)) {
                for ((y, onto), bias) in row.iter_mut().zip(onto).zip(bias) {
                    *y = onto + bias;
                }
            }
        },
    );
    add_linear(x, w, y, threads);
}

/// y (N, O) += x (N, I) w, with w (I, O).
pub fn add_linear(x: &[f32], w: Matrix, y: &mut [f32], threads: Threads) {
    Product::on(threads).added().into(y, w.columns(), Matrix::new(x, w.rows()), w);
}

/// y (N, O) += bias
pub fn add_bias(bias: &[f32], y: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || y.chunks_exact_mut(bias.len()).for_each(|row| add_scaled(row, 1.0, bias)),
    );
}

/// dw (O, I) = dyᵀ x, from dy (N, O) and x (N, I): the gradient of the weight of [`affine`].
pub fn affine_backward_weight(x: &[f32], dy: &[f32], dw: &mut [f32], outputs: usize, threads: Threads) {
    let inputs = dw.len() / outputs;
    Product::on(threads).into(dw, inputs, Matrix::new(dy, outputs).t(), Matrix::new(x, inputs));
}

/// dx (N, I) = dy (N, O) w, with w (O, I): the gradient of the input of [`affine`].
pub fn affine_backward_input(w: &[f32], dy: &[f32], dx: &mut [f32], outputs: usize, threads: Threads) {
    let inputs = w.len() / outputs;
    Product::on(threads).into(dx, inputs, Matrix::new(dy, outputs), Matrix::new(w, inputs));
}

/// sums (F) of the rows of x (N, F): the gradient of a bias.
pub fn sum_rows(x: &[f32], sums: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            sums.fill(0.0);
            for row in x.chunks_exact(sums.len()) {
                add_scaled(sums, 1.0, row);
            }
        },
    );
}

/// Leaky ReLU in place.
pub fn leaky_relu(x: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for x in x {
                *x = if *x > 0.0 { *x } else { LEAKY_SLOPE * *x };
            }
        },
    );
}

/// Backward pass of [`leaky_relu`] in place, from its output, which has the sign of its input.
pub fn leaky_relu_backward(y: &[f32], dy: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (dy, &y) in dy.iter_mut().zip(y) {
                *dy = if y > 0.0 { *dy } else { LEAKY_SLOPE * *dy };
            }
        },
    );
}

/// Batch normalisation in place, with the batch's own statistics; x (B, F) becomes the output,
/// `normal` (B, F) the normalised input and `scale` (F) 1 / deviation.
pub fn batch_norm(x: &mut [f32], weight: &[f32], bias: &[f32], normal: &mut [f32], scale: &mut [f32]) {
    let f = weight.len();
    let b = (x.len() / f) as f32;
    vectorised(
        #[inline(always)]
        || {
            scale.fill(0.0);
            for row in x.chunks_exact(f) {
                add_scaled(scale, 1.0 / b, row); // the mean, for now
            }
            for (row, normal) in x.chunks_exact(f).zip(normal.chunks_exact_mut(f)) {
                for ((normal, x), mean) in normal.iter_mut().zip(row).zip(&*scale) {
                    *normal = x - mean;
                }
            }
            scale.fill(0.0);
            for normal in normal.chunks_exact(f) {
                for (scale, x) in scale.iter_mut().zip(normal) {
                    *scale += x * x;
                }
            }
            for scale in &mut *scale {
                *scale = 1.0 / (*scale / b + BATCH_NORM_EPS).sqrt();
            }
            for (row, normal) in x.chunks_exact_mut(f).zip(normal.chunks_exact_mut(f)) {
                for j in 0..f {
                    normal[j] *= scale[j];
                    row[j] = normal[j] * weight[j] + bias[j];
                }
            }
        },
    );
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
    vectorised(
        #[inline(always)]
        || {
            dweight.fill(0.0);
            for (dy, normal) in dy.chunks_exact(f).zip(normal.chunks_exact(f)) {
                for ((dweight, dy), normal) in dweight.iter_mut().zip(dy).zip(normal) {
                    *dweight += dy * normal;
                }
            }
            for (dy, normal) in dy.chunks_exact_mut(f).zip(normal.chunks_exact(f)) {
                for j in 0..f {
                    dy[j] = weight[j] * scale[j] / b * (b * dy[j] - dbias[j] - normal[j] * dweight[j]);
                }
            }
        },
    );
}

/// Layer normalisation of x (N, W) over its rows, into y (N, W).
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let w = weight.len();
    vectorised(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(w).zip(y.chunks_exact_mut(w)) {
                let (mean, scale) = row_statistics(x, eps);
                for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = (x - mean) * scale * weight + bias;
                }
            }
        },
    );
}

/// Backward pass of [`layer_norm`]: adds the gradient of its input x (N, W) to `dx`, given that of
/// its output.
pub fn layer_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let w = weight.len();
    vectorised(
        #[inline(always)]
        || {
            for ((x, dy), dx) in x.chunks_exact(w).zip(dy.chunks_exact(w)).zip(dx.chunks_exact_mut(w)) {
                let (mean, scale) = row_statistics(x, eps);
                // of g = dy·weight: its mean, and its mean product with the normalised input
                let n = w as f32;
                let g_mean = vector::dot(dy, weight) / n;
                let along = vector::fold(x, dy, weight, |x, dy, weight| (x - mean) * dy * weight) * scale / n;
                for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                    *dx += (dy * weight - g_mean - (x - mean) * scale * along) * scale;
                }
            }
        },
    );
}

/// Mean of a row, and 1 / deviation.
#[inline(always)]
fn row_statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = vector::sum(x) / n;
    (mean, 1.0 / (vector::squares(x, mean) / n + eps).sqrt())
}
