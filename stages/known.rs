//! What a run knows of a delivery already: classes under other spellings or names, and images.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use anyhow::Result;
use cgil::{
    embeddings::Embeddings,
    rows::{Rows, Split, Test, Train},
    run::Run,
    source::folded,
    stream::{Change, Stream},
    task::Class,
};

use crate::terminal;

/// A name without what differs from spelling to spelling: case, blanks, underscores and dashes.
pub fn spelled(name: &str) -> String {
    folded(&name.replace(['_', '-'], " "))
}

/// The class whose name differs from this one in its spelling alone.
pub fn nearly<'a>(classes: &'a [Class], name: &str) -> Option<&'a str> {
    let asked = spelled(name);
    classes.iter().map(|class| class.name.as_str()).find(|known| spelled(known) == asked)
}

/// Notes new classes of a delivery that are spelled nearly as a known one, or as one was called before.
pub fn note_names(stream: &Stream, delivery: &[Class]) {
    let tasks = stream.tasks();
    let known: HashMap<String, String> =
        stream.candidates_after(tasks).into_iter().map(|class| (spelled(&class.name), class.name)).collect();
    let mut renamed = HashMap::new(); // what classes were called before
    for t in 1..tasks {
        if let Some((class, Change::Rename(_))) = stream.changes(t)
            && stream.is_candidate(class, tasks)
        {
            renamed.insert(spelled(&stream.classes_after(t)[class].name), &stream.classes[class].name);
        }
    }
    for Class { name, .. } in delivery.iter().filter(|class| stream.class_called(&class.name).is_none()) {
        let spelled = spelled(name);
        if let Some(known) = known.get(&spelled) {
            note(&format!("{name:?} is learned as a class of its own, beside {known:?}, which is known"));
        } else if let Some(now) = renamed.get(&spelled) {
            note(&format!("{name:?} is learned as a class of its own; what was called so before is {now:?} now"));
        }
    }
}

/// Notes training images of a source that are test images or training images already: the same image has
/// the same embedding.
pub fn note_images(run: &Run, name: &str) {
    if let Err(error) = compare(run, name) {
        note(&format!("its images were not compared with those that are there: {error:#}"));
    }
}

fn compare(run: &Run, name: &str) -> Result<()> {
    let mut own = HashSet::new();
    each::<Train>(&Embeddings::open_complete(run, name)?, |row| _ = own.insert(row))?;
    let of = format!("of its {} training images are", own.len());
    for other in run.sources() {
        let Ok(embeddings) = Embeddings::open_complete(run, &other) else { continue };
        let tested = shared::<Test>(&own, &embeddings)?;
        if tested > 0 {
            note(&format!("{tested} {of} test images of {other}: scores on these say nothing"));
        }
        let learned = if other == name { 0 } else { shared::<Train>(&own, &embeddings)? };
        if learned > 0 {
            note(&format!("{learned} {of} training images of {other} already"));
        }
    }
    Ok(())
}

/// How many of some embeddings, by their hashes, a split of a source has.
fn shared<S: Split>(own: &HashSet<u64>, other: &Embeddings) -> Result<usize> {
    let mut found = HashSet::new();
    if !other.is_forgotten::<S>() {
        each::<S>(other, |row| _ = own.contains(&row).then(|| found.insert(row)))?;
    }
    Ok(found.len())
}

/// Notes sources other than this one whose training embeddings are there.
pub fn note_left(run: &Run, forgotten: &str) {
    let is_left = |name: &String| {
        let there = |source: Embeddings| source.is_complete() && !source.is_forgotten::<Train>();
        name != forgotten && Embeddings::open(run, name).is_ok_and(there)
    };
    let left: Vec<String> = run.sources().into_iter().filter(is_left).collect();
    if !left.is_empty() {
        note(&format!("training embeddings of {} are there still: `cgil forget` takes them away", left.join(", ")));
    }
}

fn note(line: &str) {
    terminal::note(&format!("note: {line}"));
}

/// Calls `each` with a hash of every embedding of a split.
fn each<S: Split>(embeddings: &Embeddings, mut each: impl FnMut(u64)) -> Result<()> {
    let labels: BTreeSet<i64> = embeddings.plan.classes.iter().map(|class| class.label).collect();
    embeddings.each::<S>(&labels, |batch| {
        let rows: &Rows<S> = &batch.rows;
        (0..rows.len()).for_each(|i| {
            let mut hasher = DefaultHasher::new();
            rows.row(i).iter().for_each(|x| x.to_bits().hash(&mut hasher));
            each(hasher.finish());
        });
        Ok(())
    })
}
