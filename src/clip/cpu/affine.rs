//! Affine maps with frozen weights, and two of them with an activation between: what nearly all of an
//! encoder's time is spent in.

use std::cell::RefCell;

use anyhow::Result;

use super::activation::{gelu, gelu_tanh, quick_gelu};
use crate::{
    clip::{config::Activation, weights::Weights},
    dense::{
        bfloat16::{Packed, Rows, Unit},
        huge_pages::HugePages,
        layers,
        product::{Matrix, Threads, transposed},
    },
};

/// What an encoder computes, and in what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pass {
    /// Embeddings or features, in float32.
    Forward,
    /// Also gradients.
    Both,
    /// Embeddings, with products in bfloat16, on the calling thread.
    Rounded(Unit),
}

/// A frozen affine map.
pub struct Affine {
    weight: Weight,
    backward: Vec<f32>, // (O, I), for the backward pass; empty without one
    pub bias: Vec<f32>, // (O)
}

enum Weight {
    Whole(Vec<f32>), // (I, O): as products with few rows want it
    Rounded(Packed),
}

thread_local! {
    /// What is multiplied in bfloat16, and what comes of it between two maps.
    static ROUNDED: RefCell<[Rows; 2]> = RefCell::default();
}

impl Affine {
    /// The layers `names`, (out, inputs) each, side by side.
    pub fn new(weights: &Weights, names: &[&str], out: usize, inputs: usize, pass: Pass) -> Result<Self> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            let layer = weights.at(name);
            weight.extend(layer.values("weight", &[out, inputs])?);
            bias.extend(layer.values("bias", &[out])?);
        }
        Ok(Affine::of(weight, bias, pass))
    }

    /// Of a weight (O, I) and a bias (O).
    pub fn of(weight: Vec<f32>, bias: Vec<f32>, pass: Pass) -> Self {
        let inputs = weight.len() / bias.len();
        let forward = match pass {
            Pass::Forward | Pass::Both => Weight::Whole(transposed(&weight, inputs)),
            Pass::Rounded(unit) => Weight::Rounded(Packed::new(&weight, inputs, unit)),
        };
        let backward = if pass == Pass::Both { weight } else { Vec::new() };
        Affine { weight: forward, backward, bias }
    }

    /// y (N, O) = x (N, I) w + bias
    pub fn forward(&self, x: &[f32], y: &mut [f32], threads: Threads) {
        match &self.weight {
            Weight::Whole(weight) => layers::affine(x, self.matrix(weight), &self.bias, y, threads),
            Weight::Rounded(weight) => rounded(x, weight, |x, _| weight.forward(x, &self.bias, y)),
        }
    }

    /// y (N, O) = onto (N, O) + x (N, I) w + bias
    pub fn forward_onto(&self, onto: &[f32], x: &[f32], y: &mut [f32], threads: Threads) {
        match &self.weight {
            Weight::Whole(weight) => layers::affine_onto(onto, x, self.matrix(weight), &self.bias, y, threads),
            Weight::Rounded(_) => {
                y.copy_from_slice(onto);
                self.add(x, y, threads);
            }
        }
    }

    /// y (N, O) += x (N, I) w + bias
    pub fn add(&self, x: &[f32], y: &mut [f32], threads: Threads) {
        match &self.weight {
            Weight::Whole(weight) => {
                layers::add_bias(&self.bias, y);
                layers::add_linear(x, self.matrix(weight), y, threads);
            }
            Weight::Rounded(weight) => rounded(x, weight, |x, _| weight.add(x, &self.bias, y)),
        }
    }

    /// dx (N, I) from dy (N, O)
    pub fn backward(&self, dy: &[f32], dx: &mut [f32], threads: Threads) {
        layers::affine_backward_input(&self.backward, dy, dx, self.bias.len(), threads);
    }

    fn matrix<'a>(&self, weight: &'a [f32]) -> Matrix<'a> {
        Matrix::new(weight, self.bias.len())
    }
}

/// y (N, O) += second(activation(first(x (N, I)))), on the calling thread alone. `hidden` is a buffer.
pub fn add_both(
    first: &Affine,
    activation: Activation,
    second: &Affine,
    x: &[f32],
    y: &mut [f32],
    hidden: &mut HugePages<f32>,
) {
    match (&first.weight, &second.weight) {
        (Weight::Rounded(one), Weight::Rounded(other)) => rounded(x, one, |x, hidden| {
            let (bias, second) = (&first.bias, (other, &second.bias[..]));
            match activation {
                Activation::QuickGelu => one.add_both(x, bias, quick_gelu, second, hidden, y),
                Activation::Gelu => one.add_both(x, bias, gelu, second, hidden, y),
                Activation::GeluPytorchTanh => one.add_both(x, bias, gelu_tanh, second, hidden, y),
            }
        }),
        _ => {
            let hidden = hidden.room(y.len() / second.bias.len() * first.bias.len()); // (N, F)
            first.forward(x, hidden, Threads::One);
            activation.forward_in_place(hidden);
            second.add(hidden, y, Threads::One);
        }
    }
}

/// Does `work` with x, rounded as the left side of a product with `weight`, and a buffer.
fn rounded(x: &[f32], weight: &Packed, work: impl FnOnce(&Rows, &mut Rows)) {
    ROUNDED.with_borrow_mut(|[left, between]| {
        left.set(weight.unit(), Matrix::new(x, weight.inputs()));
        work(left, between);
    });
}
