//! What archives hold, listed once: a file of the run for each, which later processes, and those of
//! other partitions, read in the place of the archive.
//!
//! A listing says in its footer what it is of: the archive by its path, size and time, and how it was
//! looked through. One that is of something else, or cannot be read, is as good as none. Of an archive
//! that is damaged, or may be written to still, none is kept.

use std::{
    io::ErrorKind,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use arrow::{
    array::{Array, AsArray, BooleanArray, LargeStringArray, RecordBatch, UInt64Array},
    datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type},
};
use flate2::Crc;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{
    super::{
        damage::may_not_be_opened,
        kept::Keep,
        labels::Label,
        names::id_of,
        options::{Listings, SourceOptions},
        split::Part,
    },
    samples::{Contents, Damage, Picture, look_through},
};
use crate::{
    artefact::slug,
    atomic::{Lock, Staged},
    hash::{canonical, hash_bytes},
    partition::Partition,
    storage::{self, Metadata},
    table::file,
};

/// Raised where archives are looked through otherwise, or listings written otherwise.
const VERSION: u32 = 1;

/// Footer keys: what a listing is of, what the archive has that is no row, and a checksum of this and
/// the rows.
const OF: &str = "cgil.listing";
const LEFT_OUT: &str = "cgil.left_out";
const SUM: &str = "cgil.sum";

/// What lies between two times that every file system, and every store, tells apart.
const TICK: Duration = Duration::from_secs(2);

/// Rows that are written and read at a time.
const BATCH_ROWS: usize = 8192;

/// An archive, and what it holds.
pub struct Listed {
    /// Its size.
    pub bytes: u64,
    pub contents: Contents,
    /// Where looking through it ended too soon.
    pub damage: Option<Damage>,
}

/// What each of some archives, paths below `root`, holds, in their order. An error where one is
/// damaged, unless that is to be skipped.
pub fn of_all(root: &Path, files: &[(PathBuf, Part)], options: &SourceOptions) -> Result<Vec<Listed>> {
    let mut lister = Lister { options, lock: None, may_keep: true };
    // side by side, since a store takes its time
    let mut listed: Vec<Option<Listed>> = files.par_iter().map(|(file, _)| lister.find(root, file)).collect();
    let partition = options.listings.as_ref().map_or(Partition::WHOLE, |listings| listings.partition);
    for k in order(files.len(), partition) {
        if listed[k].is_none() {
            let file = &files[k].0;
            listed[k] = Some(lister.find(root, file).map_or_else(|| lister.list(root, file), Ok)?);
        }
    }
    Ok(listed.into_iter().flatten().collect())
}

/// The archives by their numbers: first a partition's own, then those of the others, which have listed
/// them by then; each partition begins elsewhere among these, for where one of the others is missing.
fn order(n: usize, partition: Partition) -> impl Iterator<Item = usize> {
    let start = n * partition.index() / partition.of();
    let own = (0..n).filter(move |&k| partition.has(k));
    own.chain((start..n).chain(0..start).filter(move |&k| !partition.has(k)))
}

struct Lister<'a> {
    options: &'a SourceOptions,
    /// Held from the first listing that is written on, so that what was left unfinished is cleared.
    lock: Option<Lock>,
    /// Whether a listing could be written, as far as is known.
    may_keep: bool,
}

