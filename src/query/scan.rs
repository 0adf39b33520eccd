//! Files of a table as Polars takes them, read with the `parquet` crate as everywhere else:
//! Polars's own reader would be a second one, and brings a client of object stores with it.

use std::{
    any::Any,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType as ArrowType, Float32Type, Float64Type, Int64Type, Schema as ArrowSchema, SchemaRef},
};
use polars::prelude::{
    AnonymousScan, AnonymousScanArgs, BooleanChunked, Column, DataFrame, DataType, Float32Chunked, Float64Chunked,
    Int64Chunked, IntoColumn, IntoSeries, LazyFrame, NewChunkedArray, PolarsError, PolarsResult, ReshapeDimension,
    ScanArgsAnonymous, Schema, StringChunked,
};
use rayon::prelude::*;

use crate::table::{Contract, file};

/// The rows of a table's files. Only the columns that a query asks for are read.
pub struct Scan {
    table: &'static Contract,
    files: Vec<PathBuf>,
    /// Values of a vector.
    dim: usize,
    /// The table's columns, and those that files have beside them.
    schema: SchemaRef,
}

impl Scan {
    /// Of files that are whole; an error names the one that is not. No file has no rows. A file has
    /// nulls in the columns that others have beside the table's.
    pub fn new(table: &'static Contract, files: Vec<PathBuf>) -> Result<Self> {
        let mut dim = 1;
        let mut kept = ArrowSchema::empty();
        for (i, path) in files.iter().enumerate() {
            let builder = file::builder(path)?;
            if i == 0 {
                let vector = builder.schema().fields().iter().find_map(|field| match field.data_type() {
                    ArrowType::FixedSizeList(_, dim) => Some(*dim as usize),
                    _ => None,
                });
                dim = vector.unwrap_or(dim);
            }
            let own = |name: &str| table.columns.iter().any(|column| column.name == name);
            let others = builder.schema().fields().iter().filter(|field| !own(field.name())).cloned();
            let others = ArrowSchema::new(others.collect::<Vec<_>>());
            kept = ArrowSchema::try_merge([kept, others]).with_context(|| {
                format!("{} has a column that files before it have of another type", path.display())
            })?;
        }
        let fields = table.schema(dim).fields().iter().chain(kept.fields()).cloned().collect::<Vec<_>>();
        Ok(Scan { table, files, dim, schema: Arc::new(ArrowSchema::new(fields)) })
    }

    /// The rows as queries see them.
    pub fn frame(self) -> PolarsResult<LazyFrame> {
        let columns = self.schema.fields().iter().map(|f| (f.name().as_str().into(), data_type(f.data_type())));
        let schema = Some(Arc::new(columns.collect::<Schema>()));
        LazyFrame::anonymous_scan(Arc::new(self), ScanArgsAnonymous { schema, ..Default::default() })
    }

    /// `columns` of the first rows of a file, `n` or more if it has as many.
    fn read(&self, path: &Path, columns: &[&str], n: usize) -> Result<DataFrame> {
        let mut batches = Vec::new();
        let mut rows = 0;
        for batch in file::open(path, self.table, self.dim, columns)? {
            let batch = batch?;
            rows += batch.num_rows();
            batches.push(batch);
            if rows >= n {
                break;
            }
        }
        let columns = columns.iter().map(|name| self.column(name, &batches, rows));
        Ok(DataFrame::new(rows, columns.collect::<PolarsResult<_>>()?)?)
    }

    fn column(&self, name: &str, batches: &[RecordBatch], rows: usize) -> PolarsResult<Column> {
        let kind = self.schema.field_with_name(name).map_err(|e| PolarsError::ColumnNotFound(e.to_string().into()))?;
        if rows > 0 && batches.iter().all(|batch| batch.column_by_name(name).is_none()) {
            return Ok(Column::full_null(name.into(), rows, &data_type(kind.data_type())));
        }
        let columns = || batches.iter().map(|batch| &batch[name]);
        Ok(match kind.data_type() {
            ArrowType::Int64 => {
                let values = columns().flat_map(|column| column.as_primitive::<Int64Type>());
                Int64Chunked::from_iter_options(name.into(), values).into_column()
            }
            ArrowType::Float32 => {
                let values = columns().flat_map(|column| column.as_primitive::<Float32Type>());
                Float32Chunked::from_iter_options(name.into(), values).into_column()
            }
            ArrowType::Float64 => {
                let values = columns().flat_map(|column| column.as_primitive::<Float64Type>());
                Float64Chunked::from_iter_options(name.into(), values).into_column()
            }
            ArrowType::Boolean => {
                let values = columns().flat_map(|column| column.as_boolean());
                BooleanChunked::from_iter_options(name.into(), values).into_column()
            }
            ArrowType::FixedSizeList(..) => {
                let mut values = Vec::with_capacity(rows * self.dim);
                batches.iter().for_each(|batch| values.extend_from_slice(file::floats(batch, name)));
                let shape = [rows, self.dim].map(|n| ReshapeDimension::new_dimension(n as u64));
                Float32Chunked::from_vec(name.into(), values).into_series().reshape_array(&shape)?.into_column()
            }
            _ => {
                let values = columns().flat_map(|column| column.as_string::<i32>());
                StringChunked::from_iter_options(name.into(), values).into_column()
            }
        })
    }
}

impl AnonymousScan for Scan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn scan(&self, asked: AnonymousScanArgs) -> PolarsResult<DataFrame> {
        let columns: Vec<&str> = match &asked.with_columns {
            Some(names) => names.iter().map(|name| name.as_str()).collect(),
            None => self.schema.fields().iter().map(|field| field.name().as_str()).collect(),
        };
        let n = asked.n_rows.unwrap_or(usize::MAX);
        let read = |path: &PathBuf| {
            let rows = self.read(path, &columns, n);
            rows.map_err(|e| PolarsError::ComputeError(format!("{}: {e:#}", path.display()).into()))
        };
        let mut frames = self.files.par_iter().map(read).collect::<PolarsResult<Vec<_>>>()?.into_iter();
        let Some(mut all) = frames.next() else {
            let none: PolarsResult<_> = columns.iter().map(|name| self.column(name, &[], 0)).collect();
            return DataFrame::new(0, none?);
        };
        for rows in frames {
            all.vstack_mut_owned(rows)?;
        }
        Ok(if all.height() > n { all.head(Some(n)) } else { all })
    }

    fn allows_projection_pushdown(&self) -> bool {
        true
    }
}

fn data_type(arrow: &ArrowType) -> DataType {
    match arrow {
        ArrowType::Boolean => DataType::Boolean,
        ArrowType::Int64 => DataType::Int64,
        ArrowType::Float32 => DataType::Float32,
        ArrowType::Float64 => DataType::Float64,
        ArrowType::FixedSizeList(item, n) => DataType::Array(Box::new(data_type(item.data_type())), *n as usize),
        _ => DataType::String,
    }
}
