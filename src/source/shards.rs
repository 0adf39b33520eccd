//! Which files make a data set together, by their names: `SPLIT.parquet`, `SPLIT-N.parquet`,
//! `SPLIT-NNNNN-of-NNNNN.parquet`, where a hash may follow, any file in a directory called SPLIT, or
//! all of one directory where no split is named; of tars `NAME-SPLIT-NNNNN.tar` too.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use arrow::datatypes::DataType;

use super::{
    names::{has_extension, id_of, some_of},
    split::Part,
};
use crate::{table::file, words::counted};

/// Files in the order in which their rows are read, as paths below the root, and what is left out.
pub struct Shards {
    pub files: Vec<(PathBuf, Part)>,
    pub left_out: Vec<PathBuf>,
}

/// What a file's place says of it: the directory that the data set lies in, the split, and its
/// group. The files of one group make a split together.
struct Place {
    dir: PathBuf,
    part: Part,
    group: PathBuf,
    /// Number and total, of `…-NNNNN-of-NNNNN`.
    number: Option<(usize, usize)>,
}

/// Files by the group that they belong to.
type Groups<'a> = BTreeMap<PathBuf, Vec<(&'a PathBuf, Place)>>;

/// Whether a path is a Parquet file of a split.
pub fn is_shard(path: &Path) -> bool {
    has_extension(path, "parquet") && place_of(path).is_some()
}

/// Whether a Parquet file has a column of images.
pub fn has_images(path: &Path) -> Result<bool> {
    Ok(file::builder(path)?.schema().fields().iter().any(|field| is_image(field.data_type())))
}

/// Whether a column's values are images: the datasets library's `struct<bytes, path>`, or bytes.
pub fn is_image(data_type: &DataType) -> bool {
    let is_bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    match data_type {
        DataType::Struct(fields) => fields.iter().any(|f| f.name() == "bytes" && is_bytes(f.data_type())),
        other => is_bytes(other),
    }
}

impl Shards {
    /// Those of `files`, paths below `root`, that make one data set. An error where they are not
    /// those of one, or not all.
    pub fn of(root: &Path, files: &[&PathBuf]) -> Result<Shards> {
        let mut groups: BTreeMap<Part, Groups> = BTreeMap::new();
        // what the datasets library keeps beside a data set
        let is_cache = |file: &&&PathBuf| has_extension(file, "arrow") && parts_of(file)[0] == "cache";
        let mut left_out: Vec<PathBuf> = files.iter().filter(is_cache).map(|file| (*file).clone()).collect();
        let files: Vec<&PathBuf> = files.iter().filter(|file| !is_cache(file)).copied().collect();
        let mut of_no_split = Vec::new();
        for &file in &files {
            match place_of(file) {
                Some(place) => {
                    groups.entry(place.part).or_default().entry(place.group.clone()).or_default().push((file, place));
                }
                None => of_no_split.push(file.clone()),
            }
        }
        if groups.is_empty() {
            return Ok(Shards { files: unsplit(root, &files)?, left_out });
        }
        left_out.extend(of_no_split);
        let mut dirs: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        let mut shards = Vec::new();
        for (part, groups) in groups {
            let mut groups = groups.into_iter();
            let Some((group, files)) = groups.next() else { continue };
            if let Some((second, _)) = groups.next() {
                bail!(
                    "{}: {} would be both {} and {}: give --data the directory of the one, or move the other away",
                    root.display(),
                    format!("{part:?}").to_lowercase(),
                    group.display(),
                    second.display()
                );
            }
            let numbers: Vec<_> = files.iter().map(|(_, place)| place.number).collect();
            require_whole(root, &group, &numbers)?;
            for (file, place) in files {
                dirs.entry(place.dir).or_insert(place.group);
                shards.push((file.clone(), part));
            }
        }
        if dirs.len() > 1 {
            bail!(
                "{}: the splits would come from different directories, {}: give --data the directory of one data set",
                root.display(),
                some_of(dirs.values().map(|group| group.display().to_string()))
            );
        }
        Ok(Shards { files: shards, left_out })
    }

    /// What was left out, for people.
    pub fn notes(&self) -> Vec<String> {
        let Some((first, others)) = self.left_out.split_first() else { return Vec::new() };
        let more = match others.len() {
            0 => String::new(),
            n => format!(" and {}", counted(n, "more file")),
        };
        vec![format!("left out, as no shard of train or test: {}{more}", first.display())]
    }
}

