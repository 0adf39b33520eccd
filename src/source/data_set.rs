//! A labelled set of images, whatever its files are.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Result, bail};

use super::{id::SourceId, names::some_of};
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
    /// The images.
    pub(super) images: Box<dyn Images + Send + Sync>,
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

/// Rows, one after another.
pub(super) type Records<'a> = Box<dyn Iterator<Item = Result<Record>> + 'a>;

/// The images of a source's splits, by their places in a split.
pub(super) trait Images {
    /// Reads the rows `range` of a split, in the source's order.
    fn read(&self, split: &str, range: Range<usize>) -> Result<Records<'_>>;

    /// The files of the rows `range` of a split.
    fn paths(&self, split: &str, range: Range<usize>) -> Vec<PathBuf>;

    /// The sample ids of the rows `range` of a split. Reads no image.
    fn ids(&self, split: &str, range: Range<usize>) -> Vec<String>;
}

impl Source {
    /// Reads the rows `range` of a split, in the source's order.
    pub fn read(&self, split: &str, range: Range<usize>) -> Result<Box<dyn Iterator<Item = Result<Record>> + '_>> {
        self.images.read(split, range)
    }

    /// When the youngest of the files of the rows `range` of a split was changed; none where that
    /// is not known.
    pub fn modified(&self, split: &str, range: Range<usize>) -> Option<SystemTime> {
        let files = self.images.paths(split, range);
        files.iter().filter_map(|file| fs::metadata(file).and_then(|file| file.modified()).ok()).max()
    }

    /// The sample ids of the rows `range` of a split, as [`Source::read`] gives them. Reads no
    /// image.
    pub fn ids(&self, split: &str, range: Range<usize>) -> Vec<String> {
        self.images.ids(split, range)
    }
}

/// An error unless both splits have rows. `expected` says what they are made of.
pub fn require_both_splits(path: &Path, counts: &BTreeMap<String, Vec<usize>>, expected: &str) -> Result<()> {
    for split in SPLITS {
        if counts.get(split).is_none_or(|counts| counts.iter().all(|&n| n == 0)) {
            bail!("{} has no {split} images; {expected}", path.display());
        }
    }
    Ok(())
}

/// A note about classes without a row in a split. `why` says more about a class in a split, by its
/// place in `classes`.
pub fn note_on_empty_classes(
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
