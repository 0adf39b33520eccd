//! The shards of a source as files: rows with their embeddings, and beside them those that have
//! none.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use arrow::{
    array::{Array, AsArray, Float32Array, Int64Array, RecordBatch, StringArray},
    datatypes::Schema,
    ipc::writer::StreamWriter,
};
use serde_json::{Value, json};

use super::plan::{Shard, SourcePlan};
use crate::{
    atomic::Staged,
    hash::{hash_bytes, hash_lines},
    rows::SPLITS,
    source::Source,
    storage,
    table::{contract, file},
};

/// Footer key of the hash of what a shard's rows were made from.
pub(super) const CONTENTS: &str = "cgil.contents";

/// Directories of the shards in the artefact's.
pub(super) const EMBEDDINGS: &str = "embeddings";
pub(super) const QUARANTINE: &str = "quarantine";

/// Rows of a source that are read in one go when no more than so many lie between them.
const NEAR: usize = 16;

/// The rows of one shard, being collected.
#[derive(Default)]
pub struct ShardRows {
    /// Keys of the rows in the source.
    pub sample_ids: Vec<String>,
    /// Their labels.
    pub labels: Vec<i64>,
    /// Embeddings (rows, D), flat.
    pub embeddings: Vec<f32>,
    /// The source's own columns of the rows; none where none is kept.
    pub kept: Option<RecordBatch>,
    /// Rows that have no embedding.
    pub quarantine: Vec<Quarantined>,
    /// A line for each row of the source, quarantined ones included: what it was made from.
    pub contents: Vec<String>,
}

impl ShardRows {
    /// Adds the rows that follow.
    pub fn append(&mut self, next: ShardRows) {
        self.sample_ids.extend(next.sample_ids);
        self.labels.extend(next.labels);
        self.embeddings.extend(next.embeddings);
        self.quarantine.extend(next.quarantine);
        self.contents.extend(next.contents);
    }
}

/// A row that could not be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantined {
    /// Its place in the split's source order.
    pub row: usize,
    /// Its key in the source.
    pub sample_id: String,
    /// Its label.
    pub label: i64,
    /// `read` or `decode`.
    pub stage: &'static str,
    /// What went wrong, in words.
    pub error: String,
    /// SHA-256 of the encoded image; none where it could not be read.
    pub sha256: Option<String>,
}

/// What a row was made from, as a line: its id, its label, and the SHA-256 of what was encoded or
/// imported.
pub fn content_line(sample_id: &str, label: i64, sha256: Option<&str>) -> String {
    format!("{} {label} {}", Value::from(sample_id), sha256.unwrap_or("unread"))
}

/// What a shard's kept columns hold, as a line; nothing where none is kept. Of all of its rows,
/// quarantined ones included.
pub fn kept_line(kept: Option<&RecordBatch>) -> Result<Option<String>> {
    let Some(kept) = kept else { return Ok(None) };
    let mut writer = StreamWriter::try_new(Vec::new(), &kept.schema())?;
    writer.write(kept)?;
    Ok(Some(format!("kept {}", hash_bytes(&writer.into_inner()?))))
}

/// The shards of a source, as they lie.
pub(super) struct ShardFiles<'a> {
    /// The directory of the artefact.
    pub dir: PathBuf,
    /// Name of the source in the run.
    pub source: &'a str,
    /// What its shards are.
    pub plan: &'a SourcePlan,
}

/// The two files of a shard, written and not yet in their place.
pub(super) struct StagedShard {
    quarantine: PathBuf,
    quarantined: Option<Staged>,
    embeddings: Staged,
}

impl StagedShard {
    /// Puts a shard in its place, unless it is there, and says whether it did: first what was
    /// quarantined, then the embeddings, whose presence says it is done.
    pub fn put(self) -> Result<bool> {
        match self.quarantined {
            Some(staged) => staged.put()?,
            // of an earlier try, whose images can be read now
            None if storage::is_file(&self.quarantine) => storage::remove_file(&self.quarantine)
                .with_context(|| format!("cannot remove {}", self.quarantine.display()))?,
            None => {}
        }
        self.embeddings.put_first()
    }
}

