//! `cgil`: teach CLIP new classes, task after task, without keeping the images and without
//! forgetting.

mod add;
mod baseline;
mod change;
mod checkpoint;
mod classifier;
mod classify;
mod cluster;
mod demo;
mod doctor;
mod export;
mod extract;
mod fit_vae;
mod forget;
mod hub;
mod import;
mod jobs;
mod known;
mod learn;
mod learners;
mod members;
mod options;
mod order;
mod outcome;
mod prompt_tune;
mod quality;
mod query;
mod report;
mod run;
mod shell;
mod sorter;
mod status;
mod sweep;
mod terminal;
mod work;

use std::{process::ExitCode, sync::LazyLock};

use anyhow::Result;
use clap::{Parser, Subcommand};
use terminal::LogOptions;

/// Teach CLIP new classes, task after task, without keeping the images and without forgetting.
///
/// Three stages, which meet in the Parquet tables of a run's directory: `extract` (or `import`),
/// `fit-vae`, `prompt-tune`. Each goes on where it stopped.
#[derive(Parser)]
#[command(version = VERSION.as_str(), disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    stage: Stage,
    #[command(flatten)]
    log: LogOptions,
}

/// The version, and what the program was built with beside what every one has.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let features = if cfg!(feature = "cuda") { "cuda" } else { "none" };
    format!("{} (features: {features})", env!("CARGO_PKG_VERSION"))
});

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
    /// New classes into a classifier in use; see also rename and remove-class
    ///
    /// The three stages in one go.
    Add(add::Options),
    /// Take the training embeddings away that were learned from
    Forget(forget::Options),
    /// Call a learned class otherwise
    #[command(hide = true)]
    Rename(change::Rename),
    /// Take a learned class out
    #[command(hide = true)]
    RemoveClass(change::Remove),
    /// Classify pictures with what a run has learned
    Classify(classify::Options),
    /// A classifier, or embeddings, as other programs take them
    Export(export::Options),
    /// A benchmark from its recipe: embeddings, methods and seeds, their table and report
    Run(run::Options),
    /// Print a class order as JSON
    Order(order::Options),
    /// How good each class's generator is, into the table `quality`
    Quality(quality::Options),
    /// One self-contained HTML page about the methods of a run
    Report(report::Options),
    /// SQL over the tables of a run
    Query(query::Options),
    /// Run a plan's stages on a cluster; see also plan, status and cancel
    #[command(subcommand)]
    Submit(cluster::slurm::Submit),
    /// Print a plan of the stages in partitions, with what they need
    #[command(hide = true)]
    Plan(cluster::plan::Options),
    /// How far a run's partitions are
    #[command(hide = true)]
    Status(status::Options),
    /// Cancel what was submitted of a run
    #[command(hide = true)]
    Cancel(cluster::slurm::CancelOptions),
    /// Say what this machine has, and whether a checkpoint and images can be used
    Doctor(doctor::Options),
    /// The three stages on pictures and a CLIP that are part of the program
    Demo(demo::Options),
    /// Print what a shell needs to complete commands and options
    #[command(hide = true)]
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
            Stage::Add(options) => add::run(options),
            Stage::Forget(options) => forget::run(options),
            Stage::Rename(options) => change::rename(options),
            Stage::RemoveClass(options) => change::remove(options),
            Stage::Classify(options) => classify::run(options),
            Stage::Export(options) => export::run(options),
            Stage::Run(options) => run::run(options),
            Stage::Order(options) => order::run(options),
            Stage::Quality(options) => quality::run(options),
            Stage::Report(options) => report::run(options),
            Stage::Query(options) => query::run(options),
            Stage::Submit(options) => cluster::slurm::submit(options),
            Stage::Plan(options) => cluster::plan::run(options),
            Stage::Status(options) => status::run(options),
            Stage::Cancel(options) => cluster::slurm::cancel(options),
            Stage::Doctor(options) => doctor::run(options),
            Stage::Demo(options) => demo::run(options),
            Stage::Completions(options) => shell::completions(options),
            Stage::Man(options) => shell::man(options),
        }
    }
}

fn main() -> ExitCode {
    // Safety: no other thread runs yet.
    unsafe { cgil::prepare() };
    let Cli { stage, log } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return terminal::refuse(&usage),
    };
    terminal::set_up(log);
    terminal::detail(&format!("cgil {}", *VERSION));
    let done = outcome::heed_signals(jobs::stop).and_then(|()| stage.run());
    match outcome::or_lost(done) {
        Ok(()) => {
            terminal::done();
            ExitCode::SUCCESS
        }
        Err(error) => {
            terminal::error(&format!("{error:#}"));
            ExitCode::from(outcome::code(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Command, CommandFactory};

    /// What clap asserts in debug builds alone: that no two options of a command have one name.
    fn check(command: &Command) {
        let mut names = BTreeSet::new();
        for option in command.get_arguments() {
            let mut own = vec![format!("id {}", option.get_id())];
            own.extend(
                option.get_long_and_visible_aliases().unwrap_or_default().iter().map(|long| format!("--{long}")),
            );
            own.extend(option.get_short().map(|short| format!("-{short}")));
            for name in own {
                assert!(names.insert(name.clone()), "cgil {} has {name} twice", command.get_name());
            }
        }
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn options_do_not_contradict_each_other() {
        check(&super::Cli::command());
    }
}
