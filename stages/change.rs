//! A known class gets another name, or is taken out: a task of its own, without images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cgil::{
    run::Run,
    stream::{Change, Stream},
};
use clap::Args;

use crate::{known::nearly, learn::LearnOptions, terminal};

#[derive(Args)]
pub struct Rename {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// What the class is called
    #[arg(value_name = "OLD")]
    old: String,
    /// What it is called from now on
    #[arg(value_name = "NEW")]
    new: String,
    #[command(flatten)]
    learn: LearnOptions,
}

#[derive(Args)]
pub struct Remove {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// What the class is called
    #[arg(value_name = "CLASS")]
    class: String,
    #[command(flatten)]
    learn: LearnOptions,
}

pub fn rename(options: &Rename) -> Result<()> {
    let Rename { old, new, .. } = options;
    if new.trim().is_empty() {
        bail!("a class cannot be called {new:?}: its text is made of its name");
    }
    change(&options.run, &options.learn, old, Change::Rename(new.trim().to_owned()))
}

pub fn remove(options: &Remove) -> Result<()> {
    change(&options.run, &options.learn, &options.class, Change::Remove)?;
    terminal::note(&format!(
        "note: {:?} is no candidate any more; what was learned of it is still in the artefacts of earlier tasks, below \
         latents, statistics and prompts",
        options.class
    ));
    Ok(())
}

fn change(run: &Path, learn: &LearnOptions, name: &str, change: Change) -> Result<()> {
    let run = Run::open(run, terminal::note)?;
    let none = || format!("{} has learned nothing yet: run `cgil add` first", run.dir().display());
    let mut stream = learn.stream.find(&run)?.with_context(none)?;
    let stages = learn.stages(&run, Some(&stream))?;
    if !is_made(&stream, name, &change) {
        let class = place(&stream, name)?;
        check(&stream, name, &change)?;
        if let Change::Rename(new) = &change
            && let Some(known) = nearly(&stream.candidates_after(stream.tasks()), new).filter(|known| *known != name)
        {
            terminal::note(&format!("note: {new:?} is spelled nearly as {known:?}, which is another class"));
        }
        stream.change(&run, class, &change)?;
    }
    stages.learn(&run, &stream)
}

/// Whether the last task is this change already: an earlier try was interrupted after it.
fn is_made(stream: &Stream, name: &str, change: &Change) -> bool {
    let last = stream.tasks() - 1;
    let before = stream.classes_after(last);
    stream.changes(last).is_some_and(|(class, made)| made == *change && before[class].name == name)
}

/// The position of the class that is called so.
fn place(stream: &Stream, name: &str) -> Result<usize> {
    stream.class_called(name).with_context(|| {
        let names = stream.candidates_after(stream.tasks());
        let names: Vec<&str> = names.iter().map(|class| class.name.as_str()).take(8).collect();
        format!("the stream {} has no class {name:?}; it has {}, …", stream.name, names.join(", "))
    })
}

/// An error for a change that would leave no class, or two of one name.
fn check(stream: &Stream, name: &str, change: &Change) -> Result<()> {
    match change {
        Change::Rename(new) if stream.class_called(new).is_some() => {
            bail!("the stream {} has a class {new:?} already: take another name", stream.name)
        }
        Change::Remove if stream.candidates_after(stream.tasks()).len() == 1 => {
            bail!("{name:?} is the only class: add another one first")
        }
        _ => Ok(()),
    }
}
