//! Options of the baselines, and what tables call a baseline with them.

use std::path::PathBuf;

use anyhow::Result;
use cgil::{
    baseline::{Covariance, Shrinkage, ensemble},
    device::DeviceChoice,
    partition::Partition,
    prompt::PromptConfig,
    results::{method_name, sorted_name},
    texts,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    checkpoint::ClipOptions,
    options::{OrderOptions, PromptOptions, TaskOptions, choice, share, template},
};

const TEXT_WEIGHT: f64 = 0.5;

/// What stands for the paper's prompts in a method of a sweep.
const PAPER: &str = "paper=true";

/// Random features that fit a common machine's memory: a matrix of them takes 3.2 GB, its triangle
/// half of that.
const MOST_FEATURES: usize = 20_000;

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
    pub run: PathBuf,
    #[command(flatten)]
    pub tasks: TaskOptions,
    #[command(flatten)]
    pub order: OrderOptions,
}

/// Of baselines that learn from sums over training rows.
#[derive(Args, Clone)]
pub struct PartOptions {
    /// Sum up every N-th part of the training rows alone, from part I on
    ///
    /// Partition I of N, from 0/N to N-1/N, has the parts k with k mod N = I, shards of 32 MB of
    /// rows, or one. Partitions may run anywhere that the run's directory is, at once, in any order
    /// and again; whoever finds all sums there learns from them, and is scored.
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    pub partition: Option<Partition>,
}

#[derive(Args, Clone)]
pub struct ZeroShotOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub clip: ClipOptions,
    /// Text of a class, with {} for its name; given more than once, the features are averaged
    #[arg(long = "template", value_name = "TEXT", value_parser = template)]
    templates: Vec<String>,
}

#[derive(Args, Clone)]
pub struct NcmOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub part: PartOptions,
}

#[derive(Args, Clone)]
pub struct LdaOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub part: PartOptions,
    /// What is done about a covariance of few rows
    #[arg(long, value_parser = choice::<Shrinkage>(), default_value_t = Shrinkage::Oas)]
    pub shrinkage: Shrinkage,
}

#[derive(Args, Clone)]
pub struct RanpacOptions {
    #[command(flatten)]
    pub run: RunOptions,
    /// Random features per embedding [default: 500, 1000 or 2000, as rows held out of the first
    /// task say]
    #[arg(long, value_name = "N", value_parser = features)]
    pub features: Option<usize>,
}

#[derive(Args, Clone)]
pub struct HybridOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub clip: ClipOptions,
    /// What the text counts, 0 to 1; the mean counts the rest
    #[arg(long, value_name = "X", default_value_t = TEXT_WEIGHT, value_parser = share)]
    pub weight: f64,
}

/// Of baselines that have zero-shot text of all classes beside what they learn.
#[derive(Args, Clone)]
pub struct TextOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub clip: ClipOptions,
}

#[derive(Args, Clone)]
pub struct RailOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub clip: ClipOptions,
    /// Random features per embedding, as of ranpac
    #[arg(long, value_name = "N", value_parser = features)]
    pub features: Option<usize>,
}

#[derive(Args, Clone)]
pub struct LinearOptions {
    #[command(flatten)]
    pub run: RunOptions,
    /// What is kept of how embeddings of a class vary
    #[arg(long, value_parser = choice::<Covariance>(), default_value_t = Covariance::Class)]
    pub covariance: Covariance,
}

#[derive(Args, Clone)]
pub struct EnsembleOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub clip: ClipOptions,
    /// The prompts, as the table prompt_losses names them
    #[arg(long, default_value = "cgil")]
    pub method: String,
    /// What the statistics count, 0 to 1; the prompts count the rest
    #[arg(long, value_name = "X", default_value_t = ensemble::WEIGHT, value_parser = share)]
    pub weight: f64,
}

#[derive(Args, Clone)]
pub struct TuneOptions {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub clip: ClipOptions,
    #[command(flatten)]
    pub config: PromptOptions,
    /// auto (CUDA if there and faster), cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

impl Baseline {
    /// What tables call it with these options.
    pub fn method(&self) -> Result<String> {
        let (name, options, defaults) = self.options()?;
        Ok(method_name(name, &options, &defaults))
    }

    /// Its name, its options, and their defaults.
    pub fn options(&self) -> Result<(&'static str, Value, Value)> {
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

    pub fn run_options(&self) -> &RunOptions {
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
    pub fn prompts(&self) -> String {
        sorted_name(&self.method.replace(PAPER, "replay-noise=off"), "statistics")
    }
}

impl ZeroShotOptions {
    pub fn templates(&self) -> Vec<String> {
        if self.templates.is_empty() { vec![texts::TEMPLATE.to_owned()] } else { self.templates.clone() }
    }
}

/// Parses a number of random features.
fn features(text: &str) -> std::result::Result<usize, String> {
    let features = text.parse().ok().filter(|n| (1..=MOST_FEATURES).contains(n));
    features.ok_or(format!("expected a whole number from 1 to {MOST_FEATURES}"))
}
