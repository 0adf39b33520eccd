//! Files and directories, on a file system or in an object store: `s3://BUCKET/KEY`, `gs://` and
//! `az://`. Functions are called as those of [`std::fs`], and have its errors.
//!
//! In a store there are only objects: a directory is there as long as an object lies below it, and an
//! object appears whole or not at all.
//!
//! A store that does not answer, however often it is asked, is lost to the process: what is there is
//! not known, so every request after that has the same error, and [`reached`] tells.

mod address;
mod file;
#[cfg(feature = "object-stores")]
mod objects;
#[cfg(not(feature = "object-stores"))]
#[path = "objects/absent.rs"]
mod objects;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use self::address::Address;
pub use self::file::File;

/// What is known of a file or a directory without reading it.
#[derive(Clone, Debug)]
pub struct Metadata {
    kind: Kind,
    bytes: u64,
    modified: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    File,
    Directory,
    /// A pipe, a socket or a device.
    Special,
}

impl Metadata {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is a regular file, or an object.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// When it was changed last; none where that is not known.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }
}

impl From<fs::Metadata> for Metadata {
    fn from(found: fs::Metadata) -> Self {
        let kind = match () {
            _ if found.is_dir() => Kind::Directory,
            _ if found.is_file() => Kind::File,
            _ => Kind::Special,
        };
        Metadata { kind, bytes: found.len(), modified: found.modified().ok() }
    }
}

/// Whether a path is of an object store.
pub fn is_remote(path: &Path) -> bool {
    Address::of(path).is_some()
}

/// What a path leads to.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    let Some(address) = Address::of(path) else { return fs::metadata(path).map(Metadata::from) };
    match objects::file(&address) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && objects::is_dir(&address)? => {
            Ok(Metadata { kind: Kind::Directory, bytes: 0, modified: None })
        }
        found => found,
    }
}

/// Whether something is there.
pub fn exists(path: &Path) -> bool {
    match Address::of(path) {
        None => path.exists(),
        Some(_) => is_file(path) || is_dir(path),
    }
}

/// Whether a file is there, which costs a store one request.
pub fn is_file(path: &Path) -> bool {
    match Address::of(path) {
        None => path.is_file(),
        Some(address) => answer(objects::file(&address)).is_some(),
    }
}

/// Whether a directory is there.
pub fn is_dir(path: &Path) -> bool {
    match Address::of(path) {
        None => path.is_dir(),
        Some(address) => answer(objects::is_dir(&address)).unwrap_or_default(),
    }
}

/// What a store answers; none where that is that nothing is there.
fn answer<T>(answer: io::Result<T>) -> Option<T> {
    answer.inspect_err(objects::lose).ok()
}

/// An error where a store did not answer, so that something may have been taken for missing.
pub fn reached() -> io::Result<()> {
    objects::reached()
}

/// Opens a file to read.
pub fn open(path: &Path) -> io::Result<File> {
    Ok(match Address::of(path) {
        None => File::Local(fs::File::open(path)?),
        Some(address) => File::Object(objects::open(&address)?),
    })
}

/// All bytes of a file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    match Address::of(path) {
        None => fs::read(path),
        Some(address) => objects::read(&address),
    }
}

/// The text of a file.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    match Address::of(path) {
        None => fs::read_to_string(path),
        Some(address) => String::from_utf8(objects::read(&address)?).map_err(|e| io::Error::other(e.utf8_error())),
    }
}

/// All bytes of each of some files, in their order, some of which are fetched ahead.
pub(crate) fn read_each(paths: Vec<PathBuf>) -> Box<dyn Iterator<Item = io::Result<Vec<u8>>>> {
    objects::read_each(paths)
}

/// Names in a directory; none where it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    let found = read_dir(dir);
    let found = if is_remote(dir) { answer(found) } else { found.ok() };
    found.unwrap_or_default().into_iter().map(|(name, _)| name).collect()
}

/// Names in a directory, and whether each is a directory itself.
pub fn read_dir(dir: &Path) -> io::Result<Vec<(String, bool)>> {
    if let Some(address) = Address::of(dir) {
        return objects::read_dir(&address);
    }
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path().is_dir()))
        })
        .collect()
}

/// The objects below a directory of a store, as paths relative to it, with their sizes in bytes.
pub(crate) fn objects_below(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    match Address::of(dir) {
        None => Ok(Vec::new()),
        Some(address) => objects::below(&address),
    }
}

/// Removes a file. Where it is an object, it is no error that none is there.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match Address::of(path) {
        None => fs::remove_file(path),
        Some(address) => objects::remove(&address),
    }
}

/// Has a file say that it was changed now.
pub fn touch(path: &Path) -> io::Result<()> {
    match Address::of(path) {
        None => fs::File::options().append(true).open(path)?.set_modified(SystemTime::now()),
        Some(address) => objects::rewrite(&address),
    }
}

/// Puts a file of the file system into a store, at `to`; `first` only where nothing is there yet.
/// Says whether it did.
pub(crate) fn upload(from: &Path, to: &Path, first: bool) -> io::Result<bool> {
    match Address::of(to) {
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is of no object store", to.display()))),
        Some(address) => objects::upload(from, &address, first),
    }
}
