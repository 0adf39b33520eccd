//! The class-conditional VAE: encoder D → H → H → 2 L with batch normalisation, decoder L → H → H →
//! D, leaky ReLUs between; its loss, the negative ELBO; its backward pass; Adam.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::{
    network::{self, Layer, Weights},
    scaler::Scaler,
};
use crate::{
    dense::{
        layers, room,
        vector::{self, exp, vectorised},
    },
    profile::{Phase, time},
    rng::{Draw, Rng},
};

/// How a VAE is built and fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Passes over the rows of a class.
    pub epochs: usize,
    /// Learning rate of Adam, before cosine annealing with warm restarts.
    pub lr: f64,
    /// Width of the hidden layers, H.
    pub hidden: usize,
    /// Dimension of the latent space, L.
    pub latent: usize,
    /// Rows per step, B; a batch of one row is skipped.
    pub batch_size: usize,
    /// Sample the posterior as mu + eps·exp(logvar), as the authors' code does, instead of
    /// exp(logvar / 2).
    pub legacy_reparam: bool,
}

impl VaeConfig {
    /// The paper's.
    pub const DEFAULT: Self =
        VaeConfig { epochs: 500, lr: 2e-4, hidden: 512, latent: 256, batch_size: 64, legacy_reparam: false };
}

/// Mean losses per row, in nat. Their sum is the negative ELBO.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Gaussian negative log-likelihood with unit variance.
    pub reconstruction: f64,
    /// Divergence of the posterior from N(0, I).
    pub kl: f64,
}

impl Losses {
    /// The negative ELBO.
    pub fn sum(self) -> f64 {
        self.reconstruction + self.kl
    }
}

/// The generating half: L → H → H → D.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// Dimension L of the latent space.
    pub latent: usize,
    /// The affine maps, with leaky ReLUs between them.
    pub layers: [Layer; 3],
}

impl Decoder {
    /// z (N, L) → rows (N, D), standardised.
    pub fn decode(&self, z: &[f32]) -> Vec<f32> {
        network::apply(&self.layers, z)
    }
}

/// Fits a VAE to the embeddings `rows` (N, dim), flat, of one class. Returns the losses of the last
/// epoch, too; `tick` is called with the loss of each. Of one row nothing is learned, and there is no
/// loss: its scaling has no span, so that whatever is decoded becomes that row.
pub(super) fn fit(
    rows: &[f32],
    dim: usize,
    key: u64,
    seed: u64,
    config: &VaeConfig,
    mut tick: impl FnMut(f64),
) -> (Decoder, Scaler, Losses) {
    let n = rows.len() / dim;
    let (scaler, standard) = Scaler::standardised(rows, dim);
    let mut vae = Vae::new(dim, config, seed, key);
    let mut rng = Rng::new(seed, Draw::VaeBatches, &[key]);
    let (mut x, mut noise, mut losses) = (Vec::new(), Vec::new(), Losses::default());
    for epoch in 0..config.epochs {
        let lr = config.lr * annealing(epoch, config.epochs);
        let (mut sum, mut seen) = (Losses::default(), 0.0);
        for batch in rng.permutation(n).chunks(config.batch_size) {
            if batch.len() == 1 {
                continue; // the statistics of one row are undefined
            }
            time(Phase::Sample, || {
                x.clear();
                batch.iter().for_each(|&i| x.extend_from_slice(&standard[i * dim..(i + 1) * dim])); // (B, D)
                noise = rng.normals(batch.len() * config.latent); // (B, L)
            });
            let step = vae.step(&x, &noise, lr);
            let weight = batch.len() as f64;
            sum.reconstruction += step.reconstruction * weight;
            sum.kl += step.kl * weight;
            seen += weight;
        }
        if seen > 0.0 {
            losses = Losses { reconstruction: sum.reconstruction / seen, kl: sum.kl / seen };
        }
        tick(losses.sum());
    }
    (vae.decoder(), scaler, losses)
}

/// What the learning rate is multiplied with in an epoch (from 0): cosine annealing with warm
/// restarts (Loshchilov and Hutter, 2017), the first cycle a tenth of the epochs, each next one
/// twice as long.
pub fn annealing(epoch: usize, epochs: usize) -> f64 {
    let (mut start, mut length) = (0, (epochs / 10).max(1));
    while epoch >= start + length {
        start += length;
        length *= 2;
    }
    0.5 * (1.0 + (PI * (epoch - start) as f64 / length as f64).cos())
}

