//! Rivals of CGIL from the same embeddings, task by task, into the same tables.

use std::path::PathBuf;

use anyhow::{Result, bail};
use cgil::{
    baseline::{
        Classifier, Covariance, Discriminant, Features, NearestMean, RandomProjection, ReplayHead, Ridge, Shrinkage,
        TextAndMean, cosines,
        ensemble::{self, Ensemble},
        learn_task, text,
    },
    clip::Checkpoint,
    device::Choice,
    evaluate::{TestSet, ZeroShot, evaluate},
    metrics::History,
    prompt::{
        PromptConfig, learner,
        store::{PromptManifest, TextModel, manifest_of, text_features_of},
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

const TEXT_WEIGHT: f64 = 0.5;

/// Random features that fit a common machine's memory: their Gram matrix takes 3.2 GB.
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
    Ncm(Run),
    /// Linear discriminant analysis with a covariance that the classes share
    Lda(LdaOptions),
    /// Random projection and ridge regression (RanPAC)
    Ranpac(RanpacOptions),
    /// The mean of a class's text feature and its mean embedding
    Hybrid(HybridOptions),
    /// A linear head, trained on draws from a Gaussian per past class
    Linear(Run),
    /// Prompts that are tuned already and class statistics together, as in prompt-tune --statistics
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
    #[arg(long = "template", value_name = "TEXT", value_parser = cgil::prompt::template)]
    templates: Vec<String>,
}

#[derive(Args, Clone)]
pub struct LdaOptions {
    #[command(flatten)]
    run: Run,
    /// What is done about a covariance of few rows
    #[arg(long, value_enum, default_value_t = Shrinkage::Oas)]
    shrinkage: Shrinkage,
}

#[derive(Args, Clone)]
pub struct RanpacOptions {
    #[command(flatten)]
    run: Run,
    /// Random features per embedding [default: 500, 1000 or 2000, as rows held out of the first task say]
    #[arg(long, value_parser = features)]
    features: Option<usize>,
}

#[derive(Args, Clone)]
pub struct HybridOptions {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    clip: Clip,
    /// What the text counts, 0 to 1; the mean counts the rest
    #[arg(long, default_value_t = TEXT_WEIGHT, value_parser = cgil::share)]
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
    #[arg(long, default_value_t = ensemble::WEIGHT, value_parser = cgil::share)]
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
        Baseline::Ncm(run) => classify(baseline, &Setting::open(run)?, None, |dim, _| Ok(NearestMean::new(dim))),
        Baseline::Lda(options) => {
            let new = |dim, _| Ok(Discriminant::new(dim, options.shrinkage));
            classify(baseline, &Setting::open(&options.run)?, None, new)
        }
        Baseline::Ranpac(options) => {
            let features = options.features.map_or(Features::HeldOut, Features::Fixed);
            let new = |dim, seed| Ok(RandomProjection::new(dim, features, Ridge::HeldOut, seed));
            classify(baseline, &Setting::open(&options.run)?, None, new)
        }
        Baseline::Hybrid(options) => {
            let setting = Setting::open(&options.run)?;
            let (checkpoint, clip) = setting.clip(&options.clip)?;
            let text = setting.text(&checkpoint, &[TEMPLATE.into()])?; // (C, P)
            classify(baseline, &setting, Some(clip), |dim, _| TextAndMean::new(&text, dim, options.weight))
        }
        Baseline::Linear(run) => {
            let new = |dim, seed| Ok(ReplayHead::new(dim, Covariance::Full, seed));
            classify(baseline, &Setting::open(run)?, None, new)
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
            Baseline::Lda(o) => ("lda", json!({"shrinkage": o.shrinkage}), json!({"shrinkage": Shrinkage::Oas})),
            Baseline::Ranpac(o) => ("ranpac", json!({"features": o.features}), json!({"features": null})),
            Baseline::Hybrid(o) => ("hybrid", json!({"weight": o.weight}), json!({"weight": TEXT_WEIGHT})),
            Baseline::Linear(_) => ("linear", json!({}), json!({})),
            Baseline::Ensemble(o) => {
                let default = json!({"method": "cgil", "weight": ensemble::WEIGHT});
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

    /// The results of a baseline that reads the texts of `clip`, or uses `prompts`, if any.
    fn results(
        &self,
        baseline: &Baseline,
        clip: Option<TextModel>,
        prompts: Option<PromptManifest>,
    ) -> Result<Results<'_>> {
        #[derive(Serialize)]
        struct Manifest<'a> {
            options: Value,
            #[serde(flatten)]
            clip: Option<TextModel>,
            prompts: Option<PromptManifest>,
            embeddings: String,
            curriculum: &'a Curriculum,
        }
        let (_, options, _) = baseline.options()?;
        let embeddings = self.embeddings.manifest.identity();
        let manifest = Manifest { options, clip, prompts, embeddings, curriculum: &self.curriculum };
        Results::create(&self.run, &self.curriculum, &baseline.method()?, &manifest)
    }

    fn clip(&self, clip: &Clip) -> Result<(Checkpoint, TextModel)> {
        let (checkpoint, model) = checkpoint::open(&self.run, clip.model.as_deref(), &self.embeddings)?;
        let text = TextModel::new(&checkpoint, model)?;
        Ok((checkpoint, text))
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

    fn finish(&self, history: &History, baseline: &Baseline) -> Result<()> {
        let (tasks, classes) = (self.curriculum.tasks(), self.curriculum.classes.len());
        let stored = stored_bytes(&self.run, &self.curriculum, &baseline.method()?, tasks)? / classes;
        terminal::print(terminal::scores(history, &self.curriculum))?;
        terminal::print(format!("keeps {stored} bytes per class\n"))
    }
}

/// A classifier that learns the tasks one after another, and cannot tell unseen classes.
fn classify<C: Classifier>(
    baseline: &Baseline,
    setting: &Setting,
    clip: Option<TextModel>,
    new: impl FnOnce(usize, u64) -> Result<C>,
) -> Result<()> {
    let Setting { embeddings, curriculum, test, .. } = setting;
    let results = setting.results(baseline, clip, None)?;
    let mut history = History::new(test, curriculum);
    let next = results.resume(test, 1, &mut history)?;
    if next <= curriculum.tasks() {
        let mut classifier = new(embeddings.manifest.dim, curriculum.draws())?;
        let progress = terminal::bar("baseline", curriculum.tasks());
        for learned in 1..=curriculum.tasks() {
            learn_task(&mut classifier, embeddings, curriculum, learned - 1)?;
            if learned >= next {
                let scores = |images: &[f32]| Ok(classifier.scores(images).into());
                let predictions = evaluate(test, curriculum, learned, None, scores)?;
                let stored = classifier.stored().total(curriculum.seen(learned - 1));
                results.write(learned, test, &predictions, stored, &mut history, |_| Ok(()))?;
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
    }
    setting.finish(&history, baseline)
}

fn zero_shot(baseline: &Baseline, options: &ZeroShotOptions) -> Result<()> {
    let setting = Setting::open(&options.run)?;
    let (checkpoint, clip) = setting.clip(&options.clip)?;
    let default = vec![TEMPLATE.to_owned()];
    let templates = if options.templates.is_empty() { &default } else { &options.templates };
    let Setting { curriculum, test, .. } = &setting;
    let results = setting.results(baseline, Some(clip), None)?;
    let mut history = History::new(test, curriculum);
    let next = results.resume(test, 0, &mut history)?;
    if next <= curriculum.tasks() {
        let text = setting.text(&checkpoint, templates)?; // (T, C, P)
        let keys = text::zero_shot(&text, curriculum.classes.len(), test.dim)?; // (C, P)
        // of one template the length is known, a mean of several has none
        let is_raw = templates.len() == 1;
        let zero_shot = ZeroShot { features: if is_raw { &text } else { &keys }, is_raw };
        for learned in next..=curriculum.tasks() {
            let seen = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
            let scores = |images: &[f32]| Ok(cosines(images, &keys[..seen * test.dim], test.dim).into());
            let predictions = evaluate(test, curriculum, learned, Some(zero_shot), scores)?;
            results.write(learned, test, &predictions, 0, &mut history, |_| Ok(()))?;
        }
    }
    setting.finish(&history, baseline)
}

/// Prompts that are there, and class statistics, together.
fn together(baseline: &Baseline, options: &EnsembleOptions) -> Result<()> {
    let setting = Setting::open(&options.run)?;
    let (checkpoint, clip) = setting.clip(&options.clip)?;
    let Setting { run, embeddings, curriculum, test } = &setting;
    let prompts = manifest_of(run, curriculum, &options.method)?;
    if prompts.clip != clip || prompts.embeddings != embeddings.manifest.identity() {
        bail!(
            "the prompts {:?} were learned with another CLIP, or from other embeddings, than the run has now",
            options.method
        );
    }
    let results = setting.results(baseline, None, Some(prompts))?;
    let mut history = History::new(test, curriculum);
    let next = results.resume(test, 0, &mut history)?;
    let tokenizer = checkpoint.tokenizer()?;
    let scale = checkpoint.text_encoder(&tokenizer)?.logit_scale;
    let mut ensemble = Ensemble::new(test.dim, options.weight, scale);
    for learned in next..=curriculum.tasks() {
        ensemble.learn(learned, embeddings, curriculum)?;
        let n = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
        let keys = text_features_of(run, curriculum, &options.method, learned, test.dim)?; // (C, P)
        let zero_shot = ZeroShot { features: &keys, is_raw: false };
        let scores = |images: &[f32]| Ok(ensemble.scores(images, cosines(images, &keys[..n * test.dim], test.dim)));
        let predictions = evaluate(test, curriculum, learned, Some(zero_shot), scores)?;
        let stored = match learned {
            0 => 0,
            _ => ensemble.stored().total(n) + stored_bytes(run, curriculum, &options.method, learned)?,
        };
        results.write(learned, test, &predictions, stored, &mut history, |_| Ok(()))?;
    }
    setting.finish(&history, baseline)
}

/// Prompts on real embeddings.
fn prompts(baseline: &Baseline, replay: Replay, options: &PromptOptions) -> Result<()> {
    let setting = Setting::open(&options.run)?;
    let Setting { embeddings, curriculum, test, .. } = &setting;
    let (checkpoint, model) = checkpoint::open(&setting.run, options.clip.model.as_deref(), embeddings)?;
    let (config, device) = (&options.config, options.device.open_one()?);
    let mut learner = learner::new(&checkpoint, &curriculum.classes, config, curriculum.draws(), &device)?;
    let tuning = Tuning { embeddings, test, curriculum, config, replay, statistics: 0.0 };
    let manifest = PromptManifest::new(&tuning, &checkpoint, model)?;
    let results = Results::create(&setting.run, curriculum, &baseline.method()?, &manifest)?;
    let progress = terminal::bar("baseline", curriculum.tasks() * config.epochs);
    let history = tune(&tuning, &results, learner.as_mut(), |task, loss| {
        terminal::tick(&progress, task, curriculum.tasks(), loss);
    })?;
    progress.finish_and_clear();
    setting.finish(&history, baseline)
}

/// Parses a number of random features.
fn features(text: &str) -> std::result::Result<usize, String> {
    let features = text.parse().ok().filter(|n| (1..=MOST_FEATURES).contains(n));
    features.ok_or(format!("expected a whole number from 1 to {MOST_FEATURES}"))
}
