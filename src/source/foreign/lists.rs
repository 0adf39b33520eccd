//! Vectors as a column of lists in a Parquet file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float32Type, Schema},
};

use crate::table::file;

/// What a column of vectors is called where others are there, too.
const EMBEDDING: &str = "embedding";

/// A column of vectors.
pub struct Lists {
    pub file: PathBuf,
    /// The file below the data's directory.
    pub place: String,
    pub column: String,
    pub rows: usize,
}

impl Lists {
    /// The column of vectors of a file; none where it has no list of floats.
    pub fn find(path: &Path, place: &str) -> Result<Option<Self>> {
        let builder = file::builder(path)?;
        let schema = builder.schema();
        let lists: Vec<&str> = schema
            .fields()
            .iter()
            .filter(|field| is_vector(field.data_type()))
            .map(|field| field.name().as_str())
            .collect();
        let column = match lists[..] {
            _ if schema.field_with_name(EMBEDDING).is_ok() => EMBEDDING,
            [] => return Ok(None),
            [column] => column,
            _ => bail!(
                "{} has several columns of vectors ({}): call the one that is meant {EMBEDDING:?}",
                path.display(),
                lists.join(", ")
            ),
        };
        let found = schema.field_with_name(column)?.data_type();
        if !is_vector(found) {
            bail!(
                "{}: column {column:?} should be a list of float16, float32 or float64, but is {found}",
                path.display()
            );
        }
        let rows = usize::try_from(builder.metadata().file_metadata().num_rows())?;
        Ok(Some(Lists { file: path.to_owned(), place: place.to_owned(), column: column.to_owned(), rows }))
    }

    /// Says that a file has no column of vectors.
    pub fn missing(path: &Path, schema: &Schema) -> anyhow::Error {
        let have: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        anyhow::anyhow!(
            "{} has no column {EMBEDDING:?} (it has: {}); expected lists of floats there, and label, class_name and \
             split beside them",
            path.display(),
            have.join(", ")
        )
    }

    /// Calls `each` with every vector.
    pub fn read(&self, mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let builder = file::builder(&self.file)?;
        let mask = file::projection(&builder, &[&self.column]);
        let mut first = 0;
        for batch in builder.with_projection(mask).build()? {
            let batch = batch.with_context(|| format!("{} is damaged near row {first}", self.file.display()))?;
            let lists = batch.column(0);
            let (values, bounds) = flatten(lists)?;
            for i in 0..batch.num_rows() {
                let place = || format!("{} row {}", self.place, first + i);
                if lists.is_null(i) {
                    bail!("{}: {} is null", place(), self.column);
                }
                let (start, end) = bounds(i);
                if values.slice(start, end - start).null_count() > 0 {
                    bail!("{}: the embedding has a null", place());
                }
                each(&values.as_primitive::<Float32Type>().values()[start..end])?;
            }
            first += batch.num_rows();
        }
        Ok(())
    }
}

fn is_vector(kind: &DataType) -> bool {
    match kind {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            item.data_type().is_floating()
        }
        _ => false,
    }
}

type Bounds<'a> = Box<dyn Fn(usize) -> (usize, usize) + 'a>;

/// The values of a list column as float32, and where each row's begin and end.
fn flatten(lists: &ArrayRef) -> Result<(ArrayRef, Bounds<'_>)> {
    let (values, bounds): (&ArrayRef, Bounds) = match lists.data_type() {
        DataType::FixedSizeList(_, n) => {
            let (list, n) = (lists.as_fixed_size_list(), *n as usize);
            (list.values(), Box::new(move |i| (n * (list.offset() + i), n * (list.offset() + i + 1))))
        }
        DataType::LargeList(_) => {
            let list = lists.as_list::<i64>();
            (list.values(), Box::new(move |i| (list.value_offsets()[i] as usize, list.value_offsets()[i + 1] as usize)))
        }
        _ => {
            let list = lists.as_list::<i32>();
            (list.values(), Box::new(move |i| (list.value_offsets()[i] as usize, list.value_offsets()[i + 1] as usize)))
        }
    };
    Ok((cast(values, &DataType::Float32)?, bounds))
}
