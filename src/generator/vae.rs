//! The class-conditional VAE: encoder D → H → H → 2 L with batch normalisation, decoder L → H → H → D,
//! leaky ReLUs between; its loss, the negative ELBO; its backward pass; Adam.

use std::ops::Range;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::dense;
use crate::rng::{Draw, Rng};

/// How a VAE is built and fitted.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Passes over the rows of a class
    #[arg(long, default_value_t = 500, value_parser = crate::at_least::<1>)]
    pub epochs: usize,
    /// Learning rate of Adam, before cosine annealing with warm restarts
    #[arg(long, default_value_t = 2e-4, value_parser = crate::positive)]
    pub lr: f64,
    /// Width of the hidden layers
    #[arg(long, default_value_t = 512, value_parser = crate::at_least::<1>)]
    pub hidden: usize,
    /// Dimension of the latent space
    #[arg(long, default_value_t = 256, value_parser = crate::at_least::<1>)]
    pub latent: usize,
    /// Rows per step; a batch of one row is skipped
    #[arg(long, default_value_t = 64, value_parser = crate::at_least::<2>)]
    pub batch_size: usize,
    /// Sample the posterior as mu + eps·exp(logvar), as the authors' code does, instead of exp(logvar / 2)
    #[arg(long)]
    pub legacy_reparam: bool,
}

/// Mean losses per row, in nat. Their sum is the negative ELBO.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Gaussian negative log-likelihood with unit variance.
    pub reconstruction: f64,
    /// Divergence of the posterior from N(0, I).
    pub kl: f64,
}

/// The generating half: L → H → H → D.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    pub latent: usize,
    /// Weight (O, I) and bias (O) of the three layers, flat.
    pub layers: [(Vec<f32>, Vec<f32>); 3],
}

impl Decoder {
    /// z (N, L) → rows (N, D), standardised.
    pub fn decode(&self, z: &[f32]) -> Vec<f32> {
        let n = z.len() / self.latent;
        let mut x = z.to_vec();
        for (i, (weight, bias)) in self.layers.iter().enumerate() {
            let mut y = vec![0.0; n * bias.len()];
            dense::affine(&x, weight, bias, &mut y);
            if i < 2 {
                dense::leaky_relu(&mut y);
            }
            x = y;
        }
        x
    }
}

