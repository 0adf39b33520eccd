//! Stage 1: every image through CLIP's image encoder, once, into the table `embeddings`.

use std::{ops::Range, path::PathBuf};

use anyhow::{Result, bail};
use cgil::{
    clip::{Checkpoint, ImageEncoder, Preprocess},
    source::{Record, Source},
    table::embeddings::{Embeddings, Manifest, Quarantined, ShardRows},
};
use clap::Args;
use indicatif::ProgressBar;
use rayon::prelude::*;

use crate::terminal;

/// Images encoded at a time.
const BATCH: usize = 32;

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
}

pub fn run(options: &Options) -> Result<()> {
    let checkpoint = Checkpoint::open(&options.model)?;
    let mut preprocess = checkpoint.preprocess()?;
    preprocess.exif = options.exif;
    let source = Source::open(&options.data)?;
    if let Some((first, others)) = source.left_out.split_first() {
        let more = if others.is_empty() { String::new() } else { format!(" and {} more files", others.len()) };
        terminal::note(&format!("note: left out, as no image of train or test: {}{more}", first.display()));
    }
    let encoder = checkpoint.image_encoder(cgil::device())?; // first, so that nothing is written if it has an error
    let embeddings = Embeddings::create(&options.run, manifest(options, &checkpoint, &preprocess, &source)?)?;

    let missing = embeddings.missing();
    let images: usize = missing.iter().map(|(_, _, rows)| rows.len()).sum();
    let progress = terminal::bar("extract", images);
    for (split, k, rows) in missing {
        embeddings.write_shard(split, k, encode(&source, split, rows, &preprocess, &encoder, &progress)?)?;
    }
    progress.finish_and_clear();
    summarise(options, &embeddings, images)
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

/// Embeds the rows of one shard; what cannot be read or decoded goes to the quarantine.
fn encode(
    source: &Source,
    split: &str,
    rows: Range<usize>,
    preprocess: &Preprocess,
    encoder: &ImageEncoder,
    progress: &ProgressBar,
) -> Result<ShardRows> {
    let mut shard = ShardRows::default();
    let mut records = source.read(split, rows)?;
    loop {
        let batch = records.by_ref().take(BATCH).collect::<Result<Vec<Record>>>()?;
        if batch.is_empty() {
            return Ok(shard);
        }
        let images = batch.len() as u64;
        let decoded: Vec<_> = batch.into_par_iter().map(|record| decode(record, preprocess)).collect();
        let mut pixels = Vec::new();
        for (sample_id, label, result) in decoded {
            match result {
                Ok(image) => {
                    pixels.extend(image);
                    shard.sample_ids.push(sample_id);
                    shard.labels.push(label);
                }
                Err((stage, error)) => shard.quarantine.push(Quarantined { sample_id, label, stage, error }),
            }
        }
        if !pixels.is_empty() {
            shard.embeddings.extend(encoder.encode(pixels)?.flatten_all()?.to_vec1::<f32>()?);
        }
        if let Some(i) = shard.embeddings.iter().position(|x| !x.is_finite()) {
            bail!(
                "the embedding of {} is not finite: are the weights of the checkpoint whole?",
                shard.sample_ids[i / encoder.dim]
            );
        }
        progress.inc(images);
    }
}

type Decoded = (String, i64, Result<Vec<f32>, (&'static str, String)>);

fn decode(record: Record, preprocess: &Preprocess) -> Decoded {
    let Record { sample_id, label, image } = record;
    let pixels = image
        .map_err(|error| ("read", error))
        .and_then(|encoded| preprocess.pixels(&encoded).map_err(|error| ("decode", format!("{error:#}"))));
    (sample_id, label, pixels)
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
