//! Rivals of CGIL from the same embeddings, task by task, into the same tables.

use std::path::PathBuf;

use anyhow::Result;
use cgil::{
    baseline::{
        Classifier, Covariance, Discriminant, Examples, NearestMean, RandomProjection, ReplayHead, Ridge, Shrinkage,
        Stored, TextAndMean, cosines, ensemble, text,
    },
    clip::Checkpoint,
    device::Choice,
    evaluate::{TestSet, ZeroShot, evaluate},
    metrics::History,
    prompt::{
        PromptConfig, learner,
        store::{PromptManifest, text_features_of},
        tune::{Replay, Tuning, tune},
    },
    results::{Results, method_name, stored_bytes},
    table::embeddings::Embeddings,
    task::{Class, Curriculum, OrderOptions, TaskOptions},
};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{checkpoint, terminal};

/// What the text features of a class are of, unless templates are given.
const TEMPLATE: &str = "a photo of a {}";

const RANDOM_FEATURES: usize = 2_000;
const TEXT_WEIGHT: f64 = 0.5;
const STATISTICS_WEIGHT: f64 = 0.5;

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
    Ncm(Run),
    /// Linear discriminant analysis with a covariance that the classes share
    Lda(Run),
    /// Random projection and ridge regression (RanPAC)
    Ranpac(RanpacOptions),
    /// The mean of a class's text feature and its mean embedding
    Hybrid(HybridOptions),
    /// A linear head, trained on draws from a Gaussian per past class
    Linear(Run),
    /// Tuned prompts (of a finished prompt-tune) and linear discriminant analysis together
    Ensemble(EnsembleOptions),
    /// Prompts without replay: only on the current task's real embeddings (the floor)
    Finetune(PromptOptions),
    /// Prompts on the real embeddings of all classes seen, as if they had been kept (the ceiling)
    Joint(PromptOptions),
}

/// What every baseline needs.
#[derive(Args, Clone)]
pub struct Run {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    #[command(flatten)]
    tasks: TaskOptions,
    #[command(flatten)]
    order: OrderOptions,
}

#[derive(Args, Clone)]
pub struct ZeroShotOptions {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    clip: Clip,
    /// Text of a class, with {} for its name; given more than once, the features are averaged
    #[arg(long = "template", value_name = "TEXT", value_parser = template)]
    templates: Vec<String>,
}

#[derive(Args, Clone)]
pub struct RanpacOptions {
    #[command(flatten)]
    run: Run,
    /// Random features per embedding
    #[arg(long, default_value_t = RANDOM_FEATURES, value_parser = cgil::at_least::<1>)]
    features: usize,
}

#[derive(Args, Clone)]
pub struct HybridOptions {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    clip: Clip,
    /// What the text counts, 0 to 1; the mean counts the rest
    #[arg(long, default_value_t = TEXT_WEIGHT, value_parser = share)]
    weight: f64,
}

#[derive(Args, Clone)]
pub struct EnsembleOptions {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    clip: Clip,
    /// The prompts, as tables name them
    #[arg(long, default_value = "cgil")]
    method: String,
    /// What the statistics count, 0 to 1; the prompts count the rest
    #[arg(long, default_value_t = STATISTICS_WEIGHT, value_parser = share)]
    weight: f64,
}

#[derive(Args, Clone)]
pub struct PromptOptions {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    clip: Clip,
    #[command(flatten)]
    config: PromptConfig,
    /// What computes: auto, cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    device: Choice,
}

