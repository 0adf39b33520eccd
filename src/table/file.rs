//! One Parquet file of a table: written whole or not at all, checked against its contract when
//! opened.

use std::{collections::HashMap, path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch},
    buffer::NullBuffer,
    datatypes::{DataType, Field, Float32Type, Int64Type},
};
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{
            ArrowPredicateFn, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowFilter,
        },
    },
    basic::{Compression, ZstdLevel},
    file::{
        metadata::{KeyValue, PageIndexPolicy},
        properties::{CdcOptions, EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

use super::Contract;
use crate::{
    atomic::Staged,
    storage::{self, File},
};

/// Footer key that names the table and its version.
const TABLE_KEY: &str = "cgil.table";

/// Footer key under which the datasets library keeps the columns' features.
pub(crate) const HUGGING_FACE_KEY: &str = "huggingface";

/// Rows per batch when reading.
const BATCH_ROWS: usize = 1024;

/// Footer key-values beside the table's name and version.
pub type Footer = Vec<(String, String)>;

/// Builds the rows of a table from its columns, in the contract's order.
pub fn rows(contract: &Contract, dim: usize, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(contract.schema(dim), columns).with_context(|| format!("rows of table {}", contract.name))
}

/// A vector column from `values` (rows × dim, flat).
pub fn vectors(values: Vec<f32>, dim: usize) -> ArrayRef {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    Arc::new(FixedSizeListArray::new(item, dim as i32, Arc::new(Float32Array::from(values)), None))
}

/// A vector column of so many `rows`, of which the first have `values` (flat), and the others none.
pub fn vectors_or_null(mut values: Vec<f32>, dim: usize, rows: usize) -> ArrayRef {
    let there = values.len() / dim;
    values.resize(rows * dim, 0.0);
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let nulls = NullBuffer::from_iter((0..rows).map(|row| row < there));
    Arc::new(FixedSizeListArray::new(item, dim as i32, Arc::new(Float32Array::from(values)), Some(nulls)))
}

/// Writes a file of a table.
pub fn write(path: &Path, contract: &Contract, rows: &RecordBatch, footer: &Footer) -> Result<()> {
    stage(path, contract, rows, footer)?.put()
}

/// As [`write`], not yet in its place.
pub(crate) fn stage(path: &Path, contract: &Contract, rows: &RecordBatch, footer: &Footer) -> Result<Staged> {
    let table = (TABLE_KEY.to_owned(), format!("{} {}", contract.name, contract.version));
    let footer: Footer = [table].into_iter().chain(footer.iter().cloned()).collect();
    stage_rows(path, rows, &footer, None)
}

/// Writes a file of no table of this program. With `chunks` its pages end where their contents say
/// so, and not after so many rows: what keeps blocks by their contents keeps those of equal rows
/// once.
pub(crate) fn write_rows(path: &Path, rows: &RecordBatch, footer: &Footer, chunks: Option<CdcOptions>) -> Result<()> {
    stage_rows(path, rows, footer, chunks)?.put()
}

fn stage_rows(path: &Path, rows: &RecordBatch, footer: &Footer, chunks: Option<CdcOptions>) -> Result<Staged> {
    let pairs = footer.iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect();
    let mut properties = WriterProperties::builder()
        .set_key_value_metadata(Some(pairs))
        .set_content_defined_chunking(chunks)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?));
    for field in rows.schema().fields() {
        if let DataType::FixedSizeList(item, _) = field.data_type() {
            // random mantissas neither compress nor repeat
            let leaf = ColumnPath::new(vec![field.name().clone(), "list".into(), item.name().clone()]);
            properties = properties
                .set_column_compression(leaf.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(leaf.clone(), false)
                .set_column_statistics_enabled(leaf, EnabledStatistics::None);
        }
    }
    // pyarrow, and so the datasets library, looks for this key in the Arrow schema alone
    let for_datasets: HashMap<String, String> =
        footer.iter().filter(|(key, _)| key == HUGGING_FACE_KEY).cloned().collect();
    let rows = rows.clone().with_schema(Arc::new(rows.schema().as_ref().clone().with_metadata(for_datasets)))?;
    Staged::write(path, |file| {
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties.build()))?;
        writer.write(&rows)?;
        writer.close()?;
        Ok(())
    })
}

