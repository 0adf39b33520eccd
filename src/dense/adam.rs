//! Adam (Kingma and Ba, 2015), beta 0.9 and 0.999, eps 1e-8; with decoupled weight decay it is
//! AdamW (Loshchilov and Hutter, 2019).

use rayon::prelude::*;

use super::vector::vectorised;

/// Decay of the first moment, as published.
pub const BETA1: f64 = 0.9;
/// Decay of the second moment, as published.
pub const BETA2: f64 = 0.999;
/// Added to the root of the second moment.
pub const EPS: f32 = 1e-8;

/// Parameters that a thread takes at a time in a step that is shared.
pub(super) const SHARE: usize = 1 << 16;

/// The first and second moments of the gradients of parameters that lie in one slice.
pub struct Adam {
    first_moments: Vec<f32>,
    second_moments: Vec<f32>,
    steps: i32,
    weight_decay: f64,
}

/// The factors of the step in hand, with the biases of its moments corrected.
#[derive(Clone, Copy)]
pub struct Rate {
    /// lr / (1 - beta1^t)
    rate: f32,
    /// 1 / √(1 - beta2^t)
    correction: f32,
    /// 1 - lr·decay, for the parameters; none where nothing decays
    keep: Option<f32>,
}

impl Adam {
    /// Of as many parameters, before the first step.
    pub fn new(parameters: usize) -> Self {
        Self::decaying(parameters, 0.0)
    }

    /// AdamW, whose every step takes lr·`weight_decay` of a parameter away first.
    pub fn decaying(parameters: usize, weight_decay: f64) -> Self {
        let [first_moments, second_moments] = [vec![0.0; parameters], vec![0.0; parameters]];
        Adam { first_moments, second_moments, steps: 0, weight_decay }
    }

    /// Counts a step with the learning rate `lr`.
    pub fn begin(&mut self, lr: f64) -> Rate {
        self.steps += 1;
        Rate {
            rate: (lr / (1.0 - BETA1.powi(self.steps))) as f32,
            correction: (1.0 / (1.0 - BETA2.powi(self.steps)).sqrt()) as f32,
            keep: (self.weight_decay > 0.0).then_some((1.0 - lr * self.weight_decay) as f32),
        }
    }

    /// The step in hand, for the parameters that begin at `start`, in one pass.
    pub fn update(&mut self, rate: Rate, start: usize, params: &mut [f32], grads: &[f32]) {
        let end = start + params.len();
        rate.update(params, grads, &mut self.first_moments[start..end], &mut self.second_moments[start..end]);
    }

    /// As [`Adam::update`], shared among threads.
    pub fn update_shared(&mut self, rate: Rate, start: usize, params: &mut [f32], grads: &[f32]) {
        let end = start + params.len();
        let first = self.first_moments[start..end].par_chunks_mut(SHARE);
        let moments = first.zip(self.second_moments[start..end].par_chunks_mut(SHARE));
        let values = params.par_chunks_mut(SHARE).zip(grads.par_chunks(SHARE));
        values.zip(moments).for_each(|((params, grads), (first, second))| rate.update(params, grads, first, second));
    }

    /// The running means of the gradients.
    #[cfg(test)]
    pub fn first_moments(&self) -> &[f32] {
        &self.first_moments
    }
}

impl Rate {
    fn update(self, params: &mut [f32], grads: &[f32], first: &mut [f32], second: &mut [f32]) {
        let (beta1, beta2) = (BETA1 as f32, BETA2 as f32);
        if let Some(keep) = self.keep {
            vectorised(
                #[inline(always)]
                || params.iter_mut().for_each(|p| *p *= keep),
            );
        }
        vectorised(
            #[inline(always)]
            || {
                for (((p, &g), m), v) in params.iter_mut().zip(grads).zip(first).zip(second) {
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *p -= self.rate * *m / (v.sqrt() * self.correction + EPS);
                }
            },
        );
    }
}
