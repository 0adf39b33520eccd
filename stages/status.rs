//! How far a run's partitions are, from its tables and what their processes last said.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Result, bail};
use cgil::{
    choice::Choice, generator::Kind, partition::Partition, run::Run, states, storage, stream::Stream, words::counted,
};
use clap::Args;

use crate::{
    jobs::{self, Record, State},
    terminal,
    work::Work,
};

/// How often --watch looks.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// A line for each shard, class, part and member that is missing, and whose it is
    #[arg(long, conflicts_with = "watch")]
    missing: bool,
    /// Look again every five seconds, until nothing is missing or nothing is at work
    #[arg(long)]
    watch: bool,
}

/// What a stage works on, and what the processes of its partitions last said.
struct Stage {
    name: String,
    work: Work,
    records: Vec<(Partition, Record)>,
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    loop {
        let stages = stages(&run)?;
        if stages.is_empty() {
            return terminal::print(format!("{} has nothing yet\n", run.dir().display()));
        }
        if options.missing {
            return terminal::print(stages.iter().map(Stage::list).collect::<String>());
        }
        terminal::print(stages.iter().map(Stage::text).collect::<String>())?;
        let failed = stages.iter().map(|stage| stage.with(|record| record.state == State::Failed).count()).sum();
        let is_at_work = stages.iter().any(|stage| stage.with(is_running).count() > 0);
        match (options.watch && is_at_work, failed) {
            (true, _) => thread::sleep(AGAIN),
            (false, 0) => return Ok(()),
            (false, failed) => bail!("{} failed, and will again", counted(failed, "partition")),
        }
    }
}

/// What there is of sources, generators, sums and sweeps.
fn stages(run: &Run) -> Result<Vec<Stage>> {
    let stage = |name: String, work: Work| Stage { name, records: jobs::records(run, &work.place), work };
    let mut stages = Vec::new();
    for source in run.sources() {
        stages.push(stage(format!("extract {source}"), Work::of_source(run, &source)?));
    }
    for name in run.streams() {
        let stream = Stream::open(run, &name)?;
        for (kind, kind_name, _) in Kind::ALL {
            let work = Work::of_generators(run, &stream, *kind);
            if storage::exists(&run.dir().join(&work.place)) {
                stages.push(stage(format!("fit-vae {name} {kind_name}"), work));
            }
        }
        let dir = states::dir(run, &stream);
        for learner in jobs::places_below(run, &run.place(&dir)) {
            let work = Work::of_sums(run, &stream, &dir.join(&learner))?;
            stages.push(stage(format!("sums {name} {learner}"), work));
        }
    }
    let sweeps = Work::sweeps(run).into_iter();
    stages.extend(sweeps.map(|(name, work)| stage(format!("sweep {name}"), work)));
    Ok(stages)
}

fn is_running(record: &Record) -> bool {
    record.state == State::Running && record.is_heard
}

impl Stage {
    /// The partitions that something is missing of, whose last record is such a one.
    fn with(&self, is_such: impl Fn(&Record) -> bool) -> impl Iterator<Item = &(Partition, Record)> {
        let is_open = |partition: &Partition| self.work.missing_of(*partition).next().is_some();
        self.records.iter().filter(move |(partition, record)| is_open(partition) && is_such(record))
    }

    fn text(&self) -> String {
        let Work { noun, unit, items, is_complete, .. } = &self.work;
        let (missing, (left, all)) = (self.work.missing().count(), self.work.weights());
        let mut text = format!("{}: {} of {} {}", self.name, items.len() - missing, items.len(), noun);
        if let Some(unit) = unit {
            text += &format!(", {} of {all} {unit}", all - left);
        }
        text += match (missing, is_complete) {
            (0, true) => ", complete\n",
            (0, false) => ", all there; any partition completes it\n",
            _ => "\n",
        };
        if missing == 0 {
            return text;
        }
        let running: Vec<_> = self.with(is_running).collect();
        // those that run now have worked since the first of them began
        let began = running.iter().map(|(_, record)| record.began).min();
        if let Some(rate) = began.and_then(|began| self.work.rate(began)) {
            let time = terminal::duration(left as f64 / rate);
            text += &format!("  {rate:.1} {} a second, about {time} left\n", unit.unwrap_or(noun));
        }
        for (partition, record) in running {
            text += &format!("  {partition} runs on {}\n", record.host);
        }
        for (partition, record) in self.with(|record| !is_running(record)) {
            let (host, message) = (&record.host, &record.message);
            text += &match record.state {
                State::Running => format!("  {partition} was killed on {host}, or its machine is gone\n"),
                State::Failed => format!("  {partition} failed on {host}: {message}\n"),
                State::Stopped | State::Done => format!("  {partition} stopped on {host}: {message}\n"),
            };
        }
        text
    }

    /// A line for each missing item.
    fn list(&self) -> String {
        let of = self.records.last().map(|(partition, _)| partition.of());
        let whose = |k: usize| of.map_or(String::new(), |of| format!("{}/{of} ", k % of));
        self.work.missing().map(|(k, item)| format!("{} {}{}\n", self.name, whose(k), item.name)).collect()
    }
}
