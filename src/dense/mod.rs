//! Arithmetic on slices, row-major: what is computed on the CPU. In float32, but for statistics and
//! the systems that they are solved with.
//!
//! The order of every sum is fixed by the shapes alone, so results do not depend on the number of
//! threads.

pub mod adam;
pub mod bfloat16;
pub mod cosine;
pub(crate) mod covariance;
pub(crate) mod eigen;
pub(crate) mod huge_pages;
pub(crate) mod layers;
pub mod moments;
pub(crate) mod product;
pub(crate) mod sgd;
pub mod softmax;
pub mod symmetric;
pub(crate) mod vector;

/// `n` values of a buffer that is kept from step to step; what they hold is left over.
pub(crate) fn room(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}
