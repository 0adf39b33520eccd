//! WebDataset: tar files, in the order of their names, of samples: consecutive members that share
//! their name up to its first dot, a picture and its label in `.cls`, `.json` or `.txt`. Nothing is
//! unpacked to disk.

mod archive;
mod listings;
mod samples;

use std::{
    collections::HashSet,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::{array::RecordBatch, datatypes::Field};

use self::{
    archive::Archive,
    listings::Listed,
    samples::{Contents, Picture},
};
use super::{
    braces, class_names,
    data_set::{Encoded, Found, Images},
    labels::{Labels, Names},
    listing::Listing,
    names::{id_of, some_of},
    options::SourceOptions,
    records,
    shards::Shards,
    split::Part,
};
use crate::storage;

/// A file beside the archives, or above them, that names the classes, one a line.
const CLASS_NAMES: &str = "classnames.txt";

/// The archives, in the source's order.
struct Archives {
    root: PathBuf,
    files: Vec<TarFile>,
    /// What is in the .json of the samples, but for the labels, where some of it is kept.
    others: RecordBatch,
    /// The archive that was read last, since one that is compressed is read from its beginning.
    last: Mutex<Option<(PathBuf, Archive)>>,
}

/// An archive that rows lie in.
struct TarFile {
    /// Below the root.
    path: PathBuf,
    /// Places of its rows in the source's order.
    rows: Range<u32>,
    pictures: Vec<Picture>,
}

/// Whether a path names a tar file, or several by braces.
pub fn is_tar(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

/// Opens a directory of archives, one archive, or those that braces name.
pub fn open(path: &Path, listing: &Listing, options: &SourceOptions) -> Result<Found> {
    let (root, named) = if storage::is_dir(path) { (path.to_owned(), listing.files.clone()) } else { named(path)? };
    let tars: Vec<&PathBuf> = named.iter().filter(|file| is_tar(file)).collect();
    ensure!(!tars.is_empty(), "{} has no tar files", path.display());
    let shards = match (&tars[..], storage::is_dir(path)) {
        ([one], false) => Shards { files: vec![((*one).clone(), Part::Unsplit)], left_out: Vec::new() },
        _ => Shards::of(&root, &tars)?,
    };

    let (mut found, mut others) = (Labels::default(), Vec::new());
    let (mut lines, mut files, mut parts, mut notes) = (Vec::new(), Vec::new(), Vec::new(), shards.notes());
    let mut damages = Vec::new();
    let listed = listings::of_all(&root, &shards.files, options)?;
    for ((relative, part), Listed { bytes, contents, damage }) in shards.files.iter().zip(listed) {
        let Contents { pictures, labels, records, left_out } = contents;
        notes.extend(left_out.notes(relative));
        damages.extend(damage.map(|damage| damage.note(relative, pictures.len())));
        let start = found.len() as u32;
        found.append(labels);
        others.extend(records);
        let rows = start..found.len() as u32;
        parts.extend(rows.clone().map(|_| *part));
        lines.push(format!("{} {} {bytes} {}", format!("{part:?}").to_lowercase(), id_of(relative), rows.len()));
        files.push(TarFile { path: relative.clone(), rows, pictures });
    }
    ensure!(found.len() > 0 || damages.is_empty(), "nothing is left of {}: {}", path.display(), some_of(damages));
    notes.extend(damages);
    let others = records::batch(records::columns_of(others))?;
    let archives = Archives { root, files, others, last: Mutex::new(None) };
    let names = archives.class_names()?.map_or(Names::Own, Names::Counted);
    let (mut classes, rows) = found.classes(path, "the label", names, |row| archives.id(row as u32))?;
    lines.extend(classes.iter().map(|class| format!("class {} {:?}", class.label, class.name)));
    lines.push(format!("labels {}", crate::hash::hash_lines(rows.iter().map(u32::to_string))));
    if let Some(file) = &options.class_names {
        class_names::rename(&mut classes, file)?;
        lines.extend(classes.iter().map(|class| format!("called {:?}", class.name)));
    }
    Ok(Found {
        what: "WebDataset".into(),
        classes,
        rows: rows.into_iter().zip(parts).collect(),
        lines,
        notes,
        why_empty: Box::new(|_, _| String::new()),
        images: Box::new(archives),
    })
}

/// The directory of the archives that a path names, and their names there.
fn named(path: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let pattern = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    let names = braces::expand(pattern).with_context(|| format!("{pattern} stands for too many files"))?;
    let names: Vec<PathBuf> = names.into_iter().map(PathBuf::from).collect();
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
        bail!("{pattern} names {} twice", twice.display());
    }
    let missing = names.iter().filter(|name| !storage::is_file(name)).map(|name| name.display().to_string());
    let missing = some_of(missing);
    ensure!(missing.is_empty(), "not there, or no files: {missing}");
    let is_plain = |dir: &&Path| !braces::has_some(&dir.to_string_lossy());
    let root = path.ancestors().skip(1).find(is_plain).unwrap_or(Path::new("")).to_owned();
    let below = names.iter().map(|name| name.strip_prefix(&root).unwrap_or(name).to_owned()).collect();
    Ok((root, below))
}

impl Images for Archives {
    fn read<'a>(&'a self, rows: &'a [u32]) -> Result<Encoded<'a>> {
        Ok(Box::new(rows.iter().map(|&row| {
            let (file, Picture { offset, bytes, .. }) = self.picture_of(row);
            let path = self.root.join(file);
            let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if last.as_ref().is_none_or(|(open, _)| *open != path) {
                let archive = Archive::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
                *last = Some((path.clone(), archive));
            }
            let Some((_, archive)) = last.as_mut() else { bail!("{} is not open", path.display()) };
            let mut image = Vec::new();
            let read =
                archive.seek(SeekFrom::Start(*offset)).and_then(|_| archive.take(*bytes).read_to_end(&mut image));
            let read = read.with_context(|| format!("{} is damaged: fetch it again", path.display()))?;
            ensure!(read as u64 == *bytes, "{} ends in a picture: fetch it again", path.display());
            Ok(Ok(image))
        })))
    }

    fn paths(&self, rows: &[u32]) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = rows.iter().map(|&row| self.root.join(self.picture_of(row).0)).collect();
        paths.dedup();
        paths
    }

    fn id(&self, row: u32) -> String {
        let (file, picture) = self.picture_of(row);
        format!("{}/{}", id_of(file), picture.name)
    }

    fn columns(&self) -> Vec<Field> {
        records::fields_of(&self.others)
    }

    fn values(&self, columns: &[&str], rows: &[u32]) -> Result<RecordBatch> {
        records::values(&self.others, columns, rows)
    }
}

impl Archives {
    /// The archive that a row lies in, and its picture there.
    fn picture_of(&self, row: u32) -> (&Path, &Picture) {
        let TarFile { path, rows, pictures } = &self.files[self.files.partition_point(|file| file.rows.end <= row)];
        (path, &pictures[(row - rows.start) as usize])
    }

    /// The names in the file beside the archives, or above them.
    fn class_names(&self) -> Result<Option<Vec<String>>> {
        let beside = self.files.first().and_then(|file| self.root.join(&file.path).parent().map(Path::to_owned));
        let dirs = beside.iter().flat_map(|dir| dir.ancestors().take(2));
        let Some(file) = dirs.map(|dir| dir.join(CLASS_NAMES)).find(|file| storage::is_file(file)) else {
            return Ok(None);
        };
        let text = storage::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Some(text.trim_start_matches('\u{feff}').trim_end().lines().map(|line| line.trim().to_owned()).collect()))
    }
}
