//! SQL over the tables of a run, through Polars.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use cgil::query::Tables;
use clap::{Args, ValueEnum};
use polars::prelude::{CsvWriter, DataFrame, JsonFormat, JsonWriter, SerWriter};

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    /// What to ask of the tables and views of schemas/README.md, such as embeddings, metrics, class_accuracy, confusion
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
    let mut answer = Tables::open(&options.run)?.sql(&options.sql)?;
    terminal::print(render(&mut answer, options.format)?)
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
