//! An image folder: `train/CLASS/*.jpg`, `test/CLASS/*.png`.
//!
//! A class is a directory that holds a file in `train` or `test`; one without any file is none.
//! Every file below it that is a picture by its name or by its first bytes is a row, whether it can
//! be decoded or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    class_names,
    data_set::{Images, Record, Records, Source, SourceOptions, note_on_empty_classes, require_both_splits},
    id::SourceId,
    listing::Listing,
    names::{id_of, some_of},
};
use crate::{picture, rows::SPLITS, task::Class, words::counted};

/// The files of each split: path below the folder, label.
struct Folder {
    root: PathBuf,
    files: BTreeMap<String, Vec<(PathBuf, i64)>>,
}

/// The pictures of the classes of train and test, as paths below the folder.
pub fn pictures(root: &Path, listing: &Listing) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for file in &listing.files {
        if split_and_class(file)?.is_some() && (picture::has_extension(file) || begins_as_one(&root.join(file))) {
            pictures.push(file.clone());
        }
    }
    Ok(pictures)
}

/// Whether the first bytes of a file are a picture's.
fn begins_as_one(path: &Path) -> bool {
    let mut first = Vec::with_capacity(picture::FIRST_BYTES);
    let read = File::open(path).and_then(|file| file.take(picture::FIRST_BYTES as u64).read_to_end(&mut first));
    read.is_ok() && picture::format_of(&first).is_some()
}

pub fn open(root: &Path, listing: &Listing, pictures: Vec<PathBuf>, options: &SourceOptions) -> Result<Source> {
    // files of each class's directories, pictures or not
    let mut files: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for file in &listing.files {
        let Some((split, class)) = split_and_class(file)? else { continue };
        *files.entry(class).or_default().entry(split).or_default() += 1;
        directories.insert(class);
    }
    let directories: Vec<&str> = directories.into_iter().collect();
    let mut classes: Vec<Class> =
        directories.iter().enumerate().map(|(i, name)| Class { label: i as i64, name: (*name).to_owned() }).collect();
    if let Some(file) = &options.class_names {
        class_names::rename(&mut classes, file)?;
    }

    let named =
        directories.iter().zip(&classes).map(|(directory, class)| format!("class {directory:?} {:?}", class.name));
    let mut lines: Vec<String> = named.collect();
    let mut rows: BTreeMap<String, Vec<(PathBuf, i64)>> = BTreeMap::new();
    let mut counts: BTreeMap<String, Vec<usize>> =
        SPLITS.iter().map(|split| ((*split).to_owned(), vec![0; classes.len()])).collect();
    for picture in pictures {
        let Some((split, class)) = split_and_class(&picture)? else { continue };
        let bytes = fs::metadata(root.join(&picture)).map_or(0, |m| m.len()); // what cannot be read is met again
        lines.push(format!("{} {bytes}", id_of(&picture)));
        let (split, label) = (split.to_owned(), directories.binary_search(&class).unwrap_or_default());
        counts.entry(split.clone()).or_default()[label] += 1;
        rows.entry(split).or_default().push((picture, label as i64));
    }
    require_both_splits(root, &counts, "expected train/CLASS/*.jpg and test/CLASS/*.jpg, or other pictures")?;

    let mut notes = notes(listing, &rows)?;
    notes.extend(note_on_empty_classes(&classes, &counts, |split, i| {
        match files.get(directories[i]).and_then(|of| of.get(split)) {
            Some(1) => format!(" (the one file in {split}/{} is no picture)", directories[i]),
            Some(n) => format!(" (none of the {} in {split}/{} is a picture)", counted(*n, "file"), directories[i]),
            None => format!(" (no file in {split}/{})", directories[i]),
        }
    }));
    Ok(Source {
        id: SourceId {
            origin: format!("image folder {}", root.display()),
            fingerprint: crate::hash::hash_lines(lines),
        },
        classes,
        rows: rows.iter().map(|(split, files)| (split.clone(), files.len())).collect(),
        counts,
        notes,
        images: Box::new(Folder { root: root.to_owned(), files: rows }),
    })
}

/// What was left out: files that are no pictures of a class, and class directories that hold
/// nothing.
fn notes(listing: &Listing, rows: &BTreeMap<String, Vec<(PathBuf, i64)>>) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let taken: BTreeSet<&PathBuf> = rows.values().flatten().map(|(path, _)| path).collect();
    let mut left_out = listing.files.iter().filter(|file| !taken.contains(file));
    if let Some(first) = left_out.next() {
        let more = match left_out.count() {
            0 => String::new(),
            n => format!(" and {}", counted(n, "more file")),
        };
        notes.push(format!("left out, as no picture of train or test: {}{more}", first.display()));
    }
    let holding: BTreeSet<&Path> = listing.files.iter().flat_map(|file| file.ancestors().skip(1)).collect();
    let of_a_class = |directory: &&PathBuf| {
        let mut parts = directory.iter();
        parts.next().is_some_and(|split| SPLITS.iter().any(|known| split == *known)) && parts.count() == 1
    };
    let empty = listing.directories.iter().filter(of_a_class).filter(|path| !holding.contains(path.as_path()));
    let empty = some_of(empty.map(|path| id_of(path)));
    if !empty.is_empty() {
        notes.push(format!("directories without a file are no classes: {empty}"));
    }
    Ok(notes)
}

impl Images for Folder {
    fn read(&self, split: &str, range: Range<usize>) -> Result<Records<'_>> {
        Ok(Box::new(self.files[split][range].iter().map(|(path, label)| {
            Ok(Record {
                sample_id: id_of(path),
                label: *label,
                image: fs::read(self.root.join(path)).map_err(|e| e.to_string()),
            })
        })))
    }

    fn paths(&self, split: &str, range: Range<usize>) -> Vec<PathBuf> {
        self.files[split][range].iter().map(|(path, _)| self.root.join(path)).collect()
    }

    fn ids(&self, split: &str, range: Range<usize>) -> Vec<String> {
        self.files[split][range].iter().map(|(path, _)| id_of(path)).collect()
    }
}

/// The split and the class's directory of `train/CLASS/…/file`; none of another path. A class has
/// to be called by text.
fn split_and_class(path: &Path) -> Result<Option<(&str, &str)>> {
    let mut parts = path.iter();
    let split = parts.next().and_then(|part| part.to_str()).filter(|part| SPLITS.contains(part));
    // a file, or a directory, below the class
    let (Some(split), Some(class), Some(_)) = (split, parts.next(), parts.next()) else { return Ok(None) };
    let class = class.to_str().with_context(|| {
        format!("the name of the class directory {split}/{} is not UTF-8: rename it", class.display())
    })?;
    Ok(Some((split, class)))
}