/// Names of the parameters, as the PyTorch module would have them, in the order in which they are
/// stored.
pub(super) const NAMES: [&str; 16] = [
    "enc.0.weight",
    "enc.0.bias",
    "enc.1.weight",
    "enc.1.bias",
    "enc.3.weight",
    "enc.3.bias",
    "enc.4.weight",
    "enc.4.bias",
    "enc.6.weight",
    "enc.6.bias",
    "dec.0.weight",
    "dec.0.bias",
    "dec.2.weight",
    "dec.2.bias",
    "dec.4.weight",
    "dec.4.bias",
];

/// A VAE while it is fitted.
pub struct Vae {
    weights: Weights,
    activations: Activations,
    latent: usize,
    hidden: usize,
    /// What logvar is multiplied with before exp: 1/2, or 1 as in the authors' code.
    half: f32,
}

/// Buffers of a batch of B rows, kept from step to step. H is the hidden width, L the latent
/// dimension.
#[derive(Default)]
struct Activations {
    hidden: [Vec<f32>; 2],  // (B, H), of the encoder, after the leaky ReLU
    normal: [Vec<f32>; 2],  // (B, H), normalised
    scale: [Vec<f32>; 2],   // (H), 1 / deviation
    posterior: Vec<f32>,    // (B, 2L), per row mu, then logvar; then their gradients
    z: Vec<f32>,            // (B, L)
    decoded: [Vec<f32>; 2], // (B, H), of the decoder, after the leaky ReLU
    out: Vec<f32>,          // (B, D), then its gradient
    grads: [Vec<f32>; 2],   // (B, H), of the layer in hand and the one below
    dz: Vec<f32>,           // (B, L)
}

impl Vae {
    /// A VAE for rows of `dim` values, initialised as PyTorch's layers are.
    pub fn new(dim: usize, config: &VaeConfig, seed: u64, key: u64) -> Self {
        let (h, l) = (config.hidden, config.latent);
        let linear = |out: usize, inputs: usize| [out * inputs, out];
        let sizes = [
            linear(h, dim),
            [h, h],
            linear(h, h),
            [h, h],
            linear(2 * l, h),
            linear(h, l),
            linear(h, h),
            linear(dim, h),
        ]
        .concat();
        let mut weights = Weights::new(&sizes, 0.0);
        let mut rng = Rng::new(seed, Draw::VaeWeights, &[key]);
        for i in (0..NAMES.len()).step_by(2) {
            match NAMES[i] {
                "enc.1.weight" | "enc.4.weight" => weights.at_mut(i).fill(1.0),
                _ => weights.draw(i, &mut rng),
            }
        }
        let half = if config.legacy_reparam { 1.0 } else { 0.5 };
        Vae { weights, activations: Activations::default(), latent: l, hidden: h, half }
    }

    /// A parameter by its PyTorch name; panics if there is none.
    pub fn parameter(&mut self, name: &str) -> &mut [f32] {
        let i = NAMES.iter().position(|n| *n == name).expect("a name of the VAE's parameters");
        self.weights.at_mut(i)
    }

    /// The generating half.
    pub fn decoder(&self) -> Decoder {
        Decoder { latent: self.latent, layers: [10, 12, 14].map(|i| self.weights.layer(i)) }
    }

    /// One step of Adam on x (B, D), standardised, with the posterior noise eps (B, L). The losses
    /// are those before the step.
    pub fn step(&mut self, x: &[f32], eps: &[f32], lr: f64) -> Losses {
        let losses = time(Phase::Forward, || self.forward(x, eps));
        time(Phase::Backward, || self.backward(x, eps, lr));
        losses
    }

