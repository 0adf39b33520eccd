//! Prompts on the CPU: forward and backward pass written down, on slices that are kept from step to step.

use std::ops::Range;

use anyhow::Result;
use rayon::prelude::*;

use super::{
    learner::{Learner, texts},
    parameters::{FROZEN_NORM, Layer, Parameters, SELU_ALPHA, SELU_SCALE},
};
use crate::{
    clip::{
        Tokenizer,
        cpu::text::{PART, State, TextEncoder},
    },
    dense::{
        adam::Adam,
        layers,
        product::{Matrix, Product, Threads},
        vector::{self, dot, vectorised},
    },
    profile::{Phase, time},
    task::Class,
};

/// The prompts of C classes. W is the text encoder's width, P the features' dimension.
pub struct Prompts {
    encoder: TextEncoder,
    tails: Vec<Vec<f32>>, // per class the token embeddings (rows, W) that follow the contexts
    zero_shot: Vec<f32>,  // (C, P), not normalised
    parameters: Parameters,
    gradients: Vec<f32>,
    adam: Adam,
    lr: f64,
    states: Vec<State>, // a state for every part of the classes
}

/// What the context generator's backward pass needs of a layer's forward pass. n counts classes.
struct LayerState {
    input: Vec<f32>,         // (n, I)
    mapped: Vec<f32>,        // (n, O), after the affine map
    preactivation: Vec<f32>, // (n, O), after the norm; empty in the last layer
}

impl Prompts {
    /// Prompts for `classes`, initialised from `seed`.
    pub fn new(
        encoder: TextEncoder,
        tokenizer: &Tokenizer,
        classes: &[Class],
        n_ctx: usize,
        seed: u64,
    ) -> Result<Self> {
        let (zero_shot, tails) = texts(tokenizer, classes, n_ctx)?;
        let embed = |ids: Vec<u32>| ids.iter().flat_map(|&id| encoder.embed(id)).copied().collect();
        let parameters = Parameters::initial(classes, n_ctx, encoder.dim, encoder.width(), seed);
        Ok(Prompts {
            tails: tails.into_iter().map(embed).collect(),
            zero_shot: encoder.features(tokenizer, &zero_shot)?,
            gradients: vec![0.0; parameters.values.len()],
            adam: Adam::new(parameters.values.len()),
            lr: 0.0,
            states: Vec::new(),
            parameters,
            encoder,
        })
    }

    /// Cross-entropy of embeddings (B, P), normalised, of classes `labels` (B), against the prompts of the first `n`
    /// classes. Leaves the gradients.
    pub fn loss(&mut self, n: usize, embeddings: &[f32], labels: &[u32]) -> f32 {
        let (layers, features) = time(Phase::Forward, || {
            let (generated, layers) = self.generate(n); // (n, W)
            let features = self.encode(n, &generated); // (n, P)
            (layers, features)
        });
        time(Phase::Backward, || {
            let (loss, dfeatures) = self.cross_entropy(&features, embeddings, labels);
            let dgenerated = self.backward(n, &dfeatures); // (n, W)
            self.generate_backward(&layers, dgenerated);
            loss
        })
    }

    /// The gradient that [`Prompts::loss`] left for a parameter.
    pub fn gradient(&self, place: Range<usize>) -> &[f32] {
        &self.gradients[place]
    }

    /// A step of the optimiser with the gradients that [`Prompts::loss`] left. Contexts of classes that are not seen
    /// have none, and stay.
    fn step(&mut self, n: usize) {
        let contexts = self.parameters.contexts();
        let per_class = contexts.len() / self.tails.len();
        let rate = self.adam.begin(self.lr);
        for place in [0..n * per_class, contexts.end..self.gradients.len()] {
            let values = &mut self.parameters.values[place.clone()];
            self.adam.update_shared(rate, place.start, values, &self.gradients[place]);
        }
    }

