//! `cgil`: teach CLIP new classes, task after task, without keeping the images and without
//! forgetting.

mod baseline;
mod checkpoint;
mod demo;
mod extract;
mod fit_vae;
mod import;
mod options;
mod order;
mod prompt_tune;
mod quality;
mod query;
mod report;
mod shell;
mod sweep;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Teach CLIP new classes, task after task, without keeping the images and without forgetting.
///
/// Three stages, which meet in the Parquet tables of a run's directory: `extract` (or `import`),
/// `fit-vae`, `prompt-tune`. Each goes on where it stopped.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Subcommand)]
enum Stage {
    /// Stage 1: encode every image once, into the table `embeddings`
    Extract(extract::Options),
    /// Stage 1 without images: take embeddings made elsewhere
    Import(import::Options),
    /// Stage 2: fit a generator of embeddings to every class
    FitVae(fit_vae::Options),
    /// Stage 3: learn prompts task after task, and score them
    PromptTune(prompt_tune::Options),
    /// A rival of CGIL from the same embeddings
    Baseline(baseline::Options),
    /// Methods and seeds side by side: runs what is missing, and tables it
    Sweep(sweep::Options),
    /// Print a class order as JSON
    Order(order::Options),
    /// Compare what the generators give with held-out embeddings, class by class, into the table
    /// `quality`
    Quality(quality::Options),
    /// One self-contained HTML page about the methods of a run
    Report(report::Options),
    /// SQL over the tables of a run
    Query(query::Options),
    /// The three stages on pictures and a CLIP that are part of the program
    Demo(demo::Options),
    /// Print what a shell needs to complete commands and options
    Completions(shell::Completions),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man(shell::Man),
}

impl Stage {
    fn run(&self) -> Result<()> {
        match self {
            Stage::Extract(options) => extract::run(options),
            Stage::Import(options) => import::run(options),
            Stage::FitVae(options) => fit_vae::run(options),
            Stage::PromptTune(options) => prompt_tune::run(options),
            Stage::Baseline(options) => baseline::run(options),
            Stage::Sweep(options) => sweep::run(options),
            Stage::Order(options) => order::run(options),
            Stage::Quality(options) => quality::run(options),
            Stage::Report(options) => report::run(options),
            Stage::Query(options) => query::run(options),
            Stage::Demo(options) => demo::run(options),
            Stage::Completions(options) => shell::completions(options),
            Stage::Man(options) => shell::man(options),
        }
    }
}

fn main() -> ExitCode {
    // Safety: no other thread runs yet.
    unsafe { cgil::prepare() };
    match Cli::parse().stage.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
