//! Rivals of CGIL from the same embeddings, task by task, into the same tables.

mod options;

use std::cell::OnceCell;

use anyhow::{Result, bail};
use cgil::{
    baseline::{
        ClassCache, ClassStatistics, Classifier, Covariance, Discriminant, Features, NearestMean, OpenSet, Rail,
        RandomProjection, ReplayHead, Ridge, TextAndMean,
    },
    clip::Checkpoint,
    device::{DeviceChoice, class_of},
    embeddings::{Embeddings, FIRST_SOURCE},
    evaluate::TestSet,
    generator::LatentStore,
    method::{Learned, Prompted, Recipe, WithText, ZeroShotTexts, score},
    metrics::History,
    prompt::{
        backend,
        training::{Generated, Replay, Training, described},
    },
    results::{Results, stored_bytes},
    run::Run,
    states::{Learner, States, SummedUp},
    stop::{self, Stopped},
    stream::Stream,
    task::Class,
    texts::{self, TextModel},
    words::counted,
};
use clap::Args;
use serde_json::{Value, json};

pub use self::options::Baseline;
use self::options::{EnsembleOptions, PartOptions, RunOptions, TuneOptions};
use crate::{
    checkpoint::{self, ClipOptions},
    jobs,
    learners::{CLASS_MEANS, CLASS_STATISTICS, Text, class_statistics, discriminant, plain},
    options::TaskOptions,
    terminal::{self, Progress},
};

#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    pub baseline: Baseline,
}

pub fn run(options: &Options) -> Result<()> {
    let baseline = &options.baseline;
    let setting = Setting::open(baseline.run_options())?;
    match baseline {
        Baseline::ZeroShot(options) => {
            let (checkpoint, clip) = checkpoint::open(&setting.run, &setting.stream, &options.clip)?;
            let templates = options.templates();
            setting.score(baseline, &mut ZeroShotTexts::new(&setting.stream, &checkpoint, clip, templates))
        }
        Baseline::Ncm(options) => {
            setting.learn_sums(baseline, plain(CLASS_MEANS), NearestMean::new(setting.dim), &options.part)
        }
        Baseline::Lda(options) => {
            let discriminant = Discriminant::new(setting.dim, options.shrinkage);
            setting.learn_sums(baseline, plain(CLASS_STATISTICS), discriminant, &options.part)
        }
        Baseline::Ranpac(options) => {
            let (learner, projection) = setting.projection(options.features);
            setting.learn(baseline, learner, projection)
        }
        Baseline::Rail(options) => {
            let text = setting.text(&options.clip)?;
            let (learner, projection) = setting.projection(options.features);
            let classifier = Rail::new(projection, text.unit.clone(), text.dim, text.logit_scale);
            setting.score_text(baseline, text, learner, classifier)
        }
        Baseline::TipAdapter(options) => {
            let text = setting.text(&options.clip)?;
            let learner = Learner { options: text.options(), ..plain("class-cache") };
            let classifier = ClassCache::new(text.unit.clone(), text.dim, text.logit_scale);
            setting.score_text(baseline, text, learner, classifier)
        }
        Baseline::Hybrid(options) => {
            let (checkpoint, clip) = checkpoint::open(&setting.run, &setting.stream, &options.clip)?;
            setting.hybrid(baseline, &checkpoint, clip, options.weight)
        }
        Baseline::Evidence(options) => {
            let text = setting.text(&options.clip)?;
            let (learner, classifier) = text.evidence();
            setting.score_text(baseline, text, learner, classifier)
        }
        Baseline::Linear(options) => {
            let head = ReplayHead::new(setting.dim, options.covariance, setting.stream.draws());
            let kept = match options.covariance {
                Covariance::Class => Value::Null,
                other => json!({"covariance": other}),
            };
            setting.learn(baseline, Learner { options: kept, ..plain("linear") }, head)
        }
        Baseline::Ensemble(options) => setting.together(baseline, options),
        Baseline::Finetune(options) => setting.prompts(baseline, Replay::Nothing, options),
        Baseline::Joint(options) => setting.prompts(baseline, Replay::Real, options),
    }
}