    /// Forward pass; leaves the gradient of the output.
    fn forward(&mut self, x: &[f32], eps: &[f32]) -> Losses {
        let (h, l, w) = (self.hidden, self.latent, &self.weights);
        let b = eps.len() / l;
        let Activations {
            hidden: [h1, h2],
            normal: [normal1, normal2],
            scale: [scale1, scale2],
            posterior,
            z,
            decoded: [g1, g2],
            out,
            ..
        } = &mut self.activations;

        // encoder
        let h1 = room(h1, b * h);
        w.affine(0, x, h1);
        layers::batch_norm(h1, w.at(2), w.at(3), room(normal1, b * h), room(scale1, h));
        layers::leaky_relu(h1);
        let h2 = room(h2, b * h);
        w.affine(4, h1, h2);
        layers::batch_norm(h2, w.at(6), w.at(7), room(normal2, b * h), room(scale2, h));
        layers::leaky_relu(h2);
        let posterior = room(posterior, b * 2 * l);
        w.affine(8, h2, posterior);

        // z = mu + eps·exp(half·logvar)
        let (z, mut kl) = (room(z, b * l), 0.0);
        for (z, (p, eps)) in z.chunks_exact_mut(l).zip(posterior.chunks_exact(2 * l).zip(eps.chunks_exact(l))) {
            let (mu, logvar) = p.split_at(l);
            vectorised(
                #[inline(always)]
                || {
                    for (((z, eps), mu), logvar) in z.iter_mut().zip(eps).zip(mu).zip(logvar) {
                        *z = mu + eps * exp(self.half * logvar);
                    }
                    kl += 0.5 * f64::from(vector::fold(mu, logvar, mu, |mu, v, _| exp(v) + mu * mu - 1.0 - v));
                },
            );
        }

        // decoder
        let (g1, g2, out) = (room(g1, b * h), room(g2, b * h), room(out, x.len()));
        w.affine(10, z, g1);
        layers::leaky_relu(g1);
        w.affine(12, g1, g2);
        layers::leaky_relu(g2);
        w.affine(14, g2, out);

        // loss, and its gradient with respect to the output
        let rows = b as f32;
        let squares = vectorised(
            #[inline(always)]
            || {
                out.iter_mut().zip(x).for_each(|(out, x)| *out -= x);
                let squares = f64::from(vector::dot(out, out));
                out.iter_mut().for_each(|error| *error /= rows);
                squares
            },
        );
        let reconstruction = 0.5 * (squares + x.len() as f64 * std::f64::consts::TAU.ln());
        Losses { reconstruction: reconstruction / b as f64, kl: kl / b as f64 }
    }

    /// Backward pass, from the gradient of the output; every parameter takes its step as soon as
    /// nothing more needs its value.
    fn backward(&mut self, x: &[f32], eps: &[f32], lr: f64) {
        let (h, l, w) = (self.hidden, self.latent, &mut self.weights);
        let b = eps.len() / l;
        let rate = w.begin(lr);
        let Activations {
            hidden: [h1, h2],
            normal: [normal1, normal2],
            scale: [scale1, scale2],
            posterior,
            z,
            decoded: [g1, g2],
            out,
            grads: [above, below],
            dz,
        } = &mut self.activations;
        let (above, below, dz) = (room(above, b * h), room(below, b * h), room(dz, b * l));

        // the decoder
        let (z, g1, g2, out) = (&z[..b * l], &g1[..b * h], &g2[..b * h], &out[..x.len()]);
        w.affine_backward(14, g2, out, Some(above), rate);
        layers::leaky_relu_backward(g2, above);
        w.affine_backward(12, g1, above, Some(below), rate);
        layers::leaky_relu_backward(g1, below);
        w.affine_backward(10, z, below, Some(dz), rate);

        // into mu and logvar, in place of the posterior
        let (posterior, rows, half) = (&mut posterior[..b * 2 * l], b as f32, self.half);
        for (p, (dz, eps)) in posterior.chunks_exact_mut(2 * l).zip(dz.chunks_exact(l).zip(eps.chunks_exact(l))) {
            let (mu, logvar) = p.split_at_mut(l);
            vectorised(
                #[inline(always)]
                || {
                    for (((mu, logvar), dz), eps) in mu.iter_mut().zip(logvar).zip(dz).zip(eps) {
                        let noise = dz * eps * half * exp(half * *logvar);
                        *logvar = noise + 0.5 * (exp(*logvar) - 1.0) / rows;
                        *mu = dz + *mu / rows;
                    }
                },
            );
        }

        // the encoder
        let (h1, h2) = (&h1[..b * h], &h2[..b * h]);
        w.affine_backward(8, h2, posterior, Some(above), rate);
        layers::leaky_relu_backward(h2, above);
        w.batch_norm_backward(6, above, &normal2[..b * h], &scale2[..h], rate);
        w.affine_backward(4, h1, above, Some(below), rate);
        layers::leaky_relu_backward(h1, below);
        w.batch_norm_backward(2, below, &normal1[..b * h], &scale1[..h], rate);
        w.affine_backward(0, x, below, None, rate);
    }
}
