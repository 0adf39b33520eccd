//! Which kind of generator, and how it is built and fitted.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{diffusion::DiffusionConfig, vae::VaeConfig};
use crate::choice::choices;

choices! {
    /// A kind of generator.
    pub enum Kind {
        Vae = "vae": "A variational autoencoder, the paper's",
        Gaussian = "gaussian": "A diagonal Gaussian",
        Mog = "mog": "A mixture of five diagonal Gaussians",
        Diffusion = "diffusion": "A diffusion model",
    }
}

/// How a generator is built and fitted, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "generator", content = "config", rename_all = "lowercase")]
pub enum GeneratorConfig {
    /// A variational autoencoder, the paper's.
    Vae(VaeConfig),
    /// A diagonal Gaussian.
    Gaussian,
    /// A mixture of diagonal Gaussians.
    Mog,
    /// A diffusion model.
    Diffusion(DiffusionConfig),
}

impl GeneratorConfig {
    /// The kind without its options.
    pub fn kind(&self) -> Kind {
        match self {
            GeneratorConfig::Vae(_) => Kind::Vae,
            GeneratorConfig::Gaussian => Kind::Gaussian,
            GeneratorConfig::Mog => Kind::Mog,
            GeneratorConfig::Diffusion(_) => Kind::Diffusion,
        }
    }

    /// How often a fit reports that it goes on: after each epoch, or once.
    pub fn ticks(&self) -> usize {
        match self {
            GeneratorConfig::Vae(config) => config.epochs,
            GeneratorConfig::Diffusion(config) => config.epochs,
            GeneratorConfig::Gaussian | GeneratorConfig::Mog => 1,
        }
    }

    /// The learning rate, of a kind that has one.
    pub fn lr(&self) -> Option<f64> {
        match self {
            GeneratorConfig::Vae(config) => Some(config.lr),
            GeneratorConfig::Diffusion(config) => Some(config.lr),
            GeneratorConfig::Gaussian | GeneratorConfig::Mog => None,
        }
    }

    /// An error where fitting a class with embeddings of `dim` values would take more memory than a
    /// machine has.
    pub fn check_size(&self, dim: usize) -> Result<()> {
        const MOST: f64 = 16e9;
        let (widths, what) = match self {
            GeneratorConfig::Vae(c) => {
                (vec![dim, c.hidden, c.hidden, 2 * c.latent, c.latent, c.hidden, c.hidden, dim], "--hidden or --latent")
            }
            GeneratorConfig::Diffusion(c) => {
                (vec![dim + c.hidden, c.hidden, c.hidden, c.hidden, c.hidden, dim], "--hidden")
            }
            GeneratorConfig::Gaussian | GeneratorConfig::Mog => return Ok(()),
        };
        let weights: f64 = widths.windows(2).map(|pair| pair[0] as f64 * pair[1] as f64).sum();
        let bytes = 4.0 * 4.0 * weights; // a value, its gradient and two moments each
        if bytes > MOST {
            bail!(
                "a generator of this size takes {:.0} GB per class while it is fitted, and {:.0} GB are the most: use a smaller {what}",
                bytes / 1e9,
                MOST / 1e9
            );
        }
        Ok(())
    }
}
