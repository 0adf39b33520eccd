//! A generator of any kind: how it is sampled, and what is stored of it.

use anyhow::{Result, ensure};

use super::{
    config::Kind, diffusion::Denoiser, gaussian::Gaussian, mixture::Mixture, network, scaler::Scaler, vae::Decoder,
};
use crate::{
    rng::Rng,
    tensors::{self, Fields, Tensors},
};

/// A class's generator.
#[derive(Clone, Debug, PartialEq)]
pub enum Generator {
    /// Standard normal noise, decoded and scaled back.
    Vae {
        /// Noise to rows.
        decoder: Decoder,
        /// What scales rows back.
        scaler: Scaler,
    },
    /// Drawn from a Gaussian.
    Gaussian(Gaussian),
    /// The mean (D): what classes share of how they vary is added as replay noise.
    Shared(Vec<f32>),
    /// Drawn from a mixture.
    Mog(Mixture),
    /// Standard normal noise, denoised step by step and scaled back.
    Diffusion {
        /// Noise to rows.
        denoiser: Denoiser,
        /// What scales rows back.
        scaler: Scaler,
    },
}

/// Names of stored layers, as PyTorch would count them with the leaky ReLUs between.
const DECODER: [&str; 3] = ["decoder.0", "decoder.2", "decoder.4"];
const DENOISER: [&str; 5] = ["denoiser.0", "denoiser.2", "denoiser.4", "denoiser.6", "denoiser.8"];

impl Generator {
    /// `n` embeddings (n, D), flat, as the image encoder would give them; without the noise that
    /// [`Noise`](super::Noise) adds to them.
    pub fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        match self {
            Generator::Vae { decoder, scaler } => scaler.restored(decoder.decode(&rng.normals(n * decoder.latent))),
            Generator::Gaussian(gaussian) => gaussian.sample(n, rng),
            Generator::Shared(mean) => mean.repeat(n),
            Generator::Mog(mixture) => mixture.sample(n, rng),
            Generator::Diffusion { denoiser, scaler } => scaler.restored(denoiser.sample(n, rng)),
        }
    }

    /// Whether every value of it is a finite number.
    pub fn is_finite(&self) -> bool {
        self.fields().iter().all(|(_, _, values)| values.iter().all(|x| x.is_finite()))
    }

    /// Bytes of the tensors that the store keeps for it.
    pub fn bytes(&self) -> usize {
        self.fields().iter().map(|(_, _, values)| size_of_val(*values)).sum()
    }

    /// What the store keeps of it.
    pub(super) fn fields(&self) -> Fields<'_> {
        match self {
            Generator::Vae { decoder, scaler } => {
                [network::fields(&DECODER, &decoder.layers), scaler.fields()].concat()
            }
            Generator::Gaussian(gaussian) => gaussian.fields(),
            Generator::Shared(mean) => vec![("mean".into(), vec![mean.len()], mean)],
            Generator::Mog(mixture) => mixture.fields(),
            Generator::Diffusion { denoiser, scaler } => {
                [network::fields(&DENOISER, &denoiser.layers), scaler.fields()].concat()
            }
        }
    }

    /// A generator of its `kind` from what [`Generator::fields`] gave.
    pub(super) fn from_tensors(kind: Kind, tensors: &mut Tensors) -> Result<Self> {
        Ok(match kind {
            Kind::Vae => {
                let layers = network::take(tensors, DECODER)?;
                let [(first, bias), .., (_, last)] = &layers;
                let (latent, dim) = (first.len() / bias.len(), last.len());
                Generator::Vae { decoder: Decoder { latent, layers }, scaler: Scaler::take(tensors, dim)? }
            }
            Kind::Gaussian => Generator::Gaussian(Gaussian::take(tensors)?),
            Kind::Shared => {
                let (shape, mean) = tensors::take(tensors, "mean")?;
                ensure!(
                    shape.len() == 1 && !mean.is_empty(),
                    "tensor \"mean\" should have the shape [D], but has {shape:?}"
                );
                Generator::Shared(mean)
            }
            Kind::Mog => Generator::Mog(Mixture::take(tensors)?),
            Kind::Diffusion => {
                let layers = network::take(tensors, DENOISER)?;
                let dim = layers[layers.len() - 1].1.len();
                Generator::Diffusion { denoiser: Denoiser { layers }, scaler: Scaler::take(tensors, dim)? }
            }
        })
    }
}
