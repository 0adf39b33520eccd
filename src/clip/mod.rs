//! CLIP: a checkpoint of transformers or of OpenCLIP becomes an image encoder and a text encoder.
//! Imports nothing of tables, runs or methods.

pub mod checkpoint;
pub mod config;
pub mod cpu;
mod format;
pub mod image;
pub(crate) mod layout;
mod model_id;
mod normalisation;
mod open_clip;
pub mod preprocess;
mod sentence_piece;
pub mod tensor;
pub mod tokenizer;
mod tokenizer_files;
pub(crate) mod weights;

pub use checkpoint::Checkpoint;
pub use config::Config;
pub use image::ImageEncoder;
pub use model_id::ModelId;
pub use normalisation::Normalisation;
pub use preprocess::Preprocess;
pub use tokenizer::Tokenizer;
