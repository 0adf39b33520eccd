//! Files and directories that appear whole or not at all, and one process at a time that writes
//! them.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use anyhow::{Context, Result};
use serde::Serialize;

/// File that a lock is held on, in the directory that is written into.
const LOCK: &str = ".lock";

/// End of the names of what is not whole yet. Readers leave out what begins with a dot.
const UNFINISHED: &str = ".tmp";

/// Writes `path` through `write`: to a temporary name beside it, synced, then renamed.
pub fn write_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    create_dir(parent(path))?;
    let temporary = temporary(path);
    let mut file = File::create(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    let written = write(&mut file).and_then(|()| Ok(file.sync_all()?));
    let written = written.with_context(|| format!("cannot write {}", path.display()));
    written.and_then(|()| rename(&temporary, path)).inspect_err(|_| {
        fs::remove_file(&temporary).ok();
    })
}

/// Writes a value as JSON, for people to read.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_file(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        Ok(file.write_all(b"\n")?)
    })
}

/// Fills a directory through `fill`, under a temporary name, then renames it to `path`, which must
/// not be there.
pub(crate) fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    create_dir(&temporary)?;
    fill(&temporary).and_then(|()| rename(&temporary, path)).inspect_err(|_| {
        fs::remove_dir_all(&temporary).ok();
    })
}

/// As [`write_dir`], in the place of a directory that may be there, which goes last.
pub(crate) fn replace_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if !path.exists() {
        return write_dir(path, fill);
    }
    let (new, old) = (temporary(path), temporary(path));
    write_dir(&new, fill)?;
    rename(path, &old)?;
    rename(&new, path).inspect_err(|_| {
        fs::rename(&old, path).ok();
    })?;
    fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))
}

/// Creates a directory and those above it.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the directory {}", path.display()))
}

/// Removes a directory and all below it. Its name goes at once, so that nobody finds half of it.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    let temporary = temporary(path);
    fs::rename(path, &temporary)
        .and_then(|()| fs::remove_dir_all(&temporary))
        .with_context(|| format!("cannot remove {}", path.display()))
}

/// Keeps other processes from writing into a directory for as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// What people have to know, where the file system gives no locks.
    pub note: Option<String>,
}

impl Lock {
    /// Waits until no other process writes into `dir`; `wait` is called if there is one. Clears
    /// what a killed process left there unfinished.
    pub fn of(dir: &Path, wait: impl FnOnce()) -> Result<Lock> {
        create_dir(dir)?;
        let path = dir.join(LOCK);
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                wait();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        let note = locked.err().map(|error| {
            format!(
                "{}: the file system gives no locks ({error}); write into it with one process at a time",
                dir.display()
            )
        });
        if note.is_none() {
            clear_unfinished(dir)?;
        }
        Ok(Lock { _file: file, note })
    }
}

/// Removes what processes that were killed left unfinished below a directory that is locked. Goes
/// through no link: what lies behind one is locked elsewhere, or is not of a run at all.
fn clear_unfinished(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type());
        let kind = kind.with_context(|| format!("cannot read {}", path.display()))?;
        match (is_temporary(&entry.file_name().to_string_lossy()), kind.is_dir()) {
            (true, true) => fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?,
            (true, false) => fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?,
            (false, true) => clear_unfinished(&path)?,
            (false, false) => {}
        }
    }
    Ok(())
}

/// A name beside `path` that no other process, and nothing else in this one, takes.
fn temporary(path: &Path) -> PathBuf {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(); // another machine may have the same process number
    path.with_file_name(format!(".{}-{number}-{:x}{UNFINISHED}", process::id(), since_1970.as_nanos()))
}

/// Whether a name is one of [`temporary`].
fn is_temporary(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.strip_suffix(UNFINISHED)).map(|name| name.split('-'));
    parts.is_some_and(|parts| {
        let parts: Vec<&str> = parts.collect();
        parts.len() == 3 && parts.iter().all(|part| u128::from_str_radix(part, 16).is_ok())
    })
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    // so that the new name survives a power cut too
    let synced = File::open(parent(to)).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("cannot write {}", parent(to).display()))
}

/// The directory that `path` lies in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use anyhow::bail;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_fails_leaves_nothing_and_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (file, place) = (dir.path().join("deep/file"), dir.path().join("deep/place"));
        write_file(&file, |file| Ok(file.write_all(b"old")?)).unwrap();
        let fill = |text: &'static str| {
            move |dir: &Path| {
                fs::write(dir.join("a"), text)?;
                if text == "bad" { bail!("no") } else { Ok(()) }
            }
        };
        write_dir(&place, fill("old")).unwrap();
        assert!(
            write_file(&file, |file| file.write_all(b"new").map_err(Into::into).and_then(|()| bail!("no"))).is_err()
        );
        assert!(write_dir(&dir.path().join("deep/other"), fill("bad")).is_err());
        assert!(replace_dir(&place, fill("bad")).is_err());
        assert_eq!(names(&dir.path().join("deep")), ["file", "place"]);
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read(place.join("a")).unwrap(), b"old");
        replace_dir(&place, fill("new")).unwrap();
        assert_eq!(fs::read(place.join("a")).unwrap(), b"new");
        write_json(&file, &[1, 2]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "[\n  1,\n  2\n]\n");
        remove_dir(&place).unwrap();
        assert_eq!(names(&dir.path().join("deep")), ["file"]);
        assert!(remove_dir(&place).unwrap_err().to_string().contains("cannot remove"));
    }

    #[test]
    fn a_lock_clears_what_was_left_and_keeps_others_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        fs::create_dir_all(work.join("below/.12-0-ab.tmp")).unwrap();
        fs::write(work.join("below/.12-0-ab.tmp/x"), "x").unwrap();
        for name in [".12-1-ab.tmp", ".hidden", ".notes.tmp", ".1-2-three.tmp", ".1-2.tmp", "kept.tmp"] {
            fs::write(work.join(name), "x").unwrap();
        }
        // what lies behind a link is not of this directory
        let behind = dir.path().join("behind");
        fs::create_dir_all(behind.join(".12-0-ab.tmp")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&behind, work.join("link")).unwrap();
        let first = Lock::of(&work, || panic!("nobody holds it")).unwrap();
        assert_eq!(first.note, None);
        let mut kept = vec![".1-2-three.tmp", ".1-2.tmp", ".hidden", ".lock", ".notes.tmp", "below", "kept.tmp"];
        if cfg!(unix) {
            kept.push("link");
        }
        assert_eq!(names(&work), kept);
        assert_eq!(names(&behind), [".12-0-ab.tmp"]);
        assert_eq!(names(&work.join("below")), Vec::<String>::new());

        let (said, heard) = mpsc::channel();
        let waiting = thread::spawn({
            let (said, work) = (said.clone(), work.clone());
            move || {
                let lock = Lock::of(&work, || said.send("waits").unwrap()).unwrap();
                said.send("has it").unwrap();
                lock
            }
        });
        assert_eq!(heard.recv().unwrap(), "waits");
        assert!(heard.recv_timeout(Duration::from_millis(100)).is_err());
        drop(first);
        assert_eq!(heard.recv().unwrap(), "has it");
        drop(waiting.join().unwrap());
        Lock::of(&work, || panic!("nobody holds it any more")).unwrap();
    }
}
