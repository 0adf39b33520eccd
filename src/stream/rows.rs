//! The rows that a stream's tasks learn from.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use anyhow::{Context, Result, bail};

use super::Stream;
use crate::{
    Error,
    embeddings::{ALL_SHARDS, Embeddings},
    rng::{Draw, Rng},
    rows::{Rows, TaskRows, Train},
    run::{Run, STREAMS},
    task::Class,
};

impl Stream {
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
                run.dir().join(STREAMS).join(&self.name).display()
            );
        }
        Ok(embeddings)
    }

    /// The training rows of task `t` (from 0), of new classes and of known ones. A class that has none
    /// is an [`Error::TooFewRows`].
    pub fn task_rows(&self, run: &Run, t: usize) -> Result<TaskRows> {
        let classes = self.learned_classes(t);
        if classes.is_empty() {
            return Ok(TaskRows { task: t, classes, rows: Vec::new() });
        }
        let embeddings = self.embeddings(run, t)?;
        self.require_rows(&embeddings, t, 1)?;
        let rows = self.train_rows(&embeddings, &self.source_labels(t))?;
        Ok(TaskRows { task: t, classes, rows })
    }

    /// The shards of a task's source, by their numbers, that have training rows of task `t` (from 0), in
    /// parts whose rows are held one after another. A class without rows is an [`Error::TooFewRows`].
    pub fn parts(&self, embeddings: &Embeddings, t: usize) -> Result<Vec<Range<usize>>> {
        self.require_rows(embeddings, t, 1)?;
        let labels: HashSet<i64> = self.source_labels(t).into_iter().collect();
        embeddings.runs::<Train>(&labels, SUMMED_AT_ONCE / (embeddings.plan.dim * size_of::<f32>()))
    }

    /// As [`Stream::task_rows`], of a part of the shards, of the classes that have rows there.
    pub fn part_rows(&self, embeddings: &Embeddings, t: usize, shards: Range<usize>) -> Result<TaskRows> {
        let rows = self.train_rows_in(embeddings, &self.source_labels(t), shards)?;
        let own = self.learned_classes(t).into_iter().zip(rows).filter(|(_, rows)| !rows.is_empty());
        let (classes, rows) = own.unzip();
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

    /// The training rows of some classes, by the labels that their source gives them: all, or as many
    /// as there are shots, in the source's order.
    pub fn train_rows(&self, embeddings: &Embeddings, labels: &[i64]) -> Result<Vec<Rows<Train>>> {
        self.train_rows_in(embeddings, labels, ALL_SHARDS)
    }

    /// As [`Stream::train_rows`], of some shards, by their numbers.
    fn train_rows_in(&self, embeddings: &Embeddings, labels: &[i64], shards: Range<usize>) -> Result<Vec<Rows<Train>>> {
        let before = 0..shards.start;
        let rows = embeddings.class_rows_in::<Train>(labels, shards)?;
        let Some(shots) = self.shots_of(embeddings) else { return Ok(rows) };
        let before = embeddings.counts_in::<Train>(&before)?;
        let drawn = |(rows, label): (Rows<Train>, &i64)| match rows.is_empty() {
            true => Ok(rows),
            false => Ok(pick(&rows, &shots.places(*label)?, before.get(label).copied().unwrap_or(0))),
        };
        rows.into_iter().zip(labels).map(drawn).collect()
    }

    /// What draws the rows of a source's classes that are learned from, unless all are.
    pub(super) fn shots_of<'a>(&self, embeddings: &'a Embeddings) -> Option<Shots<'a>> {
        let (count, classes) = (self.shots?, self.classes_after(0));
        let of_source = (0..self.tasks()).filter(|&t| self.source(t) == Some(&embeddings.name));
        let own = of_source.flat_map(|t| self.source_labels(t).into_iter().zip(self.learns(t)));
        let keys = own.map(|(label, class)| (label, classes[class].key())).collect();
        Some(Shots { embeddings, count, seed: self.draws(), keys })
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
}

/// The draw of a few rows of each class.
pub(super) struct Shots<'a> {
    embeddings: &'a Embeddings,
    count: usize,
    seed: u64,
    keys: HashMap<i64, u64>, // of the classes, by their source's labels
}

impl Shots<'_> {
    /// The places, among a class's training rows, of those that are learned from, ascending.
    pub fn places(&self, label: i64) -> Result<Vec<usize>> {
        let key = *self.keys.get(&label).context("a class of the source")?;
        let all = self.embeddings.count::<Train>(label)?;
        let mut places = Rng::new(self.seed, Draw::Shots, &[key]).permutation(all);
        places.truncate(self.count);
        places.sort();
        Ok(places)
    }
}

/// The rows at those places, among a class's, of which `rows` are some, from the place `first` on.
pub(super) fn pick(rows: &Rows<Train>, places: &[usize], first: usize) -> Rows<Train> {
    let from = |place: usize| places.partition_point(|&p| p < place);
    let here = &places[from(first)..from(first + rows.len())];
    Rows::new(rows.dim(), here.iter().flat_map(|place| rows.row(place - first)).copied().collect())
}

/// Training rows of a part of a task's shards, in bytes. It decides how sums over rows are rounded.
const SUMMED_AT_ONCE: usize = 32 << 20;

/// Cuts classes of a source into parts of at most so many bytes of training rows, or of one class.
pub fn parts_of(embeddings: &Embeddings, labels: &[i64], bytes: usize) -> Result<Vec<Range<usize>>> {
    let mut rows = Vec::with_capacity(labels.len());
    for &label in labels {
        rows.push(embeddings.count::<Train>(label)?);
    }
    Ok(cut(&rows, bytes / (embeddings.plan.dim * size_of::<f32>())))
}

/// Cuts items of these sizes into parts of at most so much, or of one item.
fn cut(sizes: &[usize], most: usize) -> Vec<Range<usize>> {
    let (mut parts, mut start, mut held): (Vec<Range<usize>>, usize, usize) = (Vec::new(), 0, 0);
    for (i, &size) in sizes.iter().enumerate() {
        if i > start && held.saturating_add(size) > most {
            parts.push(start..i);
            (start, held) = (i, 0);
        }
        held = held.saturating_add(size);
    }
    parts.push(start..sizes.len());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_all_classes_and_no_more_rows_than_they_may() {
        assert_eq!(cut(&[3, 3, 4, 1], 6), [0..2, 2..4]);
        assert_eq!(cut(&[9, 1, 9, 9], 6), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(cut(&[2], 6), std::iter::once(0..1).collect::<Vec<_>>());
    }
}
