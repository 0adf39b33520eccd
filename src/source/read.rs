//! The bytes of images that are files, or objects of a store.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::data_set::Encoded;
use crate::storage;

/// The bytes of a regular file, or why there are none: opening another one could wait for ever.
pub fn read_regular(path: &Path) -> Result<Vec<u8>, String> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(format!("{} is no regular file", path.display())),
        _ => storage::read(path).map_err(|error| error.to_string()),
    }
}

/// The bytes of each of some files, or why there are none, in their order. An object that is not there
/// has none; any other error of a store is not of one image.
pub fn read_each(paths: Vec<PathBuf>) -> Result<Encoded<'static>> {
    if !paths.iter().any(|path| storage::is_remote(path)) {
        return Ok(Box::new(paths.into_iter().map(|path| Ok(read_regular(&path)))));
    }
    let mut remote = storage::read_each(paths.iter().filter(|path| storage::is_remote(path)).cloned().collect())?;
    Ok(Box::new(paths.into_iter().map(move |path| {
        if !storage::is_remote(&path) {
            return Ok(read_regular(&path));
        }
        match remote.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Err(format!("{} is not there", path.display())))
            }
            image => Ok(Ok(image.with_context(|| format!("cannot read {}", path.display()))?)),
        }
    })))
}
