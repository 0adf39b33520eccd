//! Which vectors lie at a path, and what belongs to them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use arrow::array::AsArray;

use super::{
    super::{
        listing::Listing,
        names::{has_extension, id_of, some_of},
    },
    array::Array,
    arrays::{Arrays, is_of_arrays},
    columns::{Beside, Column, parquet},
    lists::Lists,
    words::{self, Role, key},
};
use crate::{storage, table::file};

/// Vectors in the order of their files' names, and what stands beside them.
pub struct Found {
    pub parts: Vec<Part>,
    /// What classes are called, by their labels from 0, and where that is from.
    pub class_names: Option<(String, Vec<String>)>,
    /// Every file that is read, in order.
    pub files: Vec<PathBuf>,
    /// What was found, and what was left out.
    pub notes: Vec<String>,
}

/// Vectors of one array or column.
pub struct Part {
    pub vectors: Vectors,
    pub columns: Vec<Column>,
}

pub enum Vectors {
    Array { array: Array, rows: usize, dim: usize },
    Lists(Lists),
}

impl Vectors {
    pub fn place(&self) -> &str {
        match self {
            Vectors::Array { array, .. } => &array.place,
            Vectors::Lists(lists) => &lists.place,
        }
    }

    pub fn rows(&self) -> usize {
        match self {
            Vectors::Array { rows, .. } => *rows,
            Vectors::Lists(lists) => lists.rows,
        }
    }

    fn file(&self) -> &Path {
        match self {
            Vectors::Array { array, .. } => &array.file,
            Vectors::Lists(lists) => &lists.file,
        }
    }

    fn kind(&self) -> String {
        match self {
            Vectors::Array { array, .. } => array.to_string(),
            Vectors::Lists(lists) => format!("{} rows, column {}", lists.rows, lists.column),
        }
    }

    /// Calls `each` with every vector.
    pub fn read(&self, mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        match self {
            Vectors::Array { array, rows, dim } => {
                array.read(*rows, *dim, |block| block.chunks_exact(*dim).try_for_each(&mut each))
            }
            Vectors::Lists(lists) => lists.read(each),
        }
    }
}

/// What lies at a path, by what it may be.
#[derive(Default)]
struct Pile {
    vectors: Vec<Vectors>,
    beside: Vec<Beside>,
    names: Vec<Array>,
    class_names: Vec<(String, PathBuf, Vec<String>)>,
    left_out: Vec<String>,
}

/// Finds the vectors at `path`, a file or a directory, without the directory `leave_out`. Of
/// Parquet and CSV files the columns `wanted` are read.
pub fn find(path: &Path, leave_out: Option<&Path>, wanted: &[&str]) -> Result<Found> {
    let (dir, files) = files(path, leave_out)?;
    let mut pile = sort(&dir, path, &files)?;
    pile.vectors.sort_by_key(|vectors| words::natural(vectors.place()));
    leave_texts_out(&mut pile);
    place_names(&mut pile)?;
    let Pile { vectors, mut beside, class_names, mut left_out, .. } = pile;
    if vectors.is_empty() {
        return Err(nothing(path, &dir, &files, &left_out));
    }
    let alone = storage::is_dir(path) && vectors.len() == 1 && beside.len() == 1;
    let mut found = Found { parts: Vec::new(), class_names: None, files: Vec::new(), notes: Vec::new() };
    let keys: Vec<_> = vectors.iter().map(|vectors| key(vectors.place())).collect();
    for (vectors, own) in vectors.into_iter().zip(&keys) {
        let (place, rows) = (vectors.place().to_owned(), vectors.rows());
        if keys.iter().filter(|key| *key == own).count() > 1 && !matches!(vectors, Vectors::Lists(_)) {
            bail!(
                "{} holds several sets of vectors of the same rows, {place} among them: give the one",
                path.display()
            );
        }
        let mut columns = match &vectors {
            Vectors::Lists(lists) => parquet(&lists.file, &place, wanted)?,
            Vectors::Array { .. } => Vec::new(),
        };
        let (its, others) = beside.into_iter().partition(|beside| alone || key(beside.place()) == *own);
        beside = others;
        let its: Vec<Beside> = its;
        for beside in &its {
            columns.extend(beside.columns(&place, rows, wanted)?);
        }
        let with: Vec<&str> = its.iter().map(Beside::place).collect();
        let with = if with.is_empty() { String::new() } else { format!(" with {}", with.join(", ")) };
        found.notes.push(format!("{place}, {}{with}", vectors.kind()));
        found.files.push(vectors.file().to_owned());
        found.files.extend(its.iter().map(|beside| beside.file().to_owned()));
        found.parts.push(Part { vectors, columns });
    }
    found.notes = vec![format!("found {}", some_of(std::mem::take(&mut found.notes)))];
    if storage::is_dir(path) {
        left_out.extend(beside.iter().map(|beside| beside.place().to_owned()));
    }
    if let Some((place, file, names)) = class_names.into_iter().next() {
        found.files.push(file);
        found.class_names = Some((place, names));
    }
    if !left_out.is_empty() {
        found.notes.push(format!("left out: {}", some_of(left_out)));
    }
    found.files.dedup();
    Ok(found)
}

