//! What the processes of partitions say of themselves in a run's directory `jobs`, for `status`. No
//! result depends on it.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use cgil::{
    atomic,
    partition::Partition,
    run::{Run, names},
    storage,
};
use serde::{Deserialize, Serialize};
use sysinfo::System;

use crate::{outcome, terminal};

/// The directory in a run's.
pub const JOBS: &str = "jobs";

/// How often a process says that it is at work,
const BEAT: Duration = Duration::from_secs(10);
/// and after how long it is believed no more.
const SILENCE: Duration = Duration::from_secs(60);

/// What the last process of a partition said.
#[derive(Serialize, Deserialize)]
pub struct Record {
    pub partition: String,
    pub host: String,
    pub process: u32,
    pub state: State,
    /// When it began.
    pub began: SystemTime,
    /// Why it failed, or stopped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether it was heard of lately.
    #[serde(skip)]
    pub is_heard: bool,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Done,
    /// Before all was done; goes on when it is started again.
    Stopped,
    /// And will again.
    Failed,
}

/// How long a process that is stopped tries to say so.
const SOON: Duration = Duration::from_secs(5);

/// The partition that this process does.
static OWN: Mutex<Option<Own>> = Mutex::new(None);

#[derive(Clone)]
struct Own {
    partition: Partition,
    record: PathBuf,
    began: SystemTime,
}

/// Does the work of a partition on what lies in `place`, a path below the run's, and keeps a record
/// of it; that of all of it without one.
pub fn recorded(run: &Run, place: &str, partition: Option<Partition>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(partition) = partition else { return work() };
    let path = dir(run, place).join(format!("{}.json", partition.to_string().replace('/', "-of-")));
    *own() = Some(Own { partition, record: path.clone(), began: SystemTime::now() });
    record(State::Running, "")?;
    let done = thread::scope(|scope| {
        let (end, ended) = mpsc::channel::<()>();
        let path = &path;
        scope.spawn(move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                beat(path);
            }
        });
        let done = outcome::or_lost(work());
        drop(end);
        done
    });
    let told = match &done {
        Ok(()) => record(State::Done, ""),
        Err(error) if outcome::code(error) == outcome::TRANSIENT => record(State::Stopped, &format!("{error:#}")),
        Err(error) => record(State::Failed, &format!("{error:#}")),
    };
    if let Err(error) = told {
        terminal::note(&format!("note: {error:#}")); // of the work itself nothing is lost
    }
    done
}

/// Records that this process ends for a reason from outside, where it does a partition, if that can be
/// done soon.
pub fn stop(reason: &str) {
    let (end, ended) = mpsc::channel::<()>();
    let reason = reason.to_owned();
    thread::spawn(move || {
        record(State::Stopped, &reason).ok();
        drop(end);
    });
    ended.recv_timeout(SOON).ok();
}

fn record(state: State, message: &str) -> Result<()> {
    let Some(Own { partition, record: path, began }) = own().clone() else { return Ok(()) };
    let node = env::var("SLURMD_NODENAME").ok(); // as people there call it
    let host = node.or_else(System::host_name).unwrap_or_default();
    let (partition, message) = (partition.to_string(), message.to_owned());
    let record = Record { partition, host, process: process::id(), state, began, message, is_heard: true };
    atomic::write_file(&path, |file| Ok(file.write_all(serde_json::to_string(&record)?.as_bytes())?))
}

fn own() -> MutexGuard<'static, Option<Own>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that the process is still at work.
fn beat(path: &Path) {
    storage::touch(path).ok();
}

/// Names of the places right below `place` whose partitions were begun.
pub fn places_below(run: &Run, place: &str) -> Vec<String> {
    names(&dir(run, place))
}

/// What the partitions of what lies in `place` said, in their order.
pub fn records(run: &Run, place: &str) -> Vec<(Partition, Record)> {
    let dir = dir(run, place);
    let read = |name: String| {
        let path = dir.join(name);
        let mut record: Record = serde_json::from_slice(&storage::read(&path).ok()?).ok()?;
        let spoke = storage::metadata(&path).ok()?.modified()?;
        record.is_heard = spoke.elapsed().unwrap_or_default() < SILENCE;
        Some((record.partition.parse().ok()?, record))
    };
    let mut records: Vec<(Partition, Record)> = names(&dir).into_iter().filter_map(read).collect();
    records.sort_by_key(|(partition, _)| (partition.of(), partition.index()));
    records
}

fn dir(run: &Run, place: &str) -> PathBuf {
    run.dir().join(JOBS).join(place)
}
