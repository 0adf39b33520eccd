//! Objects, by requests to their store. Reading is by ranges, with some of them fetched ahead; writing
//! is by whole objects, which nobody sees before they are whole.

mod client;
mod profile;
mod reader;
mod request;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion, WriteMultipart,
};
use tokio::sync::mpsc;

pub use self::reader::Reader;
use self::{
    client::object,
    reader::BLOCK,
    request::{attempt, failed, persist, runtime, wait},
};
use super::{Kind, Metadata, address::Address, lost::reached};

/// Objects that are read at a time where many are wanted,
const AT_ONCE: usize = 32;
/// and how many of them may wait for who reads them.
const WAITING: usize = 8;

/// From so many bytes on an upload has more time,
const LARGE: u64 = 4 << 20;
/// and from so many on it is in parts of half of that, unless it has to be the first.
const HUGE: u64 = 32 << 20;

/// An object.
pub fn file(address: &Address) -> io::Result<Metadata> {
    head(address).map(|found| of_object(&found))
}

fn head(address: &Address) -> io::Result<ObjectMeta> {
    if address.key.is_empty() {
        return Err(io::ErrorKind::NotFound.into()); // all of a bucket
    }
    wait(address, |object| async move { object.reading.head(&object.path).await })
}

fn of_object(found: &ObjectMeta) -> Metadata {
    // to the second, as a request for one object has it and a listing may not
    let modified =
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(found.last_modified.timestamp().max(0) as u64);
    Metadata { kind: Kind::File, bytes: found.size, modified: Some(modified) }
}

/// Whether an object lies below.
pub fn is_dir(address: &Address) -> io::Result<bool> {
    wait(address, |object| async move { Ok(object.reading.list(object.prefix()).next().await.transpose()?.is_some()) })
}

/// Opens an object to read.
pub fn open(address: &Address) -> io::Result<Reader> {
    Ok(Reader::new(object(address)?, head(address)?))
}

/// All bytes of an object.
pub fn read(address: &Address) -> io::Result<Vec<u8>> {
    let (found, bytes) = wait(address, |object| async move {
        let got = object.reading.get(&object.path).await?;
        let found = got.meta.clone();
        Ok((found, if got.meta.size <= BLOCK { Some(got.bytes().await?) } else { None }))
    })?;
    match bytes {
        Some(bytes) => Ok(bytes.into()),
        None => {
            let mut all = Vec::with_capacity(found.size as usize);
            Reader::new(object(address)?, found).read_to_end(&mut all)?;
            Ok(all)
        }
    }
}

/// The first bytes of an object, `most` of them.
pub fn read_start(address: &Address, most: usize) -> io::Result<Vec<u8>> {
    let range = Some(GetRange::Bounded(0..most as u64));
    let read = wait(address, |object| {
        let options = GetOptions { range: range.clone(), ..GetOptions::default() };
        async move { object.reading.get_opts(&object.path, options).await?.bytes().await }
    });
    read.map(Into::into)
}

/// All bytes of each of some objects, fetched ahead.
pub fn read_each(paths: Vec<PathBuf>) -> io::Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>>>> {
    let one = |path: PathBuf| async move {
        let address = Address::of(&path).ok_or(io::ErrorKind::InvalidInput)?;
        reached()?;
        let object = object(&address)?;
        let read = async { object.reading.get(&object.path).await?.bytes().await };
        read.await.map(Into::into).map_err(|error| failed(&address, &error))
    };
    let (send, mut receive) = mpsc::channel(WAITING);
    let mut left = paths.len();
    runtime()?.spawn(async move {
        let mut read = stream::iter(paths).map(one).buffered(AT_ONCE);
        while let Some(bytes) = read.next().await {
            if send.send(bytes).await.is_err() {
                return; // nobody wants more
            }
        }
    });
    Ok(Box::new(std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        Some(receive.blocking_recv().unwrap_or_else(|| Err(io::Error::other("reading ahead has ended"))))
    })))
}

