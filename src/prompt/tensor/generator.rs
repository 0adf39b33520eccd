//! The context generator, with its gradient written down.

use anyhow::Result;
use candle_core::{Tensor, Var, backprop::GradStore};

use crate::prompt::parameters::{FROZEN_NORM, SELU_ALPHA, SELU_SCALE};

/// Text features (K, P) → context vectors (K, G·W).
pub struct Generator {
    /// All of them but the last with a norm.
    pub layers: Vec<Layer>,
}

/// An affine map of I values to O and, where there is a norm, that and SELU.
pub struct Layer {
    pub weight: Var, // (O, I)
    pub bias: Var,   // (O)
    /// Scale and shift (O).
    pub norm: Option<[Var; 2]>,
}

/// What a layer's backward pass needs of its forward pass.
pub struct LayerState {
    input: Tensor,          // (K, I)
    normal: Option<Tensor>, // (K, O), before scale and shift
    output: Tensor,         // (K, O)
}

impl Generator {
    /// x (K, P) → (K, G·W), and what `backward` needs.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Vec<LayerState>)> {
        let (mut x, mut states) = (x.clone(), Vec::with_capacity(self.layers.len()));
        for layer in &self.layers {
            let state = layer.forward(&x)?;
            x = state.output.clone();
            states.push(state);
        }
        Ok((x, states))
    }

    /// Puts the parameters' gradients into `gradients`, from that of the context vectors (K, G·W).
    pub fn backward(&self, states: &[LayerState], grad: &Tensor, gradients: &mut GradStore) -> Result<()> {
        let mut grad = grad.clone();
        for (i, (layer, state)) in self.layers.iter().zip(states).enumerate().rev() {
            grad = layer.backward(state, grad, gradients)?;
            if i > 0 {
                grad = grad.matmul(&layer.weight.as_detached_tensor())?; // of the layer's input
            }
        }
        Ok(())
    }
}

impl Layer {
    fn forward(&self, x: &Tensor) -> Result<LayerState> {
        let y = x.matmul(&self.weight.as_detached_tensor().t()?)?.broadcast_add(&self.bias.as_detached_tensor())?;
        let (normal, output) = match &self.norm {
            None => (None, y),
            Some([scale, shift]) => {
                let normal = (y * f64::from(FROZEN_NORM))?;
                let y =
                    normal.broadcast_mul(&scale.as_detached_tensor())?.broadcast_add(&shift.as_detached_tensor())?;
                (Some(normal), (y.elu(f64::from(SELU_ALPHA))? * f64::from(SELU_SCALE))?)
            }
        };
        Ok(LayerState { input: x.clone(), normal, output })
    }

    /// Gradient (K, O) of what the map gives, from that of the output; and those of the parameters
    /// into `gradients`.
    fn backward(&self, state: &LayerState, grad: Tensor, gradients: &mut GradStore) -> Result<Tensor> {
        let (grad, bias) = match (&self.norm, &state.normal) {
            (Some([scale, shift]), Some(normal)) => {
                // SELU's slope is its scale; from 0 down scale · α · eˣ, the output + scale · α
                let output = &state.output;
                let below = (output + f64::from(SELU_SCALE * SELU_ALPHA))?;
                let above = Tensor::full(SELU_SCALE, output.shape(), output.device())?;
                let grad = (grad * output.gt(&output.zeros_like()?)?.where_cond(&above, &below)?)?;
                let of_shift = grad.sum(0)?;
                gradients.insert(scale, (&grad * normal)?.sum(0)?);
                gradients.insert(shift, of_shift.clone());
                let factor = (scale.as_detached_tensor() * f64::from(FROZEN_NORM))?; // (O)
                (grad.broadcast_mul(&factor)?, (of_shift * factor)?)
            }
            _ => {
                let bias = grad.sum(0)?;
                (grad, bias)
            }
        };
        gradients.insert(&self.bias, bias);
        gradients.insert(&self.weight, grad.t()?.matmul(&state.input)?);
        Ok(grad)
    }
}
