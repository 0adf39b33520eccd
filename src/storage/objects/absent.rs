//! What stands for object stores in a build without them.

use std::{
    convert::Infallible,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{Metadata, address::Address};

/// None can be open.
#[derive(Clone, Debug)]
pub struct Reader(Infallible);

impl Reader {
    pub fn size(&self) -> u64 {
        match self.0 {}
    }

    pub fn range(&mut self, _: u64, _: usize) -> io::Result<bytes::Bytes> {
        match self.0 {}
    }
}

impl Read for Reader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl Seek for Reader {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        match self.0 {}
    }
}

fn absent<T>(address: &Address) -> io::Result<T> {
    let why = format!("{address}: this build has no object stores (the feature `object-stores`)");
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

pub fn file(address: &Address) -> io::Result<Metadata> {
    absent(address)
}

pub fn is_dir(address: &Address) -> io::Result<bool> {
    absent(address)
}

pub fn open(address: &Address) -> io::Result<Reader> {
    absent(address)
}

pub fn read(address: &Address) -> io::Result<Vec<u8>> {
    absent(address)
}

pub fn read_start(address: &Address, _: usize) -> io::Result<Vec<u8>> {
    absent(address)
}

pub fn read_each(paths: Vec<PathBuf>) -> io::Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>>>> {
    Ok(Box::new(paths.into_iter().map(|path| super::read(&path))))
}

pub fn read_dir(address: &Address) -> io::Result<Vec<(String, Metadata)>> {
    absent(address)
}

pub fn below(address: &Address) -> io::Result<Vec<(PathBuf, u64)>> {
    absent(address)
}

pub fn remove(address: &Address) -> io::Result<()> {
    absent(address)
}

pub fn rewrite(address: &Address) -> io::Result<()> {
    absent(address)
}

pub fn upload(_: &Path, address: &Address, _: bool) -> io::Result<bool> {
    absent(address)
}