impl ShardFiles<'_> {
    /// Whether a shard is there.
    pub fn has(&self, shard: &Shard) -> bool {
        storage::is_file(&self.path(EMBEDDINGS, shard))
    }

    /// The file of a shard in one of the two directories.
    pub fn path(&self, table: &str, shard: &Shard) -> PathBuf {
        self.dir.join(shard_file(table, shard.split, shard.number))
    }

    /// Writes the two files of a shard, not yet in their place.
    pub fn stage(&self, shard: &Shard, mut rows: ShardRows) -> Result<StagedShard> {
        let quarantine = self.path(QUARANTINE, shard);
        let quarantined = match rows.quarantine.is_empty() {
            true => None,
            false => {
                let batch = self.quarantine_rows(shard.split, &rows.quarantine)?;
                Some(file::stage(&quarantine, contract::quarantine(), &batch, &vec![])?)
            }
        };
        let mut footer = self.footer();
        footer.push((CONTENTS.into(), hash_lines(rows.contents.iter().cloned())));
        let kept = rows.kept.take();
        let rows = with_kept(&self.rows_of(shard.split, rows)?, kept)?;
        let embeddings = file::stage(&self.path(EMBEDDINGS, shard), contract::embeddings(), &rows, &footer)?;
        Ok(StagedShard { quarantine, quarantined, embeddings })
    }

    /// Takes a shard away, so that it is made again.
    pub fn remove(&self, shard: &Shard) -> Result<()> {
        let path = self.path(EMBEDDINGS, shard);
        storage::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// When a shard was made, or found to be what the source has; none where it is not there.
    pub fn made(&self, shard: &Shard) -> Option<SystemTime> {
        storage::metadata(&self.path(EMBEDDINGS, shard)).ok()?.modified()
    }

    /// Whether a shard that is there, made at a time and with or without a quarantine, was made from
    /// other images than the source has now.
    pub fn is_changed(&self, source: &Source, shard: &Shard, made: SystemTime, has_quarantine: bool) -> Result<bool> {
        Ok((has_quarantine && self.is_repaired(source, shard)?) || self.is_outdated(source, shard, made)?)
    }

    /// Whether an image of a shard's quarantine can be read and is another one now.
    fn is_repaired(&self, source: &Source, shard: &Shard) -> Result<bool> {
        let quarantined = self.quarantine_of(shard)?;
        let is_in_order = quarantined.is_sorted_by(|a, b| a.row < b.row);
        ensure!(
            is_in_order && quarantined.iter().all(|q| shard.rows.contains(&q.row)),
            "{} is damaged: remove it",
            self.path(QUARANTINE, shard).display()
        );
        for near in quarantined.chunk_by(|a, b| b.row - a.row <= NEAR) {
            let first = near[0].row;
            let was: HashMap<usize, &Option<String>> = near.iter().map(|q| (q.row, &q.sha256)).collect();
            for (row, record) in (first..).zip(source.read(shard.split, first..near[near.len() - 1].row + 1)?) {
                let (was, image) = (was.get(&row), record?.image);
                if let (Some(was), Ok(image)) = (was, image)
                    && was.as_deref() != Some(&hash_bytes(&image))
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether a shard has files that are newer than it, and other rows than these have. Where they
    /// are the same, its time becomes theirs, so that they are read once. Where one cannot be read
    /// now that could be then, it stays.
    fn is_outdated(&self, source: &Source, shard: &Shard, made: SystemTime) -> Result<bool> {
        let Some(modified) = source.modified(shard.split, shard.rows.clone()) else { return Ok(false) };
        let now = SystemTime::now();
        if modified <= made {
            return Ok(false);
        }
        let unread = self.quarantine_of(shard)?.into_iter().filter(|q| q.sha256.is_none());
        let unread: HashSet<usize> = unread.map(|q| q.row).collect();
        let (mut lines, mut is_read) = (Vec::with_capacity(shard.rows.len()), true);
        for (row, record) in shard.rows.clone().zip(source.read(shard.split, shard.rows.clone())?) {
            let record = record?;
            let sha256 = record.image.ok().map(|image| hash_bytes(&image));
            is_read &= sha256.is_some() || unread.contains(&row);
            lines.push(content_line(&record.sample_id, record.label, sha256.as_deref()));
        }
        lines.extend(kept_line(source.kept(shard.split, shard.rows.clone())?.as_ref())?);
        let path = self.path(EMBEDDINGS, shard);
        if file::footer_value(&file::builder(&path)?, CONTENTS) != Some(hash_lines(lines)) {
            return Ok(is_read);
        }
        // a time that cannot be set costs another look
        storage::set_modified(&path, now).ok();
        Ok(false)
    }

    fn quarantine_rows(&self, split: &str, quarantined: &[Quarantined]) -> Result<RecordBatch> {
        let text = |f: fn(&Quarantined) -> &str| Arc::new(StringArray::from_iter_values(quarantined.iter().map(f)));
        let hashes = quarantined.iter().map(|q| q.sha256.as_deref());
        let n = quarantined.len();
        file::rows(
            contract::quarantine(),
            0,
            vec![
                Arc::new(StringArray::from(vec![self.source; n])),
                text(|q| &q.sample_id),
                Arc::new(Int64Array::from_iter_values(quarantined.iter().map(|q| q.label))),
                Arc::new(StringArray::from(vec![split; n])),
                Arc::new(Int64Array::from_iter_values(quarantined.iter().map(|q| q.row as i64))),
                text(|q| q.stage),
                text(|q| &q.error),
                Arc::new(StringArray::from_iter(hashes)),
            ],
        )
    }

    /// What was quarantined of a shard.
    pub fn quarantine_of(&self, shard: &Shard) -> Result<Vec<Quarantined>> {
        let path = self.path(QUARANTINE, shard);
        if !storage::is_file(&path) {
            return Ok(Vec::new());
        }
        let rows = file::read(&path, contract::quarantine(), 0)?;
        let (labels, places) = (file::int64s(&rows, "label"), file::int64s(&rows, "row"));
        let hashes = rows["sha256"].as_string::<i32>();
        let texts = file::text(&rows, "sample_id").zip(file::text(&rows, "stage")).zip(file::text(&rows, "error"));
        let of_row = |(i, ((sample_id, stage), error)): (usize, ((&str, &str), &str))| Quarantined {
            row: places[i] as usize,
            sample_id: sample_id.to_owned(),
            label: labels[i],
            stage: if stage == "read" { "read" } else { "decode" },
            error: error.to_owned(),
            sha256: hashes.is_valid(i).then(|| hashes.value(i).to_owned()),
        };
        Ok(texts.enumerate().map(of_row).collect())
    }

    fn rows_of(&self, split: &str, rows: ShardRows) -> Result<RecordBatch> {
        let (dim, n) = (self.plan.dim, rows.labels.len());
        let norms: Float32Array =
            rows.embeddings.chunks(dim).map(|x| Some(x.iter().map(|v| v * v).sum::<f32>().sqrt())).collect();
        let names = rows.labels.iter().map(|&label| self.plan.class_name(label));
        file::rows(
            contract::embeddings(),
            dim,
            vec![
                Arc::new(StringArray::from(vec![self.source; n])),
                Arc::new(StringArray::from_iter_values(&rows.sample_ids)),
                Arc::new(Int64Array::from_iter_values(rows.labels.iter().copied())),
                Arc::new(StringArray::from_iter_values(names)),
                Arc::new(StringArray::from(vec![split; n])),
                file::vectors(rows.embeddings, dim),
                Arc::new(norms),
            ],
        )
    }

    /// What the footer of every shard says.
    pub fn footer(&self) -> file::Footer {
        let p = self.plan;
        let mut pairs: file::Footer = vec![
            ("cgil.compute_dtype".into(), p.compute_dtype.clone()),
            ("cgil.source".into(), p.source.fingerprint.clone()),
        ];
        if let Some(model) = &p.model {
            pairs.push(("cgil.model".into(), model.name.clone()));
            pairs.push(("cgil.model_sha256".into(), model.sha256.clone()));
        }
        if let Some(preprocessing) = &p.preprocessing {
            pairs.push(("cgil.preprocessing".into(), preprocessing.clone()));
        }
        // a ClassLabel's value is an index into its names
        if p.classes.iter().enumerate().all(|(i, class)| class.label == i as i64) {
            let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
            let names: Vec<&str> = p.classes.iter().map(|c| c.name.as_str()).collect();
            let mut features = json!({
                "source": value("string"),
                "sample_id": value("string"),
                "label": {"names": names, "_type": "ClassLabel"},
                "class_name": value("string"),
                "split": value("string"),
                "embedding": {"feature": value("float32"), "length": p.dim, "_type": "Sequence"},
                "norm": value("float32"),
            });
            p.kept.iter().for_each(|column| features[&column.name] = value(&column.dtype.to_string()));
            let features = json!({"info": {"features": features}});
            pairs.push((file::HUGGING_FACE_KEY.into(), features.to_string()));
        }
        pairs
    }
}

/// The table's own columns, and those that are kept.
fn with_kept(rows: &RecordBatch, kept: Option<RecordBatch>) -> Result<RecordBatch> {
    let Some(kept) = kept else { return Ok(rows.clone()) };
    let fields = rows.schema().fields().iter().chain(kept.schema().fields()).cloned().collect::<Vec<_>>();
    let columns = rows.columns().iter().chain(kept.columns()).cloned().collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).context("kept columns")
}

/// A shard's file in the artefact's directory.
pub(super) fn shard_file(table: &str, split: &str, number: usize) -> String {
    format!("{table}/{split}/part-{number:05}.parquet")
}

/// The files of the shards that lie in one of the two directories, and when they were made, or found
/// to be what the source has.
pub(super) fn on_disk(dir: &Path, table: &str) -> BTreeMap<PathBuf, SystemTime> {
    let of_split = |split: &str| {
        let dir = dir.join(table).join(split);
        let is_shown = |(name, _): &(String, SystemTime)| !name.starts_with('.');
        storage::times(&dir).into_iter().filter(is_shown).map(move |(name, made)| (dir.join(name), made))
    };
    SPLITS.into_iter().flat_map(of_split).collect()
}
