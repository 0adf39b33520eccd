//! Where a run keeps what the archives of its sources hold. It names their images, so it goes with the
//! embeddings that are forgotten.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::forgotten::is_forgotten;
use crate::{
    artefact::slug,
    atomic,
    rows::SPLITS,
    run::{LISTINGS, Run},
    storage,
};

/// The directory of the listings of the source `name`, which need not be there; none where embeddings of
/// it were forgotten.
pub fn listings(run: &Run, name: &str) -> Option<PathBuf> {
    let source = super::dir(run, name);
    dir(run, name).filter(|_| !SPLITS.into_iter().any(|split| is_forgotten(&source, split)))
}

/// Takes the listings of the source `name` away, where there are some, overwritten first where that is
/// asked for, and what is left of others whose removal was interrupted. They are made again when they
/// are needed.
pub fn remove_listings(run: &Run, name: &str, overwrite: bool) -> Result<()> {
    let Some(dir) = dir(run, name) else { return Ok(()) };
    if storage::is_dir(&dir) {
        if overwrite {
            zero_all(&dir)?;
        }
        atomic::remove_dir(&dir)?;
    }
    let all = run.dir().join(LISTINGS);
    if storage::is_remote(&all) || !all.is_dir() {
        return Ok(()); // a store renames nothing
    }
    for (name, found) in storage::read_dir(&all).with_context(|| format!("cannot list {}", all.display()))? {
        if name.starts_with('.') && found.is_dir() {
            let left = all.join(name);
            if overwrite {
                zero_all(&left)?;
            }
            fs::remove_dir_all(&left).with_context(|| format!("cannot remove {}", left.display()))?;
        }
    }
    fs::remove_dir(all).ok(); // where they were the last
    Ok(())
}

/// Overwrites the files in a directory with zeros.
fn zero_all(dir: &Path) -> Result<()> {
    for (file, _) in storage::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = dir.join(file);
        storage::zero(&path).with_context(|| format!("cannot overwrite {}", path.display()))?;
    }
    Ok(())
}

/// None where no source may be called so.
fn dir(run: &Run, name: &str) -> Option<PathBuf> {
    (slug(name) == name).then(|| run.dir().join(LISTINGS).join(name))
}
