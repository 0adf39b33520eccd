//! What there is of a stage's work, and what is missing, as the tables have it.

use std::{collections::BTreeSet, io::Write, path::Path, time::SystemTime};

use anyhow::Result;
use cgil::{
    artefact::slug,
    atomic,
    embeddings::Embeddings,
    generator::{Kind, store},
    partition::Partition,
    results::Results,
    rows::{Split, Test, Train},
    run::{Run, names},
    states, storage,
    stream::Stream,
    sums::{Part, Sums},
};
use serde::{Deserialize, Serialize};

use crate::jobs::JOBS;

/// Where sweeps are among what jobs work on: no artefact is a sweep.
const SWEEPS: &str = "sweeps";

/// The file that says what the members of a sweep are.
const MEMBERS: &str = "members.json";

/// A method on a stream, with scores.
#[derive(Clone, Serialize, Deserialize)]
pub struct Scored {
    pub stream: String,
    pub method: String,
}

/// Items that partitions share.
pub struct Work {
    /// What they are called.
    pub noun: &'static str,
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
    /// The shards of a source, but for those that are forgotten.
    pub fn of_source(run: &Run, name: &str) -> Result<Self> {
        let embeddings = Embeddings::open(run, name)?;
        let gone = [(Train::NAME, embeddings.is_forgotten::<Train>()), (Test::NAME, embeddings.is_forgotten::<Test>())];
        let is_kept = |(shard, _): &(cgil::embeddings::Shard, Option<SystemTime>)| {
            !gone.iter().any(|(split, is_gone)| *is_gone && shard.split == *split)
        };
        let item = |(shard, made): (cgil::embeddings::Shard, Option<SystemTime>)| Item {
            name: format!("{} {}", shard.split, shard.number),
            weight: shard.rows.len(),
            made,
        };
        Ok(Work {
            noun: "shards",
            unit: Some("images"),
            place: run.place(&embeddings.dir()),
            items: embeddings.made().into_iter().filter(is_kept).map(item).collect(),
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
            noun: "classes",
            unit: None,
            place: run.place(&store::dir(run, stream, kind)),
            items: stream.classes.iter().zip(fitted).map(item).collect(),
            is_complete,
        }
    }

    /// The parts of the rows that a learner of a stream takes sums of, whose states lie in `dir`.
    pub fn of_sums(run: &Run, stream: &Stream, dir: &Path) -> Result<Self> {
        let (sums, mut items, mut is_complete) = (Sums::of(dir), Vec::new(), true);
        for t in 0..stream.tasks() {
            let learned = states::made(dir, t + 1);
            is_complete &= learned.is_some();
            let parts = states::Parts::of(run, stream, t)?.parts;
            let item = |(part, made): (&Part, Option<SystemTime>)| Item {
                name: part.name(),
                weight: 1,
                made: learned.or(made),
            };
            items.extend(parts.iter().zip(sums.made(&parts)).map(item));
        }
        Ok(Work { noun: "parts", unit: None, place: run.place(dir), items, is_complete })
    }

    /// The members of a sweep.
    pub fn of_sweep(run: &Run, members: &[Scored]) -> Self {
        let item = |Scored { stream, method }: &Scored| Item {
            name: format!("{stream} {method}"),
            weight: 1,
            made: Stream::open(run, stream).ok().and_then(|stream| Results::new(run, &stream, method).finished()),
        };
        let items: Vec<Item> = members.iter().map(item).collect();
        Work {
            noun: "members",
            unit: None,
            place: place(members),
            is_complete: items.iter().all(|item| item.made.is_some()),
            items,
        }
    }

    /// The sweeps of which a partition was begun, each with its name.
    pub fn sweeps(run: &Run) -> Vec<(String, Self)> {
        let dir = run.dir().join(JOBS).join(SWEEPS);
        let read = |name: String| {
            let members: Vec<Scored> =
                serde_json::from_slice(&storage::read(&dir.join(&name).join(MEMBERS)).ok()?).ok()?;
            Some((name, Work::of_sweep(run, &members)))
        };
        names(&dir).into_iter().filter_map(read).collect()
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

    /// What was made in a second since then, by weight; none where nothing was.
    pub fn rate(&self, since: SystemTime) -> Option<f64> {
        let made = self.items.iter().filter(|item| item.made.is_some_and(|made| made >= since));
        let weight: usize = made.map(|item| item.weight).sum();
        let seconds = since.elapsed().ok()?.as_secs_f64();
        (weight > 0 && seconds > 0.0).then(|| weight as f64 / seconds)
    }
}

/// Says what the members of a sweep are, before one is made. Returns the place of its jobs.
pub fn begin_sweep(run: &Run, members: &[Scored]) -> Result<String> {
    let place = place(members);
    let file = run.dir().join(JOBS).join(&place).join(MEMBERS);
    if !storage::is_file(&file) {
        atomic::write_file(&file, |file| Ok(file.write_all(serde_json::to_string(members)?.as_bytes())?))?;
    }
    Ok(place)
}

/// The place of a sweep's jobs: what it is of, as far as a name has room for it.
fn place(members: &[Scored]) -> String {
    let (mut methods, mut streams) = (Vec::new(), Vec::new());
    for Scored { stream, method } in members {
        for (names, name) in [(&mut methods, method), (&mut streams, stream)] {
            if !names.contains(&name.as_str()) {
                names.push(name.as_str());
            }
        }
    }
    format!("{SWEEPS}/{}", slug(&format!("{} of {}", methods.join(" "), streams.join(" "))))
}
