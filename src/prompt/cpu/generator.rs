//! The context generator: class features to context vectors, through affine maps with frozen norms
//! and SELU between.

use crate::{
    dense::{
        layers,
        product::{Matrix, Threads},
        vector::{self, vectorised},
    },
    prompt::parameters::{FROZEN_NORM, Layer, Parameters, SELU_ALPHA, SELU_SCALE},
};

/// What the backward pass needs of a layer's forward pass. n counts classes.
pub struct LayerState {
    input: Vec<f32>,         // (n, I)
    mapped: Vec<f32>,        // (n, O), after the affine map
    preactivation: Vec<f32>, // (n, O), after the norm; empty in the last layer
}

/// Context vectors (n, G·W), none where there is no generator, from features (n, P) of `n` classes.
pub fn forward(parameters: &Parameters, features: &[f32], n: usize) -> (Vec<f32>, Vec<LayerState>) {
    let at = |place: &std::ops::Range<usize>| &parameters.values[place.clone()];
    let mut x = features.to_vec();
    let mut states = Vec::new();
    for Layer { weight, bias, norm } in parameters.generator() {
        let mut mapped = vec![0.0; n * bias.len()];
        let inputs = weight.len() / bias.len();
        layers::affine(&x, Matrix::new(at(&weight), inputs).t(), at(&bias), &mut mapped, Threads::All);
        let Some([scale, shift]) = norm else {
            states.push(LayerState { input: x, mapped: Vec::new(), preactivation: Vec::new() });
            return (mapped, states);
        };
        let mut preactivation = mapped.clone();
        for row in preactivation.chunks_exact_mut(bias.len()) {
            for ((x, scale), shift) in row.iter_mut().zip(at(&scale)).zip(at(&shift)) {
                *x = *x * FROZEN_NORM * scale + shift;
            }
        }
        let y = vectorised(
            #[inline(always)]
            || preactivation.iter().map(|&x| selu(x)).collect(),
        );
        states.push(LayerState { input: std::mem::replace(&mut x, y), mapped, preactivation });
    }
    (Vec::new(), states) // no layers: the last one has no norm
}

/// Leaves the gradients of the parameters, from that of the context vectors (n, G·W).
pub fn backward(parameters: &Parameters, states: &[LayerState], mut grad: Vec<f32>, gradients: &mut [f32]) {
    for (i, (Layer { weight, bias, norm }, state)) in parameters.generator().into_iter().zip(states).enumerate().rev() {
        let outputs = bias.len();
        if let Some([scale, shift]) = norm {
            let values = &parameters.values[scale.clone()];
            let (dscale, dshift) = gradients[scale.start..shift.end].split_at_mut(outputs);
            vectorised(
                #[inline(always)]
                || {
                    dscale.fill(0.0);
                    dshift.fill(0.0);
                    let rows = state.mapped.chunks_exact(outputs).zip(state.preactivation.chunks_exact(outputs));
                    for (grad, (mapped, x)) in grad.chunks_exact_mut(outputs).zip(rows) {
                        for j in 0..outputs {
                            let g = grad[j] * selu_slope(x[j]);
                            dshift[j] += g;
                            dscale[j] += g * FROZEN_NORM * mapped[j];
                            grad[j] = g * FROZEN_NORM * values[j];
                        }
                    }
                },
            );
        }
        let dweight = &mut gradients[weight.clone()];
        layers::affine_backward_weight(&state.input, &grad, dweight, outputs, Threads::All);
        layers::sum_rows(&grad, &mut gradients[bias]);
        if i > 0 {
            let mut below = vec![0.0; state.input.len()];
            let weight = &parameters.values[weight];
            layers::affine_backward_input(weight, &grad, &mut below, outputs, Threads::All);
            grad = below;
        }
    }
}

#[inline(always)]
fn selu(x: f32) -> f32 {
    SELU_SCALE * if x > 0.0 { x } else { SELU_ALPHA * (vector::exp(x) - 1.0) }
}

#[inline(always)]
fn selu_slope(x: f32) -> f32 {
    SELU_SCALE * if x > 0.0 { 1.0 } else { SELU_ALPHA * vector::exp(x) }
}
