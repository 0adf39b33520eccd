//! Stage 3: prompts learned task after task from real and generated embeddings, and what they are
//! worth.

use std::{fmt, path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use cgil::{
    baseline::ensemble,
    device::{DeviceChoice, class_of},
    evaluate::TestSet,
    generator::{Kind, LatentStore},
    method::{Prompted, Statistics, score},
    profile::{Phase, time},
    prompt::{
        Current, PromptConfig, backend,
        training::{Replay, Training},
    },
    results::{Results, method_name},
    run::Run,
    stream::Stream,
};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    baseline::{evidence, statistics},
    checkpoint::{self, ClipOptions},
    options::{OrderOptions, PromptOptions, TaskOptions, choice, share},
    terminal,
};

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    #[command(flatten)]
    clip: ClipOptions,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    tasks: TaskOptions,
    /// Kind of generator that past classes are drawn from, as fitted with the same --generator
    #[arg(long, value_parser = choice::<Kind>(), default_value_t = Kind::Vae)]
    generator: Kind,
    /// What the classes of the current task are trained on; past classes are always generated
    #[arg(long, value_parser = choice::<Current>(), default_value_t = Current::Generated)]
    current: Current,
    #[command(flatten)]
    config: PromptOptions,
    /// What statistics of the classes' embeddings (linear discriminant analysis) count beside the
    /// prompts when learned classes are told apart, 0 to 1; 0 is the paper's. Or evidence: these and
    /// zero-shot text in one score, which also tells classes that are not learned
    #[arg(long, default_value_t = Beside::Weight(ensemble::WEIGHT), value_parser = beside)]
    statistics: Beside,
    /// What computes: auto, cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Print where the time went
    #[arg(long)]
    profile: bool,
}

/// What is asked beside the prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    /// Linear discriminant analysis, which counts so much.
    Weight(f64),
    Evidence,
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Beside::Weight(weight) => weight.fmt(f),
            Beside::Evidence => f.write_str(EVIDENCE),
        }
    }
}

impl Beside {
    /// As methods' names have it.
    fn value(self) -> Value {
        match self {
            Beside::Weight(weight) => weight.into(),
            Beside::Evidence => EVIDENCE.into(),
        }
    }
}

const EVIDENCE: &str = "evidence";

/// Parses what is asked beside the prompts.
fn beside(text: &str) -> std::result::Result<Beside, String> {
    match text {
        EVIDENCE => Ok(Beside::Evidence),
        _ => share(text).map(Beside::Weight).map_err(|_| format!("expected a number from 0 to 1, or {EVIDENCE}")),
    }
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let run = Run::open(&options.run, terminal::note)?;
    let stream = Stream::find(&run, &options.order.order(), options.tasks.cut())?;
    let latents = LatentStore::open(&run, &stream, options.generator)?;
    let (checkpoint, clip) = time(Phase::Load, || checkpoint::open(&run, &stream, &options.clip))?;
    let test = time(Phase::Read, || TestSet::read(&run, &stream))?;
    let device = options.device.open_one()?;
    terminal::note_device(&options.device, &device);

    let config = options.config.config();
    config.check()?;
    config.check_size(stream.classes.len(), test.dim())?;
    let replay = Replay::Generated(&latents, options.current);
    let statistics = match options.statistics {
        Beside::Weight(weight) => statistics(&run, &stream, test.dim(), weight),
        Beside::Evidence => {
            let (_, states) = evidence(&run, &stream, &checkpoint, &clip, &config.template)?;
            Some(Statistics::Evidence(Box::new(states)))
        }
    };
    let training = Training::new(&run, &stream, &options.prompts()?, &config, clip, replay, class_of(&device));
    let progress = terminal::bar("prompt-tune", stream.tasks() * config.epochs);
    let load = || backend::new(&checkpoint, &stream.classes, &config, stream.draws(), &device);
    let tick = |task, loss| terminal::tick(&progress, task, stream.tasks(), config.epochs, loss);
    let mut recipe = Prompted::new(&stream, training, statistics, load, tick);
    let history = score(&mut recipe, &Results::new(&run, &stream, &options.method()?), &test, &stream)?;
    progress.finish_and_clear();
    terminal::warn_near_chance(&history, &stream);
    terminal::print(terminal::scores(&history, &stream))?;
    terminal::profile(options.profile, start)
}

impl Options {
    /// What tables call the method with these options.
    pub fn method(&self) -> Result<String> {
        let mut own = self.training()?;
        own["statistics"] = self.statistics.value();
        let mut default = default_training()?;
        default["statistics"] = ensemble::WEIGHT.into();
        Ok(method_name("cgil", &own, &default))
    }

    /// What tables call the prompts, however they are scored.
    pub fn prompts(&self) -> Result<String> {
        Ok(method_name("cgil", &self.training()?, &default_training()?))
    }

    fn training(&self) -> Result<Value> {
        training(&self.config.config(), self.generator, self.current)
    }
}

fn default_training() -> Result<Value> {
    training(&PromptConfig::default(), Kind::Vae, Current::Generated)
}

/// The options that decide how prompts are trained.
fn training(config: &PromptConfig, generator: Kind, current: Current) -> Result<Value> {
    let mut options = serde_json::to_value(config)?;
    let Value::Object(map) = &mut options else { bail!("a configuration is an object") };
    map.insert("generator".into(), json!(generator));
    map.insert("current".into(), json!(current));
    Ok(options)
}
