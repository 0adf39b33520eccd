//! One kind of work, timed, for `benches/torch` to set beside PyTorch's: prints seconds per unit.
//! DEVICE is cpu or cuda.
//!
//!     cargo bench --bench versus -- encode MODEL IMAGES                   per image, files on disk to embeddings
//!     cargo bench --bench versus -- pixels MODEL IMAGES DEVICE DTYPE      per image, pixels in memory to embeddings
//!     cargo bench --bench versus -- vae DIM CLASSES ROWS EPOCHS DEVICE    per class and epoch
//!     cargo bench --bench versus -- step MODEL NAMES CLASSES STEPS DEVICE per prompt step on 128 embeddings; NAMES is a file

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use cgil::{
    clip::{Checkpoint, image::Workspace},
    dense::cosine::normalise,
    device::{DeviceChoice, Precision},
    embed::embed,
    embeddings::Shard,
    generator::{ClassRows, GeneratorConfig, VaeConfig, fit_all},
    prompt::{self, Batch, Learning, PromptConfig},
    rng::{Draw, Rng},
    rows::{Rows, SPLITS},
    source::{Source, SourceOptions},
    task::Class,
};

fn main() -> Result<()> {
    // Safety: no other thread runs yet.
    unsafe { cgil::prepare() };
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |i: usize| -> Result<usize> { Ok(arguments[i].parse()?) };
    let device = |i: usize| arguments[i].parse::<DeviceChoice>().map_err(anyhow::Error::msg);
    let seconds = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["encode", model, images] => encode(model, images)?,
        ["pixels", model, _, _, dtype] => {
            pixels(model, number(2)?, &device(3)?, dtype.parse().map_err(anyhow::Error::msg)?)?
        }
        ["vae", ..] if arguments.len() == 6 => vae(number(1)?, number(2)?, number(3)?, number(4)?, &device(5)?)?,
        ["step", model, names, _, _, _] => step(model, names, number(3)?, number(4)?, &device(5)?)?,
        [] => return Ok(()), // as `cargo bench` calls every benchmark
        _ => bail!("expected encode, pixels, vae or step with its arguments"),
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
            done += rows?.sample_ids.len();
            Ok(())
        },
    )?;
    Ok(start.elapsed().as_secs_f64() / done as f64)
}

/// As extract does: on a device two encoders, on the CPU one for each thread. So many images, or
/// what fills all their batches.
fn pixels(model: &str, images: usize, device: &DeviceChoice, precision: Precision) -> Result<f64> {
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let devices = device.open(2)?;
    precision.prepare(&devices)?;
    let encoders: Vec<_> =
        devices.iter().map(|device| checkpoint.image_encoder(device, precision.dtype())).collect::<Result<_>>()?;
    let workers = if devices[0].is_cpu() { rayon::current_num_threads() } else { encoders.len() };
    let (side, size) = (checkpoint.config.vision_config.image_size, encoders[0].batch());
    let batches = images.div_ceil(workers * size);
    let normalisation = &checkpoint.preprocess()?.normalisation();
    let pixels: Vec<u8> = noise(size * 3 * side * side, 0).iter().map(|x| (x * 64.0 + 128.0) as u8).collect();
    let mut workspaces: Vec<_> = (0..workers).map(|_| Workspace::default()).collect();
    let mut run = |batches: usize| {
        std::thread::scope(|scope| {
            let works: Vec<_> = workspaces
                .iter_mut()
                .zip(encoders.iter().cycle())
                .map(|(workspace, encoder)| {
                    let pixels = &pixels;
                    scope.spawn(move || {
                        (0..batches).try_for_each(|_| encoder.encode(pixels, normalisation, workspace).map(|_| ()))
                    })
                })
                .collect();
            works.into_iter().try_for_each(|work| work.join().expect("an encoder's thread"))
        })
    };
    run(2)?; // warms up
    let start = Instant::now();
    run(batches)?;
    Ok(start.elapsed().as_secs_f64() / (batches * workers * size) as f64)
}

fn vae(dim: usize, classes: usize, rows: usize, epochs: usize, device: &DeviceChoice) -> Result<f64> {
    let class = |key| ClassRows { key, rows: Rows::new(dim, noise(rows * dim, key)) };
    let data: Vec<ClassRows> = (0..classes as u64).map(class).collect();
    let device = device.open_one()?;
    let seconds = |epochs: usize| -> Result<f64> {
        let config = GeneratorConfig::Vae(VaeConfig { epochs, ..VaeConfig::DEFAULT });
        let start = Instant::now();
        fit_all(&data, dim, 0, &config, &device, || (), |_, _| Ok(()))?;
        Ok(start.elapsed().as_secs_f64())
    };
    seconds(1)?; // warms up
    let start = seconds(1)?; // what is not an epoch's
    Ok((seconds(epochs + 1)? - start) / (classes * epochs) as f64)
}

fn step(model: &str, names: &str, classes: usize, steps: usize, device: &DeviceChoice) -> Result<f64> {
    const ROWS: usize = 128;
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let names = fs::read_to_string(names)?;
    let names = names.lines().cycle().take(classes);
    let names: Vec<Class> = names.zip(0..).map(|(name, label)| Class { label, name: name.into() }).collect();
    let mut prompts = prompt::backend::new(&checkpoint, &names, &PromptConfig::default(), 0, &device.open_one()?)?;
    let dim = checkpoint.config.projection_dim;
    let mut embeddings = noise(ROWS * dim, 0);
    normalise(&mut embeddings, dim);
    let labels: Vec<u32> = (0..ROWS).map(|i| (i % classes) as u32).collect();
    let batch: Vec<usize> = (0..ROWS).collect();
    let batches: Vec<Batch> = (0..steps).map(|_| Batch::of(&batch)).collect();
    prompts.begin(&Learning::after(0))?;
    prompts.steps(classes, &embeddings, &labels, &batches[..2.min(steps)])?; // warms up
    let mut run = || -> Result<f64> {
        let start = Instant::now();
        prompts.steps(classes, &embeddings, &labels, &batches)?;
        Ok(start.elapsed().as_secs_f64() / steps as f64)
    };
    let mut seconds = [run()?, run()?, run()?];
    seconds.sort_by(f64::total_cmp);
    seconds.get(1).copied().context("no steps")
}

fn noise(n: usize, key: u64) -> Vec<f32> {
    Rng::new(0, Draw::Embeddings, &[key]).normals(n)
}
