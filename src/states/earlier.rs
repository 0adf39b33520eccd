//! What earlier rules of a learner have learned from rows that are forgotten. Another rule cannot
//! learn from them, so it goes on from the last state that is there.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    artefact::{self, Manifest},
    embeddings::Embeddings,
    rows::Train,
    run::{Run, step_name},
    storage,
    stream::Stream,
};

/// The rules, by their places in `dirs`, the newest first, that have learned each of the first tasks
/// for good: those before the state that the rule of `own` has gone on from, or, where it has not
/// learned a task whose rows are forgotten, the newest rule's that have learned any.
pub fn kept(run: &Run, stream: &Stream, own: &Path, dirs: &[PathBuf]) -> Result<Vec<usize>> {
    if !dirs.iter().any(|dir| storage::is_dir(dir)) {
        return Ok(Vec::new());
    }
    let rule_before = |made: Manifest| {
        let before = Path::new(&made.inputs.get("before")?.path).parent()?;
        dirs.iter().position(|dir| Path::new(&run.place(dir)) == before)
    };
    let before = |dir: &Path, step: usize| Ok::<_, anyhow::Error>(find(dir, step)?.and_then(rule_before));
    let learned = last(own, stream)?;
    let mut from = None; // a number of tasks, and who has learned them
    for step in (2..=learned).rev() {
        if let Some(rule) = before(own, step)? {
            from = Some((step - 1, rule));
            break;
        }
    }
    if from.is_none() && is_forgotten(run, stream, learned..stream.tasks())? {
        for (rule, dir) in dirs.iter().enumerate() {
            let step = last(dir, stream)?;
            if step > 0 {
                from = Some((step, rule));
                break;
            }
        }
    }
    let mut kept = Vec::new();
    while let Some((step, rule)) = from {
        kept.push(rule);
        from = if step > 1 { Some((step - 1, before(&dirs[rule], step)?.unwrap_or(rule))) } else { None };
    }
    kept.reverse();
    Ok(kept)
}

/// The number of the last state in `dir`; 0 where there is none.
pub fn last(dir: &Path, stream: &Stream) -> Result<usize> {
    for step in (1..=stream.tasks()).rev() {
        if find(dir, step)?.is_some() {
            return Ok(step);
        }
    }
    Ok(0)
}

/// Whether training rows of some tasks (from 0) are forgotten.
pub fn is_forgotten(run: &Run, stream: &Stream, tasks: std::ops::Range<usize>) -> Result<bool> {
    let mut sources: Vec<&str> = tasks.filter_map(|t| stream.source(t)).collect();
    sources.dedup();
    for source in sources {
        if Embeddings::open_complete(run, source)?.is_forgotten::<Train>() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn find(dir: &Path, step: usize) -> Result<Option<Manifest>> {
    Manifest::find(&dir.join(step_name(step)), &artefact::STATISTICS)
}
