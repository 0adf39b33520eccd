//! Pictures into directories of their classes: each appears whole, and what is there already is not put
//! there twice.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use cgil::storage;

/// Puts pictures below a directory.
pub struct Sorter {
    dir: PathBuf,
    /// Whether links are put there instead of copies.
    link: bool,
    /// How many pictures of a path there were already.
    there: HashMap<PathBuf, usize>,
}

impl Sorter {
    /// Below `dir`, which is made when there is a first picture.
    pub fn new(dir: &Path, link: bool) -> Result<Self> {
        ensure!(!storage::is_remote(dir), "--sort-into takes a directory of this machine, not of an object store");
        Ok(Sorter { dir: dir.to_owned(), link, there: HashMap::new() })
    }

    /// Puts a file into the directory of a class, by its own name or, where another file has that, with a
    /// number.
    pub fn put(&mut self, file: &Path, class: &str) -> Result<()> {
        ensure!(!storage::is_remote(file), "--sort-into takes files of this machine, not of an object store");
        let dir = self.dir.join(directory_of(class));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
        let there = self.there.entry(dir.join(name)).or_default();
        loop {
            *there += 1;
            let to = dir.join(numbered(file, *there));
            let put = if self.link { link(file, &to) } else { copy(file, &to) };
            if put.with_context(|| format!("cannot put {} at {}", file.display(), to.display()))? {
                return Ok(());
            }
        }
    }
}

/// A class as one name of a directory.
fn directory_of(class: &str) -> String {
    let name = class.replace(['/', '\\', '\0'], "_");
    if name.chars().all(|letter| letter == '.') { name.replace('.', "_") } else { name }
}

/// The name of a file, the `n`-th of it.
fn numbered(file: &Path, n: usize) -> OsString {
    let mut name = file.file_stem().unwrap_or_default().to_owned();
    if n > 1 {
        name.push(format!("-{n}"));
    }
    file.extension().iter().for_each(|extension| {
        name.push(".");
        name.push(extension);
    });
    name
}

/// Copies a file whole or not at all; false where another one is there.
fn copy(file: &Path, to: &Path) -> io::Result<bool> {
    if to.symlink_metadata().is_ok() {
        return Ok(to.metadata().is_ok_and(|there| there.is_file()) && fs::read(to)? == fs::read(file)?);
    }
    let mut temporary = OsString::from(".");
    temporary.push(to.file_name().unwrap_or_default());
    let temporary = to.with_file_name(temporary);
    let copied = fs::copy(file, &temporary).and_then(|_| fs::rename(&temporary, to));
    copied.inspect_err(|_| _ = fs::remove_file(&temporary)).map(|()| true)
}

/// Links to a file; false where something else is there.
#[cfg(unix)]
fn link(file: &Path, to: &Path) -> io::Result<bool> {
    let target = file.canonicalize()?;
    match to.symlink_metadata() {
        Ok(_) => Ok(fs::read_link(to).is_ok_and(|there| there == target)),
        Err(_) => std::os::unix::fs::symlink(target, to).map(|()| true),
    }
}

/// Links to a file; false where something else is there.
#[cfg(not(unix))]
fn link(file: &Path, to: &Path) -> io::Result<bool> {
    match to.symlink_metadata() {
        Ok(_) => Ok(fs::read(to)? == fs::read(file)?),
        Err(_) => fs::hard_link(file, to).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_one_directory_below_whatever_it_is_called() {
        for (class, expected) in [("a/b", "a_b"), ("..", "__"), (".", "_"), ("a.b", "a.b"), ("", "")] {
            assert_eq!(directory_of(class), expected);
        }
    }

    #[test]
    fn pictures_of_one_name_have_numbers_and_are_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..3).map(|k| dir.path().join(format!("{k}/a.png"))).collect();
        for (k, file) in files.iter().enumerate() {
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(file, format!("picture {k}")).unwrap();
        }
        let below = dir.path().join("sorted");
        for link in [false, true, false] {
            let mut sorter = Sorter::new(&below.join(link.to_string()), link).unwrap();
            files.iter().for_each(|file| sorter.put(file, "ant").unwrap());
            let mut names: Vec<_> = fs::read_dir(below.join(format!("{link}/ant"))).unwrap().flatten().collect();
            names.sort_by_key(|entry| entry.file_name());
            let found = names.iter().map(|entry| fs::read_to_string(entry.path()).unwrap()).collect::<Vec<_>>();
            assert_eq!(found, ["picture 1", "picture 2", "picture 0"]); // a-2, a-3, a
        }
    }
}
