//! What other programs take: the classifier of a run, or its embeddings, in their formats. An
//! export appears whole or not at all, and says what it was made from.

mod clip_retrieval;
mod head;
mod hugging_face;
mod made_from;
mod npy;
mod onnx;
mod rows;
mod tables;

use std::path::Path;

use anyhow::{Result, bail, ensure};

pub use self::{
    head::Head,
    made_from::MadeFrom,
    rows::{Counts, Sources},
};
use crate::{choice::choices, tensors};

choices! {
    /// A format of a classifier, or of embeddings.
    pub enum Format {
        Safetensors = "safetensors": "The classifier as one file",
        Npy = "npy": "The classifier as a directory of arrays, and labels.json",
        Parquet = "parquet": "The classifier as a table of its classes",
        Onnx = "onnx": "The classifier as a graph from embeddings to probabilities",
        ClipRetrieval = "clip-retrieval": "The embeddings in the layout of clip-retrieval",
        HuggingFace = "hf": "The embeddings as a data set of Hugging Face, with its card",
    }
}

impl Format {
    /// Whether it is of embeddings, not of a classifier.
    pub fn is_of_embeddings(self) -> bool {
        matches!(self, Format::ClipRetrieval | Format::HuggingFace)
    }
}

impl Head {
    /// Writes it to `path`, which must not be there. Only ONNX takes its image encoder.
    pub fn write(&self, format: Format, path: &Path) -> Result<()> {
        ensure!(self.encoder.is_none() || format == Format::Onnx, "{format} has no image encoder");
        match format {
            Format::Safetensors => tensors::write(path, &self.tensors, &self.about),
            Format::Npy => npy::write(self, path),
            Format::Parquet => tables::write(self, path),
            Format::Onnx => onnx::write(self, path),
            Format::ClipRetrieval | Format::HuggingFace => bail!("{format} is of embeddings"),
        }
    }
}

impl Sources {
    /// Writes them to the directory `path`, which must not be there.
    pub fn write(&self, format: Format, path: &Path, made_from: &MadeFrom) -> Result<Counts> {
        match format {
            Format::ClipRetrieval => clip_retrieval::write(self, path, made_from),
            Format::HuggingFace => hugging_face::write(self, path, made_from),
            _ => bail!("{format} is of a classifier"),
        }
    }
}
