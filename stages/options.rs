//! Options that several commands share, and what they mean to the library.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cgil::{
    choice::Choice,
    generator::{DiffusionConfig, GeneratorConfig, Kind, VaeConfig},
    metrics::MetricName,
    prompt::{Context as ContextKind, Optimizer, PromptConfig, TrainPrompts},
    run::Run,
    stream::Stream,
    task::{Convention, Cut, Order},
    texts,
};
use clap::{
    ArgGroup, Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

/// How classes are cut into tasks.
#[derive(Args, Clone, Debug)]
pub struct TaskOptions {
    /// Tasks that the classes are cut into
    ///
    /// ceil(classes / tasks) classes each; the last takes what is left.
    #[arg(long, value_name = "N", conflicts_with = "per_task", value_parser = at_least::<1>)]
    pub tasks: Option<usize>,
    /// Classes of every task; the last takes what is left
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = at_least::<1>)]
    pub per_task: Option<usize>,
    /// Classes of the first task, if others than of the next
    #[arg(long, value_name = "N", hide_short_help = true, requires = "per_task", value_parser = at_least::<1>)]
    pub first_task: Option<usize>,
    /// Learn from N training embeddings of each class, not from all
    ///
    /// The seed draws them.
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    pub shots: Option<usize>,
}

impl TaskOptions {
    /// The cut, if one is asked for.
    pub fn cut(&self) -> Option<Cut> {
        let sizes = |next| Cut::Sizes { first: self.first_task.unwrap_or(next), next };
        self.tasks.map(Cut::Tasks).or(self.per_task.map(sizes))
    }

    /// The cut, where one is needed.
    pub fn required(&self) -> Result<Cut> {
        self.cut().context("either --tasks or --per-task is needed: how the classes are cut into tasks")
    }
}

/// Options as pairs of name and value: `lr=0.01,template=a {}; here` is lr with 0.01 and template
/// with "a {}, here".
pub fn pairs(options: &str) -> Result<Vec<(String, String)>> {
    let options = options.split(',').filter(|option| !option.is_empty());
    let pair = |option: &str| {
        let Some((key, value)) = option.split_once('=') else {
            bail!("expected options as name=value, separated by commas, but found {option:?}");
        };
        Ok((key.to_owned(), value.replace(';', ",")))
    };
    options.map(pair).collect()
}

/// Options as the command line has them: `--lr 0.01`, and `--legacy-reparam` for one that is true.
pub fn flags(pairs: &[(String, String)]) -> Vec<String> {
    let flag = |(key, value): &(String, String)| match value.as_str() {
        "true" => vec![format!("--{key}")],
        _ => vec![format!("--{key}"), value.clone()],
    };
    pairs.iter().flat_map(flag).collect()
}

/// Which stream of a run is meant.
#[derive(Args, Clone, Debug, Default)]
pub struct StreamOption {
    /// The stream, where the run has several
    #[arg(id = "stream", long = "stream", value_name = "NAME", hide_short_help = true)]
    name: Option<String>,
}

impl StreamOption {
    /// The stream of that name, or the only one; none where the run has none.
    pub fn find(&self, run: &Run) -> Result<Option<Stream>> {
        let names = run.streams();
        match (&self.name, &names[..]) {
            (Some(name), _) => Stream::open(run, name).map(Some),
            (None, []) => Ok(None),
            (None, [only]) => Stream::open(run, only).map(Some),
            (None, _) => {
                bail!("{} has several streams ({}): choose one by --stream", run.dir().display(), names.join(", "))
            }
        }
    }
}

/// How classes are ordered.
#[derive(Args, Clone, Debug, Default)]
#[command(group(ArgGroup::new("numbers").args(["seed", "order"]).multiple(true)))]
pub struct OrderOptions {
    /// Permute the classes, as numpy would, and draw everything from it
    ///
    /// Without it the classes are in the dataset's order, and draws are those of seed 0.
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// A class order as a JSON list of numbers from 0, instead of the seed's; the seed is then for
    /// the draws alone
    #[arg(long, value_name = "FILE", hide_short_help = true, requires = "convention")]
    pub order: Option<PathBuf>,
    /// What the numbers of --order, or of the seed's permutation, are
    ///
    /// Positions, unless it is given.
    #[arg(long, hide_short_help = true, value_parser = choice::<Convention>(), requires = "numbers")]
    pub convention: Option<Convention>,
}

impl OrderOptions {
    pub fn order(&self) -> Order {
        Order { seed: self.seed, file: self.order.clone(), convention: self.convention.unwrap_or_default() }
    }
}

