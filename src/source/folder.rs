//! An image folder: `SPLIT/CLASS/…/picture`, or `CLASS/…/picture` without splits.
//!
//! With splits a class is a directory that holds a file, so that it keeps its label when it loses
//! its pictures; without, one that holds a picture. Every file below it that is a picture by its
//! name or by its first bytes is a row, whether it can be decoded or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    class_names,
    data_set::{Encoded, Found, Images},
    listing::Listing,
    names::{id_of, some_of},
    options::SourceOptions,
    read::read_each,
    split::Part,
};
use crate::{picture, storage, task::Class, words::counted};

/// What the directories are.
#[derive(Clone, Copy, PartialEq)]
pub enum Layout {
    /// `SPLIT/CLASS/…`.
    Splits,
    /// `CLASS/…`.
    Classes,
}

/// The files of the rows, as paths below the folder.
struct Folder {
    root: PathBuf,
    files: Vec<PathBuf>,
}

/// The pictures that lie in classes, as paths below the folder.
pub fn pictures(root: &Path, listing: &Listing, layout: Layout) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for file in &listing.files {
        if place_of(file, layout)?.is_some() && (picture::has_extension(file) || begins_as_one(&root.join(file))) {
            pictures.push(file.clone());
        }
    }
    Ok(pictures)
}

/// Whether the first bytes of a file are a picture's.
fn begins_as_one(path: &Path) -> bool {
    storage::read_start(path, picture::FIRST_BYTES).is_ok_and(|first| picture::format_of(&first).is_some())
}

pub fn open(
    root: &Path,
    listing: &Listing,
    layout: Layout,
    pictures: Vec<PathBuf>,
    options: &SourceOptions,
) -> Result<Found> {
    // files of each class's directories, pictures or not, by the split's own name
    let mut files: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for file in if layout == Layout::Splits { &listing.files } else { &pictures } {
        let Some(Place { split, class, .. }) = place_of(file, layout)? else { continue };
        *files.entry(class.to_owned()).or_default().entry(split.to_owned()).or_default() += 1;
        directories.insert(class);
    }
    let directories: Vec<String> = directories.into_iter().map(str::to_owned).collect();
    let mut classes: Vec<Class> =
        directories.iter().enumerate().map(|(i, name)| Class { label: i as i64, name: name.clone() }).collect();
    if let Some(file) = &options.class_names {
        class_names::rename(&mut classes, file)?;
    }
    let named =
        directories.iter().zip(&classes).map(|(directory, class)| format!("class {directory:?} {:?}", class.name));
    let mut lines: Vec<String> = named.collect();
    let mut rows = Vec::with_capacity(pictures.len());
    for picture in &pictures {
        let Some(Place { part, class, .. }) = place_of(picture, layout)? else { continue };
        let bytes = listing.bytes(root, picture);
        lines.push(format!("{} {bytes}", id_of(picture)));
        let label = directories.binary_search_by(|known| known.as_str().cmp(class)).unwrap_or_default();
        rows.push((label as u32, part));
    }
    Ok(Found {
        what: "image folder".into(),
        classes,
        rows,
        lines,
        notes: notes(listing, layout, &pictures),
        why_empty: Box::new(move |split, i| why_empty(split, &directories[i], &files)),
        images: Box::new(Folder { root: root.to_owned(), files: pictures }),
    })
}

/// Why a class has no picture in a split.
fn why_empty(split: &str, class: &str, files: &BTreeMap<String, BTreeMap<String, usize>>) -> String {
    let of_split = |(name, _): &(&String, &usize)| Part::of(name) == Part::of(split);
    // the rows of a split may be those of another directory
    let Some((directory, _)) = files.values().flatten().find(of_split) else { return String::new() };
    match files.get(class).and_then(|of| of.iter().find(of_split)) {
        Some((split, 1)) => format!(" (the one file in {split}/{class} is no picture)"),
        Some((split, n)) => format!(" (none of the {} in {split}/{class} is a picture)", counted(*n, "file")),
        None => format!(" (no file in {directory}/{class})"),
    }
}

/// What was left out: files that are no pictures of a class, and class directories that hold
/// nothing.
fn notes(listing: &Listing, layout: Layout, pictures: &[PathBuf]) -> Vec<String> {
    let mut notes = Vec::new();
    let taken: BTreeSet<&PathBuf> = pictures.iter().collect();
    let mut left_out = listing.files.iter().filter(|file| !taken.contains(file));
    if let Some(first) = left_out.next() {
        let more = match left_out.count() {
            0 => String::new(),
            n => format!(" and {}", counted(n, "more file")),
        };
        let of = if layout == Layout::Splits { "train or test" } else { "a class" };
        notes.push(format!("left out, as no picture of {of}: {}{more}", first.display()));
    }
    let holding: BTreeSet<&Path> = listing.files.iter().flat_map(|file| file.ancestors().skip(1)).collect();
    let of_a_class = |directory: &&PathBuf| {
        let mut parts = directory.iter();
        let is_split = layout == Layout::Classes || parts.next().is_some_and(|name| Part::of_os(name).is_some());
        is_split && parts.count() == 1
    };
    let empty = listing.directories.iter().filter(of_a_class).filter(|path| !holding.contains(path.as_path()));
    let empty = some_of(empty.map(|path| id_of(path)));
    if !empty.is_empty() {
        notes.push(format!("directories without a file are no classes: {empty}"));
    }
    notes
}

impl Images for Folder {
    fn read<'a>(&'a self, rows: &'a [u32]) -> Result<Encoded<'a>> {
        read_each(self.paths(rows))
    }

    fn paths(&self, rows: &[u32]) -> Vec<PathBuf> {
        rows.iter().map(|&row| self.root.join(&self.files[row as usize])).collect()
    }

    fn id(&self, row: u32) -> String {
        id_of(&self.files[row as usize])
    }
}

/// What a picture's path says.
struct Place<'a> {
    part: Part,
    /// The directory of the split; empty where there is none.
    split: &'a str,
    /// The directory of the class.
    class: &'a str,
}

/// The place of a file that lies in a class; none of another. A class has to be called by text.
fn place_of(path: &Path, layout: Layout) -> Result<Option<Place<'_>>> {
    let mut parts = path.iter();
    let (part, split) = match layout {
        Layout::Classes => (Part::Unsplit, ""),
        Layout::Splits => {
            let split = parts.next().and_then(|part| part.to_str()).unwrap_or_default();
            let Some(part) = Part::of(split) else { return Ok(None) };
            (part, split)
        }
    };
    // a file, or a directory, below the class
    let (Some(class), Some(_)) = (parts.next(), parts.next()) else { return Ok(None) };
    let class = class.to_str().with_context(|| {
        format!("the name of the class directory {} is not UTF-8: rename it", Path::new(split).join(class).display())
    })?;
    Ok(Some(Place { part, split, class }))
}
