//! Which class each row is of, and what classes are called.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    path::Path,
};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{Array as _, AsArray, Int64Array, StringArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
};

use super::{
    columns::{Column, column, require_values},
    find::Part,
    words,
};

/// Labels and names.
pub struct Classes {
    /// Those of each part's rows.
    pub labels: Vec<Int64Array>,
    /// What each label is called.
    pub names: BTreeMap<i64, String>,
    /// Where they are from.
    pub note: String,
}

/// What says of a part's rows which class they are of.
struct Labels {
    /// Numbers, or texts that are numbered.
    label: Column,
    /// What they are called.
    name: Option<Column>,
}

impl Classes {
    /// The classes of all parts. `label_column` is the column of the labels, where it is known;
    /// `listed` is what classes are called, in the order of their labels, and where that is from.
    pub fn of(
        path: &Path,
        parts: &[Part],
        label_column: Option<&str>,
        listed: Option<&(String, Vec<String>)>,
    ) -> Result<Self> {
        let found: Vec<Labels> =
            parts.iter().map(|part| Labels::of(path, part, label_column)).collect::<Result<_>>()?;
        let (labels, texts) = numbered(&found, listed)?;
        let mut names: BTreeMap<i64, String> = BTreeMap::new();
        for (Labels { label: column, name }, labels) in found.iter().zip(&labels) {
            let name = name.as_ref().map(as_texts).transpose()?;
            for (i, &label) in labels.values().iter().enumerate() {
                let place = || format!("{} row {i}", column.place);
                let Some(name) = &name else {
                    if let Entry::Vacant(entry) = names.entry(label) {
                        let of_number = || called(label, listed).with_context(place);
                        entry.insert(texts.get(&label).cloned().map_or_else(of_number, Ok)?);
                    }
                    continue;
                };
                let was = names.entry(label).or_insert_with(|| name.value(i).to_owned());
                if was != name.value(i) {
                    bail!("{}: label {label} is {:?} here, but {was:?} before", place(), name.value(i));
                }
            }
        }
        let mut note = format!("labels are from {}", found[0].label.name);
        note += &match (&found[0].name, listed) {
            (Some(name), _) => format!(", their names from {}", name.name),
            (None, Some((place, _))) => format!(", their names from {place}"),
            (None, None) => String::new(),
        };
        Ok(Classes { labels, names, note })
    }
}

impl Labels {
    fn of(path: &Path, part: &Part, label_column: Option<&str>) -> Result<Self> {
        let place = part.vectors.place();
        let label = match label_column {
            Some(wanted) => {
                let found = column(&part.columns, &[wanted]);
                let have: Vec<&str> = part.columns.iter().map(|column| column.name.as_str()).collect();
                Some(found.with_context(|| {
                    format!("{place} has no column {wanted:?} beside it (it has: {})", have.join(", "))
                })?)
            }
            None => column(&part.columns, &words::LABEL),
        };
        let name = column(&part.columns, &words::CLASS_NAME).cloned();
        let labels = match (label.cloned(), name) {
            (Some(label), name) => Labels { name: name.filter(|name| name.name != label.name), label },
            (None, Some(name)) => Labels { label: name, name: None },
            (None, None) => match column(&part.columns, &words::ID).and_then(directories) {
                Some(label) => Labels { label, name: None },
                None => bail!(
                    "{}: nothing says which class the rows of {place} are of: expected a column {:?} or {:?}, an array \
                     of labels that is called as the vectors are (X_train and y_train, a.npy and a.csv), or the class's \
                     directory in image_path; --label-column names another column",
                    path.display(),
                    words::LABEL[0],
                    words::CLASS_NAME[0]
                ),
            },
        };
        require_values(&labels.label)?;
        labels.name.iter().try_for_each(require_values)?;
        Ok(labels)
    }
}

/// The labels as numbers. Texts are numbered in the order in which they are `listed`, or else sorted;
/// they come with the numbers.
fn numbered(
    found: &[Labels],
    listed: Option<&(String, Vec<String>)>,
) -> Result<(Vec<Int64Array>, BTreeMap<i64, String>)> {
    let numbers: Option<Vec<Int64Array>> = found.iter().map(|labels| as_numbers(&labels.label)).collect();
    if let Some(numbers) = numbers {
        return Ok((numbers, BTreeMap::new()));
    }
    let is_number = |labels: &&Labels| labels.label.values.data_type() == &DataType::Int64;
    if let Some(number) = found.iter().find(is_number) {
        let text = found.iter().find(|labels| !is_number(labels)).unwrap_or(number);
        bail!("{} has numbers as labels, but {} has texts", number.label.place, text.label.place);
    }
    let columns: Vec<StringArray> = found.iter().map(|labels| as_texts(&labels.label)).collect::<Result<_>>()?;
    let different: BTreeSet<&str> = columns.iter().flatten().flatten().collect();
    let listed: Vec<&str> = listed.iter().flat_map(|(_, names)| names).map(String::as_str).collect();
    let in_order: Vec<&str> = match different.iter().all(|text| listed.contains(text)) {
        true => listed,
        false => different.into_iter().collect(),
    };
    let number: HashMap<&str, i64> = in_order.iter().zip(0..).map(|(&text, i)| (text, i)).collect();
    let labels = columns.iter().map(|texts| texts.iter().flatten().map(|text| number[text]).collect()).collect();
    let texts = number.iter().map(|(&text, &i)| (i, text.to_owned())).collect();
    Ok((labels, texts))
}

/// A column as numbers; none where one of its texts is none.
fn as_numbers(column: &Column) -> Option<Int64Array> {
    if let Some(numbers) = column.values.as_primitive_opt::<Int64Type>() {
        return Some(numbers.clone());
    }
    column.values.as_string::<i32>().iter().map(|text| text?.parse::<i64>().ok().map(Some)).collect()
}

/// A column as texts.
pub fn as_texts(column: &Column) -> Result<StringArray> {
    Ok(cast(&column.values, &DataType::Utf8)?.as_string().clone())
}

/// What the class of a number is called.
fn called(label: i64, listed: Option<&(String, Vec<String>)>) -> Result<String> {
    let Some((place, names)) = listed else { return Ok(label.to_string()) };
    let name = usize::try_from(label).ok().and_then(|i| names.get(i));
    name.cloned().with_context(|| format!("the label is {label}, but {place} has {} names, from 0 on", names.len()))
}

/// The directories that files lie in; none where one lies in none.
fn directories(column: &Column) -> Option<Column> {
    let directory = |path: Option<&str>| Some(Some(path?.rsplit_once('/')?.0.rsplit('/').next()?.to_owned()));
    let values: StringArray = column.values.as_string_opt::<i32>()?.iter().map(directory).collect::<Option<_>>()?;
    Some(Column {
        place: column.place.clone(),
        name: format!("the directories in {}", column.name),
        values: std::sync::Arc::new(values),
    })
}
