//! The cache of the hub's files, as `huggingface_hub` lays it out: `blobs/` by their hashes, links
//! to them in `snapshots/COMMIT/`, `refs/` from revisions to commits.

use std::{
    fs::{self, File as Handle, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    files::{File, Listing},
    name::{Kind, Name},
    watch::Watch,
};
use crate::atomic;

/// Where a repository's lists of files are kept, by commit; the hub's own tools do not look there.
const LISTINGS: &str = ".cgil";

/// The directory of all repositories.
pub struct Cache {
    pub root: PathBuf,
}

/// What is there of a repository.
pub struct Repo {
    pub name: Name,
    dir: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub fn new(root: PathBuf) -> Self {
        Cache { root }
    }

    pub fn repo(&self, name: &Name) -> Repo {
        let kind = match name.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let folder = format!("{kind}--{}", name.id.replace('/', "--"));
        Repo { name: name.clone(), dir: self.root.join(&folder), locks: self.root.join(".locks").join(folder) }
    }
}

impl Repo {
    /// The directory of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The commit of the revision, as far as the cache knows it.
    pub fn commit(&self) -> Option<String> {
        if self.name.is_at_commit() {
            return self.name.revision.clone();
        }
        let commit = fs::read_to_string(self.reference()).ok()?.trim().to_owned();
        (!commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(commit)
    }

    /// The files of a commit; where another tool fetched them, those that are there.
    pub fn listing(&self, commit: &str) -> Option<Listing> {
        let kept = fs::read(self.listing_file(commit)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        kept.or_else(|| {
            let mut siblings = Vec::new();
            files_below(&self.snapshot(commit), "", &mut siblings).ok()?;
            siblings.sort_by(|a, b| a.path.cmp(&b.path));
            Some(Listing { sha: commit.to_owned(), siblings })
        })
    }

    /// Keeps what the hub says of the revision.
    pub fn put_listing(&self, listing: &Listing) -> Result<()> {
        let path = self.listing_file(&listing.sha);
        if !path.exists() {
            atomic::write_json(&path, listing)?;
        }
        if !self.name.is_at_commit() && self.commit().as_ref() != Some(&listing.sha) {
            atomic::write_file(&self.reference(), |file| Ok(file.write_all(listing.sha.as_bytes())?))?;
        }
        Ok(())
    }

    /// Whether a file of a commit is there.
    pub fn has(&self, commit: &str, file: &File) -> bool {
        fs::metadata(self.snapshot(commit).join(&file.path)).is_ok_and(|found| found.len() == file.size)
    }

    /// Whether the contents of a file are there, for whichever commit they were fetched.
    pub fn has_blob(&self, file: &File) -> bool {
        fs::metadata(self.blob(file)).is_ok_and(|found| found.len() == file.size)
    }

    /// Where a file is while it is fetched; another tool may have begun.
    pub fn part(&self, file: &File) -> Result<PathBuf> {
        atomic::create_dir(&self.dir.join("blobs"))?;
        Ok(self.dir.join("blobs").join(format!("{}.incomplete", file.hash())))
    }

    /// Keeps what was fetched.
    pub fn keep(&self, file: &File, part: &Path) -> Result<()> {
        let blob = self.blob(file);
        fs::rename(part, &blob).with_context(|| format!("cannot move {} to {}", part.display(), blob.display()))
    }

    /// Puts a file into the snapshot of a commit.
    pub fn link(&self, commit: &str, file: &File) -> Result<()> {
        let path = self.snapshot(commit).join(&file.path);
        atomic::create_dir(path.parent().unwrap_or(&self.dir))?;
        if fs::symlink_metadata(&path).is_ok() {
            fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        let up = "../".repeat(2 + file.path.matches('/').count());
        let linked = link(Path::new(&format!("{up}blobs/{}", file.hash())), &self.blob(file), &path);
        linked.with_context(|| format!("cannot link {}", path.display()))
    }

    /// Waits until no other process fetches a file, of whichever tool.
    pub fn lock(&self, file: &File, watch: &dyn Watch) -> Result<Handle> {
        atomic::create_dir(&self.locks)?;
        let path = self.locks.join(format!("{}.lock", file.hash()));
        let handle = Handle::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if let Err(TryLockError::WouldBlock) = handle.try_lock() {
            watch.note(&format!("waiting for another process that fetches {}", file.path));
            handle.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        } // a file system without locks has to do without
        Ok(handle)
    }

    fn blob(&self, file: &File) -> PathBuf {
        self.dir.join("blobs").join(file.hash())
    }

    fn reference(&self) -> PathBuf {
        self.dir.join("refs").join(self.name.revision())
    }

    fn listing_file(&self, commit: &str) -> PathBuf {
        self.dir.join(LISTINGS).join(format!("{commit}.json"))
    }
}

#[cfg(unix)]
fn link(relative: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

#[cfg(not(unix))]
fn link(_relative: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path)
}

/// Adds the files below a directory of a snapshot.
fn files_below(dir: &Path, prefix: &str, files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let found = fs::metadata(entry.path())?;
        if found.is_dir() {
            files_below(&entry.path(), &format!("{path}/"), files)?;
        } else {
            files.push(File { path, size: found.len(), blob_id: String::new(), lfs: None });
        }
    }
    Ok(())
}
