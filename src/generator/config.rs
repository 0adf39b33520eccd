//! Which kind of generator, and how it is built and fitted.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    diffusion::{DiffusionConfig, TIME_EMBEDDING},
    vae::VaeConfig,
};
use crate::choice::choices;

choices! {
    /// A kind of generator.
    pub enum Kind {
        Vae = "vae": "A variational autoencoder, the paper's",
        Gaussian = "gaussian": "A diagonal Gaussian",
        Shared = "shared": "A Gaussian whose covariance all classes share: of a class its mean is kept",
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
    /// The mean of a class, and the covariance that all share.
    Shared,
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
            GeneratorConfig::Shared => Kind::Shared,
            GeneratorConfig::Mog => Kind::Mog,
            GeneratorConfig::Diffusion(_) => Kind::Diffusion,
        }
    }

    /// How often a fit reports that it goes on: after each epoch, or once.
    pub fn ticks(&self) -> usize {
        match self {
            GeneratorConfig::Vae(config) => config.epochs,
            GeneratorConfig::Diffusion(config) => config.epochs,
            GeneratorConfig::Gaussian | GeneratorConfig::Shared | GeneratorConfig::Mog => 1,
        }
    }

    /// Training rows that a class needs. One has no deviation; a VAE of one gives it back.
    pub fn least_rows(&self) -> usize {
        match self {
            GeneratorConfig::Shared | GeneratorConfig::Vae(_) => 1,
            _ => 2,
        }
    }

    /// The learning rate, of a kind that has one.
    pub fn lr(&self) -> Option<f64> {
        match self {
            GeneratorConfig::Vae(config) => Some(config.lr),
            GeneratorConfig::Diffusion(config) => Some(config.lr),
            GeneratorConfig::Gaussian | GeneratorConfig::Shared | GeneratorConfig::Mog => None,
        }
    }

    /// An error where fitting a class with embeddings of `dim` values would take more memory than a
    /// machine has.
    pub fn check_size(&self, dim: usize) -> Result<()> {
        const MOST: f64 = 16e9;
        let (networks, what) = match self {
            GeneratorConfig::Vae(c) => {
                let encoder = vec![dim, c.hidden, c.hidden, 2 * c.latent];
                (vec![encoder, vec![c.latent, c.hidden, c.hidden, dim]], "--hidden or --latent")
            }
            GeneratorConfig::Diffusion(c) => {
                (vec![vec![dim + TIME_EMBEDDING, c.hidden, c.hidden, c.hidden, c.hidden, dim]], "--hidden")
            }
            GeneratorConfig::Gaussian | GeneratorConfig::Shared | GeneratorConfig::Mog => return Ok(()),
        };
        let layers = networks.iter().flat_map(|widths| widths.windows(2));
        let weights: f64 = layers.map(|pair| pair[0] as f64 * pair[1] as f64).sum();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_layers_that_there_are() {
        let vae = |hidden, latent| GeneratorConfig::Vae(VaeConfig { hidden, latent, ..VaeConfig::DEFAULT });
        let diffusion = |hidden| GeneratorConfig::Diffusion(DiffusionConfig { hidden, ..DiffusionConfig::DEFAULT });
        // 16 bytes × (768 × 512 + 512² + 512 × 2 L + L × 512 + 512² + 512 × 768) for L = 22,000
        for (config, is_allowed) in [
            (vae(512, 22_000), true),
            (vae(21_700, 256), true), // 15.9 GB
            (vae(22_500, 256), false),
            (vae(1_000_000, 256), false),
            (diffusion(16_000), true), // 12.7 GB
            (diffusion(19_000), false),
            (GeneratorConfig::Gaussian, true),
        ] {
            assert_eq!(config.check_size(768).is_ok(), is_allowed, "{config:?}");
        }
        let error = diffusion(1_000_000).check_size(768).unwrap_err().to_string();
        assert!(error.contains("48025 GB") && error.contains("smaller --hidden"), "{error}");
    }
}
