//! What an artefact's directory says of itself: the manifest, and the files beside it.

use std::{collections::BTreeMap, io, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::Error,
    identity::{Identity, Input, Kind, identity},
};
use crate::{atomic, hash::hash_file, storage};

/// Name of the manifest in an artefact's directory.
pub const MANIFEST: &str = atomic::WHOLE;

/// A file of an artefact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Its size in bytes.
    pub bytes: u64,
    /// The SHA-256 of its bytes, as lower-case hexadecimal.
    pub sha256: String,
}

/// What an artefact's `manifest.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the [`Kind`].
    pub kind: String,
    /// Format number of the kind when it was made.
    pub format: u32,
    /// Algorithm number of the kind when it was made.
    pub algorithm: u32,
    /// Name and version of the program; does not count.
    pub program: String,
    /// Class of the device that computed it, where values depend on it.
    pub device: Option<String>,
    /// Everything that was asked for and decides the values.
    pub options: Value,
    /// The artefacts that it was made from, by what they are to it.
    pub inputs: BTreeMap<String, Input>,
    /// The hash of what is above, but for `program`.
    pub identity: Identity,
    /// Where it was made, below the run's directory; does not count. What lies elsewhere is a copy.
    pub place: String,
    /// The files beside the manifest, by their paths in the directory.
    pub files: BTreeMap<String, FileSum>,
    /// What else is known of it; does not count.
    #[serde(default)]
    pub about: Value,
}

impl Manifest {
    /// Reads the manifest of an artefact of a kind.
    pub fn read(dir: &Path, kind: &Kind) -> Result<Self> {
        Self::find(dir, kind)?.ok_or_else(|| Error::Missing { dir: dir.to_owned() }.into())
    }

    /// As [`Manifest::read`]; none where there is none.
    pub fn find(dir: &Path, kind: &Kind) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        match storage::read_to_string(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            text => Self::parse(dir, kind, &text.with_context(|| format!("cannot read {}", path.display()))?).map(Some),
        }
    }

    fn parse(dir: &Path, kind: &Kind, text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
            format: u32,
            algorithm: u32,
            program: String,
        }
        let damaged = |what: String| Error::Damaged { dir: dir.to_owned(), what: format!("its {MANIFEST} {what}") };
        let head: Head = serde_json::from_str(text).map_err(|e| damaged(format!("is no manifest: {e}")))?;
        if (head.kind.as_str(), head.format, head.algorithm) != (kind.name, kind.format, kind.algorithm) {
            let Head { kind: found, format, algorithm, program } = head;
            let expected = format!("{} in format {}.{}", kind.name, kind.format, kind.algorithm);
            return Err(
                Error::Version { dir: dir.to_owned(), kind: found, format, algorithm, program, expected }.into()
            );
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        let Manifest { device, options, inputs, .. } = &manifest;
        let found = identity(kind.name, kind.format, kind.algorithm, device.as_deref(), options, inputs);
        if found != manifest.identity {
            return Err(damaged("was changed since it was written: it has another identity".into()).into());
        }
        let is_inside =
            |name: &String| Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if let Some(name) = manifest.files.keys().find(|name| !is_inside(name)) {
            return Err(damaged(format!("names a file outside the directory, {name:?}")).into());
        }
        Ok(manifest)
    }

    /// The options, as the type that they were made of.
    pub fn options<T: serde::de::DeserializeOwned>(&self, dir: &Path) -> Result<T> {
        T::deserialize(&self.options)
            .map_err(|e| Error::Damaged { dir: dir.to_owned(), what: format!("options of its {MANIFEST}: {e}") }.into())
    }

    /// An error unless a file of the artefact in `dir` is what it was when it was written.
    pub fn check_file(&self, dir: &Path, name: &str) -> Result<()> {
        let damaged = |what: String| Error::Damaged { dir: dir.to_owned(), what };
        let sum = self.files.get(name).ok_or_else(|| damaged(format!("its {MANIFEST} knows no {name}")))?;
        let path = dir.join(name);
        let bytes = match storage::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(format!("{name} is missing")).into());
            }
            file => file.with_context(|| format!("cannot read {}", path.display()))?.bytes(),
        };
        if bytes != sum.bytes {
            return Err(damaged(format!("{name} should have {} bytes, but has {bytes}", sum.bytes)).into());
        }
        if hash_file(&path)? != sum.sha256 {
            return Err(damaged(format!("{name} was changed since it was written: it has another SHA-256")).into());
        }
        Ok(())
    }
}

/// Size and checksum of every file below a directory.
pub(super) fn files_of(dir: &Path) -> Result<BTreeMap<String, FileSum>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for (name, found) in storage::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = next.join(name);
            if found.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.insert(name, FileSum::of(&path)?);
        }
    }
    Ok(files)
}

impl FileSum {
    /// Of a file. Reads it once.
    pub fn of(path: &Path) -> Result<Self> {
        let bytes = storage::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.bytes();
        Ok(FileSum { bytes, sha256: hash_file(path)? })
    }
}
