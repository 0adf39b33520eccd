//! A manifest: records of a picture's path, its label or class name, and its split where there is
//! one; and the `metadata.csv` of the datasets library's ImageFolder, which is one with `file_name`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Field},
};

use super::{
    class_names,
    columns::{LABEL, LABELS},
    data_set::{Encoded, Found, Images},
    kept::Keep,
    labels::{self, Label, Labels, Names},
    listing::Listing,
    names::{id_of, some_of},
    options::SourceOptions,
    read::read_each,
    records,
    split::Part,
};
use crate::{storage, words::counted};

/// What the columns are called that hold paths, class names beside integer labels, and splits.
const PATHS: [&str; 10] =
    ["file_name", "path", "filename", "file_path", "filepath", "file", "image_path", "image", "img_path", "img"];
const NAMES: [&str; 4] = ["class_name", "label_name", "class", "category"];
const SPLITS: [&str; 4] = ["split", "subset", "set", "partition"];

/// The files that the datasets library takes metadata from.
const METADATA: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];

/// The pictures, as the manifest has them, and where they lie.
struct Listed {
    ids: Vec<String>,
    /// What rows whose picture was listed before would be called.
    again: HashMap<u32, String>,
    files: Vec<PathBuf>,
    /// The columns that are neither paths nor labels nor splits.
    others: RecordBatch,
}

/// Whether a file is a manifest by its name.
pub fn is_manifest(path: &Path) -> bool {
    records::is_known(path)
}

/// Whether a file, by its path below an image folder, holds its metadata, or those of a split.
pub fn is_metadata(path: &Path) -> bool {
    let is_where = path.parent().is_none_or(|dir| dir.as_os_str().is_empty() || Part::of_os(dir.as_os_str()).is_some());
    is_where && METADATA.iter().any(|name| path.file_name().is_some_and(|found| found == *name))
}

/// Opens a manifest; paths are relative to its directory.
pub fn open(path: &Path, options: &SourceOptions) -> Result<Found> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut rows = Rows::default();
    rows.add(path, dir, None, options)?;
    rows.found("manifest", options)
}

/// Opens an image folder by its metadata; where that has no labels, they are the directories below
/// the split's.
pub fn open_metadata(root: &Path, listing: &Listing, options: &SourceOptions) -> Result<Found> {
    let mut rows = Rows::default();
    let files: Vec<&PathBuf> = listing.files.iter().filter(|file| is_metadata(file)).collect();
    let dirs: BTreeSet<Option<&Path>> = files.iter().map(|file| file.parent()).collect();
    if dirs.len() < files.len() {
        bail!(
            "{} has more than one file of metadata in a directory: {}",
            root.display(),
            some_of(files.iter().map(|file| id_of(file)))
        );
    }
    for file in files {
        let dir = file.parent().unwrap_or(Path::new(""));
        rows.add(&root.join(file), &root.join(dir), Some((root, dir)), options)?;
    }
    let listed: BTreeSet<&PathBuf> = rows.files.iter().collect();
    let unlisted = listing.files.iter().filter(|file| !is_metadata(file) && !listed.contains(&root.join(file))).count();
    if unlisted > 0 {
        rows.notes.push(format!("left out, as not in the metadata: {}", counted(unlisted, "file")));
    }
    rows.found("image folder with metadata", options)
}

/// The rows of one or several files.
#[derive(Default)]
struct Rows {
    origin: PathBuf,
    ids: Vec<String>,
    files: Vec<PathBuf>,
    parts: Vec<Part>,
    labels: Labels,
    /// Names of integer labels, where the records have both.
    names: BTreeMap<i64, String>,
    /// File and number of each row, for messages.
    places: Vec<(usize, usize)>,
    sources: Vec<PathBuf>,
    lines: Vec<String>,
    notes: Vec<String>,
    columns: BTreeSet<String>,
    others: Vec<RecordBatch>,
    again: HashMap<u32, String>,
}

