//! The files of a checkpoint's directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// The path of a file that the checkpoint must have.
pub fn require(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "the checkpoint {} has no {name}; it needs config.json, model.safetensors, tokenizer.json and \
             preprocessor_config.json or processor_config.json, as transformers' save_pretrained writes them",
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
