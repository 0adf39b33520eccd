//! Pictures into directories of their classes: each appears whole, and what is there already is not put
//! there twice.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use cgil::{hash::hash_bytes, storage};
use tempfile::NamedTempFile;

/// Puts pictures below a directory.
pub struct Sorter {
    dir: PathBuf,
    /// Whether links are put there instead of copies.
    link: bool,
    /// What is there of each path: pictures of one name have numbers.
    there: HashMap<PathBuf, There>,
}

/// What is there of a path.
#[derive(Default)]
struct There {
    /// How many numbers are taken, from 1.
    taken: usize,
    /// What each is: of a copy the SHA-256 of its bytes, of a link where it leads.
    what: HashSet<String>,
}

impl Sorter {
    /// Below `dir`, which is made when there is a first picture.
    pub fn new(dir: &Path, link: bool) -> Result<Self> {
        ensure!(!storage::is_remote(dir), "--sort-into takes a directory of this machine, not of an object store");
        Ok(Sorter { dir: dir.to_owned(), link, there: HashMap::new() })
    }

    /// Puts a file into the directory of a class, by its own name or, where another file has that, with a
    /// number; not what is there already.
    pub fn put(&mut self, file: &Path, class: &str) -> Result<()> {
        ensure!(!storage::is_remote(file), "--sort-into takes files of this machine, not of an object store");
        let dir = self.dir.join(directory_of(class));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
        let there = self.there.entry(dir.join(name)).or_default();
        let cannot = || format!("cannot put {} into {}", file.display(), dir.display());
        let what = if self.link { target(file) } else { sum(file) }.with_context(cannot)?;
        loop {
            // by earlier runs, and by others that run now
            let to = loop {
                let to = dir.join(numbered(file, there.taken + 1));
                let Ok(found) = to.symlink_metadata() else { break to };
                there.taken += 1;
                there.what.extend(if found.is_symlink() { fs::read_link(&to).ok().map(shown) } else { sum(&to).ok() });
            };
            if there.what.contains(&what) {
                return Ok(());
            }
            let put = if self.link { link(file, &to) } else { copy(file, &to) };
            match put {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                put => {
                    put.with_context(cannot)?;
                    there.taken += 1;
                    there.what.insert(what);
                    return Ok(());
                }
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

/// The SHA-256 of a file's bytes.
fn sum(file: &Path) -> io::Result<String> {
    Ok(hash_bytes(&fs::read(file)?))
}

/// Where a link to a file leads.
fn target(file: &Path) -> io::Result<String> {
    if cfg!(unix) { Ok(shown(file.canonicalize()?)) } else { sum(file) }
}

fn shown(path: PathBuf) -> String {
    path.display().to_string()
}

/// Copies a file whole or not at all, where nothing is yet.
fn copy(file: &Path, to: &Path) -> io::Result<()> {
    let mut temporary = NamedTempFile::new_in(to.parent().unwrap_or(Path::new(".")))?;
    io::copy(&mut fs::File::open(file)?, &mut temporary)?;
    temporary.as_file().set_permissions(fs::metadata(file)?.permissions())?;
    temporary.persist_noclobber(to).map(|_| ()).map_err(|error| error.error)
}

/// Links to a file, where nothing is yet.
#[cfg(unix)]
fn link(file: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(file.canonicalize()?, to)
}

/// Links to a file, where nothing is yet.
#[cfg(not(unix))]
fn link(file: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(file, to)
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
        let sorted = |below: &str, link: bool, order: &[usize]| -> Vec<String> {
            let below = dir.path().join(below);
            let mut sorter = Sorter::new(&below, link).unwrap();
            order.iter().for_each(|&k| sorter.put(&files[k], "ant").unwrap());
            let mut there: Vec<_> = fs::read_dir(below.join("ant")).unwrap().flatten().collect();
            there.sort_by_key(|entry| entry.file_name());
            there.iter().map(|entry| fs::read_to_string(entry.path()).unwrap()).collect()
        };
        for (below, link) in [("copies", false), ("links", true)] {
            let [first, second] = ["picture 1", "picture 2"];
            assert_eq!(sorted(below, link, &[1, 2]), [second, first]); // a-2, a
            for order in [[2, 0, 1], [0, 1, 2], [1, 2, 0]] {
                assert_eq!(sorted(below, link, &order), [second, "picture 0", first]); // a-2, a-3, a
            }
        }
        // links that are there lead where they did, and what they lead to stays
        assert_eq!(sorted("links", false, &[0, 1]).len(), 5);
        assert_eq!(fs::read_to_string(&files[1]).unwrap(), "picture 1");
    }
}
