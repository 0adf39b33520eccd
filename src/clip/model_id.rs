//! How a checkpoint is known.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A CLIP checkpoint, as manifests record it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelId {
    /// Name of the checkpoint's directory, for people.
    pub name: String,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// Hash of what its config.json says.
    pub config: String,
    /// Where it was when the run was made.
    pub path: PathBuf,
}
