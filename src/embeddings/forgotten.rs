//! Embeddings of a split that are taken away for good: training ones once they are learned from, test
//! ones once nothing is scored on them any more.
//!
//! A file says so before the first shard goes, so that what was interrupted is told from what is
//! damaged. The manifest stays: what was made of the embeddings goes on to belong to them. Of test
//! embeddings the file keeps keys and labels, which predictions have too.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    sealed::Sealed,
    shards::{EMBEDDINGS, shard_file},
};
use crate::{
    atomic,
    rows::{Split, Train},
    storage,
};

/// A row that was forgotten: its key in the source, and its label.
pub type ForgottenRow = (String, i64);

/// What was forgotten of a split.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgotten {
    split: String,
    rows: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    images: Vec<ForgottenRow>,
}

/// The file that says what was forgotten of a split.
fn file(dir: &Path, split: &str) -> PathBuf {
    if split == Train::NAME { dir.join("forgotten.json") } else { dir.join(format!("forgotten-{split}.json")) }
}

/// Whether a split's embeddings in `dir` were forgotten.
pub(super) fn is_forgotten(dir: &Path, split: &str) -> bool {
    storage::is_file(&file(dir, split))
}

/// The rows of a split in `dir` that were forgotten, as far as they are known.
pub(super) fn rows(dir: &Path, split: &str) -> Result<Vec<ForgottenRow>> {
    let path = file(dir, split);
    let text = storage::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let forgotten: Forgotten =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(forgotten.images)
}

/// Removes the shards of a split of the artefact in `dir`, overwritten with zeros first where that is
/// asked for; `images` are kept of its rows. Returns how many embeddings they held.
pub(super) fn forget(
    dir: &Path,
    split: &str,
    images: Vec<ForgottenRow>,
    sealed: &Sealed,
    overwrite: bool,
) -> Result<usize> {
    ensure!(
        !overwrite || !storage::is_remote(dir),
        "{}: an object cannot be overwritten; whether the store keeps what is removed is up to its versions",
        dir.display()
    );
    let shards: Vec<_> = sealed.shards.iter().filter(|shard| shard.split == split).collect();
    let rows = shards.iter().filter_map(|shard| shard.labels.total()).sum();
    if !is_forgotten(dir, split) {
        atomic::write_json(&file(dir, split), &Forgotten { split: split.into(), rows, images })?;
    }
    for shard in shards {
        let path = dir.join(shard_file(EMBEDDINGS, split, shard.number));
        let gone = || if overwrite { storage::zero(&path) } else { Ok(()) };
        match gone().and_then(|()| storage::remove_file(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // of an earlier try
            done => done.with_context(|| format!("cannot remove {}", path.display()))?,
        }
    }
    Ok(rows)
}
