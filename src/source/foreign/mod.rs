//! Embeddings made elsewhere, found by looking at what is there: Parquet with a column of vectors,
//! arrays of numpy's or in safetensors, and the labels in them or beside them.

mod array;
mod arrays;
mod classes;
mod columns;
mod find;
mod kind;
mod lists;
mod npy;
mod words;

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use arrow::array::{Array as _, Int64Array, StringArray};

use self::{
    classes::{Classes, as_texts},
    columns::{column, require_values},
    find::{Found, Part, Vectors, find},
};
use super::{
    class_names,
    id::SourceId,
    split::{self, Assigned, Part as Split},
};
use crate::{
    hash::{hash_files, hash_lines},
    rows::{SPLITS, Split as _, Test, Train},
    task::Class,
};

/// Embeddings made elsewhere.
pub struct Foreign {
    path: PathBuf,
    parts: Vec<Rows>,
    files: Vec<PathBuf>,
    holdout: Option<f64>,
    /// The classes, by ascending label.
    pub classes: Vec<Class>,
    /// Rows of each of `classes` in each split, (C) by split.
    pub counts: BTreeMap<String, Vec<usize>>,
    /// What was found, and what was left out.
    pub notes: Vec<String>,
}

/// How they are to be read.
#[derive(Clone, Debug, Default)]
pub struct ForeignOptions {
    /// A directory that is no part of them, wherever it lies: the run's.
    pub leave_out: Option<PathBuf>,
    /// The column of the labels, where it has another name than is usual.
    pub label_column: Option<String>,
    /// A file that says what classes are called: CSV or JSON.
    pub class_names: Option<PathBuf>,
    /// As that of images.
    pub holdout: Option<f64>,
}

/// Rows of one array, or one file.
struct Rows {
    vectors: Vectors,
    labels: Int64Array,
    /// None of a row that is left out.
    splits: Vec<Option<&'static str>>,
    /// Null where a row's place is its id.
    ids: Option<StringArray>,
}

impl Rows {
    /// The id of a row.
    fn id(&self, i: usize) -> String {
        let id = self.ids.as_ref().filter(|ids| ids.is_valid(i));
        id.map_or_else(|| format!("{}#{i}", self.vectors.place()), |ids| ids.value(i).to_owned())
    }
}

/// A row.
pub struct Row<'a> {
    /// File and row, for messages.
    pub place: &'a dyn Fn() -> String,
    /// Its key in the source.
    pub sample_id: String,
    /// Name of the split.
    pub split: &'static str,
    /// Its label.
    pub label: i64,
    /// (D).
    pub embedding: &'a [f32],
}

impl Foreign {
    /// Finds out what lies at `path`, a file or a directory. Reads everything but the vectors.
    pub fn open(path: &Path, options: &ForeignOptions) -> Result<Self> {
        let label_column = options.label_column.as_deref();
        let usual = [&words::LABEL[..], &words::CLASS_NAME, &words::SPLIT, &words::ID].concat();
        let wanted: Vec<&str> = label_column.into_iter().chain(usual).collect();
        let Found { parts, class_names, files, mut notes } = find(path, options.leave_out.as_deref(), &wanted)?;
        let Classes { labels, names, note } = Classes::of(path, &parts, label_column, class_names.as_ref())?;
        notes.push(note);
        let mut classes: Vec<Class> = names.into_iter().map(|(label, name)| Class { label, name }).collect();
        if let Some(file) = &options.class_names {
            class_names::rename(&mut classes, file)?;
        }
        let splits = splits_of(&parts)?;
        let ids = ids_of(&parts, &mut notes)?;
        let rows = parts.into_iter().zip(labels).zip(ids);
        let mut parts: Vec<Rows> =
            rows.map(|((part, labels), ids)| Rows { vectors: part.vectors, labels, splits: Vec::new(), ids }).collect();
        assigned(path, &mut parts, splits, options.holdout, &mut notes)?;
        let mut foreign = Foreign {
            path: path.to_owned(),
            parts,
            files,
            holdout: options.holdout,
            classes,
            counts: BTreeMap::new(),
            notes,
        };
        foreign.count();
        Ok(foreign)
    }