/// All files, which have to lie in one directory: no split is named.
fn unsplit(root: &Path, files: &[&PathBuf]) -> Result<Vec<(PathBuf, Part)>> {
    let dirs: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    if dirs.len() > 1 {
        bail!(
            "{}: no file is called by a split (train, test, …), and they lie in several directories, {}: give --data \
             the directory of one data set",
            root.display(),
            some_of(dirs.iter().map(|dir| id_of(dir)))
        );
    }
    if let Some(file) = files.iter().find(|file| words_of(file).any(|word| Part::of(word).is_some())) {
        bail!(
            "{}: {} has the name of a split in it, but is not called as one: expected SPLIT-N or \
             SPLIT-NNNNN-of-NNNNN, or a directory SPLIT",
            root.display(),
            file.display()
        );
    }
    let numbers: Vec<_> = files.iter().map(|file| number_of(&parts_of(file))).collect();
    if numbers.iter().any(Option::is_some) {
        require_whole(root, root, &numbers)?;
    }
    Ok(files.iter().map(|file| ((*file).clone(), Part::Unsplit)).collect())
}

/// The stem of a file's name at its hyphens.
fn parts_of(path: &Path) -> Vec<&str> {
    stem_of(path).split('-').collect()
}

/// A file's name without what says its format.
fn stem_of(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let formats = [".tar.gz", ".tgz", ".tar", ".parquet", ".arrow"];
    formats.iter().find_map(|format| name.strip_suffix(format)).unwrap_or(name)
}

/// The words of a file's name.
fn words_of(path: &Path) -> impl Iterator<Item = &str> {
    stem_of(path).split(['-', '_', '.'])
}

fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// Number and total of `…-NNNNN-of-NNNNN`, where a hash may follow.
fn number_of(parts: &[&str]) -> Option<(usize, usize)> {
    let (before, of) = match parts {
        [.., n, "of", total] | [.., n, "of", total, _] => (n, total),
        _ => return None,
    };
    Some((number(before)?, number(of)?))
}

/// The place of a file that is called by a split, or lies in a directory that is.
fn place_of(path: &Path) -> Option<Place> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let of_dir = parent.file_name().and_then(Part::of_os);
    let dir = if of_dir.is_some() { parent.parent().unwrap_or(Path::new("")) } else { parent }.to_owned();
    let extension = path.extension().map_or(String::new(), |e| e.to_string_lossy().into_owned());
    let parts = parts_of(path);
    if matches!(extension.as_str(), "tar" | "gz" | "tgz") && of_dir.is_none() {
        // archives have the name of their split anywhere in theirs
        let mut named: Vec<Part> = words_of(path).filter_map(Part::of).collect();
        named.dedup();
        let [part] = named[..] else { return None };
        let without_numbers = stem_of(path).replace(|c: char| c.is_ascii_digit(), "");
        return Some(Place { dir, part, group: parent.join(format!("{without_numbers}N.{extension}")), number: None });
    }
    if let Some(part) = Part::of(parts[0]) {
        let split = parts[0];
        let place = |group: String, number| Some(Place { dir: dir.clone(), part, group: parent.join(group), number });
        match parts[1..] {
            [] => return place(format!("{split}.{extension}"), None),
            [n] if number(n).is_some() => return place(format!("{split}-N.{extension}"), None),
            _ => {
                if let Some(number) = number_of(&parts).filter(|_| parts[2] == "of") {
                    return place(format!("{split}-NNNNN-of-{}.{extension}", parts[3]), Some(number));
                }
            }
        }
    }
    of_dir.map(|part| Place { dir, part, group: parent.join(format!("*.{extension}")), number: number_of(&parts) })
}

/// An error if numbered shards are missing, or are there twice.
fn require_whole(root: &Path, group: &Path, numbers: &[Option<(usize, usize)>]) -> Result<()> {
    let files = numbers.len();
    let numbers: Vec<(usize, usize)> = numbers.iter().copied().flatten().collect();
    let Some(&(_, total)) = numbers.first() else { return Ok(()) };
    if numbers.iter().any(|(_, other)| *other != total) {
        bail!(
            "{}: the shards of {} are numbered of several totals: remove those of another copy",
            root.display(),
            group.display()
        );
    }
    let present: BTreeSet<usize> = numbers.iter().map(|(number, _)| *number).collect();
    let lacking = (0..total).filter(|number| !present.contains(number));
    let missing: Vec<usize> = lacking.take(1000).collect(); // a name may claim any total
    if !missing.is_empty() {
        bail!(
            "{}: of {} the shards {} are missing: fetch them again",
            root.display(),
            group.display(),
            some_of(missing.iter().map(|number| format!("{number:05}")))
        );
    }
    if present.len() != files || present.iter().any(|&number| number >= total) {
        bail!(
            "{}: {} has {}, not {total}: remove those of another copy",
            root.display(),
            group.display(),
            counted(files, "file")
        );
    }
    Ok(())
}
