//! Stochastic gradient descent with momentum, as PyTorch's without dampening.

use rayon::prelude::*;

use super::{adam::SHARE, vector::vectorised};

/// Decay of the velocity.
pub const MOMENTUM: f64 = 0.9;

/// The velocities of parameters that lie in one slice.
pub struct Sgd {
    velocity: Vec<f32>,
}

impl Sgd {
    /// Of as many parameters, before the first step.
    pub fn new(parameters: usize) -> Self {
        Sgd { velocity: vec![0.0; parameters] }
    }

    /// A step of the parameters that begin at `start`, shared among threads.
    pub fn update_shared(&mut self, lr: f64, start: usize, params: &mut [f32], grads: &[f32]) {
        let (lr, momentum) = (lr as f32, MOMENTUM as f32);
        let velocity = self.velocity[start..start + params.len()].par_chunks_mut(SHARE);
        let values = params.par_chunks_mut(SHARE).zip(grads.par_chunks(SHARE));
        values.zip(velocity).for_each(|((params, grads), velocity)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((p, g), v) in params.iter_mut().zip(grads).zip(velocity) {
                        *v = momentum * *v + g;
                        *p -= lr * *v;
                    }
                },
            );
        });
    }
}
