//! SQL over the tables of a run, through Polars.

use std::path::Path;

use anyhow::{Context, Result, bail};
use arrow::datatypes as arrow;
use polars::{
    prelude::{DataFrame, DataType, IntoLazy, LazyFrame, PlRefPath, PolarsResult, ScanArgsParquet},
    sql::SQLContext,
};

use crate::table::{Contract, contract, file, views};

/// The tables and views of a run.
pub struct Tables {
    context: SQLContext,
}

impl Tables {
    /// All tables of the run; one that no file has been written of is empty.
    pub fn open(run: &Path) -> Result<Self> {
        if !run.join("embeddings/manifest.json").is_file() {
            bail!("{} is not a run's directory: it has no embeddings/manifest.json", run.display());
        }
        let mut context = SQLContext::new();
        for table in contract::on_disk() {
            context.register(&table.name, frame(table, run)?);
        }
        for view in views::all() {
            let frame = context.execute(&view.sql).with_context(|| format!("view {}", view.name))?;
            context.register(&view.name, frame);
        }
        Ok(Tables { context })
    }

    /// The answer to a query.
    pub fn sql(&mut self, sql: &str) -> Result<DataFrame> {
        self.context.execute(sql).and_then(LazyFrame::collect).context("the query failed")
    }
}

/// A text column of an answer; null is empty.
pub fn texts(answer: &DataFrame, column: &str) -> Result<Vec<String>> {
    let values = answer.column(column)?.str().with_context(|| format!("column {column} holds no text"))?;
    Ok(values.iter().map(|value| value.unwrap_or_default().to_owned()).collect())
}

/// A column of numbers of an answer; null is NaN.
pub fn numbers(answer: &DataFrame, column: &str) -> Result<Vec<f64>> {
    let values = answer.column(column)?.cast(&DataType::Float64)?;
    Ok(values.f64()?.iter().map(|value| value.unwrap_or(f64::NAN)).collect())
}

/// Texts as a list in a query: `'a', 'b'`.
pub fn quoted(texts: &[String]) -> String {
    texts.iter().map(|text| format!("'{}'", text.replace('\'', "''"))).collect::<Vec<_>>().join(", ")
}

/// A table of the run; one without rows where no file has been written.
fn frame(table: &Contract, run: &Path) -> Result<LazyFrame> {
    let files = table.files(run);
    if files.is_empty() {
        let columns =
            table.schema(1).fields().iter().map(|f| (f.name().as_str().into(), data_type(f.data_type()))).collect();
        return Ok(DataFrame::empty_with_schema(&columns).lazy());
    }
    for path in &files {
        file::builder(path)?; // Polars would not say which one is damaged
    }
    let files = files.iter().map(|file| PlRefPath::try_from_path(file)).collect::<PolarsResult<_>>()?;
    LazyFrame::scan_parquet_files(files, ScanArgsParquet { glob: false, ..Default::default() })
        .with_context(|| format!("cannot read table {}", table.name))
}

fn data_type(arrow: &arrow::DataType) -> DataType {
    match arrow {
        arrow::DataType::Int64 => DataType::Int64,
        arrow::DataType::Float32 => DataType::Float32,
        arrow::DataType::Float64 => DataType::Float64,
        arrow::DataType::FixedSizeList(item, n) => DataType::Array(Box::new(data_type(item.data_type())), *n as usize),
        _ => DataType::String,
    }
}
