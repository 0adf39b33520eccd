//! Training rows class by class, whatever order a source has them in.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use arrow::datatypes::ToByteSlice;

use super::{Stream, rows::pick};
use crate::{
    embeddings::Embeddings,
    rows::{Rows, Train},
    stop::{self, Stopped},
};

/// How often shards may be read, on average, before their rows are rather sorted: that reads them once,
/// and writes and reads their rows.
const READ_AT_MOST: usize = 3;

/// Bytes of a value.
const VALUE: usize = size_of::<f32>();

/// The training rows of classes of one source, of which some classes' are asked for at a time.
pub struct ByClass<'a> {
    stream: &'a Stream,
    embeddings: Embeddings,
    /// Where the source's shards would be read too often.
    sorted: Option<Sorted>,
}

/// Rows in a file that has no name and ends with the process, each class's one after another.
struct Sorted {
    file: File,
    /// Where it is.
    scratch: PathBuf,
    classes: HashMap<i64, Place>, // by their labels
    dim: usize,
}

/// A class's rows in the file, and a sum over their bits: what a full disk has lost does not go unseen.
struct Place {
    rows: Range<usize>,
    sum: u64,
}

impl<'a> ByClass<'a> {
    /// Of a source whose rows will be asked for in `parts`, each the source's labels of some classes.
    /// Where classes are mixed, rows are first sorted into a file of the directory `scratch`, `at_once`
    /// bytes of rows at a time; `note` is told how many bytes that takes there. Where the process is
    /// asked to stop meanwhile, it is [`Stopped`].
    pub fn new(
        stream: &'a Stream,
        embeddings: Embeddings,
        parts: &[Vec<i64>],
        scratch: &Path,
        at_once: usize,
        note: impl FnOnce(usize),
    ) -> Result<Self> {
        let (reads, shards) = embeddings.reads::<Train>(parts)?;
        let sorted = match reads > READ_AT_MOST * shards {
            true => Some(Sorted::new(stream, &embeddings, &parts.concat(), scratch, at_once, note)?),
            false => None,
        };
        Ok(ByClass { stream, embeddings, sorted })
    }

    /// The source.
    pub fn embeddings(&self) -> &Embeddings {
        &self.embeddings
    }

    /// The training rows of some classes, as [`Stream::train_rows`] has them.
    pub fn rows(&self, labels: &[i64]) -> Result<Vec<Rows<Train>>> {
        match &self.sorted {
            // what was not asked for in the beginning is not there
            Some(sorted) if labels.iter().all(|label| sorted.classes.contains_key(label)) => {
                labels.iter().map(|label| sorted.rows(label)).collect()
            }
            _ => self.stream.train_rows(&self.embeddings, labels),
        }
    }
}

impl Sorted {
    fn new(
        stream: &Stream,
        embeddings: &Embeddings,
        labels: &[i64],
        scratch: &Path,
        at_once: usize,
        note: impl FnOnce(usize),
    ) -> Result<Self> {
        let (dim, mut classes, mut rows) = (embeddings.plan.dim, HashMap::new(), 0);
        for &label in labels {
            let first = rows;
            rows += stream.count_rows(embeddings, label)?;
            classes.insert(label, Place { rows: first..rows, sum: 0 });
        }
        let bytes = rows * dim * VALUE;
        note(bytes);
        let cannot = || {
            format!(
                "cannot sort {:.1} MB of training rows by class in a file of {}, which takes as much space (of a run in an \
                 object store TMPDIR says where)",
                bytes as f64 / 1e6,
                scratch.display()
            )
        };
        let file = tempfile::tempfile_in(scratch).with_context(cannot)?;
        let mut sorted = Sorted { file, scratch: scratch.to_owned(), classes, dim };
        let shots = match stream.shots_of(embeddings) {
            Some(shots) => Some(labels.iter().map(|&label| shots.places(label)).collect::<Result<Vec<_>>>()?),
            None => None,
        };
        // of each class, how many rows were read, and how many of them written
        let mut done = vec![(0, 0); labels.len()];
        let wanted: HashSet<i64> = labels.iter().copied().collect();
        for shards in embeddings.runs::<Train>(&wanted, at_once / (dim * VALUE))? {
            if stop::is_asked() {
                return Err(Stopped.into());
            }
            let read = embeddings.class_rows_in::<Train>(labels, shards)?;
            for (i, (label, rows)) in labels.iter().zip(read).enumerate().filter(|(_, (_, rows))| !rows.is_empty()) {
                let (read, written) = &mut done[i];
                let (first, count) = (*read, rows.len());
                let rows = match &shots {
                    Some(places) => pick(&rows, &places[i], first),
                    None => rows,
                };
                sorted.write(*label, *written, &rows).with_context(cannot)?;
                (*read, *written) = (*read + count, *written + rows.len());
            }
        }
        for (label, (_, written)) in labels.iter().zip(done) {
            let expected = sorted.classes[label].rows.len();
            ensure!(
                written == expected,
                "{} has {written} training rows of the label {label} to learn from, and had {expected}: run the command \
                 that made it again",
                embeddings.dir().display()
            );
        }
        Ok(sorted)
    }

    /// Writes rows of a class, before which some were written.
    fn write(&mut self, label: i64, written: usize, rows: &Rows<Train>) -> Result<()> {
        let place = self.classes.get_mut(&label).context("a class that is sorted")?;
        place.sum = place.sum.wrapping_add(sum_of_bits(rows.values()));
        let first = place.rows.start + written;
        self.file.seek(SeekFrom::Start((first * self.dim * VALUE) as u64))?;
        Ok(self.file.write_all(rows.values().to_byte_slice())?)
    }

    fn rows(&self, label: &i64) -> Result<Rows<Train>> {
        let Place { rows, sum } = &self.classes[label];
        let lost =
            || format!("rows that were sorted into a file of {} are lost: is there room?", self.scratch.display());
        let mut bytes = vec![0; rows.len() * self.dim * VALUE];
        let mut file = &self.file;
        file.seek(SeekFrom::Start((rows.start * self.dim * VALUE) as u64))?;
        file.read_exact(&mut bytes).with_context(lost)?;
        let values: Vec<f32> = bytes.as_chunks::<VALUE>().0.iter().map(|&value| f32::from_ne_bytes(value)).collect();
        ensure!(sum_of_bits(&values) == *sum, lost());
        Ok(Rows::new(self.dim, values))
    }
}

fn sum_of_bits(values: &[f32]) -> u64 {
    values.iter().fold(0, |sum: u64, value| sum.wrapping_add(value.to_bits().into()))
}
