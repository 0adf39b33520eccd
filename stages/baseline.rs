//! Rivals of CGIL from the same embeddings, task by task, into the same tables.

use std::{cell::OnceCell, path::PathBuf};

use anyhow::{Result, bail};
use cgil::{
    baseline::{
        ClassCache, ClassStatistics, Classifier, Covariance, Discriminant, Evidence, Features, Incremental,
        NearestMean, OpenSet, Rail, RandomProjection, ReplayHead, Ridge, Shrinkage, TextAndMean, ensemble, text,
    },
    clip::Checkpoint,
    device::{DeviceChoice, class_of},
    embeddings::{Embeddings, FIRST_SOURCE},
    evaluate::TestSet,
    generator::LatentStore,
    method::{Learned, Prompted, Recipe, Statistics, WithText, ZeroShotTexts, score},
    metrics::History,
    partition::Partition,
    prompt::{
        PromptConfig, backend,
        training::{Generated, Replay, Training, described},
    },
    results::{Results, method_name, sorted_name, stored_bytes},
    run::Run,
    states::{Learner, States, SummedUp},
    stop::{self, Stopped},
    stream::Stream,
    task::Class,
    texts::{self, TextModel},
    words::counted,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    checkpoint::{self, ClipOptions},
    jobs,
    options::{OrderOptions, PromptOptions, TaskOptions, choice, share, template},
    terminal::{self, Progress},
};

const TEXT_WEIGHT: f64 = 0.5;

/// What stands for the paper's prompts in a method of a sweep.
const PAPER: &str = "paper=true";

/// Random features that fit a common machine's memory: a matrix of them takes 3.2 GB, its triangle
/// half of that.
const MOST_FEATURES: usize = 20_000;

#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    pub baseline: Baseline,
}

#[derive(Subcommand, Clone)]
pub enum Baseline {
    /// CLIP as it is: text features of the class names
    ZeroShot(ZeroShotOptions),
    /// Nearest class mean
    Ncm(NcmOptions),
    /// Linear discriminant analysis with a covariance that the classes share
    Lda(LdaOptions),
    /// Random projection and ridge regression (RanPAC)
    Ranpac(RanpacOptions),
    /// The mean of a class's text feature and its mean embedding
    Hybrid(HybridOptions),
    /// Text and class statistics in one classifier, which tells learned and unlearned classes
    Evidence(TextOptions),
    /// Ridge regression fused with zero-shot text, which tells learned and unlearned classes (RAIL)
    Rail(RailOptions),
    /// A cache of class means beside zero-shot text (Tip-Adapter)
    TipAdapter(TextOptions),
    /// A linear head, trained on draws from a Gaussian per past class
    Linear(LinearOptions),
    /// Prompts that are tuned already and class statistics together, as in prompt-tune --statistics
    /// lda
    Ensemble(EnsembleOptions),
    /// Prompts without replay: only on the current task's real embeddings (the floor)
    Finetune(TuneOptions),
    /// Prompts on the real embeddings of all classes seen, as if they had been kept (the ceiling)
    Joint(TuneOptions),
}

/// What every baseline needs.
#[derive(Args, Clone)]
pub struct RunOptions {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    tasks: TaskOptions,
    #[command(flatten)]
    order: OrderOptions,
}

/// Of baselines that learn from sums over training rows.
#[derive(Args, Clone)]
struct PartOptions {
    /// Sum up every N-th part of the training rows alone, from part I on
    ///
    /// Partition I of N, from 0/N to N-1/N, has the parts k with k mod N = I, shards of 32 MB of
    /// rows, or one. Partitions may run anywhere that the run's directory is, at once, in any order
    /// and again; whoever finds all sums there learns from them, and is scored.
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    partition: Option<Partition>,
}

#[derive(Args, Clone)]
pub struct ZeroShotOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    clip: ClipOptions,
    /// Text of a class, with {} for its name; given more than once, the features are averaged
    #[arg(long = "template", value_name = "TEXT", value_parser = template)]
    templates: Vec<String>,
}

#[derive(Args, Clone)]
pub struct NcmOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    part: PartOptions,
}

#[derive(Args, Clone)]
pub struct LdaOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    part: PartOptions,
    /// What is done about a covariance of few rows
    #[arg(long, value_parser = choice::<Shrinkage>(), default_value_t = Shrinkage::Oas)]
    shrinkage: Shrinkage,
}

