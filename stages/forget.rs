//! Embeddings away, training ones and with `--test` test ones, once they are learned from: what is
//! kept of their classes, and what can be inferred from that.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, bail};
use cgil::{
    baseline::{ClassStatistics, Stored},
    choice::Choice,
    dense::moments::mean,
    embeddings::{self, Embeddings},
    generator::{Kind, LatentStore},
    rows::{Test, Train},
    run::Run,
    states::{self, States},
    storage,
    stream::Stream,
    words::counted,
};
use clap::Args;

use crate::{
    learners::{class_statistics, learner_of},
    quality, terminal,
};

/// Rows that are generated per class to see how near they come to training rows.
const SAMPLES: usize = 256;

/// Generated rows nearer to training rows than this share of the distance of held-out ones are told.
const NEAR: f64 = 0.5;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Name of the source, as `cgil add` said it
    #[arg(long, value_name = "NAME")]
    source: String,
    /// Take the test embeddings away too: its classes are not scored any more
    ///
    /// Keys and labels stay, and so do predictions that were made.
    #[arg(long)]
    test: bool,
    /// Overwrite the files with zeros before they go
    ///
    /// A file system that copies on write, or a disk that moves what it writes, keeps old blocks
    /// all the same.
    #[arg(long)]
    overwrite: bool,
}

/// A stream with tasks of the source, and the generators that were fitted to them.
struct Learned {
    stream: Stream,
    tasks: Vec<usize>,
    kind: Kind,
}

pub fn run(options: &Options) -> Result<()> {
    let what = if options.test { Forget::All } else { Forget::Training };
    forget(&Run::open(&options.run, terminal::note)?, &options.source, what, options.overwrite)
}

/// Which embeddings of a source go.
#[derive(Clone, Copy, PartialEq)]
pub enum Forget {
    Training,
    All,
}

/// Takes embeddings of a source away, all of whose classes have been learned.
pub fn forget(run: &Run, source: &str, what: Forget, overwrite: bool) -> Result<()> {
    let mut embeddings = Embeddings::open_complete(run, source)?;
    let learned = learned(run, source)?;
    let kept = if embeddings.is_forgotten::<Train>() {
        String::new() // an earlier try has said it
    } else {
        learned.iter().map(|learned| kept(run, &embeddings, learned)).collect::<Result<Vec<_>>>()?.concat()
    };
    for Learned { stream, tasks, .. } in &learned {
        states::remove_sums(run, stream, tasks, overwrite)?; // of few rows they are the rows
    }
    let mut gone = counted(embeddings.forget::<Train>(overwrite)?, "training embedding");
    if what == Forget::All {
        gone += &format!(" and {}", counted(embeddings.forget::<Test>(overwrite)?, "test embedding"));
    }
    terminal::print(format!("forgotten: {gone} of {source}\n{kept}"))
}

/// Where the source's classes have been learned. An error where they have not.
fn learned(run: &Run, source: &str) -> Result<Vec<Learned>> {
    let mut learned = Vec::new();
    for name in run.streams() {
        let stream = Stream::open(run, &name)?;
        let tasks: Vec<usize> = (0..stream.tasks()).filter(|&t| stream.source(t) == Some(source)).collect();
        if tasks.is_empty() {
            continue;
        }
        let Some(kind) = fitted(run, &stream, &tasks)? else {
            bail!(
                "the stream {name} has no generators of {source} yet: run `cgil add`, or fit-vae and prompt-tune, first"
            )
        };
        let number = tasks[tasks.len() - 1] + 1;
        if let Some(behind) = states::behind(run, &stream, number, |made| learner_of(&stream, made))? {
            bail!("{behind} has not learned {source} yet: run `cgil add`, or the command that made it, first");
        }
        learned.push(Learned { stream, tasks, kind });
    }
    if learned.is_empty() {
        let dir = embeddings::dir(run, source);
        bail!("nothing was learned from {source} yet: run `cgil add` first, or remove {} instead", dir.display());
    }
    Ok(learned)
}

/// The kind of generators that some tasks have, if they have any.
fn fitted(run: &Run, stream: &Stream, tasks: &[usize]) -> Result<Option<Kind>> {
    for &(kind, ..) in Kind::ALL {
        if let Ok(latents) = LatentStore::open(run, stream, kind)
            && tasks.iter().all(|&task| latents.find(task).is_ok_and(|found| found.is_some()))
        {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

/// What is kept of the classes, and how near what their generators give is to training rows.
fn kept(run: &Run, embeddings: &Embeddings, Learned { stream, tasks, kind }: &Learned) -> Result<String> {
    let latents = LatentStore::open(run, stream, *kind)?;
    let mut statistics: States<ClassStatistics> =
        class_statistics(run, stream, ClassStatistics::new(embeddings.plan.dim));
    let noise = quality::noise(&latents, statistics.after(stream.tasks())?)?;
    let Stored { per_class, shared } = statistics.stored();
    let (mut near, mut distances, mut bytes, mut classes) = (BTreeMap::new(), Vec::new(), 0, 0);
    for &task in tasks {
        let generators = latents.read_task(task)?;
        let measured = quality::measure(SAMPLES, run, stream, task, &generators, &noise)?;
        for ((_, quality), class) in measured.iter().zip(stream.learned_classes(task)) {
            if let Some(distance) = quality.neighbour_distance {
                distances.push(distance);
                if distance < NEAR {
                    near.insert(class.name.clone(), distance);
                }
            }
        }
        let dir = latents.task_dir(task);
        bytes += storage::read_dir(&dir)?.iter().map(|(_, file)| file.bytes()).sum::<u64>();
        classes += generators.len() as u64;
    }
    let mut text = format!(
        "kept of {} in the stream {}, on average of each: a generator ({kind}) of {} KB, a count, and a mean of {} bytes\n\
         kept of all classes together: a covariance of {} KB, and what prompts and evidence need\n\
         a mean of few images is close to them; of one image it is the image's embedding\n",
        counted(classes as usize, "class"),
        stream.name,
        bytes / classes.max(1) / 1000,
        per_class,
        shared / 1000,
    );
    if !distances.is_empty() {
        text += &format!(
            "generated embeddings are {:.2} times as far from the nearest training embedding as held-out ones; 0 would be \
             a copy\n",
            mean(distances)
        );
    }
    for (name, distance) in near {
        text += &format!("note: those of {name:?} are near training embeddings ({distance:.2})\n");
    }
    Ok(text)
}
