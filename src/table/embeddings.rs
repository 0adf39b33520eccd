//! Stage 1's table: shards of a fixed number of source rows, and the manifest that says what they are.
//!
//! Shard k of a split holds the rows k·R to (k + 1)·R of the source's stable order, less those in the
//! quarantine shard k; so shards can be made in any order, by anyone, again, and come out the same.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::array::{Float32Array, Int64Array, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};

use super::{contract, file};
use crate::{atomic, clip::ModelId, manifest, task::Class};

/// The directory of the table, below the run's.
const DIR: &str = "embeddings";

/// The two splits of every dataset.
pub const SPLITS: [&str; 2] = ["train", "test"];

/// What the shards of a run hold: written before the first shard, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where the images, or the imported embeddings, came from.
    pub source: SourceId,
    /// The image encoder; none where the embeddings were imported.
    pub model: Option<ModelId>,
    /// What was done to an image before it was encoded; none where imported.
    pub preprocessing: Option<String>,
    /// Number type in which the embeddings were computed.
    pub compute_dtype: String,
    /// Values per embedding, D.
    pub dim: usize,
    /// The classes in the dataset's order.
    pub classes: Vec<Class>,
    /// Rows of each split, quarantined ones included.
    pub rows: BTreeMap<String, usize>,
    /// Source rows per shard, R.
    pub shard_rows: usize,
}

/// A source of rows, as a manifest records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceId {
    /// Kind and path, for people.
    pub origin: String,
    /// Hash of everything that decides the rows and their order.
    pub fingerprint: String,
}

/// The rows of one shard, being collected.
#[derive(Default)]
pub struct ShardRows {
    pub sample_ids: Vec<String>,
    pub labels: Vec<i64>,
    /// Embeddings (rows, D), flat.
    pub embeddings: Vec<f32>,
    pub quarantine: Vec<Quarantined>,
}

impl ShardRows {
    /// Adds the rows that follow.
    pub fn append(&mut self, next: ShardRows) {
        self.sample_ids.extend(next.sample_ids);
        self.labels.extend(next.labels);
        self.embeddings.extend(next.embeddings);
        self.quarantine.extend(next.quarantine);
    }
}

/// A row that could not be used.
pub struct Quarantined {
    pub sample_id: String,
    pub label: i64,
    /// `read` or `decode`.
    pub stage: &'static str,
    pub error: String,
}

/// Embeddings of one split in memory.
#[derive(Default)]
pub struct Split {
    pub sample_ids: Vec<String>,
    pub labels: Vec<i64>,
    /// Embeddings (rows, D), flat.
    pub embeddings: Vec<f32>,
}

/// The embeddings of a run.
pub struct Embeddings {
    run: PathBuf,
    pub manifest: Manifest,
    /// Held while shards are written.
    _lock: Option<File>,
}

impl Embeddings {
    /// Starts or goes on with the embeddings of a run. Refuses to mix: a manifest that is there has to
    /// say the same.
    pub fn create(run: &Path, manifest: Manifest) -> Result<Self> {
        let (dir, lock) = (run.join(DIR), Some(atomic::lock(run)?));
        if manifest::exists(&dir) {
            let before = Self::open(run)?.manifest;
            if let Some(difference) = before.difference(&manifest) {
                bail!(
                    "{} holds other embeddings: {difference}; use another --run, or remove {} to make them anew",
                    run.display(),
                    dir.display()
                );
            }
            return Ok(Embeddings { run: run.to_owned(), manifest: before, _lock: lock });
        }
        if let Some(shard) = contract::embeddings().files(run).first() {
            bail!(
                "{} has lost its manifest.json, so nobody knows what it holds: remove {}",
                shard.display(),
                dir.display()
            );
        }
        for stale in contract::quarantine().files(run) {
            // of embeddings that were removed to be made anew
            fs::remove_file(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        }
        manifest::write(&dir, &manifest)?;
        Ok(Embeddings { run: run.to_owned(), manifest, _lock: lock })
    }

    /// The embeddings of a run, finished or not.
    pub fn open(run: &Path) -> Result<Self> {
        let dir = run.join(DIR);
        if !manifest::exists(&dir) {
            bail!("{} has no embeddings: run `cgil extract` or `cgil import` with this --run first", run.display());
        }
        let manifest: Manifest = manifest::read(&dir)?;
        if manifest.shard_rows == 0 || manifest.dim == 0 {
            bail!("the manifest.json in {} is damaged: shard_rows or dim is 0", dir.display());
        }
        Ok(Embeddings { run: run.to_owned(), manifest, _lock: None })
    }

    /// The embeddings of a run whose shards are all there.
    pub fn open_complete(run: &Path) -> Result<Self> {
        let embeddings = Self::open(run)?;
        let (missing, all) = (embeddings.missing().len(), embeddings.shards().len());
        if missing > 0 {
            bail!(
                "the embeddings in {} are not complete: {missing} of {all} shards are missing; \
                 run the command that made them again, it goes on where it stopped",
                run.display()
            );
        }
        Ok(embeddings)
    }

    /// Every shard: its split, its number and its source rows.
    pub fn shards(&self) -> Vec<(&'static str, usize, Range<usize>)> {
        let (size, rows) = (self.manifest.shard_rows, &self.manifest.rows);
        let of_split = |split: &'static str| {
            let total = rows.get(split).copied().unwrap_or(0);
            (0..total.div_ceil(size)).map(move |k| (split, k, k * size..((k + 1) * size).min(total)))
        };
        SPLITS.into_iter().flat_map(of_split).collect()
    }

