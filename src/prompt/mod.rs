//! Prompts: learned from a stream of real and generated embeddings.

pub(crate) mod align;
pub mod backend;
pub mod candidates;
mod config;
pub mod cpu;
pub mod learner;
pub mod orthogonal;
pub mod parameters;
pub mod stream;
pub mod tensor;
pub mod training;

pub use candidates::{Batch, Candidates};
pub use config::{Context, Current, Optimizer, PromptConfig, ReplayNoise, TrainPrompts};
pub use learner::{Learner, Learning};
pub use parameters::Parameters;
pub use stream::EmbeddingStream;
