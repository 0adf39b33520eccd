//! What the shards of a source are to be.

use std::{collections::BTreeMap, ops::Range, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    artefact::{self, Plan},
    clip::ModelId,
    rows::SPLITS,
    source::{KeptColumn, SourceId},
    storage,
    task::Class,
};

/// File that says what the shards are to be.
pub(super) const PLAN: &str = "plan.json";

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
    /// The source's own columns that the table has beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptColumn>,
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

impl SourcePlan {
    /// The plan of the artefact in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(PLAN);
        let text = storage::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let plan: Result<SourcePlan> =
            serde_json::from_str::<SourcePlan>(&text).map_err(Into::into).and_then(SourcePlan::checked);
        plan.with_context(|| {
            format!("{} is damaged: remove {} and make the embeddings again", path.display(), dir.display())
        })
    }

    /// The plan, unless a value of it makes no sense. What is not so is not read again.
    pub fn checked(self) -> Result<Self> {
        ensure!(self.dim > 0, "the embeddings have no values");
        ensure!(self.dim <= MOST_VALUES, "the embeddings have {} values, more than {MOST_VALUES}", self.dim);
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

    /// Every shard.
    pub(super) fn shards(&self) -> Vec<Shard> {
        let (size, rows) = (self.shard_rows, &self.rows);
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

    /// The artefact of these rows, the hash of whose contents is `contents`.
    pub(super) fn artefact(&self, contents: &str) -> Plan {
        let model = self.model.as_ref().map(|id| json!({"sha256": id.sha256, "config": id.config}));
        let mut options = json!({
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
        if !self.kept.is_empty() {
            options["kept"] = json!(self.kept);
        }
        Plan { device: self.device.clone(), ..Plan::new(&artefact::SOURCE, options) }
    }

    /// What the dataset calls the class of a label; nothing where it has none.
    pub(super) fn class_name(&self, label: i64) -> &str {
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
    pub(super) fn difference(&self, other: &SourcePlan) -> Option<String> {
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
        let columns = |p: &SourcePlan| match &p.kept[..] {
            [] => "none".to_owned(),
            kept => kept.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        let rows = || {
            let of = |plan: &SourcePlan, split: &str| plan.rows.get(split).copied().unwrap_or(0);
            let differs = |split: &&str| of(self, split) != of(other, split);
            let split = SPLITS.into_iter().find(differs)?;
            text(&format!("number of {split} rows"), &of(self, split).to_string(), &of(other, split).to_string())
        };
        if let Some(difference) = self.difference_of_classes(other).or_else(rows) {
            return Some(difference);
        }
        if self.source.fingerprint != other.source.fingerprint {
            return text("source", &source(self), &source(other));
        }
        text("preprocessing", &or_none(&self.preprocessing), &or_none(&other.preprocessing))
            .or_else(|| text("shard size", &self.shard_rows.to_string(), &other.shard_rows.to_string()))
            .or_else(|| text("kept columns", &columns(self), &columns(other)))
            .or_else(|| text("compute dtype", &self.compute_dtype, &other.compute_dtype))
            .or_else(|| text("class of device", &or_none(&self.device), &or_none(&other.device)))
            .or_else(|| text("values per embedding", &self.dim.to_string(), &other.dim.to_string()))
    }

    /// The first class that is another in the other plan, in words.
    fn difference_of_classes(&self, other: &SourcePlan) -> Option<String> {
        let shown = |class: Option<&Class>| class.map_or("none".into(), |c| format!("{} {:?}", c.label, c.name));
        let place =
            (0..self.classes.len().max(other.classes.len())).find(|&i| self.classes.get(i) != other.classes.get(i))?;
        let [was, is] = [self, other].map(|plan| shown(plan.classes.get(place)));
        Some(format!("class {} of the source was {was}, now it is {is}", place + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> SourcePlan {
        let model = ModelId { name: "clip".into(), sha256: "ab".into(), config: "cd".into(), path: "clip".into() };
        SourcePlan {
            source: SourceId { origin: "here".into(), fingerprint: "ef".into() },
            model: Some(model),
            preprocessing: Some("resize 224".into()),
            compute_dtype: "float32".into(),
            device: Some("cpu".into()),
            dim: 4,
            classes: vec![Class { label: 0, name: "cat".into() }],
            rows: [("train".to_owned(), 5)].into(),
            shard_rows: 2,
            kept: Vec::new(),
        }
    }

    #[test]
    fn sources_are_of_one_stream_only_if_one_encoder_made_both() {
        let model = |sha256: &str, config: &str| {
            Some(ModelId { name: "other".into(), sha256: sha256.into(), config: config.into(), path: "other".into() })
        };
        let difference = |other: SourcePlan| plan().difference_of_encoders(&other);
        assert_eq!(difference(plan()), None);
        let elsewhere = SourceId { origin: "there".into(), fingerprint: "gh".into() };
        assert_eq!(
            difference(SourcePlan { source: elsewhere, shard_rows: 9, model: model("ab", "cd"), ..plan() }),
            None
        );
        // what was imported does not say
        assert_eq!(difference(SourcePlan { model: None, preprocessing: None, ..plan() }), None);
        for (other, part) in [
            (SourcePlan { dim: 5, ..plan() }, "4 values, the other of 5"),
            (SourcePlan { model: model("ac", "cd"), ..plan() }, "the CLIP clip, the other by other"),
            (SourcePlan { model: model("ab", "ce"), ..plan() }, "the CLIP clip, the other by other"),
            (SourcePlan { preprocessing: Some("resize 256".into()), ..plan() }, "resize 224, of the other resize 256"),
        ] {
            let said = difference(other).unwrap();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn what_computed_the_embeddings_is_part_of_what_they_are() {
        let identity = |plan: SourcePlan| plan.artefact("contents").identity();
        assert_ne!(identity(plan()), identity(SourcePlan { device: Some("cuda".into()), ..plan() }));
        assert_ne!(identity(plan()), plan().artefact("other contents").identity());
    }

    #[test]
    fn the_last_shard_has_what_is_left() {
        let rows: Vec<Range<usize>> = plan().shards().into_iter().map(|shard| shard.rows).collect();
        assert_eq!(rows, [0..2, 2..4, 4..5]);
    }
}
