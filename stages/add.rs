//! New classes into a classifier that is in use: extract, fit-vae and prompt-tune in one go. What
//! comes first begins the run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cgil::{
    Error,
    clip::Checkpoint,
    embeddings::{self, Embeddings, FIRST_SOURCE},
    rows::{Split, Train},
    run::Run,
    source::{Source, is_of_data},
    storage,
    stream::Stream,
    task::{Class, Cut, Order},
};
use clap::Args;

use crate::{
    checkpoint,
    extract::{self, DataOptions},
    forget::{self, Forget},
    hub, known,
    learn::LearnOptions,
    terminal,
};

#[derive(Args)]
pub struct Options {
    /// Directory of the run; one that is not there is begun
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    /// What the delivery is called [default: base, then delivery-2, delivery-3, …]
    ///
    /// Small letters, digits, dots and dashes.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    learn: LearnOptions,
    /// Take the training embeddings away once they are learned, as `cgil forget` does
    #[arg(long)]
    forget: bool,
}

/// What is added.
struct Delivery {
    source: Source,
    /// What it is called in the run.
    name: String,
    /// Whether listings of its archives begin now: they go again where it comes to nothing.
    is_listed_now: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    let stream = options.learn.stream.find(&run)?;
    let stages = options.learn.stages(&run, stream.as_ref())?;
    let delivery = options.delivery(&run)?;
    let name = &delivery.name;
    let is_in_stream = stream.as_ref().is_some_and(|stream| stream.sources().contains(&name.as_str()));
    match Embeddings::open(&run, name).ok().filter(Embeddings::is_forgotten::<Train>) {
        Some(_) if is_in_stream => {
            terminal::note(&format!("note: the training embeddings of {name} were learned and forgotten"));
        }
        Some(gone) => return Err(Error::Forgotten { split: "training", dir: gone.dir() }.into()),
        None => {
            let needed = Needed { stream: stream.as_ref(), least: stages.least_rows() };
            options.encode(&run, &delivery, &needed, is_in_stream)?;
        }
    }
    let stream = with_source(&run, stream, &Embeddings::open_complete(&run, name)?)?;
    stages.learn(&run, &stream)?;
    if options.forget {
        forget::forget(&run, name, Forget::Training, false)?;
        known::note_left(&run, name);
    }
    Ok(())
}

/// The stream with a source's classes as its last task, unless it has them.
fn with_source(run: &Run, stream: Option<Stream>, source: &Embeddings) -> Result<Stream> {
    let Some(mut stream) = stream else {
        return Stream::new(source, &Order::of_seed(None), Cut::Tasks(1), None)?.create(run);
    };
    if !stream.sources().contains(&source.name.as_str()) {
        stream.append(run, source)?;
    }
    Ok(stream)
}

impl Options {
    /// The images, and what they are called in the run.
    fn delivery(&self, run: &Run) -> Result<Delivery> {
        let data = self.data.place()?;
        let expected = self.expected_name(run, &data)?;
        let is_listed_now = embeddings::listings(run, &expected).is_some_and(|dir| !storage::is_dir(&dir));
        let source = extract::open_source_at(&data, &self.data, run, &expected, None).inspect_err(|error| {
            if is_listed_now && is_of_data(&data, error.as_ref()) {
                embeddings::remove_listings(run, &expected, false).ok();
            }
        })?;
        let name = self.name(run, &source);
        if is_listed_now && !name.as_ref().is_ok_and(|name| *name == expected) {
            embeddings::remove_listings(run, &expected, false)?; // which are of another source
        }
        Ok(Delivery { source, name: name?, is_listed_now })
    }

    /// Encodes the images, which have to be enough, and says what the run knows of them already.
    fn encode(&self, run: &Run, delivery: &Delivery, needed: &Needed, is_in_stream: bool) -> Result<()> {
        let Delivery { source, name, is_listed_now } = delivery;
        needed.of_images(source).inspect_err(|_| {
            if *is_listed_now {
                embeddings::remove_listings(run, name, false).ok();
            }
        })?;
        if let Some(stream) = needed.stream.filter(|_| !is_in_stream) {
            known::note_names(stream, &source.classes);
        }
        let is_begun = run.sources().contains(name);
        let encoded = extract::encode(run, name, &self.checkpoint(run)?, source, &self.data);
        encoded.map_err(|error| match error.downcast_ref() {
            Some(Error::OtherEmbeddings { .. }) if !is_begun => {
                anyhow!("another command has begun a source {name} meanwhile: run this one again")
            }
            _ => error,
        })?;
        needed.of_embeddings(&Embeddings::open_complete(run, name)?)?; // before the stream has it as a task
        if !is_in_stream {
            known::note_images(run, name);
        }
        Ok(())
    }

