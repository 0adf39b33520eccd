//! Files and directories that appear whole or not at all, and one process at a time that writes them.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Writes `path` through `write`: to a temporary name beside it, synced, then renamed.
pub fn write_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let parent = path.parent().unwrap_or(Path::new("."));
    create_dir(parent)?;
    let mut file = File::create(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    let written = write(&mut file).and_then(|()| Ok(file.sync_all()?));
    written.with_context(|| format!("cannot write {}", path.display())).inspect_err(|_| {
        fs::remove_file(&temporary).ok();
    })?;
    rename(&temporary, path)
}

/// Fills a directory through `fill`, under a temporary name, then renames it to `path`.
pub fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    if temporary.exists() {
        fs::remove_dir_all(&temporary).with_context(|| format!("cannot clear {}", temporary.display()))?;
    }
    create_dir(&temporary)?;
    fill(&temporary)?;
    rename(&temporary, path)
}

/// Creates a directory and those above it.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the directory {}", path.display()))
}

/// Keeps other processes from writing into a run's directory for as long as the file lives.
pub fn lock(run: &Path) -> Result<File> {
    create_dir(run)?;
    let path = run.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        bail!("another process of cgil is writing into {}: wait for it, or use another --run", run.display());
    }
    Ok(file) // where the file system has no locks, people have to take care themselves
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    // so that the new name survives a power cut too
    File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(())
}
