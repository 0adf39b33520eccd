//! Where images come from: a folder of files, or Hugging Face Parquet shards.

mod folder;
pub mod foreign;
mod hugging_face;

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    table::embeddings::{SPLITS, SourceId},
    task::Class,
};

/// A labelled set of images in a stable order, with the splits `train` and `test`.
pub struct Source {
    pub id: SourceId,
    /// The classes in the dataset's order, by ascending label.
    pub classes: Vec<Class>,
    /// Rows of each split.
    pub rows: BTreeMap<String, usize>,
    /// Files that belong to neither split, or are of another kind.
    pub left_out: Vec<PathBuf>,
    kind: Kind,
}

enum Kind {
    Folder(folder::Folder),
    HuggingFace(hugging_face::Shards),
}

/// One image of a source.
pub struct Record {
    /// Stable key inside the source.
    pub sample_id: String,
    pub label: i64,
    /// The encoded image, or why it could not be read.
    pub image: Result<Vec<u8>, String>,
}

impl Source {
    /// Opens `path`: an image folder, or Parquet shards where there are no images.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            bail!(
                "{} is not a directory; --data takes an image folder or a directory of Parquet shards",
                path.display()
            );
        }
        let files = files_below(path)?;
        let any_images = files.iter().any(|f| folder::is_image(f));
        let source = if !any_images && files.iter().any(|f| has_extension(f, &["parquet"])) {
            hugging_face::open(path, files)?
        } else {
            folder::open(path, files)?
        };
        for split in SPLITS {
            if source.rows.get(split).copied().unwrap_or(0) == 0 {
                bail!(
                    "{} has no {split} images; expected {split}/CLASS/*.jpg (png, webp) or {split}-*.parquet",
                    path.display()
                );
            }
        }
        Ok(source)
    }

    /// Reads the rows `range` of a split, in the source's order.
    pub fn read<'a>(
        &'a self,
        split: &'a str,
        range: Range<usize>,
    ) -> Result<Box<dyn Iterator<Item = Result<Record>> + 'a>> {
        match &self.kind {
            Kind::Folder(folder) => Ok(Box::new(folder.read(split, range))),
            Kind::HuggingFace(shards) => Ok(Box::new(shards.read(split, range)?)),
        }
    }
}

/// Every file below `dir`, as paths relative to it, sorted by their bytes; hidden ones are left out.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open: Vec<(PathBuf, Vec<PathBuf>)> = vec![(PathBuf::new(), Vec::new())];
    while let Some((relative, mut above)) = open.pop() {
        let absolute = dir.join(&relative);
        let real = absolute.canonicalize().with_context(|| format!("cannot resolve {}", absolute.display()))?;
        if above.contains(&real) {
            continue; // a link to a directory that it lies in
        }
        above.push(real);
        let entries = fs::read_dir(&absolute).with_context(|| format!("cannot list {}", absolute.display()))?;
        for entry in entries {
            let name = entry.with_context(|| format!("cannot list {}", absolute.display()))?.file_name();
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let path = relative.join(name);
            // follows links, as people link data sets into place
            if dir.join(&path).is_dir() { open.push((path, above.clone())) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    extensions.contains(&extension.as_str())
}
