//! What a run has learned, or its embeddings, in the formats of other programs.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use cgil::{
    export::{Counts, Format, Head, Sources},
    run::Run,
    storage,
    words::counted,
};
use clap::Args;

use crate::{
    checkpoint::{self, ClipOptions},
    classifier::ClassifierOptions,
    options::choice,
    terminal,
};

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Format; docs/export.md says what is in each
    #[arg(long, value_name = "FORMAT", value_parser = choice::<Format>())]
    to: Format,
    /// File or directory that is made
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    #[command(flatten)]
    classifier: ClassifierOptions,
    /// More classes, by what they are called, which nobody has learned: "a red fox,a wolf"
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    also: Vec<String>,
    /// The image encoder before the classifier: a graph from pixels to probabilities
    #[arg(long)]
    with_encoder: bool,
    #[command(flatten)]
    clip: ClipOptions,
}

pub fn run(options: &Options) -> Result<()> {
    let out = &options.out;
    let is_there = storage::exists(out) || out.symlink_metadata().is_ok(); // a link may lead nowhere
    ensure!(!is_there, "{} is there already: remove it, or give another --out", out.display());
    ensure!(
        !options.with_encoder || options.to == Format::Onnx,
        "{} has no image encoder: --with-encoder is of --to onnx",
        options.to
    );
    let run = Run::open(&options.run, terminal::note)?;
    let made = if options.to.is_of_embeddings() { embeddings(options, &run)? } else { classifier(options, &run)? };
    terminal::print(format!("{}: {made}\n", out.display()))
}

/// Exports the classifier after the last task.
fn classifier(options: &Options, run: &Run) -> Result<String> {
    let mut learned = options.classifier.open(run)?;
    let mut encoder = None;
    if options.with_encoder || !options.also.is_empty() {
        let (checkpoint, clip) = checkpoint::open(run, &learned.stream, &options.clip)?;
        ensure!(
            !options.with_encoder || clip.model_sha256 == learned.clip_sha256,
            "{} was learned with another CLIP (sha256 {:.12}…) than the one given (sha256 {:.12}…), whose embeddings it \
             does not know: give the one that made them by --model",
            learned.method,
            learned.clip_sha256,
            clip.model_sha256
        );
        learned = learned.with(run, &options.also, &checkpoint, clip)?;
        encoder = options.with_encoder.then_some(checkpoint);
    }
    let made_from = Sources::new(run, Some(&learned.stream))?.made_from();
    let mut made_from = made_from.classifier(&learned.method, &learned.template, &learned.clip_sha256);
    if let Some(checkpoint) = &encoder {
        made_from = made_from.prepared(checkpoint.preprocess()?.id());
    }
    let mut head = Head::new(&learned.classifier, &learned.classes, &made_from)?;
    if let Some(checkpoint) = encoder {
        head = head.with_encoder(checkpoint);
    }
    head.write(options.to, &options.out)?;
    Ok(format!("{}, {} of them learned", counted(learned.classes.len(), "class"), learned.classifier.seen()))
}

/// Exports the embeddings that are there.
fn embeddings(options: &Options, run: &Run) -> Result<String> {
    let (format, ClassifierOptions { stream, method }) = (options.to, &options.classifier);
    for (is_given, name) in [
        (method.is_some(), "--method"),
        (!options.also.is_empty(), "--also"),
        (options.clip.model.is_some(), "--model"),
    ] {
        ensure!(!is_given, "{format} is of embeddings: {name} is of a classifier");
    }
    let sources = Sources::new(run, stream.find(run)?.as_ref())?;
    for name in sources.forgotten() {
        terminal::note(&format!("note: training embeddings of {name} were forgotten, and are not exported"));
    }
    let Counts { train, test } = sources.write(format, &options.out, &sources.made_from())?;
    Ok(format!("{} and {} to test on", counted(train, "training embedding"), test))
}
