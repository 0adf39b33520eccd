//! Streams: append-only lists of tasks, each of some classes of one source. Every task is an
//! artefact whose identity has those of the tasks before it in it, so what was made of the first
//! tasks stays what it is when others follow.
//!
//! A task may have no classes of its own: it brings more images of known ones, calls one by another
//! name, or takes one out.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{ArrayRef, Int64Array, StringArray};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error,
    artefact::{self, Identity, Input, Manifest, Plan, slug},
    atomic,
    embeddings::Embeddings,
    rng::{Draw, Rng},
    rows::{Rows, TaskRows, Train},
    run::{Run, STREAMS, names, step_name, step_number},
    table::{contract, file},
    task::{Class, Cut, Order},
};

/// The classes in the order in which they are learned, cut into tasks.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Names the stream in tables and directories.
    pub name: String,
    /// The class order: `dataset-order`, `seed-1992`, `order-NAME`, `order-NAME-seed-1992`.
    pub order: String,
    /// Seed of the class order, unless that was given as a list, and of every draw; none is 0.
    pub seed: Option<u32>,
    /// Training rows of each class that are learned from, as the seed draws them; none is all.
    pub shots: Option<usize>,
    /// The classes in learning order, as they are called now; those that were taken out stay in
    /// their places.
    pub classes: Vec<Class>,
    tasks: Vec<Task>,
    seen: Vec<usize>,            // classes known before the first task, and after each
    task_of: Vec<usize>,         // of each class
    places: HashMap<i64, usize>, // of each label in the classes
}

/// A task: which classes of which source are learned, and what becomes of known ones.
#[derive(Clone, Debug, PartialEq)]
struct Task {
    /// None where there are no images.
    source: Option<Input>,
    /// The classes that are new, and what their source's label is.
    classes: Vec<(Class, i64)>,
    /// Known classes of which there are more images: their positions, and their source's labels.
    more: Vec<(usize, i64)>,
    /// The position of a class, and what it is called from this task on.
    renamed: Option<(usize, String)>,
    /// The position of a class that is no candidate from this task on.
    removed: Option<usize>,
    /// Of the stream up to this task.
    identity: Identity,
}

/// What becomes of a class in a task without images.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is called otherwise.
    Rename(String),
    /// It is no candidate any more.
    Remove,
}

