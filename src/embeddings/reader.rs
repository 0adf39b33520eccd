//! The rows of a sealed source, by class and split.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::RecordBatch;

use super::{
    forgotten::is_forgotten,
    sealed::Sealed,
    shards::{EMBEDDINGS, shard_file},
};
use crate::{
    Error,
    artefact::{FileSum, MANIFEST},
    rows::{Rows, Split, Test, Train},
    storage,
    table::{contract, file},
};

/// All shards of a split, by their numbers.
pub const ALL_SHARDS: Range<usize> = 0..usize::MAX;

/// Rows of a split with what they are of, in the source's order.
#[derive(Debug)]
pub struct LabelledRows<S> {
    /// Keys of the rows in the source (N).
    pub sample_ids: Vec<String>,
    /// Their labels (N).
    pub labels: Vec<i64>,
    /// Their embeddings (N, D).
    pub rows: Rows<S>,
}

/// What reads the rows.
pub(super) struct Reader<'a> {
    /// The directory of the artefact.
    pub dir: PathBuf,
    /// Values per embedding, D.
    pub dim: usize,
    /// What its shards hold.
    pub sealed: &'a Sealed,
}

impl Reader<'_> {
    /// The test rows of some classes, in the source's order.
    pub fn test_rows(&self, labels: &BTreeSet<i64>) -> Result<LabelledRows<Test>> {
        let (mut sample_ids, mut all_labels, mut values) = (Vec::new(), Vec::new(), Vec::new());
        self.each::<Test>(labels, |batch| {
            sample_ids.extend(batch.sample_ids);
            all_labels.extend(batch.labels);
            values.extend_from_slice(batch.rows.values());
            Ok(())
        })?;
        Ok(LabelledRows { sample_ids, labels: all_labels, rows: Rows::new(self.dim, values) })
    }

    /// Calls `each` with the rows of some classes in a split, some at a time, in the source's
    /// order.
    pub fn each<S: Split>(
        &self,
        labels: &BTreeSet<i64>,
        mut each: impl FnMut(LabelledRows<S>) -> Result<()>,
    ) -> Result<()> {
        self.scan(S::NAME, labels, ALL_SHARDS, &["sample_id", "label", "embedding"], |batch| {
            each(LabelledRows {
                sample_ids: file::text(batch, "sample_id").map(str::to_owned).collect(),
                labels: file::int64s(batch, "label").to_vec(),
                rows: Rows::new(self.dim, file::floats(batch, "embedding").to_vec()),
            })
        })
    }

    /// The rows of each of some classes in some shards of a split, by their numbers, each in the
    /// source's order.
    pub fn class_rows<S: Split>(&self, labels: &[i64], shards: Range<usize>) -> Result<Vec<Rows<S>>> {
        let dim = self.dim;
        let place: HashMap<i64, usize> = labels.iter().copied().zip(0..).collect();
        let counts = self.sealed.counts_in::<S>(&shards);
        let room = |label: &i64| Vec::with_capacity(counts.get(label).copied().unwrap_or(0) * dim);
        let mut values: Vec<Vec<f32>> = labels.iter().map(room).collect();
        self.scan(S::NAME, &labels.iter().copied().collect(), shards, &["label", "embedding"], |batch| {
            let embeddings = file::floats(batch, "embedding").chunks_exact(dim);
            for (label, embedding) in file::int64s(batch, "label").iter().zip(embeddings) {
                // a shard that holds another label than it did is found out by its number of rows
                if let Some(&place) = place.get(label) {
                    values[place].extend_from_slice(embedding);
                }
            }
            Ok(())
        })?;
        Ok(values.into_iter().map(|values| Rows::new(dim, values)).collect())
    }

    /// Calls `each` with the rows of some classes in some shards of a split, some at a time, in the
    /// source's order. Opens only shards that have some, and of these decodes only the pages that do.
    fn scan(
        &self,
        split: &str,
        labels: &BTreeSet<i64>,
        shards: Range<usize>,
        columns: &[&str],
        mut each: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let (sealed, dim, table) = (self.sealed, self.dim, contract::embeddings());
        for shard in sealed.shards.iter().filter(|shard| shard.split == split && shards.contains(&shard.number)) {
            let (mut wanted, mut all) = (0, 0);
            for (label, rows) in shard.labels.iter() {
                all += rows;
                wanted += if labels.contains(&label) { rows } else { 0 };
            }
            if wanted == 0 {
                continue;
            }
            let name = shard_file(EMBEDDINGS, split, shard.number);
            let path = self.dir.join(&name);
            if !storage::is_file(&path) {
                if is_forgotten(&self.dir, split) {
                    let split = if split == Train::NAME { "training" } else { "test" };
                    return Err(Error::Forgotten { dir: self.dir.clone(), split }.into());
                }
                bail!(
                    "{} is not there any more, and rows of it are needed: run the command that made it again",
                    path.display()
                );
            }
            self.check_shard(&name)?;
            let wanted_labels = labels.clone();
            let reader = match wanted == all {
                true => file::open(&path, table, dim, columns)?,
                false => {
                    file::open_where(&path, table, dim, columns, "label", move |label| wanted_labels.contains(&label))?
                }
            };
            let mut found = 0;
            for batch in reader {
                let batch = batch.with_context(|| {
                    format!("{} is damaged; remove it and run the command that made it again", path.display())
                })?;
                found += batch.num_rows();
                each(&batch)?;
            }
            ensure!(
                found == wanted,
                "{} has {found} rows of these classes, and had {wanted}: remove it and make it again",
                path.display()
            );
        }
        Ok(())
    }

    /// An error unless a shard is what it was when it was written. Reads it, once for each time
    /// that it was changed.
    fn check_shard(&self, name: &str) -> Result<()> {
        static CHECKED: Mutex<BTreeMap<PathBuf, (FileSum, Option<SystemTime>)>> = Mutex::new(BTreeMap::new());
        let path = self.dir.join(name);
        let sum =
            self.sealed.manifest.files.get(name).with_context(|| format!("{MANIFEST} knows no {}", path.display()))?;
        let found = storage::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let now = (sum.clone(), found.modified());
        let checked = || CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
        if checked().get(&path) == Some(&now) {
            return Ok(());
        }
        if FileSum::of(&path)? != *sum {
            bail!("{} is damaged, or was changed; remove it and run the command that made it again", path.display());
        }
        checked().insert(path, now);
        Ok(())
    }
}
