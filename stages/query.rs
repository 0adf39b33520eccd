//! SQL over the tables of a run, through Polars.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use arrow::datatypes as arrow;
use cgil::table::{Contract, contract};
use clap::{Args, ValueEnum};
use polars::{
    prelude::{
        CsvWriter, DataFrame, DataType, IntoLazy, JsonFormat, JsonWriter, LazyFrame, PlRefPath, PolarsResult,
        ScanArgsParquet, SerWriter,
    },
    sql::SQLContext,
};

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    /// What to ask of the tables embeddings, quarantine, latents, text_features, predictions, metrics
    sql: String,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

pub fn run(options: &Options) -> Result<()> {
    if !options.run.join("embeddings/manifest.json").is_file() {
        bail!("{} is not a run's directory: it has no embeddings/manifest.json", options.run.display());
    }
    let mut context = SQLContext::new();
    for table in contract::on_disk() {
        context.register(&table.name, frame(table, &options.run)?);
    }
    let mut answer = context.execute(&options.sql).and_then(LazyFrame::collect).context("the query failed")?;
    terminal::print(render(&mut answer, options.format)?)
}

/// A table of the run; one without rows where no file has been written.
fn frame(table: &Contract, run: &Path) -> Result<LazyFrame> {
    let files = table.files(run);
    if files.is_empty() {
        let columns =
            table.schema(1).fields().iter().map(|f| (f.name().as_str().into(), data_type(f.data_type()))).collect();
        return Ok(DataFrame::empty_with_schema(&columns).lazy());
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

fn render(answer: &mut DataFrame, format: Format) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match format {
        Format::Table => {
            // all rows and columns, and texts as long as an error message
            for (limit, value) in [("MAX_ROWS", "-1"), ("MAX_COLS", "-1"), ("STR_LEN", "500")] {
                let limit = format!("POLARS_FMT_{limit}");
                if std::env::var_os(&limit).is_none() {
                    // Safety: the query is done, and no other thread reads the environment now.
                    unsafe { std::env::set_var(limit, value) };
                }
            }
            writeln!(out, "{answer}")?;
        }
        Format::Csv => CsvWriter::new(&mut out)
            .finish(answer)
            .context("CSV has no vectors: leave the embedding column out, or use --format json")?,
        Format::Json => {
            JsonWriter::new(&mut out).with_json_format(JsonFormat::Json).finish(answer)?;
            out.push(b'\n');
        }
    }
    Ok(out)
}
