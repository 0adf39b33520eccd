//! CLIP: a checkpoint in the Hugging Face layout becomes an image encoder and a text encoder.
//! Imports nothing of tables, runs or methods.

pub mod checkpoint;
pub mod config;
pub mod cpu;
mod files;
pub mod image;
mod model_id;
pub mod preprocess;
pub mod tensor;
pub mod tokenizer;
mod weights;

pub use checkpoint::Checkpoint;
pub use config::Config;
pub use image::ImageEncoder;
pub use model_id::ModelId;
pub use preprocess::Preprocess;
pub use tokenizer::Tokenizer;
