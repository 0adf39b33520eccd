//! Files and directories that appear whole or not at all, and locks on where they are written: of one
//! process at a time, or of several that share the work.
//!
//! In an object store a file is uploaded when it is whole, and a directory file by file, the last of
//! which says that it is there. It gives no locks.

use std::{
    env,
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::storage;

/// File that says that a directory is whole: the last that an object store gets of it, and the first
/// that goes.
pub(crate) const WHOLE: &str = "manifest.json";

/// File that a lock is held on, in the directory that is written into.
const LOCK: &str = ".lock";

/// File that those who share a directory hold a lock on for as long as they put something in place.
const COMMIT: &str = ".commit";

/// How long the one before may take to let go, before people are told that it is waited for.
const SOON: Duration = Duration::from_secs(1);

/// End of the names of what is not whole yet. Readers leave out what begins with a dot.
const UNFINISHED: &str = ".tmp";

/// A file that is written and synced under a temporary name, and goes unless it is put in its place.
pub(crate) struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Writes what is to become `path` through `write`, beside it.
    pub fn write(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<Self> {
        create_dir(parent(path))?;
        let staged = Staged { temporary: temporary(path), path: path.to_owned() };
        let file = File::create(&staged.temporary);
        let mut file = file.with_context(|| format!("cannot create {}", staged.temporary.display()))?;
        let written = write(&mut file).and_then(|()| Ok(file.sync_all()?));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(staged)
    }

    /// Puts it in its place, instead of what may be there.
    pub fn put(self) -> Result<()> {
        storage::reached()?; // what was read of one may be wrong
        if storage::is_remote(&self.path) {
            return upload(&self.temporary, &self.path, false).map(|_| ());
        }
        rename(&self.temporary, &self.path)
    }

    /// Puts it in its place unless something is there, and says whether it did: what comes first
    /// stays, also where the file system gives no locks.
    pub fn put_first(self) -> Result<bool> {
        storage::reached()?;
        if storage::is_remote(&self.path) {
            return upload(&self.temporary, &self.path, true);
        }
        match fs::hard_link(&self.temporary, &self.path) {
            Ok(()) => sync_parent(&self.path).map(|()| true),
            Err(_) if self.path.exists() => Ok(false),
            Err(_) => self.put().map(|()| true), // a file system without links
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        fs::remove_file(&self.temporary).ok();
    }
}

/// Writes `path` through `write`: to a temporary name beside it, synced, then renamed. What is no file,
/// such as /dev/stdout or a pipe, is written to as it is: a file in its place would take it away.
pub fn write_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        let written = File::options().write(true).open(path).map_err(Into::into).and_then(|mut file| write(&mut file));
        return written.with_context(|| format!("cannot write {}", path.display()));
    }
    Staged::write(path, write)?.put()
}

/// Writes a value as JSON, for people to read.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    stage_json(path, value)?.put()
}

/// As [`write_json`], not yet in its place.
pub(crate) fn stage_json(path: &Path, value: &impl Serialize) -> Result<Staged> {
    Staged::write(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        Ok(file.write_all(b"\n")?)
    })
}

/// Fills a directory through `fill`, under a temporary name, then renames it to `path`, which must
/// not be there.
pub(crate) fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let put = |new: &Path| if storage::is_remote(path) { upload_dir(new, path) } else { rename(new, path) };
    in_temporary(path, |new| fill(new).and_then(|()| put(new)))
}

/// Does `work` with a new directory of a temporary name beside `path`, which goes unless it is
/// moved.
fn in_temporary(path: &Path, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    create_dir(&temporary)?;
    let done = work(&temporary);
    fs::remove_dir_all(&temporary).ok();
    done
}

/// As [`write_dir`], in the place of a directory that may be there, which goes last.
pub(crate) fn replace_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if storage::is_remote(path) {
        return in_temporary(path, |new| {
            fill(new)?;
            replace_objects(new, path)
        });
    }
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
    if storage::is_remote(path) {
        return Ok(()); // it is there with the first object
    }
    fs::create_dir_all(path).with_context(|| format!("cannot create the directory {}", path.display()))
}

/// Removes a directory and all below it. Its name goes at once, so that nobody finds half of it.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    if storage::is_remote(path) {
        return remove_objects(path, objects_of(path)?, |_| true);
    }
    let temporary = temporary(path);
    fs::rename(path, &temporary)
        .and_then(|()| fs::remove_dir_all(&temporary))
        .with_context(|| format!("cannot remove {}", path.display()))
}