impl Rows {
    /// Adds the rows of a file, whose paths are from `dir`. In an image folder, `below` is its root,
    /// and the directory of the file below it.
    fn add(&mut self, path: &Path, dir: &Path, below: Option<(&Path, &Path)>, options: &SourceOptions) -> Result<()> {
        let records = records::read(path)?;
        let path_column = required(path, &records, options.image_column.as_deref(), &PATHS, "paths")?;
        let paths = text(&records, path_column)?;
        let label = optional(path, &records, options.label_column.as_deref(), [LABEL].iter().chain(&LABELS))?;
        let split = optional(path, &records, None, &SPLITS)?;
        if label.is_none() && below.is_none() {
            required(path, &records, None, &[LABEL], "labels")?;
        }
        let of_column = |name: &str| {
            labels::of_column(&records[name]).with_context(|| format!("{}: column {name:?}", path.display()))
        };
        let labels = label.map(of_column).transpose()?;
        let is_number = label.is_some_and(|name| records[name].data_type().is_integer());
        let name = match is_number {
            true => optional(path, &records, None, NAMES.iter().filter(|name| Some(**name) != label))?,
            false => None,
        };
        let names = name.map(|name| text(&records, name)).transpose()?;
        let splits = split.map(|name| text(&records, name)).transpose()?;
        self.columns.extend(label.map(str::to_owned));
        let taken = [Some(path_column), label, split, name];
        let is_other = |i: &usize| !taken.contains(&Some(records.schema().field(*i).name().as_str()));
        let others: Vec<usize> = (0..records.num_columns()).filter(is_other).collect();
        if options.keep != Keep::None {
            self.others.push(records.project(&others)?);
        }
        for (row, picture) in paths.into_iter().enumerate() {
            let place = || format!("{} record {}", path.display(), row + 1);
            let Some(picture) = picture else { bail!("{}: the path is empty", place()) };
            let is_remote = storage::is_remote(Path::new(&picture));
            let file = if is_remote { PathBuf::from(&picture) } else { dir.join(&picture) };
            let inside = below.and_then(|(root, _)| file.strip_prefix(root).ok());
            let part = match &splits {
                Some(splits) => part(splits[row].as_deref(), &place)?,
                None => inside.and_then(first_directory).and_then(Part::of_os).unwrap_or(Part::Unsplit),
            };
            let label = match &labels {
                Some(labels) => labels[row].clone(),
                None => directory(inside).with_context(|| {
                    format!("{}: there is no column of labels, nor a class's directory above {picture}", place())
                })?,
            };
            if let (Some(names), Label::Number(number)) = (&names, &label)
                && let (Some(name), Ok(number)) = (&names[row], i64::try_from(*number))
            {
                let known = self.names.entry(number).or_insert_with(|| name.clone());
                if known != name {
                    bail!("{}: label {number} is {name:?} here, but {known:?} before", place());
                }
            }
            self.labels.push(label);
            self.ids.push(match inside {
                Some(inside) => id_of(inside),
                None => picture,
            });
            self.files.push(file);
            self.parts.push(part);
            self.places.push((self.sources.len(), row + 1));
        }
        self.lines.push(format!(
            "{} {}",
            id_of(path.file_name().map(Path::new).unwrap_or(path)),
            crate::hash::hash_files(&[path.to_owned()])?
        ));
        self.sources.push(path.to_owned());
        self.origin = path.to_owned();
        Ok(())
    }

    fn found(mut self, what: &str, options: &SourceOptions) -> Result<Found> {
        self.make_unique();
        let different: BTreeSet<&String> = self.names.values().collect();
        if different.len() < self.names.len() {
            self.notes.push("several labels share a class name, so that classes are called by their labels".into());
            self.names.clear();
        }
        let names = match self.names.is_empty() {
            true => Names::Own,
            false => Names::Given(self.names),
        };
        let column = self.columns.iter().next().cloned().unwrap_or(LABEL.into());
        let (places, sources) = (&self.places, &self.sources);
        let place = |row: usize| format!("record {} of {}", places[row].1, sources[places[row].0].display());
        let (mut classes, rows) = self.labels.classes(&self.origin, &column, names, place)?;
        self.lines.extend(classes.iter().map(|class| format!("class {} {:?}", class.label, class.name)));
        if let Some(file) = &options.class_names {
            class_names::rename(&mut classes, file)?;
            self.lines.extend(classes.iter().map(|class| format!("called {:?}", class.name)));
        }
        let others = records::together(self.others)?;
        let sizes = self.ids.iter().zip(&self.files);
        let line = |((id, file), class): ((&String, &PathBuf), &u32)| {
            // objects would have to be asked for one by one
            format!("{id} {class} {}", fs::metadata(file).map_or(0, |m| m.len()))
        };
        self.lines.extend(sizes.zip(&rows).map(line));
        Ok(Found {
            what: what.to_owned(),
            classes,
            rows: rows.into_iter().zip(self.parts).collect(),
            lines: self.lines,
            notes: self.notes,
            why_empty: Box::new(|_, _| String::new()),
            images: Box::new(Listed { ids: self.ids, again: self.again, files: self.files, others }),
        })
    }

