//! A file of records, CSV, TSV, JSON lines or Parquet, as columns.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{
        ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array,
        new_null_array,
    },
    compute::{concat_batches, take_record_batch},
    datatypes::{Field, Schema},
};
use serde_json::{Map, Value};

use super::{names::has_extension, table_file};

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
    let number = |text: &str| {
        let looks = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E');
        let is_plain = !(text.len() > 1 && text.starts_with('0') && !text.starts_with("0."));
        text.parse::<f64>().ok().filter(|n| n.is_finite() && is_plain && text.bytes().all(looks)).map(Value::from)
    };
    for parse in [&integer as &dyn Fn(&str) -> Option<Value>, &number] {
        let parsed: Option<Vec<Value>> =
            values.iter().map(|value| value.as_str().map_or(Some(Value::Null), parse)).collect();
        if let Some(parsed) = parsed {
            return values.clone_from_slice(&parsed);
        }
    }
}

fn json_lines(path: &Path) -> Result<Vec<(String, Vec<Value>)>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
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

/// Records of several files, which may have other columns; what a file lacks is null. An error where
/// a column is of several types.
pub fn together(files: Vec<RecordBatch>) -> Result<RecordBatch> {
    let schema = Schema::try_merge(files.iter().map(|file| file.schema().as_ref().clone()))
        .context("the files have columns of one name and several types")?;
    let schema = Arc::new(schema);
    let widened = files.iter().map(|file| {
        let column = |field: &Arc<Field>| match file.column_by_name(field.name()) {
            Some(column) => column.clone(),
            None => new_null_array(field.data_type(), file.num_rows()),
        };
        let columns = schema.fields().iter().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(file.num_rows()));
        RecordBatch::try_new_with_options(schema.clone(), columns, &options)
    });
    Ok(concat_batches(&schema, &widened.collect::<Result<Vec<_>, _>>()?)?)
}

/// The columns of records.
pub fn fields(records: &RecordBatch) -> Vec<Field> {
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
        _ if some && given().all(Value::is_number) => {
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

    use arrow::{array::Array, datatypes::DataType};

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
