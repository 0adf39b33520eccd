//! The embeddings of a run, source after source, in the classes that its stream knows.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::made_from::MadeFrom;
use crate::{
    embeddings::{Embeddings, LabelledRows},
    rows::{Split, Test, Train},
    run::Run,
    stream::Stream,
    task::Class,
};

/// Bytes of embeddings that are in hand, and in a file, at a time.
const FILE_BYTES: usize = 1 << 27;

/// The sources of a stream, or the only one of a run.
pub struct Sources {
    parts: Vec<Part>,
    /// By ascending label.
    pub(super) classes: Vec<Class>,
    /// Values per embedding, D.
    pub(super) dim: usize,
    stream: Option<String>,
}

/// A source whose labels are others than those that its classes go by.
struct Part {
    embeddings: Embeddings,
    /// Places in the classes, by the source's labels.
    places: BTreeMap<i64, usize>,
}

/// How many rows there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Those to learn from.
    pub train: usize,
    /// Those to test on.
    pub test: usize,
}

/// Some rows.
#[derive(Default)]
pub(super) struct Batch {
    /// Keys of the rows, unique in a run.
    pub ids: Vec<String>,
    /// Places of their classes (N).
    pub classes: Vec<usize>,
    /// Their embeddings (N, D), flat.
    pub embeddings: Vec<f32>,
}

impl Sources {
    /// Those of a stream; where there is none, the only source of a run.
    pub fn new(run: &Run, stream: Option<&Stream>) -> Result<Self> {
        let mut sources: Vec<(Embeddings, Vec<(Class, i64)>)> = Vec::new();
        match stream {
            Some(stream) => {
                for (t, source) in (0..stream.tasks()).filter_map(|t| Some((t, stream.source(t)?))) {
                    let own = stream.learns(t).into_iter().zip(stream.source_labels(t));
                    let own = own.filter(|(class, _)| stream.is_candidate(*class, stream.tasks()));
                    let classes = own.map(|(class, label)| (stream.classes[class].clone(), label));
                    match sources.iter_mut().find(|(known, _)| known.name == source) {
                        Some((_, known)) => known.extend(classes),
                        None => sources.push((stream.embeddings(run, t)?, classes.collect())),
                    }
                }
            }
            None => {
                let names = run.sources();
                let [name] = &names[..] else {
                    bail!(
                        "{} has {} sources ({}) and no stream that says which classes they have in common: run \
                         `cgil fit-vae` or `cgil add` first",
                        run.dir().display(),
                        names.len(),
                        names.join(", ")
                    )
                };
                let source = Embeddings::open_complete(run, name)?;
                let classes = source.plan.classes.iter().map(|class| (class.clone(), class.label)).collect();
                sources.push((source, classes));
            }
        }
        let mut classes: Vec<Class> = sources.iter().flat_map(|(_, of)| of).map(|(class, _)| class.clone()).collect();
        classes.sort_by_key(|class| class.label);
        classes.dedup(); // two sources may have images of one
        let place = |label: i64| classes.partition_point(|class| class.label < label);
        let part = |(embeddings, of): (Embeddings, Vec<(Class, i64)>)| Part {
            embeddings,
            places: of.iter().map(|(class, label)| (*label, place(class.label))).collect(),
        };
        let parts: Vec<Part> = sources.into_iter().map(part).collect();
        let dim = parts.first().map_or(0, |part| part.embeddings.plan.dim);
        Ok(Sources { parts, classes, dim, stream: stream.map(|stream| stream.name.clone()) })
    }

    /// What they are.
    pub fn made_from(&self) -> MadeFrom {
        let sources: Vec<&Embeddings> = self.parts.iter().map(|part| &part.embeddings).collect();
        MadeFrom::embeddings(&sources, self.stream.as_deref())
    }

    /// The names of those whose training rows were forgotten.
    pub fn forgotten(&self) -> Vec<&str> {
        let sources = self.parts.iter().map(|part| &part.embeddings);
        sources.filter(|source| source.is_forgotten::<Train>()).map(|source| source.name.as_str()).collect()
    }

    /// How many rows are there. An error where there are none.
    pub(super) fn counts(&self) -> Result<Counts> {
        let counts = Counts { train: self.count::<Train>()?, test: self.count::<Test>()? };
        ensure!(counts.train + counts.test > 0, "there is no embedding to export");
        Ok(counts)
    }

    fn count<S: Split>(&self) -> Result<usize> {
        let mut count = 0;
        for Part { embeddings, places } in self.parts_of::<S>() {
            for &label in places.keys() {
                count += embeddings.count::<S>(label)?;
            }
        }
        Ok(count)
    }

    /// The sources that have rows of a split.
    fn parts_of<S: Split>(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.embeddings.is_forgotten::<S>())
    }

    /// In how many files so many rows go.
    pub(super) fn files(&self, rows: usize) -> usize {
        rows.div_ceil(self.file_rows())
    }

    fn file_rows(&self) -> usize {
        (FILE_BYTES / (size_of::<f32>() * self.dim.max(1))).max(1)
    }

    /// Calls `each` with the number, from 0, and the rows of each file of a split.
    pub(super) fn each_file<S: Split>(&self, mut each: impl FnMut(usize, &Batch) -> Result<()>) -> Result<()> {
        let (mut batch, mut number, most) = (Batch::default(), 0, self.file_rows());
        let alone = self.parts.len() == 1;
        for Part { embeddings, places } in self.parts_of::<S>() {
            let labels: BTreeSet<i64> = places.keys().copied().collect();
            embeddings.each::<S>(&labels, |LabelledRows { sample_ids, labels, rows }| {
                for (i, (id, label)) in sample_ids.into_iter().zip(labels).enumerate() {
                    let Some(&place) = places.get(&label) else { continue };
                    batch.ids.push(if alone { id } else { format!("{}/{id}", embeddings.name) });
                    batch.classes.push(place);
                    batch.embeddings.extend_from_slice(rows.row(i));
                    if batch.ids.len() == most {
                        each(number, &std::mem::take(&mut batch))?;
                        number += 1;
                    }
                }
                Ok(())
            })?;
        }
        if batch.ids.is_empty() { Ok(()) } else { each(number, &batch) }
    }
}