    /// Contexts (n, W) of the first `n` classes from their zero-shot features.
    fn generate(&self, n: usize) -> (Vec<f32>, Vec<LayerState>) {
        let at = |place: &Range<usize>| &self.parameters.values[place.clone()];
        let mut x = self.zero_shot[..n * self.encoder.dim].to_vec();
        let mut states = Vec::new();
        for Layer { weight, bias, norm } in self.parameters.layers() {
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
            let y = vectorised(|| preactivation.iter().map(|&x| selu(x)).collect());
            states.push(LayerState { input: std::mem::replace(&mut x, y), mapped, preactivation });
        }
        unreachable!("the last layer has no norm");
    }

    /// Gradients of the context generator from that of the contexts (n, W).
    fn generate_backward(&mut self, states: &[LayerState], mut grad: Vec<f32>) {
        for (i, (Layer { weight, bias, norm }, state)) in
            self.parameters.layers().into_iter().zip(states).enumerate().rev()
        {
            let outputs = bias.len();
            if let Some([scale, shift]) = norm {
                let values = &self.parameters.values[scale.clone()];
                let (dscale, dshift) = self.gradients[scale.start..shift.end].split_at_mut(outputs);
                vectorised(|| {
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
                });
            }
            let dweight = &mut self.gradients[weight.clone()];
            layers::affine_backward_weight(&state.input, &grad, dweight, outputs, Threads::All);
            layers::sum_rows(&grad, &mut self.gradients[bias]);
            if i > 0 {
                let mut below = vec![0.0; state.input.len()];
                let weight = &self.parameters.values[weight];
                layers::affine_backward_input(weight, &grad, &mut below, outputs, Threads::All);
                grad = below;
            }
        }
    }

    /// The parts that the first `n` classes are encoded in: as many as keep each within [`PART`], and of one size, give or take one.
    fn parts(n: usize) -> Vec<Range<usize>> {
        let parts = n.div_ceil(PART);
        (0..parts).map(|i| i * n / parts..(i + 1) * n / parts).collect()
    }

    /// Features (n, P), not normalised, of the prompts of the first `n` classes with the generated contexts (n, W).
    fn encode(&mut self, n: usize, generated: &[f32]) -> Vec<f32> {
        let parts = Self::parts(n);
        self.states.resize_with(parts.len().max(self.states.len()), State::default);
        let (encoder, tails, w) = (&self.encoder, &self.tails, self.encoder.width());
        let contexts = &self.parameters.values[self.parameters.contexts()];
        let per_class = self.parameters.n_ctx() * w;
        let features = self.states.par_iter_mut().zip(parts).map(|(state, classes)| {
            let (mut x, mut lengths) = (Vec::new(), Vec::new()); // (N, W)
            for class in classes {
                x.extend_from_slice(&contexts[class * per_class..][..per_class]);
                x.extend_from_slice(&generated[class * w..][..w]);
                x.extend_from_slice(&tails[class]);
                lengths.push((per_class + w + tails[class].len()) / w);
            }
            encoder.encode(&x, &lengths, state)
        });
        features.collect::<Vec<_>>().concat()
    }

    /// Gradients of the contexts, and that of the generated ones (n, W), from that of the features (n, P).
    fn backward(&mut self, n: usize, dfeatures: &[f32]) -> Vec<f32> {
        let (encoder, tails, w, p) = (&self.encoder, &self.tails, self.encoder.width(), self.encoder.dim);
        let per_class = self.parameters.n_ctx() * w;
        let parts = Self::parts(n);
        let grads = self.states.par_iter_mut().zip(&parts).map(|(state, classes)| {
            encoder.backward(state, &dfeatures[classes.start * p..classes.end * p]) // (N, W)
        });
        let grads: Vec<Vec<f32>> = grads.collect();
        let mut dgenerated = Vec::with_capacity(n * w); // (n, W)
        for (classes, grad) in parts.into_iter().zip(&grads) {
            let mut rows = &grad[..];
            for class in classes {
                let (contexts, rest) = rows.split_at(per_class);
                self.gradients[class * per_class..][..per_class].copy_from_slice(contexts);
                dgenerated.extend_from_slice(&rest[..w]);
                rows = &rest[w + tails[class].len()..];
            }
        }
        dgenerated
    }

