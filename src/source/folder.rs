//! An image folder: `train/CLASS/*.jpg`, `test/CLASS/*.png`; JPEG, PNG and WebP.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{Kind, Record, Source, SourceId, has_extension};
use crate::{table::embeddings::SPLITS, task::Class};

const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// The files of each split: path below the folder, label.
pub struct Folder {
    root: PathBuf,
    files: BTreeMap<String, Vec<(PathBuf, i64)>>,
}

pub fn open(root: &Path, files: Vec<PathBuf>) -> Result<Source> {
    let (images, left_out): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(|f| is_image(f));

    let names: BTreeSet<&str> = images.iter().filter_map(|f| split_and_class(f)).map(|(_, class)| class).collect();
    let classes: Vec<Class> =
        names.iter().enumerate().map(|(i, name)| Class { label: i as i64, name: (*name).to_owned() }).collect();
    let label: BTreeMap<&str, i64> = names.iter().enumerate().map(|(i, &name)| (name, i as i64)).collect();

    let mut files: BTreeMap<String, Vec<(PathBuf, i64)>> = BTreeMap::new();
    let mut lines = Vec::new();
    for image in &images {
        let Some((split, class)) = split_and_class(image) else { continue };
        let bytes = fs::metadata(root.join(image)).map_or(0, |m| m.len()); // what cannot be read is met again
        lines.push(format!("{} {bytes}", image.display()));
        files.entry(split.to_owned()).or_default().push((image.clone(), label[class]));
    }
    Ok(Source {
        id: SourceId { origin: format!("image folder {}", root.display()), fingerprint: crate::hash_lines(lines) },
        classes,
        rows: files.iter().map(|(split, files)| (split.clone(), files.len())).collect(),
        left_out,
        kind: Kind::Folder(Folder { root: root.to_owned(), files }),
    })
}

impl Folder {
    pub fn read(&self, split: &str, range: Range<usize>) -> impl Iterator<Item = Result<Record>> {
        self.files[split][range].iter().map(|(path, label)| {
            Ok(Record {
                sample_id: path.to_string_lossy().into_owned(),
                label: *label,
                image: fs::read(self.root.join(path)).map_err(|e| e.to_string()),
            })
        })
    }
}

/// Whether a path below the folder is an image of a class of train or test.
pub fn is_image(path: &Path) -> bool {
    split_and_class(path).is_some() && has_extension(path, &EXTENSIONS)
}

/// The split and the class's directory of `train/CLASS/…/file`.
fn split_and_class(path: &Path) -> Option<(&str, &str)> {
    let mut parts = path.iter().map(|part| part.to_str());
    let (split, class) = (parts.next()??, parts.next()??);
    parts.next()?; // the file, or a directory below the class
    SPLITS.contains(&split).then_some((split, class))
}
