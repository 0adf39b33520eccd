//! The two kinds of checkpoint directories: as transformers saves a model, and as OpenCLIP does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// OpenCLIP's file of settings.
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";

/// Who laid the files of a checkpoint out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// transformers' save_pretrained.
    Transformers,
    /// OpenCLIP.
    OpenClip,
}

impl Format {
    /// Of a directory. Repositories of OpenCLIP's models often have the files of both, or a
    /// config.json of timm's beside their own: transformers' count where they are whole.
    pub fn of(dir: &Path) -> Format {
        let is_whole = || {
            let config: Option<Value> = read_json(dir, Format::Transformers.config()).ok();
            config.is_some_and(|config| config.get("model_type").is_some() || config.get("text_config").is_some())
                && Format::Transformers.weights().iter().any(|name| is_there(dir, name))
        };
        if dir.join(OPEN_CLIP_CONFIG).exists() && !is_whole() { Format::OpenClip } else { Format::Transformers }
    }

    /// The file that says which model it is.
    pub fn config(self) -> &'static str {
        match self {
            Format::Transformers => "config.json",
            Format::OpenClip => OPEN_CLIP_CONFIG,
        }
    }

    /// The files that may hold the weights, or, with `.index.json`, name those that do; the first
    /// that is there does.
    pub fn weights(self) -> &'static [&'static str] {
        match self {
            Format::Transformers => &["model.safetensors"],
            Format::OpenClip => &["open_clip_model.safetensors", "model.safetensors"],
        }
    }

    /// What the names of its weights begin with where they are pickled.
    pub fn pickled(self) -> &'static str {
        match self {
            Format::Transformers => "pytorch_model",
            Format::OpenClip => "open_clip_pytorch_model",
        }
    }
}

/// The index of weights that are in several files.
pub fn index(weights: &str) -> String {
    format!("{weights}.index.json")
}

fn is_there(dir: &Path, weights: &str) -> bool {
    dir.join(weights).exists() || dir.join(index(weights)).exists()
}

/// The path of a file that the checkpoint must have.
pub fn require(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "the checkpoint {} has no {name}; it needs config.json, model.safetensors, tokenizer.json and \
             preprocessor_config.json or processor_config.json, as transformers' save_pretrained writes them, or \
             open_clip_config.json, open_clip_model.safetensors and tokenizer.json, as OpenCLIP does",
            dir.display()
        );
    }
    Ok(path)
}

/// A JSON file that the checkpoint must have.
pub fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T> {
    let path = require(dir, name)?;
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what a CLIP checkpoint has", path.display()))
}
