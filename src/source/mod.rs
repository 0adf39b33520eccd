//! Where images come from: a folder of files, or Hugging Face Parquet shards.

mod class_names;
mod folder;
pub mod foreign;
mod hugging_face;
mod id;
mod listing;

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Result, bail};

pub use id::SourceId;
use listing::Listing;

use crate::{rows::SPLITS, task::Class};

/// A labelled set of images in a stable order, with the splits `train` and `test`.
pub struct Source {
    /// Name and fingerprint.
    pub id: SourceId,
    /// The classes in the dataset's order, by ascending label from 0.
    pub classes: Vec<Class>,
    /// Rows of each split.
    pub rows: BTreeMap<String, usize>,
    /// Rows of each of `classes` in each split, (C) by split.
    pub counts: BTreeMap<String, Vec<usize>>,
    /// What a person should know: what was left out, and classes that look wrong.
    pub notes: Vec<String>,
    kind: Kind,
}

enum Kind {
    Folder(folder::Folder),
    HuggingFace(hugging_face::Shards),
}

/// How a source is to be read.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// A directory that is no part of the source, wherever it lies: the run's.
    pub leave_out: Option<PathBuf>,
    /// A file that says what classes are called: CSV or JSON.
    pub class_names: Option<PathBuf>,
    /// The column of the images in Parquet shards, where it is not the only one that fits.
    pub image_column: Option<String>,
    /// The column of the labels in Parquet shards, where it is not the only one that fits.
    pub label_column: Option<String>,
}

/// One image of a source.
pub struct Record {
    /// Stable key inside the source.
    pub sample_id: String,
    /// The dataset's own label.
    pub label: i64,
    /// The encoded image, or why it could not be read.
    pub image: Result<Vec<u8>, String>,
}

impl Source {
    /// Opens `path`: an image folder, or Parquet shards where there are no images.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        if !path.is_dir() {
            bail!(
                "{} is not a directory; --data takes an image folder or a directory of Parquet shards",
                path.display()
            );
        }
        let listing = Listing::of(path, options.leave_out.as_deref())?;
        let pictures = folder::pictures(path, &listing)?;
        let shard = listing.files.iter().find(|file| hugging_face::is_shard(file));
        let mut source = match (pictures.first(), shard) {
            (Some(picture), Some(shard)) => bail!(
                "{} holds an image folder ({}) and Parquet shards ({}): give the directory of the one, or move the \
                 other away",
                path.display(),
                picture.display(),
                shard.display()
            ),
            (None, _) if listing.files.iter().any(|file| has_extension(file, "parquet")) => {
                hugging_face::open(path, &listing, options)?
            }
            _ if options.image_column.is_some() || options.label_column.is_some() => {
                bail!("{} holds no Parquet shards: --image-column and --label-column are for these", path.display())
            }
            _ => folder::open(path, &listing, pictures, options)?,
        };
        source.notes.extend(listing.notes());
        source.notes.extend(class_names::notes(&source.classes, &source.counts, options.class_names.is_some()));
        Ok(source)
    }

    /// Reads the rows `range` of a split, in the source's order.
    pub fn read<'a>(
        &'a self,
        split: &'a str,
        range: Range<usize>,
    ) -> Result<Box<dyn Iterator<Item = Result<Record>> + 'a>> {
        match &self.kind {
            Kind::Folder(folder) => Ok(Box::new(folder.read(split, range))),
            Kind::HuggingFace(shards) => Ok(Box::new(shards.read(split, range)?)),
        }
    }

    /// When the youngest of the files of the rows `range` of a split was changed; none where that
    /// is not known.
    pub fn modified(&self, split: &str, range: Range<usize>) -> Option<SystemTime> {
        let files = match &self.kind {
            Kind::Folder(folder) => folder.paths(split, range),
            Kind::HuggingFace(shards) => shards.paths(split, range),
        };
        files.iter().filter_map(|file| fs::metadata(file).and_then(|file| file.modified()).ok()).max()
    }

    /// The sample ids of the rows `range` of a split, as [`Source::read`] gives them. Reads no
    /// image.
    pub fn ids(&self, split: &str, range: Range<usize>) -> Vec<String> {
        match &self.kind {
            Kind::Folder(folder) => folder.ids(split, range),
            Kind::HuggingFace(shards) => shards.ids(split, range),
        }
    }
}

/// An error unless both splits have rows. `expected` says what they are made of.
fn require_both_splits(path: &Path, counts: &BTreeMap<String, Vec<usize>>, expected: &str) -> Result<()> {
    for split in SPLITS {
        if counts.get(split).is_none_or(|counts| counts.iter().all(|&n| n == 0)) {
            bail!("{} has no {split} images; {expected}", path.display());
        }
    }
    Ok(())
}

/// A note about classes without a row in a split. `why` says more about a class in a split, by its
/// place in `classes`.
fn note_on_empty_classes(
    classes: &[Class],
    counts: &BTreeMap<String, Vec<usize>>,
    why: impl Fn(&str, usize) -> String,
) -> Vec<String> {
    let note = |split: &str| {
        let empty: Vec<usize> = (0..classes.len()).filter(|&i| counts[split][i] == 0).collect();
        let named = some_of(empty.iter().map(|&i| format!("{:?}{}", classes[i].name, why(split, i))));
        (!empty.is_empty()).then(|| match empty.len() {
            1 => format!("a class has no {split} images: {named}"),
            n => format!("{n} classes have no {split} images: {named}"),
        })
    };
    SPLITS.into_iter().filter_map(note).collect()
}

/// The first of many names, and how many more there are.
fn some_of(names: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.into_iter().collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// A path below a source as text. Different paths have different texts: where one is not UTF-8 its
/// other bytes are written as `\xff`, its backslashes double, and `./`, which no path below a
/// source begins with, stands before it.
fn id_of(path: &Path) -> String {
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

fn has_extension(path: &Path, extension: &str) -> bool {
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
