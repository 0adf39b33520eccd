//! A labelled set of images, whatever its files are.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use arrow::{array::RecordBatch, datatypes::Field};

use super::{
    id::SourceId,
    kept::{self, KeptColumn},
    names::some_of,
    options::SourceOptions,
    split::{self, Assigned, Part},
};
use crate::{rows::SPLITS, storage, task::Class, words::counted};

/// A labelled set of images in a stable order, with the splits `train` and `test`.
pub struct Source {
    /// Name and fingerprint.
    pub id: SourceId,
    /// The classes in the dataset's order, by ascending label.
    pub classes: Vec<Class>,
    /// Rows of each split.
    pub rows: BTreeMap<String, usize>,
    /// Rows of each of `classes` in each split, (C) by split.
    pub counts: BTreeMap<String, Vec<usize>>,
    /// What a person should know: what was left out, and classes that look wrong.
    pub notes: Vec<String>,
    /// What was found, in a line.
    pub summary: String,
    /// The user's own columns that are kept.
    pub kept: Vec<KeptColumn>,
    places: BTreeMap<String, Vec<u32>>,
    labels: Vec<u32>,
    images: Box<dyn Images + Send + Sync>,
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

/// All that a format finds: every row, in the source's order.
pub(super) struct Found {
    /// What it is, for people.
    pub what: String,
    /// The classes by ascending label.
    pub classes: Vec<Class>,
    /// The class of each row, its place in `classes`, and the row's split.
    pub rows: Vec<(u32, Part)>,
    /// What the fingerprint is of.
    pub lines: Vec<String>,
    pub notes: Vec<String>,
    pub why_empty: WhyEmpty,
    pub images: Box<dyn Images + Send + Sync>,
}

/// Says more about a class without rows, by the split and its place among the classes.
pub(super) type WhyEmpty = Box<dyn Fn(&str, usize) -> String>;

/// Encoded images, or why they could not be read, one after another. An error ends them.
pub(super) type Encoded<'a> = Box<dyn Iterator<Item = Result<Image>> + 'a>;

/// An encoded image, or why it could not be read.
pub(super) type Image = Result<Vec<u8>, String>;

/// The images of a source's rows, by their places in its order, which ascend.
pub(super) trait Images {
    /// Reads rows.
    fn read<'a>(&'a self, rows: &'a [u32]) -> Result<Encoded<'a>>;

    /// The files that rows lie in.
    fn paths(&self, rows: &[u32]) -> Vec<PathBuf>;

    /// The sample id of a row. Reads no image.
    fn id(&self, row: u32) -> String;

    /// What a row's picture is known by, which rows that share it have in common.
    fn picture(&self, row: u32) -> String {
        self.id(row)
    }

    /// The user's own columns: those that are neither images nor labels nor splits.
    fn columns(&self) -> Vec<Field> {
        Vec::new()
    }

    /// The values of `columns` of rows.
    fn values(&self, columns: &[&str], rows: &[u32]) -> Result<RecordBatch> {
        let _ = (columns, rows);
        Ok(RecordBatch::new_empty(kept::schema(&[])))
    }
}

impl Source {
    /// Of what was found at `path`.
    pub(super) fn new(path: &Path, found: Found, options: &SourceOptions) -> Result<Self> {
        let Found { what, classes, rows, mut lines, mut notes, why_empty, images } = found;
        ensure!(
            u32::try_from(rows.len()).is_ok(),
            "{} has {}: more than {}",
            path.display(),
            counted(rows.len(), "row"),
            u32::MAX
        );
        let (labels, parts): (Vec<u32>, Vec<Part>) = rows.into_iter().unzip();
        let Assigned { places, notes: of_splits } =
            split::assign(path, &parts, options.holdout, |row| images.picture(row))
                .with_context(|| format!("splits of the {what}"))?;
        if let Some(share) = options.holdout {
            lines.push(format!("holdout {share}"));
        }
        let count = |places: &Vec<u32>| {
            let mut counts = vec![0; classes.len()];
            places.iter().for_each(|&row| counts[labels[row as usize] as usize] += 1);
            counts
        };
        let counts: BTreeMap<String, Vec<usize>> =
            places.iter().map(|(split, places)| (split.clone(), count(places))).collect();
        let rows: BTreeMap<String, usize> =
            places.iter().map(|(split, places)| (split.clone(), places.len())).collect();
        notes.extend(of_splits);
        let (kept, of_columns) = kept::choose(path, &options.keep, &images.columns())?;
        notes.extend(of_columns);
        notes.extend(note_on_empty_classes(&classes, &counts, why_empty));
        let summary = format!(
            "{}: {what}, {}, {} train and {}",
            path.display(),
            counted(classes.len(), "class"),
            rows["train"],
            counted(rows["test"], "test image")
        );
        let id = SourceId { origin: format!("{what} {}", path.display()), fingerprint: crate::hash::hash_lines(lines) };
        Ok(Source { id, classes, rows, counts, notes, summary, kept, places, labels, images })
    }