/// What a baseline works on.
struct Setting {
    run: Run,
    stream: Stream,
    /// Values per embedding, D.
    dim: usize,
    /// Once it is scored on.
    test: OnceCell<TestSet>,
}

impl Setting {
    fn open(options: &RunOptions) -> Result<Self> {
        let run = Run::open(&options.run, terminal::note)?;
        let source = Embeddings::open_complete(&run, FIRST_SOURCE)?;
        let TaskOptions { shots, .. } = options.tasks;
        let stream = Stream::new(&source, &options.order.order(), options.tasks.required()?, shots)?.create(&run)?;
        Ok(Setting { dim: source.plan.dim, run, stream, test: OnceCell::new() })
    }

    /// The test rows: partitions that only sum up need none.
    fn test(&self) -> Result<&TestSet> {
        if let Some(test) = self.test.get() {
            return Ok(test);
        }
        let test = TestSet::read(&self.run, &self.stream)?;
        Ok(self.test.get_or_init(|| test))
    }

    /// Scores a recipe after every task, and prints what came of it.
    fn score(&self, baseline: &Baseline, recipe: &mut dyn Recipe) -> Result<()> {
        let results = Results::new(&self.run, &self.stream, &baseline.method()?);
        let history = score(recipe, &results, self.test()?, &self.stream)?;
        self.print(&history, &results)
    }

    fn print(&self, history: &History, results: &Results) -> Result<()> {
        terminal::warn_near_chance(history, &self.stream);
        terminal::print(terminal::scores(history, &self.stream))?;
        let stored = stored_bytes(results, self.stream.tasks())?;
        terminal::print(format!("keeps {stored:.0} bytes per class\n"))
    }

    /// A classifier that learns the tasks one after another.
    fn learn(&self, baseline: &Baseline, learner: Learner, classifier: impl Classifier) -> Result<()> {
        let states = States::new(&self.run, &self.stream, learner, classifier);
        // how a linear head's rows vary is no way to score it
        let scored = if matches!(baseline, Baseline::Linear(_)) { json!({}) } else { baseline.options()?.1 };
        self.score(baseline, &mut Learned::new(&self.stream, states, scored))
    }

    /// As [`Setting::learn`], of what learns from sums, which partitions may make.
    fn learn_sums(
        &self,
        baseline: &Baseline,
        learner: Learner,
        classifier: impl Classifier,
        PartOptions { partition }: &PartOptions,
    ) -> Result<()> {
        let Some(own) = *partition else { return self.learn(baseline, learner, classifier) };
        let mut states = States::new(&self.run, &self.stream, learner, classifier);
        let place = self.run.place(states.dir());
        jobs::recorded(&self.run, &place, Some(own), || {
            stop::watch();
            let SummedUp { made, missing, all } = states.sum_up(own)?;
            if stop::is_asked() {
                return Err(Stopped.into());
            }
            if missing > 0 {
                return terminal::print(format!(
                    "partition {own} of {}: its sums are there, {} made now; other partitions lack {missing} of {all}\n",
                    self.run.dir().display(),
                    counted(made, "part")
                ));
            }
            self.score(baseline, &mut Learned::new(&self.stream, states, baseline.options()?.1))
        })
    }

    fn hybrid(&self, baseline: &Baseline, checkpoint: &Checkpoint, clip: TextModel, weight: f64) -> Result<()> {
        let (tokenizer, templates) = (checkpoint.tokenizer()?, [texts::TEMPLATE.to_owned()]);
        let text = texts::features(checkpoint, &tokenizer, &self.stream.classes, &templates)?; // (C, P)
        let classifier = TextAndMean::new(&text, self.dim, weight)?;
        let states = States::new(&self.run, &self.stream, plain(CLASS_MEANS), classifier);
        let scored = json!({"clip": clip, "template": texts::TEMPLATE, "weight": weight});
        self.score(baseline, &mut Learned::new(&self.stream, states, scored))
    }

