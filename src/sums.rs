//! Sums over parts of a task's training rows, which several processes make side by side. They lie
//! below what learns from them, `statistics/STREAM/LEARNER/sums`, until the task is learned.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};

use crate::{
    artefact::Input,
    baseline::State,
    hash::hash_bytes,
    run::{names, step_name},
    storage, tensors,
};

/// The directory of the sums in that of the learner.
const SUMS: &str = "sums";

/// Digits of the stream's identity in a file's name.
const DIGITS: usize = 16;

/// The sums of a learner.
#[derive(Clone)]
pub struct Sums {
    dir: PathBuf,
}

/// A part of a task's rows: shards of its source, by their numbers.
#[derive(Clone, Debug)]
pub struct Part {
    /// The stream up to the task, and so the source.
    pub stream: Input,
    /// The task, from 0.
    pub task: usize,
    /// The shards.
    pub shards: Range<usize>,
}

impl Part {
    /// What people call it.
    pub fn name(&self) -> String {
        let Range { start, end } = self.shards;
        format!("task {}, shards {start} to {}", self.task + 1, end - 1)
    }
}

impl Sums {
    /// Of the learner whose states lie in `dir`.
    pub fn of(dir: &Path) -> Self {
        Sums { dir: dir.join(SUMS) }
    }

    /// When the sums of some parts were made, in their order; none of those that are not there.
    pub fn made(&self, parts: &[Part]) -> Vec<Option<SystemTime>> {
        let there = storage::times(&self.dir);
        parts.iter().map(|part| there.get(&file_name(part)).copied()).collect()
    }

    /// The sums of a part; none where they are not there, or damaged.
    pub fn read(&self, part: &Part) -> Option<State> {
        let path = self.dir.join(file_name(part));
        if !storage::is_file(&path) {
            return None;
        }
        let (sums, sum): (State, String) = tensors::read(&path).ok()?;
        (checksum(&sums) == sum).then_some(sums)
    }

    /// Stores the sums of a part, unless another process has by then.
    pub fn put(&self, part: &Part, sums: &State) -> Result<()> {
        tensors::stage(&self.dir.join(file_name(part)), sums, &checksum(sums))?.put_first().map(|_| ())
    }

    /// Takes away those of a task (from 0), overwritten first where that is asked for.
    pub fn remove(&self, task: usize, overwrite: bool) -> Result<()> {
        let of_task = format!("{}-", step_name(task + 1));
        for name in names(&self.dir).into_iter().filter(|name| name.starts_with(&of_task)) {
            let path = self.dir.join(name);
            if overwrite {
                storage::zero(&path).with_context(|| format!("cannot overwrite {}", path.display()))?;
            }
            // another process may be as far
            if let Err(error) = storage::remove_file(&path)
                && storage::is_file(&path)
            {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
        Ok(())
    }
}

fn file_name(part: &Part) -> String {
    let (Range { start, end }, of) = (&part.shards, part.stream.identity.as_str());
    format!("{}-shards-{start:05}-{end:05}-{of:.DIGITS$}.safetensors", step_name(part.task + 1))
}

/// Of the names, shapes and values of tensors.
fn checksum(sums: &State) -> String {
    let mut bytes = Vec::new();
    for (name, (shape, values)) in sums {
        bytes.extend(format!("{name} {shape:?} ").into_bytes());
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    hash_bytes(&bytes)
}
