//! Where a run keeps what the archives of its sources hold. It names their images, so it goes with the
//! embeddings that are forgotten.

use std::{fs, path::PathBuf};

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
/// asked for. They are made again when they are needed.
pub fn remove_listings(run: &Run, name: &str, overwrite: bool) -> Result<()> {
    let Some(dir) = dir(run, name).filter(|dir| storage::is_dir(dir)) else { return Ok(()) };
    if overwrite {
        for (file, _) in storage::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = dir.join(file);
            storage::zero(&path).with_context(|| format!("cannot overwrite {}", path.display()))?;
        }
    }
    atomic::remove_dir(&dir)?;
    fs::remove_dir(run.dir().join(LISTINGS)).ok(); // where they were the last
    Ok(())
}

/// None where no source may be called so.
fn dir(run: &Run, name: &str) -> Option<PathBuf> {
    (slug(name) == name).then(|| run.dir().join(LISTINGS).join(name))
}