    /// Reads the rows `range` of a split, in the source's order.
    pub fn read(&self, split: &str, range: Range<usize>) -> Result<Box<dyn Iterator<Item = Result<Record>> + '_>> {
        let rows = &self.places[split][range];
        let record = |(&row, image): (&u32, Result<Image>)| {
            let label = self.classes[self.labels[row as usize] as usize].label;
            Ok(Record { sample_id: self.images.id(row), label, image: image? })
        };
        Ok(Box::new(rows.iter().zip(self.images.read(rows)?).map(record)))
    }

    /// The kept columns of the rows `range` of a split; none where none is kept.
    pub fn kept(&self, split: &str, range: Range<usize>) -> Result<Option<RecordBatch>> {
        if self.kept.is_empty() {
            return Ok(None);
        }
        let columns: Vec<&str> = self.kept.iter().map(|column| column.name.as_str()).collect();
        let values = self.images.values(&columns, &self.places[split][range])?;
        kept::normalised(&self.kept, &values).with_context(|| self.id.origin.clone()).map(Some)
    }

    /// When the youngest of the files of the rows `range` of a split was changed; none where that
    /// is not known, as of objects that are images, each of which would have to be asked for.
    pub fn modified(&self, split: &str, range: Range<usize>) -> Option<SystemTime> {
        const FEW: usize = 16;
        let files: BTreeSet<PathBuf> = self.images.paths(&self.places[split][range]).into_iter().collect();
        let is_many = files.len() > FEW && files.iter().any(|file| storage::is_remote(file));
        if is_many {
            return None;
        }
        files.iter().filter_map(|file| storage::metadata(file).ok()?.modified()).max()
    }

    /// The sample ids of the rows `range` of a split, as [`Source::read`] gives them. Reads no
    /// image.
    pub fn ids(&self, split: &str, range: Range<usize>) -> Vec<String> {
        self.places[split][range].iter().map(|&row| self.images.id(row)).collect()
    }
}

/// A note about classes without a row in a split that has rows. `why` says more about a class in a
/// split, by its place in `classes`.
fn note_on_empty_classes(
    classes: &[Class],
    counts: &BTreeMap<String, Vec<usize>>,
    why: impl Fn(&str, usize) -> String,
) -> Vec<String> {
    let note = |split: &str| {
        let counts = counts.get(split).filter(|counts| counts.iter().any(|&n| n > 0))?;
        let empty: Vec<usize> = (0..classes.len()).filter(|&i| counts[i] == 0).collect();
        let named = some_of(empty.iter().map(|&i| format!("{:?}{}", classes[i].name, why(split, i))));
        (!empty.is_empty()).then(|| match empty.len() {
            1 => format!("a class has no {split} images: {named}"),
            n => format!("{n} classes have no {split} images: {named}"),
        })
    };
    SPLITS.into_iter().filter_map(note).collect()
}