/// Uploads a file, `first` only where nothing is there yet. Says whether it did.
fn upload(from: &Path, to: &Path, first: bool) -> Result<bool> {
    storage::upload(from, to, first).with_context(|| format!("cannot write {}", to.display()))
}

/// Uploads a directory; what says that it, or a directory below, is whole comes last.
fn upload_dir(from: &Path, to: &Path) -> Result<()> {
    let mut files = files_below(from)?;
    files.sort_by_key(|file| file.ends_with(WHOLE));
    files.iter().try_for_each(|file| upload(&from.join(file), &to.join(file), false).map(|_| ()))
}

/// Uploads a directory in the place of what an object store has there. The same directory stays as
/// it is; so does what another process puts there from now on, unless there was a manifest already.
fn replace_objects(new: &Path, place: &Path) -> Result<()> {
    let (old, own) = (objects_of(place)?, files_below(new)?);
    let whole = |dir: &Path| storage::read(&dir.join(WHOLE)).ok();
    let has_all = own.iter().all(|file| old.contains(file));
    if has_all && whole(place).is_some_and(|there| whole(new) == Some(there)) {
        return Ok(());
    }
    remove_objects(place, old, |old| old.ends_with(WHOLE) || !own.iter().any(|file| file == old))?;
    upload_dir(new, place)
}

/// The files of a directory of the file system, as paths below it.
fn files_below(from: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(next) = open.pop() {
        let dir = from.join(&next);
        for (name, found) in storage::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            if found.is_dir() { open.push(next.join(name)) } else { files.push(next.join(name)) }
        }
    }
    Ok(files)
}

/// The objects below a directory, as paths there.
fn objects_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let below = storage::objects_below(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    Ok(below.into_iter().map(|(path, _)| path).collect())
}

/// Removes those of some objects of a directory that `is_old` is true of; first the one that says
/// that it is whole.
fn remove_objects(dir: &Path, objects: Vec<PathBuf>, is_old: impl Fn(&Path) -> bool) -> Result<()> {
    let mut old: Vec<PathBuf> = objects.into_iter().filter(|path| is_old(path)).collect();
    old.sort_by_key(|path| !path.ends_with(WHOLE));
    old.iter().try_for_each(|path| {
        let path = dir.join(path);
        storage::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    })
}

/// Keeps other processes from writing into a directory for as long as it lives, or those out that
/// want it alone.
#[derive(Debug)]
pub struct Lock {
    dir: PathBuf,
    _file: Option<File>, // none in an object store
    is_shared: bool,
    /// What people have to know, where the file system gives no locks.
    pub note: Option<String>,
}

impl Lock {
    /// Waits until no other process writes into `dir`; `wait` is called if there is one. Clears
    /// what a killed process left there unfinished.
    pub fn of(dir: &Path, wait: impl FnOnce()) -> Result<Lock> {
        let lock = Lock::take(dir, false, wait)?;
        if lock.note.is_none() && !storage::is_remote(dir) {
            clear_unfinished(dir)?;
        }
        Ok(lock)
    }

    /// As [`Lock::of`], where nobody writes into `dir` now; else none, at once. Of an object store that
    /// is never known.
    pub fn alone(dir: &Path) -> Result<Option<Lock>> {
        if storage::is_remote(dir) {
            return Ok(None);
        }
        create_dir(dir)?;
        let file = open_lock(&dir.join(LOCK))?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        clear_unfinished(dir)?;
        Ok(Some(Lock { dir: dir.to_owned(), _file: Some(file), is_shared: false, note: None }))
    }

    /// Writes into `dir` beside others that share it too. Waits until nobody has it alone; `wait` is
    /// called if that takes long. Where it is the first, it clears what a killed process left there
    /// unfinished.
    pub fn shared(dir: &Path, wait: impl FnOnce()) -> Result<Lock> {
        drop(Lock::alone(dir)?);
        Lock::take(dir, true, wait)
    }

    fn take(dir: &Path, is_shared: bool, wait: impl FnOnce()) -> Result<Lock> {
        if storage::is_remote(dir) {
            return Ok(Lock { dir: dir.to_owned(), _file: None, is_shared, note: None });
        }
        create_dir(dir)?;
        let file = open_lock(&dir.join(LOCK))?;
        let locked = if is_shared { share(&file, wait) } else { lock(&file, wait) };
        let note = locked.err().map(|error| {
            format!(
                "{}: the file system gives no locks ({error}); write into it with one process at a time",
                dir.display()
            )
        });
        Ok(Lock { dir: dir.to_owned(), _file: Some(file), is_shared, note })
    }