/// Names of the parameters, as the PyTorch module would have them, in the order in which they are stored.
const NAMES: [&str; 16] = [
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

/// A VAE while it is fitted. All parameters lie in one slice, as do their gradients and moments.
pub struct Vae {
    ranges: [Range<usize>; 16],
    params: Vec<f32>,
    grads: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    steps: i32,
    latent: usize,
    hidden: usize,
    /// What logvar is multiplied with before exp: 1/2, or 1 as in the authors' code.
    half: f32,
}

impl Vae {
    /// A VAE for rows of `dim` values, initialised as PyTorch's layers are.
    pub fn new(dim: usize, config: &VaeConfig, seed: u64, label: i64) -> Self {
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
        let mut end = 0;
        let ranges = std::array::from_fn(|i| {
            end += sizes[i];
            end - sizes[i]..end
        });
        let zeros = || vec![0f32; end];
        let mut vae = Vae {
            ranges,
            params: zeros(),
            grads: zeros(),
            first_moment: zeros(),
            second_moment: zeros(),
            steps: 0,
            latent: l,
            hidden: h,
            half: if config.legacy_reparam { 1.0 } else { 0.5 },
        };
        let mut rng = Rng::new(seed, Draw::VaeWeights, &[label as u64]);
        for i in (0..NAMES.len()).step_by(2) {
            let (weight, bias) = (vae.ranges[i].clone(), vae.ranges[i + 1].clone());
            if matches!(NAMES[i], "enc.1.weight" | "enc.4.weight") {
                vae.params[weight].fill(1.0);
                continue;
            }
            // uniform in ±1/√inputs, weight and bias
            let bound = (bias.len() as f32 / weight.len() as f32).sqrt();
            for value in &mut vae.params[weight.start..bias.end] {
                *value = bound * (2.0 * rng.uniform() - 1.0);
            }
        }
        vae
    }

    /// A parameter by its PyTorch name; panics if there is none.
    pub fn parameter(&mut self, name: &str) -> &mut [f32] {
        let i = NAMES.iter().position(|n| *n == name).expect("a name of the VAE's parameters");
        &mut self.params[self.ranges[i].clone()]
    }

    /// One step of Adam on x (B, D), standardised, with the posterior noise eps (B, L). The losses are those
    /// before the step.
    pub fn step(&mut self, x: &[f32], eps: &[f32], lr: f64) -> Losses {
        let losses = self.gradients(x, eps);
        self.adam(lr);
        losses
    }

    /// The generating half.
    pub fn decoder(&self) -> Decoder {
        let layer = |i: usize| (self.at(i).to_vec(), self.at(i + 1).to_vec());
        Decoder { latent: self.latent, layers: [layer(10), layer(12), layer(14)] }
    }

    /// Forward and backward pass: fills `grads`.
    fn gradients(&mut self, x: &[f32], eps: &[f32]) -> Losses {
        let (h, l) = (self.hidden, self.latent);
        let b = eps.len() / l;
        let zeros = |n: usize| vec![0f32; b * n];

        // encoder
        let (mut h1, mut normal1, mut scale1) = (zeros(h), zeros(h), vec![0.0; h]);
        dense::affine(x, self.at(0), self.at(1), &mut h1);
        dense::batch_norm(&mut h1, self.at(2), self.at(3), &mut normal1, &mut scale1);
        dense::leaky_relu(&mut h1);
        let (mut h2, mut normal2, mut scale2) = (zeros(h), zeros(h), vec![0.0; h]);
        dense::affine(&h1, self.at(4), self.at(5), &mut h2);
        dense::batch_norm(&mut h2, self.at(6), self.at(7), &mut normal2, &mut scale2);
        dense::leaky_relu(&mut h2);
        let mut posterior = zeros(2 * l); // per row: mu, then logvar
        dense::affine(&h2, self.at(8), self.at(9), &mut posterior);

        // z = mu + eps·exp(half·logvar)
        let (mut z, mut kl) = (zeros(l), 0.0);
        for (z, (p, eps)) in z.chunks_exact_mut(l).zip(posterior.chunks_exact(2 * l).zip(eps.chunks_exact(l))) {
            let (mu, logvar) = p.split_at(l);
            for j in 0..l {
                z[j] = mu[j] + eps[j] * (self.half * logvar[j]).exp();
                kl += f64::from(0.5 * (logvar[j].exp() + mu[j] * mu[j] - 1.0 - logvar[j]));
            }
        }

        // decoder
        let (mut g1, mut g2, mut out) = (zeros(h), zeros(h), vec![0f32; x.len()]);
        dense::affine(&z, self.at(10), self.at(11), &mut g1);
        dense::leaky_relu(&mut g1);
        dense::affine(&g1, self.at(12), self.at(13), &mut g2);
        dense::leaky_relu(&mut g2);
        dense::affine(&g2, self.at(14), self.at(15), &mut out);

        // loss, and its gradient with respect to the output
        let rows = b as f32;
        let mut squares = 0.0;
        for (out, x) in out.iter_mut().zip(x) {
            let error = *out - x;
            squares += f64::from(error * error);
            *out = error / rows;
        }
        let reconstruction = 0.5 * (squares + x.len() as f64 * std::f64::consts::TAU.ln());
        let losses = Losses { reconstruction: reconstruction / b as f64, kl: kl / b as f64 };

        // back through the decoder
        let (mut dh, mut dh_below, mut dz) = (zeros(h), zeros(h), zeros(l));
        self.affine_backward(14, &g2, &out);
        dense::affine_backward_input(self.at(14), &out, &mut dh, x.len() / b);
        dense::leaky_relu_backward(&g2, &mut dh);
        self.affine_backward(12, &g1, &dh);
        dense::affine_backward_input(self.at(12), &dh, &mut dh_below, h);
        dense::leaky_relu_backward(&g1, &mut dh_below);
        self.affine_backward(10, &z, &dh_below);
        dense::affine_backward_input(self.at(10), &dh_below, &mut dz, h);

        // into mu and logvar, in place of the posterior
        for (p, (dz, eps)) in posterior.chunks_exact_mut(2 * l).zip(dz.chunks_exact(l).zip(eps.chunks_exact(l))) {
            let (mu, logvar) = p.split_at_mut(l);
            for j in 0..l {
                let noise = dz[j] * eps[j] * self.half * (self.half * logvar[j]).exp();
                logvar[j] = noise + 0.5 * (logvar[j].exp() - 1.0) / rows;
                mu[j] = dz[j] + mu[j] / rows;
            }
        }

        // back through the encoder
        self.affine_backward(8, &h2, &posterior);
        dense::affine_backward_input(self.at(8), &posterior, &mut dh, 2 * l);
        dense::leaky_relu_backward(&h2, &mut dh);
        self.batch_norm_backward(6, &mut dh, &normal2, &scale2);
        self.affine_backward(4, &h1, &dh);
        dense::affine_backward_input(self.at(4), &dh, &mut dh_below, h);
        dense::leaky_relu_backward(&h1, &mut dh_below);
        self.batch_norm_backward(2, &mut dh_below, &normal1, &scale1);
        self.affine_backward(0, x, &dh_below);
        losses
    }

    /// Adam (Kingma and Ba, 2015), beta 0.9 and 0.999, eps 1e-8, in one pass over the parameters.
    fn adam(&mut self, lr: f64) {
        self.steps += 1;
        let (beta1, beta2) = (0.9f32, 0.999f32);
        let correction2 = (1.0 - 0.999f64.powi(self.steps)).sqrt() as f32;
        let rate = (lr / (1.0 - 0.9f64.powi(self.steps))) as f32;
        let moments = self.first_moment.iter_mut().zip(&mut self.second_moment);
        for ((p, &g), (m, v)) in self.params.iter_mut().zip(&self.grads).zip(moments) {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *p -= rate * *m / (v.sqrt() / correction2 + 1e-8);
        }
    }

    fn at(&self, i: usize) -> &[f32] {
        &self.params[self.ranges[i].clone()]
    }

    /// Gradients of the affine layer whose weight is parameter `i`.
    fn affine_backward(&mut self, i: usize, x: &[f32], dy: &[f32]) {
        let (dweight, dbias) =
            self.grads[self.ranges[i].start..self.ranges[i + 1].end].split_at_mut(self.ranges[i].len());
        dense::affine_backward(x, dy, dweight, dbias);
    }

    /// Gradients of the batch norm whose weight is parameter `i`; `dy` becomes that of its input.
    fn batch_norm_backward(&mut self, i: usize, dy: &mut [f32], normal: &[f32], scale: &[f32]) {
        let (dweight, dbias) =
            self.grads[self.ranges[i].start..self.ranges[i + 1].end].split_at_mut(self.ranges[i].len());
        dense::batch_norm_backward(dy, &self.params[self.ranges[i].clone()], normal, scale, dweight, dbias);
    }
}
