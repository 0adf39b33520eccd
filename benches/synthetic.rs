//! A run of synthetic embeddings, written in place: `synthetic RUN ROWS CLASSES VALUES`. For
//! `make big`.
//!
//! The classes come in turn, so that every shard has rows of as many as it has room for: the order in
//! which pruning helps least, and that of shuffled archives.

use std::{env, path::Path};

use anyhow::{Context, Result, bail};
use cgil::{
    embeddings::{Embeddings, FIRST_SOURCE, Shard, ShardRows, SourcePlan, content_line},
    rng::{Draw, Rng},
    run::Run,
    source::SourceId,
    task::Class,
};

/// Rows per shard.
const SHARD_ROWS: usize = 65_536;

/// Test rows, however many training rows there are: all of them are in memory while they are scored.
const TEST_ROWS: usize = 20_000;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [run, numbers @ ..] = &args[..] else { bail!("expected RUN ROWS CLASSES VALUES") };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let [rows, classes, dim] = numbers[..] else { bail!("expected RUN ROWS CLASSES VALUES") };
    let run = Run::open(Path::new(run), |note| eprintln!("{note}"))?;
    let plan = SourcePlan {
        source: SourceId { origin: "synthetic".into(), fingerprint: format!("{rows} of {classes}") },
        model: None,
        preprocessing: None,
        compute_dtype: "float32".into(),
        device: None,
        dim,
        classes: (0..classes).map(|i| Class { label: i as i64, name: format!("class {i}") }).collect(),
        rows: [("train".to_owned(), rows), ("test".to_owned(), TEST_ROWS)].into(),
        shard_rows: SHARD_ROWS,
        kept: Vec::new(),
    };
    let means = Rng::new(0, Draw::Embeddings, &[]).normals(classes * dim);
    let mut embeddings = Embeddings::create(&run, FIRST_SOURCE, plan)?;
    for shard in embeddings.missing() {
        let rows = rows_of(&shard, &means, dim);
        embeddings.write_shard(&shard, rows).with_context(|| format!("shard {}", shard.number))?;
    }
    embeddings.seal()
}

/// The rows of a shard: around the mean of their class, with a variance of 1.
fn rows_of(shard: &Shard, means: &[f32], dim: usize) -> ShardRows {
    let key = [u64::from(shard.split == "test"), shard.number as u64 + 1];
    let mut embeddings = Rng::new(0, Draw::Embeddings, &key).normals(shard.rows.len() * dim);
    let classes = means.len() / dim;
    let labels: Vec<i64> = shard.rows.clone().map(|row| (row % classes) as i64).collect();
    for (row, &label) in embeddings.chunks_exact_mut(dim).zip(&labels) {
        row.iter_mut().zip(&means[label as usize * dim..]).for_each(|(x, mean)| *x += mean);
    }
    let sample_ids: Vec<String> = shard.rows.clone().map(|row| format!("{}-{row}", shard.split)).collect();
    let contents = sample_ids.iter().zip(&labels).map(|(id, &label)| content_line(id, label, None)).collect();
    ShardRows { sample_ids, labels, embeddings, contents, ..ShardRows::default() }
}
