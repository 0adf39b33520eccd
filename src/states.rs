//! What classifiers have learned, and the statistics of classes, task by task:
//! `statistics/STREAM/LEARNER/task-NN`. The state after a task is made from that after the one
//! before and the task's rows alone; where it needs no more than sums over these, partitions may have
//! made them ([`Sums`]).

mod behind;
mod earlier;

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    artefact::{self, Input, MANIFEST, Manifest, Plan, slug},
    baseline::{Incremental, State, Stored, Sum, examples, learn_task},
    embeddings::Embeddings,
    hash::canonical,
    partition::Partition,
    profile::{Phase, time},
    rows::Train,
    run::{Run, STATISTICS, names, step_name},
    stop::{self, Stopped},
    storage,
    stream::Stream,
    sums::{Part, Sums},
    tensors,
    words::counted,
};

pub use behind::behind;

/// File of the tensors, beside the manifest.
const STATE: &str = "state.safetensors";

const ADVICE: &str = "use another --run, or, if no images are forgotten, remove it and the tasks after it";

/// What learns: a classifier's kind and the options that decide what it keeps, not how it scores.
#[derive(Clone, Debug)]
pub struct Learner {
    /// Name of the classifier in paths.
    pub name: String,
    /// The options that decide what it keeps.
    pub options: Value,
    /// Whether the names of classes that are learned later count: then the state is of the tasks
    /// that the stream had when it was made.
    pub looks_ahead: bool,
    /// The options by earlier rules, the newest first, whose states the classifier can go on from.
    pub earlier: Vec<Value>,
}

impl Learner {
    /// Where the states of a stream with these options lie.
    fn dir(&self, run: &Run, stream: &Stream, options: &Value) -> PathBuf {
        let options = if options.is_null() { String::new() } else { canonical(options) };
        dir(run, stream).join(slug(&format!("{}{options}", self.name)))
    }

    /// The earlier rules, by their places in [`Learner::earlier`], whose states of the first tasks stay.
    fn kept(&self, run: &Run, stream: &Stream) -> Result<Vec<usize>> {
        let dirs: Vec<PathBuf> = self.earlier.iter().map(|options| self.dir(run, stream, options)).collect();
        earlier::kept(run, stream, &self.dir(run, stream, &self.options), &dirs)
    }

    /// How many tasks of a stream it has learned, whatever rows are forgotten from now on.
    fn learned(&self, run: &Run, stream: &Stream) -> Result<usize> {
        let (own, kept) = (self.dir(run, stream, &self.options), self.kept(run, stream)?);
        let mut learned = earlier::last(&own, stream)?.max(kept.len());
        if kept.is_empty() {
            for options in &self.earlier {
                learned = learned.max(earlier::last(&self.dir(run, stream, options), stream)?);
            }
        }
        Ok(learned)
    }
}

/// The states of a classifier on a stream.
pub struct States<'a, C> {
    run: &'a Run,
    stream: &'a Stream,
    learner: Learner,
    dir: PathBuf,
    kept: OnceCell<Vec<usize>>,
    classifier: C,
    /// How many tasks `classifier` has learned.
    at: usize,
}

impl<'a, C: Incremental> States<'a, C> {
    /// Of a classifier that has learned nothing yet.
    pub fn new(run: &'a Run, stream: &'a Stream, learner: Learner, classifier: C) -> Self {
        let dir = learner.dir(run, stream, &learner.options);
        States { run, stream, learner, dir, kept: OnceCell::new(), classifier, at: 0 }
    }

    /// The options of the state after `learned` tasks, and where it lies.
    fn step(&self, learned: usize) -> Result<(&Value, PathBuf)> {
        let kept = self.kept()?;
        let options = match learned.checked_sub(1).and_then(|place| kept.get(place)) {
            Some(&rule) => &self.learner.earlier[rule],
            None => &self.learner.options,
        };
        Ok((options, self.learner.dir(self.run, self.stream, options).join(step_name(learned))))
    }

    fn step_dir(&self, learned: usize) -> Result<PathBuf> {
        Ok(self.step(learned)?.1)
    }

    /// As [`Learner::kept`]; says so.
    fn kept(&self) -> Result<&[usize]> {
        if self.kept.get().is_none() {
            let kept = self.learner.kept(self.run, self.stream)?;
            if !kept.is_empty() {
                let (name, tasks) = (&self.learner.name, counted(kept.len(), "task"));
                self.run.note(&format!(
                    "note: what {name} learned of the first {tasks} is by an earlier rule, and stays, since images are \
                     forgotten"
                ));
            }
            self.kept.get_or_init(|| kept);
        }
        Ok(self.kept.get().map_or(&[], Vec::as_slice))
    }