/// How prompts are made and trained.
#[derive(Args, Clone, Debug)]
pub struct PromptOptions {
    /// Epochs per task; the paper's
    #[arg(long, value_name = "N", default_value_t = PromptConfig::default().epochs, value_parser = at_least::<1>)]
    epochs: usize,
    /// Learning rate; the paper has 0.01 to 0.05
    #[arg(long, value_name = "X", default_value_t = PromptConfig::default().lr, value_parser = positive)]
    lr: f64,
    /// Optimiser; the paper's
    #[arg(long, value_parser = choice::<Optimizer>(), default_value_t = PromptConfig::default().optimizer)]
    #[arg(hide_short_help = true)]
    optimizer: Optimizer,
    /// Weight decay, in sgd and adam added to the gradients (L2), in adamw apart from them; the paper
    /// has none
    #[arg(long, value_name = "X", default_value_t = PromptConfig::default().weight_decay, value_parser = not_negative)]
    #[arg(hide_short_help = true)]
    weight_decay: f64,
    /// Vectors before a class's name; the paper's
    ///
    /// Context vectors stand before the name in the class's prompt.
    #[arg(long, value_name = "KIND", value_parser = choice::<ContextKind>())]
    #[arg(default_value_t = PromptConfig::default().context)]
    context: ContextKind,
    /// Learned context vectors per prompt; the paper's
    #[arg(long, value_name = "N", default_value_t = PromptConfig::default().n_ctx, value_parser = at_least::<1>)]
    n_ctx: usize,
    /// Weight of a penalty that draws the context vectors of a prompt to be orthonormal; where
    /// there is one per class, those of the seen classes. The paper has none
    #[arg(long, value_name = "X", default_value_t = PromptConfig::default().ortho, value_parser = not_negative)]
    #[arg(hide_short_help = true)]
    ortho: f64,
    /// Whose own context vectors are trained; what classes share always is. The paper's
    #[arg(long, value_parser = choice::<TrainPrompts>(), default_value_t = PromptConfig::default().train_prompts)]
    #[arg(value_name = "WHICH", hide_short_help = true)]
    train_prompts: TrainPrompts,
    /// Text of a class, {} its name; the text's feature is the zero-shot one, and what context
    /// vectors are generated from. The paper's
    #[arg(long, value_name = "TEXT", default_value = texts::TEMPLATE, value_parser = template)]
    #[arg(hide_short_help = true)]
    template: String,
    /// Embeddings drawn per class and epoch; the paper's
    #[arg(long, value_name = "N", default_value_t = PromptConfig::default().samples, value_parser = at_least::<1>)]
    samples: usize,
    /// Embeddings per step; the paper's
    #[arg(long, value_name = "N", default_value_t = PromptConfig::default().batch_size, value_parser = at_least::<1>)]
    batch_size: usize,
    /// Classes whose prompts are encoded in a step: those of its embeddings, and others drawn anew
    /// for each step, which stand for the rest [default: all]
    #[arg(long, value_name = "N", value_parser = at_least::<1>, hide_short_help = true)]
    classes_per_step: Option<usize>,
}

impl PromptOptions {
    pub fn config(&self) -> PromptConfig {
        PromptConfig {
            epochs: self.epochs,
            lr: self.lr,
            optimizer: self.optimizer,
            weight_decay: self.weight_decay,
            context: self.context,
            n_ctx: self.n_ctx,
            ortho: self.ortho,
            train_prompts: self.train_prompts,
            template: self.template.clone(),
            samples: self.samples,
            batch_size: self.batch_size,
            classes_per_step: self.classes_per_step,
        }
    }
}

/// The kind of generator and what is set of it.
#[derive(Args, Debug)]
pub struct GeneratorOptions {
    /// Kind of generator; the paper's is vae
    #[arg(long = "generator", value_name = "KIND", value_parser = choice::<Kind>(), default_value_t = Kind::Vae)]
    pub kind: Kind,
    #[arg(long, help = help("Passes over the rows of a class", VAE.epochs, DIFFUSION.epochs))]
    #[arg(value_name = "N", value_parser = at_least::<1>)]
    epochs: Option<usize>,
    #[arg(long, help = help("Learning rate; the VAE anneals it", VAE.lr, DIFFUSION.lr))]
    #[arg(value_name = "X", value_parser = positive)]
    lr: Option<f64>,
    #[arg(long, help = help("Width of the hidden layers", VAE.hidden, DIFFUSION.hidden))]
    #[arg(value_name = "N", value_parser = at_least::<1>)]
    hidden: Option<usize>,
    #[arg(long, help = format!("Dimension of the VAE's latent space [default: {}, the paper's]", VAE.latent))]
    #[arg(value_name = "N", value_parser = at_least::<1>)]
    latent: Option<usize>,
    #[arg(long, help = help("Rows per step; the VAE skips a batch of one row", VAE.batch_size, DIFFUSION.batch_size))]
    #[arg(value_name = "N", value_parser = at_least::<2>)]
    batch_size: Option<usize>,
    /// Sample the VAE's posterior as mu + eps·exp(logvar), as the authors' code does, instead of
    /// exp(logvar / 2)
    #[arg(long, hide_short_help = true)]
    legacy_reparam: bool,
}

