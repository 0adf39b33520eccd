//! One kind of work, timed, for `benches/torch/versus.py` to set beside PyTorch's: prints seconds
//! per unit.
//!
//!     cargo bench --bench versus -- encode MODEL IMAGES            per image, files on disk to embeddings
//!     cargo bench --bench versus -- vae DIM CLASSES ROWS EPOCHS    per class and epoch
//!     cargo bench --bench versus -- step MODEL NAMES CLASSES STEPS per prompt step on 128 embeddings, median; NAMES is a file

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use cgil::{
    clip::Checkpoint,
    dense::cosine::normalise,
    embed::embed,
    embeddings::Shard,
    generator::{ClassRows, GeneratorConfig, VaeConfig, fit},
    prompt::{Learner, PromptConfig, cpu::Prompts},
    rng::{Draw, Rng},
    rows::{Rows, SPLITS},
    source::{Source, SourceOptions},
    task::Class,
};
use rayon::prelude::*;

fn main() -> Result<()> {
    // Safety: no other thread runs yet.
    unsafe { cgil::prepare() };
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |i: usize| -> Result<usize> { Ok(arguments[i].parse()?) };
    let seconds = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["encode", model, images] => encode(model, images)?,
        ["vae", _, _, _, _] => vae(number(1)?, number(2)?, number(3)?, number(4)?),
        ["step", model, names, _, _] => step(model, names, number(3)?, number(4)?)?,
        [] => return Ok(()), // as `cargo bench` calls every benchmark
        _ => bail!("expected encode MODEL IMAGES, vae DIM CLASSES ROWS EPOCHS or step MODEL NAMES CLASSES STEPS"),
    };
    println!("{seconds:e}");
    Ok(())
}

fn encode(model: &str, images: &str) -> Result<f64> {
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let (encoder, preprocess) = (checkpoint.image_encoder(&Device::Cpu, DType::F32)?, checkpoint.preprocess()?);
    let source = Source::open(Path::new(images), &SourceOptions::default())?;
    let shards: Vec<_> = SPLITS.iter().map(|&split| Shard { split, number: 0, rows: 0..source.rows[split] }).collect();
    let encoders = vec![&encoder; rayon::current_num_threads()];
    let start = Instant::now();
    let mut done = 0;
    embed(
        &source,
        &shards,
        &preprocess,
        &encoders,
        |_| (),
        |_, rows| {
            done += rows.sample_ids.len();
            Ok(())
        },
    )?;
    Ok(start.elapsed().as_secs_f64() / done as f64)
}

fn vae(dim: usize, classes: usize, rows: usize, epochs: usize) -> f64 {
    let config = GeneratorConfig::Vae(VaeConfig { epochs, ..VaeConfig::DEFAULT });
    let class = |key| ClassRows { key, rows: Rows::new(dim, noise(rows * dim, key)) };
    let data: Vec<ClassRows> = (0..classes as u64).map(class).collect();
    let start = Instant::now();
    data.par_iter().with_max_len(1).for_each(|class| {
        fit(class, 0, &config, || ());
    });
    start.elapsed().as_secs_f64() / (classes * epochs) as f64
}

fn step(model: &str, names: &str, classes: usize, steps: usize) -> Result<f64> {
    const ROWS: usize = 128;
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let tokenizer = checkpoint.tokenizer()?;
    let encoder = checkpoint.text_encoder(&tokenizer)?;
    let dim = encoder.dim;
    let names = fs::read_to_string(names)?;
    let names = names.lines().cycle().take(classes);
    let names: Vec<Class> = names.zip(0..).map(|(name, label)| Class { label, name: name.into() }).collect();
    let mut prompts = Prompts::new(encoder, &tokenizer, &names, &PromptConfig::default(), 0)?;
    let mut embeddings = noise(ROWS * dim, 0);
    normalise(&mut embeddings, dim);
    let labels: Vec<u32> = (0..ROWS).map(|i| (i % classes) as u32).collect();
    let batch: Vec<usize> = (0..ROWS).collect();
    prompts.begin(0)?;
    let mut step = || -> Result<f64> {
        let start = Instant::now();
        prompts.steps(classes, &embeddings, &labels, &[&batch])?;
        Ok(start.elapsed().as_secs_f64())
    };
    step()?; // warms up
    let mut seconds: Vec<f64> = (0..steps).map(|_| step()).collect::<Result<_>>()?;
    seconds.sort_by(f64::total_cmp);
    seconds.get(steps / 2).copied().context("no steps")
}

fn noise(n: usize, key: u64) -> Vec<f32> {
    Rng::new(0, Draw::Embeddings, &[key]).normals(n)
}
