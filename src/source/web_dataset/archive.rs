//! The bytes of an archive, of a compressed one those inside.

use std::{
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use crate::storage::{self, File};

/// An archive, or what is inside a compressed one, which is read again from its beginning where it has
/// to go back.
pub enum Archive {
    Plain(BufReader<File>),
    Compressed { file: PathBuf, inside: Box<MultiGzDecoder<BufReader<File>>>, at: u64 },
}

impl Archive {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut first = Vec::new();
        storage::open(path)?.take(2).read_to_end(&mut first)?;
        let file = BufReader::new(storage::open(path)?);
        Ok(match first[..] {
            [0x1f, 0x8b] => {
                Archive::Compressed { file: path.to_owned(), inside: Box::new(MultiGzDecoder::new(file)), at: 0 }
            }
            _ => Archive::Plain(file),
        })
    }

    /// Bytes of the archive; of a compressed one not known, whose reading says where it is cut.
    pub fn length(&self) -> io::Result<u64> {
        match self {
            Archive::Plain(file) => Ok(file.get_ref().size()?),
            Archive::Compressed { .. } => Ok(u64::MAX),
        }
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Archive::Plain(file) => file.read(buffer),
            Archive::Compressed { inside, at, .. } => {
                let n = inside.read(buffer)?;
                *at += n as u64;
                Ok(n)
            }
        }
    }
}

impl Seek for Archive {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if let Archive::Plain(file) = self {
            return file.seek(to);
        }
        let Archive::Compressed { file, inside, at } = self else { return Ok(0) };
        let to = match to {
            SeekFrom::Start(to) => to,
            SeekFrom::Current(by) => at.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?,
            SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        if to < *at {
            **inside = MultiGzDecoder::new(BufReader::new(storage::open(file)?));
            *at = 0;
        }
        let skip = to - *at;
        *at += io::copy(&mut inside.take(skip), &mut io::sink())?;
        Ok(*at)
    }
}
