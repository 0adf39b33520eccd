//! A run: the directory that holds all artefacts.
//!
//! ```text
//! sources/SOURCE                     embeddings and quarantine of a source, shard by shard
//! listings/SOURCE                    what its archives hold, where it is of some
//! streams/STREAM/task-NN             which classes of which source a task learns
//! latents/STREAM/KIND/task-NN        generators of a task's classes
//! latents/STREAM/KIND/quality        how good these are
//! statistics/STREAM/LEARNER/task-NN  what a classifier has learned after a task
//! statistics/STREAM/LEARNER/sums     what partitions have summed up of tasks that are not learned yet
//! prompts/STREAM/PROMPTS/task-NN     the prompts after a task
//! results/STREAM/METHOD/task-NN      predictions and scores after a task
//! ```

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{
    artefact::{self, Input, Kind, MANIFEST, Manifest},
    atomic::Lock,
    storage,
};

/// Directories of a run, by what lies in them.
pub(crate) const SOURCES: &str = "sources";
pub(crate) const LISTINGS: &str = "listings";
pub(crate) const STREAMS: &str = "streams";
pub(crate) const LATENTS: &str = "latents";
pub(crate) const STATISTICS: &str = "statistics";
pub(crate) const PROMPTS: &str = "prompts";
pub(crate) const RESULTS: &str = "results";

/// A run's directory, and where notes for people go.
#[derive(Clone, Debug)]
pub struct Run {
    dir: PathBuf,
    note: fn(&str),
}

impl Run {
    /// The run in `dir`, which need not be there yet. An error where an older cgil has made it.
    pub fn open(dir: &Path, note: fn(&str)) -> Result<Self> {
        let dir_shown = dir.display();
        if storage::is_file(&dir.join("embeddings").join(MANIFEST)) && !storage::exists(&dir.join(SOURCES)) {
            bail!(
                "{dir_shown} is of an older format: `cgil import {dir_shown}/embeddings --run NEW` takes its embeddings as they \
                 are into another run, where the stages after it (with --model) make the rest again"
            );
        }
        Ok(Run { dir: dir.to_owned(), note })
    }

    /// The run's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells people something that does not stop the work.
    pub fn note(&self, line: &str) {
        (self.note)(line);
    }

    /// Waits until no other process writes into a directory of the run.
    pub fn lock(&self, dir: &Path) -> Result<Lock> {
        self.told(Lock::of(dir, || self.note_waiting(dir)))
    }

    /// Waits until no other process has a directory of the run for itself, and writes into it beside
    /// those that share it.
    pub fn share(&self, dir: &Path) -> Result<Lock> {
        self.told(Lock::shared(dir, || self.note_waiting(dir)))
    }

    fn note_waiting(&self, dir: &Path) {
        self.note(&format!("note: waiting for another process that writes into {}", dir.display()));
    }

    fn told(&self, lock: Result<Lock>) -> Result<Lock> {
        let lock = lock?;
        lock.note.iter().for_each(|note| self.note(&format!("note: {note}")));
        Ok(lock)
    }

    /// Where files that nobody has to find may lie while a command works: in the run's directory, or, of a
    /// run in an object store, in the system's place for them.
    pub fn scratch(&self) -> PathBuf {
        if storage::is_remote(&self.dir) { env::temp_dir() } else { self.dir.clone() }
    }

    /// Where a directory is below the run's.
    pub fn place(&self, dir: &Path) -> String {
        artefact::place(&self.dir, dir)
    }

    /// An artefact of the run as an input of another.
    pub fn input(&self, dir: &Path, manifest: &Manifest) -> Input {
        Input::new(&self.dir, dir, manifest.identity.clone())
    }

    /// The streams that are there, sorted.
    pub fn streams(&self) -> Vec<String> {
        names(&self.dir.join(STREAMS))
    }

    /// The methods that have been scored on the stream of a name, as their directories are called,
    /// sorted.
    pub fn methods(&self, stream: &str) -> Vec<String> {
        names(&self.dir.join(RESULTS).join(stream))
    }

    /// The sources that are there, sorted; a directory that holds a lock alone is not begun.
    pub fn sources(&self) -> Vec<String> {
        let dir = self.dir.join(SOURCES);
        names(&dir).into_iter().filter(|name| !names(&dir.join(name)).is_empty()).collect()
    }
}

/// Names of what a directory holds, sorted; hidden ones are left out.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = storage::names(dir).into_iter().filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// The directory of the step after `learned` tasks, or of the task of that number.
pub(crate) fn step_name(learned: usize) -> String {
    format!("{STEP}{learned:02}")
}

/// The number that a name of [`step_name`] is of; none where it is another name.
pub(crate) fn step_number(name: &str) -> Option<usize> {
    name.strip_prefix(STEP)?.parse().ok().filter(|&number| step_name(number) == name)
}

/// What names of steps begin with.
const STEP: &str = "task-";

/// Which artefacts of a run belong to what is there: those whose inputs are what they were made
/// from, or are gone.
pub struct Belonging<'a> {
    run: &'a Run,
    manifests: RefCell<HashMap<PathBuf, Option<Manifest>>>,
    reasons: RefCell<BTreeMap<PathBuf, Option<String>>>,
}

impl<'a> Belonging<'a> {
    /// Of all artefacts of a run. Reads nothing yet.
    pub fn new(run: &'a Run) -> Self {
        Belonging { run, manifests: RefCell::default(), reasons: RefCell::default() }
    }

    /// The manifest of the artefact in `dir`, a path below the run; none where it has none that can
    /// be read.
    pub fn manifest(&self, dir: &Path) -> Option<Manifest> {
        if let Some(known) = self.manifests.borrow().get(dir) {
            return known.clone();
        }
        let found = kind_of(dir).and_then(|kind| Manifest::find(&self.run.dir.join(dir), kind).ok().flatten());
        self.manifests.borrow_mut().insert(dir.to_owned(), found.clone());
        found
    }

