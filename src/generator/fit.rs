//! Fits one class's generator. It depends on the class's rows, its name, the configuration and the
//! seed alone.

use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use rayon::prelude::*;

use super::{
    config::GeneratorConfig,
    diffusion,
    fitted::{ClassRows, Fitted, Measures},
    gaussian::Gaussian,
    kinds::Generator,
    mixture::Mixture,
    together::fit_together,
    vae,
};
use crate::{
    dense::moments::mean_row,
    profile::{Phase, time},
    rng::{Draw, Rng},
    stop,
};

/// Classes that a device fits together: their parameters, moments and gradients take about 27 MB
/// each.
const TOGETHER: usize = 128;

/// Fits a generator to each of `classes`, rows of `dim` values: on the CPU one per thread; VAEs on
/// another device many together. `put` takes each with its place in `classes`; `tick` is called as
/// often for every class as [`GeneratorConfig::ticks`] says. Where the process is asked to stop, it
/// ends with the classes in hand.
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
                if stop::is_asked() {
                    break;
                }
                for (i, fitted) in fit_together(classes, dim, seed, config, device, &tick)?.into_iter().enumerate() {
                    put(part * TOGETHER + i, fitted)?;
                }
            }
            Ok(())
        }
        _ => {
            classes.par_iter().enumerate().with_max_len(1).try_for_each(|(i, class)| {
                if stop::is_asked() { Ok(()) } else { put(i, fit(class, seed, config, &tick)) }
            })
        }
    }
}

/// Fits a generator to the rows of one class. `tick` is called as often as
/// [`GeneratorConfig::ticks`] says.
pub fn fit(class: &ClassRows, seed: u64, config: &GeneratorConfig, tick: impl Fn()) -> Fitted {
    let start = Instant::now();
    let (key, rows, dim) = (class.key, class.rows.values(), class.rows.dim());
    let mut losses = Vec::new();
    let epoch = |loss| {
        losses.push(loss);
        tick();
    };
    let (generator, measures) = match config {
        GeneratorConfig::Vae(config) => {
            let (decoder, scaler, losses) = vae::fit(rows, dim, key, seed, config, epoch);
            (Generator::Vae { decoder, scaler }, losses.into())
        }
        GeneratorConfig::Gaussian => {
            let gaussian = time(Phase::Optimise, || Gaussian::fit(rows, dim));
            let measures = Measures::of_density(time(Phase::Forward, || gaussian.log_likelihood(rows)));
            tick();
            (Generator::Gaussian(gaussian), measures)
        }
        GeneratorConfig::Shared => {
            let mean = mean_row(rows, dim).into_iter().map(|x| x as f32).collect();
            tick();
            (Generator::Shared(mean), Measures::default())
        }
        GeneratorConfig::Mog => {
            let mixture = Mixture::fit(rows, dim, &mut Rng::new(seed, Draw::MixtureSeeds, &[key]));
            let measures = Measures::of_density(mixture.log_likelihood(rows));
            tick();
            (Generator::Mog(mixture), measures)
        }
        GeneratorConfig::Diffusion(config) => {
            let (denoiser, scaler, loss) = diffusion::fit(rows, dim, key, seed, config, epoch);
            (Generator::Diffusion { denoiser, scaler }, Measures { denoising: Some(loss), ..Measures::default() })
        }
    };
    Fitted { generator, rows: rows.len() / dim, measures, losses, seconds: start.elapsed().as_secs_f64() }
}