    /// A picture that is listed again is a row of its own, whose id ends in `#2`.
    fn make_unique(&mut self) {
        let mut seen: HashSet<String> = HashSet::new();
        for (row, id) in (0..).zip(&mut self.ids) {
            if seen.contains(id) {
                let mut other = (2..).map(|times: usize| format!("{id}#{times}"));
                let unique = other.find(|other| !seen.contains(other)).unwrap_or_default();
                self.again.insert(row, std::mem::replace(id, unique));
            }
            seen.insert(id.clone());
        }
        if !self.again.is_empty() {
            self.notes.push(format!("listed more than once: {}", counted(self.again.len(), "row")));
        }
    }
}

/// The split that a record says.
fn part(name: Option<&str>, place: &impl Fn() -> String) -> Result<Part> {
    let Some(name) = name else { bail!("{}: the split is empty", place()) };
    let known = Part::of(name);
    known.with_context(|| {
        format!("{}: the split is {name:?}, expected train, validation, test or another name of one", place())
    })
}

/// The first directory of a path below a folder.
fn first_directory(inside: &Path) -> Option<&std::ffi::OsStr> {
    inside.parent()?.iter().next()
}

/// The class's directory of a path below a folder: the one below the split's, or the first.
fn directory(inside: Option<&Path>) -> Option<Label> {
    let inside = inside?;
    let is_split = first_directory(inside).and_then(Part::of_os).is_some();
    let class = inside.parent()?.iter().nth(usize::from(is_split))?;
    Some(Label::Name(class.to_str()?.to_owned()))
}

/// The column that is asked for, or the first that is called as such columns are.
fn optional<'a>(
    path: &Path,
    records: &RecordBatch,
    asked: Option<&'a str>,
    usual: impl IntoIterator<Item = &'a &'a str>,
) -> Result<Option<&'a str>> {
    let has = |name: &str| records.schema().field_with_name(name).is_ok();
    if let Some(asked) = asked {
        return match has(asked) {
            true => Ok(Some(asked)),
            false => bail!("{} has no column {asked:?} (it has: {})", path.display(), columns(records)),
        };
    }
    Ok(usual.into_iter().copied().find(|name| has(name)))
}

fn required<'a>(
    path: &Path,
    records: &RecordBatch,
    asked: Option<&'a str>,
    usual: &'a [&'a str],
    what: &str,
) -> Result<&'a str> {
    let found = optional(path, records, asked, usual)?;
    found.with_context(|| {
        format!(
            "{} has no column of {what}: expected one called {} (it has: {}); --image-column and --label-column name \
             others",
            path.display(),
            usual.join(", "),
            columns(records)
        )
    })
}

fn columns(records: &RecordBatch) -> String {
    records.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(", ")
}

fn text(records: &RecordBatch, column: &str) -> Result<Vec<Option<String>>> {
    let values =
        cast(&records[column], &DataType::Utf8).with_context(|| format!("column {column:?} should hold text"))?;
    let values = values.as_string::<i32>();
    Ok((0..values.len()).map(|i| values.is_valid(i).then(|| values.value(i).to_owned())).collect())
}

impl Images for Listed {
    fn read<'a>(&'a self, rows: &'a [u32]) -> Result<Encoded<'a>> {
        read_each(self.paths(rows))
    }

    fn paths(&self, rows: &[u32]) -> Vec<PathBuf> {
        rows.iter().map(|&row| self.files[row as usize].clone()).collect()
    }

    fn id(&self, row: u32) -> String {
        self.ids[row as usize].clone()
    }

    fn picture(&self, row: u32) -> String {
        self.again.get(&row).cloned().unwrap_or_else(|| self.id(row))
    }

    fn columns(&self) -> Vec<Field> {
        records::fields_of(&self.others)
    }

    fn values(&self, columns: &[&str], rows: &[u32]) -> Result<RecordBatch> {
        records::values(&self.others, columns, rows)
    }
}
