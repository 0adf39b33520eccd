//! The embeddings of a source: an artefact whose shards appear one by one, and which is complete
//! with the last.
//!
//! Shard k of a split holds the rows k·R to (k + 1)·R of the source's stable order, less those in
//! the quarantine shard k; so shards can be made in any order, by anyone, again, and come out the
//! same. `plan.json` says what the shards are to be, before the first; `manifest.json` seals the
//! artefact when all are there: its identity knows the rows, quarantined ones included, and what
//! was in them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, AsArray, Float32Array, Int64Array, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error,
    artefact::{self, FileSum, Input, MANIFEST, Manifest, Plan},
    atomic::{self, Lock},
    clip::ModelId,
    hash::{hash_bytes, hash_lines},
    rows::{Rows, SPLITS, Split, Test},
    run::Run,
    source::{Source, SourceId},
    table::{contract, file},
    task::Class,
};

/// Name of the first source of a run.
pub const FIRST_SOURCE: &str = "base";

/// File that says what the shards are to be.
const PLAN: &str = "plan.json";

/// Footer key of the hash of what a shard's rows were made from.
const CONTENTS: &str = "cgil.contents";

/// Directories of the shards in the artefact's.
const EMBEDDINGS: &str = "embeddings";
const QUARANTINE: &str = "quarantine";

/// Most values of an embedding: 4 MB.
const MOST_VALUES: usize = 1 << 20;

/// Most rows of a source, and most shards.
const MOST_ROWS: usize = 1 << 40;
const MOST_SHARDS: usize = 1 << 22;

/// What the shards of a source are to be: written before the first, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePlan {
    /// Where the images, or the imported embeddings, came from.
    pub source: SourceId,
    /// The image encoder; none where the embeddings were imported.
    pub model: Option<ModelId>,
    /// What was done to an image before it was encoded; none where imported.
    pub preprocessing: Option<String>,
    /// Number type in which the embeddings were computed.
    pub compute_dtype: String,
    /// Class of the device that computed them; none where imported.
    pub device: Option<String>,
    /// Values per embedding, D.
    pub dim: usize,
    /// The classes in the dataset's order, by ascending label.
    pub classes: Vec<Class>,
    /// Rows of each split, quarantined ones included.
    pub rows: BTreeMap<String, usize>,
    /// Source rows per shard, R.
    pub shard_rows: usize,
}

/// A shard of a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Name of the split, one of [`SPLITS`].
    pub split: &'static str,
    /// Number of the shard in the split, from 0.
    pub number: usize,
    /// Its rows of the source.
    pub rows: Range<usize>,
}

/// The rows of one shard, being collected.
#[derive(Default)]
pub struct ShardRows {
    /// Keys of the rows in the source.
    pub sample_ids: Vec<String>,
    /// Their labels.
    pub labels: Vec<i64>,
    /// Embeddings (rows, D), flat.
    pub embeddings: Vec<f32>,
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

/// What is known of a shard that is complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardFacts {
    split: String,
    number: usize,
    /// Rows of each label.
    labels: BTreeMap<i64, usize>,
    quarantined: usize,
}

/// What a row was made from, as a line: its id, its label, and the SHA-256 of what was encoded or
/// imported.
pub fn content_line(sample_id: &str, label: i64, sha256: Option<&str>) -> String {
    format!("{} {label} {}", Value::from(sample_id), sha256.unwrap_or("unread"))
}

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

/// The embeddings of a source of a run.
#[derive(Debug)]
pub struct Embeddings {
    run: Run,
    /// Name of the source in the run.
    pub name: String,
    /// What its shards are.
    pub plan: SourcePlan,
    /// The sealed artefact; none while shards are missing.
    sealed: Option<Sealed>,
    /// Held while shards are written.
    _lock: Option<Lock>,
}

#[derive(Debug)]
struct Sealed {
    manifest: Manifest,
    shards: Vec<ShardFacts>,
}