    /// Whether others may write into the directory at the same time.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Keeps those who share the directory from putting something in place, for as long as what is
    /// returned lives. Nothing where the directory is not shared.
    pub fn commit(&self) -> Result<Option<File>> {
        if !self.is_shared || storage::is_remote(&self.dir) {
            return Ok(None);
        }
        let file = open_lock(&self.dir.join(COMMIT))?;
        file.lock().ok(); // a file system without locks was told of
        Ok(Some(file))
    }
}

fn open_lock(path: &Path) -> Result<File> {
    // NFS shares the locks of files that are read, and gives those of written ones to one alone
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("cannot create {}", path.display()))
}

fn lock(file: &File, wait: impl FnOnce()) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            wait();
            file.lock()
        }
        tried => tried.map_err(io::Error::from),
    }
}

fn share(file: &File, wait: impl FnOnce()) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) if start.elapsed() < SOON => thread::sleep(SOON / 50),
            Err(TryLockError::WouldBlock) => {
                wait();
                return file.lock_shared();
            }
            tried => return tried.map_err(io::Error::from),
        }
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

/// A name beside `path` that no other process, and nothing else in this one, takes; for what goes into
/// an object store, among temporary files.
fn temporary(path: &Path) -> PathBuf {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(); // another machine may have the same process number
    let name = format!(".{}-{number}-{:x}{UNFINISHED}", process::id(), since_1970.as_nanos());
    if storage::is_remote(path) { env::temp_dir().join(name) } else { path.with_file_name(name) }
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
    storage::reached()?;
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    sync_parent(to)
}

/// Makes a new name survive a power cut.
fn sync_parent(path: &Path) -> Result<()> {
    let synced = File::open(parent(path)).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("cannot write {}", parent(path).display()))
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

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_stays_what_it_is() {
        use std::{io::Read, os::unix::fs::FileTypeExt};
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reading = thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut text = String::new();
                File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        write_file(&pipe, |file| Ok(file.write_all(b"whole")?)).unwrap();
        assert_eq!(reading.join().unwrap(), "whole");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }

    #[test]
    fn those_who_share_a_directory_put_things_in_place_one_at_a_time_and_the_first_stays() {
        let dir = tempfile::tempdir().unwrap();
        let share = || Lock::shared(dir.path(), || panic!("nobody has it alone")).unwrap();
        fs::write(dir.path().join(".12-1-ab.tmp"), "x").unwrap();
        let first = share();
        assert_eq!(names(dir.path()), [".lock"]); // the first clears
        fs::write(dir.path().join(".12-1-ab.tmp"), "x").unwrap();
        let second = share();
        assert_eq!(names(dir.path()), [".12-1-ab.tmp", ".lock"]); // which may be the first's
        assert!(Lock::alone(dir.path()).unwrap().is_none());

        let commit = first.commit().unwrap();
        let (said, heard) = mpsc::channel();
        let waiting = thread::spawn(move || {
            let commit = second.commit().unwrap();
            said.send(()).unwrap();
            drop(commit);
        });
        assert!(heard.recv_timeout(Duration::from_millis(100)).is_err());
        drop(commit);
        heard.recv().unwrap();
        waiting.join().unwrap();
        drop(first);
        let alone = Lock::alone(dir.path()).unwrap().unwrap();
        assert!(alone.commit().unwrap().is_none());
        assert_eq!(names(dir.path()), [".commit", ".lock"]);
        let sharing = thread::spawn({
            let dir = dir.path().to_owned();
            move || {
                let (said, heard) = mpsc::channel();
                Lock::shared(&dir, || said.send(()).unwrap()).unwrap();
                heard.try_recv().is_ok()
            }
        });
        thread::sleep(2 * SOON);
        drop(alone);
        assert!(sharing.join().unwrap(), "it was told that another has it alone");

        let path = dir.path().join("file");
        let stage = |text: &'static [u8]| Staged::write(&path, |file| Ok(file.write_all(text)?)).unwrap();
        let [one, two, three] = [b"1", b"2", b"3"].map(|text| stage(text));
        assert_eq!([one.put_first().unwrap(), two.put_first().unwrap()], [true, false]);
        assert_eq!(fs::read(&path).unwrap(), b"1");
        three.put().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3");
        drop(stage(b"4"));
        assert_eq!(names(dir.path()), [".commit", ".lock", "file"]);
    }
}