    /// Counts the rows of each class, and leaves classes out that have none.
    fn count(&mut self) {
        let mut by_label: BTreeMap<i64, [usize; 2]> = BTreeMap::new();
        for Rows { labels, splits, .. } in &self.parts {
            for (label, split) in labels.values().iter().zip(splits) {
                if let Some(split) = split {
                    by_label.entry(*label).or_default()[usize::from(*split == Test::NAME)] += 1;
                }
            }
        }
        self.classes.retain(|class| by_label.contains_key(&class.label));
        let of = |split: usize| by_label.values().map(|counts| counts[split]).collect();
        self.counts = [(Train::NAME.to_owned(), of(0)), (Test::NAME.to_owned(), of(1))].into();
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name and hash of the files. Reads all of them once.
    pub fn id(&self) -> Result<SourceId> {
        Ok(SourceId {
            origin: format!("embeddings {}", self.path.display()),
            fingerprint: match self.holdout {
                None => hash_files(&self.files)?,
                Some(share) => hash_lines([hash_files(&self.files)?, format!("holdout {share}")]),
            },
        })
    }

    /// Calls `each` with every row in order; stops at the first error.
    pub fn read(&self, mut each: impl FnMut(Row) -> Result<()>) -> Result<()> {
        for rows in &self.parts {
            let Rows { vectors, labels, splits, .. } = rows;
            let mut next = 0;
            vectors.read(|embedding| {
                let i = next;
                next += 1;
                let Some(split) = splits[i] else { return Ok(()) };
                each(Row {
                    place: &|| format!("{} row {i}", vectors.place()),
                    sample_id: rows.id(i),
                    split,
                    label: labels.value(i),
                    embedding,
                })
            })?;
        }
        Ok(())
    }
}

/// The source's own split of every row of every part: its column's, or what its file or array is
/// called, or a directory that its image lay in; of other rows `train` where some have one.
fn splits_of(parts: &[Part]) -> Result<Vec<Vec<Split>>> {
    let mut splits = Vec::new();
    for part in parts {
        let place = part.vectors.place();
        let Some(column) = column(&part.columns, &words::SPLIT) else {
            let named = |split| vec![split; part.vectors.rows()];
            splits.push(match words::split_of(place) {
                Some(split) => named(split),
                None => in_paths(part)?.unwrap_or_else(|| named(Split::Train)),
            });
            continue;
        };
        require_values(column)?;
        let mut named = Vec::new();
        for (i, text) in as_texts(column)?.iter().flatten().enumerate() {
            let Some(split) = Split::of(text) else {
                bail!(
                    "{} row {i}: split should be \"train\", \"validation\" or \"test\", but is {text:?}",
                    column.place
                );
            };
            named.push(split);
        }
        splits.push(named);
    }
    Ok(splits)
}

/// The splits that a part's paths go through; none where one goes through none.
fn in_paths(part: &Part) -> Result<Option<Vec<Split>>> {
    let Some(paths) = column(&part.columns, &words::ID) else { return Ok(None) };
    let through = |path: Option<&str>| path?.rsplit_once('/')?.0.rsplit('/').find_map(Split::of);
    Ok(as_texts(paths)?.iter().map(through).collect())
}

/// The split that each row of each part is in; none of a row that is left out.
fn assigned(
    path: &Path,
    rows: &mut [Rows],
    splits: Vec<Vec<Split>>,
    holdout: Option<f64>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let starts: Vec<usize> =
        splits.iter().scan(0, |next, of| Some(std::mem::replace(next, *next + of.len()))).collect();
    let all: Vec<Split> = splits.into_iter().flatten().collect();
    let place = |row: usize| {
        let part = starts.partition_point(|&start| start <= row) - 1;
        (part, row - starts[part])
    };
    let id = |row: u32| {
        let (part, i) = place(row as usize);
        rows[part].id(i)
    };
    let Assigned { places, notes: of_splits } = split::assign(path, &all, holdout, id)?;
    notes.extend(of_splits);
    rows.iter_mut().for_each(|of| of.splits = vec![None; of.vectors.rows()]);
    for split in SPLITS {
        for &row in &places[split] {
            let (part, i) = place(row as usize);
            rows[part].splits[i] = Some(split);
        }
    }
    Ok(())
}

/// The ids of each part's rows, where a column has some that are unique. Those of a column that is
/// called sample_id have to be.
fn ids_of(parts: &[Part], notes: &mut Vec<String>) -> Result<Vec<Option<StringArray>>> {
    let columns: Vec<_> = parts.iter().map(|part| column(&part.columns, &words::ID)).collect();
    let ids: Vec<_> = columns.iter().map(|column| column.map(as_texts).transpose()).collect::<Result<_>>()?;
    let mut seen = HashSet::new();
    let twice = ids.iter().flatten().flat_map(|ids| ids.iter().flatten()).find(|id| !seen.insert(*id));
    match twice.zip(columns.iter().flatten().find(|column| !column.name.eq_ignore_ascii_case(words::ID[0]))) {
        Some((id, column)) => {
            notes.push(format!(
                "{} is no id, as {id:?} stands on two rows: rows are called by their places",
                column.name
            ));
            Ok(vec![None; parts.len()])
        }
        None => Ok(ids),
    }
}