    /// Zero-shot text of all classes.
    fn text(&self, options: &ClipOptions) -> Result<Text> {
        let (checkpoint, clip) = checkpoint::open(&self.run, &self.stream, options)?;
        Text::new(&self.stream.classes, &checkpoint, clip, texts::TEMPLATE)
    }

    /// A random projection, and how its states are called.
    fn projection(&self, features: Option<usize>) -> (Learner, RandomProjection) {
        let kept = features.map_or(Value::Null, |features| json!({"features": features}));
        let features = features.map_or(Features::HeldOut, Features::Fixed);
        let (dim, seed) = (self.dim, self.stream.draws());
        let projection = RandomProjection::new(dim, features, Ridge::HeldOut, seed);
        (Learner { options: kept, ..plain("ranpac") }, projection)
    }

    /// A classifier with text of all classes.
    fn score_text(&self, baseline: &Baseline, text: Text, learner: Learner, classifier: impl OpenSet) -> Result<()> {
        let states = States::new(&self.run, &self.stream, learner, classifier);
        self.score(baseline, &mut WithText::new(&self.stream, text.features, text.clip, states))
    }

    /// Prompts that are there, and class statistics, together.
    fn together(&self, baseline: &Baseline, options: &EnsembleOptions) -> Result<()> {
        let Setting { run, stream, .. } = self;
        let prompts = described(run, stream, &options.prompts())?;
        let (checkpoint, clip) = checkpoint::open(run, stream, &options.clip)?;
        let latents = match prompts.generated {
            Some(Generated { kind, .. }) => Some(LatentStore::open(run, stream, kind)?),
            None => None,
        };
        let replay = match (&latents, prompts.generated) {
            (Some(latents), Some(Generated { current, has_noise, .. })) => {
                let statistics = || class_statistics(run, stream, ClassStatistics::new(self.dim));
                Replay::Generated { latents, current, noise: has_noise.then(|| Box::new(statistics())) }
            }
            _ if prompts.is_joint => Replay::Real,
            _ => Replay::Nothing,
        };
        let config = &prompts.config;
        let device = DeviceChoice::Cpu.open_one()?;
        let training = Training::new(run, stream, &options.prompts(), config, clip, replay, class_of(&device));
        if !training.is_complete()? {
            bail!("the prompts {:?} have not learned all tasks: run the command that makes them again", options.method);
        }
        let load = |classes: &[Class]| backend::new(&checkpoint, classes, config, stream.draws(), &device);
        let statistics = discriminant(run, stream, self.dim, options.weight);
        self.score(baseline, &mut Prompted::new(stream, training, statistics, load, |_, _| ()))
    }

    /// Prompts on real embeddings.
    fn prompts(&self, baseline: &Baseline, replay: Replay, options: &TuneOptions) -> Result<()> {
        let Setting { run, stream, .. } = self;
        let (checkpoint, clip) = checkpoint::open(run, stream, &options.clip)?;
        let (config, device) = (options.config.config(), checkpoint::device(&options.device, &checkpoint)?);
        config.check()?;
        config.check_size(stream.classes.len(), self.dim)?;
        let training = Training::new(run, stream, &baseline.method()?, &config, clip, replay, class_of(&device));
        let progress = Progress::new("baseline", stream.tasks() * config.epochs);
        let load = |classes: &[Class]| backend::new(&checkpoint, classes, &config, stream.draws(), &device);
        let tick = |task, loss| progress.tick(task, stream.tasks(), config.epochs, loss);
        let mut recipe = Prompted::new(stream, training, None, load, tick);
        let results = Results::new(run, stream, &baseline.method()?);
        let history = score(&mut recipe, &results, self.test()?, stream)?;
        progress.finish();
        self.print(&history, &results)
    }
}
