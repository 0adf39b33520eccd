//! Training rows class by class, whatever order a source has them in.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use arrow::datatypes::ToByteSlice;

use super::Stream;
use crate::{
    embeddings::Embeddings,
    rows::{Rows, Train},
};

/// How often shards may be read, on average, before their rows are rather sorted: that reads them once,
/// and writes and reads their rows.
const READ_AT_MOST: usize = 3;

/// Rows that are held while they are sorted, in bytes.
const SORTED_AT_ONCE: usize = 32 << 20;

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
    /// Rows of each label.
    places: HashMap<i64, Range<usize>>,
    dim: usize,
}

impl<'a> ByClass<'a> {
    /// Of a source whose rows will be asked for in `parts`, each the source's labels of some classes.
    /// Where classes are mixed, rows are first sorted into a file of the directory `scratch`, which
    /// takes as much disk as they have bytes.
    pub fn new(stream: &'a Stream, embeddings: Embeddings, parts: &[Vec<i64>], scratch: &Path) -> Result<Self> {
        let (reads, shards) = embeddings.reads::<Train>(parts)?;
        let sorted = match reads > READ_AT_MOST * shards {
            true => Some(Sorted::new(stream, &embeddings, &parts.concat(), scratch)?),
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
            Some(sorted) => labels.iter().map(|label| sorted.rows(label)).collect(),
            None => self.stream.train_rows(&self.embeddings, labels),
        }
    }
}

impl Sorted {
    fn new(stream: &Stream, embeddings: &Embeddings, labels: &[i64], scratch: &Path) -> Result<Self> {
        let (dim, mut places, mut rows) = (embeddings.plan.dim, HashMap::new(), 0);
        for &label in labels {
            let first = rows;
            rows += stream.count_rows(embeddings, label)?;
            places.insert(label, first..rows);
        }
        let bytes = rows * dim * VALUE;
        let cannot = || {
            format!(
                "cannot sort {:.1} GB of training rows by class in a file of {}, which takes as much space",
                bytes as f64 / 1e9,
                scratch.display()
            )
        };
        let mut sorted = Sorted { file: tempfile::tempfile_in(scratch).with_context(cannot)?, places, dim };
        let mut next: Vec<usize> = labels.iter().map(|label| sorted.places[label].start).collect();
        let wanted: HashSet<i64> = labels.iter().copied().collect();
        for shards in embeddings.runs::<Train>(&wanted, SORTED_AT_ONCE / (dim * VALUE))? {
            for (next, rows) in next.iter_mut().zip(stream.train_rows_in(embeddings, labels, shards)?) {
                if !rows.is_empty() {
                    sorted.write(*next, &rows).with_context(cannot)?;
                    *next += rows.len();
                }
            }
        }
        for (label, end) in labels.iter().zip(next) {
            ensure!(end == sorted.places[label].end, "rows of the label {label} are others than were counted");
        }
        Ok(sorted)
    }

    /// Writes rows from place `first` on.
    fn write(&mut self, first: usize, rows: &Rows<Train>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start((first * self.dim * VALUE) as u64))?;
        self.file.write_all(rows.values().to_byte_slice())
    }

    fn rows(&self, label: &i64) -> Result<Rows<Train>> {
        let place = self.places.get(label).with_context(|| format!("no rows of the label {label} were sorted"))?;
        let mut bytes = vec![0; place.len() * self.dim * VALUE];
        let mut file = &self.file;
        file.seek(SeekFrom::Start((place.start * self.dim * VALUE) as u64))?;
        file.read_exact(&mut bytes).context("cannot read back rows that were sorted by class")?;
        let values = bytes.as_chunks::<VALUE>().0.iter().map(|&value| f32::from_ne_bytes(value)).collect();
        Ok(Rows::new(self.dim, values))
    }
}
