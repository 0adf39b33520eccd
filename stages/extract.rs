//! Stage 1: every image through CLIP's image encoder, once, into the table `embeddings`.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use candle_core::Device;
use cgil::{
    clip::{Checkpoint, ImageEncoder, Preprocess},
    device::{DeviceChoice, Precision, class_of},
    embed::embed,
    embeddings::{Embeddings, FIRST_SOURCE, SourcePlan},
    profile::{Phase, time},
    rows::{Split, Test, Train},
    run::Run,
    source::{Source, SourceOptions},
    words::counted,
};
use clap::Args;

use crate::{
    options::{at_least, choice},
    terminal::{self, Progress},
};

#[derive(Args)]
pub struct Options {
    /// Directory of a CLIP checkpoint in the Hugging Face layout
    ///
    /// It has config.json, model.safetensors and preprocessor_config.json (or
    /// processor_config.json); tokenizer.json is needed for prompts, not here.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Image folder, or directory of Hugging Face Parquet shards
    ///
    /// A folder is train/CLASS/*.jpg, test/CLASS/*.png (JPEG, PNG, WebP, GIF, BMP, TIFF, PNM);
    /// shards are train.parquet, train-00000-of-00002.parquet or train/0000.parquet, and so for
    /// test.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// What classes are called in prompts: CSV lines KEY,NAME, or JSON
    ///
    /// A CSV file of lines KEY,NAME, or a JSON file {"KEY": "NAME"}. The keys are the class
    /// directories (of Parquet shards the names there), or all of them labels, counted from 0;
    /// each class needs one.
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
    /// Column of the images in Parquet shards, where several fit
    #[arg(long, value_name = "NAME")]
    image_column: Option<String>,
    /// Column of the labels in Parquet shards, where several could be
    ///
    /// It has to be a ClassLabel.
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// Rows per file of embeddings
    ///
    /// An interrupted run loses one file's rows at most; of 768 values, 4096 rows are 12 MB.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least::<1>)]
    shard_rows: usize,
    /// Turn images as their EXIF orientation says; the original CLIP does not
    #[arg(long)]
    exif: bool,
    /// auto (CUDA if there), cpu, cuda, or cuda:0,1
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Number type of the encoder's products; the CPU has float32 alone
    ///
    /// The table records it.
    #[arg(long, value_name = "TYPE", value_parser = choice::<Precision>(), default_value_t = Precision::Float32)]
    dtype: Precision,
    /// Print where the time went
    #[arg(long, hide_short_help = true)]
    profile: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let run = Run::open(&options.run, terminal::note)?;
    let checkpoint = Checkpoint::open(&options.model)?;
    let mut preprocess = checkpoint.preprocess()?;
    preprocess.exif = options.exif;
    let source = open_source(options)?;
    let devices = options.device.open(2)?;
    let encoders = time(Phase::Load, || open_encoders(options, &devices, &checkpoint))?; // first, so that nothing is written if one has an error
    let plan = plan(options, class_of(&devices[0]), &checkpoint, &preprocess, &source)?;
    let mut embeddings = Embeddings::create(&run, FIRST_SOURCE, plan)?;

    embeddings.remove_changed(&source)?;
    let missing = embeddings.missing();
    let images: usize = missing.iter().map(|shard| shard.rows.len()).sum();
    let progress = Progress::new("extract", images);
    let mut encoded = 0;
    embed(
        &source,
        &missing,
        &preprocess,
        &at_work(&encoders),
        |images| progress.inc(images as u64),
        |shard, rows| {
            encoded += rows.labels.len();
            embeddings.write_shard(&missing[shard], rows)
        },
    )?;
    progress.finish();
    embeddings.seal()?;
    note_lost_classes(&source, &embeddings)?;
    summarise(options, &embeddings, encoded)?;
    terminal::profile(options.profile, start)
}

fn open_source(options: &Options) -> Result<Source> {
    let source = Source::open(
        &options.data,
        &SourceOptions {
            leave_out: Some(options.run.clone()),
            class_names: options.class_names.clone(),
            image_column: options.image_column.clone(),
            label_column: options.label_column.clone(),
        },
    )?;
    for note in &source.notes {
        terminal::note(&format!("note: {note}"));
    }
    Ok(source)
}

/// An encoder for the CPU, or two for each CUDA device: one copies while the other computes.
fn open_encoders(options: &Options, devices: &[Device], checkpoint: &Checkpoint) -> Result<Vec<ImageEncoder>> {
    terminal::note_device(&options.device, &devices[0]);
    options.dtype.prepare(devices)?;
    devices.iter().map(|device| checkpoint.image_encoder(device, options.dtype.dtype())).collect()
}

/// The encoders that work side by side: the CPU's on every thread.
fn at_work(encoders: &[ImageEncoder]) -> Vec<&ImageEncoder> {
    match encoders {
        [encoder @ ImageEncoder::Cpu(_)] => vec![encoder; rayon::current_num_threads()],
        several => several.iter().collect(),
    }
}

fn plan(
    options: &Options,
    device: &str,
    checkpoint: &Checkpoint,
    preprocess: &Preprocess,
    source: &Source,
) -> Result<SourcePlan> {
    let plan = SourcePlan {
        source: source.id.clone(),
        model: Some(checkpoint.id()?),
        preprocessing: Some(preprocess.id()),
        compute_dtype: options.dtype.to_string(),
        device: Some(device.to_owned()),
        dim: checkpoint.config.projection_dim,
        classes: source.classes.clone(),
        rows: source.rows.clone(),
        shard_rows: options.shard_rows,
    };
    plan.checked()
}

/// Names the classes all of whose images of a split are in the quarantine.
fn note_lost_classes(source: &Source, embeddings: &Embeddings) -> Result<()> {
    for (split, count) in [
        (Train::NAME, Embeddings::count::<Train> as fn(&Embeddings, i64) -> Result<usize>),
        (Test::NAME, Embeddings::count::<Test>),
    ] {
        let mut lost = Vec::new();
        for (class, &had) in source.classes.iter().zip(&source.counts[split]) {
            if had > 0 && count(embeddings, class.label)? == 0 {
                lost.push(format!("{:?} ({had})", class.name));
            }
        }
        if !lost.is_empty() {
            let lost = lost.join(", ");
            terminal::note(&format!("note: all {split} images of these classes are in the quarantine: {lost}"));
        }
    }
    Ok(())
}

fn summarise(options: &Options, embeddings: &Embeddings, encoded: usize) -> Result<()> {
    let rows: usize = embeddings.plan.rows.values().sum();
    let (quarantined, run) = (embeddings.quarantined()?, options.run.display());
    if quarantined == rows {
        bail!(
            "none of the {} could be used: cgil query --run {run} \"SELECT * FROM quarantine\" says why",
            counted(rows, "image")
        );
    }
    let mut text = format!(
        "{} in {run}, {encoded} encoded now: {} of {}, {quarantined} quarantined\n",
        counted(rows, "image"),
        counted(rows - quarantined, "embedding"),
        counted(embeddings.plan.dim, "value")
    );
    if quarantined > 0 {
        text += &format!("cgil query --run {run} \"SELECT * FROM quarantine\" says why\n");
    }
    terminal::print(text)
}
