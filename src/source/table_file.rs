//! A file of rows with images, Parquet or Arrow: its columns, and batches of chosen rows.

use std::{
    io::{BufReader, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use arrow::{
    array::{RecordBatch, UInt64Array},
    compute::take_record_batch,
    datatypes::SchemaRef,
    ipc::reader::StreamReader,
};
use parquet::arrow::arrow_reader::RowSelection;
use serde_json::Value;

use super::names::has_extension;
use crate::{
    storage::{self, File},
    table::file,
};

/// Rows decoded at a time: images are large.
const BATCH_ROWS: usize = 32;

/// What ends an Arrow stream.
const END: [u8; 8] = [255, 255, 255, 255, 0, 0, 0, 0];

/// Batches of a file's rows.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch>>>;

/// The columns of a file, and the datasets library's features of them, null where there are none.
pub fn schema(path: &Path) -> Result<(SchemaRef, Value)> {
    let (schema, features) = if has_extension(path, "arrow") {
        let schema = open_arrow(path, None)?.schema();
        let features = schema.metadata().get(file::HUGGING_FACE_KEY).cloned();
        (schema, features)
    } else {
        let builder = file::builder(path)?;
        let features = file::footer_value(&builder, file::HUGGING_FACE_KEY);
        (builder.schema().clone(), features)
    };
    let features = features.map(|text| {
        serde_json::from_str(&text)
            .with_context(|| format!("{}: the `huggingface` key of the schema is not JSON", path.display()))
    });
    Ok((schema, features.transpose()?.unwrap_or_default()))
}

/// All rows of some columns.
pub fn all(path: &Path, columns: &[&str]) -> Result<Batches> {
    if has_extension(path, "arrow") {
        return arrow(path, columns, None);
    }
    let builder = file::builder(path)?;
    let projection = file::projection(&builder, columns);
    let batches = builder.with_projection(projection).build();
    let batches = batches.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(with_context(path, batches.map(|batch| Ok(batch?))))
}

/// The rows `ranges`, which ascend, of some columns.
pub fn rows(path: &Path, columns: &[&str], ranges: Vec<Range<usize>>) -> Result<Batches> {
    if has_extension(path, "arrow") {
        return arrow(path, columns, Some(ranges));
    }
    let builder = file::builder(path)?;
    let projection = file::projection(&builder, columns);
    let total = builder.metadata().file_metadata().num_rows() as usize;
    let selection = RowSelection::from_consecutive_ranges(ranges.into_iter(), total);
    let builder = builder.with_projection(projection).with_row_selection(selection).with_batch_size(BATCH_ROWS);
    let batches = builder.build().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(with_context(path, batches.map(|batch| Ok(batch?))))
}

fn arrow(path: &Path, columns: &[&str], ranges: Option<Vec<Range<usize>>>) -> Result<Batches> {
    require_end(path)?;
    let schema = open_arrow(path, None)?.schema();
    let places = columns.iter().map(|name| Ok(schema.index_of(name)?)).collect::<Result<_>>()?;
    let mut batches = open_arrow(path, Some(places))?;
    let (mut first, mut ranges) = (0, ranges.map(|ranges| ranges.into_iter().peekable()));
    let mut chosen = move |batch: RecordBatch| -> Result<RecordBatch> {
        let here = first..first + batch.num_rows();
        first = here.end;
        let Some(ranges) = &mut ranges else { return Ok(batch) };
        let mut places = Vec::new();
        while let Some(range) = ranges.peek().filter(|range| range.start < here.end) {
            let inside = range.start.max(here.start)..range.end.min(here.end);
            places.extend(inside.map(|row| (row - here.start) as u64));
            if range.end > here.end {
                break; // goes on in the next batch
            }
            ranges.next();
        }
        Ok(take_record_batch(&batch, &UInt64Array::from(places))?)
    };
    Ok(with_context(path, std::iter::from_fn(move || Some(batches.next()?.map_err(Into::into).and_then(&mut chosen)))))
}

/// An error where a stream has no end: it was cut between two batches.
fn require_end(path: &Path) -> Result<()> {
    let mut end = Vec::new();
    let mut file = storage::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let start = file.size()?.saturating_sub(END.len() as u64);
    file.seek(SeekFrom::Start(start))?;
    file.read_to_end(&mut end)?;
    ensure!(end == END, "{} is cut: its stream has no end; make it again", path.display());
    Ok(())
}

fn open_arrow(path: &Path, projection: Option<Vec<usize>>) -> Result<StreamReader<BufReader<File>>> {
    let file = storage::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    StreamReader::try_new(BufReader::new(file), projection)
        .with_context(|| format!("{} is no Arrow stream as save_to_disk writes it", path.display()))
}

fn with_context(path: &Path, batches: impl Iterator<Item = Result<RecordBatch>> + 'static) -> Batches {
    let (path, mut row) = (path.to_owned(), 0);
    Box::new(batches.map(move |batch| {
        let batch = batch.with_context(|| format!("{} is damaged near row {row}", path.display()))?;
        row += batch.num_rows();
        Ok(batch)
    }))
}
