//! Streams as they lie in a run: `streams/STREAM/task-NN`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{ArrayRef, Int64Array, StringArray};
use serde_json::Value;

use super::{Change, ClassOption, Options, Stream, Task};
use crate::{
    Error,
    artefact::{self, Input, MANIFEST, Manifest, Plan},
    atomic,
    embeddings::Embeddings,
    run::{Run, STREAMS, names, step_name, step_number},
    storage,
    table::{contract, file},
    task::{Class, Cut, Order},
};

impl Stream {
    /// The stream as it is in the run; makes it where it is not there. It may have grown since.
    pub fn create(self, run: &Run) -> Result<Self> {
        let dir = dir(run, &self.name);
        if storage::is_remote(&dir) {
            self.complete(&dir)?;
        } else if !dir.exists() {
            let _lock = run.lock(&run.dir().join(STREAMS))?;
            if !dir.exists() {
                atomic::write_dir(&dir, |dir| {
                    (0..self.tasks()).try_for_each(|t| self.write_task(t, &dir.join(step_name(t + 1))))
                })?;
            }
        }
        let there = Stream::open(run, &self.name)?;
        let same = (0..self.tasks()).find(|&t| there.tasks() <= t || there.tasks[t].identity != self.tasks[t].identity);
        if let Some(t) = same {
            let task = dir.join(step_name(t + 1));
            self.plan(t)
                .find(&task, &format!("use another --run, or remove {} and what was made of it", dir.display()))?;
            bail!("{} has fewer tasks than are asked for: remove it, and what was made of it", dir.display());
        }
        Ok(there)
    }

    /// Makes the tasks that an object store lacks, beside other processes that may be making them
    /// too. The first comes last: without it there is no stream.
    fn complete(&self, dir: &Path) -> Result<()> {
        for t in (0..self.tasks()).rev() {
            let task = dir.join(step_name(t + 1));
            if !storage::is_file(&task.join(MANIFEST)) {
                self.write_task(t, &task)?;
            }
        }
        Ok(())
    }

    /// Adds the classes of a source as one more task; those that have the name of one that is known
    /// are more images of it. Where a label of the new ones is another class's already, all of them
    /// get labels that are free.
    pub fn append(&mut self, run: &Run, source: &Embeddings) -> Result<()> {
        let _lock = run.lock(&run.dir().join(STREAMS))?;
        let grown = Stream::open(run, &self.name)?; // another process may have added a task
        let (input, first) = (source.input()?, grown.embeddings(run, 0)?);
        ensure!(
            grown.tasks.iter().flat_map(|task| &task.source).all(|known| known.identity != input.identity),
            "the stream {} has the classes of the source {} already",
            self.name,
            source.name
        );
        if let Some(difference) = first.plan.difference_of_encoders(&source.plan) {
            bail!("the sources {} and {} cannot be of one stream: {difference}", first.name, source.name);
        }
        let (mut more, mut new) = (Vec::new(), Vec::new());
        for class in &source.plan.classes {
            match grown.class_called(&class.name) {
                Some(known) => more.push((known, class.label)),
                None => new.push(class),
            }
        }
        let clash = new.iter().any(|class| grown.places.contains_key(&class.label));
        let highest = grown.places.keys().max().copied().unwrap_or(0);
        let class = |(i, class): (i64, &&Class)| {
            let free = highest.checked_add(1 + i).context("there is no label left for a further class");
            let label = if clash { free? } else { class.label };
            Ok((Class { label, name: class.name.clone() }, class.label))
        };
        let classes = (0..).zip(&new).map(class).collect::<Result<_>>()?;
        self.grow(run, grown, Task { more, ..Task::of(input, classes) })
    }

    /// Adds a change of the class at a position as one more task.
    pub fn change(&mut self, run: &Run, class: usize, change: &Change) -> Result<()> {
        let _lock = run.lock(&run.dir().join(STREAMS))?;
        let grown = Stream::open(run, &self.name)?;
        ensure!(grown.tasks() == self.tasks(), "the stream {} has grown meanwhile: run the command again", self.name);
        let none = Task { source: None, ..Task::of(self.input(0), Vec::new()) };
        let task = match change {
            Change::Rename(name) => Task { renamed: Some((class, name.clone())), ..none },
            Change::Remove => Task { removed: Some(class), ..none },
        };
        self.grow(run, grown, task)
    }

    /// Adds a task to what the stream is in the run.
    fn grow(&mut self, run: &Run, mut grown: Stream, task: Task) -> Result<()> {
        grown.push(task)?;
        let t = grown.tasks() - 1;
        grown.write_task(t, &dir(run, &self.name).join(step_name(t + 1)))?;
        *self = grown;
        Ok(())
    }

