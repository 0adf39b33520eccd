//! The seal of a source: what is known of its shards once all are there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    counts::LabelCounts,
    plan::{PLAN, Shard, SourcePlan},
    shards::{CONTENTS, EMBEDDINGS, QUARANTINE, ShardFiles, shard_file},
};
use crate::{
    artefact::{self, FileSum, MANIFEST, Manifest},
    atomic,
    hash::hash_lines,
    rows::Split,
    run::SOURCES,
    table::{contract, file},
};

/// A sealed source.
#[derive(Debug)]
pub(super) struct Sealed {
    /// The manifest of the artefact.
    pub manifest: Manifest,
    /// Every shard.
    pub shards: Vec<ShardFacts>,
    /// Rows of each label in a split, those of all shards.
    counts: BTreeMap<String, HashMap<i64, usize>>,
}

/// What is known of a shard that is complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShardFacts {
    /// Name of the split.
    pub split: String,
    /// Number of the shard in the split.
    pub number: usize,
    /// Rows of each label.
    pub labels: LabelCounts,
    /// Rows in quarantine.
    pub quarantined: usize,
}

impl ShardFacts {
    /// Rows of the source; none where they are too many to be true.
    fn rows(&self) -> Option<usize> {
        self.labels.total()?.checked_add(self.quarantined)
    }
}

impl Sealed {
    /// Seals an artefact, all of whose shards are there.
    pub fn make(of: &ShardFiles) -> Result<Self> {
        let (mut files, mut facts, mut contents) = (BTreeMap::new(), Vec::new(), Vec::new());
        for shard in of.plan.shards() {
            let path = of.path(EMBEDDINGS, &shard);
            let builder = file::builder(&path)?;
            let hash = file::footer_value(&builder, CONTENTS)
                .with_context(|| format!("{} is damaged: its footer has no {CONTENTS}; remove it", path.display()))?;
            if of.footer().iter().any(|(key, value)| file::footer_value(&builder, key).as_ref() != Some(value)) {
                bail!(
                    "{} was made by another CLIP, or from another source, than {PLAN} says: remove it",
                    path.display()
                );
            }
            contents.push(format!("{} {} {hash}", shard.split, shard.number));
            let mut labels: BTreeMap<i64, usize> = BTreeMap::new();
            for batch in file::open(&path, contract::embeddings(), of.plan.dim, &["label"])? {
                let batch = batch.with_context(|| format!("{} is damaged; remove it", path.display()))?;
                file::int64s(&batch, "label").iter().for_each(|&label| *labels.entry(label).or_default() += 1);
            }
            let quarantined = of.quarantine_of(&shard)?;
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
            let labels = LabelCounts::new(&labels);
            facts.push(ShardFacts { split, number: shard.number, labels, quarantined: quarantined.len() });
            for (table, is_there) in [(EMBEDDINGS, true), (QUARANTINE, !quarantined.is_empty())] {
                if is_there {
                    let name = shard_file(table, shard.split, shard.number);
                    files.insert(name.clone(), FileSum::of(&of.dir.join(name))?);
                }
            }
        }
        let (plan, about) = (of.plan.artefact(&hash_lines(contents)), json!({"plan": of.plan, "shards": facts}));
        let mut manifest = plan.manifest(format!("{SOURCES}/{}", of.source), about);
        manifest.files = files;
        atomic::write_json(&of.dir.join(MANIFEST), &manifest)?;
        Sealed::new(&of.dir, of.plan, manifest)
    }

    /// Of a manifest, unless that is of other embeddings than the plan.
    pub fn new(dir: &Path, plan: &SourcePlan, manifest: Manifest) -> Result<Self> {
        let contents = manifest.options["contents"].as_str().unwrap_or_default();
        ensure!(
            plan.artefact(contents).identity() == manifest.identity && manifest.about["plan"] == json!(plan),
            "{} is damaged: it says other things than {MANIFEST} beside it; remove {} and make the embeddings again",
            dir.join(PLAN).display(),
            dir.display()
        );
        let damaged = |what: String| artefact::Error::Damaged {
            dir: dir.to_owned(),
            what: format!("shards of its {MANIFEST}: {what}"),
        };
        let shards = Vec::<ShardFacts>::deserialize(&manifest.about["shards"]).map_err(|e| damaged(e.to_string()))?;
        let planned = plan.shards();
        let is_planned = |(facts, shard): (&ShardFacts, &Shard)| {
            (facts.split.as_str(), facts.number, facts.rows()) == (shard.split, shard.number, Some(shard.rows.len()))
        };
        if shards.len() != planned.len() || !shards.iter().zip(&planned).all(is_planned) {
            return Err(damaged("they are not those of the plan".into()).into());
        }
        let mut counts: BTreeMap<String, HashMap<i64, usize>> = BTreeMap::new();
        for shard in &shards {
            let of_split = counts.entry(shard.split.clone()).or_default();
            shard.labels.iter().for_each(|(label, rows)| *of_split.entry(label).or_default() += rows);
        }
        Ok(Sealed { manifest, shards, counts })
    }

    /// How many rows of a split a class has, without those in the quarantine.
    pub fn count<S: Split>(&self, label: i64) -> usize {
        self.counts.get(S::NAME).and_then(|of_split| of_split.get(&label)).copied().unwrap_or(0)
    }

    /// How many rows of each label some shards of a split have, by their numbers.
    pub fn counts_in<S: Split>(&self, shards: &Range<usize>) -> HashMap<i64, usize> {
        let mut counts = HashMap::new();
        for shard in self.shards.iter().filter(|shard| shard.split == S::NAME && shards.contains(&shard.number)) {
            shard.labels.iter().for_each(|(label, rows)| *counts.entry(label).or_default() += rows);
        }
        counts
    }

    /// The shards of a split that have rows of some labels, by their numbers, cut into runs of at most
    /// so many of these rows, or of one shard.
    pub fn runs<S: Split>(&self, labels: &HashSet<i64>, most: usize) -> Vec<Range<usize>> {
        let (mut runs, mut held): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
        for shard in self.shards.iter().filter(|shard| shard.split == S::NAME) {
            let rows = shard.labels.iter().filter(|(label, _)| labels.contains(label)).map(|(_, rows)| rows).sum();
            match runs.last_mut() {
                _ if rows == 0 => {}
                Some(run) if held + rows <= most => (run.end, held) = (shard.number + 1, held + rows),
                _ => {
                    runs.push(shard.number..shard.number + 1);
                    held = rows;
                }
            }
        }
        runs
    }

    /// How often shards of a split are read where rows are asked for in `parts`, each of some labels, and
    /// how many shards those are.
    pub fn reads<S: Split>(&self, parts: &[Vec<i64>]) -> (usize, usize) {
        let in_part =
            |(part, labels): (usize, &Vec<i64>)| labels.iter().map(|&label| (label, part)).collect::<Vec<_>>();
        let part_of: HashMap<i64, usize> = parts.iter().enumerate().flat_map(in_part).collect();
        let (mut reads, mut shards) = (0, 0);
        for shard in self.shards.iter().filter(|shard| shard.split == S::NAME) {
            let parts: HashSet<usize> =
                shard.labels.iter().filter_map(|(label, _)| part_of.get(&label).copied()).collect();
            (reads, shards) = (reads + parts.len(), shards + usize::from(!parts.is_empty()));
        }
        (reads, shards)
    }

    /// How many rows were quarantined.
    pub fn quarantined(&self) -> usize {
        self.shards.iter().map(|shard| shard.quarantined).sum()
    }
}
