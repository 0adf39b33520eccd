//! Fits one class's generator. It depends on the class's rows, the configuration and the seed alone.

use std::{f64::consts::PI, time::Instant};

use anyhow::Result;
use candle_core::Device;
use rayon::prelude::*;

use super::{Generator, Scaler, Vae, VaeConfig, fit_together, vae::Losses};
use crate::{
    profile::{Phase, time},
    rng::{Draw, Rng},
};

/// A class's generator and how its fit went.
#[derive(Clone, Debug)]
pub struct Fitted {
    pub generator: Generator,
    /// Rows it was fitted to.
    pub rows: usize,
    /// Mean over the last epoch.
    pub losses: Losses,
    pub seconds: f64,
}

/// The embeddings of a class, to be fitted: at least 2 rows, flat.
pub struct ClassRows {
    pub label: i64,
    pub rows: Vec<f32>,
}

/// Classes that a device fits together: their parameters, moments and gradients take about 27 MB each.
const TOGETHER: usize = 64;

/// Fits a VAE to each of `classes`, rows of `dim` values: on the CPU one per thread, on another device many together. `put`
/// takes each with its place in `classes`; `tick` is called for every class after each epoch.
pub fn fit_all(
    classes: &[ClassRows],
    dim: usize,
    seed: u64,
    config: &VaeConfig,
    device: &Device,
    tick: impl Fn() + Sync,
    put: impl Fn(usize, Fitted) -> Result<()> + Sync,
) -> Result<()> {
    if device.is_cpu() {
        return classes
            .par_iter()
            .enumerate()
            .with_max_len(1)
            .try_for_each(|(i, class)| put(i, fit(&class.rows, dim, class.label, seed, config, &tick)));
    }
    for (part, classes) in classes.chunks(TOGETHER).enumerate() {
        for (i, fitted) in fit_together(classes, dim, seed, config, device, &tick)?.into_iter().enumerate() {
            put(part * TOGETHER + i, fitted)?;
        }
    }
    Ok(())
}

/// Fits a VAE to the embeddings `rows` (N, dim), flat, of one class; N is at least 2. `tick` is called after
/// each epoch.
pub fn fit(rows: &[f32], dim: usize, label: i64, seed: u64, config: &VaeConfig, tick: impl Fn()) -> Fitted {
    let start = Instant::now();
    let n = rows.len() / dim;
    let scaler = Scaler::fit(rows, dim);
    let mut standard = rows.to_vec();
    scaler.standardise(&mut standard);

    let mut vae = Vae::new(dim, config, seed, label);
    let mut rng = Rng::new(seed, Draw::VaeBatches, &[label as u64]);
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
        losses = Losses { reconstruction: sum.reconstruction / seen, kl: sum.kl / seen };
        tick();
    }
    let generator = Generator { decoder: vae.decoder(), scaler };
    Fitted { generator, rows: n, losses, seconds: start.elapsed().as_secs_f64() }
}

/// What the learning rate is multiplied with in an epoch (from 0): cosine annealing with warm restarts
/// (Loshchilov and Hutter, 2017), the first cycle a tenth of the epochs, each next one twice as long.
pub fn annealing(epoch: usize, epochs: usize) -> f64 {
    let (mut start, mut length) = (0, (epochs / 10).max(1));
    while epoch >= start + length {
        start += length;
        length *= 2;
    }
    0.5 * (1.0 + (PI * (epoch - start) as f64 / length as f64).cos())
}
