//! What there is of a stage's work, and what is missing, as the tables have it.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use cgil::{
    embeddings::Embeddings,
    generator::{Kind, store},
    partition::Partition,
    run::Run,
    stream::Stream,
};

/// The rate is that of so much time before the last item that was made.
const LATELY: Duration = Duration::from_secs(600);

/// Items that partitions share.
pub struct Work {
    /// What they are called, one and several.
    pub noun: [&'static str; 2],
    /// What they are made of, counted by their weights: images, or nothing of its own.
    pub unit: Option<&'static str>,
    /// Where they lie, below the run's directory.
    pub place: String,
    pub items: Vec<Item>,
    /// Whether all are there, and the artefact says so.
    pub is_complete: bool,
}

/// Something that one process makes.
pub struct Item {
    pub name: String,
    pub weight: usize,
    /// When it was made; none where it is missing.
    pub made: Option<SystemTime>,
}

impl Work {
    /// The shards of a source.
    pub fn of_source(run: &Run, name: &str) -> Result<Self> {
        let embeddings = Embeddings::open(run, name)?;
        let item = |shard: cgil::embeddings::Shard| Item {
            name: format!("{} {}", shard.split, shard.number),
            weight: shard.rows.len(),
            made: embeddings.made(&shard),
        };
        Ok(Work {
            noun: ["shard", "shards"],
            unit: Some("images"),
            place: run.place(&embeddings.dir()),
            items: embeddings.shards().into_iter().map(item).collect(),
            is_complete: embeddings.is_complete(),
        })
    }

    /// The generators of a kind of a stream.
    pub fn of_generators(run: &Run, stream: &Stream, kind: Kind) -> Self {
        let (fitted, is_complete) = store::fitted(run, stream, kind);
        let item = |(class, made): (&cgil::task::Class, Option<SystemTime>)| Item {
            name: class.name.clone(),
            weight: 1,
            made,
        };
        Work {
            noun: ["class", "classes"],
            unit: None,
            place: run.place(&store::dir(run, stream, kind)),
            items: stream.classes.iter().zip(fitted).map(item).collect(),
            is_complete,
        }
    }

    /// The items that are missing, by their numbers.
    pub fn missing(&self) -> impl Iterator<Item = (usize, &Item)> {
        self.items.iter().enumerate().filter(|(_, item)| item.made.is_none())
    }

    /// The partitions, of so many, that something is missing of. One where all that is missing is
    /// that the artefact says that it is complete.
    pub fn missing_partitions(&self, of: usize) -> BTreeSet<usize> {
        let missing: BTreeSet<usize> = self.missing().map(|(k, _)| k % of).collect();
        if missing.is_empty() && !self.is_complete { [0].into() } else { missing }
    }

    /// The items of a partition that are missing.
    pub fn missing_of(&self, partition: Partition) -> impl Iterator<Item = &Item> {
        self.missing().filter(move |(k, _)| partition.has(*k)).map(|(_, item)| item)
    }

    /// Sum of the weights of what is missing, and of all.
    pub fn weights(&self) -> (usize, usize) {
        let sum = |items: &mut dyn Iterator<Item = &Item>| items.map(|item| item.weight).sum();
        (sum(&mut self.missing().map(|(_, item)| item)), sum(&mut self.items.iter()))
    }

    /// What was made in a second lately, by weight; none where it cannot be told, or nothing has been
    /// made for long.
    pub fn rate(&self) -> Option<f64> {
        let made: Vec<(SystemTime, usize)> =
            self.items.iter().filter_map(|item| Some((item.made?, item.weight))).collect();
        rate(&made, SystemTime::now())
    }
}

fn rate(made: &[(SystemTime, usize)], now: SystemTime) -> Option<f64> {
    let last = made.iter().map(|(time, _)| *time).max()?;
    let lately = made.iter().filter(|(time, _)| last.duration_since(*time).is_ok_and(|since| since <= LATELY));
    let first = lately.clone().map(|(time, _)| *time).min()?;
    let weight: usize = lately.filter(|(time, _)| *time > first).map(|(_, weight)| weight).sum();
    let seconds = last.duration_since(first).ok()?.as_secs_f64();
    let is_old = now.duration_since(last).is_ok_and(|since| since > LATELY);
    (seconds > 0.0 && !is_old).then(|| weight as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_what_was_made_lately() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let made = [(at(10), 900), (at(5000), 7), (at(5010), 20), (at(5020), 40)];
        assert_eq!(rate(&made, at(5030)), Some(3.0));
        assert_eq!(rate(&made, at(9000)), None);
        assert_eq!(rate(&made[..1], at(11)), None);
        assert_eq!(rate(&[], at(11)), None);
    }
}
