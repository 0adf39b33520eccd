//! An array in a file: known by its header, read in blocks.

use std::{
    fmt,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Int64Array, StringArray};
use zip::ZipArchive;

use super::kind::Kind;
use crate::storage::{self, File};

/// Bytes that are in hand at a time.
const BLOCK: usize = 16 << 20;

/// An array in a file.
pub struct Array {
    /// Its file below the data's directory, and its name where the file holds several.
    pub place: String,
    pub file: PathBuf,
    /// Its file inside the archive `file`.
    pub entry: Option<String>,
    /// Where its values begin, in bytes.
    pub offset: u64,
    pub kind: Kind,
    /// Whether the first index is the one that changes fastest.
    pub fortran: bool,
    pub shape: Vec<usize>,
}

impl Array {
    /// The array, unless `length`, the bytes of its file, are too few for its values.
    pub fn checked(self, length: u64) -> Result<Self> {
        let values = self.shape.iter().try_fold(self.kind.size as u64, |n, &side| n.checked_mul(side as u64));
        ensure!(
            values.and_then(|values| values.checked_add(self.offset)).is_some_and(|end| end <= length),
            "it is cut short: {self} are more than its {length} bytes"
        );
        Ok(self)
    }

    /// Number and length (N, D) of the vectors that it consists of; none where it is a column, or
    /// none of floats.
    pub fn vectors(&self) -> Option<(usize, usize)> {
        let (&rows, inner) = self.shape.split_first()?;
        let dim = inner.iter().product();
        (self.kind.is_float() && dim > 1 && inner.iter().filter(|&&side| side != 1).count() == 1).then_some((rows, dim))
    }

    /// Length of the column that it is; none where it is none.
    pub fn column(&self) -> Option<usize> {
        let (&rows, inner) = self.shape.split_first()?;
        inner.iter().all(|&side| side == 1).then_some(rows)
    }

    /// Calls `each` with its vectors (n, D), some rows after another.
    pub fn read(&self, rows: usize, dim: usize, mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let row_bytes = dim * self.kind.size;
        let at_once = (BLOCK / row_bytes).max(1);
        let blocks = (0..rows).step_by(at_once).map(|first| first..(first + at_once).min(rows));
        let mut values = Vec::new();
        let mut file = storage::open(&self.file)?;
        if self.fortran {
            let mut memory;
            let (file, offset): (&mut dyn ReadSeek, u64) = if self.entry.is_some() {
                memory = Cursor::new(self.bytes(rows * row_bytes)?); // there is no seeking in an archive
                (&mut memory, 0)
            } else {
                (&mut file, self.offset)
            };
            let mut column = Vec::new();
            for block in blocks {
                values.resize(block.len() * dim, 0.0);
                for j in 0..dim {
                    file.seek(SeekFrom::Start(offset + ((j * rows + block.start) * self.kind.size) as u64))?;
                    column.clear();
                    self.floats(file, block.len(), &mut column)?;
                    values.iter_mut().skip(j).step_by(dim).zip(&column).for_each(|(to, from)| *to = *from);
                }
                each(&values)?;
            }
            return Ok(());
        }
        self.with_reader(file, |file| {
            for block in blocks {
                values.clear();
                self.floats(file, block.len() * dim, &mut values)?;
                each(&values)?;
            }
            Ok(())
        })
    }

    /// Its values, integers or texts, as a column.
    pub fn as_column(&self) -> Result<ArrayRef> {
        let rows = self.column().context("it is no column")?;
        let mut bytes = self.bytes(rows * self.kind.size)?;
        if self.kind.is_text() {
            let texts = self.kind.texts(&mut bytes);
            let odd = texts.iter().position(Option::is_none);
            ensure!(odd.is_none(), "{} row {} is no text", self.place, odd.unwrap_or(0));
            return Ok(Arc::new(StringArray::from(texts)));
        }
        let integers = self.kind.integers(&mut bytes);
        let odd = integers.iter().position(Option::is_none);
        ensure!(odd.is_none(), "{} row {} is no integer that int64 holds", self.place, odd.unwrap_or(0));
        Ok(Arc::new(Int64Array::from(integers)))
    }

    /// The next `n` values of a file, as floats.
    fn floats(&self, file: &mut (impl Read + ?Sized), n: usize, to: &mut Vec<f32>) -> Result<()> {
        let mut bytes = vec![0; n * self.kind.size];
        file.read_exact(&mut bytes)?;
        self.kind.floats(&mut bytes, to);
        Ok(())
    }

    /// The first `n` bytes of its values.
    fn bytes(&self, n: usize) -> Result<Vec<u8>> {
        self.with_reader(storage::open(&self.file)?, |file| {
            let mut bytes = Vec::new();
            file.take(n as u64).read_to_end(&mut bytes)?;
            ensure!(bytes.len() == n, "it is cut short");
            Ok(bytes)
        })
    }

    /// What `use_it` makes of its values, from the first on.
    fn with_reader<T>(&self, mut file: File, use_it: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        match &self.entry {
            None => {
                file.seek(SeekFrom::Start(self.offset))?;
                use_it(&mut BufReader::new(file))
            }
            Some(entry) => {
                let mut archive = ZipArchive::new(BufReader::new(file))?;
                let mut entry = archive.by_name(entry)?;
                io::copy(&mut entry.by_ref().take(self.offset), &mut io::sink())?;
                use_it(&mut entry)
            }
        }
        .with_context(|| format!("{} cannot be read", self.file.display()))
    }
}

trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

impl fmt::Display for Array {
    /// Shape and kind, such as `(500, 512) float16`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let sides: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        write!(f, "({}) {}", sides.join(", "), self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::foreign::kind::Of;

    #[test]
    fn an_array_of_several_blocks_comes_row_by_row_in_either_order() {
        let dir = tempfile::tempdir().unwrap();
        let (rows, dim) = (2 * BLOCK / (4 * 64) + 3, 64);
        for fortran in [false, true] {
            let place = |i: usize| if fortran { (i % rows, i / rows) } else { (i / dim, i % dim) };
            let value = |(row, column): (usize, usize)| (row * dim + column) as f32;
            let file = dir.path().join(fortran.to_string());
            let header = [9; 5];
            let values = (0..rows * dim).flat_map(|i| value(place(i)).to_le_bytes());
            std::fs::write(&file, header.into_iter().chain(values).collect::<Vec<u8>>()).unwrap();
            let kind = Kind { of: Of::Float, size: 4, big_endian: false };
            let shape = vec![rows, dim];
            let array = Array { place: "a".into(), file, entry: None, offset: 5, kind, fortran, shape };
            let (mut next, mut blocks) = (0, 0);
            array
                .read(rows, dim, |block| {
                    blocks += 1;
                    for &found in block {
                        assert_eq!(found, next as f32);
                        next += 1;
                    }
                    Ok(())
                })
                .unwrap();
            assert_eq!((next, blocks), (rows * dim, 3));
        }
    }
}
