//! Images to embeddings, as a pipeline: one thread reads, all cores decode, encoders encode, and
//! the calling thread puts the shards together. Queues between them are bounded, so that memory
//! does not grow with the number of images.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    clip::{ImageEncoder, Normalisation, Preprocess, image::Workspace},
    embeddings::{Quarantined, Shard, ShardRows, content_line},
    hash::hash_bytes,
    profile::{Phase, time},
    source::{Record, Source},
    stop,
};

/// Consecutive rows of one shard, on their way. Batches never cross a shard: what a row becomes
/// does not depend on which shards are missing, but where a device's memory runs out.
struct Batch<T> {
    shard: usize,
    number: usize,
    /// Place of its first row in the split.
    first: usize,
    content: T,
}

/// What came of a batch's images.
#[derive(Default)]
struct Decoded {
    rows: ShardRows, // without embeddings
    pixels: Vec<u8>, // (B, S, S, 3)
}

/// Embeds the rows of `shards`; hands every finished one to `put`, with its place in `shards`, and of
/// one whose source cannot be read, why. An image that cannot be read or decoded goes to the shard's
/// quarantine. Every encoder works on a thread of its own. `tick` is called with numbers of images
/// done. Where the process is asked to stop, it ends with the shards in hand.
pub fn embed(
    source: &Source,
    shards: &[Shard],
    preprocess: &Preprocess,
    encoders: &[&ImageEncoder],
    tick: impl Fn(usize),
    mut put: impl FnMut(usize, Result<ShardRows>) -> Result<()>,
) -> Result<()> {
    let Some(encoder) = encoders.first() else { bail!("no encoder") };
    let size = encoder.batch();
    let normalisation = &preprocess.normalisation();
    let decoders = rayon::current_num_threads();
    let (to_decode, encoded) = (bounded(decoders), bounded(2 * encoders.len()));
    let to_encode = bounded(encoders.len());
    std::thread::scope(|scope| {
        // A thread ends when there is nothing more to receive, or nobody to send to.
        let (sender, failed) = (to_decode.0, encoded.0.clone());
        scope.spawn(move || read(source, shards, size, &sender, &failed));
        for _ in 0..decoders {
            let (receiver, sender) = (to_decode.1.clone(), to_encode.0.clone());
            scope.spawn(move || {
                for Batch { shard, number, first, content } in receiver {
                    let content = decode(content, first, preprocess);
                    if sender.send(Batch { shard, number, first, content }).is_err() {
                        return;
                    }
                }
            });
        }
        for &encoder in encoders {
            let (receiver, sender) = (to_encode.1.clone(), encoded.0.clone());
            scope.spawn(move || encode(encoder, normalisation, &receiver, &sender));
        }
        drop((to_decode.1, to_encode, encoded.0));
        assemble(shards, size, encoded.1, tick, &mut put)
    })
}

/// What comes of a batch; the inner error is of its shard's source, the outer ends the work.
type Done = Result<Batch<Result<ShardRows>>>;

/// Reads the rows of the shards, one batch after another.
fn read(source: &Source, shards: &[Shard], size: usize, sender: &Sender<Batch<Vec<Record>>>, failed: &Sender<Done>) {
    for (shard, Shard { split, rows, .. }) in shards.iter().enumerate() {
        if stop::is_asked() {
            return;
        }
        let mut number = 0;
        let read = source.read(split, rows.clone()).and_then(|mut records| {
            while number < rows.len().div_ceil(size) {
                let content = time(Phase::Read, || records.by_ref().take(size).collect::<Result<_>>())?;
                if sender.send(Batch { shard, number, first: rows.start + number * size, content }).is_err() {
                    return Ok(false);
                }
                number += 1;
            }
            Ok(true)
        });
        let goes_on = match read {
            Ok(goes_on) => goes_on,
            Err(error) => failed.send(Ok(Batch { shard, number, first: 0, content: Err(error) })).is_ok(),
        };
        if !goes_on {
            return;
        }
    }
}

/// Decodes records, the first of which is the row `first` of its split.
fn decode(records: Vec<Record>, first: usize, preprocess: &Preprocess) -> Decoded {
    let mut decoded = Decoded::default();
    for (row, Record { sample_id, label, image }) in (first..).zip(records) {
        let sha256 = image.as_ref().ok().map(|image| hash_bytes(image));
        decoded.rows.contents.push(content_line(&sample_id, label, sha256.as_deref()));
        let done = image
            .map_err(|error| ("read", error))
            .and_then(|image| preprocess.pixels(&image).map_err(|error| ("decode", format!("{error:#}"))));
        match done {
            Ok(pixels) => {
                decoded.pixels.extend(pixels);
                decoded.rows.sample_ids.push(sample_id);
                decoded.rows.labels.push(label);
            }
            Err((stage, error)) => {
                decoded.rows.quarantine.push(Quarantined { row, sample_id, label, stage, error, sha256 });
            }
        }
    }
    decoded
}

fn encode(
    encoder: &ImageEncoder,
    normalisation: &Normalisation,
    receiver: &Receiver<Batch<Decoded>>,
    sender: &Sender<Done>,
) {
    let mut workspace = Workspace::default();
    for Batch { shard, number, first, content: Decoded { mut rows, pixels } } in receiver {
        let embeddings = match pixels.is_empty() {
            true => Ok(Vec::new()),
            false => time(Phase::Encode, || encoder.encode(&pixels, normalisation, &mut workspace)),
        };
        let done = embeddings.and_then(|embeddings| {
            if let Some(i) = embeddings.iter().position(|x| !x.is_finite()) {
                let id = &rows.sample_ids[i / encoder.dim()];
                bail!("the embedding of {id} is not finite: are the weights of the checkpoint whole?");
            }
            rows.embeddings = embeddings;
            Ok(Batch { shard, number, first, content: Ok(rows) })
        });
        if sender.send(done).is_err() {
            return;
        }
    }
}

/// Puts batches into their shards, and hands over those that are whole.
fn assemble(
    shards: &[Shard],
    size: usize,
    receiver: Receiver<Done>,
    tick: impl Fn(usize),
    put: &mut impl FnMut(usize, Result<ShardRows>) -> Result<()>,
) -> Result<()> {
    let mut open: BTreeMap<usize, BTreeMap<usize, ShardRows>> = BTreeMap::new();
    for done in receiver {
        let Batch { shard, number, content, .. } = done?;
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                open.remove(&shard);
                put(shard, Err(error))?;
                continue;
            }
        };
        tick(content.sample_ids.len() + content.quarantine.len());
        let batches = open.entry(shard).or_default();
        batches.insert(number, content);
        if batches.len() == shards[shard].rows.len().div_ceil(size) {
            let mut whole = ShardRows::default();
            for batch in open.remove(&shard).unwrap_or_default().into_values() {
                whole.append(batch);
            }
            time(Phase::Write, || put(shard, Ok(whole)))?;
        }
    }
    Ok(())
}