impl Lister<'_> {
    /// What an archive holds by its listing; none where it has none.
    fn find(&self, root: &Path, relative: &Path) -> Option<Listed> {
        self.options.listings.as_ref()?;
        let found = storage::metadata(&root.join(relative)).ok()?;
        let (file, of) = self.listing(root, relative, &found)?;
        Some(Listed { bytes: found.bytes(), contents: read(&file, &of)?, damage: None })
    }

    /// What an archive holds by looking through it, which is kept.
    fn list(&mut self, root: &Path, relative: &Path) -> Result<Listed> {
        let (path, now) = (root.join(relative), SystemTime::now());
        let found = match storage::metadata(&path) {
            Ok(found) => Some(found),
            Err(error) if may_not_be_opened(&path, &error) => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        // what is written to an archive in the tick of its time would not be seen
        let is_old = |found: &&Metadata| {
            found.modified().is_some_and(|time| now.duration_since(time).is_ok_and(|age| age > TICK))
        };
        let listing = found.as_ref().filter(is_old).and_then(|found| self.listing(root, relative, found));
        let bytes = found.map_or(0, |found| found.bytes());
        let SourceOptions { label_column, keep, .. } = self.options;
        let (contents, damage) = look_through(&path, label_column.as_deref(), keep)?;
        match (damage, listing) {
            (Some(damage), _) if !self.options.skip_damaged => Err(damage.error(&path)),
            (None, Some((file, of))) if self.may_keep => {
                let why = self.keep(&file, &of, &contents).err().and_then(|error| storage::failure(error.as_ref()));
                // a run that may only be read has none; another error may be of this one alone
                self.may_keep = !matches!(why, Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem));
                Ok(Listed { bytes, contents, damage: None })
            }
            (damage, _) => Ok(Listed { bytes, contents, damage }),
        }
    }

    /// Where the listing of an archive lies, and what it has to be of; none where none is kept, or where
    /// nobody would know that the archive is another.
    fn listing(&self, root: &Path, relative: &Path, found: &Metadata) -> Option<(PathBuf, String)> {
        let Listings { dir, .. } = self.options.listings.as_ref()?;
        let modified = found.modified()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let id = id_of(relative);
        let of = canonical(&json!({
            "version": VERSION,
            "root": root.display().to_string(),
            "archive": id,
            "bytes": found.bytes(),
            "modified": [modified.as_secs(), u64::from(modified.subsec_nanos())],
            "label": self.options.label_column,
            "keep": match &self.options.keep {
                Keep::None => Value::Null,
                Keep::All => json!("all"),
                Keep::Columns(names) => json!(names),
            },
        }));
        let name = format!("{}-{:.16}.parquet", slug(&id), hash_bytes(id.as_bytes()));
        Some((dir.join(name), of))
    }

    /// Puts a listing in its place, where another process has not by now; instead of one that is of
    /// something else.
    fn keep(&mut self, file: &Path, of: &str, contents: &Contents) -> Result<()> {
        if let (None, Some(Listings { dir, .. })) = (&self.lock, &self.options.listings) {
            self.lock = Some(Lock::shared(dir, || ())?);
        }
        let staged = Staged::write(file, |file| write(file, of, contents))?;
        if storage::is_file(file) { staged.put() } else { staged.put_first().map(|_| ()) }
    }
}

fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("name", DataType::LargeUtf8, false),
            Field::new("offset", DataType::UInt64, false),
            Field::new("bytes", DataType::UInt64, false),
            Field::new("label", DataType::LargeUtf8, true),
            // a label that is none is a number
            Field::new("is_name", DataType::Boolean, false),
            // what is kept of .json
            Field::new("record", DataType::LargeUtf8, true),
        ]))
    });
    SCHEMA.clone()
}

/// A row as it lies in a listing.
struct Row<'a> {
    picture: &'a Picture,
    label: Option<&'a str>,
    is_name: bool,
    record: Option<&'a str>,
}

impl Row<'_> {
    /// Adds it to the sum of those before.
    fn add_to(&self, sum: &mut Crc) {
        let Row { picture: Picture { name, offset, bytes }, label, is_name, record } = self;
        sum.update(&[u8::from(*is_name)]);
        sum.update(&offset.to_le_bytes());
        sum.update(&bytes.to_le_bytes());
        for text in [Some(name.as_str()), *label, *record] {
            sum.update(text.unwrap_or_default().as_bytes());
            sum.update(&[0]);
        }
    }
}

fn write(file: &mut std::fs::File, of: &str, contents: &Contents) -> Result<()> {
    let pair = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    let left_out = serde_json::to_string(&contents.left_out)?;
    let mut sum = Crc::new();
    sum.update(left_out.as_bytes());
    let footer = vec![pair(OF, of.to_owned()), pair(LEFT_OUT, left_out)];
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(footer))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?));
    let mut writer = ArrowWriter::try_new(file, schema(), Some(properties.build()))?;
    let (mut labels, mut records) = (contents.labels.iter(), contents.records.iter());
    for pictures in contents.pictures.chunks(BATCH_ROWS) {
        let labels: Vec<(Option<String>, bool)> = labels.by_ref().take(pictures.len()).map(as_text).collect();
        let records = records.by_ref().take(pictures.len()).map(serde_json::to_string);
        let mut records = records.map(|text| Ok(Some(text?))).collect::<Result<Vec<Option<String>>>>()?;
        records.resize(pictures.len(), None);
        for ((picture, (label, is_name)), record) in pictures.iter().zip(&labels).zip(&records) {
            let row = Row { picture, label: label.as_deref(), is_name: *is_name, record: record.as_deref() };
            row.add_to(&mut sum);
        }
        let number = |of: fn(&Picture) -> u64| Arc::new(UInt64Array::from_iter_values(pictures.iter().map(of)));
        writer.write(&RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(LargeStringArray::from_iter_values(pictures.iter().map(|picture| &picture.name))),
                number(|picture| picture.offset),
                number(|picture| picture.bytes),
                Arc::new(labels.iter().map(|(label, _)| label.as_deref()).collect::<LargeStringArray>()),
                Arc::new(labels.iter().map(|(_, is_name)| Some(*is_name)).collect::<BooleanArray>()),
                Arc::new(LargeStringArray::from(records)),
            ],
        )?)?;
    }
    writer.append_key_value_metadata(pair(SUM, sum.sum().to_string()));
    writer.close()?;
    Ok(())
}