/// The directory that files are named below, and the files: those beside `path` where it is a file
/// of arrays.
fn files(path: &Path, leave_out: Option<&Path>) -> Result<(PathBuf, Vec<PathBuf>)> {
    if storage::is_dir(path) {
        return Ok((path.to_owned(), Listing::of(path, leave_out)?.files));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = PathBuf::from(path.file_name().with_context(|| format!("{} is no file", path.display()))?);
    let mut files = vec![name.clone()];
    if is_of_arrays(path) {
        let entries = storage::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let beside = entries.into_iter().filter(|(_, found)| found.is_file()).map(|(name, _)| name.into());
        files.extend(beside.filter(|file| *file != name));
        files.sort();
    }
    Ok((dir.to_owned(), files))
}

/// Sorts files by what they may be. Where `path` is one of them, its vectors alone are meant.
fn sort(dir: &Path, path: &Path, files: &[PathBuf]) -> Result<Pile> {
    let mut pile = Pile::default();
    let (arrays_there, all) = (files.iter().any(|file| is_of_arrays(file)), storage::is_dir(path));
    for below in files {
        let (file, place) = (dir.join(below), id_of(below));
        let meant = all || file == path || dir.join(below) == dir.join(path.file_name().unwrap_or_default());
        match () {
            _ if is_of_arrays(below) => match Arrays::of(&file, below) {
                Ok(arrays) => sort_arrays(arrays, meant, &mut pile),
                Err(error) if meant => return Err(error),
                Err(_) => {}
            },
            _ if has_extension(below, "parquet") => match Lists::find(&file, &place)? {
                Some(lists) if meant => pile.vectors.push(Vectors::Lists(lists)),
                Some(_) => {}
                None if arrays_there => pile.beside.push(Beside::Parquet { file, place }),
                None => return Err(Lists::missing(&file, file::builder(&file)?.schema())),
            },
            _ if has_extension(below, "csv") => pile.beside.push(Beside::Csv { file, place }),
            _ if is_pickle(below) => pile.left_out.push(place),
            _ => {
                if let Some(names) = class_names_of(&file, below)? {
                    pile.class_names.push((place, file, names));
                }
            }
        }
    }
    Ok(pile)
}

fn sort_arrays(found: Arrays, meant: bool, pile: &mut Pile) {
    let of_file = found
        .arrays
        .first()
        .map(|array| (array.place.split(':').next().unwrap_or_default().to_owned(), array.file.clone()));
    for array in found.arrays {
        let place = array.place.clone();
        let role = words::role(&place, array.kind.is_text());
        match (array.vectors(), array.column(), role) {
            (Some((rows, dim)), ..) if meant => pile.vectors.push(Vectors::Array { array, rows, dim }),
            // names in another archive are of the vectors there
            (None, Some(_), Some(Role::ClassNames)) if meant || has_extension(&array.file, "npy") => {
                pile.names.push(array)
            }
            (None, Some(_), Some(Role::ClassNames)) => {}
            (None, Some(_), Some(role)) => pile.beside.push(Beside::Array(array, role)),
            (Some(_), ..) => {}
            _ => pile.left_out.push(format!("{place} ({array})")),
        }
    }
    if meant {
        pile.left_out.extend(found.unusable.into_iter().map(|(place, error)| format!("{place} ({error:#})")));
    }
    let Some((place, file)) = of_file.filter(|_| meant) else { return };
    for (key, text) in found.texts {
        let names = if words::role(&key, true) == Some(Role::ClassNames) { listed(&text) } else { None };
        pile.class_names.extend(names.map(|names| (format!("{place}:{key}"), file.clone(), names)));
    }
}

/// Vectors of texts stand beside those of images in the folders of some tools.
fn leave_texts_out(pile: &mut Pile) {
    if pile.vectors.iter().all(|vectors| words::is_of_texts(vectors.place())) {
        return;
    }
    let (texts, images): (Vec<_>, Vec<_>) =
        std::mem::take(&mut pile.vectors).into_iter().partition(|vectors| words::is_of_texts(vectors.place()));
    pile.vectors = images;
    pile.left_out.extend(texts.iter().map(|vectors| format!("{} (of texts)", vectors.place())));
}

/// An array of names is a column of vectors without labels that are as many, or else it is what
/// classes are called, in the order of their labels. Those in the vectors' file go before others.
fn place_names(pile: &mut Pile) -> Result<()> {
    for array in std::mem::take(&mut pile.names) {
        let own = key(&array.place);
        let as_many = |vectors: &Vectors| key(vectors.place()) == own && array.column() == Some(vectors.rows());
        if pile.vectors.iter().any(as_many) && !pile.beside.iter().any(|beside| key(beside.place()) == own) {
            pile.beside.push(Beside::Array(array, Role::ClassNames));
            continue;
        }
        let names = array.as_column()?.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
        pile.class_names.push((array.place, array.file, names));
    }
    let elsewhere = |file: &Path| pile.vectors.iter().all(|vectors| vectors.file() != file);
    pile.class_names.sort_by_key(|(_, file, _)| elsewhere(file));
    Ok(())
}

/// The class names of a text file with one a line, or a JSON file with a list of them.
fn class_names_of(file: &Path, below: &Path) -> Result<Option<Vec<String>>> {
    let is_json = has_extension(below, "json");
    if !(is_json || has_extension(below, "txt"))
        || words::role(&id_of(&below.with_extension("")), true) != Some(Role::ClassNames)
    {
        return Ok(None);
    }
    let text = storage::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(if is_json { listed(&text) } else { Some(text.lines().map(str::trim).map(str::to_owned).collect()) })
}

/// The texts of a JSON list, or of a JSON object whose keys are the numbers from 0.
fn listed(text: &str) -> Option<Vec<String>> {
    match serde_json::from_str(text).ok()? {
        serde_json::Value::Object(of) => {
            (0..of.len()).map(|i| Some(of.get(&i.to_string())?.as_str()?.to_owned())).collect()
        }
        list => serde_json::from_value(list).ok(),
    }
}

fn is_pickle(file: &Path) -> bool {
    ["pt", "pth", "pkl", "pickle"].iter().any(|extension| has_extension(file, extension))
}

/// Says that there are no vectors, and what to do with a pickle.
fn nothing(path: &Path, dir: &Path, files: &[PathBuf], left_out: &[String]) -> anyhow::Error {
    if let Some(file) = files.iter().find(|file| is_pickle(file)) {
        let file = dir.join(file);
        let name = file.display().to_string();
        let load = if has_extension(&file, "pt") || has_extension(&file, "pth") {
            format!("import torch; d = torch.load('{name}', map_location='cpu')")
        } else {
            format!("import pickle; d = pickle.load(open('{name}', 'rb'))")
        };
        return anyhow::anyhow!(
            "{name} is a pickle, which can run any code, so it is not read. If you trust it, and it is a dictionary of \
             arrays or the pair (features, labels), this makes {stem}.npz of it: python -c \"import numpy; {load}; d = d if \
             isinstance(d, dict) else dict(zip(['features', 'labels'], d)); numpy.savez('{stem}.npz', **{{k: \
             numpy.asarray(v) for k, v in d.items()}})\"",
            stem = file.with_extension("").display(),
        );
    }
    let left_out =
        if left_out.is_empty() { String::new() } else { format!("; left out: {}", some_of(left_out.to_vec())) };
    anyhow::anyhow!(
        "{} holds no embeddings: expected Parquet with a column of lists, .npy, .npz or safetensors with an array \
         (N, D) of floats{left_out}",
        path.display()
    )
}
