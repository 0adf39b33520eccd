//! A data set of Hugging Face: `data/SPLIT-00000-of-00001.parquet`, and README.md, its card.

use std::{fmt::Write as _, io::Write as _, path::Path, sync::Arc};

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::file::properties::CdcOptions;
use serde_json::{Value, json};

use super::{
    head::KEY,
    made_from::MadeFrom,
    rows::{Batch, Counts, Sources},
};
use crate::{
    atomic,
    rows::{Split, Test, Train},
    table::file::{self, Footer},
    words::counted,
};

pub(super) fn write(sources: &Sources, path: &Path, made_from: &MadeFrom) -> Result<Counts> {
    let counts = sources.counts()?;
    let footer = vec![
        (KEY.into(), serde_json::to_string(made_from)?),
        (file::HUGGING_FACE_KEY.into(), features(sources).to_string()),
    ];
    atomic::write_dir(path, |dir| {
        write_split::<Train>(sources, counts.train, dir, &footer)?;
        write_split::<Test>(sources, counts.test, dir, &footer)?;
        let card = card(sources, counts, made_from)?;
        atomic::write_file(&dir.join("README.md"), |file| Ok(file.write_all(card.as_bytes())?))
    })?;
    Ok(counts)
}

fn write_split<S: Split>(sources: &Sources, rows: usize, dir: &Path, footer: &Footer) -> Result<()> {
    let files = sources.files(rows);
    sources.each_file::<S>(|number, Batch { ids, classes, embeddings }| {
        let columns: [(&str, ArrayRef); 3] = [
            ("sample_id", Arc::new(StringArray::from_iter_values(ids))),
            ("label", Arc::new(Int64Array::from_iter_values(classes.iter().map(|&class| class as i64)))),
            ("embedding", file::vectors(embeddings.clone(), sources.dim)),
        ];
        let nullable = columns.map(|(name, column)| (name, column, true)); // as a ClassLabel has to be
        let rows = RecordBatch::try_from_iter_with_nullable(nullable)?;
        let path = dir.join(format!("data/{}-{number:05}-of-{files:05}.parquet", S::NAME));
        file::write_rows(&path, &rows, footer, Some(CdcOptions::default()))
    })
}

/// As the datasets library keeps them in a file.
fn features(sources: &Sources) -> Value {
    let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
    let names: Vec<&str> = sources.classes.iter().map(|class| class.name.as_str()).collect();
    json!({"info": {"features": {
        "sample_id": value("string"),
        "label": {"names": names, "_type": "ClassLabel"},
        "embedding": {"feature": value("float32"), "length": sources.dim, "_type": "Sequence"},
    }}})
}

fn card(sources: &Sources, counts: Counts, made_from: &MadeFrom) -> Result<String> {
    let splits = [(Train::NAME, counts.train), (Test::NAME, counts.test)];
    let mut text = "---\nconfigs:\n- config_name: default\n  data_files:\n".to_owned();
    for (split, _) in splits.into_iter().filter(|(_, rows)| *rows > 0) {
        write!(text, "  - split: {split}\n    path: data/{split}-*\n")?;
    }
    text += "dataset_info:\n  features:\n  - name: sample_id\n    dtype: string\n  - name: label\n    dtype:\n      \
             class_label:\n        names:\n";
    for (place, class) in sources.classes.iter().enumerate() {
        writeln!(text, "          '{place}': {}", json!(class.name))?; // what JSON quotes, YAML reads
    }
    write!(text, "  - name: embedding\n    sequence: float32\n    length: {}\n", sources.dim)?;
    write!(
        text,
        "---\n\n# Image embeddings\n\n{} of {}, {} values each, as CLIP's image encoder gives them: divide by their \
         length to compare them.\n\n```python\nfrom datasets import load_dataset\n\ndata = load_dataset(\"OWNER/NAME\")  # \
         or the directory of this file\n```\n\nMade from:\n\n```json\n{}\n```\n",
        counted(counts.train + counts.test, "embedding"),
        counted(sources.classes.len(), "class"),
        sources.dim,
        serde_json::to_string_pretty(made_from)?
    )?;
    Ok(text)
}
