//! Training embeddings that are taken away for good, once they are learned from.
//!
//! `forgotten.json` says so before the first shard goes, so that what was interrupted is told from
//! what is damaged. The manifest stays: what was made of the embeddings goes on to belong to them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    sealed::Sealed,
    shards::{EMBEDDINGS, shard_file},
};
use crate::{
    atomic,
    rows::{Split, Train},
};

/// File that says what was forgotten.
const FORGOTTEN: &str = "forgotten.json";

/// What was forgotten of a source.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgotten {
    split: String,
    rows: usize,
}

/// Whether the training embeddings in `dir` were forgotten.
pub(super) fn is_forgotten(dir: &Path) -> bool {
    dir.join(FORGOTTEN).exists()
}

/// Removes the training shards of the artefact in `dir`, overwritten with zeros first where that is
/// asked for. Returns how many embeddings they held.
pub(super) fn forget(dir: &Path, sealed: &Sealed, overwrite: bool) -> Result<usize> {
    let shards: Vec<_> = sealed.shards.iter().filter(|shard| shard.split == Train::NAME).collect();
    let rows = shards.iter().flat_map(|shard| shard.labels.values()).sum();
    atomic::write_json(&dir.join(FORGOTTEN), &Forgotten { split: Train::NAME.into(), rows })?;
    for shard in shards {
        let path = dir.join(shard_file(EMBEDDINGS, Train::NAME, shard.number));
        let gone = || if overwrite { zero(&path) } else { Ok(()) };
        match gone().and_then(|()| fs::remove_file(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // of an earlier try
            done => done.with_context(|| format!("cannot remove {}", path.display()))?,
        }
    }
    Ok(rows)
}

/// Overwrites a file with zeros, as far as the file system writes in place.
fn zero(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)?;
    file.flush()?;
    file.sync_all()
}
