//! About what stages need, from a little of their work that is done here.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use anyhow::Result;
use candle_core::Device;
use cgil::{
    benchmark::{Work, multiply_adds_per_second},
    clip::{Checkpoint, Config},
    embed::embed,
    embeddings::Shard,
    generator::{ClassRows, DiffusionConfig, GeneratorConfig, VaeConfig, fit_all},
    rng::{Draw, Rng},
    rows::Rows,
    source::Source,
};

use crate::{
    extract::{DataOptions, Encoding},
    terminal,
};

/// Images are encoded for so long, or until all are.
const SECONDS: f64 = 2.0;

/// Epochs that a generator is fitted for.
const EPOCHS: usize = 4;

/// What a stage needs.
pub struct Needed {
    /// Of one process, on this machine.
    pub seconds: f64,
    /// MB of a process.
    pub memory: u64,
    /// Bytes that it makes.
    pub bytes: u64,
}

impl Needed {
    /// As a plan says it.
    pub fn lines(&self) -> String {
        let Needed { seconds, memory, bytes } = self;
        format!(
            "seconds = {seconds:.3}  # {}, of one process on this machine\nmemory = {memory}  # MB of a process\nbytes = \
             {bytes}  # of what is made\n",
            terminal::duration(*seconds)
        )
    }
}

/// What the members of a sweep need, as a plan says it, where fitting the generators of one seed needs
/// so much. What baselines need is not known before.
pub fn of_members(work: &Work, seeds: usize, fitting: &Needed, config: &Config) -> String {
    let fits = if work.generator_rows > 0 { seeds as f64 * fitting.seconds } else { 0.0 };
    let prompts = work.multiply_adds(config).prompts / multiply_adds_per_second();
    if fits + prompts == 0.0 {
        return "# what baselines need is not estimated\n".into();
    }
    format!(
        "seconds = {:.3}  # {} of generators and prompts, of one process on this machine's CPU; baselines, memory and \
         bytes are not estimated\n",
        fits + prompts,
        terminal::duration(fits + prompts)
    )
}

/// To encode all images.
pub fn of_images(checkpoint: &Checkpoint, source: &Source, options: &DataOptions) -> Result<Needed> {
    let encoding = Encoding::open(checkpoint, options, None)?;
    let (mut images, mut seconds, mut size) = (0, 0.0, 16);
    let most = source.rows.values().copied().max().unwrap_or(0);
    let split = cgil::rows::SPLITS.into_iter().find(|split| source.rows.get(*split) == Some(&most));
    // more and more, from the first on, so that what is counted last had warm caches
    while let Some(split) = split.filter(|_| seconds < SECONDS && images < most) {
        let (start, shard, mut unread) = (Instant::now(), Shard { split, number: 0, rows: 0..size.min(most) }, None);
        let put = |_, rows: Result<_>| {
            unread = rows.err();
            Ok(())
        };
        embed(source, &[shard], &encoding.preprocess, &encoding.at_work(), |_| (), put)?;
        if let Some(error) = unread {
            terminal::note(&format!("note: a shard of these images cannot be made: {error:#}"));
            break;
        }
        (images, seconds) = (size.min(most), start.elapsed().as_secs_f64());
        size *= 2;
    }
    let all: usize = source.rows.values().sum();
    let row = 4 * checkpoint.config.projection_dim as u64;
    Ok(Needed {
        seconds: seconds / images.max(1) as f64 * all as f64,
        memory: most_memory() + 3 * options.shard_rows as u64 * row / 1_000_000,
        bytes: all as u64 * row,
    })
}

/// To fit the generators of so many classes of so many rows each, of `dim` values.
pub fn of_generators(
    config: &GeneratorConfig,
    classes: usize,
    rows: usize,
    dim: usize,
    device: &Device,
) -> Result<Needed> {
    let short = match config {
        GeneratorConfig::Vae(config) => {
            GeneratorConfig::Vae(VaeConfig { epochs: config.epochs.min(EPOCHS), ..config.clone() })
        }
        GeneratorConfig::Diffusion(config) => {
            GeneratorConfig::Diffusion(DiffusionConfig { epochs: config.epochs.min(EPOCHS), ..config.clone() })
        }
        other => other.clone(),
    };
    // as many as are fitted at once
    let at_once = rayon::current_num_threads().min(classes);
    let mut draws = Rng::new(0, Draw::Embeddings, &[]);
    let data: Vec<ClassRows> =
        (0..at_once as u64).map(|key| ClassRows { key, rows: Rows::new(dim, draws.normals(rows * dim)) }).collect();
    let bytes = AtomicU64::new(0);
    let start = Instant::now();
    fit_all(
        &data,
        dim,
        0,
        &short,
        device,
        || (),
        |_, fitted| {
            bytes.fetch_max(fitted.generator.bytes() as u64, Ordering::Relaxed);
            Ok(())
        },
    )?;
    let epochs = config.ticks() as f64 / short.ticks() as f64;
    Ok(Needed {
        seconds: start.elapsed().as_secs_f64() * epochs * classes as f64 / at_once as f64,
        memory: most_memory() + 8 * (rows * dim * 4 * at_once) as u64 / 1_000_000,
        bytes: bytes.into_inner() * classes as u64,
    })
}

/// The most memory that this process has had, in MB; 0 where the system does not say.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1000
}