/// Opens `columns` of a file of a table, after checking it against the table's contract; vectors
/// have `dim` values.
pub fn open(path: &Path, contract: &Contract, dim: usize, columns: &[&str]) -> Result<ParquetRecordBatchReader> {
    let builder = checked(path, contract, dim)?;
    let columns = projection(&builder, columns);
    let builder = builder.with_projection(columns).with_batch_size(BATCH_ROWS);
    builder.build().with_context(|| format!("cannot read {}", path.display()))
}

/// As [`open`], of the rows whose integer in the column `key` is `wanted`; of other columns, pages
/// without such rows are not read.
pub(crate) fn open_where(
    path: &Path,
    contract: &Contract,
    dim: usize,
    columns: &[&str],
    key: &str,
    wanted: impl Fn(i64) -> bool + Send + 'static,
) -> Result<ParquetRecordBatchReader> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let builder = checked(path, contract, dim)?;
    let key_only = ProjectionMask::columns(builder.parquet_schema(), [key]);
    let filter = ArrowPredicateFn::new(key_only, move |batch| {
        let keys = batch.column(0).as_primitive::<Int64Type>().values();
        Ok(keys.iter().map(|&key| Some(wanted(key))).collect::<BooleanArray>())
    });
    let columns = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let file = storage::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
    let builder = builder.with_projection(columns).with_batch_size(BATCH_ROWS);
    let builder = builder.with_row_filter(RowFilter::new(vec![Box::new(filter)]));
    builder.build().with_context(|| format!("cannot read {}", path.display()))
}

/// Opens a file of a table, after checking it against the table's contract.
fn checked(path: &Path, contract: &Contract, dim: usize) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let builder = builder(path)?;
    let expected = format!("{} {}", contract.name, contract.version);
    match footer_value(&builder, TABLE_KEY) {
        Some(found) if found == expected => {}
        found => bail!(
            "{} should be table {expected} by its footer, but is {}; it was not written by this version of cgil",
            path.display(),
            found.map_or("none of cgil's tables".to_owned(), |f| format!("table {f}"))
        ),
    }
    contract.check(path, builder.schema(), dim)?;
    Ok(builder)
}

/// Reads all rows of a file of a table into one batch.
pub fn read(path: &Path, contract: &Contract, dim: usize) -> Result<RecordBatch> {
    let columns: Vec<&str> = contract.columns.iter().map(|c| c.name.as_str()).collect();
    let batches = open(path, contract, dim, &columns)?.collect::<Result<Vec<_>, _>>().with_context(|| {
        format!("{} is damaged: remove its directory, and run the stage that made it", path.display())
    })?;
    let schema = batches.first().map_or_else(|| contract.schema(dim), |b| b.schema());
    Ok(arrow::compute::concat_batches(&schema, &batches)?)
}

/// The columns of these names that a file has: by their places, since a name may have a dot in it.
pub fn projection(builder: &ParquetRecordBatchReaderBuilder<File>, columns: &[&str]) -> ProjectionMask {
    let places = columns.iter().filter_map(|name| builder.schema().index_of(name).ok());
    ProjectionMask::roots(builder.parquet_schema(), places)
}

/// Opens any Parquet file.
pub fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = storage::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    ParquetRecordBatchReaderBuilder::try_new(file)
        .with_context(|| format!("{} is not a Parquet file, or is damaged", path.display()))
}

/// A key-value of a file's footer.
pub(crate) fn footer_value(builder: &ParquetRecordBatchReaderBuilder<File>, key: &str) -> Option<String> {
    let pairs = builder.metadata().file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == key)?.value.clone()
}

/// A text column of a batch that keeps its contract.
pub fn text<'a>(batch: &'a RecordBatch, column: &str) -> impl Iterator<Item = &'a str> {
    batch[column].as_string::<i32>().iter().map(|value| value.unwrap_or_default())
}

/// An integer column of a batch that keeps its contract.
pub fn int64s<'a>(batch: &'a RecordBatch, column: &str) -> &'a [i64] {
    batch[column].as_primitive::<Int64Type>().values()
}

/// A vector column of a batch that keeps its contract, flat (rows × dim).
pub fn floats<'a>(batch: &'a RecordBatch, column: &str) -> &'a [f32] {
    let list = batch[column].as_fixed_size_list();
    let dim = list.value_length() as usize;
    &list.values().as_primitive::<Float32Type>().values()[list.offset() * dim..][..list.len() * dim]
}
