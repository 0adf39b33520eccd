//! The class-conditional diffusion model (Ho et al., 2020): from noise to a row in 32 steps, each
//! of which takes away some of the noise that an MLP sees. D + E → H → H → H → H → D, leaky ReLUs
//! between; its backward pass; AdamW.

use std::{array, f64::consts::FRAC_PI_2};

use serde::{Deserialize, Serialize};

use super::{
    network::{self, Layer, Weights},
    scaler::Scaler,
};
use crate::{
    dense::{
        layers, room,
        vector::{dot, vectorised},
    },
    profile::{Phase, time},
    rng::{Draw, Rng},
};

/// Steps from a row to noise, T.
const STEPS: usize = 32;

/// Values of the embedding of a time t (0 is a row, T is noise), E: sines and cosines of E / 2
/// frequencies.
pub(super) const TIME_EMBEDDING: usize = 32;

/// Affine layers of the MLP.
const LAYERS: usize = 5;

const WEIGHT_DECAY: f64 = 0.01;

/// How a diffusion model is built and fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiffusionConfig {
    /// Passes over the rows of a class.
    pub epochs: usize,
    /// Learning rate of AdamW.
    pub lr: f64,
    /// Width of the hidden layers, H.
    pub hidden: usize,
    /// Rows per step, B.
    pub batch_size: usize,
}

impl DiffusionConfig {
    /// What is fitted where nothing else is asked for.
    pub const DEFAULT: Self = DiffusionConfig { epochs: 2000, lr: 1e-3, hidden: 256, batch_size: 64 };
}

/// The MLP that predicts a row from what noise has made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Denoiser {
    /// The affine maps, with leaky ReLUs between them.
    pub layers: [Layer; LAYERS],
}

impl Denoiser {
    /// `n` rows (n, D), standardised, by ancestral sampling: from noise, each step draws x[t - 1]
    /// given x_t and the row that the MLP predicts.
    pub fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        let dim = self.layers[LAYERS - 1].1.len();
        let (schedule, mut input) = (NoiseSchedule::new(), Vec::new());
        let mut x = rng.normals(n * dim); // (n, D)
        for t in (1..=STEPS).rev() {
            schedule.join(&x, dim, &vec![t; n], &mut input);
            let clean = network::apply(&self.layers, &input); // (n, D)
            if t == 1 {
                return clean;
            }
            // the posterior's mean and variance (Ho et al., equations 6 and 7)
            let [alpha_bar, previous] = [t, t - 1].map(|t| schedule.alpha_bar[t]);
            let alpha = alpha_bar / previous;
            let beta = 1.0 - alpha;
            let of_clean = (previous.sqrt() * beta / (1.0 - alpha_bar)) as f32;
            let of_noisy = (alpha.sqrt() * (1.0 - previous) / (1.0 - alpha_bar)) as f32;
            let posterior_variance = beta * (1.0 - previous) / (1.0 - alpha_bar);
            let deviation = posterior_variance.sqrt() as f32;
            let noise = rng.normals(n * dim); // (n, D)
            vectorised(
                #[inline(always)]
                || {
                    for ((x, clean), noise) in x.iter_mut().zip(&clean).zip(&noise) {
                        *x = of_clean * clean + of_noisy * *x + deviation * noise;
                    }
                },
            );
        }
        x
    }
}

/// Fits a diffusion model to the embeddings `rows` (N, dim), flat, of one class; N is at least 2.
/// Returns the loss of the last epoch, too; `tick` is called with that of each.
pub(super) fn fit(
    rows: &[f32],
    dim: usize,
    key: u64,
    seed: u64,
    config: &DiffusionConfig,
    mut tick: impl FnMut(f64),
) -> (Denoiser, Scaler, f64) {
    let n = rows.len() / dim;
    let (scaler, standard) = Scaler::standardised(rows, dim);
    let mut model = Diffusion::new(dim, config, seed, key);
    let mut rng = Rng::new(seed, Draw::DiffusionBatches, &[key]);
    let (mut x, mut loss) = (Vec::new(), 0.0);
    for _ in 0..config.epochs {
        loss = 0.0;
        for batch in rng.permutation(n).chunks(config.batch_size) {
            let (times, noise) = time(Phase::Sample, || {
                x.clear();
                batch.iter().for_each(|&i| x.extend_from_slice(&standard[i * dim..(i + 1) * dim])); // (B, D)
                let times: Vec<usize> = batch.iter().map(|_| 1 + rng.below(STEPS)).collect();
                (times, rng.normals(batch.len() * dim)) // (B, D)
            });
            loss += model.step(&x, &times, &noise, config.lr) * batch.len() as f64 / n as f64;
        }
        tick(loss);
    }
    (model.denoiser(), scaler, loss)
}