const VAE: VaeConfig = VaeConfig::DEFAULT;
const DIFFUSION: DiffusionConfig = DiffusionConfig::DEFAULT;

fn help(what: &str, vae: impl std::fmt::Display, diffusion: impl std::fmt::Display) -> String {
    format!("{what} [default: {vae} of vae, the paper's; {diffusion} of diffusion]")
}

/// The options that a kind has, of those that not every kind has.
pub fn options_of(kind: Kind) -> &'static [&'static str] {
    const OPTIONS: [&str; 6] = ["--epochs", "--lr", "--hidden", "--batch-size", "--latent", "--legacy-reparam"];
    match kind {
        Kind::Vae => &OPTIONS,
        Kind::Gaussian | Kind::Shared | Kind::Mog => &[],
        Kind::Diffusion => &OPTIONS[..4],
    }
}

impl GeneratorOptions {
    /// The configuration, with the kind's own defaults. What the kind does not have must not be
    /// set.
    pub fn config(&self) -> Result<GeneratorConfig> {
        let set = [
            ("--epochs", self.epochs.is_some()),
            ("--lr", self.lr.is_some()),
            ("--hidden", self.hidden.is_some()),
            ("--batch-size", self.batch_size.is_some()),
            ("--latent", self.latent.is_some()),
            ("--legacy-reparam", self.legacy_reparam),
        ];
        let known = options_of(self.kind);
        if let Some((option, _)) = set.iter().find(|(option, set)| *set && !known.contains(option)) {
            let has = if known.is_empty() { "has nothing to set".into() } else { format!("has {}", known.join(", ")) };
            bail!(
                "the generator {} has no {option}, it {has}: leave {option} out, or take another --generator",
                self.kind
            );
        }
        Ok(match self.kind {
            Kind::Vae => GeneratorConfig::Vae(VaeConfig {
                epochs: self.epochs.unwrap_or(VAE.epochs),
                lr: self.lr.unwrap_or(VAE.lr),
                hidden: self.hidden.unwrap_or(VAE.hidden),
                latent: self.latent.unwrap_or(VAE.latent),
                batch_size: self.batch_size.unwrap_or(VAE.batch_size),
                legacy_reparam: self.legacy_reparam,
            }),
            Kind::Gaussian => GeneratorConfig::Gaussian,
            Kind::Shared => GeneratorConfig::Shared,
            Kind::Mog => GeneratorConfig::Mog,
            Kind::Diffusion => GeneratorConfig::Diffusion(DiffusionConfig {
                epochs: self.epochs.unwrap_or(DIFFUSION.epochs),
                lr: self.lr.unwrap_or(DIFFUSION.lr),
                hidden: self.hidden.unwrap_or(DIFFUSION.hidden),
                batch_size: self.batch_size.unwrap_or(DIFFUSION.batch_size),
            }),
        })
    }
}

/// What methods are compared by.
#[derive(Args, Clone, Debug)]
pub struct MetricOption {
    /// Score whose differences between methods are taken, paired by class order
    #[arg(long, hide_short_help = true, default_value_t = MetricName::Faa, value_parser = metric())]
    pub metric: MetricName,
}

fn metric() -> impl TypedValueParser<Value = MetricName> {
    let compared = MetricName::ALL.into_iter().filter(|metric| metric.is_final());
    let shown = compared.map(|metric| PossibleValue::new(metric.name()).help(metric.title()));
    PossibleValuesParser::new(shown).map(|name| MetricName::of(&name).expect("only names of metrics are taken"))
}

/// Parses one of a few choices, which `--help` tells.
pub fn choice<T: Choice + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let all = T::ALL.iter().map(|(_, name, help)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(all).map(|name| T::of(&name).expect("only names of choices are taken"))
}

/// Parses a template.
pub fn template(text: &str) -> std::result::Result<String, String> {
    texts::check_template(text).map(|()| text.to_owned())
}

/// Parses a whole number from `MIN` to a million.
pub fn at_least<const MIN: usize>(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (MIN..=1_000_000).contains(n))
        .ok_or(format!("expected a whole number from {MIN} to 1000000"))
}

/// Parses a number from 0 to 1.
pub fn share(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or("expected a number from 0 to 1".into())
}

/// Parses a number above 0 and below 1.
pub fn fraction(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x| *x > 0.0 && *x < 1.0).ok_or("expected a number above 0 and below 1".into())
}

/// Parses a number above 0.
pub fn positive(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x > 0.0 && x.is_finite()).ok_or("expected a number above 0".into())
}

/// Parses a number that is not below 0.
pub fn not_negative(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x >= 0.0 && x.is_finite()).ok_or("expected 0 or a number above it".into())
}