    /// Cross-entropy of embeddings (B, P), and the gradient of the features (n, P).
    fn cross_entropy(&self, features: &[f32], embeddings: &[f32], labels: &[u32]) -> (f32, Vec<f32>) {
        let (p, all) = (self.encoder.dim, Threads::All);
        let (n, b) = (features.len() / p, labels.len());
        let scale = self.encoder.logit_scale;
        let mut keys = features.to_vec(); // (n, P)
        normalise(&mut keys, p);
        let embeddings = Matrix::new(embeddings, p);
        let mut logits = vec![0.0; b * n]; // (B, n), then their gradient
        Product::on(all).scaled(scale).into(&mut logits, n, embeddings, Matrix::new(&keys, p).t());
        let mut loss = 0.0;
        vectorised(|| {
            for (row, &label) in logits.chunks_exact_mut(n).zip(labels) {
                let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let own = row[label as usize] - highest;
                row.iter_mut().for_each(|x| *x = vector::exp(*x - highest));
                let sum = vector::sum(row);
                loss += f64::from(sum.ln() - own);
                row.iter_mut().for_each(|x| *x /= sum * b as f32);
                row[label as usize] -= 1.0 / b as f32;
            }
        });
        let mut grad = vec![0.0; n * p]; // (n, P), of the keys, then of the features
        Product::on(all).scaled(scale).into(&mut grad, p, Matrix::new(&logits, n).t(), embeddings);
        vectorised(|| {
            for ((grad, key), feature) in
                grad.chunks_exact_mut(p).zip(keys.chunks_exact(p)).zip(features.chunks_exact(p))
            {
                let (along, length) = (dot(grad, key), dot(feature, feature).sqrt());
                grad.iter_mut().zip(key).for_each(|(grad, key)| *grad = (*grad - key * along) / length);
            }
        });
        ((loss / b as f64) as f32, grad)
    }
}

impl Learner for Prompts {
    fn zero_shot(&self) -> &[f32] {
        &self.zero_shot
    }

    fn keys(&mut self, n: usize) -> Result<Vec<f32>> {
        let (generated, _) = self.generate(n);
        let mut keys = self.encode(n, &generated);
        normalise(&mut keys, self.encoder.dim);
        Ok(keys)
    }

    fn begin(&mut self, lr: f64) -> Result<()> {
        self.adam = Adam::new(self.gradients.len());
        self.lr = lr;
        Ok(())
    }

    fn steps(&mut self, n: usize, embeddings: &[f32], classes: &[u32], batches: &[&[usize]]) -> Result<Vec<f32>> {
        let p = self.encoder.dim;
        let step = |batch: &&[usize]| {
            let mut rows = Vec::with_capacity(batch.len() * p); // (B, P)
            batch.iter().for_each(|&row| rows.extend_from_slice(&embeddings[row * p..][..p]));
            normalise(&mut rows, p);
            let labels: Vec<u32> = batch.iter().map(|&row| classes[row]).collect();
            let loss = self.loss(n, &rows, &labels);
            time(Phase::Optimise, || self.step(n));
            loss
        };
        Ok(batches.iter().map(step).collect())
    }

    fn parameters(&self) -> Result<Parameters> {
        Ok(self.parameters.clone())
    }

    fn set_parameters(&mut self, parameters: Parameters) -> Result<()> {
        self.parameters = parameters;
        Ok(())
    }
}

/// Rows of `columns` values to length 1, in place.
pub fn normalise(x: &mut [f32], columns: usize) {
    vectorised(|| {
        for row in x.chunks_exact_mut(columns) {
            let length = dot(row, row).sqrt();
            row.iter_mut().for_each(|x| *x /= length);
        }
    });
}

#[inline(always)]
fn selu(x: f32) -> f32 {
    SELU_SCALE * if x > 0.0 { x } else { SELU_ALPHA * (vector::exp(x) - 1.0) }
}

#[inline(always)]
fn selu_slope(x: f32) -> f32 {
    SELU_SCALE * if x > 0.0 { 1.0 } else { SELU_ALPHA * vector::exp(x) }
}
