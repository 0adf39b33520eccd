//! SQL over the tables of a run, through Polars.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use cgil::{query::Tables, run::Run};
use clap::{Args, ValueEnum};
use polars::prelude::{AnyValue, DataFrame, PolarsResult};
use polars_io::{SerWriter, csv::write::CsvWriter};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// What to ask of the tables and views of schemas/README.md, such as embeddings, metrics,
    /// class_accuracy, confusion
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
    let tables = Tables::open(&Run::open(&options.run, terminal::note)?)?;
    for reason in &tables.left_out {
        terminal::note(&format!("note: left out: {reason}"));
    }
    let mut answer = tables.sql(&options.sql)?;
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
            let rows = (0..answer.height()).map(|row| Row::new(answer, row)).collect::<PolarsResult<Vec<_>>>()?;
            serde_json::to_writer(&mut out, &rows)?;
            out.push(b'\n');
        }
    }
    Ok(out)
}

/// A row of an answer, as an object in JSON.
struct Row<'a>(Vec<(&'a str, Cell<'a>)>);

struct Cell<'a>(AnyValue<'a>);

impl<'a> Row<'a> {
    fn new(answer: &'a DataFrame, row: usize) -> PolarsResult<Self> {
        let cells = answer.columns().iter().map(|column| Ok((column.name().as_str(), Cell(column.get(row)?))));
        Ok(Row(cells.collect::<PolarsResult<_>>()?))
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (name, cell) in &self.0 {
            object.serialize_entry(name, cell)?;
        }
        object.end()
    }
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            AnyValue::Null => serializer.serialize_none(),
            AnyValue::Boolean(value) => serializer.serialize_bool(*value),
            AnyValue::Float32(value) => serializer.serialize_f32(*value),
            AnyValue::Float64(value) => serializer.serialize_f64(*value),
            AnyValue::List(values) | AnyValue::Array(values, _) => serializer.collect_seq(values.iter().map(Cell)),
            number if number.is_integer() => match number.extract::<i64>() {
                Some(value) => serializer.serialize_i64(value),
                None => serializer.collect_str(number),
            },
            text => match text.get_str() {
                Some(text) => serializer.serialize_str(text),
                None => serializer.collect_str(text),
            },
        }
    }
}