/// A label as text, and whether it is a name.
fn as_text(label: &Label) -> (Option<String>, bool) {
    match label {
        Label::Number(number) => (Some(number.to_string()), false),
        Label::Name(name) => (Some(name.clone()), true),
        Label::Missing => (None, false),
    }
}

/// What a listing says; none where it is not there, damaged, or not of what it has to be.
fn read(path: &Path, of: &str) -> Option<Contents> {
    // a fault of the reader costs a look at the archive
    catch_unwind(|| parse(path, of)).ok()?.ok()
}

fn parse(path: &Path, of: &str) -> Result<Contents> {
    let builder = file::builder(path)?;
    let value = |key: &str| file::footer_value(&builder, key).with_context(|| format!("no {key}"));
    ensure!(value(OF)? == of && builder.schema().fields() == schema().fields(), "it is of something else");
    let (left_out, expected) = (value(LEFT_OUT)?, value(SUM)?);
    let mut sum = Crc::new();
    sum.update(left_out.as_bytes());
    let mut contents = Contents { left_out: serde_json::from_str(&left_out)?, ..Contents::default() };
    for batch in builder.with_batch_size(BATCH_ROWS).build()? {
        let batch = batch?;
        let [names, labels, records] = ["name", "label", "record"].map(|column| batch[column].as_string::<i64>());
        let [offsets, bytes] = ["offset", "bytes"].map(|column| batch[column].as_primitive::<UInt64Type>());
        let is_name = batch["is_name"].as_boolean();
        for i in 0..batch.num_rows() {
            let picture = Picture { name: names.value(i).to_owned(), offset: offsets.value(i), bytes: bytes.value(i) };
            let [label, record] = [labels, records].map(|texts| texts.is_valid(i).then(|| texts.value(i)));
            let is_name = is_name.value(i);
            Row { picture: &picture, label, is_name, record }.add_to(&mut sum);
            contents.labels.push(match label {
                Some(name) if is_name => Label::Name(name.to_owned()),
                Some(number) => Label::Number(number.parse()?),
                None => Label::Missing,
            });
            contents.records.extend(record.map(serde_json::from_str::<Map<String, Value>>).transpose()?);
            contents.pictures.push(picture);
        }
    }
    ensure!(sum.sum().to_string() == expected, "its rows are damaged");
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_partition_takes_its_own_archives_first_and_then_each_of_the_others() {
        for of in [1, 3, 4] {
            let all = (0..of).map(|index| format!("{index}/{of}").parse::<Partition>().unwrap());
            for partition in all {
                let order: Vec<usize> = order(10, partition).collect();
                let own = order.iter().take_while(|&&k| partition.has(k)).count();
                assert!(order[..own].is_sorted() && order[own..].iter().all(|&k| !partition.has(k)), "{order:?}");
                assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), (0..10).collect(), "{order:?}");
            }
        }
        assert_eq!(order(6, "1/3".parse().unwrap()).collect::<Vec<_>>(), [1, 4, 2, 3, 5, 0]);
    }

    #[test]
    fn a_listing_says_what_was_found_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("listing.parquet");
        let mut contents = Contents::default();
        for (i, label) in [Label::Number(-3), Label::Name("3".into()), Label::Number(i128::MAX)].into_iter().enumerate()
        {
            contents.pictures.push(Picture { name: format!("{i}.png"), offset: 512 * i as u64, bytes: 1 << 40 });
            contents.labels.push(label);
            contents
                .records
                .push(json!({"x": 0.1 + i as f64 / 3.0, "deep": {"a": [1, null]}}).as_object().unwrap().clone());
        }
        Staged::write(&path, |file| write(file, "this", &contents)).unwrap().put().unwrap();
        let found = read(&path, "this").unwrap();
        assert!(found.labels.iter().eq(contents.labels.iter()) && found.records == contents.records);
        let pictures = |contents: &Contents| -> Vec<(String, u64, u64)> {
            contents.pictures.iter().map(|picture| (picture.name.clone(), picture.offset, picture.bytes)).collect()
        };
        assert_eq!(pictures(&found), pictures(&contents));
        assert!(read(&path, "that").is_none());
        // wherever a byte is another, the listing is none, or says the same
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            if let Some(found) = read(&path, "this") {
                assert!(found.labels.iter().eq(contents.labels.iter()) && found.records == contents.records, "{at}");
                assert_eq!(pictures(&found), pictures(&contents), "{at}");
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path, "this").is_none());
        }
    }
}
