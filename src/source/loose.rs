//! Pictures without labels: files, directories of them, tars.

use std::{
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use tar::Archive;

use super::{listing::Listing, names::has_extension, read::read_regular, web_dataset::is_tar};
use crate::storage;

/// What names of pictures end with.
const EXTENSIONS: [&str; 11] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ico"];

/// A picture: its path, of one in a tar `TAR/NAME`, and its bytes, or why they cannot be read.
pub struct Picture {
    /// What it is called in answers.
    pub name: String,
    /// Where it lies, unless in a tar.
    pub file: Option<PathBuf>,
    /// Its encoded bytes.
    pub bytes: Result<Vec<u8>, String>,
}

/// Calls `each` with the pictures at some paths, in order: a file whatever its name, of a directory
/// all that have a picture's name, sorted, of a tar likewise in its order. `file://` may stand before
/// a path. `note` is told what of a directory is left out.
pub fn pictures(paths: &[PathBuf], note: fn(&str), mut each: impl FnMut(Picture) -> Result<()>) -> Result<()> {
    for path in paths {
        let path = match path.to_str().and_then(|text| text.strip_prefix("file://")) {
            Some(local) => PathBuf::from(local),
            None => path.clone(),
        };
        if storage::is_dir(&path) {
            let listing = Listing::of(&path, None)?;
            listing.notes().iter().for_each(|line| note(&format!("note: {}: {line}", path.display())));
            for name in listing.files.iter().filter(|name| is_picture(name)) {
                each(of_file(&path.join(name)))?;
            }
        } else if is_tar(&path) {
            of_tar(&path, &mut each)?;
        } else if storage::exists(&path) {
            each(of_file(&path))?;
        } else {
            bail!("{} is not there", path.display());
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    EXTENSIONS.iter().any(|extension| has_extension(path, extension))
}

fn of_file(path: &Path) -> Picture {
    Picture { name: path.display().to_string(), file: Some(path.to_owned()), bytes: read_regular(path) }
}

fn of_tar(path: &Path, each: &mut impl FnMut(Picture) -> Result<()>) -> Result<()> {
    let file = BufReader::new(storage::open(path).with_context(|| format!("cannot read {}", path.display()))?);
    let inside: Box<dyn Read> =
        if has_extension(path, "tar") { Box::new(file) } else { Box::new(MultiGzDecoder::new(file)) };
    let damaged = || format!("{} is no tar file, or is damaged", path.display());
    for entry in Archive::new(inside).entries().with_context(damaged)? {
        let mut entry = entry.with_context(damaged)?;
        let name = entry.path().with_context(damaged)?.into_owned();
        if entry.header().entry_type().is_file() && is_picture(&name) {
            let mut bytes = Vec::new();
            let read = entry.read_to_end(&mut bytes).map_err(|error| error.to_string());
            each(Picture {
                name: format!("{}/{}", path.display(), name.display()),
                file: None,
                bytes: read.map(|_| bytes),
            })?;
        }
    }
    Ok(())
}