    /// The shards that have not been written.
    pub fn missing(&self) -> Vec<(&'static str, usize, Range<usize>)> {
        self.shards().into_iter().filter(|(split, k, _)| !self.shard_path(DIR, split, *k).exists()).collect()
    }

    /// Writes a shard: first what was quarantined, then the embeddings, whose presence says it is done.
    pub fn write_shard(&self, split: &str, k: usize, rows: ShardRows) -> Result<()> {
        let quarantine_path = self.shard_path("quarantine", split, k);
        if !rows.quarantine.is_empty() {
            let q = &rows.quarantine;
            let column = |f: fn(&Quarantined) -> &str| Arc::new(StringArray::from_iter_values(q.iter().map(f)));
            let batch = file::rows(
                contract::quarantine(),
                0,
                vec![
                    column(|q| &q.sample_id),
                    Arc::new(Int64Array::from_iter_values(q.iter().map(|q| q.label))),
                    Arc::new(StringArray::from_iter_values(q.iter().map(|_| split))),
                    column(|q| q.stage),
                    column(|q| &q.error),
                ],
            )?;
            file::write(&quarantine_path, contract::quarantine(), &batch, &vec![])?;
        } else if quarantine_path.exists() {
            // of an earlier try, whose images can be read now
            fs::remove_file(&quarantine_path)
                .with_context(|| format!("cannot remove {}", quarantine_path.display()))?;
        }
        let path = self.shard_path(DIR, split, k);
        file::write(&path, contract::embeddings(), &self.batch(split, rows)?, &self.footer())
    }

    fn batch(&self, split: &str, rows: ShardRows) -> Result<RecordBatch> {
        let dim = self.manifest.dim;
        let norms: Float32Array =
            rows.embeddings.chunks(dim).map(|x| Some(x.iter().map(|v| v * v).sum::<f32>().sqrt())).collect();
        let names = rows.labels.iter().map(|&label| self.class_name(label));
        file::rows(
            contract::embeddings(),
            dim,
            vec![
                Arc::new(StringArray::from_iter_values(&rows.sample_ids)),
                Arc::new(Int64Array::from_iter_values(rows.labels.iter().copied())),
                Arc::new(StringArray::from_iter_values(names)),
                Arc::new(StringArray::from_iter_values(rows.labels.iter().map(|_| split))),
                file::vectors(rows.embeddings, dim),
                Arc::new(norms),
            ],
        )
    }

    fn footer(&self) -> file::Footer {
        let m = &self.manifest;
        let mut pairs: file::Footer = vec![
            ("cgil.compute_dtype".into(), m.compute_dtype.clone()),
            ("cgil.source".into(), m.source.fingerprint.clone()),
        ];
        if let Some(model) = &m.model {
            pairs.push(("cgil.model".into(), model.name.clone()));
            pairs.push(("cgil.model_sha256".into(), model.sha256.clone()));
        }
        if let Some(preprocessing) = &m.preprocessing {
            pairs.push(("cgil.preprocessing".into(), preprocessing.clone()));
        }
        // a ClassLabel's value is an index into its names
        if m.classes.iter().enumerate().all(|(i, class)| class.label == i as i64) {
            let value = |dtype: &str| serde_json::json!({"dtype": dtype, "_type": "Value"});
            let names: Vec<&str> = m.classes.iter().map(|c| c.name.as_str()).collect();
            let features = serde_json::json!({"info": {"features": {
                "sample_id": value("string"),
                "label": {"names": names, "_type": "ClassLabel"},
                "class_name": value("string"),
                "split": value("string"),
                "embedding": {"feature": value("float32"), "length": m.dim, "_type": "Sequence"},
                "norm": value("float32"),
            }}});
            pairs.push((file::HUGGING_FACE_KEY.into(), features.to_string()));
        }
        pairs
    }