/// Names directly below, and what each is.
pub fn read_dir(address: &Address) -> io::Result<Vec<(String, Metadata)>> {
    let (own, found) = wait(address, |object| async move {
        let found = object.reading.list_with_delimiter(object.prefix()).await?;
        Ok((object.path, found))
    })?;
    let name = |path: &object_store::path::Path| path.filename().unwrap_or_default().to_owned();
    let directory = Metadata { kind: Kind::Directory, bytes: 0, modified: None };
    let directories: BTreeSet<String> = found.common_prefixes.iter().map(name).collect();
    // people's tools mark directories by objects without bytes
    let is_file = |found: &&ObjectMeta| found.location != own && !directories.contains(&name(&found.location));
    let objects = found.objects.iter().filter(is_file).map(|object| (name(&object.location), of_object(object)));
    Ok(directories.iter().map(|name| (name.clone(), directory.clone())).chain(objects).collect())
}

/// All objects below, as paths relative to the directory, with their sizes in bytes.
pub fn below(address: &Address) -> io::Result<Vec<(PathBuf, u64)>> {
    let found: Vec<ObjectMeta> =
        wait(address, |object| async move { object.reading.list(object.prefix()).try_collect().await })?;
    let depth = address.key.split('/').filter(|part| !part.is_empty()).count();
    let relative = |path: &object_store::path::Path| {
        path.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect::<PathBuf>()
    };
    let found: Vec<(PathBuf, u64)> = found.iter().map(|object| (relative(&object.location), object.size)).collect();
    // markers of directories, as in `read_dir`
    let above: BTreeSet<PathBuf> =
        found.iter().flat_map(|(path, _)| path.ancestors().skip(1)).map(Path::to_owned).collect();
    Ok(found
        .into_iter()
        .filter(|(path, size)| !path.as_os_str().is_empty() && (*size > 0 || !above.contains(path)))
        .collect())
}

/// Removes an object, where it is there.
pub fn remove(address: &Address) -> io::Result<()> {
    let removed = wait(address, |object| async move { object.reading.delete(&object.path).await });
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Writes a small object again as it is, unless it is another by then, so that it is younger.
pub fn rewrite(address: &Address) -> io::Result<()> {
    wait(address, |object| async move {
        let got = object.reading.get(&object.path).await?;
        let was = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
        let options = PutOptions::from(PutMode::Update(was));
        match object.reading.put_opts(&object.path, got.bytes().await?.into(), options).await {
            Err(Error::Precondition { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    })
}

/// Puts a file in place; `first` only where nothing is there yet. Says whether it did.
pub fn upload(from: &Path, to: &Address, first: bool) -> io::Result<bool> {
    let size = fs::metadata(from)?.len();
    if !first && size >= HUGE {
        reached()?;
        return persist(|| upload_in_parts(from, to)).map(|()| true);
    }
    let bytes = PutPayload::from(fs::read(from)?);
    let mode = if first { PutMode::Create } else { PutMode::Overwrite };
    reached()?;
    persist(|| {
        let put = attempt(to, |object| {
            let (bytes, options) = (bytes.clone(), PutOptions::from(mode.clone()));
            async move {
                let store = if size >= LARGE { &object.writing } else { &object.reading };
                store.put_opts(&object.path, bytes, options).await
            }
        });
        match put {
            // a store says so too where two come at once, and neither may be there
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match file(to) {
                Ok(_) => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(io::ErrorKind::TimedOut.into()),
                Err(error) => Err(error),
            },
            put => put.map(|_| true),
        }
    })
}

fn upload_in_parts(from: &Path, to: &Address) -> io::Result<()> {
    let file = fs::File::open(from)?;
    attempt(to, |object| async move {
        let upload = object.writing.put_multipart(&object.path).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, HUGE as usize / 2);
        match fill(&mut parts, BufReader::with_capacity(1 << 20, file)).await {
            Ok(()) => parts.finish().await.map(|_| ()),
            Err(error) => {
                parts.abort().await.ok();
                Err(error)
            }
        }
    })
}

async fn fill(parts: &mut WriteMultipart, mut file: BufReader<fs::File>) -> object_store::Result<()> {
    let local = |error: io::Error| Error::Generic { store: "file", source: error.into() };
    loop {
        let length = file.fill_buf().map_err(local)?.len();
        if length == 0 {
            return parts.wait_for_capacity(1).await; // so that what went wrong is met here
        }
        parts.wait_for_capacity(1).await?;
        parts.write(file.buffer());
        file.consume(length);
    }
}
