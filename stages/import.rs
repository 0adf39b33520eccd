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
        foreign::{Foreign, ForeignOptions, Row},
        notes_on_names, require_names,
    },
    words::counted,
};
use clap::Args;

use crate::{
    options::{at_least, fraction},
    terminal,
};

/// What gives the classes other names.
const CLASS_NAMES: &str = "--class-names FILE, or a column class_name, gives others";

#[derive(Args)]
pub struct Options {
    /// Embeddings: Parquet, .npy, .npz, safetensors, or a directory of them
    ///
    /// Parquet has a column of lists, the others an array (N, D) of floats. A directory is
    /// clip-retrieval's (img_emb, metadata), or has train_features.npy and train_labels.npy, or a
    /// .npy and a .csv. Labels, and where there are some names, splits and ids, are columns or
    /// arrays in it or beside it. It is said what was found.
    embeddings: PathBuf,
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Column of the labels, where it has another name than usual
    ///
    /// Usual names are label, class, target and y.
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// What classes are called in prompts: CSV lines KEY,NAME, or JSON
    ///
    /// A CSV file of lines KEY,NAME, or a JSON file {"KEY": "NAME"}. The keys are the names there,
    /// or all of them labels; each class needs one.
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
    /// Share of the rows to test on, where there are no test rows; as of extract
    #[arg(long, value_name = "SHARE", value_parser = fraction)]
    holdout: Option<f64>,
    /// Rows per file of embeddings, as of extract
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least::<1>)]
    shard_rows: usize,
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    let foreign = open(options)?;
    let plan = examine(&foreign, options.shard_rows)?;
    let mut embeddings = Embeddings::create(&run, FIRST_SOURCE, plan)?;
    write_missing(&foreign, &mut embeddings)?;
    embeddings.seal()?;
    let SourcePlan { dim, classes, rows, .. } = &embeddings.plan;
    let of_splits: Vec<String> = SPLITS.iter().map(|split| format!("{} {split}", rows[*split])).collect();
    terminal::print(format!(
        "{} of {}, {} ({}), imported into {}\n",
        counted(rows.values().sum(), "embedding"),
        counted(*dim, "value"),
        counted(classes.len(), "class"),
        of_splits.join(", "),
        options.run.display()
    ))
}

/// Finds the embeddings, and says what was found.
fn open(options: &Options) -> Result<Foreign> {
    let foreign = Foreign::open(
        &options.embeddings,
        &ForeignOptions {
            leave_out: Some(options.run.clone()),
            label_column: options.label_column.clone(),
            class_names: options.class_names.clone(),
            holdout: options.holdout,
        },
    )?;
    foreign.notes.iter().for_each(|note| terminal::note(note));
    require_names(foreign.path(), &foreign.classes, CLASS_NAMES)?;
    for note in notes_on_names(&foreign.classes, &foreign.counts, Some(CLASS_NAMES)) {
        terminal::note(&format!("note: {note}"));
    }
    Ok(foreign)
}

/// Reads all vectors once, so that nothing is written of some that have an error.
fn examine(foreign: &Foreign, shard_rows: usize) -> Result<SourcePlan> {
    let mut dim = None;
    let mut ids = HashSet::new();
    foreign.read(|row: Row| {
        let Row { place, sample_id, embedding, .. } = row;
        let expected = *dim.get_or_insert(embedding.len());
        if embedding.len() != expected {
            let found = counted(embedding.len(), "value");
            bail!("{}: the embedding has {found}, those before it have {expected}", place());
        }
        // squares have to stay inside float32
        let norm = embedding.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        if !(1e-15..=1e15).contains(&norm) {
            bail!("{}: the embedding is empty, all zeros or not finite: its length is {norm:e}", place());
        }
        if let Some(id) = ids.replace(sample_id) {
            bail!("{}: the sample_id {id:?} stands on a row before it, too", place());
        }
        Ok(())
    })?;
    let plan = SourcePlan {
        source: foreign.id()?,
        model: None,
        preprocessing: None,
        compute_dtype: "float32".into(),
        device: None,
        dim: dim.unwrap_or(0),
        classes: foreign.classes.clone(),
        rows: foreign.counts.iter().map(|(split, of)| (split.clone(), of.iter().sum())).collect(),
        shard_rows,
        kept: Vec::new(),
    };
    plan.checked().with_context(|| foreign.path().display().to_string())
}

fn write_missing(foreign: &Foreign, embeddings: &mut Embeddings) -> Result<()> {
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
    foreign.read(|row: Row| {
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