/// A diffusion model while it is fitted.
struct Diffusion {
    weights: Weights, // weight and bias of each layer
    activations: Activations,
    schedule: NoiseSchedule,
    hidden: usize,
}

/// Buffers of a batch of B rows, kept from step to step.
#[derive(Default)]
struct Activations {
    noisy: Vec<f32>,                // (B, D)
    input: Vec<f32>,                // (B, D + E)
    hidden: [Vec<f32>; LAYERS - 1], // (B, H), after the leaky ReLU
    out: Vec<f32>,                  // (B, D), then its gradient
    grads: [Vec<f32>; 2],           // (B, H), of the layer in hand and the one below
}

impl Diffusion {
    /// A model for rows of `dim` values, initialised as PyTorch's layers are.
    fn new(dim: usize, config: &DiffusionConfig, seed: u64, key: u64) -> Self {
        let h = config.hidden;
        let mut sizes = vec![h * (dim + TIME_EMBEDDING), h];
        (0..LAYERS - 2).for_each(|_| sizes.extend([h * h, h]));
        sizes.extend([dim * h, dim]);
        let mut weights = Weights::new(&sizes, WEIGHT_DECAY);
        let mut rng = Rng::new(seed, Draw::DiffusionWeights, &[key]);
        (0..LAYERS).for_each(|layer| weights.draw(2 * layer, &mut rng));
        Diffusion { weights, activations: Activations::default(), schedule: NoiseSchedule::new(), hidden: h }
    }

    /// The generating half.
    fn denoiser(&self) -> Denoiser {
        Denoiser { layers: array::from_fn(|layer| self.weights.layer(2 * layer)) }
    }

    /// One step of AdamW on x (B, D), standardised, at `times` (B), from 1 to T, with noise (B, D).
    /// The loss is that before the step: the mean squared error of a value.
    fn step(&mut self, x: &[f32], times: &[usize], noise: &[f32], lr: f64) -> f64 {
        let loss = time(Phase::Forward, || self.forward(x, times, noise));
        time(Phase::Backward, || self.backward(times.len(), lr));
        loss
    }

    /// Forward pass; leaves the gradient of the output.
    fn forward(&mut self, x: &[f32], times: &[usize], noise: &[f32]) -> f64 {
        let (b, h, w, schedule) = (times.len(), self.hidden, &self.weights, &self.schedule);
        let dim = x.len() / b;
        let Activations { noisy, input, hidden, out, .. } = &mut self.activations;
        let noisy = room(noisy, b * dim);
        let rows = noisy.chunks_exact_mut(dim).zip(x.chunks_exact(dim).zip(noise.chunks_exact(dim)));
        for ((noisy, (x, noise)), &t) in rows.zip(times) {
            let alpha_bar = schedule.alpha_bar[t];
            let (signal, deviation) = (alpha_bar.sqrt() as f32, (1.0 - alpha_bar).sqrt() as f32);
            for ((noisy, x), noise) in noisy.iter_mut().zip(x).zip(noise) {
                *noisy = signal * x + deviation * noise;
            }
        }
        schedule.join(noisy, dim, times, input);
        for layer in 0..LAYERS - 1 {
            let (below, rest) = hidden.split_at_mut(layer);
            let y = room(&mut rest[0], b * h);
            w.affine(2 * layer, below.last().map_or(&input[..], |below| &below[..b * h]), y);
            layers::leaky_relu(y);
        }
        let out = room(out, b * dim);
        w.affine(2 * LAYERS - 2, &hidden[LAYERS - 2][..b * h], out);

        let values = x.len() as f32;
        let squares = vectorised(
            #[inline(always)]
            || {
                out.iter_mut().zip(x).for_each(|(out, x)| *out -= x);
                let squares = dot(out, out);
                out.iter_mut().for_each(|error| *error *= 2.0 / values);
                squares
            },
        );
        f64::from(squares / values)
    }