    fn plan(&self, learned: usize) -> Result<Plan> {
        let before = if learned > 1 { Some(self.input(learned - 1)?) } else { None };
        self.plan_after(before, learned)
    }

    fn plan_after(&self, before: Option<Input>, learned: usize) -> Result<Plan> {
        let (options, dir) = self.step(learned)?;
        if !self.learner.looks_ahead {
            return Ok(self.plan_of(options, before, learned, learned));
        }
        // what is there may have been made when the stream had fewer tasks
        let (made, now) = (Manifest::find(&dir, &artefact::STATISTICS)?, self.stream.tasks());
        let of = |known: usize| self.plan_of(options, before.clone(), learned, known);
        let known =
            (learned..=now).rev().find(|&known| made.as_ref().is_some_and(|m| m.identity == of(known).identity()));
        Ok(of(known.unwrap_or(now)))
    }

    /// What the state after `learned` tasks with these options is made from where the first `known` count.
    fn plan_of(&self, options: &Value, before: Option<Input>, learned: usize, known: usize) -> Plan {
        let Learner { name, looks_ahead, .. } = &self.learner;
        let mut options = json!({"learner": name, "options": options, "seed": self.stream.draws()});
        if *looks_ahead {
            options["learned"] = learned.into();
        }
        let plan = Plan::new(&artefact::STATISTICS, options).with("stream", self.stream.input(known - 1));
        before.into_iter().fold(plan, |plan, before| plan.with("before", before))
    }

    /// The state after `learned` tasks, 1 or more, as the input of another artefact, whether it is
    /// there yet or not.
    pub fn input(&self, learned: usize) -> Result<Input> {
        let mut before = None;
        for step in 1..=learned {
            let identity = self.plan_after(before.take(), step)?.identity();
            before = Some(Input::new(self.run.dir(), &self.step_dir(step)?, identity));
        }
        before.context("there is no state before the first task")
    }

    /// The classifier after `learned` tasks, 1 or more. Learns what is missing.
    pub fn after(&mut self, learned: usize) -> Result<&C> {
        if self.at != learned {
            let there =
                (1..=learned).rev().find_map(|step| self.is_there(step).map(|is| is.then_some(step)).transpose());
            let start = there.transpose()?.unwrap_or(0);
            if start != self.at {
                self.restore(start)?;
            }
            for step in start + 1..=learned {
                if stop::is_asked() {
                    return Err(Stopped.into());
                }
                self.learn(step)?;
            }
        }
        self.classifier.leave_out(self.stream.removed(learned).collect());
        Ok(&self.classifier)
    }

    /// What the classifier keeps.
    pub fn stored(&self) -> Stored {
        self.classifier.stored()
    }

    fn is_there(&self, learned: usize) -> Result<bool> {
        Ok(self.plan(learned)?.find(&self.step_dir(learned)?, ADVICE)?.is_some())
    }

    /// Sets the classifier to its state after `learned` tasks, which is there.
    fn restore(&mut self, learned: usize) -> Result<()> {
        ensure!(learned > 0, "{} was removed while it was used: run the command again", self.step_dir(1)?.display());
        let dir = self.step_dir(learned)?;
        let missing = || artefact::Error::Missing { dir: dir.clone() };
        self.plan(learned)?.find(&dir, ADVICE)?.ok_or_else(missing)?.check_file(&dir, STATE)?;
        let (state, _): (State, Value) = tensors::read(&dir.join(STATE))?;
        let advice = if learned <= self.kept()?.len() {
            "it is of an earlier rule, and images that it was learned from are forgotten"
        } else {
            "where it is damaged, remove it"
        };
        let restored = self.classifier.restore(state);
        restored.with_context(|| format!("{} cannot be used: {advice}", dir.display()))?;
        self.at = learned;
        Ok(())
    }

    /// Learns the task that follows on those before it, which the classifier has learned.
    fn learn(&mut self, learned: usize) -> Result<()> {
        let _lock = self.run.lock(&self.dir)?;
        if self.is_there(learned)? {
            return self.restore(learned); // another process was faster
        }
        self.classifier.leave_out(self.stream.removed(learned).collect());
        let (run, stream, t) = (self.run, self.stream, learned - 1);
        match self.classifier.of_sums() {
            None => {
                let rows = time(Phase::Read, || stream.task_rows(run, t))?;
                time(Phase::Optimise, || learn_task(&mut self.classifier, &rows))?;
            }
            Some(learner) => {
                let (source, sum, sums) = (Parts::of(run, stream, t)?, learner.sum(), Sums::of(&self.dir));
                let of_part = |part: &Part| sums.read(part).map_or_else(|| source.sum(stream, part, sum), Ok);
                if !source.parts.is_empty() {
                    let mut parts = source.parts.iter().map(of_part);
                    time(Phase::Optimise, || learner.learn_sums(&stream.learned_classes(t), &mut parts))?;
                }
            }
        }
        self.at = learned;
        let (plan, state) = (self.plan(learned)?, self.classifier.state());
        let dir = self.step_dir(learned)?;
        plan.make(&dir, self.run.place(&dir), Value::Null, |dir| tensors::write(&dir.join(STATE), &state, &json!({})))?;
        Sums::of(&self.dir).remove(t, false)
    }

