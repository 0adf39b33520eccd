//! The user's own columns that go through to the table of embeddings.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use serde::{Deserialize, Serialize};

use super::names::some_of;
use crate::{choice::choices, table::contract};

/// Which columns are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Keep {
    /// None.
    #[default]
    None,
    /// All that hold plain values.
    All,
    /// Those of these names.
    Columns(Vec<String>),
}

choices! {
    /// What the values of a kept column are, as the table has them.
    pub enum KeptType {
        Text = "string": "Text, and what is written as such: times and decimals",
        Integer = "int64": "Integers of any width",
        Number = "float64": "Floating-point numbers of any width",
        Truth = "bool": "True or false",
    }
}

/// A kept column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptColumn {
    /// Its name in the source and in the table.
    pub name: String,
    /// By the name that the datasets library has for it.
    pub dtype: KeptType,
}

impl KeptType {
    /// The type that values of a column become; none where they are no plain values.
    fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(KeptType::Text),
            DataType::Boolean => Some(KeptType::Truth),
            DataType::Dictionary(_, values) => KeptType::of(values),
            other if other.is_integer() => Some(KeptType::Integer),
            other if other.is_floating() => Some(KeptType::Number),
            other if other.is_temporal() || other.is_decimal() => Some(KeptType::Text),
            _ => None,
        }
    }

    fn arrow(self) -> DataType {
        match self {
            KeptType::Text => DataType::Utf8,
            KeptType::Integer => DataType::Int64,
            KeptType::Number => DataType::Float64,
            KeptType::Truth => DataType::Boolean,
        }
    }
}

/// The columns of a source at `path` that are kept, and notes about those that are not.
pub fn choose(path: &Path, keep: &Keep, columns: &[Field]) -> Result<(Vec<KeptColumn>, Vec<String>)> {
    let own = |name: &str| contract::embeddings().columns.iter().any(|column| column.name == name);
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    let asked: Vec<&Field> = match keep {
        Keep::None => return Ok((kept, Vec::new())),
        Keep::All => columns.iter().collect(),
        Keep::Columns(names) => names
            .iter()
            .map(|name| {
                let found = columns.iter().find(|field| field.name() == name);
                found.with_context(|| {
                    let all = some_of(columns.iter().map(|field| format!("{:?}", field.name())));
                    let all = if all.is_empty() { "none".to_owned() } else { all };
                    format!("{} has no column {name:?} that could be kept; it has {all}", path.display())
                })
            })
            .collect::<Result<_>>()?,
    };
    for field in asked {
        let why = match KeptType::of(field.data_type()) {
            _ if own(field.name()) => "a name of the table's own".to_owned(),
            None => field.data_type().to_string(),
            Some(dtype) => {
                kept.push(KeptColumn { name: field.name().clone(), dtype });
                continue;
            }
        };
        if *keep != Keep::All {
            bail!("{}: column {:?} cannot be kept: {why}", path.display(), field.name());
        }
        left_out.push(format!("{:?} ({why})", field.name()));
    }
    let notes = if left_out.is_empty() { Vec::new() } else { vec![format!("columns not kept: {}", some_of(left_out))] };
    Ok((kept, notes))
}

/// The schema of kept columns.
pub fn schema(kept: &[KeptColumn]) -> SchemaRef {
    let field = |column: &KeptColumn| Field::new(&column.name, column.dtype.arrow(), true);
    Arc::new(Schema::new(kept.iter().map(field).collect::<Vec<_>>()))
}

/// Values as the table has them.
pub fn normalised(kept: &[KeptColumn], values: &RecordBatch) -> Result<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let column = |column: &KeptColumn| -> Result<ArrayRef> {
        let values = &values[column.name.as_str()];
        let cast = match values.data_type() {
            // of a zone, as of UTC
            DataType::Timestamp(unit, Some(_)) => cast_with_options(values, &DataType::Timestamp(*unit, None), &strict)
                .and_then(|values| cast_with_options(&values, &DataType::Utf8, &strict))
                .map(|values| {
                    Arc::new(
                        values.as_string::<i32>().iter().map(|x| Some(format!("{}Z", x?))).collect::<StringArray>(),
                    ) as ArrayRef
                }),
            _ => cast_with_options(values, &column.dtype.arrow(), &strict),
        };
        cast.with_context(|| format!("column {:?} does not fit into {}", column.name, column.dtype))
    };
    let columns = kept.iter().map(column).collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(values.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema(kept), columns, &options)?)
}
