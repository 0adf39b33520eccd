//! A file of records, CSV, TSV, JSON lines or Parquet, as columns.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
        UInt32Array, new_null_array,
    },
    compute::{cast, concat_batches, take_record_batch},
    datatypes::{DataType, Field, Schema},
};
use serde_json::{Map, Value};

use super::{names::has_extension, table_file};
use crate::storage;

/// Whether a file is one of records by its name.
pub fn is_known(path: &Path) -> bool {
    ["csv", "tsv", "jsonl", "ndjson", "parquet"].iter().any(|extension| has_extension(path, extension))
}

/// All records of a file. A column of CSV or JSON lines holds integers, numbers or truth values where
/// all of its values are some, else text; what is empty is null.
pub fn read(path: &Path) -> Result<RecordBatch> {
    if has_extension(path, "parquet") {
        return parquet(path);
    }
    let columns = match has_extension(path, "csv") || has_extension(path, "tsv") {
        true => separated(path)?,
        false => json_lines(path)?,
    };
    batch(columns).with_context(|| path.display().to_string())
}

/// Columns by their names, in order.
pub fn batch(columns: Vec<(String, Vec<Value>)>) -> Result<RecordBatch> {
    let rows = columns.first().map_or(0, |(_, values)| values.len());
    let arrays: Vec<(String, ArrayRef)> = columns.into_iter().map(|(name, values)| (name, array(&values))).collect();
    let fields: Vec<Field> =
        arrays.iter().map(|(name, array)| Field::new(name, array.data_type().clone(), true)).collect();
    let arrays = arrays.into_iter().map(|(_, array)| array).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

fn parquet(path: &Path) -> Result<RecordBatch> {
    let (schema, _) = table_file::schema(path)?;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let batches = table_file::all(path, &names)?.collect::<Result<Vec<_>>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

fn separated(path: &Path) -> Result<Vec<(String, Vec<Value>)>> {
    let delimiter = if has_extension(path, "tsv") { b'\t' } else { b',' };
    let reader = csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_path(path);
    let mut reader = reader.with_context(|| format!("cannot open {}", path.display()))?;
    let what = || format!("{} is no table of comma-separated values with a header", path.display());
    let header = reader.headers().with_context(what)?.clone();
    let mut columns: Vec<(String, Vec<Value>)> =
        header.iter().map(|name| (name.trim_start_matches('\u{feff}').to_owned(), Vec::new())).collect();
    for (i, (name, _)) in columns.iter().enumerate() {
        if columns[..i].iter().any(|(before, _)| before == name) {
            bail!("{}: two columns are called {name:?}", path.display());
        }
    }
    for record in reader.records() {
        for ((_, values), value) in columns.iter_mut().zip(record.with_context(what)?.iter()) {
            values.push(if value.is_empty() { Value::Null } else { value.into() });
        }
    }
    for (_, values) in &mut columns {
        as_numbers(values);
    }
    Ok(columns)
}

/// Texts that are all written as numbers become such.
fn as_numbers(values: &mut [Value]) {
    let integer = |text: &str| text.parse::<i64>().ok().filter(|number| number.to_string() == text).map(Value::from);
    // those that are written back alike
    let number = |text: &str| match text.parse::<i64>() {
        Ok(whole) if is_exact(whole) && whole.to_string() == text => Some(Value::from(whole as f64)),
        _ => text.parse::<f64>().ok().filter(|number| format!("{number:?}") == text).map(Value::from),
    };
    for parse in [&integer as &dyn Fn(&str) -> Option<Value>, &number] {
        let parsed: Option<Vec<Value>> =
            values.iter().map(|value| value.as_str().map_or(Some(Value::Null), parse)).collect();
        if let Some(parsed) = parsed {
            return values.clone_from_slice(&parsed);
        }
    }
}

/// Whether a float64 has the value of an integer.
fn is_exact(whole: i64) -> bool {
    whole.unsigned_abs() <= 1 << 53
}

fn json_lines(path: &Path) -> Result<Vec<(String, Vec<Value>)>> {
    let file = storage::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut records: Vec<Map<String, Value>> = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("{} line {} is not text", path.display(), i + 1))?;
        if !line.trim().is_empty() {
            let record = serde_json::from_str(&line);
            records.push(record.with_context(|| format!("{} line {} is no JSON object", path.display(), i + 1))?);
        }
    }
    Ok(columns_of(records))
}

