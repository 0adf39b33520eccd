//! Stage 3: prompts learned task after task from real and generated embeddings, and what they are
//! worth.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Result, bail};
use cgil::{
    baseline::{ClassStatistics, ensemble},
    device::{DeviceChoice, class_of},
    evaluate::TestSet,
    generator::{Kind, LatentStore},
    method::{Beside, Prompted, Statistics, score},
    profile::{Phase, time},
    prompt::{
        Current, PromptConfig, ReplayNoise, backend,
        training::{Replay, Training},
    },
    results::{Results, method_name},
    run::Run,
    states::States,
    stream::Stream,
    task::Class,
};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    checkpoint::{self, ClipOptions},
    learners::{Text, class_statistics, discriminant},
    options::{OrderOptions, PromptOptions, TaskOptions, choice},
    terminal::{self, Progress},
};

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    clip: ClipOptions,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    tasks: TaskOptions,
    /// Kind of generator, as of fit-vae
    #[arg(long, value_name = "KIND", value_parser = choice::<Kind>(), default_value_t = Kind::Vae)]
    generator: Kind,
    /// What the classes of the current task are trained on; the paper's
    ///
    /// Past classes are always generated.
    #[arg(long, value_name = "ROWS", hide_short_help = true, value_parser = choice::<Current>(), default_value_t = Current::Generated)]
    current: Current,
    #[command(flatten)]
    config: PromptOptions,
    /// The variance that generated embeddings lack; not the paper's
    #[arg(long, value_name = "KIND", value_parser = choice::<ReplayNoise>(), default_value_t = ReplayNoise::On)]
    replay_noise: ReplayNoise,
    /// What scores beside the prompts; not the paper's
    ///
    /// Prompts are the same with any.
    #[arg(long, value_name = "KIND", value_parser = choice::<Beside>(), default_value_t = Beside::Evidence)]
    statistics: Beside,
    /// The paper's form: --replay-noise off --statistics off
    #[arg(long, conflicts_with_all = ["replay_noise", "statistics"])]
    paper: bool,
    /// auto (CUDA if there and faster), cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Print where the time went
    #[arg(long, hide_short_help = true)]
    profile: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let run = Run::open(&options.run, terminal::note)?;
    let stream = Stream::find(&run, &options.order.order(), options.tasks.cut(), options.tasks.shots)?;
    tune(options, &run, &stream)?;
    terminal::profile(options.profile, start)
}

/// Learns and scores what is missing of the prompts of a stream.
pub fn tune(options: &Options, run: &Run, stream: &Stream) -> Result<()> {
    let latents = LatentStore::open(run, stream, options.generator)?;
    let (checkpoint, clip) = time(Phase::Load, || checkpoint::open(run, stream, &options.clip))?;
    let test = time(Phase::Read, || TestSet::read(run, stream))?;
    let device = checkpoint::device(&options.device, &checkpoint)?;

    let config = options.config.config();
    config.check()?;
    config.check_size(stream.classes.len(), test.dim())?;
    let replay = options.replay(run, stream, &latents, test.dim())?;
    let statistics = match options.statistics() {
        Beside::Evidence => {
            let (learner, evidence) =
                Text::new(&stream.classes, &checkpoint, clip.clone(), &config.template)?.evidence();
            Some(Statistics::Evidence(Box::new(States::new(run, stream, learner, evidence))))
        }
        Beside::Lda => discriminant(run, stream, test.dim(), ensemble::WEIGHT),
        Beside::Off => None,
    };
    let training = Training::new(run, stream, &options.prompts()?, &config, clip, replay, class_of(&device));
    let progress = Progress::new("prompt-tune", stream.tasks() * config.epochs);
    let load = |classes: &[Class]| backend::new(&checkpoint, classes, &config, stream.draws(), &device);
    let tick = |task, loss| progress.tick(task, stream.tasks(), config.epochs, loss);
    let mut recipe = Prompted::new(stream, training, statistics, load, tick);
    let history = score(&mut recipe, &Results::new(run, stream, &options.method()?), &test, stream)?;
    progress.finish();
    terminal::warn_near_chance(&history, stream);
    terminal::print(terminal::scores(&history, stream))
}

impl Options {
    /// Takes the CLIP from another place than was asked for, if there is one.
    pub fn set_model(&mut self, model: Option<&Path>) {
        if let Some(model) = model {
            self.clip.model = Some(model.to_owned());
        }
    }

    /// The kind of generators that past classes come from.
    pub fn generator(&self) -> Kind {
        self.generator
    }

    /// What tables call the method with these options.
    pub fn method(&self) -> Result<String> {
        let mut own = self.training()?;
        own["statistics"] = json!(self.statistics());
        let mut default = default_training()?;
        default["statistics"] = json!(Beside::Evidence);
        Ok(method_name("cgil", &own, &default))
    }

    /// What tables call the prompts, however they are scored.
    pub fn prompts(&self) -> Result<String> {
        Ok(method_name("cgil", &self.training()?, &default_training()?))
    }

    fn statistics(&self) -> Beside {
        if self.paper { Beside::Off } else { self.statistics }
    }

    fn replay_noise(&self) -> ReplayNoise {
        if self.paper { ReplayNoise::Off } else { self.replay_noise }
    }

    /// What prompts are trained on.
    fn replay<'a>(&self, run: &'a Run, stream: &'a Stream, latents: &'a LatentStore, dim: usize) -> Result<Replay<'a>> {
        let has_noise = self.replay_noise() == ReplayNoise::On;
        if self.generator == Kind::Shared && !has_noise {
            bail!(
                "the generator {} gives the mean of a class alone, and the covariance that classes share is the replay \
                 noise: leave --replay-noise and --paper out, or take another --generator",
                self.generator
            );
        }
        let noise = has_noise.then(|| Box::new(class_statistics(run, stream, ClassStatistics::new(dim))));
        Ok(Replay::Generated { latents, current: self.current, noise })
    }

    fn training(&self) -> Result<Value> {
        training(&self.config.config(), self.generator, self.current, self.replay_noise())
    }
}

fn default_training() -> Result<Value> {
    training(&PromptConfig::default(), Kind::Vae, Current::Generated, ReplayNoise::On)
}

/// The options that decide how prompts are trained.
fn training(config: &PromptConfig, generator: Kind, current: Current, replay_noise: ReplayNoise) -> Result<Value> {
    let mut options = serde_json::to_value(config)?;
    let Value::Object(map) = &mut options else { bail!("a configuration is an object") };
    map.insert("generator".into(), json!(generator));
    map.insert("current".into(), json!(current));
    map.insert("replay_noise".into(), json!(replay_noise));
    Ok(options)
}