/// Where the checkpoint is.
#[derive(Args, Clone)]
pub struct Clip {
    /// Directory of the CLIP checkpoint; needed where the embeddings were imported, else the run knows it
    #[arg(long)]
    model: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<()> {
    let baseline = &options.baseline;
    match baseline {
        Baseline::ZeroShot(options) => zero_shot(baseline, options),
        Baseline::Ncm(run) => classify(baseline, &Setting::open(run)?, |dim, _| Ok(NearestMean::new(dim))),
        Baseline::Lda(run) => classify(baseline, &Setting::open(run)?, |dim, _| Ok(discriminant(dim))),
        Baseline::Ranpac(options) => {
            let new = |dim, seed| Ok(RandomProjection::new(dim, options.features, Ridge::HeldOut, seed));
            classify(baseline, &Setting::open(&options.run)?, new)
        }
        Baseline::Hybrid(options) => {
            let setting = Setting::open(&options.run)?;
            let text = setting.text(&setting.checkpoint(&options.clip)?, &[TEMPLATE.into()])?; // (C, P)
            classify(baseline, &setting, |dim, _| TextAndMean::new(&text, dim, options.weight))
        }
        Baseline::Linear(run) => {
            let new = |dim, seed| Ok(ReplayHead::new(dim, Covariance::Full, seed));
            classify(baseline, &Setting::open(run)?, new)
        }
        Baseline::Ensemble(options) => together(baseline, options),
        Baseline::Finetune(options) => prompts(baseline, Replay::Nothing, options),
        Baseline::Joint(options) => prompts(baseline, Replay::Real, options),
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
        let config = |config: &PromptConfig| serde_json::to_value(config);
        Ok(match self {
            Baseline::ZeroShot(o) => ("zero-shot", json!({"template": o.template()}), json!({"template": TEMPLATE})),
            Baseline::Ncm(_) => ("ncm", json!({}), json!({})),
            Baseline::Lda(_) => ("lda", json!({}), json!({})),
            Baseline::Ranpac(o) => ("ranpac", json!({"features": o.features}), json!({"features": RANDOM_FEATURES})),
            Baseline::Hybrid(o) => ("hybrid", json!({"weight": o.weight}), json!({"weight": TEXT_WEIGHT})),
            Baseline::Linear(_) => ("linear", json!({}), json!({})),
            Baseline::Ensemble(o) => {
                let default = json!({"method": "cgil", "weight": STATISTICS_WEIGHT});
                ("ensemble", json!({"method": o.method, "weight": o.weight}), default)
            }
            Baseline::Finetune(o) => ("finetune", config(&o.config)?, config(&PromptConfig::default())?),
            Baseline::Joint(o) => ("joint", config(&o.config)?, config(&PromptConfig::default())?),
        })
    }
}

impl ZeroShotOptions {
    /// All templates as one text.
    fn template(&self) -> String {
        if self.templates.is_empty() { TEMPLATE.into() } else { self.templates.join("+") }
    }
}

/// What a baseline works on.
struct Setting {
    run: PathBuf,
    embeddings: Embeddings,
    curriculum: Curriculum,
    test: TestSet,
}

impl Setting {
    fn open(options: &Run) -> Result<Self> {
        let embeddings = Embeddings::open_complete(&options.run)?;
        let curriculum = Curriculum::new(&embeddings.manifest.classes, &options.tasks, &options.order)?;
        let test = TestSet::read(&embeddings, &curriculum)?;
        Ok(Setting { run: options.run.clone(), embeddings, curriculum, test })
    }

    fn results(&self, baseline: &Baseline) -> Result<Results<'_>> {
        #[derive(Serialize)]
        struct Manifest<'a> {
            options: Value,
            embeddings: String,
            curriculum: &'a Curriculum,
        }
        let (_, options, _) = baseline.options()?;
        let embeddings = self.embeddings.manifest.identity();
        let manifest = Manifest { options, embeddings, curriculum: &self.curriculum };
        Results::create(&self.run, &self.curriculum, &baseline.method()?, &manifest)
    }

    fn checkpoint(&self, clip: &Clip) -> Result<Checkpoint> {
        Ok(checkpoint::open(&self.run, clip.model.as_deref(), &self.embeddings)?.0)
    }

    /// Text features (T, C, P) of T templates, not normalised.
    fn text(&self, checkpoint: &Checkpoint, templates: &[String]) -> Result<Vec<f32>> {
        let tokenizer = checkpoint.tokenizer()?;
        let encoder = checkpoint.text_encoder(&tokenizer)?;
        let named = |template: &String| {
            let text = |class: &Class| template.replace("{}", &class.name.replace('_', " "));
            encoder.features(&tokenizer, &self.curriculum.classes.iter().map(text).collect::<Vec<_>>())
        };
        Ok(templates.iter().map(named).collect::<Result<Vec<_>>>()?.concat())
    }

    fn finish(&self, history: &History, stored: Stored) -> Result<()> {
        let Stored { per_class, shared } = stored;
        terminal::print(terminal::scores(history, &self.curriculum))?;
        terminal::print(format!("keeps {per_class} bytes per class, and {shared} in all\n"))
    }
}