    /// Sums up what a partition has of the rows of tasks that are not learned yet: every N-th part of
    /// them. For a learner that needs no more than sums.
    pub fn sum_up(&mut self, own: Partition) -> Result<SummedUp> {
        let sum = self.classifier.of_sums().context("this learner needs the rows themselves")?.sum();
        let (run, stream, sums) = (self.run, self.stream, Sums::of(&self.dir));
        let (mut summed, mut all) = (SummedUp { made: 0, missing: 0, all: 0 }, Vec::new());
        for t in 0..stream.tasks() {
            let source = Parts::of(run, stream, t)?;
            let first = summed.all;
            summed.all += source.parts.len();
            let there = sums.made(&source.parts);
            let is_own = |k: usize| own.has(first + k) && there[k].is_none();
            for (_, part) in source.parts.iter().enumerate().filter(|(k, _)| is_own(*k)) {
                if self.is_there(t + 1)? {
                    break;
                }
                if stop::is_asked() {
                    return Err(Stopped.into());
                }
                let made = source.sum(stream, part, sum)?;
                let _lock = run.share(&self.dir)?; // a learner clears what others have begun to write
                sums.put(part, &made)?;
                summed.made += 1;
            }
            let is_forgotten = source.embeddings.as_ref().is_some_and(Embeddings::is_forgotten::<Train>);
            if is_forgotten || self.is_there(t + 1)? {
                sums.remove(t, false)?; // another process was faster, or ended before it had
            }
            all.push(source.parts);
        }
        for (t, parts) in all.iter().enumerate() {
            if !self.is_there(t + 1)? {
                summed.missing += sums.made(parts).iter().filter(|made| made.is_none()).count();
            }
        }
        Ok(summed)
    }

    /// Where the states lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Where all learners of a stream lie.
pub fn dir(run: &Run, stream: &Stream) -> PathBuf {
    run.dir().join(STATISTICS).join(&stream.name)
}

/// When the learner in `dir` learned the task of a number, from 1; none where it has not.
pub fn made(dir: &Path, learned: usize) -> Option<SystemTime> {
    storage::metadata(&dir.join(step_name(learned)).join(MANIFEST)).ok()?.modified()
}

/// Takes away what partitions have summed up of some tasks (from 0) of a stream, overwritten first
/// where that is asked for.
pub fn remove_sums(run: &Run, stream: &Stream, tasks: &[usize], overwrite: bool) -> Result<()> {
    let dir = dir(run, stream);
    for learner in names(&dir) {
        tasks.iter().try_for_each(|&task| Sums::of(&dir.join(&learner)).remove(task, overwrite))?;
    }
    Ok(())
}

/// What a partition has come to.
pub struct SummedUp {
    /// Parts that it has summed up now.
    pub made: usize,
    /// Parts that nobody has summed up yet.
    pub missing: usize,
    /// All parts.
    pub all: usize,
}

/// The rows of a task, in parts.
pub struct Parts {
    /// None where the task has no images.
    embeddings: Option<Embeddings>,
    /// The parts, in their order.
    pub parts: Vec<Part>,
}

impl Parts {
    /// Of task `t` (from 0).
    pub fn of(run: &Run, stream: &Stream, t: usize) -> Result<Self> {
        if stream.source(t).is_none() {
            return Ok(Parts { embeddings: None, parts: Vec::new() });
        }
        let embeddings = stream.embeddings(run, t)?;
        let part = |shards| Part { stream: stream.input(t), task: t, shards };
        let parts = stream.parts(&embeddings, t)?.into_iter().map(part).collect();
        Ok(Parts { embeddings: Some(embeddings), parts })
    }

    /// The sums of one of them.
    fn sum(&self, stream: &Stream, part: &Part, sum: Sum) -> Result<State> {
        let embeddings = self.embeddings.as_ref().context("a task with parts has images")?;
        let rows = time(Phase::Read, || stream.part_rows(embeddings, part.task, part.shards.clone()))?;
        let sums = time(Phase::Optimise, || sum.of(&examples(&rows)));
        sums.with_context(|| format!("among the training rows of {}", part.name()))
    }
}