/// Records of several files, which may have other columns; what a file lacks is null. A column of
/// several types is of numbers where all are, else of text.
pub fn together(files: Vec<RecordBatch>) -> Result<RecordBatch> {
    let mut fields: Vec<(String, DataType)> = Vec::new();
    for (field, column) in files.iter().flat_map(|file| fields_of(file).into_iter().zip(file.columns())) {
        let found = (column.null_count() < column.len()).then(|| field.data_type().clone());
        match fields.iter_mut().find(|(name, _)| name == field.name()) {
            Some((_, known)) => *known = found.map_or(known.clone(), |found| common(known, &found)),
            None => fields.push((field.name().clone(), found.unwrap_or(DataType::Null))),
        }
    }
    let field = |(name, kind): (String, DataType)| {
        Field::new(name, if kind == DataType::Null { DataType::Utf8 } else { kind }, true)
    };
    let schema = Arc::new(Schema::new(fields.into_iter().map(field).collect::<Vec<_>>()));
    let widened = files.iter().map(|file| {
        let column = |field: &Arc<Field>| match file.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), file.num_rows())),
        };
        let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(file.num_rows()));
        RecordBatch::try_new_with_options(schema.clone(), columns, &options)
    });
    Ok(concat_batches(&schema, &widened.collect::<Result<Vec<_>, _>>()?)?)
}

/// The type that values of two types have together.
fn common(a: &DataType, b: &DataType) -> DataType {
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (DataType::Null, other) | (other, DataType::Null) => other.clone(),
        (a, b) if a.is_numeric() && b.is_numeric() => DataType::Float64,
        _ => DataType::Utf8,
    }
}

/// The columns of records.
pub fn fields_of(records: &RecordBatch) -> Vec<Field> {
    records.schema().fields().iter().map(|field| field.as_ref().clone()).collect()
}

/// Some columns of some records.
pub fn values(records: &RecordBatch, columns: &[&str], rows: &[u32]) -> Result<RecordBatch> {
    let places = columns.iter().map(|name| records.schema().index_of(name)).collect::<Result<Vec<_>, _>>()?;
    Ok(take_record_batch(&records.project(&places)?, &UInt32Array::from(rows.to_vec()))?)
}

/// The columns of records; what a record lacks is null.
pub fn columns_of(records: Vec<Map<String, Value>>) -> Vec<(String, Vec<Value>)> {
    let mut columns: Vec<(String, Vec<Value>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (row, record) in records.into_iter().enumerate() {
        for (name, value) in record {
            let place = *places.entry(name.clone()).or_insert_with(|| {
                columns.push((name, Vec::new()));
                columns.len() - 1
            });
            let values = &mut columns[place].1;
            values.resize(row, Value::Null);
            values.push(value);
        }
        columns.iter_mut().for_each(|(_, values)| values.resize(row + 1, Value::Null));
    }
    columns
}

fn array(values: &[Value]) -> ArrayRef {
    let given = || values.iter().filter(|value| !value.is_null());
    let some = given().next().is_some();
    match () {
        _ if some && given().all(Value::is_i64) => Arc::new(values.iter().map(Value::as_i64).collect::<Int64Array>()),
        _ if some && given().all(|value| value.is_f64() || value.as_i64().is_some_and(is_exact)) => {
            Arc::new(values.iter().map(Value::as_f64).collect::<Float64Array>())
        }
        _ if some && given().all(Value::is_boolean) => {
            Arc::new(values.iter().map(Value::as_bool).collect::<BooleanArray>())
        }
        _ => {
            let text = |value: &Value| match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            Arc::new(values.iter().map(text).collect::<StringArray>())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use arrow::array::Array;

    use super::*;

    #[test]
    fn a_column_is_what_all_its_values_are() {
        let dir = tempfile::tempdir().unwrap();
        let csv = "\u{feff}path,n,x,code,none\n\"a, b.png\",1,0.5,007,\nc.png,,2,08,\n";
        let jsonl = "{\"path\": \"a\", \"n\": 1, \"ok\": true}\n\n{\"path\": \"b\", \"list\": [1, 2], \"n\": 2.5}\n";
        for (name, text, expected) in [
            ("m.csv", csv, vec![DataType::Utf8, DataType::Int64, DataType::Float64, DataType::Utf8, DataType::Utf8]),
            ("m.jsonl", jsonl, vec![DataType::Utf8, DataType::Float64, DataType::Boolean, DataType::Utf8]),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
            let found = read(&dir.path().join(name)).unwrap();
            let types: BTreeMap<_, _> =
                found.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
            let order =
                if name == "m.csv" { ["path", "n", "x", "code", "none"] } else { ["path", "n", "ok", "list", ""] };
            let expected: BTreeMap<_, _> = order.iter().map(|n| (*n).to_owned()).zip(expected).collect();
            assert_eq!(types, expected, "{name}");
            assert_eq!(found.num_rows(), 2);
            assert_eq!(found["n"].null_count(), usize::from(name == "m.csv"));
        }
        fs::write(dir.path().join("m.csv"), "a,b\n1\n").unwrap();
        assert!(format!("{:#}", read(&dir.path().join("m.csv")).unwrap_err()).contains("m.csv"));
    }
}
