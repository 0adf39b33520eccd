//! A file that is open to read, wherever it lies.

use std::{
    fs,
    io::{self, BufReader, Read, Seek, SeekFrom},
};

use parquet::{
    errors::Result,
    file::reader::{ChunkReader, Length},
};

use super::objects::Reader;

/// A file that is open to read.
#[derive(Debug)]
pub enum File {
    /// Of the file system.
    Local(fs::File),
    /// Of an object store.
    Object(Reader),
}

impl File {
    /// Its size in bytes.
    pub fn size(&self) -> io::Result<u64> {
        match self {
            File::Local(file) => Ok(file.metadata()?.len()),
            File::Object(object) => Ok(object.size()),
        }
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            File::Local(file) => file.read(buffer),
            File::Object(object) => object.read(buffer),
        }
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            File::Local(file) => file.seek(to),
            File::Object(object) => object.seek(to),
        }
    }
}

impl Length for File {
    fn len(&self) -> u64 {
        match self {
            File::Local(file) => file.len(),
            File::Object(object) => object.size(),
        }
    }
}

impl ChunkReader for File {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let mut file = match self {
            File::Local(file) => File::Local(file.try_clone()?),
            File::Object(object) => File::Object(object.clone()),
        };
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(file))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        match self {
            File::Local(file) => file.get_bytes(start, length),
            File::Object(object) => Ok(object.clone().range(start, length)?),
        }
    }
}
