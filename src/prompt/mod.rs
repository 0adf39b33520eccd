//! Prompts: learned from a stream of real and generated embeddings.

pub mod align;
pub mod cpu;
pub mod learner;
pub mod parameters;
pub mod store;
pub mod stream;
pub mod tensor;
pub mod tune;

use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

pub use learner::Learner;
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
