//! What this machine has, and whether a checkpoint and images can be used on it.

mod machine;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use cgil::{
    clip::Checkpoint,
    picture,
    source::{Source, SourceOptions},
    storage,
    words::counted,
};
use clap::Args;

use crate::terminal;

/// A text encoder's frozen weights lie in two layouts.
const TEXT_LAYOUTS: u64 = 2;

#[derive(Args)]
pub struct Options {
    /// Checkpoint that is looked at, as of extract
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Images that are looked at, as of extract
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Directory that a run is to lie in
    #[arg(long, value_name = "DIR", default_value = ".")]
    run: PathBuf,
}

/// What was found of one thing, line by line, and whether it can be used.
struct Finding {
    about: String,
    lines: Vec<(&'static str, String)>,
    is_wrong: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let mut findings = vec![machine(&options.run)];
    let checkpoint = options.model.as_deref().map(|dir| Checkpoint::open(dir).map_err(|error| (dir, error)));
    let dim = checkpoint.as_ref().and_then(|found| found.as_ref().ok()).map(|found| found.config.projection_dim);
    match checkpoint {
        Some(Ok(found)) => findings.push(model(options.model.as_deref().unwrap_or(Path::new("")), &found)),
        Some(Err((dir, error))) => findings.push(Finding::refused(format!("checkpoint {}", dir.display()), &error)),
        None => {}
    }
    if let Some(dir) = &options.data {
        findings.push(data(dir, dim));
    }
    let wrong: Vec<&str> = findings.iter().filter(|found| found.is_wrong).map(|found| &found.about[..]).collect();
    for finding in &findings {
        terminal::print(finding.render())?;
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("not everything can be used: see {}", wrong.join(", ")),
    }
}

impl Finding {
    fn of(about: String) -> Self {
        Finding { about, lines: Vec::new(), is_wrong: false }
    }

    fn refused(about: String, error: &anyhow::Error) -> Self {
        let mut finding = Finding::of(about);
        finding.wrong("cannot use", error);
        finding
    }

    fn line(&mut self, what: &'static str, found: impl Into<String>) {
        self.lines.push((what, found.into()));
    }

    fn wrong(&mut self, what: &'static str, error: &anyhow::Error) {
        self.is_wrong = true;
        self.line(what, format!("{error:#}"));
    }

    /// Keeps what was found, or that it cannot be used.
    fn result(&mut self, what: &'static str, found: Result<String>) {
        match found {
            Ok(found) => self.line(what, found),
            Err(error) => self.wrong(what, &error),
        }
    }

    fn render(&self) -> String {
        let lines = self.lines.iter().map(|(what, found)| format!("  {what:<14} {found}\n"));
        format!("{}\n{}", self.about, lines.collect::<String>())
    }
}

fn machine(run: &Path) -> Finding {
    let mut finding = Finding::of("this machine".into());
    finding.line("program", machine::program());
    finding.line("threads", machine::threads());
    finding.line("instructions", machine::instructions());
    finding.line("memory", machine::memory().to_string());
    finding.line("devices", machine::devices());
    finding.result(if storage::is_remote(run) { "object store" } else { "disk" }, machine::disk(run));
    finding.line("hub's cache", machine::hub_cache());
    finding
}

fn model(dir: &Path, checkpoint: &Checkpoint) -> Finding {
    let mut finding = Finding::of(format!("checkpoint {}", dir.display()));
    let (config, [image, text]) = (&checkpoint.config, checkpoint.parameters());
    let (vision, dim) = (&config.vision_config, config.projection_dim);
    let shape = format!("{} of width {}", counted(vision.num_hidden_layers, "block"), vision.hidden_size);
    finding.line(
        "images",
        format!("{0}×{0} pixels in patches of {1}×{1}, {shape}, to {dim} values", vision.image_size, vision.patch_size),
    );
    let texts = &config.text_config;
    let shape = format!("{} of width {}", counted(texts.num_hidden_layers, "block"), texts.hidden_size);
    finding.line("texts", format!("up to {}, {shape}", counted(texts.max_position_embeddings, "token")));
    let (bytes, millions) = (|n: usize| 4 * n as u64, |n: usize| n as f64 / 1e6);
    let (extract, tune) = (bytes(image), TEXT_LAYOUTS * bytes(text));
    let memory = machine::memory();
    finding.line(
        "parameters",
        format!("{:.1} million for images, {:.1} million for texts", millions(image), millions(text)),
    );
    finding.line(
        "needs",
        format!(
            "{} of memory for weights in extract, {} in prompt-tune, on the CPU",
            machine::size(extract),
            machine::size(tune)
        ),
    );
    if extract.max(tune) > memory.available {
        finding.wrong("memory", &anyhow::anyhow!("{memory}: too little"));
        return finding;
    }
    let encoder = |what: &str| format!("the {what} encoder loads");
    finding.result("weights", checkpoint.image_encoder(&Device::Cpu, DType::F32).map(|_| encoder("image")));
    finding.result("preprocessing", checkpoint.preprocess().map(|found| found.id()));
    let prompts = checkpoint.tokenizer().and_then(|tokenizer| checkpoint.text_encoder(&tokenizer));
    finding.result("prompts", prompts.map(|_| encoder("text")));
    finding
}

fn data(dir: &Path, dim: Option<usize>) -> Finding {
    let about = format!("images {}", dir.display());
    let source = match Source::open(dir, &SourceOptions::default()) {
        Ok(source) => source,
        Err(error) => return Finding::refused(about, &error),
    };
    let mut finding = Finding::of(about);
    let rows: usize = source.rows.values().sum();
    finding.line("found", &source.summary);
    let names: Vec<&str> = source.classes.iter().take(4).map(|class| class.name.as_str()).collect();
    finding.line("classes", terminal::shorten(&format!("{}, …", names.join(", ")), 80));
    for note in &source.notes {
        finding.line("note", note);
    }
    for (split, _) in source.rows.iter().rev().filter(|(_, rows)| **rows > 0) {
        finding.result("first image", first_image(&source, split).map(|found| format!("{split}: {found}")));
    }
    if let Some(dim) = dim {
        finding.line("needs", format!("{} of disk for embeddings", machine::size((4 * rows * dim) as u64)));
    }
    finding
}

fn first_image(source: &Source, split: &str) -> Result<String> {
    let record = source.read(split, 0..1)?.next().context("no image")??;
    let bytes = record.image.map_err(|reason| anyhow::anyhow!("{}: {reason}", record.sample_id))?;
    let picture = picture::decode(&bytes, false).with_context(|| record.sample_id.clone())?;
    Ok(format!("{}, {}×{} pixels", record.sample_id, picture.width(), picture.height()))
}