impl Embeddings {
    /// Starts or goes on with the embeddings of the source `name`. Refuses to mix: a plan that is
    /// there has to say the same, else it is an [`Error::OtherEmbeddings`].
    pub fn create(run: &Run, name: &str, plan: SourcePlan) -> Result<Self> {
        if artefact::slug(name) != name {
            bail!("{name:?} cannot name a source: use small letters, digits, dots and dashes, 48 at most");
        }
        let dir = dir(run, name);
        let lock = run.lock(&dir)?;
        if dir.join(PLAN).exists() {
            let before = Self::read_plan(&dir)?;
            if let Some(difference) = before.difference(&plan) {
                return Err(Error::OtherEmbeddings { run: run.dir().to_owned(), dir, difference }.into());
            }
        } else if let Some(shard) = shards_on_disk(&dir).first() {
            bail!("{} has lost its {PLAN}, so nobody knows what it holds: remove {}", shard.display(), dir.display());
        }
        if !dir.join(PLAN).exists() {
            atomic::write_json(&dir.join(PLAN), &plan)?;
        }
        Ok(Embeddings { _lock: Some(lock), ..Self::open(run, name)? })
    }

    /// The embeddings of the source `name`, complete or not; where there are none, an
    /// [`Error::NoEmbeddings`].
    pub fn open(run: &Run, name: &str) -> Result<Self> {
        let dir = dir(run, name);
        if !dir.join(PLAN).exists() {
            return Err(Error::NoEmbeddings { run: run.dir().to_owned() }.into());
        }
        let plan = Self::read_plan(&dir)?;
        let sealed = Manifest::find(&dir, &artefact::SOURCE)?;
        let sealed = sealed.map(|manifest| Sealed::new(&dir, &plan, manifest)).transpose()?;
        Ok(Embeddings { run: run.clone(), name: name.to_owned(), plan, sealed, _lock: None })
    }

    /// The embeddings of the source `name`, all of whose shards have been made, else an
    /// [`Error::IncompleteEmbeddings`].
    pub fn open_complete(run: &Run, name: &str) -> Result<Self> {
        let embeddings = Self::open(run, name)?;
        if embeddings.sealed.is_none() {
            let (missing, shards) = (embeddings.missing().len(), embeddings.shards().len());
            return Err(Error::IncompleteEmbeddings { dir: embeddings.dir(), missing, shards }.into());
        }
        Ok(embeddings)
    }

    fn read_plan(dir: &Path) -> Result<SourcePlan> {
        let path = dir.join(PLAN);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let plan: Result<SourcePlan> =
            serde_json::from_str::<SourcePlan>(&text).map_err(Into::into).and_then(SourcePlan::checked);
        plan.with_context(|| {
            format!("{} is damaged: remove {} and make the embeddings again", path.display(), dir.display())
        })
    }

    /// The directory of the artefact.
    pub fn dir(&self) -> PathBuf {
        dir(&self.run, &self.name)
    }

    /// The artefact as the input of another.
    pub fn input(&self) -> Result<Input> {
        Ok(self.run.input(&self.dir(), &self.sealed()?.manifest))
    }

    fn sealed(&self) -> Result<&Sealed> {
        self.sealed.as_ref().with_context(|| format!("the embeddings in {} are not complete", self.dir().display()))
    }

    /// Whether all shards have been made.
    pub fn is_complete(&self) -> bool {
        self.sealed.is_some()
    }