    /// Why the artefact in `dir`, a path below the run, is to be left out, in words; none where it
    /// belongs.
    pub fn reason(&self, dir: &Path) -> Option<String> {
        if let Some(known) = self.reasons.borrow().get(dir) {
            return known.clone();
        }
        let reason = self.find_reason(dir);
        self.reasons.borrow_mut().insert(dir.to_owned(), reason.clone());
        reason
    }

    fn find_reason(&self, dir: &Path) -> Option<String> {
        let shown = dir.display();
        let Some(kind) = kind_of(dir) else { return Some(format!("{shown} is no artefact")) };
        let manifest = match Manifest::read(&self.run.dir.join(dir), kind) {
            Ok(manifest) => manifest,
            Err(error) => return Some(format!("{error:#}")),
        };
        if Path::new(&manifest.place) != dir {
            return Some(format!("{shown} is a copy of {}, or was renamed", manifest.place));
        }
        for (name, input) in manifest.inputs.iter().filter(|(_, input)| !input.path.is_empty()) {
            let place = Path::new(&input.path);
            if !storage::exists(&self.run.dir.join(place)) {
                continue; // what was made from it needs it no more
            }
            match self.manifest(place) {
                Some(now) if now.identity == input.identity => {
                    if let Some(reason) = self.reason(place) {
                        return Some(reason);
                    }
                }
                _ => return Some(format!("{shown} was made from other {name} than {} has now", place.display())),
            }
        }
        None
    }
}

/// The kind of the artefact that lies in `dir`, a path below the run.
fn kind_of(dir: &Path) -> Option<&'static Kind> {
    let parts: Vec<&str> = dir.iter().filter_map(|part| part.to_str()).collect();
    Some(match parts[..] {
        [SOURCES, _] => &artefact::SOURCE,
        [STREAMS, _, _] => &artefact::STREAM,
        [LATENTS, _, _, "quality"] => &artefact::QUALITY,
        [LATENTS, _, _, _] => &artefact::GENERATORS,
        [STATISTICS, _, _, _] => &artefact::STATISTICS,
        [PROMPTS, _, _, _] => &artefact::PROMPTS,
        [RESULTS, _, _, _] => &artefact::RESULTS,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::artefact::Plan;

    fn make(run: &Run, kind: &'static Kind, dir: &str, value: i64, inputs: &[(&str, &str)]) {
        let mut plan = Plan::new(kind, json!({"value": value}));
        for (name, input) in inputs {
            let place = run.dir().join(input);
            let of = Manifest::read(&place, kind_of(Path::new(input)).unwrap()).unwrap();
            plan = plan.with(name, run.input(&place, &of));
        }
        plan.make(&run.dir().join(dir), dir.into(), Value::Null, |_| Ok(())).unwrap();
    }

    #[test]
    fn what_was_made_of_something_else_does_not_belong_nor_does_what_was_made_of_that() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::open(dir.path(), |_| ()).unwrap();
        let (stream, latents) = ("streams/s/task-01", "latents/s/vae/task-01");
        let (prompts, results) = ("prompts/s/cgil/task-01", "results/s/cgil/task-01");
        make(&run, &artefact::STREAM, stream, 1, &[]);
        make(&run, &artefact::GENERATORS, latents, 1, &[("stream", stream)]);
        make(&run, &artefact::PROMPTS, prompts, 1, &[("stream", stream), ("generators", latents)]);
        make(&run, &artefact::RESULTS, results, 1, &[("prompts", prompts)]);
        let reasons = || {
            let belonging = Belonging::new(&run);
            [stream, latents, prompts, results].map(|place| belonging.reason(Path::new(place)))
        };
        assert_eq!(reasons(), [const { None }; 4]);
        // something that is gone is not missed
        fs::rename(dir.path().join(latents), dir.path().join("aside")).unwrap();
        assert_eq!(reasons()[2..], [None, None]);
        make(&run, &artefact::GENERATORS, latents, 2, &[("stream", stream)]);
        let found = reasons();
        let said = format!("{prompts} was made from other generators than {latents} has now");
        assert_eq!(found, [None, None, Some(said.clone()), Some(said)]);
        // what cannot be read is no reason to believe it
        fs::remove_dir_all(dir.path().join(latents)).unwrap();
        fs::rename(dir.path().join("aside"), dir.path().join(latents)).unwrap();
        assert_eq!(reasons(), [const { None }; 4]);
        fs::write(dir.path().join(latents).join(MANIFEST), "{}").unwrap();
        let found = reasons().map(Option::unwrap_or_default);
        assert!(
            found[0].is_empty() && found[1].contains("is damaged") && found[3].contains("other generators"),
            "{found:?}"
        );
        assert!(Belonging::new(&run).reason(Path::new("elsewhere/s")).unwrap().contains("is no artefact"));
        fs::remove_dir_all(dir.path().join(latents)).unwrap();
        assert!(Belonging::new(&run).reason(Path::new(latents)).unwrap().contains("is not there"));
        assert_eq!((run.streams(), run.sources()), (vec!["s".to_owned()], Vec::new()));
    }

    #[test]
    fn runs_of_an_older_format_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("embeddings")).unwrap();
        fs::write(dir.path().join("embeddings").join(MANIFEST), "{}").unwrap();
        let error = Run::open(dir.path(), |_| ()).unwrap_err().to_string();
        assert!(error.contains("older format") && error.contains("cgil import"), "{error}");
        fs::create_dir(dir.path().join("sources")).unwrap();
        Run::open(dir.path(), |_| ()).unwrap();
    }
}
