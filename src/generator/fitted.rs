//! What generators are fitted to, and what comes of it.

use serde::{Deserialize, Serialize};

use super::{kinds::Generator, vae::Losses};
use crate::rows::{Rows, Train};

/// A class's generator and how its fit went.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The generator.
    pub generator: Generator,
    /// Rows it was fitted to.
    pub rows: usize,
    /// How well it fits.
    pub measures: Measures,
    /// The loss of each epoch; of kinds that have epochs.
    pub losses: Vec<f64>,
    /// Seconds that the fit took on its thread.
    pub seconds: f64,
}

/// How well a generator fits, by what its kind measures; the table `latents` says what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Of a VAE: negative log-likelihood with unit variance, per row, in nat.
    pub reconstruction: Option<f64>,
    /// Of a VAE: divergence of the posterior from N(0, I), per row, in nat.
    pub kl: Option<f64>,
    /// Of a density: mean log-likelihood of a row, in nat.
    pub log_likelihood: Option<f64>,
    /// Of a diffusion model: squared error per value of the denoised standardised rows.
    pub denoising: Option<f64>,
}

impl Measures {
    /// Of a density with this mean log-likelihood of a row, in nat.
    pub(super) fn of_density(log_likelihood: f64) -> Self {
        Measures { log_likelihood: Some(log_likelihood), ..Measures::default() }
    }
}

impl From<Losses> for Measures {
    fn from(Losses { reconstruction, kl }: Losses) -> Self {
        Measures { reconstruction: Some(reconstruction), kl: Some(kl), ..Measures::default() }
    }
}

/// The embeddings of a class, to be fitted: as many rows as its kind needs.
pub struct ClassRows {
    /// What its draws are keyed by.
    pub key: u64,
    /// Its training rows (N, D).
    pub rows: Rows<Train>,
}
