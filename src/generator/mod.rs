//! Class-conditional generators of embeddings, and the store that keeps them.

mod config;
pub mod diffusion;
mod fit;
pub mod gaussian;
pub mod mixture;
mod network;
mod scaler;
pub mod store;
mod together;
pub mod vae;

use anyhow::Result;

pub use config::{GeneratorConfig, GeneratorOptions, Kind};
pub use diffusion::{Denoiser, DiffusionConfig};
pub use fit::{ClassRows, Fitted, Measures, fit, fit_all};
pub use gaussian::Gaussian;
pub use mixture::Mixture;
pub use scaler::Scaler;
pub use store::LatentStore;
pub use together::fit_together;
pub use vae::{Vae, VaeConfig, annealing};

use crate::{rng::Rng, tensors::Tensors};

/// A class's generator.
#[derive(Clone, Debug, PartialEq)]
pub enum Generator {
    /// Standard normal noise, decoded and scaled back.
    Vae {
        decoder: vae::Decoder,
        scaler: Scaler,
    },
    Gaussian(Gaussian),
    Mog(Mixture),
    /// Standard normal noise, denoised step by step and scaled back.
    Diffusion {
        denoiser: Denoiser,
        scaler: Scaler,
    },
}

/// What the store keeps of a generator: names, shapes and values of tensors.
type Fields<'a> = Vec<(String, Vec<usize>, &'a [f32])>;

/// Names of stored layers, as PyTorch would count them with the leaky ReLUs between.
const DECODER: [&str; 3] = ["decoder.0", "decoder.2", "decoder.4"];
const DENOISER: [&str; 5] = ["denoiser.0", "denoiser.2", "denoiser.4", "denoiser.6", "denoiser.8"];

impl Generator {
    /// `n` embeddings (n, D), flat, as the image encoder would give them.
    pub fn sample(&self, n: usize, rng: &mut Rng) -> Vec<f32> {
        match self {
            Generator::Vae { decoder, scaler } => scaler.restored(decoder.decode(&rng.normals(n * decoder.latent))),
            Generator::Gaussian(gaussian) => gaussian.sample(n, rng),
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
    fn fields(&self) -> Fields<'_> {
        match self {
            Generator::Vae { decoder, scaler } => {
                [network::fields(&DECODER, &decoder.layers), scaler.fields()].concat()
            }
            Generator::Gaussian(gaussian) => gaussian.fields(),
            Generator::Mog(mixture) => mixture.fields(),
            Generator::Diffusion { denoiser, scaler } => {
                [network::fields(&DENOISER, &denoiser.layers), scaler.fields()].concat()
            }
        }
    }

    /// A generator of its `kind` from what [`Generator::fields`] gave.
    fn from_tensors(kind: Kind, tensors: &mut Tensors) -> Result<Self> {
        Ok(match kind {
            Kind::Vae => {
                let layers = network::take(tensors, DECODER)?;
                let [(first, bias), .., (_, last)] = &layers;
                let (latent, dim) = (first.len() / bias.len(), last.len());
                Generator::Vae { decoder: vae::Decoder { latent, layers }, scaler: Scaler::take(tensors, dim)? }
            }
            Kind::Gaussian => Generator::Gaussian(Gaussian::take(tensors)?),
            Kind::Mog => Generator::Mog(Mixture::take(tensors)?),
            Kind::Diffusion => {
                let layers = network::take(tensors, DENOISER)?;
                let dim = layers[layers.len() - 1].1.len();
                Generator::Diffusion { denoiser: Denoiser { layers }, scaler: Scaler::take(tensors, dim)? }
            }
        })
    }
}
