//! Stage 1 without images: embeddings made elsewhere become the table `embeddings`.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use anyhow::{Result, bail};
use cgil::{
    source::foreign::{ForeignTable, Row},
    table::embeddings::{Embeddings, Manifest, ShardRows},
    task::Class,
};
use clap::Args;

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Parquet file, or directory of them, with the columns split (train or test), label, class_name and
    /// embedding (a list of float16, float32 or float64); sample_id is kept where there is one
    table: PathBuf,
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    /// Rows per shard
    #[arg(long, default_value_t = 4096, value_parser = cgil::at_least::<1>)]
    shard_rows: usize,
}

pub fn run(options: &Options) -> Result<()> {
    let table = ForeignTable::open(&options.table, Some(&options.run))?;
    let embeddings = Embeddings::create(&options.run, examine(&table, options.shard_rows)?)?;
    write_missing(&table, &embeddings)?;
    let Manifest { dim, classes, rows, .. } = &embeddings.manifest;
    terminal::print(format!(
        "{} embeddings of {dim} values, {} classes, imported into {}\n",
        rows.values().sum::<usize>(),
        classes.len(),
        options.run.display()
    ))
}

/// Reads the whole table once, so that nothing is written of one that has an error.
fn examine(table: &ForeignTable, shard_rows: usize) -> Result<Manifest> {
    let mut names: BTreeMap<i64, String> = BTreeMap::new();
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    let mut dim = None;
    let mut ids = HashSet::new();
    table.read(|row: Row| {
        let Row { place, sample_id, split, label, class_name, embedding } = row;
        let expected = *dim.get_or_insert(embedding.len());
        if embedding.len() != expected {
            bail!("{place}: the embedding has {} values, those before it have {expected}", embedding.len());
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
        *rows.entry(split.to_owned()).or_default() += 1;
        Ok(())
    })?;
    for split in ["train", "test"] {
        if !rows.contains_key(split) {
            bail!("{} has no row whose split is {split:?}", table.path().display());
        }
    }
    Ok(Manifest {
        source: table.id()?,
        model: None,
        preprocessing: None,
        compute_dtype: "float32".into(),
        dim: dim.unwrap_or(0),
        classes: names.into_iter().map(|(label, name)| Class { label, name }).collect(),
        rows,
        shard_rows,
    })
}

fn write_missing(table: &ForeignTable, embeddings: &Embeddings) -> Result<()> {
    let missing: Vec<(&str, usize)> = embeddings.missing().into_iter().map(|(split, k, _)| (split, k)).collect();
    let mut open: BTreeMap<String, (usize, ShardRows)> = BTreeMap::new();
    let write = |split: &str, k: usize, rows: ShardRows| match missing.contains(&(split, k)) {
        true => embeddings.write_shard(split, k, rows),
        false => Ok(()),
    };
    table.read(|row: Row| {
        let (k, shard) = open.entry(row.split.to_owned()).or_default();
        shard.sample_ids.push(row.sample_id);
        shard.labels.push(row.label);
        shard.embeddings.extend_from_slice(row.embedding);
        if shard.labels.len() == embeddings.manifest.shard_rows {
            write(row.split, *k, std::mem::take(shard))?;
            *k += 1;
        }
        Ok(())
    })?;
    for (split, (k, rows)) in open {
        if !rows.labels.is_empty() {
            write(&split, k, rows)?;
        }
    }
    Ok(())
}
