//! Prompts: learned from a stream of real and generated embeddings.

pub mod align;
pub mod cpu;
pub mod learner;
pub mod orthogonal;
pub mod parameters;
pub mod store;
pub mod stream;
pub mod tensor;
pub mod tune;

use anyhow::{Result, bail};
use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

pub use learner::Learner;
pub use stream::EmbeddingStream;

/// Where a template takes the class's name.
const NAME: &str = "{}";

/// How prompts are made and trained.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct PromptConfig {
    /// Epochs per task
    #[arg(long, default_value_t = 60, value_parser = crate::at_least::<1>)]
    pub epochs: usize,
    /// Learning rate
    #[arg(long, default_value_t = 0.05, value_parser = crate::positive)]
    pub lr: f64,
    /// Optimiser
    #[arg(long, value_enum, default_value_t = Optimizer::Adamw)]
    pub optimizer: Optimizer,
    /// Weight decay, in sgd and adam added to the gradients (L2), in adamw apart from them
    #[arg(long, default_value_t = 0.0, value_parser = crate::not_negative)]
    pub weight_decay: f64,
    /// Context vectors, which stand before the class's name in its prompt
    #[arg(long, value_enum, default_value_t = Context::Combined)]
    pub context: Context,
    /// Context vectors per prompt, without the generated one of --context combined
    #[arg(long, default_value_t = 1, value_parser = crate::at_least::<1>)]
    pub n_ctx: usize,
    /// Weight of a penalty that draws the context vectors of a prompt to be orthonormal; where there is one per class, those
    /// of the seen classes
    #[arg(long, default_value_t = 0.0, value_parser = crate::not_negative)]
    pub ortho: f64,
    /// Whose own context vectors are trained; what classes share always is
    #[arg(long, value_enum, default_value_t = TrainPrompts::All)]
    pub train_prompts: TrainPrompts,
    /// Text of a class, {} its name; the text's feature is the zero-shot one, and what context vectors are generated from
    #[arg(long, default_value = "a photo of a {}", value_parser = template)]
    pub template: String,
    /// Embeddings drawn per seen class and epoch
    #[arg(long, default_value_t = 256, value_parser = crate::at_least::<1>)]
    pub samples: usize,
    /// Embeddings per step
    #[arg(long, default_value_t = 128, value_parser = crate::at_least::<1>)]
    pub batch_size: usize,
}

impl Default for PromptConfig {
    /// The defaults of the command line.
    fn default() -> Self {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            config: PromptConfig,
        }
        Only::parse_from(["cgil"]).config
    }
}

/// The context vectors of a class's prompt.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// The class's own.
    Class,
    /// The same for all classes, as in CoOp (Zhou et al., 2022).
    General,
    /// Generated from the feature of the class's text.
    Generated,
    /// The same for all classes, shifted by what a meta-net makes of the image's embedding, as in CoCoOp (Zhou et al.,
    /// 2022): every image has prompts of its own, so a step costs --batch-size times as much, and scoring the number of
    /// test images times.
    Image,
    /// The class's own, and one generated from the feature of its text.
    Combined,
}

/// The rule that parameters are changed by.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum 0.9, as in CoOp, there with --lr 0.002.
    Sgd,
    /// Adam, the weight decay added to the gradients.
    Adam,
    /// Adam, the weight decay apart from the gradients.
    Adamw,
}

/// Whose own context vectors are trained.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainPrompts {
    /// Those of all classes seen.
    All,
    /// Those of the current task's classes; past ones stay as their task left them.
    Current,
}

/// What the classes of the current task are trained on.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Current {
    /// Draws from their generators.
    Generated,
    /// Draws from their real embeddings.
    Real,
    /// Half of each.
    Both,
}

impl PromptConfig {
    /// Learned vectors of a prompt, which come first.
    pub fn learned(&self) -> usize {
        if self.context == Context::Generated { 0 } else { self.n_ctx }
    }

    /// Generated vectors of a prompt, which follow.
    pub fn generated(&self) -> usize {
        match self.context {
            Context::Generated => self.n_ctx,
            Context::Combined => 1,
            Context::Class | Context::General | Context::Image => 0,
        }
    }

    /// All context vectors of a prompt.
    pub fn vectors(&self) -> usize {
        self.learned() + self.generated()
    }

    /// An error for what would do nothing.
    pub fn check(&self) -> Result<()> {
        let has_own = matches!(self.context, Context::Class | Context::Combined);
        if self.train_prompts == TrainPrompts::Current && !has_own {
            bail!("--train-prompts current would do nothing: with this --context no class has vectors of its own");
        }
        Ok(())
    }

    /// How many classes keep their own context vectors in a task before which `past` classes were learned.
    pub fn frozen(&self, past: usize) -> usize {
        if self.train_prompts == TrainPrompts::Current { past } else { 0 }
    }
}

impl Context {
    /// Whether all classes share the learned vectors.
    pub fn is_shared(self) -> bool {
        matches!(self, Context::General | Context::Image)
    }
}

/// Parses a template, for command lines.
pub fn template(text: &str) -> std::result::Result<String, String> {
    match text.matches(NAME).count() {
        1 => Ok(text.to_owned()),
        n => Err(format!("expected {NAME} once, where the class's name goes, found it {n} times")),
    }
}
