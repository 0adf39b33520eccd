//! Stage 1 without images: embeddings made elsewhere become the table `embeddings`.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use cgil::{
    embeddings::{Embeddings, FIRST_SOURCE, Shard, ShardRows, SourcePlan, content_line},
    hash::hash_bytes,
    rows::SPLITS,
    run::Run,
    source::{
        foreign::{ForeignTable, Row},
        notes_on_names, require_names,
    },
    task::Class,
    words::counted,
};
use clap::Args;

use crate::{options::at_least, terminal};

/// What gives the classes of a table other names.
const CLASS_NAMES: &str = "the table's class_name gives others";

#[derive(Args)]
pub struct Options {
    /// Parquet file of embeddings, or directory of such files
    ///
    /// Its columns are split (train or test), label, class_name and embedding (a list of float16,
    /// float32 or float64); sample_id is kept where there is one.
    table: PathBuf,
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Rows per file of embeddings, as of extract
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least::<1>)]
    shard_rows: usize,
}

pub fn run(options: &Options) -> Result<()> {
    let table = ForeignTable::open(&options.table, Some(&options.run))?;
    let plan = examine(&table, options.shard_rows)?;
    let run = Run::open(&options.run, terminal::note)?;
    let mut embeddings = Embeddings::create(&run, FIRST_SOURCE, plan)?;
    write_missing(&table, &mut embeddings)?;
    embeddings.seal()?;
    let SourcePlan { dim, classes, rows, .. } = &embeddings.plan;
    terminal::print(format!(
        "{} of {}, {}, imported into {}\n",
        counted(rows.values().sum(), "embedding"),
        counted(*dim, "value"),
        counted(classes.len(), "class"),
        options.run.display()
    ))
}

/// Reads the whole table once, so that nothing is written of one that has an error.
fn examine(table: &ForeignTable, shard_rows: usize) -> Result<SourcePlan> {
    let mut names: BTreeMap<i64, String> = BTreeMap::new();
    // rows of each label in each split
    let mut counts: BTreeMap<String, BTreeMap<i64, usize>> = BTreeMap::new();
    let mut dim = None;
    let mut ids = HashSet::new();
    table.read(|row: Row| {
        let Row { place, sample_id, split, label, class_name, embedding } = row;
        let expected = *dim.get_or_insert(embedding.len());
        if embedding.len() != expected {
            bail!("{place}: the embedding has {}, those before it have {expected}", counted(embedding.len(), "value"));
        }
        // squares have to stay inside float32
        let norm = embedding.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        if !(1e-15..=1e15).contains(&norm) {
            bail!("{place}: the embedding is empty, all zeros or not finite: its length is {norm:e}");
        }
        if !ids.insert(sample_id.clone()) {
            bail!("{place}: the sample_id {sample_id:?} stands on a row before it, too");
        }
        let name = names.entry(label).or_insert_with(|| class_name.to_owned());
        if name != class_name {
            bail!("{place}: label {label} is {class_name:?} here, but {name:?} before");
        }
        *counts.entry(split.to_owned()).or_default().entry(label).or_default() += 1;
        Ok(())
    })?;
    for split in SPLITS {
        if !counts.contains_key(split) {
            bail!("{} has no row whose split is {split:?}", table.path().display());
        }
    }
    let rows = counts.iter().map(|(split, of)| (split.clone(), of.values().sum())).collect();
    let of_classes = |of: BTreeMap<i64, usize>| names.keys().map(|label| of.get(label).copied().unwrap_or(0)).collect();
    let counts = counts.into_iter().map(|(split, of)| (split, of_classes(of))).collect();
    let classes: Vec<Class> = names.into_iter().map(|(label, name)| Class { label, name }).collect();
    require_names(table.path(), &classes, CLASS_NAMES)?;
    for note in notes_on_names(&classes, &counts, Some(CLASS_NAMES)) {
        terminal::note(&format!("note: {note}"));
    }
    let plan = SourcePlan {
        source: table.id()?,
        model: None,
        preprocessing: None,
        compute_dtype: "float32".into(),
        device: None,
        dim: dim.unwrap_or(0),
        classes,
        rows,
        shard_rows,
        kept: Vec::new(),
    };
    plan.checked().with_context(|| table.path().display().to_string())
}

fn write_missing(table: &ForeignTable, embeddings: &mut Embeddings) -> Result<()> {
    let missing = embeddings.missing();
    if missing.is_empty() {
        return Ok(());
    }
    let find = |split: &str, k: usize| missing.iter().find(|shard| shard.split == split && shard.number == k);
    let shard_rows = embeddings.plan.shard_rows;
    let mut write = |shard: Option<&Shard>, rows: ShardRows| match shard {
        Some(shard) => embeddings.write_shard(shard, rows),
        None => Ok(()),
    };
    let mut open: BTreeMap<String, (usize, ShardRows)> = BTreeMap::new();
    let mut bytes = Vec::new();
    table.read(|row: Row| {
        let (k, shard) = open.entry(row.split.to_owned()).or_default();
        bytes.clear();
        row.embedding.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        shard.contents.push(content_line(&row.sample_id, row.label, Some(&hash_bytes(&bytes))));
        shard.sample_ids.push(row.sample_id);
        shard.labels.push(row.label);
        shard.embeddings.extend_from_slice(row.embedding);
        if shard.labels.len() == shard_rows {
            write(find(row.split, *k), std::mem::take(shard))?;
            *k += 1;
        }
        Ok(())
    })?;
    for (split, (k, rows)) in open {
        if !rows.labels.is_empty() {
            write(find(&split, k), rows)?;
        }
    }
    Ok(())
}
