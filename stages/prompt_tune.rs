//! Stage 3: prompts learned task after task from real and generated embeddings, and what they are worth.

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use cgil::{
    baseline::ensemble,
    device::Choice,
    evaluate::TestSet,
    generator::{Kind, LatentStore},
    profile::{Phase, time},
    prompt::{
        Current, PromptConfig, learner,
        store::PromptManifest,
        tune::{Replay, Tuning, tune},
    },
    results::{Results, method_name},
    table::embeddings::Embeddings,
    task::OrderOptions,
};
use clap::Args;
use serde_json::Value;

use crate::{checkpoint, terminal};

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    /// Directory of the CLIP checkpoint; needed where the embeddings were imported, else the run knows it
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    order: OrderOptions,
    /// Kind of generator that past classes are drawn from, as fitted with the same --generator
    #[arg(long, value_enum, default_value_t = Kind::Vae)]
    generator: Kind,
    /// What the classes of the current task are trained on; past classes are always generated
    #[arg(long, value_enum, default_value_t = Current::Generated)]
    current: Current,
    #[command(flatten)]
    config: PromptConfig,
    /// What statistics of the classes' embeddings (linear discriminant analysis) count beside the prompts when learned classes are
    /// told apart, 0 to 1; 0 is the paper's
    #[arg(long, default_value_t = ensemble::WEIGHT, value_parser = cgil::share)]
    statistics: f64,
    /// What computes: auto, cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    device: Choice,
    /// Print where the time went
    #[arg(long)]
    profile: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let embeddings = Embeddings::open_complete(&options.run)?;
    let latents = LatentStore::open(&options.run, &options.order.name()?, options.generator)?;
    latents.require_embeddings(&embeddings.manifest)?;
    let curriculum = &latents.manifest.curriculum;
    options.order.require(curriculum, &embeddings.manifest.classes)?;
    let (checkpoint, model) =
        time(Phase::Load, || checkpoint::open(&options.run, options.model.as_deref(), &embeddings))?;
    let test = time(Phase::Read, || TestSet::read(&embeddings, curriculum))?;

    let device = options.device.open_one()?;
    terminal::note_device(&options.device, &device);
    let config = &options.config;
    let load = || learner::new(&checkpoint, &curriculum.classes, config, curriculum.draws(), &device);
    let mut learner = time(Phase::Load, load)?;
    let replay = Replay::Generated(&latents, options.current);
    let tuning =
        Tuning { embeddings: &embeddings, test: &test, curriculum, config, replay, statistics: options.statistics };
    let manifest = PromptManifest::new(&tuning, &checkpoint, model)?;
    let results = Results::create(&options.run, curriculum, &options.method()?, &manifest)?;

    let progress = terminal::bar("prompt-tune", curriculum.tasks() * config.epochs);
    let history = tune(&tuning, &results, learner.as_mut(), |task, loss| {
        terminal::tick(&progress, task, curriculum.tasks(), loss);
    })?;
    progress.finish_and_clear();
    terminal::print(terminal::scores(&history, curriculum))?;
    terminal::profile(options.profile, start)
}

impl Options {
    /// What tables call the method with these options.
    pub fn method(&self) -> Result<String> {
        let options = |generator: Kind, current: Current, statistics: f64, config: &PromptConfig| -> Result<Value> {
            let mut options = serde_json::to_value(config)?;
            options["statistics"] = statistics.into();
            options["generator"] = generator.to_string().into();
            options["current"] = serde_json::to_value(current)?;
            Ok(options)
        };
        let own = options(self.generator, self.current, self.statistics, &self.config)?;
        let default = options(Kind::Vae, Current::Generated, ensemble::WEIGHT, &PromptConfig::default())?;
        Ok(method_name("cgil", &own, &default))
    }
}
