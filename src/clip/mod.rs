//! CLIP: a checkpoint in the Hugging Face layout becomes an image encoder and a text encoder.
//! Knows tensors, never tables.

pub mod checkpoint;
pub mod preprocess;
pub mod text;
pub mod tokenizer;
mod transformer;
pub mod vision;

pub use checkpoint::Checkpoint;
pub use preprocess::Preprocess;
pub use text::TextEncoder;
pub use tokenizer::Tokenizer;
pub use vision::ImageEncoder;