#[derive(Args, Clone)]
pub struct RanpacOptions {
    #[command(flatten)]
    run: RunOptions,
    /// Random features per embedding [default: 500, 1000 or 2000, as rows held out of the first
    /// task say]
    #[arg(long, value_name = "N", value_parser = features)]
    features: Option<usize>,
}

#[derive(Args, Clone)]
pub struct HybridOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    clip: ClipOptions,
    /// What the text counts, 0 to 1; the mean counts the rest
    #[arg(long, value_name = "X", default_value_t = TEXT_WEIGHT, value_parser = share)]
    weight: f64,
}

/// Of baselines that have zero-shot text of all classes beside what they learn.
#[derive(Args, Clone)]
pub struct TextOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    clip: ClipOptions,
}

#[derive(Args, Clone)]
pub struct RailOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    clip: ClipOptions,
    /// Random features per embedding, as of ranpac
    #[arg(long, value_name = "N", value_parser = features)]
    features: Option<usize>,
}

#[derive(Args, Clone)]
pub struct LinearOptions {
    #[command(flatten)]
    run: RunOptions,
    /// What is kept of how embeddings of a class vary
    #[arg(long, value_parser = choice::<Covariance>(), default_value_t = Covariance::Class)]
    covariance: Covariance,
}

#[derive(Args, Clone)]
pub struct EnsembleOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    clip: ClipOptions,
    /// The prompts, as the table prompt_losses names them
    #[arg(long, default_value = "cgil")]
    method: String,
    /// What the statistics count, 0 to 1; the prompts count the rest
    #[arg(long, value_name = "X", default_value_t = ensemble::WEIGHT, value_parser = share)]
    weight: f64,
}

#[derive(Args, Clone)]
pub struct TuneOptions {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    clip: ClipOptions,
    #[command(flatten)]
    config: PromptOptions,
    /// auto (CUDA if there and faster), cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
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
            let learner = Learner { name: "class-cache", options: text.options(), looks_ahead: false };
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

impl Baseline {
    /// What tables call it with these options.
    pub fn method(&self) -> Result<String> {
        let (name, options, defaults) = self.options()?;
        Ok(method_name(name, &options, &defaults))
    }

    /// Its name, its options, and their defaults.
    fn options(&self) -> Result<(&'static str, Value, Value)> {
        let config = |options: &TuneOptions| serde_json::to_value(options.config.config());
        let default = || serde_json::to_value(PromptConfig::default());
        Ok(match self {
            Baseline::ZeroShot(o) => {
                ("zero-shot", json!({"template": o.templates().join("+")}), json!({"template": texts::TEMPLATE}))
            }
            Baseline::Ncm(_) => ("ncm", json!({}), json!({})),
            Baseline::Lda(o) => ("lda", json!({"shrinkage": o.shrinkage}), json!({"shrinkage": Shrinkage::Oas})),
            Baseline::Ranpac(o) => ("ranpac", json!({"features": o.features}), json!({"features": null})),
            Baseline::Hybrid(o) => ("hybrid", json!({"weight": o.weight}), json!({"weight": TEXT_WEIGHT})),
            Baseline::Evidence(_) => ("evidence", json!({}), json!({})),
            Baseline::Rail(o) => ("rail", json!({"features": o.features}), json!({"features": null})),
            Baseline::TipAdapter(_) => ("tip-adapter", json!({}), json!({})),
            Baseline::Linear(o) => {
                ("linear", json!({"covariance": o.covariance}), json!({"covariance": Covariance::Class}))
            }
            Baseline::Ensemble(o) => {
                let default = json!({"method": "cgil", "weight": ensemble::WEIGHT});
                ("ensemble", json!({"method": o.prompts(), "weight": o.weight}), default)
            }
            Baseline::Finetune(o) => ("finetune", config(o)?, default()?),
            Baseline::Joint(o) => ("joint", config(o)?, default()?),
        })
    }

    /// The partition that it makes alone; none where it makes all.
    pub fn partition(&self) -> Option<Partition> {
        match self {
            Baseline::Ncm(NcmOptions { part, .. }) | Baseline::Lda(LdaOptions { part, .. }) => part.partition,
            _ => None,
        }
    }

