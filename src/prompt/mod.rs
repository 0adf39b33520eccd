//! Prompts: learned from a stream of real and generated embeddings, scored on the test images.

pub mod align;
pub mod cpu;
pub mod evaluate;
pub mod learner;
pub mod parameters;
pub mod store;
pub mod stream;
pub mod tensor;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

pub use evaluate::Evaluation;
pub use learner::Learner;
pub use store::PromptStore;
pub use stream::EmbeddingStream;

/// How prompts are trained.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct PromptConfig {
    /// Epochs per task
    #[arg(long, default_value_t = 60, value_parser = crate::at_least::<1>)]
    pub epochs: usize,
    /// Learning rate of AdamW, without weight decay
    #[arg(long, default_value_t = 0.05, value_parser = crate::positive)]
    pub lr: f64,
    /// Learned context vectors per class
    #[arg(long, default_value_t = 1, value_parser = crate::at_least::<1>)]
    pub n_ctx: usize,
    /// Embeddings drawn per seen class and epoch
    #[arg(long, default_value_t = 256, value_parser = crate::at_least::<1>)]
    pub samples: usize,
    /// Embeddings per step
    #[arg(long, default_value_t = 128, value_parser = crate::at_least::<1>)]
    pub batch_size: usize,
    /// What the classes of the current task are trained on; past classes are always generated
    #[arg(long, value_enum, default_value_t = Current::Generated)]
    pub current: Current,
    /// Report transfer also with the features of unseen classes not normalised, as the authors' code scores them
    #[arg(long)]
    pub legacy_ci: bool,
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
