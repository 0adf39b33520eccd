//! Which kind of generator, and how it is built and fitted.

use std::fmt::{self, Display};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{DiffusionConfig, VaeConfig};

/// A kind of generator.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A variational autoencoder, the paper's
    Vae,
    /// A diagonal Gaussian
    Gaussian,
    /// A mixture of five diagonal Gaussians
    Mog,
    /// A diffusion model
    Diffusion,
}

/// How a generator is built and fitted, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "generator", content = "config", rename_all = "lowercase")]
pub enum GeneratorConfig {
    Vae(VaeConfig),
    Gaussian,
    Mog,
    Diffusion(DiffusionConfig),
}

/// The kind of generator and what is set of it, on command lines.
#[derive(Args)]
pub struct GeneratorOptions {
    /// Kind of generator
    #[arg(long = "generator", value_enum, default_value_t = Kind::Vae)]
    kind: Kind,
    #[arg(long, help = help("Passes over the rows of a class", VAE.epochs, DIFFUSION.epochs))]
    #[arg(value_parser = crate::at_least::<1>)]
    epochs: Option<usize>,
    #[arg(long, help = help("Learning rate; the VAE anneals it", VAE.lr, DIFFUSION.lr))]
    #[arg(value_parser = crate::positive)]
    lr: Option<f64>,
    #[arg(long, help = help("Width of the hidden layers", VAE.hidden, DIFFUSION.hidden))]
    #[arg(value_parser = crate::at_least::<1>)]
    hidden: Option<usize>,
    #[arg(long, help = format!("Dimension of the VAE's latent space [default: {}]", VAE.latent))]
    #[arg(value_parser = crate::at_least::<1>)]
    latent: Option<usize>,
    #[arg(long, help = help("Rows per step; the VAE skips a batch of one row", VAE.batch_size, DIFFUSION.batch_size))]
    #[arg(value_parser = crate::at_least::<2>)]
    batch_size: Option<usize>,
    /// Sample the VAE's posterior as mu + eps·exp(logvar), as the authors' code does, instead of exp(logvar / 2)
    #[arg(long)]
    legacy_reparam: bool,
}

const VAE: VaeConfig = VaeConfig::DEFAULT;
const DIFFUSION: DiffusionConfig = DiffusionConfig::DEFAULT;

fn help(what: &str, vae: impl Display, diffusion: impl Display) -> String {
    format!("{what} [default: {vae} of vae, {diffusion} of diffusion]")
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no kind is left out of the options").get_name())
    }
}

impl Kind {
    /// The options that it has, of those that not every kind has.
    pub fn options(self) -> &'static [&'static str] {
        const OPTIONS: [&str; 6] = ["--epochs", "--lr", "--hidden", "--batch-size", "--latent", "--legacy-reparam"];
        match self {
            Kind::Vae => &OPTIONS,
            Kind::Gaussian | Kind::Mog => &[],
            Kind::Diffusion => &OPTIONS[..4],
        }
    }
}

impl GeneratorOptions {
    /// The configuration, with the kind's own defaults. What the kind does not have must not be set.
    pub fn config(&self) -> Result<GeneratorConfig> {
        let set = [
            ("--epochs", self.epochs.is_some()),
            ("--lr", self.lr.is_some()),
            ("--hidden", self.hidden.is_some()),
            ("--batch-size", self.batch_size.is_some()),
            ("--latent", self.latent.is_some()),
            ("--legacy-reparam", self.legacy_reparam),
        ];
        let known = self.kind.options();
        if let Some((option, _)) = set.iter().find(|(option, set)| *set && !known.contains(option)) {
            let has = if known.is_empty() { "has nothing to set".into() } else { format!("has {}", known.join(", ")) };
            bail!(
                "the generator {} has no {option}, it {has}: leave {option} out, or take another --generator",
                self.kind
            );
        }
        Ok(match self.kind {
            Kind::Vae => GeneratorConfig::Vae(VaeConfig {
                epochs: self.epochs.unwrap_or(VAE.epochs),
                lr: self.lr.unwrap_or(VAE.lr),
                hidden: self.hidden.unwrap_or(VAE.hidden),
                latent: self.latent.unwrap_or(VAE.latent),
                batch_size: self.batch_size.unwrap_or(VAE.batch_size),
                legacy_reparam: self.legacy_reparam,
            }),
            Kind::Gaussian => GeneratorConfig::Gaussian,
            Kind::Mog => GeneratorConfig::Mog,
            Kind::Diffusion => GeneratorConfig::Diffusion(DiffusionConfig {
                epochs: self.epochs.unwrap_or(DIFFUSION.epochs),
                lr: self.lr.unwrap_or(DIFFUSION.lr),
                hidden: self.hidden.unwrap_or(DIFFUSION.hidden),
                batch_size: self.batch_size.unwrap_or(DIFFUSION.batch_size),
            }),
        })
    }
}

impl GeneratorConfig {
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
}