    /// Every shard.
    pub fn shards(&self) -> Vec<Shard> {
        let (size, rows) = (self.plan.shard_rows, &self.plan.rows);
        let of_split = |split: &'static str| {
            let total = rows.get(split).copied().unwrap_or(0);
            (0..total.div_ceil(size)).map(move |number| Shard {
                split,
                number,
                rows: number * size..((number + 1) * size).min(total),
            })
        };
        SPLITS.into_iter().flat_map(of_split).collect()
    }

    /// The shards that are not there.
    pub fn missing(&self) -> Vec<Shard> {
        self.shards().into_iter().filter(|shard| !self.path(EMBEDDINGS, shard).exists()).collect()
    }

    fn path(&self, table: &str, shard: &Shard) -> PathBuf {
        self.dir().join(shard_file(table, shard.split, shard.number))
    }

    /// Writes a shard: first what was quarantined, then the embeddings, whose presence says it is
    /// done.
    pub fn write_shard(&mut self, shard: &Shard, rows: ShardRows) -> Result<()> {
        self.unseal()?;
        let quarantine = self.path(QUARANTINE, shard);
        if !rows.quarantine.is_empty() {
            let batch = self.quarantine_rows(shard.split, &rows.quarantine)?;
            file::write(&quarantine, contract::quarantine(), &batch, &vec![])?;
        } else if quarantine.exists() {
            // of an earlier try, whose images can be read now
            fs::remove_file(&quarantine).with_context(|| format!("cannot remove {}", quarantine.display()))?;
        }
        let mut footer = self.footer();
        footer.push((CONTENTS.into(), hash_lines(rows.contents.iter().cloned())));
        file::write(&self.path(EMBEDDINGS, shard), contract::embeddings(), &self.rows_of(shard.split, rows)?, &footer)
    }

    /// Takes a shard away, so that it is made again.
    pub fn remove_shard(&mut self, shard: &Shard) -> Result<()> {
        self.unseal()?;
        let path = self.path(EMBEDDINGS, shard);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Takes away shards that were made from other images than the source has now, so that they are
    /// made again: those some of whose quarantined images can be read, or are others now, and those
    /// with files that are newer than the shard and not what they were.
    pub fn remove_changed(&mut self, source: &Source) -> Result<()> {
        for shard in self.shards() {
            let path = self.path(EMBEDDINGS, &shard);
            if path.exists() && (self.is_repaired(source, &shard)? || self.is_outdated(source, &shard, &path)?) {
                self.remove_shard(&shard)?;
            }
        }
        Ok(())
    }

    /// Whether an image of a shard's quarantine is another one now.
    fn is_repaired(&self, source: &Source, shard: &Shard) -> Result<bool> {
        for quarantined in self.quarantine_of(shard)? {
            let row = quarantined.row;
            ensure!(shard.rows.contains(&row), "{} is damaged: remove it", self.path(QUARANTINE, shard).display());
            if let Some(record) = source.read(shard.split, row..row + 1)?.next().transpose()? {
                let now = record.image.ok().map(|image| hash_bytes(&image));
                if now != quarantined.sha256 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether a shard has files that are newer than it, and other rows than these have.
    fn is_outdated(&self, source: &Source, shard: &Shard, path: &Path) -> Result<bool> {
        let made = fs::metadata(path).and_then(|file| file.modified());
        let made = made.with_context(|| format!("cannot read {}", path.display()))?;
        if source.modified(shard.split, shard.rows.clone()).is_none_or(|modified| modified <= made) {
            return Ok(false);
        }
        let mut lines = Vec::with_capacity(shard.rows.len());
        for record in source.read(shard.split, shard.rows.clone())? {
            let record = record?;
            let sha256 = record.image.ok().map(|image| hash_bytes(&image));
            lines.push(content_line(&record.sample_id, record.label, sha256.as_deref()));
        }
        Ok(file::footer_value(&file::builder(path)?, CONTENTS) != Some(hash_lines(lines)))
    }

    fn unseal(&mut self) -> Result<()> {
        if self.sealed.take().is_some() {
            let path = self.dir().join(MANIFEST);
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Seals the artefact, all of whose shards are there. Does nothing where it is sealed.
    pub fn seal(&mut self) -> Result<()> {
        if self.sealed.is_some() {
            return Ok(());
        }
        let (mut files, mut facts, mut contents) = (BTreeMap::new(), Vec::new(), Vec::new());
        for shard in self.shards() {
            let path = self.path(EMBEDDINGS, &shard);
            let builder = file::builder(&path)?;
            let hash = file::footer_value(&builder, CONTENTS)
                .with_context(|| format!("{} is damaged: its footer has no {CONTENTS}; remove it", path.display()))?;
            if self.footer().iter().any(|(key, value)| file::footer_value(&builder, key).as_ref() != Some(value)) {
                bail!(
                    "{} was made by another CLIP, or from another source, than {PLAN} says: remove it",
                    path.display()
                );
            }
            contents.push(format!("{} {} {hash}", shard.split, shard.number));
            let mut labels: BTreeMap<i64, usize> = BTreeMap::new();
            for batch in file::open(&path, contract::embeddings(), self.plan.dim, &["label"])? {
                let batch = batch.with_context(|| format!("{} is damaged; remove it", path.display()))?;
                file::int64s(&batch, "label").iter().for_each(|&label| *labels.entry(label).or_default() += 1);
            }
            let quarantined = self.quarantine_of(&shard)?;
            contents.extend(quarantined.iter().map(|q| format!("{} {} {}", q.row, q.stage, q.sample_id)));
            let (kept, lost) = (labels.values().sum::<usize>(), quarantined.len());
            if kept + lost != shard.rows.len() {
                bail!(
                    "{} has {kept} rows and {lost} in quarantine, of {} in the source: remove it, and make it again",
                    path.display(),
                    shard.rows.len()
                );
            }
            let split = shard.split.to_owned();
            facts.push(ShardFacts { split, number: shard.number, labels, quarantined: quarantined.len() });
            for (table, is_there) in [(EMBEDDINGS, true), (QUARANTINE, !quarantined.is_empty())] {
                if is_there {
                    let name = shard_file(table, shard.split, shard.number);
                    files.insert(name.clone(), FileSum::of(&self.dir().join(name))?);
                }
            }
        }
        let (plan, about) = (self.plan.artefact(&hash_lines(contents)), json!({"plan": self.plan, "shards": facts}));
        let mut manifest = plan.manifest(about);
        manifest.files = files;
        atomic::write_json(&self.dir().join(MANIFEST), &manifest)?;
        self.sealed = Some(Sealed::new(&self.dir(), &self.plan, manifest)?);
        Ok(())
    }

    fn quarantine_rows(&self, split: &str, quarantined: &[Quarantined]) -> Result<RecordBatch> {
        let text = |f: fn(&Quarantined) -> &str| Arc::new(StringArray::from_iter_values(quarantined.iter().map(f)));
        let hashes = quarantined.iter().map(|q| q.sha256.as_deref());
        let n = quarantined.len();
        file::rows(
            contract::quarantine(),
            0,
            vec![
                Arc::new(StringArray::from(vec![self.name.as_str(); n])),
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
        if !path.exists() {
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
                Arc::new(StringArray::from(vec![self.name.as_str(); n])),
                Arc::new(StringArray::from_iter_values(&rows.sample_ids)),
                Arc::new(Int64Array::from_iter_values(rows.labels.iter().copied())),
                Arc::new(StringArray::from_iter_values(names)),
                Arc::new(StringArray::from(vec![split; n])),
                file::vectors(rows.embeddings, dim),
                Arc::new(norms),
            ],
        )
    }

    fn footer(&self) -> file::Footer {
        let p = &self.plan;
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
            let features = json!({"info": {"features": {
                "source": value("string"),
                "sample_id": value("string"),
                "label": {"names": names, "_type": "ClassLabel"},
                "class_name": value("string"),
                "split": value("string"),
                "embedding": {"feature": value("float32"), "length": p.dim, "_type": "Sequence"},
                "norm": value("float32"),
            }}});
            pairs.push((file::HUGGING_FACE_KEY.into(), features.to_string()));
        }
        pairs
    }

    /// How many rows of a split a class has, without those in the quarantine.
    pub fn count<S: Split>(&self, label: i64) -> Result<usize> {
        let shards = self.sealed()?.shards.iter().filter(|shard| shard.split == S::NAME);
        Ok(shards.filter_map(|shard| shard.labels.get(&label)).sum())
    }

    /// How many rows were quarantined.
    pub fn quarantined(&self) -> Result<usize> {
        Ok(self.sealed()?.shards.iter().map(|shard| shard.quarantined).sum())
    }

    /// What was quarantined of a class's rows of a split.
    pub fn quarantined_of<S: Split>(&self, label: i64) -> Result<Vec<Quarantined>> {
        let mut found = Vec::new();
        for shard in self.shards().iter().filter(|shard| shard.split == S::NAME) {
            found.extend(self.quarantine_of(shard)?.into_iter().filter(|q| q.label == label));
        }
        Ok(found)
    }

    /// The test rows of some classes, in the source's order.
    pub fn test_rows(&self, labels: &BTreeSet<i64>) -> Result<LabelledRows<Test>> {
        let (mut sample_ids, mut all_labels, mut values) = (Vec::new(), Vec::new(), Vec::new());
        self.scan(Test::NAME, labels, &["sample_id", "label", "embedding"], |batch| {
            sample_ids.extend(file::text(batch, "sample_id").map(str::to_owned));
            all_labels.extend_from_slice(file::int64s(batch, "label"));
            values.extend_from_slice(file::floats(batch, "embedding"));
        })?;
        Ok(LabelledRows { sample_ids, labels: all_labels, rows: Rows::new(self.plan.dim, values) })
    }

    /// The rows of each of some classes in a split, each in the source's order.
    pub fn class_rows<S: Split>(&self, labels: &[i64]) -> Result<Vec<Rows<S>>> {
        let dim = self.plan.dim;
        let place: HashMap<i64, usize> = labels.iter().copied().zip(0..).collect();
        let room = |&label: &i64| Ok(Vec::with_capacity(self.count::<S>(label)? * dim));
        let mut values: Vec<Vec<f32>> = labels.iter().map(room).collect::<Result<_>>()?;
        self.scan(S::NAME, &labels.iter().copied().collect(), &["label", "embedding"], |batch| {
            let embeddings = file::floats(batch, "embedding").chunks_exact(dim);
            for (label, embedding) in file::int64s(batch, "label").iter().zip(embeddings) {
                // a shard that holds another label than it did is found out by its number of rows
                if let Some(&place) = place.get(label) {
                    values[place].extend_from_slice(embedding);
                }
            }
        })?;
        Ok(values.into_iter().map(|values| Rows::new(dim, values)).collect())
    }

    /// Calls `each` with the rows of some classes in a split, some at a time, in the source's
    /// order. Opens only shards that have some, and of these reads only the pages that do.
    fn scan(
        &self,
        split: &str,
        labels: &BTreeSet<i64>,
        columns: &[&str],
        mut each: impl FnMut(&RecordBatch),
    ) -> Result<()> {
        let (sealed, dim, table) = (self.sealed()?, self.plan.dim, contract::embeddings());
        for shard in sealed.shards.iter().filter(|shard| shard.split == split) {
            let wanted: usize = labels.iter().filter_map(|label| shard.labels.get(label)).sum();
            if wanted == 0 {
                continue;
            }
            let name = shard_file(EMBEDDINGS, split, shard.number);
            let path = self.dir().join(&name);
            if !path.exists() {
                bail!(
                    "{} is not there any more, and rows of it are needed: run the command that made it again",
                    path.display()
                );
            }
            self.check_shard(&sealed.manifest, &name)?;
            let is_all = wanted == shard.labels.values().sum::<usize>();
            let wanted_labels = labels.clone();
            let reader = match is_all {
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
                each(&batch);
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
    fn check_shard(&self, manifest: &Manifest, name: &str) -> Result<()> {
        static CHECKED: Mutex<BTreeMap<PathBuf, (FileSum, SystemTime)>> = Mutex::new(BTreeMap::new());
        let path = self.dir().join(name);
        let sum = manifest.files.get(name).with_context(|| format!("{MANIFEST} knows no {}", path.display()))?;
        let modified = fs::metadata(&path).and_then(|file| file.modified());
        let now = (sum.clone(), modified.with_context(|| format!("cannot read {}", path.display()))?);
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

impl Sealed {
    /// Of a manifest, unless that is of other embeddings than the plan.
    fn new(dir: &Path, plan: &SourcePlan, manifest: Manifest) -> Result<Self> {
        let contents = manifest.options["contents"].as_str().unwrap_or_default();
        ensure!(
            plan.artefact(contents).identity() == manifest.identity && manifest.about["plan"] == json!(plan),
            "{} is damaged: it says other things than {MANIFEST} beside it; remove {} and make the embeddings again",
            dir.join(PLAN).display(),
            dir.display()
        );
        let shards = Vec::<ShardFacts>::deserialize(&manifest.about["shards"]);
        let what = |e: serde_json::Error| format!("shards of its {MANIFEST}: {e}");
        let shards = shards.map_err(|e| artefact::Error::Damaged { dir: dir.to_owned(), what: what(e) })?;
        Ok(Sealed { manifest, shards })
    }
}

impl SourcePlan {
    /// The plan, unless a value of it makes no sense.
    fn checked(self) -> Result<Self> {
        ensure!((1..=MOST_VALUES).contains(&self.dim), "dim is {}, not 1 to {MOST_VALUES}", self.dim);
        ensure!(self.shard_rows > 0, "shard_rows is 0");
        let shards = self.rows.values().map(|rows| rows.div_ceil(self.shard_rows)).fold(0, usize::saturating_add);
        let rows = self.rows.values().copied().fold(0, usize::saturating_add);
        ensure!(rows <= MOST_ROWS && shards <= MOST_SHARDS, "{rows} rows in {shards} shards are too many");
        ensure!(
            self.classes.is_sorted_by(|a, b| a.label < b.label),
            "the classes are not in the order of their labels"
        );
        if let Some(split) = self.rows.keys().find(|split| !SPLITS.contains(&split.as_str())) {
            bail!("there is no split {split:?}");
        }
        Ok(self)
    }

    /// The artefact of these rows, the hash of whose contents is `contents`.
    fn artefact(&self, contents: &str) -> Plan {
        let model = self.model.as_ref().map(|id| json!({"sha256": id.sha256, "config": id.config}));
        let options = json!({
            "fingerprint": self.source.fingerprint,
            "model": model,
            "preprocessing": self.preprocessing,
            "compute_dtype": self.compute_dtype,
            "dim": self.dim,
            "classes": self.classes,
            "rows": self.rows,
            "shard_rows": self.shard_rows,
            "contents": contents,
        });
        Plan { device: self.device.clone(), ..Plan::new(&artefact::SOURCE, options) }
    }

    /// What the dataset calls the class of a label; nothing where it has none.
    fn class_name(&self, label: i64) -> &str {
        self.classes.binary_search_by_key(&label, |c| c.label).map_or("", |i| &self.classes[i].name)
    }

    /// What makes embeddings of the other plan no neighbours of these, in words: another CLIP, or
    /// another way to use it.
    pub fn difference_of_encoders(&self, other: &SourcePlan) -> Option<String> {
        if self.dim != other.dim {
            return Some(format!("one has embeddings of {} values, the other of {}", self.dim, other.dim));
        }
        // what was imported does not say by which CLIP it was made
        let models = self.model.as_ref().zip(other.model.as_ref());
        if let Some((own, others)) = models.filter(|(a, b)| (&a.sha256, &a.config) != (&b.sha256, &b.config)) {
            return Some(format!("one was made by the CLIP {}, the other by {}", own.name, others.name));
        }
        let preprocessing = self.preprocessing.as_ref().zip(other.preprocessing.as_ref());
        preprocessing.filter(|(a, b)| a != b).map(|(a, b)| format!("the preprocessing of one is {a}, of the other {b}"))
    }

    /// The first thing that makes the other embeddings not these, in words. Paths do not count.
    fn difference(&self, other: &SourcePlan) -> Option<String> {
        let text =
            |what: &str, was: &str, is: &str| (was != is).then(|| format!("the {what} was {was}, now it is {is}"));
        let model = |p: &SourcePlan| match &p.model {
            Some(id) => format!("{} (sha256 {:.12}…)", id.name, id.sha256),
            None => "imported".into(),
        };
        let source = |p: &SourcePlan| format!("{} (fingerprint {:.12}…)", p.source.origin, p.source.fingerprint);
        let sha = |p: &SourcePlan| p.model.as_ref().map(|id| id.sha256.clone());
        let or_none = |value: &Option<String>| value.clone().unwrap_or("none".into());
        if sha(self) != sha(other) {
            return text("model", &model(self), &model(other));
        }
        let config = |p: &SourcePlan| p.model.as_ref().map_or(String::new(), |id| format!("{:.12}…", id.config));
        if config(self) != config(other) {
            return text("model's config.json (by its hash)", &config(self), &config(other));
        }
        if self.source.fingerprint != other.source.fingerprint {
            return text("source", &source(self), &source(other));
        }
        text("preprocessing", &or_none(&self.preprocessing), &or_none(&other.preprocessing))
            .or_else(|| text("shard size", &self.shard_rows.to_string(), &other.shard_rows.to_string()))
            .or_else(|| text("compute dtype", &self.compute_dtype, &other.compute_dtype))
            .or_else(|| text("class of device", &or_none(&self.device), &or_none(&other.device)))
            .or_else(|| text("values per embedding", &self.dim.to_string(), &other.dim.to_string()))
            .or_else(|| text("rows", &format!("{:?}", self.rows), &format!("{:?}", other.rows)))
            .or_else(|| (self.classes != other.classes).then(|| "the classes are others now".to_owned()))
    }
}

fn dir(run: &Run, name: &str) -> PathBuf {
    run.dir().join("sources").join(name)
}

/// A shard's file in the artefact's directory.
fn shard_file(table: &str, split: &str, number: usize) -> String {
    format!("{table}/{split}/part-{number:05}.parquet")
}

/// The shards that lie in the artefact's directory.
fn shards_on_disk(dir: &Path) -> Vec<PathBuf> {
    let of_split = |split: &str| {
        let dir = dir.join(EMBEDDINGS).join(split);
        crate::run::names(&dir).into_iter().map(move |name| dir.join(name))
    };
    SPLITS.into_iter().flat_map(of_split).collect()
}
