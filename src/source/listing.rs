//! What lies below a source's directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    names::{id_of, some_of},
    split::is_split,
};
use crate::storage;

/// What lies below a directory, as paths relative to it, sorted. Hidden entries are left out; links
/// are followed, as people link data sets into place.
#[derive(Default)]
pub struct Listing {
    /// Regular files, and links that lead nowhere.
    pub files: Vec<PathBuf>,
    pub directories: Vec<PathBuf>,
    /// Pipes, sockets and devices: opening one could wait for ever.
    special: Vec<PathBuf>,
    /// Directories that may not be listed, and why.
    unreadable: Vec<(PathBuf, io::Error)>,
    /// Sizes of the files in bytes, where an object store has told them.
    bytes: BTreeMap<PathBuf, u64>,
}

impl Listing {
    /// Lists `dir` without the directory `leave_out`. An error where `dir` itself, a split or
    /// anything below one may not be listed, since rows could lie there; another such directory is
    /// noted.
    pub fn of(dir: &Path, leave_out: Option<&Path>) -> Result<Self> {
        if storage::is_remote(dir) {
            return Self::of_objects(dir, leave_out);
        }
        let leave_out = leave_out.and_then(|path| path.canonicalize().ok()); // one that is not there holds nothing
        let mut listing = Listing::default();
        let mut open: Vec<(PathBuf, Vec<PathBuf>)> = vec![(PathBuf::new(), Vec::new())];
        while let Some((relative, mut above)) = open.pop() {
            let absolute = dir.join(&relative);
            let real = absolute.canonicalize().with_context(|| format!("cannot resolve {}", absolute.display()))?;
            if leave_out.as_ref() == Some(&real) {
                if above.is_empty() {
                    bail!(
                        "{} is both the data's directory and the run's: give the run a directory of its own, \
                         which may lie in the data's",
                        dir.display()
                    );
                }
                continue;
            }
            if above.contains(&real) {
                continue; // a link to a directory that it lies in
            }
            above.push(real);
            match list(&absolute, &relative) {
                Ok(entries) => {
                    for (path, kind) in entries {
                        match kind {
                            Entry::Directory => open.push((path, above.clone())),
                            Entry::File => listing.files.push(path),
                            Entry::Special => listing.special.push(path),
                        }
                    }
                    listing.directories.push(relative);
                }
                Err(error) if relative.as_os_str().is_empty() || relative.iter().any(is_split) => {
                    return Err(error).with_context(|| {
                        format!(
                            "cannot list {}, which may hold rows of a split: make it readable, or move it away",
                            absolute.display()
                        )
                    });
                }
                Err(error) => listing.unreadable.push((relative, error)),
            }
        }
        listing.files.sort();
        listing.directories.sort();
        listing.special.sort();
        listing.unreadable.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(listing)
    }

    /// As [`Listing::of`], of an object store, which tells all that lies below at once.
    fn of_objects(dir: &Path, leave_out: Option<&Path>) -> Result<Self> {
        if leave_out == Some(dir) {
            bail!("{} is both the data's directory and the run's: give the run a directory of its own", dir.display());
        }
        let below = storage::objects_below(dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let is_hidden = |path: &Path| path.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        let is_left_out = |path: &Path| leave_out.is_some_and(|run| dir.join(path).starts_with(run));
        let taken = below.into_iter().filter(|(path, _)| !is_hidden(path) && !is_left_out(path));
        let mut listing = Listing { bytes: taken.collect(), ..Listing::default() };
        listing.files.extend(listing.bytes.keys().cloned());
        let above = listing.files.iter().flat_map(|file| file.ancestors().skip(1)).map(Path::to_owned);
        listing.directories = above.collect::<BTreeSet<_>>().into_iter().collect();
        Ok(listing)
    }

    /// Bytes of a file of the listing of `dir`; 0 where it cannot be read, which is met again.
    pub fn bytes(&self, dir: &Path, file: &Path) -> u64 {
        let known = self.bytes.get(file).copied();
        known.unwrap_or_else(|| storage::metadata(&dir.join(file)).map_or(0, |found| found.bytes()))
    }

    /// What could not be looked at.
    pub fn notes(&self) -> Vec<String> {
        let special = some_of(self.special.iter().map(|path| id_of(path)));
        let unreadable = some_of(self.unreadable.iter().map(|(path, error)| format!("{} ({error})", id_of(path))));
        [(special, "left out, as no regular files"), (unreadable, "left out, as directories that cannot be listed")]
            .into_iter()
            .filter(|(paths, _)| !paths.is_empty())
            .map(|(paths, what)| format!("{what}: {paths}"))
            .collect()
    }
}

enum Entry {
    Directory,
    File,
    Special,
}

fn list(absolute: &Path, relative: &Path) -> io::Result<Vec<(PathBuf, Entry)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(absolute)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let mut kind = entry.file_type()?;
        if kind.is_symlink() {
            match fs::metadata(entry.path()) {
                Ok(target) => kind = target.file_type(),
                Err(_) => {
                    entries.push((relative.join(name), Entry::File)); // reading it says what is wrong
                    continue;
                }
            }
        }
        let entry = match () {
            _ if kind.is_dir() => Entry::Directory,
            _ if kind.is_file() => Entry::File,
            _ => Entry::Special,
        };
        entries.push((relative.join(name), entry));
    }
    Ok(entries)
}
