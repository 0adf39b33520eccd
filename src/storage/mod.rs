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
mod lost;
#[cfg(feature = "object-stores")]
mod objects;
#[cfg(not(feature = "object-stores"))]
#[path = "objects/absent.rs"]
mod objects;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

pub(crate) use self::lost::failure;
use self::{address::Address, lost::lose};
pub use self::{file::File, lost::reached};

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
    answer.inspect_err(lose).ok()
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

/// The first bytes of a file, `most` of them.
pub fn read_start(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    if let Some(address) = Address::of(path) {
        return objects::read_start(&address, most);
    }
    let mut first = Vec::with_capacity(most);
    fs::File::open(path)?.take(most as u64).read_to_end(&mut first)?;
    Ok(first)
}

/// All bytes of each of some objects, in their order, some of which are fetched ahead.
pub(crate) fn read_each(paths: Vec<PathBuf>) -> io::Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>>>> {
    objects::read_each(paths)
}

/// Names in a directory; none where it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    match Address::of(dir) {
        None => {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
        Some(address) => answer(objects::read_dir(&address)).into_iter().flatten().map(|(name, _)| name).collect(),
    }
}

/// When each file of a directory was changed last, by its name; none where it is not there.
pub fn times(dir: &Path) -> BTreeMap<String, SystemTime> {
    let found = read_dir(dir);
    let found = if is_remote(dir) { answer(found) } else { found.ok() };
    let files = found.into_iter().flatten().filter(|(_, found)| found.is_file());
    files.filter_map(|(name, found)| Some((name, found.modified?))).collect()
}

/// Names in a directory, and what each leads to.
pub fn read_dir(dir: &Path) -> io::Result<Vec<(String, Metadata)>> {
    if let Some(address) = Address::of(dir) {
        return objects::read_dir(&address);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // what was there a moment ago may have been moved; a link may lead nowhere
        if let Ok(metadata) = fs::metadata(entry.path()).or_else(|_| entry.metadata()) {
            found.push((entry.file_name().to_string_lossy().into_owned(), metadata.into()));
        }
    }
    Ok(found)
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

/// Overwrites a file with zeros, as far as the file system writes in place.
pub(crate) fn zero(path: &Path) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)?;
    file.flush()?;
    file.sync_all()
}

/// Has a small file say that it was changed now.
pub fn touch(path: &Path) -> io::Result<()> {
    match Address::of(path) {
        None => set_modified(path, SystemTime::now()),
        Some(address) => objects::rewrite(&address),
    }
}

/// Has a file of the file system say that it was changed at a time; an object cannot.
pub(crate) fn set_modified(path: &Path, time: SystemTime) -> io::Result<()> {
    fs::File::options().append(true).open(path)?.set_modified(time)
}

/// Puts a file of the file system into a store, at `to`; `first` only where nothing is there yet.
/// Says whether it did.
pub(crate) fn upload(from: &Path, to: &Path, first: bool) -> io::Result<bool> {
    match Address::of(to) {
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is of no object store", to.display()))),
        Some(address) => objects::upload(from, &address, first),
    }
}
