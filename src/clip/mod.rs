//! CLIP: a checkpoint in the Hugging Face layout becomes an image encoder and a text encoder.
//! Knows tensors, never tables.

pub mod checkpoint;
pub mod cpu;
pub mod image;
pub mod preprocess;
pub mod tensor;
pub mod tokenizer;

pub use checkpoint::Checkpoint;
pub use image::ImageEncoder;
pub use preprocess::Preprocess;
pub use tokenizer::Tokenizer;
