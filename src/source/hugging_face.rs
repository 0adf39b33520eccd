//! Parquet shards as the `datasets` library writes them: a column `image: struct<bytes, path>` and a
//! ClassLabel column `label`, whose names stand in the footer under the key `huggingface`.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use arrow::{
    array::{Array, AsArray, BinaryArray, Int64Array, RecordBatch},
    compute::cast,
    datatypes::DataType,
};
use parquet::arrow::ProjectionMask;

use super::{Kind, Record, Source, SourceId, has_extension};
use crate::{
    table::{embeddings::SPLITS, file},
    task::Class,
};

/// Images decoded from Parquet at a time.
const BATCH_ROWS: usize = 32;

/// The shards of each split: path below the directory, rows.
pub struct Shards {
    root: PathBuf,
    files: BTreeMap<String, Vec<(PathBuf, usize)>>,
    classes: usize,
}

pub fn open(root: &Path, files: Vec<PathBuf>) -> Result<Source> {
    let mut splits: BTreeMap<String, Vec<(PathBuf, usize)>> = BTreeMap::new();
    let mut names: Option<Vec<String>> = None;
    let (mut lines, mut left_out) = (Vec::new(), Vec::new());
    for relative in files {
        let split = split_of(&relative).filter(|_| has_extension(&relative, &["parquet"]));
        let Some(split) = split else {
            left_out.push(relative);
            continue;
        };
        let path = root.join(&relative);
        let builder = file::builder(&path)?;
        check_columns(&path, builder.schema())?;
        let metadata = file::footer_value(&builder, file::HUGGING_FACE_KEY).with_context(|| {
            format!(
                "{} has no `huggingface` key in its footer, which names the classes; \
                     write it with the datasets library's to_parquet",
                path.display()
            )
        })?;
        let found = class_names(&metadata).with_context(|| format!("footer of {}", path.display()))?;
        if names.as_ref().is_some_and(|names| *names != found) {
            bail!("{} names other classes than the shards before it", path.display());
        }
        let rows = builder.metadata().file_metadata().num_rows() as usize;
        let bytes = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        lines.push(format!("{} {bytes} {rows} {found:?}", relative.display()));
        names = Some(found);
        splits.entry(split.to_owned()).or_default().push((relative, rows));
    }
    let names = names.with_context(|| {
        format!(
            "{} has Parquet files, but none is called train-*.parquet or test-*.parquet, \
                 nor lies in train/ or test/",
            root.display()
        )
    })?;
    Ok(Source {
        id: SourceId { origin: format!("Parquet shards {}", root.display()), fingerprint: crate::hash_lines(lines) },
        rows: splits.iter().map(|(split, files)| (split.clone(), files.iter().map(|f| f.1).sum())).collect(),
        left_out,
        kind: Kind::HuggingFace(Shards { root: root.to_owned(), files: splits, classes: names.len() }),
        classes: names.into_iter().enumerate().map(|(i, name)| Class { label: i as i64, name }).collect(),
    })
}

impl Shards {
    pub fn read(&self, split: &str, range: Range<usize>) -> Result<impl Iterator<Item = Result<Record>>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for (relative, rows) in &self.files[split] {
            let overlap = range.start.max(start)..range.end.min(start + rows);
            if !overlap.is_empty() {
                parts.push((relative.clone(), overlap.start - start..overlap.end - start));
            }
            start += rows;
        }
        Ok(parts.into_iter().flat_map(|(relative, rows)| {
            // an error of the whole file is one item, so that the caller stops there
            self.read_file(&relative, rows).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        }))
    }

    fn read_file(&self, relative: &Path, rows: Range<usize>) -> Result<Box<dyn Iterator<Item = Result<Record>>>> {
        let path = self.root.join(relative);
        let builder = file::builder(&path)?;
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["image", "label"]);
        let batches = builder
            .with_projection(columns)
            .with_offset(rows.start)
            .with_limit(rows.len())
            .with_batch_size(BATCH_ROWS)
            .build()
            .with_context(|| format!("cannot read {}", path.display()))?;
        let (classes, name) = (self.classes, relative.display().to_string());
        let mut row = rows.start;
        Ok(Box::new(batches.flat_map(move |batch| {
            let records = batch
                .map_err(|e| anyhow!(e).context(format!("{} is damaged near row {row}", path.display())))
                .and_then(|batch| records(&batch, &name, row, classes));
            match records {
                Ok(records) => {
                    row += records.len();
                    records.into_iter().map(Ok).collect()
                }
                Err(error) => vec![Err(error)],
            }
        })))
    }
}

fn records(batch: &RecordBatch, file: &str, first: usize, classes: usize) -> Result<Vec<Record>> {
    let images = batch["image"].as_struct();
    let bytes = cast(&images["bytes"], &DataType::Binary)?;
    let bytes: &BinaryArray = bytes.as_binary();
    let labels = cast(&batch["label"], &DataType::Int64)?;
    let labels: &Int64Array = labels.as_primitive();
    (0..batch.num_rows())
        .map(|i| {
            let sample_id = format!("{file}#{}", first + i);
            let label = labels.is_valid(i).then(|| labels.value(i)).filter(|l| (0..classes as i64).contains(l));
            let label = label.with_context(|| {
                format!(
                    "{sample_id}: the label should be 0 to {}, but is {}",
                    classes - 1,
                    if labels.is_valid(i) { labels.value(i).to_string() } else { "null".into() }
                )
            })?;
            let image = if images.is_valid(i) && bytes.is_valid(i) {
                Ok(bytes.value(i).to_vec())
            } else {
                Err("the row holds no image bytes".to_owned())
            };
            Ok(Record { sample_id, label, image })
        })
        .collect()
}

/// The split that a file belongs to, by the start of its name or by its directory.
fn split_of(path: &Path) -> Option<&'static str> {
    let stem = path.file_stem()?.to_str()?;
    let of_name = stem.split(['-', '_', '.']).next().unwrap_or_default();
    let of_dir = path.parent().and_then(Path::file_name).and_then(|d| d.to_str()).unwrap_or_default();
    SPLITS.into_iter().find(|split| *split == of_name || *split == of_dir)
}

fn check_columns(path: &Path, schema: &arrow::datatypes::Schema) -> Result<()> {
    let have = || schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
    let field = |name: &str| {
        schema.field_with_name(name).map_err(|_| {
            anyhow!(
                "{} has no column {name:?} (it has: {}); expected image: struct<bytes, path> and label",
                path.display(),
                have()
            )
        })
    };
    let has_bytes = match field("image")?.data_type() {
        DataType::Struct(fields) => fields.iter().any(|f| {
            f.name() == "bytes"
                && matches!(f.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
        }),
        _ => false,
    };
    if !has_bytes {
        bail!(
            "{}: column \"image\" should be struct<bytes: binary, path: string>, but is {}",
            path.display(),
            field("image")?.data_type()
        );
    }
    if !field("label")?.data_type().is_integer() {
        bail!("{}: column \"label\" should be an integer, but is {}", path.display(), field("label")?.data_type());
    }
    Ok(())
}

fn class_names(metadata: &str) -> Result<Vec<String>> {
    let json: serde_json::Value = serde_json::from_str(metadata).context("the `huggingface` key is not JSON")?;
    let names = json.pointer("/info/features/label/names").and_then(|names| names.as_array());
    let names = names.context("column \"label\" is not a ClassLabel with names under the `huggingface` key")?;
    if names.is_empty() {
        bail!("the ClassLabel of column \"label\" has no names");
    }
    names.iter().map(|name| name.as_str().map(str::to_owned).context("a class name is not text")).collect()
}
