//! How paths and lists are written in tables, notes and messages.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::data_set::Encoded;
use crate::storage;

/// The first of many names, and how many more there are.
pub fn some_of(names: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.into_iter().collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// A path below a source as text. Different paths have different texts: where one is not UTF-8 its
/// other bytes are written as `\xff`, its backslashes double, and `./`, which no path below a
/// source begins with, stands before it.
pub fn id_of(path: &Path) -> String {
    let Some(text) = path.to_str() else {
        let mut id = "./".to_owned();
        for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
            id += &chunk.valid().replace('\\', "\\\\");
            chunk.invalid().iter().for_each(|byte| id += &format!("\\x{byte:02x}"));
        }
        return id;
    };
    text.to_owned()
}

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

pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn paths_that_are_not_utf_8_have_ids_of_their_own() {
        let id = |bytes: &[u8]| id_of(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(id("a/é\\xff.png".as_bytes()), "a/é\\xff.png");
        assert_eq!(id(b"a/\xff.png"), "./a/\\xff.png");
        assert_eq!(id(b"a/\xfe\\xff.png"), "./a/\\xfe\\\\xff.png");
    }
}