    /// What the source is called as far as that is known before its images are: as it was when this data
    /// was added before, last, else what comes next.
    fn expected_name(&self, run: &Run, data: &Path) -> Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let (known, data) = (run.sources(), data.display().to_string());
        for name in known.iter().rev() {
            let origin = Embeddings::open(run, name)?.plan.source.origin;
            // of archives, which alone are listed, a word and where they are
            if origin.split_once(' ').is_some_and(|(_, place)| place == data) {
                return Ok(name.clone());
            }
        }
        Ok(next_name(&known))
    }

    /// What the source is called in the run: where its images are there already, what they are
    /// called.
    fn name(&self, run: &Run, source: &Source) -> Result<String> {
        let known = run.sources();
        for name in &known {
            let there = Embeddings::open(run, name)?.plan.source.fingerprint == source.id.fingerprint;
            match &self.name {
                Some(asked) if there && asked != name => {
                    bail!("{} was added as {name} already", source.id.origin)
                }
                Some(asked) if !there && asked == name => {
                    bail!("{} has a source {name} of other images: take another --name", run.dir().display())
                }
                _ if there => return Ok(name.clone()),
                _ => {}
            }
        }
        Ok(self.name.clone().unwrap_or_else(|| next_name(&known)))
    }

    /// The checkpoint that is given, else the one that made the run's embeddings.
    fn checkpoint(&self, run: &Run) -> Result<Checkpoint> {
        let sources = run.sources().iter().map(|name| Embeddings::open(run, name)).collect::<Result<Vec<_>>>()?;
        let recorded = sources.first().and_then(|first| first.plan.model.as_ref());
        let place = self.learn.model.clone().or_else(|| checkpoint::place(&sources).cloned());
        let place = place.or_else(|| Some(recorded?.path.clone()));
        let place = place.with_context(|| {
            format!("{} does not know its CLIP: give --model, as extract takes it", run.dir().display())
        })?;
        let checkpoint = Checkpoint::open(&hub::model(&place)?)?;
        if let Some(recorded) = recorded {
            let id = checkpoint.id()?;
            if (&id.sha256, &id.config) != (&recorded.sha256, &recorded.config) {
                bail!(
                    "the embeddings in {} were made by {} (sha256 {:.12}…), not by {} (sha256 {:.12}…): give that one by \
                     --model, or begin another --run",
                    run.dir().display(),
                    recorded.name,
                    recorded.sha256,
                    id.name,
                    id.sha256
                );
            }
        }
        if let Some(first) = sources.first() {
            checkpoint::preprocess(&checkpoint, first)?;
        }
        Ok(checkpoint)
    }
}

/// What the source after those that are known is called: its number is above theirs.
fn next_name(known: &[String]) -> String {
    let number = |name: &String| name.strip_prefix("delivery-")?.parse::<usize>().ok();
    let last = known.iter().filter_map(number).max().unwrap_or(0).max(known.len());
    if last == 0 { FIRST_SOURCE.to_owned() } else { format!("delivery-{}", last + 1) }
}

/// What a delivery needs of each class.
struct Needed<'a> {
    stream: Option<&'a Stream>,
    /// What a generator of a new class needs.
    least: usize,
}

impl Needed<'_> {
    /// An error where a class has too few training images.
    fn of_images(&self, source: &Source) -> Result<()> {
        let mut counts = source.classes.iter().zip(&source.counts[Train::NAME]);
        counts.try_for_each(|(class, &images)| self.of(class, images, "images", ""))
    }

    /// An error where a class has too few training embeddings.
    fn of_embeddings(&self, embeddings: &Embeddings) -> Result<()> {
        let more = " (the quarantine says which images could not be read)";
        let of = |class: &Class| self.of(class, embeddings.count::<Train>(class.label)?, "embeddings", more);
        embeddings.plan.classes.iter().try_for_each(of)
    }

    /// Of a class that is known one is enough.
    fn of(&self, class: &Class, there: usize, what: &str, more: &str) -> Result<()> {
        let is_known = self.stream.is_some_and(|stream| stream.class_called(&class.name).is_some());
        let least = if is_known { 1 } else { self.least };
        ensure!(
            there >= least,
            "{class} has {there} training {what}, and at least {least} must be there: add images of it, or leave the \
             class out, and add them again{more}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_called_by_a_number_that_none_has() {
        for (known, expected) in [
            (&[][..], "base"),
            (&["base"], "delivery-2"),
            (&["base", "delivery-3"], "delivery-4"),
            (&["a", "b"], "delivery-3"),
        ] {
            let known: Vec<String> = known.iter().map(|name: &&str| (*name).to_owned()).collect();
            assert_eq!(next_name(&known), expected);
        }
    }
}
