//! Affine layers: all parameters of a network while it is fitted, and the layers that a fitted
//! generator keeps.

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::{
    dense::{
        adam::{Adam, Rate},
        layers,
        product::{Matrix, Product, Threads},
        room,
    },
    profile::{Phase, time},
    rng::Rng,
    tensors::{self, Fields, Tensors},
};

/// Rows of a weight whose gradient is computed before it is used: both stay in the cache.
const BLOCK: usize = 64;

/// Weight (O, I) and bias (O) of an affine layer, flat.
pub type Layer = (Vec<f32>, Vec<f32>);

/// x (N, I) through affine `layers`, with leaky ReLUs between: (N, O).
pub(super) fn apply(layers: &[Layer], x: &[f32]) -> Vec<f32> {
    let mut x = x.to_vec();
    for (i, (weight, bias)) in layers.iter().enumerate() {
        let n = x.len() * bias.len() / weight.len();
        let mut y = vec![0.0; n * bias.len()];
        layers::affine(&x, Matrix::new(weight, weight.len() / bias.len()).t(), bias, &mut y, Threads::One);
        if i + 1 < layers.len() {
            layers::leaky_relu(&mut y);
        }
        x = y;
    }
    x
}

/// What the store keeps of `layers`, under their `names`.
pub(super) fn fields<'a>(names: &[&str], layers: &'a [Layer]) -> Fields<'a> {
    let both = names.iter().zip(layers).map(|(name, (weight, bias))| {
        let shape = vec![bias.len(), weight.len() / bias.len()];
        [(format!("{name}.weight"), shape, &weight[..]), (format!("{name}.bias"), vec![bias.len()], &bias[..])]
    });
    both.flatten().collect()
}

/// Takes what [`fields`] gave out of `tensors`; each layer has to fit the one before it.
pub(super) fn take<const N: usize>(tensors: &mut Tensors, names: [&str; N]) -> Result<[Layer; N]> {
    let mut layers: [Layer; N] = std::array::from_fn(|_| Layer::default());
    let mut inputs = None;
    for (name, layer) in names.iter().zip(&mut layers) {
        let (shape, weight) = tensors::take(tensors, &format!("{name}.weight"))?;
        let (outputs, bias) = tensors::take(tensors, &format!("{name}.bias"))?;
        ensure!(
            shape.len() == 2 && shape[..1] == outputs[..] && inputs.is_none_or(|i| i == shape[1]) && !weight.is_empty(),
            "the tensors of layer {name:?} have the shapes {shape:?} and {outputs:?}, which do not fit"
        );
        inputs = Some(shape[0]);
        *layer = (weight, bias);
    }
    Ok(layers)
}

/// The parameters of a network in one slice, and how they are stepped.
pub(super) struct Weights {
    ranges: Vec<Range<usize>>,
    params: Vec<f32>,
    adam: Adam,
    gradient: Vec<f32>, // of what is stepped at a time
}

impl Weights {
    /// Zeros for parameters of these `sizes`: always a weight, then its bias.
    pub fn new(sizes: &[usize], weight_decay: f64) -> Self {
        let mut end = 0;
        let ranges = sizes.iter().map(|size| {
            end += size;
            end - size..end
        });
        let ranges = ranges.collect();
        Weights { ranges, params: vec![0.0; end], adam: Adam::decaying(end, weight_decay), gradient: Vec::new() }
    }

    /// Parameter `i`.
    pub fn at(&self, i: usize) -> &[f32] {
        &self.params[self.ranges[i].clone()]
    }

    /// Parameter `i`, to be changed.
    pub fn at_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.params[self.ranges[i].clone()]
    }

    /// The affine layer whose weight is parameter `i`.
    pub fn layer(&self, i: usize) -> Layer {
        (self.at(i).to_vec(), self.at(i + 1).to_vec())
    }

    /// Draws that layer as PyTorch does: uniform in ±1/√inputs, weight and bias.
    pub fn draw(&mut self, i: usize, rng: &mut Rng) {
        let (weight, bias) = (&self.ranges[i], &self.ranges[i + 1]);
        let bound = (bias.len() as f32 / weight.len() as f32).sqrt();
        for value in &mut self.params[weight.start..bias.end] {
            *value = bound * (2.0 * rng.uniform() - 1.0);
        }
    }

    /// Counts a step with the learning rate `lr`.
    pub fn begin(&mut self, lr: f64) -> Rate {
        self.adam.begin(lr)
    }

    /// The affine layer whose weight is parameter `i`: x (B, I) → y (B, O).
    pub fn affine(&self, i: usize, x: &[f32], y: &mut [f32]) {
        let (weight, bias) = (self.at(i), self.at(i + 1));
        layers::affine(x, Matrix::new(weight, weight.len() / bias.len()).t(), bias, y, Threads::One);
    }

    /// The gradient dx (B, I) of that layer's input where it is asked for, from dy (B, O); and the
    /// layer's step.
    pub fn affine_backward(&mut self, i: usize, x: &[f32], dy: &[f32], dx: Option<&mut [f32]>, rate: Rate) {
        let (weight, bias) = (self.ranges[i].clone(), self.ranges[i + 1].clone());
        let outputs = bias.len();
        let inputs = weight.len() / outputs;
        if let Some(dx) = dx {
            layers::affine_backward_input(&self.params[weight.clone()], dy, dx, outputs, Threads::One);
        }
        for first in (0..outputs).step_by(BLOCK) {
            let rows = BLOCK.min(outputs - first);
            let gradient = room(&mut self.gradient, rows * inputs); // (rows, I)
            let dy = Matrix::strided(&dy[first..], dy.len() / outputs, rows, outputs);
            Product::on(Threads::One).into(gradient, inputs, dy.t(), Matrix::new(x, inputs));
            let start = weight.start + first * inputs;
            time(Phase::Optimise, || {
                self.adam.update(rate, start, &mut self.params[start..start + rows * inputs], gradient);
            });
        }
        let gradient = room(&mut self.gradient, outputs);
        layers::sum_rows(dy, gradient);
        self.adam.update(rate, bias.start, &mut self.params[bias], gradient);
    }

    /// The step of the batch norm whose weight is parameter `i`; dy (B, H) becomes the gradient of
    /// its input.
    pub fn batch_norm_backward(&mut self, i: usize, dy: &mut [f32], normal: &[f32], scale: &[f32], rate: Rate) {
        let place = self.ranges[i].start..self.ranges[i + 1].end;
        let gradient = room(&mut self.gradient, place.len());
        let (dweight, dbias) = gradient.split_at_mut(scale.len());
        layers::batch_norm_backward(dy, &self.params[self.ranges[i].clone()], normal, scale, dweight, dbias);
        self.adam.update(rate, place.start, &mut self.params[place], gradient);
    }

    /// The gradients of the first step, which Adam keeps a tenth of.
    #[cfg(test)]
    pub fn first_gradients(&self) -> Vec<f32> {
        self.adam.first_moments().iter().map(|m| 10.0 * m).collect()
    }

    /// All parameters.
    #[cfg(test)]
    pub fn all(&mut self) -> &mut [f32] {
        &mut self.params
    }
}
