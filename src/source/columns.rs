//! Which columns of a table hold the images and the labels, and what the labels' classes are called.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use arrow::datatypes::{DataType, Schema};
use serde_json::Value;

use super::{card, labels::is_text, options::SourceOptions, shards::is_image, table_file};

/// What the columns are usually called.
pub const IMAGE: &str = "image";
pub const LABEL: &str = "label";

/// Other names that label columns have.
pub const LABELS: [&str; 9] =
    ["labels", "fine_label", "coarse_label", "target", "class", "class_name", "cls", "category", "label_name"];

/// The columns that are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    pub image: String,
    pub label: String,
    /// The names of the classes, where labels are integers that count them; none where the labels
    /// are the classes' names, or integers without.
    pub names: Option<Vec<String>>,
}

impl Columns {
    /// Those of a file. Names that its schema lacks are taken from the data set's card, below
    /// `root` or beside it.
    pub fn of(path: &Path, root: &Path, options: &SourceOptions) -> Result<Columns> {
        let (schema, features) = table_file::schema(path)?;
        let features = features.get("info").and_then(|info| info.get("features")).cloned().unwrap_or_default();
        let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for field in schema.fields() {
            if let Some(names) = class_names_of(&features, field.name()) {
                let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
                let names = names
                    .with_context(|| format!("{}: a class name of {:?} is not text", path.display(), field.name()))?;
                named.insert(field.name().clone(), names);
            }
        }
        for (column, names) in card::class_names(path, root)? {
            named.entry(column).or_insert(names);
        }
        named.retain(|column, names| {
            !names.is_empty() && schema.field_with_name(column).is_ok_and(|field| field.data_type().is_integer())
        });
        let image = image_column(path, &schema, options.image_column.as_deref())?;
        let label = label_column(path, &schema, &named, options.label_column.as_deref())?;
        Ok(Columns { names: named.remove(&label), image, label })
    }
}

fn image_column(path: &Path, schema: &Schema, asked: Option<&str>) -> Result<String> {
    let images = schema.fields().iter().filter(|f| is_image(f.data_type())).map(|f| f.name().as_str());
    let images: Vec<&str> = images.collect();
    if let Some(asked) = asked.or(schema.field_with_name(IMAGE).is_ok().then_some(IMAGE)) {
        let found = column(path, schema, asked)?;
        if !is_image(found) {
            bail!(
                "{}: column {asked:?} should be struct<bytes: binary, path: string>, or binary, but is {found}",
                path.display()
            );
        }
        return Ok(asked.to_owned());
    }
    match images[..] {
        [one] => Ok(one.to_owned()),
        [] => bail!(
            "{} has no column \"image\", nor another of struct<bytes: binary, path: string> or binary (it has: {})",
            path.display(),
            names(schema)
        ),
        _ => {
            bail!("{} has several columns of images: {}; --image-column says which", path.display(), images.join(", "))
        }
    }
}

/// `named` are the columns of integers whose classes have names.
fn label_column(
    path: &Path,
    schema: &Schema,
    named: &BTreeMap<String, Vec<String>>,
    asked: Option<&str>,
) -> Result<String> {
    if let Some(asked) = asked {
        let found = column(path, schema, asked)?;
        if !is_label(found) {
            bail!("{}: column {asked:?} should hold labels, integers or text, but is {found}", path.display());
        }
        return Ok(asked.to_owned());
    }
    if named.contains_key(LABEL) {
        return Ok(LABEL.to_owned());
    }
    let class_labels: Vec<&str> =
        schema.fields().iter().map(|f| f.name().as_str()).filter(|name| named.contains_key(*name)).collect();
    let plain = [LABEL].into_iter().chain(LABELS).filter_map(|name| schema.field_with_name(name).ok());
    let plain = plain.filter(|field| is_label(field.data_type())).find(|field| !named.contains_key(field.name()));
    match (&class_labels[..], plain) {
        ([one], Some(plain)) => bail!(
            "{}: the labels could be {one:?}, the only ClassLabel, or column {:?}, {}: --label-column says which",
            path.display(),
            plain.name(),
            plain.data_type()
        ),
        ([one], None) => Ok((*one).to_owned()),
        ([], Some(plain)) => Ok(plain.name().clone()),
        ([], None) => bail!(
            "{} has no column \"label\", nor another that is a ClassLabel or is called as labels are (it has: {}): \
             --label-column says which",
            path.display(),
            names(schema)
        ),
        _ => bail!(
            "{} has several ClassLabel columns: {}; --label-column says which",
            path.display(),
            class_labels.join(", ")
        ),
    }
}

fn is_label(data_type: &DataType) -> bool {
    data_type.is_integer() || is_text(data_type)
}

fn column<'a>(path: &Path, schema: &'a Schema, name: &str) -> Result<&'a DataType> {
    let field = schema.field_with_name(name);
    let field = field.map_err(|_| anyhow!("{} has no column {name:?} (it has: {})", path.display(), names(schema)))?;
    Ok(field.data_type())
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// The names of a ClassLabel column.
fn class_names_of<'a>(features: &'a Value, column: &str) -> Option<&'a Vec<Value>> {
    features.get(column)?.get("names")?.as_array()
}
