//! Embeddings made elsewhere: Parquet with the columns split, label, class_name and embedding.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float32Type, Int64Type, Schema, UInt64Type},
};
use parquet::arrow::ProjectionMask;

use super::{
    id::SourceId,
    listing::Listing,
    names::{has_extension, id_of},
};
use crate::{rows::SPLITS, table::file};

/// Columns that a table must have.
const COLUMNS: [&str; 4] = ["split", "label", "class_name", "embedding"];

/// A Parquet file, or the Parquet files below a directory in the order of their names.
pub struct ForeignTable {
    path: PathBuf,
    files: Vec<PathBuf>,
}

/// A row of the table.
pub struct Row<'a> {
    /// File and row, for messages.
    pub place: String,
    /// Its key in the source.
    pub sample_id: String,
    /// Name of the split.
    pub split: &'a str,
    /// Its label.
    pub label: i64,
    /// Name of the class.
    pub class_name: &'a str,
    /// (D).
    pub embedding: &'a [f32],
}

impl ForeignTable {
    /// Opens a table, after checking the columns of every file. The directory `leave_out`, the
    /// run's, is no part of it.
    pub fn open(path: &Path, leave_out: Option<&Path>) -> Result<Self> {
        let files = if path.is_dir() {
            let below = Listing::of(path, leave_out)?.files;
            below.iter().filter(|f| has_extension(f, "parquet")).map(|f| path.join(f)).collect()
        } else {
            vec![path.to_owned()]
        };
        if files.is_empty() {
            bail!("{} has no Parquet files", path.display());
        }
        for path in &files {
            check_columns(path, file::builder(path)?.schema())?;
        }
        Ok(ForeignTable { path: path.to_owned(), files })
    }

    /// Where the table is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name and hash of the table. Reads all of it once.
    pub fn id(&self) -> Result<SourceId> {
        Ok(SourceId {
            origin: format!("embeddings {}", self.path.display()),
            fingerprint: crate::hash::hash_files(&self.files)?,
        })
    }

    /// The file's name in the table: below its directory, or its own.
    fn key(&self, file: &Path) -> String {
        let below = file.strip_prefix(&self.path).ok().filter(|below| !below.as_os_str().is_empty());
        id_of(below.or(file.file_name().map(Path::new)).unwrap_or(file))
    }

    /// Calls `each` with every row in order; stops at the first error.
    pub fn read(&self, mut each: impl FnMut(Row) -> Result<()>) -> Result<()> {
        for path in &self.files {
            let builder = file::builder(path)?;
            let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS.into_iter().chain(["sample_id"]));
            let mut first = 0;
            for batch in builder.with_projection(columns).build()? {
                let batch = batch.with_context(|| format!("{} is damaged near row {first}", path.display()))?;
                read_batch(&batch, &self.key(path), first, &mut each)?;
                first += batch.num_rows();
            }
        }
        Ok(())
    }
}

fn read_batch(batch: &RecordBatch, key: &str, first: usize, each: &mut impl FnMut(Row) -> Result<()>) -> Result<()> {
    let text = |column: &str| cast(&batch[column], &DataType::Utf8);
    let (splits, names) = (text("split")?, text("class_name")?);
    let (splits, names) = (splits.as_string::<i32>(), names.as_string::<i32>());
    let labels = &batch["label"];
    if let DataType::UInt64 = labels.data_type() {
        let beyond =
            labels.as_primitive::<UInt64Type>().iter().position(|l| l.is_some_and(|l| i64::try_from(l).is_err()));
        if let Some(i) = beyond {
            let label = labels.as_primitive::<UInt64Type>().value(i);
            bail!("{key} row {}: the label {label} is more than {}, the largest that is kept", first + i, i64::MAX);
        }
    }
    let labels = cast(labels, &DataType::Int64)?;
    let labels = labels.as_primitive::<Int64Type>();
    let ids = batch.column_by_name("sample_id").map(|ids| cast(ids, &DataType::Utf8)).transpose()?;
    let lists = &batch["embedding"];
    let (values, bounds) = flatten(lists)?;
    for i in 0..batch.num_rows() {
        let place = format!("{key} row {}", first + i);
        for (column, array) in COLUMNS.iter().zip([splits as &dyn Array, labels, names, lists]) {
            if array.is_null(i) {
                bail!("{place}: {column} is null");
            }
        }
        let (split, (start, end)) = (splits.value(i), bounds(i));
        if !SPLITS.contains(&split) {
            bail!("{place}: split should be \"train\" or \"test\", but is {split:?}");
        }
        if values.slice(start, end - start).null_count() > 0 {
            bail!("{place}: the embedding has a null");
        }
        let id = ids.as_ref().map(|ids| ids.as_string::<i32>()).filter(|ids| ids.is_valid(i));
        each(Row {
            sample_id: id.map_or_else(|| format!("{key}#{}", first + i), |ids| ids.value(i).to_owned()),
            split,
            label: labels.value(i),
            class_name: names.value(i),
            embedding: &values.as_primitive::<Float32Type>().values()[start..end],
            place,
        })?;
    }
    Ok(())
}

type Bounds<'a> = Box<dyn Fn(usize) -> (usize, usize) + 'a>;

/// The values of a list column as float32, and where each row's begin and end.
fn flatten(lists: &ArrayRef) -> Result<(ArrayRef, Bounds<'_>)> {
    let (values, bounds): (&ArrayRef, Bounds) = match lists.data_type() {
        DataType::FixedSizeList(_, n) => {
            let (list, n) = (lists.as_fixed_size_list(), *n as usize);
            (list.values(), Box::new(move |i| (n * (list.offset() + i), n * (list.offset() + i + 1))))
        }
        DataType::LargeList(_) => {
            let list = lists.as_list::<i64>();
            (list.values(), Box::new(move |i| (list.value_offsets()[i] as usize, list.value_offsets()[i + 1] as usize)))
        }
        _ => {
            let list = lists.as_list::<i32>();
            (list.values(), Box::new(move |i| (list.value_offsets()[i] as usize, list.value_offsets()[i + 1] as usize)))
        }
    };
    Ok((cast(values, &DataType::Float32)?, bounds))
}

fn check_columns(path: &Path, schema: &Schema) -> Result<()> {
    let is_text = |t: &DataType| {
        matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
            || matches!(t, DataType::Dictionary(_, value) if matches!(**value, DataType::Utf8 | DataType::LargeUtf8))
    };
    if let Some(ids) = schema.field_with_name("sample_id").ok().filter(|ids| !is_text(ids.data_type())) {
        bail!("{}: column \"sample_id\" should be text, but is {}", path.display(), ids.data_type());
    }
    for column in COLUMNS {
        let field = schema.field_with_name(column).map_err(|_| {
            let have: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            anyhow!(
                "{} has no column {column:?} (it has: {}); expected split, label, class_name and embedding",
                path.display(),
                have.join(", ")
            )
        })?;
        let found = field.data_type();
        let (fits, expected) = match (column, found) {
            ("label", t) => (t.is_integer(), "an integer"),
            ("embedding", DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item)) => {
                (item.data_type().is_floating(), "a list of float16, float32 or float64")
            }
            ("embedding", _) => (false, "a list of float16, float32 or float64"),
            (_, t) => (is_text(t), "text"),
        };
        if !fits {
            bail!("{}: column {column:?} should be {expected}, but is {found}", path.display());
        }
    }
    Ok(())
}
