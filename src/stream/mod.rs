//! Streams: append-only lists of tasks, each of some classes of one source. Every task is an
//! artefact whose identity has those of the tasks before it in it, so what was made of the first
//! tasks stays what it is when others follow.
//!
//! A task may have no classes of its own: it brings more images of known ones, calls one by another
//! name, or takes one out.

mod by_class;
mod rows;
mod stored;

use std::{collections::HashMap, ops::Range, sync::Arc};

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Int64Array, StringArray};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    artefact::{self, Identity, Input, Plan, slug},
    embeddings::Embeddings,
    run::{STREAMS, step_name},
    task::{Class, Cut, Order},
};

pub use by_class::ByClass;
pub use rows::parts_of;

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

    /// Whether the class at a position was not taken out in the first `learned` tasks.
    pub fn is_candidate(&self, class: usize, learned: usize) -> bool {
        self.removed(learned).all(|removed| removed != class)
    }

    /// The position of the class that is called so now, unless it was taken out. Underscores are
    /// spaces, as in prompts.
    pub fn class_called(&self, name: &str) -> Option<usize> {
        let words = |name: &str| name.trim().replace('_', " ");
        let is_called = |&class: &usize| words(&self.classes[class].name) == words(name);
        (0..self.classes.len()).filter(is_called).find(|&class| self.is_candidate(class, self.tasks()))
    }

    /// All classes in learning order, as they were called after `learned` tasks, but for those that
    /// were taken out by then.
    pub fn candidates_after(&self, learned: usize) -> Vec<Class> {
        let all = self.classes_after(learned).into_iter().enumerate();
        all.filter(|(class, _)| self.is_candidate(*class, learned)).map(|(_, class)| class).collect()
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
