//! An object that is open to read: in blocks, of which those that follow are fetched ahead, and the
//! last ones of all objects are kept.

use std::{
    collections::VecDeque,
    io::{self, Read, Seek, SeekFrom},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use object_store::{GetRange, ObjectMeta, ObjectStore};
use tokio::sync::OnceCell;

use super::{
    client::{Object, failure, lose_slow, runtime},
    unchanged,
};

/// Bytes that are fetched by a request.
const BLOCK: u64 = 4 << 20;

/// Blocks that are kept, 128 MB of all objects together.
const KEPT: usize = 32;

/// Blocks that are fetched ahead of who reads one after another.
const AHEAD: u64 = 3;

/// A block: an object, as it was when it was opened, and the number of the block in it.
type Key = (Arc<Object>, Option<String>, u64);

/// A block's bytes, once they are there; who comes meanwhile waits for the same request.
type Block = Arc<OnceCell<Bytes>>;

/// Blocks that were asked for, the last ones last.
static BLOCKS: Mutex<VecDeque<(Key, Block)>> = Mutex::new(VecDeque::new());

/// An object that is open to read.
#[derive(Clone, Debug)]
pub struct Reader {
    object: Arc<Object>,
    found: Arc<ObjectMeta>,
    at: u64,
    /// Number of the block that was read last.
    last: Option<u64>,
}

impl Reader {
    pub(super) fn new(object: Object, found: ObjectMeta) -> Self {
        Reader { object: Arc::new(object), found: Arc::new(found), at: 0, last: None }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.found.size
    }

    /// `length` bytes from `start` on.
    pub fn range(&mut self, start: u64, length: usize) -> io::Result<Bytes> {
        let end = start.checked_add(length as u64).filter(|&end| end <= self.size());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.at = start;
        let first = self.rest_of_block()?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut all = BytesMut::with_capacity(length);
        all.extend_from_slice(&first);
        while self.at + (all.len() as u64 - (self.at - start)) < end {
            self.at = start + all.len() as u64;
            let block = self.rest_of_block()?;
            all.extend_from_slice(&block[..block.len().min(length - all.len())]);
        }
        Ok(all.freeze())
    }

    /// What lies from here on in a block; nothing at the object's end.
    fn rest_of_block(&mut self) -> io::Result<Bytes> {
        if self.at >= self.size() {
            return Ok(Bytes::new());
        }
        let number = self.at / BLOCK;
        if self.last.is_some_and(|last| last + 1 == number) {
            self.fetch_ahead(number + 1);
        }
        self.last = Some(number);
        let bytes = runtime()?.block_on(fetch(self.object.clone(), self.found.clone(), number))?;
        Ok(bytes.slice((self.at % BLOCK) as usize..))
    }

    fn fetch_ahead(&self, from: u64) {
        let blocks = self.size().div_ceil(BLOCK);
        for number in from..(from + AHEAD).min(blocks) {
            let (object, found) = (self.object.clone(), self.found.clone());
            if let Ok(runtime) = runtime() {
                runtime.spawn(fetch(object, found, number)); // who reads it meets what went wrong
            }
        }
    }
}

async fn fetch(object: Arc<Object>, found: Arc<ObjectMeta>, number: u64) -> io::Result<Bytes> {
    let block = block(&object, &found, number);
    let (start, end) = (number * BLOCK, ((number + 1) * BLOCK).min(found.size));
    let get = async {
        let options = unchanged(&found).with_range(Some(GetRange::Bounded(start..end)));
        object.reading.get_opts(&object.path, options).await?.bytes().await
    };
    match block.get_or_try_init(|| get).await {
        Ok(bytes) if bytes.len() as u64 == end - start => Ok(bytes.clone()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(failure(&object.address, error)).inspect_err(lose_slow),
    }
}

/// The place of a block, which becomes the last one.
fn block(object: &Arc<Object>, found: &ObjectMeta, number: u64) -> Block {
    let key: Key = (object.clone(), found.e_tag.clone(), number);
    let mut blocks = blocks();
    let is_it = |((of, tag, n), _): &(Key, Block)| *n == number && of.address == object.address && *tag == key.1;
    let there = blocks.iter().position(is_it).and_then(|place| blocks.remove(place));
    let block = there.map_or_else(Block::default, |(_, block)| block);
    blocks.push_back((key, block.clone()));
    if blocks.len() > KEPT {
        blocks.pop_front();
    }
    block
}

fn blocks() -> MutexGuard<'static, VecDeque<(Key, Block)>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.rest_of_block()?;
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size().checked_add_signed(by),
        };
        self.at = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
