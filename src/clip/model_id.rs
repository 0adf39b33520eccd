//! How a checkpoint is known.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A CLIP checkpoint, as manifests record it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelId {
    /// Name of the checkpoint's directory, for people; OWNER/NAME@COMMIT where that is a snapshot in
    /// the cache of the Hugging Face hub.
    pub name: String,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// Hash of what its config.json says.
    pub config: String,
    /// Where it was when the run was made.
    pub path: PathBuf,
}

/// What people call the checkpoint in a directory.
pub(super) fn name_of(dir: &Path) -> String {
    let mut parts = dir.iter().rev().map(|part| part.to_string_lossy());
    let name = parts.next().unwrap_or_default();
    let repository = parts.next().filter(|part| part == "snapshots").and_then(|_| parts.next());
    match repository.as_deref().and_then(|part| part.strip_prefix("models--")) {
        Some(repository) => format!("{}@{name}", repository.replacen("--", "/", 1)),
        None => name.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_of_the_hub_is_called_by_its_repository_and_commit() {
        let name = |path: &str| name_of(Path::new(path));
        assert_eq!(name("/models/clip-vit-b"), "clip-vit-b");
        assert_eq!(name("/hub/models--openai--clip-vit--b32/snapshots/0a1b"), "openai/clip-vit--b32@0a1b");
        assert_eq!(name("/hub/datasets--o--n/snapshots/0a1b"), "0a1b");
        assert_eq!(name("/hub/models--o--n/other/0a1b"), "0a1b");
        assert_eq!(name("/"), "/");
    }
}
