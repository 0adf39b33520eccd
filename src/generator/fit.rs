//! Fits one class's generator. It depends on the class's rows, the configuration and the seed alone.

use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Generator, GeneratorConfig, diffusion, fit_together, gaussian, mixture,
    vae::{self, Losses},
};

/// A class's generator and how its fit went.
#[derive(Clone, Debug)]
pub struct Fitted {
    pub generator: Generator,
    /// Rows it was fitted to.
    pub rows: usize,
    pub measures: Measures,
    /// The loss of each epoch; of kinds that have epochs.
    pub losses: Vec<f64>,
    pub seconds: f64,
}

/// How well a generator fits, by what its kind measures; the table `latents` says what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    pub reconstruction: Option<f64>,
    pub kl: Option<f64>,
    pub log_likelihood: Option<f64>,
    pub denoising: Option<f64>,
}

impl From<Losses> for Measures {
    fn from(Losses { reconstruction, kl }: Losses) -> Self {
        Measures { reconstruction: Some(reconstruction), kl: Some(kl), ..Measures::default() }
    }
}

/// The embeddings of a class, to be fitted: at least 2 rows, flat.
pub struct ClassRows {
    pub label: i64,
    pub rows: Vec<f32>,
}

/// Classes that a device fits together: their parameters, moments and gradients take about 27 MB each.
const TOGETHER: usize = 64;

/// Fits a generator to each of `classes`, rows of `dim` values: on the CPU one per thread; VAEs on another device many together.
/// `put` takes each with its place in `classes`; `tick` is called as often for every class as [`GeneratorConfig::ticks`] says.
pub fn fit_all(
    classes: &[ClassRows],
    dim: usize,
    seed: u64,
    config: &GeneratorConfig,
    device: &Device,
    tick: impl Fn() + Sync,
    put: impl Fn(usize, Fitted) -> Result<()> + Sync,
) -> Result<()> {
    match config {
        GeneratorConfig::Vae(config) if !device.is_cpu() => {
            for (part, classes) in classes.chunks(TOGETHER).enumerate() {
                for (i, fitted) in fit_together(classes, dim, seed, config, device, &tick)?.into_iter().enumerate() {
                    put(part * TOGETHER + i, fitted)?;
                }
            }
            Ok(())
        }
        _ => classes
            .par_iter()
            .enumerate()
            .with_max_len(1)
            .try_for_each(|(i, class)| put(i, fit(&class.rows, dim, class.label, seed, config, &tick))),
    }
}

/// Fits a generator to the embeddings `rows` (N, dim), flat, of one class; N is at least 2. `tick` is called as often as
/// [`GeneratorConfig::ticks`] says.
pub fn fit(rows: &[f32], dim: usize, label: i64, seed: u64, config: &GeneratorConfig, tick: impl Fn()) -> Fitted {
    let start = Instant::now();
    let mut losses = Vec::new();
    let epoch = |loss| {
        losses.push(loss);
        tick();
    };
    let (generator, measures) = match config {
        GeneratorConfig::Vae(config) => vae::fit(rows, dim, label, seed, config, epoch),
        GeneratorConfig::Gaussian => gaussian::fit(rows, dim, tick),
        GeneratorConfig::Mog => mixture::fit(rows, dim, label, seed, tick),
        GeneratorConfig::Diffusion(config) => diffusion::fit(rows, dim, label, seed, config, epoch),
    };
    Fitted { generator, rows: rows.len() / dim, measures, losses, seconds: start.elapsed().as_secs_f64() }
}