    fn run_options(&self) -> &RunOptions {
        match self {
            Baseline::ZeroShot(o) => &o.run,
            Baseline::Ncm(o) => &o.run,
            Baseline::Lda(o) => &o.run,
            Baseline::Ranpac(o) => &o.run,
            Baseline::Hybrid(o) => &o.run,
            Baseline::Evidence(o) | Baseline::TipAdapter(o) => &o.run,
            Baseline::Rail(o) => &o.run,
            Baseline::Linear(o) => &o.run,
            Baseline::Ensemble(o) => &o.run,
            Baseline::Finetune(o) | Baseline::Joint(o) => &o.run,
        }
    }
}

impl EnsembleOptions {
    /// The name of the prompts.
    fn prompts(&self) -> String {
        sorted_name(&self.method.replace(PAPER, "replay-noise=off"), "statistics")
    }
}

impl ZeroShotOptions {
    fn templates(&self) -> Vec<String> {
        if self.templates.is_empty() { vec![texts::TEMPLATE.to_owned()] } else { self.templates.clone() }
    }
}

/// What is learned by nearest class means.
const CLASS_MEANS: &str = "class-means";

/// What is learned by linear discriminant analysis, whatever is made of it.
const CLASS_STATISTICS: &str = "class-statistics";

/// The counts, means and scatter of a stream's classes, in `statistics` or what is made of them.
pub fn class_statistics<'a, C: Incremental>(run: &'a Run, stream: &'a Stream, statistics: C) -> States<'a, C> {
    States::new(run, stream, plain(CLASS_STATISTICS), statistics)
}

/// Linear discriminant analysis that counts `weight` beside prompts; none where it does not count.
pub fn discriminant<'a>(run: &'a Run, stream: &'a Stream, dim: usize, weight: f64) -> Option<Statistics<'a>> {
    let states = || class_statistics(run, stream, Discriminant::new(dim, Shrinkage::Oas));
    (weight > 0.0).then(|| Statistics::Discriminant { states: Box::new(states()), weight })
}

/// Raised by every change of what evidence chooses or keeps: other statistics stay as they are, whose
/// rows may not be there any more.
const EVIDENCE_RULE: u32 = 5;

/// Those that learn a class once: what they keep of it has no count.
const LEARN_ONCE: [&str; 3] = [CLASS_MEANS, "class-cache", "linear"];

/// Whether what a learner's manifest has as options is of one that can learn the tasks of a stream:
/// not what keeps something else by now, and not what learns a class once, where there is more of one.
pub fn can_learn(stream: &Stream, options: &Value) -> bool {
    let name = options["learner"].as_str().unwrap_or_default();
    let has_more = (0..stream.tasks()).any(|t| stream.more(t).next().is_some());
    let is_old = name == "evidence" && options["options"]["rule"] != json!(EVIDENCE_RULE);
    !(is_old || has_more && LEARN_ONCE.contains(&name))
}

/// A learner without options, whatever classes are to come.
fn plain(name: &'static str) -> Learner {
    Learner { name, options: Value::Null, looks_ahead: false }
}

/// Zero-shot text features of classes.
pub struct Text {
    clip: TextModel,
    template: String,
    /// Values per feature, P.
    dim: usize,
    /// (C, P), not normalised.
    features: Vec<f32>,
    /// (C, P), of length 1.
    unit: Vec<f32>,
    logit_scale: f32,
}

impl Text {
    pub fn new(classes: &[Class], checkpoint: &Checkpoint, clip: TextModel, template: &str) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let features = texts::features(checkpoint, &tokenizer, classes, &[template.to_owned()])?; // (C, P)
        let classes = classes.len();
        let dim = features.len() / classes;
        let unit = text::zero_shot(&features, classes, dim)?;
        let logit_scale = checkpoint.text_encoder(&tokenizer)?.logit_scale;
        Ok(Text { clip, template: template.to_owned(), dim, features, unit, logit_scale })
    }

    /// What it is of.
    fn options(&self) -> Value {
        json!({"clip": self.clip, "template": self.template})
    }

    /// The evidence beside it, and how its states are called.
    pub fn evidence(&self) -> (Learner, Evidence) {
        let mut options = self.options();
        options["rule"] = EVIDENCE_RULE.into();
        let learner = Learner { name: "evidence", options, looks_ahead: true };
        let text = self.unit.iter().map(|&x| f64::from(x)).collect();
        (learner, Evidence::new(text, self.dim, f64::from(self.logit_scale)))
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

/// Parses a number of random features.
fn features(text: &str) -> std::result::Result<usize, String> {
    let features = text.parse().ok().filter(|n| (1..=MOST_FEATURES).contains(n));
    features.ok_or(format!("expected a whole number from 1 to {MOST_FEATURES}"))
}