    /// Backward pass of a batch of `b` rows, from the gradient of the output; every parameter takes
    /// its step as soon as nothing more needs its value.
    fn backward(&mut self, b: usize, lr: f64) {
        let (h, w) = (self.hidden, &mut self.weights);
        let rate = w.begin(lr);
        let Activations { input, hidden, out, grads: [above, below], .. } = &mut self.activations;
        let (mut above, mut below) = (room(above, b * h), room(below, b * h));
        let dim = w.at(2 * LAYERS - 1).len();
        w.affine_backward(2 * LAYERS - 2, &hidden[LAYERS - 2][..b * h], &out[..b * dim], Some(above), rate);
        for layer in (1..LAYERS - 1).rev() {
            layers::leaky_relu_backward(&hidden[layer][..b * h], above);
            w.affine_backward(2 * layer, &hidden[layer - 1][..b * h], above, Some(below), rate);
            (above, below) = (below, above);
        }
        layers::leaky_relu_backward(&hidden[0][..b * h], above);
        w.affine_backward(0, input, above, None, rate);
    }
}

/// The noise schedule, and the embeddings of its times.
struct NoiseSchedule {
    /// ᾱ: the share of a row's variance that is left at each time.
    alpha_bar: [f64; STEPS + 1],
    time_embeddings: [[f32; TIME_EMBEDDING]; STEPS + 1],
}

impl NoiseSchedule {
    /// The cosine schedule of Nichol and Dhariwal (2021), no step of which adds more than 0.999 of
    /// the variance.
    fn new() -> Self {
        let cosine = |t: usize| ((t as f64 / STEPS as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        let mut alpha_bar = [1.0; STEPS + 1];
        for t in 1..=STEPS {
            alpha_bar[t] = alpha_bar[t - 1] * (cosine(t) / cosine(t - 1)).max(0.001);
        }
        // frequencies from 1 to 1e-4 (Vaswani et al., 2017)
        let angle = |t: usize, i: usize| t as f64 * 1e4f64.powf(-((i / 2) as f64) / (TIME_EMBEDDING / 2 - 1) as f64);
        let wave = |t, i| if i % 2 == 0 { angle(t, i).sin() } else { angle(t, i).cos() };
        let time_embeddings = array::from_fn(|t| array::from_fn(|i| wave(t, i) as f32));
        NoiseSchedule { alpha_bar, time_embeddings }
    }

    /// What the MLP sees: rows (B, dim) and their times (B), side by side, as `input` (B, dim + E).
    fn join(&self, rows: &[f32], dim: usize, times: &[usize], input: &mut Vec<f32>) {
        input.clear();
        for (row, &t) in rows.chunks_exact(dim).zip(times) {
            input.extend_from_slice(row);
            input.extend_from_slice(&self.time_embeddings[t]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_grows_from_none_to_all() {
        let alpha_bar = NoiseSchedule::new().alpha_bar;
        assert!(alpha_bar[0] == 1.0 && alpha_bar.windows(2).all(|pair| pair[1] < pair[0]), "{alpha_bar:?}");
        assert!(alpha_bar[1] > 0.99 && alpha_bar[STEPS] > 0.0 && alpha_bar[STEPS] < 1e-5, "{alpha_bar:?}");
        // Nichol and Dhariwal's f(T / 2) / f(0)
        assert!((alpha_bar[STEPS / 2] - 0.493_8).abs() < 1e-3, "{alpha_bar:?}");
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (b, dim) = (5, 6);
        let config = DiffusionConfig { hidden: 7, ..DiffusionConfig::DEFAULT };
        let mut model = Diffusion::new(dim, &config, 3, 0);
        let mut rng = Rng::new(3, Draw::Embeddings, &[]);
        let (x, noise, times) = (rng.normals(b * dim), rng.normals(b * dim), [1, 9, 20, 32, 9]);
        model.step(&x, &times, &noise, 0.0);
        let gradients = model.weights.first_gradients();
        let largest = gradients.iter().fold(0f32, |m, g| m.max(g.abs()));
        for (i, gradient) in gradients.iter().enumerate() {
            let mut loss_at = |h: f32| {
                let before = std::mem::replace(&mut model.weights.all()[i], 0.0);
                model.weights.all()[i] = before + h;
                let loss = model.forward(&x, &times, &noise);
                model.weights.all()[i] = before;
                loss
            };
            let numeric = (loss_at(1e-3) - loss_at(-1e-3)) / 2e-3;
            let off = (numeric - f64::from(*gradient)).abs();
            assert!(off <= 1e-2 * f64::from(largest), "parameter {i}: {gradient} {numeric}");
        }
    }
}
