//! Objects, by requests to their store. Reading is by ranges, with some of them fetched ahead; writing
//! is by whole objects, which nobody sees before they are whole.

mod client;
mod profile;
mod reader;

use std::{
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart,
};
use tokio::sync::mpsc;

use self::client::{attempt, failure, lose_slow, object, runtime, wait};
pub use self::client::{lose, reached};
pub use self::reader::Reader;
use super::{Kind, Metadata, address::Address};

/// Objects that are read at a time where many are wanted,
const AT_ONCE: usize = 32;
/// and how many of them may wait for who reads them.
const WAITING: usize = 8;

/// From so many bytes on an object is uploaded in parts, of which one at a time is in memory, or with
/// more time for the request.
const LARGE: u64 = 32 << 20;

/// How often it is tried to put an object where none is: the store cannot know that such a request may
/// be sent again, as two of them do what one does.
const TRIES: u32 = 6;

/// An object.
pub fn file(address: &Address) -> io::Result<Metadata> {
    wait(address, |object| async move { object.reading.head(&object.path).await }).map(of_object)
}

fn of_object(found: ObjectMeta) -> Metadata {
    Metadata { kind: Kind::File, bytes: found.size, modified: Some(SystemTime::from(found.last_modified)) }
}

/// Whether an object lies below.
pub fn is_dir(address: &Address) -> io::Result<bool> {
    wait(address, |object| async move { Ok(object.reading.list(object.prefix()).next().await.transpose()?.is_some()) })
}

/// Opens an object to read.
pub fn open(address: &Address) -> io::Result<Reader> {
    let found = wait(address, |object| async move { object.reading.head(&object.path).await })?;
    Ok(Reader::new(object(address)?, found))
}

/// All bytes of an object.
pub fn read(address: &Address) -> io::Result<Vec<u8>> {
    wait(address, |object| async move { object.reading.get(&object.path).await?.bytes().await }).map(Into::into)
}

/// All bytes of each of some files, fetched ahead.
pub fn read_each(paths: Vec<PathBuf>) -> Box<dyn Iterator<Item = io::Result<Vec<u8>>>> {
    let one = |path: PathBuf| async move {
        let Some(address) = Address::of(&path) else { return tokio::fs::read(&path).await };
        let object = object(&address)?;
        let read = async { object.reading.get(&object.path).await?.bytes().await };
        read.await.map(Into::into).map_err(|error| failure(&address, error)).inspect_err(lose_slow)
    };
    let (send, mut receive) = mpsc::channel(WAITING);
    let Ok(runtime) = runtime() else { return Box::new(std::iter::empty()) };
    runtime.spawn(async move {
        let mut read = stream::iter(paths).map(one).buffered(AT_ONCE);
        while let Some(bytes) = read.next().await {
            if send.send(bytes).await.is_err() {
                return; // nobody wants more
            }
        }
    });
    Box::new(std::iter::from_fn(move || receive.blocking_recv()))
}

/// Names directly below, and whether each is a directory.
pub fn read_dir(address: &Address) -> io::Result<Vec<(String, bool)>> {
    let found = wait(address, |object| async move { object.reading.list_with_delimiter(object.prefix()).await })?;
    let name = |path: &object_store::path::Path| path.filename().unwrap_or_default().to_owned();
    let directories = found.common_prefixes.iter().map(|path| (name(path), true));
    Ok(directories.chain(found.objects.iter().map(|object| (name(&object.location), false))).collect())
}

/// All objects below, as paths relative to the directory, with their sizes in bytes.
pub fn below(address: &Address) -> io::Result<Vec<(PathBuf, u64)>> {
    let found: Vec<ObjectMeta> =
        wait(address, |object| async move { object.reading.list(object.prefix()).try_collect().await })?;
    let depth = address.key.split('/').filter(|part| !part.is_empty()).count();
    let relative = |path: &object_store::path::Path| {
        path.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect::<PathBuf>()
    };
    Ok(found.iter().map(|object| (relative(&object.location), object.size)).collect())
}

/// Removes an object, where it is there.
pub fn remove(address: &Address) -> io::Result<()> {
    let removed = wait(address, |object| async move { object.reading.delete(&object.path).await });
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Writes an object again as it is, so that it is younger.
pub fn rewrite(address: &Address) -> io::Result<()> {
    wait(address, |object| async move {
        let bytes = object.reading.get(&object.path).await?.bytes().await?;
        object.reading.put(&object.path, bytes.into()).await.map(|_| ())
    })
}

/// Puts a file in place; `first` only where nothing is there yet. Says whether it did.
pub fn upload(from: &Path, to: &Address, first: bool) -> io::Result<bool> {
    let large = std::fs::metadata(from)?.len() >= LARGE;
    let put = match (first, large) {
        (false, true) => upload_in_parts(from, to).map(|()| true),
        (false, false) => {
            let bytes = std::fs::read(from)?;
            wait(to, |object| async move { object.reading.put(&object.path, bytes.into()).await }).map(|_| true)
        }
        (true, _) => put_first(&PutPayload::from(std::fs::read(from)?), to, large),
    };
    put.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), format!("there is no bucket {:?}", to.bucket)),
        _ => error,
    })
}

fn upload_in_parts(from: &Path, to: &Address) -> io::Result<()> {
    let file = std::fs::File::open(from)?;
    wait(to, |object| async move {
        let upload = object.writing.put_multipart(&object.path).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, LARGE as usize / 2);
        let mut rest = io::BufReader::with_capacity(1 << 20, file);
        loop {
            let filled = io::BufRead::fill_buf(&mut rest).map(<[u8]>::to_vec);
            match filled {
                Ok(bytes) if bytes.is_empty() => return parts.finish().await.map(|_| ()),
                Ok(bytes) => {
                    parts.wait_for_capacity(1).await?;
                    parts.write(&bytes);
                    io::BufRead::consume(&mut rest, bytes.len());
                }
                Err(error) => {
                    parts.abort().await?;
                    return Err(Error::Generic { store: "local file", source: error.into() });
                }
            }
        }
    })
}

fn put_first(bytes: &PutPayload, to: &Address, large: bool) -> io::Result<bool> {
    let mut tries = 0..TRIES;
    loop {
        let put = attempt(to, |object| {
            let bytes = bytes.clone();
            async move {
                let store = if large { &object.writing } else { &object.reading };
                store.put_opts(&object.path, bytes, PutOptions::from(PutMode::Create)).await
            }
        });
        match put {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error),
            Err(error) => match tries.next() {
                Some(tried) => thread::sleep(Duration::from_millis(200 << tried)),
                None => {
                    lose_slow(&error);
                    return Err(error);
                }
            },
        }
    }
}

/// Options of a request that takes an object only as it was when it was opened.
fn unchanged(found: &ObjectMeta) -> GetOptions {
    GetOptions { if_match: found.e_tag.clone(), ..GetOptions::default() }
}
