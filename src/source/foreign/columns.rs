//! What stands beside vectors, one value a row: labels, names, splits, ids.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{Array as _, ArrayRef, AsArray, StringArray},
    compute::{cast, concat},
    datatypes::{DataType, UInt64Type},
};

use super::{
    super::{class_names::records, labels::is_text},
    array::Array,
    words::{self, Role},
};
use crate::{storage, table::file, words::counted};

/// A value for each row: Int64 or Utf8.
#[derive(Clone)]
pub struct Column {
    /// Where it is from, for people.
    pub place: String,
    pub name: String,
    pub values: ArrayRef,
}

/// The column that is called by one of `names`, the first of them that there is.
pub fn column<'a>(columns: &'a [Column], names: &[&str]) -> Option<&'a Column> {
    names.iter().find_map(|name| columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)))
}

/// An error where a value is missing.
pub fn require_values(column: &Column) -> Result<()> {
    if let Some(i) = (0..column.values.len()).find(|&i| column.values.is_null(i)) {
        bail!("{} row {i}: {} is null", column.place, column.name);
    }
    Ok(())
}

/// Where columns are from.
pub enum Beside {
    Array(Array, Role),
    Csv { file: PathBuf, place: String },
    Parquet { file: PathBuf, place: String },
}

impl Beside {
    pub fn place(&self) -> &str {
        match self {
            Beside::Array(array, _) => &array.place,
            Beside::Csv { place, .. } | Beside::Parquet { place, .. } => place,
        }
    }

    pub fn file(&self) -> &Path {
        match self {
            Beside::Array(array, _) => &array.file,
            Beside::Csv { file, .. } | Beside::Parquet { file, .. } => file,
        }
    }

    /// The columns for `rows` vectors at the place `of`.
    pub fn columns(&self, of: &str, rows: usize, wanted: &[&str]) -> Result<Vec<Column>> {
        let place = self.place().to_owned();
        let columns = match self {
            Beside::Array(array, role) => {
                let name = match role {
                    Role::Labels => words::LABEL[0],
                    Role::ClassNames => words::CLASS_NAME[0],
                    Role::Splits => words::SPLIT[0],
                    Role::Ids => words::ID[0],
                };
                let values = array.as_column().with_context(|| array.file.display().to_string())?;
                vec![Column { place, name: name.to_owned(), values }]
            }
            Beside::Csv { file, .. } => csv(file, &place, rows)?,
            Beside::Parquet { file, .. } => parquet(file, &place, wanted)?,
        };
        for column in &columns {
            let found = column.values.len();
            if found != rows {
                let found = counted(found, "row");
                bail!("{} has {found}, but {of} has {rows}: each row needs its own", column.place);
            }
        }
        Ok(columns)
    }
}

/// The columns of a CSV file. It may do without a header where it has one column.
fn csv(file: &Path, place: &str, rows: usize) -> Result<Vec<Column>> {
    let text = storage::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut records = records(text.trim_start_matches('\u{feff}'));
    let known =
        |name: &String| words::LABEL.iter().chain(&words::CLASS_NAME).any(|known| known.eq_ignore_ascii_case(name));
    let has_header = |first: &Vec<String>| records.len() == rows + 1 || first.iter().any(known);
    let header = match records.first() {
        None => bail!("{} is empty", file.display()),
        Some(first) if has_header(first) => records.remove(0),
        Some(first) if first.len() == 1 => vec![words::LABEL[0].to_owned()],
        Some(first) => bail!(
            "{} has no header: its first line should name the columns, such as label,class_name, but is {}",
            file.display(),
            first.join(",")
        ),
    };
    if let Some(i) = records.iter().position(|record| record.len() != header.len()) {
        let found = counted(records[i].len(), "value");
        bail!("{} row {i} has {found}, but the header {}", file.display(), header.len());
    }
    let column = |(j, name): (usize, String)| {
        let values = records.iter().map(|record| Some(record[j].as_str()).filter(|value| !value.is_empty()));
        Column { place: place.to_owned(), name, values: Arc::new(values.collect::<StringArray>()) }
    };
    Ok(header.into_iter().enumerate().map(column).collect())
}

/// Those columns of a Parquet file that are `wanted`, in any case.
pub fn parquet(path: &Path, place: &str, wanted: &[&str]) -> Result<Vec<Column>> {
    let builder = file::builder(path)?;
    let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
    let mut names = Vec::new();
    for field in builder.schema().fields().iter().filter(|field| is_wanted(field.name())) {
        let kind = field.data_type();
        if !kind.is_integer() && !is_text(kind) {
            bail!("{}: column {:?} should be an integer or text, but is {kind}", path.display(), field.name());
        }
        names.push(field.name().clone());
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mask = file::projection(&builder, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut parts: Vec<Vec<ArrayRef>> = vec![Vec::new(); names.len()];
    let mut first = 0;
    for batch in builder.with_projection(mask).build()? {
        let batch = batch.with_context(|| format!("{} is damaged near row {first}", path.display()))?;
        for (name, parts) in names.iter().zip(&mut parts) {
            parts.push(plain(&batch[name.as_str()], &format!("{place} row"), first)?);
        }
        first += batch.num_rows();
    }
    let column = |(name, parts): (String, Vec<ArrayRef>)| {
        let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
        let values = if parts.is_empty() { Arc::new(StringArray::new_null(0)) } else { concat(&parts)? };
        Ok(Column { place: place.to_owned(), name, values })
    };
    names.into_iter().zip(parts).map(column).collect()
}

/// Integers as Int64, texts as Utf8.
fn plain(values: &ArrayRef, place: &str, first: usize) -> Result<ArrayRef> {
    if !values.data_type().is_integer() {
        return Ok(cast(values, &DataType::Utf8)?);
    }
    if let DataType::UInt64 = values.data_type() {
        let values = values.as_primitive::<UInt64Type>();
        let beyond = |i: &usize| values.is_valid(*i) && i64::try_from(values.value(*i)).is_err();
        if let Some(i) = (0..values.len()).find(beyond) {
            bail!("{place} {}: {} is more than {}, the largest that is kept", first + i, values.value(i), i64::MAX);
        }
    }
    Ok(cast(values, &DataType::Int64)?)
}