/// A classifier that learns the tasks one after another, and cannot tell unseen classes.
fn classify<C: Classifier>(
    baseline: &Baseline,
    setting: &Setting,
    new: impl FnOnce(usize, u64) -> Result<C>,
) -> Result<()> {
    let Setting { embeddings, curriculum, test, .. } = setting;
    let results = setting.results(baseline)?;
    let mut history = History::new(test, curriculum);
    let next = results.resume(test, 1, &mut history)?;
    let mut classifier = new(embeddings.manifest.dim, curriculum.draws())?;
    let progress = terminal::bar("baseline", curriculum.tasks());
    for learned in 1..=curriculum.tasks() {
        learn(&mut classifier, setting, learned - 1)?;
        if learned >= next {
            let predictions = evaluate(test, curriculum, learned, None, |images| Ok(classifier.scores(images)))?;
            let stored = classifier.stored().total(curriculum.seen(learned - 1));
            results.write(learned, test, &predictions, stored, &mut history, |_| Ok(()))?;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    setting.finish(&history, classifier.stored())
}

/// Shows a classifier the training embeddings of a task (from 0).
fn learn(classifier: &mut impl Classifier, setting: &Setting, task: usize) -> Result<()> {
    let classes: Vec<&Class> = setting.curriculum.classes[setting.curriculum.task(task)].iter().collect();
    let rows = setting.embeddings.by_class("train", &classes)?;
    let examples: Vec<Examples> = classes.iter().map(|class| Examples { class, rows: &rows[&class.label] }).collect();
    classifier.learn(&examples)
}

fn discriminant(dim: usize) -> Discriminant {
    Discriminant::new(dim, Shrinkage::Oas)
}

fn zero_shot(baseline: &Baseline, options: &ZeroShotOptions) -> Result<()> {
    let setting = Setting::open(&options.run)?;
    let default = vec![TEMPLATE.to_owned()];
    let templates = if options.templates.is_empty() { &default } else { &options.templates };
    let Setting { curriculum, test, .. } = &setting;
    let results = setting.results(baseline)?;
    let mut history = History::new(test, curriculum);
    let next = results.resume(test, 0, &mut history)?;
    if next <= curriculum.tasks() {
        let text = setting.text(&setting.checkpoint(&options.clip)?, templates)?;
        let keys = text::zero_shot(&text, curriculum.classes.len(), test.dim)?; // (C, P)
        for learned in next..=curriculum.tasks() {
            let seen = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
            let scores = |images: &[f32]| Ok(cosines(images, &keys[..seen * test.dim], test.dim));
            let predictions = evaluate(test, curriculum, learned, Some(ZeroShot(&keys)), scores)?;
            results.write(learned, test, &predictions, 0, &mut history, |_| Ok(()))?;
        }
    }
    setting.finish(&history, Stored { per_class: 0, shared: 0 })
}

/// Prompts and class statistics together.
fn together(baseline: &Baseline, options: &EnsembleOptions) -> Result<()> {
    let setting = Setting::open(&options.run)?;
    let checkpoint = setting.checkpoint(&options.clip)?;
    let Setting { curriculum, test, .. } = &setting;
    let tokenizer = checkpoint.tokenizer()?;
    let scale = checkpoint.text_encoder(&tokenizer)?.logit_scale;
    let results = setting.results(baseline)?;
    let mut history = History::new(test, curriculum);
    let next = results.resume(test, 1, &mut history)?;
    let mut statistics = discriminant(test.dim);
    for learned in 1..=curriculum.tasks() {
        learn(&mut statistics, &setting, learned - 1)?;
        if learned < next {
            continue;
        }
        let n = curriculum.seen(learned - 1);
        let keys = text_features_of(&setting.run, curriculum, &options.method, learned, test.dim)?; // (C, P)
        let scores = |images: &[f32]| {
            let mut prompts = cosines(images, &keys[..n * test.dim], test.dim); // (N, n)
            prompts.iter_mut().for_each(|x| *x *= scale);
            Ok(ensemble::combine(&prompts, &statistics.scores(images), n, options.weight as f32))
        };
        let predictions = evaluate(test, curriculum, learned, None, scores)?;
        let stored = statistics.stored().total(n) + stored_bytes(&setting.run, curriculum, &options.method, learned)?;
        results.write(learned, test, &predictions, stored, &mut history, |_| Ok(()))?;
    }
    let Stored { per_class, shared } = statistics.stored();
    let (tasks, classes) = (curriculum.tasks(), curriculum.classes.len());
    let prompts = stored_bytes(&setting.run, curriculum, &options.method, tasks)? / classes;
    setting.finish(&history, Stored { per_class: per_class + prompts, shared })
}

/// Prompts on real embeddings.
fn prompts(baseline: &Baseline, replay: Replay, options: &PromptOptions) -> Result<()> {
    let setting = Setting::open(&options.run)?;
    let Setting { embeddings, curriculum, test, .. } = &setting;
    let (checkpoint, model) = checkpoint::open(&setting.run, options.clip.model.as_deref(), embeddings)?;
    let (config, device) = (&options.config, options.device.open_one()?);
    let mut learner = learner::new(&checkpoint, &curriculum.classes, config, curriculum.draws(), &device)?;
    let manifest = PromptManifest::new(config, &replay, &checkpoint, model, &embeddings.manifest, curriculum)?;
    let results = Results::create(&setting.run, curriculum, &baseline.method()?, &manifest)?;
    let progress = terminal::bar("baseline", curriculum.tasks() * config.epochs);
    let tuning = Tuning { embeddings, test, curriculum, config, replay };
    let history = tune(&tuning, &results, learner.as_mut(), |task, loss| {
        terminal::tick(&progress, task, curriculum.tasks(), loss);
    })?;
    progress.finish_and_clear();
    setting.finish(&history, replay.stored(&tuning)?)
}

fn template(text: &str) -> std::result::Result<String, String> {
    match text.matches("{}").count() {
        1 => Ok(text.to_owned()),
        n => Err(format!("a template has {{}} once, in place of the class's name; this one has it {n} times")),
    }
}

/// Parses a number from 0 to 1.
fn share(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or("expected a number from 0 to 1".into())
}