    /// The stream of that name.
    pub fn open(run: &Run, name: &str) -> Result<Self> {
        let dir = dir(run, name);
        let mut stream: Option<Stream> = None;
        for number in 1.. {
            let task_dir = dir.join(step_name(number));
            let Some(manifest) = Manifest::find(&task_dir, &artefact::STREAM)? else { break };
            let options: Options = manifest.options(&task_dir)?;
            let damaged = |what: &str| artefact::Error::Damaged { dir: task_dir.clone(), what: what.to_owned() };
            if manifest.place != run.place(&task_dir) {
                return Err(damaged(&format!("it is a copy of {}, or was renamed", manifest.place)).into());
            }
            let Options { order, seed, shots, .. } = &options;
            let stream = stream.get_or_insert_with(|| Stream::empty(name.to_owned(), order.clone(), *seed, *shots));
            stream.push(
                stream
                    .read_task(manifest.inputs.get("source"), options)
                    .ok_or_else(|| damaged("a class or its source is missing"))?,
            )?;
            if stream.tasks[number - 1].identity != manifest.identity {
                return Err(damaged("it does not follow from the task before it").into());
            }
        }
        let stream = stream.with_context(|| format!("{} has no stream {name:?}", run.dir().display()))?;
        let next = stream.tasks() + 1;
        // of a store it may be on its way
        let first = if storage::is_remote(&dir) { next + 1 } else { next };
        let is_later = |step: &String| step_number(step).is_some_and(|number| number >= first);
        if let Some(later) = names(&dir).into_iter().find(is_later) {
            bail!(
                "{} has {later}, but not {}/{MANIFEST}: restore it, or remove the stream",
                dir.display(),
                step_name(next)
            );
        }
        Ok(stream)
    }

    /// The next task, as its manifest has it; none where that does not fit.
    fn read_task(&self, source: Option<&Input>, options: Options) -> Option<Task> {
        let place = |label: &i64| self.places.get(label).copied();
        let class = |c: ClassOption| (Class { label: c.label, name: c.name }, c.source_label);
        let more = options.more.iter().map(|c| Some((place(&c.label)?, c.source_label))).collect::<Option<Vec<_>>>()?;
        let renamed = options.renamed.map(|class| Some((place(&class.label)?, class.name)));
        let classes: Vec<_> = options.classes.into_iter().map(class).collect();
        let has_images = !classes.is_empty() || !more.is_empty();
        Some(Task {
            source: if has_images { Some(source?.clone()) } else { None },
            classes,
            more,
            renamed: if let Some(renamed) = renamed { Some(renamed?) } else { None },
            removed: if let Some(label) = options.removed { Some(place(&label)?) } else { None },
            identity: Plan::new(&artefact::STREAM, Value::Null).identity(), // its own when it is pushed
        })
    }

    /// The stream of an order and a cut with so many `shots`; of the only cut that the run has,
    /// where none is given. Where there is none, an [`Error::NoStream`].
    pub fn find(run: &Run, order: &Order, cut: Option<Cut>, shots: Option<usize>) -> Result<Self> {
        let order_name = order.name()?;
        let mut all = Vec::new();
        for name in run.streams() {
            match Stream::open(run, &name) {
                Ok(stream) => all.push(stream),
                Err(error) => run.note(&format!("note: left out: {error:#}")),
            }
        }
        let list =
            |streams: &[&Stream]| streams.iter().map(|stream| stream.name.clone()).collect::<Vec<_>>().join(", ");
        let of_order: Vec<&Stream> = all.iter().filter(|stream| stream.order == order_name).collect();
        let mut fitting = of_order.clone();
        fitting.retain(|stream| stream.shots == shots);
        if let Some(cut) = cut {
            fitting.retain(|stream| stream.is_cut(cut));
        }
        match fitting[..] {
            [stream] => {
                if let Some(file) = &order.file {
                    let source = stream.embeddings(run, 0)?;
                    let asked: Vec<i64> = order.apply(&source.plan.classes)?.iter().map(|class| class.label).collect();
                    let there: Vec<i64> = stream.classes.iter().map(|class| class.label).collect();
                    ensure!(
                        there.starts_with(&asked),
                        "{} is another order than the stream {} was made in: give it another name and run `cgil fit-vae` with it",
                        file.display(),
                        stream.name
                    );
                }
                Ok(stream.clone())
            }
            [] => {
                let what = match of_order.is_empty() {
                    true => format!(
                        "tasks in the order {order_name} (it has: {}); run `cgil fit-vae` with the same --seed and --order first",
                        if all.is_empty() { "none".to_owned() } else { list(&all.iter().collect::<Vec<_>>()) }
                    ),
                    false => format!(
                        "such tasks in the order {order_name}; it has {}; run `cgil fit-vae` with the same --tasks and --shots first",
                        list(&of_order)
                    ),
                };
                Err(Error::NoStream { run: run.dir().to_owned(), what }.into())
            }
            _ => bail!(
                "{} has several streams in the order {order_name} ({}): choose one by --tasks, or --first-task and --per-task",
                run.dir().display(),
                list(&fitting)
            ),
        }
    }

    fn write_task(&self, t: usize, dir: &Path) -> Result<()> {
        let classes = &self.tasks[t].classes;
        let mut columns = self.keys(classes.len());
        columns.extend([
            Arc::new(Int64Array::from(vec![t as i64 + 1; classes.len()])) as ArrayRef,
            Arc::new(Int64Array::from_iter_values(classes.iter().map(|(class, _)| class.label))),
            Arc::new(StringArray::from_iter_values(classes.iter().map(|(class, _)| &class.name))),
            Arc::new(StringArray::from(vec![self.source(t).unwrap_or_default(); classes.len()])),
            Arc::new(Int64Array::from_iter_values(classes.iter().map(|(_, label)| *label))),
        ]);
        let rows = file::rows(contract::classes(), 0, columns)?;
        self.plan(t).make(dir, self.place(t), Value::Null, |dir| {
            file::write(&dir.join("classes.parquet"), contract::classes(), &rows, &vec![])
        })?;
        Ok(())
    }
}

fn dir(run: &Run, name: &str) -> PathBuf {
    run.dir().join(STREAMS).join(name)
}
