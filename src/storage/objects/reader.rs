//! An object that is open to read: in blocks, of which those that follow are fetched ahead, and the
//! last ones of all objects are kept.

use std::{
    collections::VecDeque,
    io::{self, Read, Seek, SeekFrom},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use tokio::sync::OnceCell;

use super::{
    super::{
        address::Address,
        lost::{Answer, reached},
    },
    client::Object,
    request::{failed, runtime},
};

/// Bytes that are fetched by a request.
pub const BLOCK: u64 = 4 << 20;

/// Blocks that are kept, 128 MB of all objects together.
const KEPT: usize = 32;

/// Blocks that are fetched ahead of who reads one after another.
const AHEAD: u64 = 3;

/// A block: an object as it was when it was opened, and the number of the block in it.
type Key = (Address, Arc<ObjectMeta>, u64);

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
    /// Number of the block after the one that was read last, by this or another reader of the object
    /// that was cloned from it.
    next: Arc<AtomicU64>,
}

impl Reader {
    pub(super) fn new(object: Object, found: ObjectMeta) -> Self {
        Reader { object: Arc::new(object), found: Arc::new(found), at: 0, next: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.found.size
    }

    /// `length` bytes from `start` on.
    pub fn range(&mut self, start: u64, length: usize) -> io::Result<Bytes> {
        let fits = start.checked_add(length as u64).is_some_and(|end| end <= self.size());
        if !fits {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at = start;
        let first = self.rest_of_block()?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut all = BytesMut::with_capacity(length);
        all.extend_from_slice(&first);
        while all.len() < length {
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
        if self.next.swap(number + 1, Ordering::Relaxed) == number {
            self.fetch_ahead(number + 1)?;
        }
        let bytes = runtime()?.block_on(fetch(self.object.clone(), self.found.clone(), number))?;
        Ok(bytes.slice((self.at % BLOCK) as usize..))
    }

    fn fetch_ahead(&self, from: u64) -> io::Result<()> {
        let blocks = self.size().div_ceil(BLOCK);
        for number in from..(from + AHEAD).min(blocks) {
            // who reads it meets what went wrong
            runtime()?.spawn(fetch(self.object.clone(), self.found.clone(), number));
        }
        Ok(())
    }
}

async fn fetch(object: Arc<Object>, found: Arc<ObjectMeta>, number: u64) -> io::Result<Bytes> {
    reached()?;
    let (start, end) = (number * BLOCK, ((number + 1) * BLOCK).min(found.size));
    let get = async {
        // as it was when it was opened, or not at all
        let range = Some(GetRange::Bounded(start..end));
        let options = GetOptions { if_match: found.e_tag.clone(), range, ..GetOptions::default() };
        object.reading.get_opts(&object.path, options).await?.bytes().await
    };
    match block(&object, &found, number).get_or_try_init(|| get).await {
        Ok(bytes) if bytes.len() as u64 == end - start => Ok(bytes.clone()),
        Ok(_) => {
            let short = format!("{}: the store sends less than it has", object.address);
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, Answer(short)))
        }
        Err(error) => Err(failed(&object.address, &error)),
    }
}

/// The place of a block, which becomes the last one.
fn block(object: &Object, found: &Arc<ObjectMeta>, number: u64) -> Block {
    let key: Key = (object.address.clone(), found.clone(), number);
    let mut blocks = blocks();
    let there = blocks.iter().position(|(known, _)| *known == key).and_then(|place| blocks.remove(place));
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
