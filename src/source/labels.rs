//! Labels as a source has them, integers or names, and the classes that they make.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, bail, ensure};
use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, UInt64Type},
};

use crate::task::Class;

/// The label of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    Number(i128),
    Name(String),
    Missing,
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Label::Number(number) => write!(f, "{number}"),
            Label::Name(name) => write!(f, "{name:?}"),
            Label::Missing => f.write_str("null"),
        }
    }
}

/// What classes are called.
pub enum Names {
    /// Integer labels count these from 0, whether they occur or not; names are some of them.
    Counted(Vec<String>),
    /// Those that some integer labels have; others are called by their number.
    Given(BTreeMap<i64, String>),
    /// The labels are the names; integers are called by their number.
    Own,
}

/// The labels of a column of integers, whatever their width, or of text.
pub fn of_column(column: &ArrayRef) -> Result<Vec<Label>> {
    let number = |value: Option<i128>| value.map_or(Label::Missing, Label::Number);
    if column.data_type() == &DataType::UInt64 {
        let values = column.as_primitive::<UInt64Type>().iter();
        return Ok(values.map(|value| number(value.map(i128::from))).collect());
    }
    if column.data_type().is_integer() {
        let column = cast(column, &DataType::Int64)?;
        let values = column.as_primitive::<Int64Type>().iter();
        return Ok(values.map(|value| number(value.map(i128::from))).collect());
    }
    if column.data_type().is_floating() {
        let column = cast(column, &DataType::Float64)?;
        let whole = |value: f64| -> Result<Label> {
            ensure!(
                value.fract() == 0.0 && value.abs() < 2f64.powi(53),
                "{value} is no label: expected integers or text"
            );
            Ok(Label::Number(value as i128))
        };
        let values = column.as_primitive::<Float64Type>().iter();
        return values.map(|value| value.map_or(Ok(Label::Missing), whole)).collect();
    }
    ensure!(is_text(column.data_type()), "{} are no labels: expected integers or text", column.data_type());
    let column = cast(column, &DataType::Utf8)?;
    let values = column.as_string::<i32>().iter();
    Ok(values.map(|value| value.map_or(Label::Missing, |name| Label::Name(name.to_owned()))).collect())
}

/// Whether a column holds text.
pub fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => matches!(other, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

/// The labels of all rows, one after another, each kept once.
#[derive(Default)]
pub struct Labels {
    known: BTreeMap<Label, u32>,
    rows: Vec<u32>,
}

impl Labels {
    pub fn push(&mut self, label: Label) {
        let place = self.place(label);
        self.rows.push(place);
    }

    /// Adds the labels of the rows that follow.
    pub fn append(&mut self, next: Labels) {
        let mut places = vec![0; next.known.len()];
        for (label, at) in next.known {
            places[at as usize] = self.place(label);
        }
        self.rows.extend(next.rows.into_iter().map(|at| places[at as usize]));
    }

    fn place(&mut self, label: Label) -> u32 {
        let next = self.known.len() as u32;
        *self.known.entry(label).or_insert(next)
    }

    /// The label of each row.
    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        let mut labels: Vec<(&Label, u32)> = self.known.iter().map(|(label, &at)| (label, at)).collect();
        labels.sort_by_key(|&(_, at)| at);
        self.rows.iter().map(move |&at| labels[at as usize].0)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The classes, and the place of each row's among them. Where names are not counted, the classes
    /// are the labels that occur: integers keep their value, names are counted in the order of the
    /// alphabet. `place` says where a row is. An error where a label is no class's.
    pub fn classes(
        self,
        path: &Path,
        column: &str,
        names: Names,
        place: impl Fn(usize) -> String,
    ) -> Result<(Vec<Class>, Vec<u32>)> {
        let mut to_class: Vec<Option<u32>> = vec![None; self.known.len()]; // by the place in `known`
        let counted = if let Names::Counted(names) = &names { Some(names.len()) } else { None };
        let classes: Vec<Class> = match names {
            Names::Counted(names) => {
                for (label, &at) in &self.known {
                    let class = match label {
                        Label::Number(number) => usize::try_from(*number).ok().filter(|&class| class < names.len()),
                        Label::Name(name) => names.iter().position(|known| known == name),
                        Label::Missing => None,
                    };
                    to_class[at as usize] = class.map(|class| class as u32);
                }
                names.into_iter().enumerate().map(|(i, name)| Class { label: i as i64, name }).collect()
            }
            Names::Given(_) | Names::Own => {
                let given = if let Names::Given(names) = names { names } else { BTreeMap::new() };
                // where some labels are names, all are
                let has_names = self.known.keys().any(|label| matches!(label, Label::Name(_)));
                let mut places: BTreeMap<Label, Vec<u32>> = BTreeMap::new();
                for (label, &at) in &self.known {
                    let label = match label {
                        Label::Number(number) if has_names => Label::Name(number.to_string()),
                        other => other.clone(),
                    };
                    places.entry(label).or_default().push(at);
                }
                let mut classes: Vec<Class> = Vec::new();
                for (label, places) in &places {
                    let class = match label {
                        Label::Name(name) => Class { label: classes.len() as i64, name: name.clone() },
                        Label::Number(number) => match i64::try_from(*number) {
                            Ok(label @ 0..) => {
                                Class { label, name: given.get(&label).cloned().unwrap_or(number.to_string()) }
                            }
                            _ => continue,
                        },
                        Label::Missing => continue,
                    };
                    places.iter().for_each(|&at| to_class[at as usize] = Some(classes.len() as u32));
                    classes.push(class);
                }
                classes
            }
        };
        let rows: Vec<Option<u32>> = self.rows.iter().map(|&at| to_class[at as usize]).collect();
        if let Some(first) = rows.iter().position(Option::is_none) {
            let wrong = self.known.iter().find(|(_, at)| **at == self.rows[first]).map(|(label, _)| label);
            refuse(path, column, counted, &place(first), wrong, rows.iter().filter(|row| row.is_none()).count())?;
        }
        Ok((classes, rows.into_iter().flatten().collect()))
    }
}

fn refuse(
    path: &Path,
    column: &str,
    counted: Option<usize>,
    place: &str,
    wrong: Option<&Label>,
    count: usize,
) -> Result<()> {
    let value = wrong.map_or(String::new(), Label::to_string);
    bail!(
        "{}: {place}: {column} should be {}, but is {value}; {count} of the data set's rows have such labels. {}",
        path.display(),
        counted.map_or("a class's".into(), |classes| format!("0 to {}", classes.saturating_sub(1))),
        if value == "-1" {
            "−1 hides the labels of a test set: take another split for it, such as validation, called test here"
        } else {
            "Remove these rows, or give them their labels"
        }
    );
}