    /// Reads the rows of a split whose label `wanted` accepts, in the source's order.
    pub fn read(&self, split: &str, wanted: impl Fn(i64) -> bool) -> Result<Split> {
        let mut out = Split::default();
        self.scan(split, &["sample_id", "label", "embedding"], |batch| {
            let (ids, labels) = (file::text(batch, "sample_id"), file::int64s(batch, "label"));
            let embeddings = file::floats(batch, "embedding").chunks(self.manifest.dim);
            for ((id, &label), embedding) in ids.zip(labels).zip(embeddings) {
                if wanted(label) {
                    out.sample_ids.push(id.to_owned());
                    out.labels.push(label);
                    out.embeddings.extend_from_slice(embedding);
                }
            }
        })?;
        Ok(out)
    }

    /// Calls `each` with the rows of a split, some at a time, in the source's order.
    fn scan(&self, split: &str, columns: &[&str], mut each: impl FnMut(&RecordBatch)) -> Result<()> {
        for (_, k, _) in self.shards().into_iter().filter(|shard| shard.0 == split) {
            let path = self.shard_path(DIR, split, k);
            for batch in file::open(&path, contract::embeddings(), self.manifest.dim, columns)? {
                each(&batch.with_context(|| {
                    format!("{} is damaged; remove it and make the embeddings again", path.display())
                })?);
            }
        }
        Ok(())
    }

    /// The rows of each of `classes` in a split: embeddings (N, D), flat, by label.
    pub fn by_class(&self, split: &str, classes: &[&Class]) -> Result<BTreeMap<i64, Vec<f32>>> {
        let mut by_class: BTreeMap<i64, Vec<f32>> = classes.iter().map(|class| (class.label, Vec::new())).collect();
        let rows = self.read(split, |label| by_class.contains_key(&label))?;
        for (label, embedding) in rows.labels.iter().zip(rows.embeddings.chunks(self.manifest.dim)) {
            by_class.entry(*label).or_default().extend_from_slice(embedding);
        }
        Ok(by_class)
    }

    /// The labels of a split, in the source's order.
    pub fn labels(&self, split: &str) -> Result<Vec<i64>> {
        let mut labels = Vec::new();
        self.scan(split, &["label"], |batch| labels.extend_from_slice(file::int64s(batch, "label")))?;
        Ok(labels)
    }

    /// How many rows were quarantined.
    pub fn quarantined(&self) -> Result<usize> {
        let paths = self.shards().into_iter().map(|(split, k, _)| self.shard_path("quarantine", split, k));
        let rows = paths.filter(|path| path.exists()).map(|path| {
            let builder = file::builder(&path)?;
            Ok(builder.metadata().file_metadata().num_rows() as usize)
        });
        rows.sum()
    }

    fn class_name(&self, label: i64) -> &str {
        // ascending by label
        let classes = &self.manifest.classes;
        classes.binary_search_by_key(&label, |c| c.label).map_or("", |i| &classes[i].name)
    }

    fn shard_path(&self, table: &str, split: &str, k: usize) -> PathBuf {
        self.run.join(table).join(split).join(format!("part-{k:05}.parquet"))
    }
}

impl Manifest {
    /// A hash of everything that decides the embeddings' values. Paths and the size of shards do not count.
    pub fn identity(&self) -> String {
        let model = self.model.as_ref().map(|id| (&id.sha256, &id.config));
        crate::hash_lines([format!(
            "{:?}",
            (&self.source.fingerprint, model, &self.preprocessing, &self.compute_dtype)
        )])
    }

    /// The first thing that makes the other embeddings not these, in words. Paths do not count.
    fn difference(&self, other: &Manifest) -> Option<String> {
        let text =
            |what: &str, was: &str, is: &str| (was != is).then(|| format!("the {what} was {was}, now it is {is}"));
        let model = |m: &Manifest| match &m.model {
            Some(id) => format!("{} (sha256 {:.12}…)", id.name, id.sha256),
            None => "imported".into(),
        };
        let source = |m: &Manifest| format!("{} (fingerprint {:.12}…)", m.source.origin, m.source.fingerprint);
        let sha = |m: &Manifest| m.model.as_ref().map(|id| id.sha256.clone());
        let preprocessing = |m: &Manifest| m.preprocessing.clone().unwrap_or("none".into());
        if sha(self) != sha(other) {
            return text("model", &model(self), &model(other));
        }
        let config = |m: &Manifest| m.model.as_ref().map_or(String::new(), |id| format!("{:.12}…", id.config));
        if config(self) != config(other) {
            return text("model's config.json (by its hash)", &config(self), &config(other));
        }
        if self.source.fingerprint != other.source.fingerprint {
            return text("source", &source(self), &source(other));
        }
        text("preprocessing", &preprocessing(self), &preprocessing(other))
            .or_else(|| text("shard size", &self.shard_rows.to_string(), &other.shard_rows.to_string()))
            .or_else(|| text("compute dtype", &self.compute_dtype, &other.compute_dtype))
    }
}
