//! Stage 1: every image through CLIP's image encoder, once, into the table `embeddings`.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use cgil::{
    clip::{Checkpoint, Preprocess},
    embed::embed,
    profile::{Phase, time},
    source::Source,
    table::embeddings::{Embeddings, Manifest},
};
use clap::Args;

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Directory of a CLIP checkpoint: config.json, model.safetensors, tokenizer.json, preprocessor_config.json
    #[arg(long)]
    model: PathBuf,
    /// Image folder (train/CLASS/*.jpg, test/CLASS/*.png) or directory of Hugging Face Parquet shards
    #[arg(long)]
    data: PathBuf,
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    /// Source rows per shard; an interrupted run loses one shard at most
    #[arg(long, default_value_t = 4096, value_parser = cgil::at_least::<1>)]
    shard_rows: usize,
    /// Turn images as their EXIF orientation says; the original CLIP does not
    #[arg(long)]
    exif: bool,
    /// Print where the time went
    #[arg(long)]
    profile: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&options.model)?;
    let mut preprocess = checkpoint.preprocess()?;
    preprocess.exif = options.exif;
    let source = Source::open(&options.data)?;
    if let Some((first, others)) = source.left_out.split_first() {
        let more = if others.is_empty() { String::new() } else { format!(" and {} more files", others.len()) };
        terminal::note(&format!("note: left out, as no image of train or test: {}{more}", first.display()));
    }
    let encoder = time(Phase::Load, || checkpoint.image_encoder(cgil::device()))?; // first, so that nothing is written if it has an error
    let embeddings = Embeddings::create(&options.run, manifest(options, &checkpoint, &preprocess, &source)?)?;

    let missing = embeddings.missing();
    let images: usize = missing.iter().map(|(_, _, rows)| rows.len()).sum();
    let progress = terminal::bar("extract", images);
    let encoders = vec![&encoder; rayon::current_num_threads()];
    embed(
        &source,
        &missing,
        &preprocess,
        &encoders,
        |images| progress.inc(images as u64),
        |shard, rows| embeddings.write_shard(missing[shard].0, missing[shard].1, rows),
    )?;
    progress.finish_and_clear();
    summarise(options, &embeddings, images)?;
    terminal::profile(options.profile, start)
}

fn manifest(options: &Options, checkpoint: &Checkpoint, preprocess: &Preprocess, source: &Source) -> Result<Manifest> {
    Ok(Manifest {
        source: source.id.clone(),
        model: Some(checkpoint.id()?),
        preprocessing: Some(preprocess.id()),
        compute_dtype: "float32".into(),
        dim: checkpoint.config.projection_dim,
        classes: source.classes.clone(),
        rows: source.rows.clone(),
        shard_rows: options.shard_rows,
    })
}

fn summarise(options: &Options, embeddings: &Embeddings, encoded: usize) -> Result<()> {
    let rows: usize = embeddings.manifest.rows.values().sum();
    let (quarantined, run) = (embeddings.quarantined()?, options.run.display());
    if quarantined == rows {
        bail!("none of the {rows} images could be used: cgil query --run {run} \"SELECT * FROM quarantine\" says why");
    }
    let mut text = format!(
        "{rows} images in {run}, {encoded} encoded now: {} embeddings of {} values, {quarantined} quarantined\n",
        rows - quarantined,
        embeddings.manifest.dim
    );
    if quarantined > 0 {
        text += &format!("cgil query --run {run} \"SELECT * FROM quarantine\" says why\n");
    }
    terminal::print(text)
}