/// What a task's manifest says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    order: String,
    seed: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shots: Option<usize>,
    /// From 1.
    task: usize,
    classes: Vec<ClassOption>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<MoreOption>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renamed: Option<Class>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoreOption {
    label: i64,
    source_label: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassOption {
    label: i64,
    source_label: i64,
    name: String,
}

impl Stream {
    /// The classes of a source in an order, cut into tasks, with so many `shots`. Nothing is
    /// written.
    pub fn new(source: &Embeddings, order: &Order, cut: Cut, shots: Option<usize>) -> Result<Self> {
        let classes = order.apply(&source.plan.classes)?;
        let sizes = cut.sizes(classes.len())?;
        let name = stream_name(order, cut, shots, classes.len())?;
        let mut stream = Stream::empty(name, order.name()?, order.seed, shots);
        let (input, mut rest) = (source.input()?, &classes[..]);
        for size in sizes {
            let (own, others) = rest.split_at(size);
            let own = own.iter().map(|class| (class.clone(), class.label)).collect();
            stream.push(Task::of(input.clone(), own))?;
            rest = others;
        }
        Ok(stream)
    }

    /// Of tasks of so many classes each, for tests of what needs no source.
    pub fn of_sizes(classes: &[Class], sizes: &[usize]) -> Result<Self> {
        let source = Plan::new(&artefact::SOURCE, Value::Null).identity();
        let mut stream = Stream::empty("test".into(), "dataset-order".into(), None, None);
        let mut rest = classes;
        for &size in sizes {
            let (own, others) = rest.split_at(size);
            let own = own.iter().map(|class| (class.clone(), class.label)).collect();
            stream.push(Task::of(Input { path: String::new(), identity: source.clone() }, own))?;
            rest = others;
        }
        Ok(stream)
    }

    fn empty(name: String, order: String, seed: Option<u32>, shots: Option<usize>) -> Self {
        let (classes, tasks, task_of) = (Vec::new(), Vec::new(), Vec::new());
        Stream { name, order, seed, shots, classes, tasks, seen: vec![0], task_of, places: HashMap::new() }
    }

    /// Adds a task, whose identity it gives it.
    fn push(&mut self, mut task: Task) -> Result<()> {
        let is_change = task.renamed.is_some() || task.removed.is_some();
        ensure!(!task.classes.is_empty() || !task.more.is_empty() || is_change, "a task needs a class");
        for (class, _) in &task.classes {
            let before = self.places.insert(class.label, self.classes.len());
            ensure!(before.is_none(), "{class} is learned twice");
            self.classes.push(class.clone());
            self.task_of.push(self.tasks.len());
        }
        if let Some((class, name)) = &task.renamed {
            self.classes[*class].name.clone_from(name);
        }
        self.seen.push(self.classes.len());
        let before = self.tasks().checked_sub(1).map(|before| self.input(before));
        task.identity = self.plan_after(before, self.tasks() + 1, &task).identity();
        self.tasks.push(task);
        Ok(())
    }

    /// The stream as it is in the run; makes it where it is not there. It may have grown since.
    pub fn create(self, run: &Run) -> Result<Self> {
        let dir = dir(run, &self.name);
        if !dir.exists() {
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
        let is_later = |step: &String| step_number(step).is_some_and(|number| number > stream.tasks());
        if let Some(later) = names(&dir).into_iter().find(is_later) {
            bail!(
                "{} has {later}, but not {}: restore it, or remove the stream",
                dir.display(),
                step_name(stream.tasks() + 1)
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

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Classes of each task.
    pub fn sizes(&self) -> Vec<usize> {
        self.tasks.iter().map(|task| task.classes.len()).collect()
    }

    /// Whether the classes of the first source are cut like this.
    fn is_cut(&self, cut: Cut) -> bool {
        let of_first = self.tasks.iter().take_while(|task| task.source == self.tasks[0].source);
        let sizes: Vec<usize> = of_first.map(|task| task.classes.len()).collect();
        cut.sizes(sizes.iter().sum()).is_ok_and(|asked| asked == sizes)
    }

    /// How many classes are known after `learned` tasks.
    pub fn seen(&self, learned: usize) -> usize {
        self.seen[learned]
    }

    /// The classes that are new in task `t` (from 0), as positions in `classes`.
    pub fn task(&self, t: usize) -> Range<usize> {
        self.seen(t)..self.seen(t + 1)
    }

    /// The classes that are new in task `t` (from 0).
    pub fn classes_of(&self, t: usize) -> &[Class] {
        &self.classes[self.task(t)]
    }

    /// All classes that task `t` (from 0) learns from images, as positions in `classes`: new ones, then
    /// those of which it has more.
    pub fn learns(&self, t: usize) -> Vec<usize> {
        self.task(t).chain(self.more(t)).collect()
    }

    /// The known classes of which task `t` (from 0) has more images, as positions in `classes`.
    pub fn more(&self, t: usize) -> impl Iterator<Item = usize> {
        self.tasks[t].more.iter().map(|(class, _)| *class)
    }

    /// What task `t` (from 0) does to the class at a position, where it has no images.
    pub fn changes(&self, t: usize) -> Option<(usize, Change)> {
        let Task { renamed, removed, .. } = &self.tasks[t];
        let renamed = renamed.as_ref().map(|(class, name)| (*class, Change::Rename(name.clone())));
        renamed.or(removed.map(|class| (class, Change::Remove)))
    }

    /// The classes of [`Stream::learns`], as they were called then.
    pub fn learned_classes(&self, t: usize) -> Vec<Class> {
        let classes = self.classes_after(t + 1);
        self.learns(t).into_iter().map(|class| classes[class].clone()).collect()
    }

    /// The last task before task `t` (from 0) that learned the class at a position.
    pub fn learned_before(&self, t: usize, class: usize) -> Option<usize> {
        (0..t).rev().find(|&t| self.task(t).contains(&class) || self.more(t).any(|more| more == class))
    }

    /// The classes that were taken out in the first `learned` tasks, as positions in `classes`.
    pub fn removed(&self, learned: usize) -> impl Iterator<Item = usize> {
        self.tasks[..learned].iter().filter_map(|task| task.removed)
    }

    /// The position of the class that is called so now, unless it was taken out.
    pub fn class_called(&self, name: &str) -> Option<usize> {
        let is_called = |&class: &usize| self.classes[class].name == name;
        (0..self.classes.len())
            .filter(is_called)
            .find(|class| self.removed(self.tasks()).all(|removed| removed != *class))
    }

    /// All classes in learning order, as they were called after `learned` tasks, but for those that
    /// were taken out by then.
    pub fn candidates_after(&self, learned: usize) -> Vec<Class> {
        let removed: Vec<usize> = self.removed(learned).collect();
        let all = self.classes_after(learned).into_iter().enumerate();
        all.filter(|(class, _)| !removed.contains(class)).map(|(_, class)| class).collect()
    }

    /// All classes in learning order, as they were called after `learned` tasks: those that came later
    /// as they came.
    pub fn classes_after(&self, learned: usize) -> Vec<Class> {
        let mut classes: Vec<Class> =
            self.tasks.iter().flat_map(|task| task.classes.iter().map(|(class, _)| class.clone())).collect();
        for (class, name) in self.tasks[..learned].iter().flat_map(|task| &task.renamed) {
            classes[*class].name.clone_from(name);
        }
        classes
    }

    /// The task (from 0) that learns the class at a position.
    pub fn task_of(&self, class: usize) -> usize {
        self.task_of[class]
    }

    /// The position, in learning order, of the class with a label.
    pub fn position(&self, label: i64) -> Result<usize> {
        self.places
            .get(&label)
            .copied()
            .with_context(|| format!("no class of the stream {} has the label {label}", self.name))
    }

    /// What draws are keyed by.
    pub fn draws(&self) -> u64 {
        u64::from(self.seed.unwrap_or(0))
    }

    /// The name of the source of task `t` (from 0); none where it has no images.
    pub fn source(&self, t: usize) -> Option<&str> {
        let path = &self.tasks[t].source.as_ref()?.path;
        Some(path.rsplit('/').next().unwrap_or(path))
    }

    /// The names of the sources, each once, in the order in which they came.
    pub fn sources(&self) -> Vec<&str> {
        let mut sources: Vec<&str> = Vec::new();
        for source in (0..self.tasks()).filter_map(|t| self.source(t)) {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }

    /// The labels that its source gives to the classes that task `t` (from 0) learns, in the order of
    /// [`Stream::learns`].
    pub fn source_labels(&self, t: usize) -> Vec<i64> {
        let Task { classes, more, .. } = &self.tasks[t];
        classes.iter().map(|(_, label)| *label).chain(more.iter().map(|(_, label)| *label)).collect()
    }

    /// The first tasks alone, as if no others had followed.
    pub fn first_tasks(&self, tasks: usize) -> Result<Self> {
        let mut first = Stream::empty(self.name.clone(), self.order.clone(), self.seed, self.shots);
        self.tasks[..tasks].iter().try_for_each(|task| first.push(task.clone()))?;
        Ok(first)
    }

    /// The stream up to task `t` (from 0) as the input of another artefact.
    pub fn input(&self, t: usize) -> Input {
        Input { path: self.place(t), identity: self.tasks[t].identity.clone() }
    }

    /// The embeddings of the source of task `t` (from 0), which has one. An error where they are others
    /// than the stream was made of.
    pub fn embeddings(&self, run: &Run, t: usize) -> Result<Embeddings> {
        let source = self.source(t).with_context(|| format!("task {} of {} has no images", t + 1, self.name))?;
        let embeddings = Embeddings::open_complete(run, source)?;
        if self.tasks[t]
            .source
            .as_ref()
            .is_none_or(|made| embeddings.input().is_ok_and(|now| now.identity != made.identity))
        {
            bail!(
                "the embeddings in {} are others now than the stream {} was made of: remove {}, and what was made of it \
                 in latents, statistics, prompts and results",
                embeddings.dir().display(),
                self.name,
                dir(run, &self.name).display()
            );
        }
        Ok(embeddings)
    }

    /// The training rows of task `t` (from 0), of new classes and of known ones. A class that has none
    /// is an [`Error::TooFewRows`].
    pub fn task_rows(&self, run: &Run, t: usize) -> Result<TaskRows> {
        let classes: Vec<Class> = self.learns(t).into_iter().map(|class| self.classes[class].clone()).collect();
        if classes.is_empty() {
            return Ok(TaskRows { task: t, classes, rows: Vec::new() });
        }
        let embeddings = self.embeddings(run, t)?;
        self.require_rows(&embeddings, t, 1)?;
        let rows = self.train_rows(&embeddings, t, &self.source_labels(t))?;
        Ok(TaskRows { task: t, classes, rows })
    }

    /// An [`Error::TooFewRows`] where a new class of task `t` (from 0), of these embeddings, has fewer
    /// training rows than are `needed`, or a known one has none.
    pub fn require_rows(&self, embeddings: &Embeddings, t: usize, needed: usize) -> Result<()> {
        let needed_of = |class: usize| if self.task(t).contains(&class) { needed } else { 1 };
        for (class, label) in self.learns(t).into_iter().zip(self.source_labels(t)) {
            if self.count_rows(embeddings, label)? < needed_of(class) {
                return Err(self.too_few_rows(embeddings, &self.classes[class], label, needed_of(class))?.into());
            }
        }
        Ok(())
    }

    /// How many training rows of a source's class are learned from.
    pub fn count_rows(&self, embeddings: &Embeddings, label: i64) -> Result<usize> {
        Ok(embeddings.count::<Train>(label)?.min(self.shots.unwrap_or(usize::MAX)))
    }

    /// The training rows of some classes of task `t` (from 0), of which the source's `labels` are
    /// given: all, or as many as there are shots, in the source's order.
    pub fn train_rows(&self, embeddings: &Embeddings, t: usize, labels: &[i64]) -> Result<Vec<Rows<Train>>> {
        let rows = embeddings.class_rows::<Train>(labels)?;
        let Some(shots) = self.shots else { return Ok(rows) };
        let (classes, own) = (self.classes_after(0), self.learns(t).into_iter().zip(self.source_labels(t)));
        let of_label: HashMap<i64, usize> = own.map(|(class, label)| (label, class)).collect();
        let drawn = |(rows, label): (Rows<Train>, &i64)| {
            let class = &classes[*of_label.get(label).context("a class of the task")?];
            let mut places = Rng::new(self.draws(), Draw::Shots, &[class.key()]).permutation(rows.len());
            places.truncate(shots);
            places.sort();
            Ok(Rows::new(rows.dim(), places.into_iter().flat_map(|i| rows.row(i)).copied().collect()))
        };
        rows.into_iter().zip(labels).map(drawn).collect()
    }

    /// The failure of a class that has fewer training rows than are `needed`: an
    /// [`Error::TooFewRows`]. An error of its own where the embeddings cannot be read.
    fn too_few_rows(&self, embeddings: &Embeddings, class: &Class, label: i64, needed: usize) -> Result<Error> {
        let (rows, quarantined) = (embeddings.count::<Train>(label)?, embeddings.quarantined_of::<Train>(label)?);
        let are = |n: usize| if n == 1 { "is" } else { "are" };
        if let Some(shots) = self.shots.filter(|&shots| shots < needed && rows >= needed) {
            let reason = format!(
                "{class} is learned from --shots {shots}, and at least {needed} {} needed: use --shots {needed} or more, \
                 or --generator vae or shared, which need one",
                are(needed)
            );
            return Ok(Error::TooFewRows { label: class.label, reason });
        }
        let left_out = match quarantined.first() {
            None => String::new(),
            Some(first) => format!(
                ", since {} of its images could not be used (the first, {}: {})",
                quarantined.len(),
                first.sample_id,
                first.error
            ),
        };
        let reason = format!(
            "{class} has {rows} training {}{left_out}, and at least {needed} {} needed: add images of it to the source \
             {}, or leave the class out",
            if rows == 1 { "embedding" } else { "embeddings" },
            are(needed),
            embeddings.name
        );
        Ok(Error::TooFewRows { label: class.label, reason })
    }

    /// The columns that say which stream the `n` rows of a table belong to: stream, class_order,
    /// seed.
    pub fn keys(&self, n: usize) -> Vec<ArrayRef> {
        vec![
            Arc::new(StringArray::from(vec![self.name.as_str(); n])),
            Arc::new(StringArray::from(vec![self.order.as_str(); n])),
            Arc::new(Int64Array::from(vec![self.seed.map(i64::from); n])),
        ]
    }

    /// What the artefact of task `t` (from 0) is.
    fn plan(&self, t: usize) -> Plan {
        let before = t.checked_sub(1).map(|before| self.input(before));
        self.plan_after(before, t + 1, &self.tasks[t])
    }

    /// What the artefact of a task is, `number` from 1, after the one `before` it.
    fn plan_after(&self, before: Option<Input>, number: usize, task: &Task) -> Plan {
        let class = |(class, source_label): &(Class, i64)| ClassOption {
            label: class.label,
            source_label: *source_label,
            name: class.name.clone(),
        };
        let label = |class: usize| self.classes[class].label;
        let more = |&(class, source_label): &(usize, i64)| MoreOption { label: label(class), source_label };
        let renamed = |(class, name): &(usize, String)| Class { label: label(*class), name: name.clone() };
        let options = Options {
            order: self.order.clone(),
            seed: self.seed,
            shots: self.shots,
            task: number,
            classes: task.classes.iter().map(class).collect(),
            more: task.more.iter().map(more).collect(),
            renamed: task.renamed.as_ref().map(renamed),
            removed: task.removed.map(label),
        };
        let options = serde_json::to_value(options).expect("options are plain values");
        let plan = Plan::new(&artefact::STREAM, options);
        let plan = task.source.iter().fold(plan, |plan, source| plan.with("source", source.clone()));
        before.into_iter().fold(plan, |plan, before| plan.with("before", before))
    }

    /// Where task `t` (from 0) is, below the run's directory.
    fn place(&self, t: usize) -> String {
        format!("{STREAMS}/{}/{}", self.name, step_name(t + 1))
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

impl Task {
    /// Of new classes of a source; its identity comes when it is pushed.
    fn of(source: Input, classes: Vec<(Class, i64)>) -> Self {
        let identity = source.identity.clone();
        Task { source: Some(source), classes, more: Vec::new(), renamed: None, removed: None, identity }
    }
}

/// The name of the stream of `count` classes in an order, cut into tasks, with so many shots.
pub fn stream_name(order: &Order, cut: Cut, shots: Option<usize>, count: usize) -> Result<String> {
    let shots = shots.map_or(String::new(), |shots| format!("-shots-{shots}"));
    Ok(slug(&format!("{}-{}{shots}", order.name()?, cut.name(count)?)))
}

fn dir(run: &Run, name: &str) -> PathBuf {
    run.dir().join(STREAMS).join(name)
}
