//! The penalty of `--ortho`, which draws prompt vectors to be orthonormal, as CODA-Prompt's does
//! (Smith et al., 2023).
//!
//! With λ its weight: λ Σ ‖P Pᵀ − I‖² / N, the squared Frobenius norm, summed over groups P (G, W)
//! of N prompt vectors in all, as they stand in the prompts, not normalised. A group is
//!
//! - the context vectors of a seen class, learned and generated ones;
//! - where there is one per class, those of all seen classes;
//! - where classes share theirs, these, once, and without the shift that the meta-net gives them.

use anyhow::Result;
use candle_core::Tensor;

use super::PromptConfig;
use crate::dense::product::{Matrix, Product, Threads};

/// How many of the prompt vectors (n, V) of the first `n` classes are penalised, and how many make
/// a group.
pub fn groups(config: &PromptConfig, n: usize) -> (usize, usize) {
    match (config.vectors(), config.context.is_shared()) {
        (v, true) => (v, v),
        (1, false) => (n, n),
        (v, false) => (n * v, v),
    }
}

/// The penalty with the weight `lambda` of vectors (N, W) in groups of `group`, whose gradient is
/// added to `grad` (N, W).
pub fn penalise(vectors: &[f32], group: usize, width: usize, lambda: f64, grad: &mut [f32]) -> f32 {
    let weight = lambda / (vectors.len() / width) as f64;
    let mut total = 0.0;
    for (p, grad) in vectors.chunks_exact(group * width).zip(grad.chunks_exact_mut(group * width)) {
        let p = Matrix::new(p, width);
        let mut excess = vec![0.0; group * group]; // P Pᵀ − I
        Product::on(Threads::All).into(&mut excess, group, p, p.t());
        excess.iter_mut().step_by(group + 1).for_each(|x| *x -= 1.0);
        total += excess.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let excess = Matrix::new(&excess, group);
        Product::on(Threads::All).scaled(4.0 * weight as f32).added().into(grad, width, excess, p);
    }
    (weight * total) as f32
}

/// The same on tensors, without the gradient.
pub fn penalty(vectors: &Tensor, group: usize, lambda: f64) -> Result<Tensor> {
    let (n, width) = vectors.dims2()?;
    let p = vectors.reshape((n / group, group, width))?;
    let identity = Tensor::eye(group, p.dtype(), p.device())?;
    let excess = p.matmul(&p.t()?)?.broadcast_sub(&identity)?;
    Ok((excess.sqr()?.sum_all()? * (lambda / n as f64))?)
}
