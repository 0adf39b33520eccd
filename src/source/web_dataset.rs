//! WebDataset: tar files, in the order of their names, of samples: consecutive members that share
//! their name up to its first dot, a picture and its label in `.cls`, `.json` or `.txt`. Nothing is
//! unpacked to disk.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io::{self, BufReader, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::{array::RecordBatch, datatypes::Field};
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use super::{
    braces, class_names,
    columns::{LABEL, LABELS},
    data_set::{Encoded, Found, Images},
    kept::Keep,
    labels::{Label, Labels, Names},
    listing::Listing,
    names::{id_of, some_of},
    options::SourceOptions,
    records,
    shards::Shards,
    split::Part,
};
use crate::{
    picture,
    storage::{self, File},
    words::counted,
};

/// A file beside the archives, or above them, that names the classes, one a line.
const CLASS_NAMES: &str = "classnames.txt";

/// Most bytes of a member, and of one that holds a label.
const MOST_BYTES: u64 = 1 << 32;
const MOST_LABEL_BYTES: u64 = 16 << 20;

/// What an archive is made of.
const BLOCK: u64 = 512;

/// The archives: path below the root, and the places of their rows in the source's order.
struct Archives {
    root: PathBuf,
    files: Vec<(PathBuf, Range<u32>)>,
    pictures: Vec<Picture>,
    /// What is in the .json of the samples, but for the labels, where some of it is kept.
    others: RecordBatch,
    /// The archive that was read last, since one that is compressed is read from its beginning.
    last: Mutex<Option<(PathBuf, Archive)>>,
}

/// A picture in an archive.
struct Picture {
    name: String,
    /// Where its bytes lie in the archive, of a compressed one in what is inside.
    offset: u64,
    bytes: u64,
}

/// Whether a path names a tar file, or several by braces.
pub fn is_tar(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

/// Opens a directory of archives, one archive, or those that braces name.
pub fn open(path: &Path, listing: &Listing, options: &SourceOptions) -> Result<Found> {
    let (root, named) = if storage::is_dir(path) { (path.to_owned(), listing.files.clone()) } else { named(path)? };
    let tars: Vec<&PathBuf> = named.iter().filter(|file| is_tar(file)).collect();
    ensure!(!tars.is_empty(), "{} has no tar files", path.display());
    let shards = match (&tars[..], storage::is_dir(path)) {
        ([one], false) => Shards { files: vec![((*one).clone(), Part::Unsplit)], left_out: Vec::new() },
        _ => Shards::of(&root, &tars)?,
    };

    let (mut found, mut others) = (Labels::default(), Vec::new());
    let (mut lines, mut files, mut parts, mut pictures, mut notes) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), shards.notes());
    for (relative, part) in &shards.files {
        let file = root.join(relative);
        let start = pictures.len() as u32;
        let left_out = samples(&file, options.label_column.as_deref(), |picture, label, sample| {
            pictures.push(picture);
            found.push(label);
            if options.keep != Keep::None {
                others.push(sample.record(options.label_column.as_deref(), &options.keep));
            }
        })?;
        notes.extend(left_out.notes(relative));
        let rows = start..pictures.len() as u32;
        parts.extend(rows.clone().map(|_| *part));
        let bytes = storage::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.bytes();
        lines.push(format!("{} {} {bytes} {}", format!("{part:?}").to_lowercase(), id_of(relative), rows.len()));
        files.push((relative.clone(), rows));
    }
    let others = records::batch(records::columns_of(others))?;
    let archives = Archives { root, files, pictures, others, last: Mutex::new(None) };
    let names = archives.class_names()?.map_or(Names::Own, Names::Counted);
    let (mut classes, rows) = found.classes(path, "the label", names, |row| archives.id(row as u32))?;
    lines.extend(classes.iter().map(|class| format!("class {} {:?}", class.label, class.name)));
    lines.push(format!("labels {}", crate::hash::hash_lines(rows.iter().map(u32::to_string))));
    if let Some(file) = &options.class_names {
        class_names::rename(&mut classes, file)?;
        lines.extend(classes.iter().map(|class| format!("called {:?}", class.name)));
    }
    Ok(Found {
        what: "WebDataset".into(),
        classes,
        rows: rows.into_iter().zip(parts).collect(),
        lines,
        notes,
        why_empty: Box::new(|_, _| String::new()),
        images: Box::new(archives),
    })
}

/// The directory of the archives that a path names, and their names there.
fn named(path: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let pattern = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    let names = braces::expand(pattern).with_context(|| format!("{pattern} stands for too many files"))?;
    let names: Vec<PathBuf> = names.into_iter().map(PathBuf::from).collect();
    let mut seen = HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
        bail!("{pattern} names {} twice", twice.display());
    }
    let missing = names.iter().filter(|name| !storage::is_file(name)).map(|name| name.display().to_string());
    let missing = some_of(missing);
    ensure!(missing.is_empty(), "not there, or no files: {missing}");
    let is_plain = |dir: &&Path| !braces::has_some(&dir.to_string_lossy());
    let root = path.ancestors().skip(1).find(is_plain).unwrap_or(Path::new("")).to_owned();
    let below = names.iter().map(|name| name.strip_prefix(&root).unwrap_or(name).to_owned()).collect();
    Ok((root, below))
}

/// What an archive has that is no row.
#[derive(Default)]
struct LeftOut {
    without_picture: usize,
    further_pictures: usize,
    links: usize,
}

impl LeftOut {
    fn notes(&self, archive: &Path) -> Vec<String> {
        let LeftOut { without_picture, further_pictures, links } = *self;
        let what = [
            (without_picture, "sample", " without a picture"),
            (further_pictures, "picture", " of samples that have another"),
            (links, "link", ""),
        ];
        let note = |(n, what, of): (usize, &str, &str)| {
            (n > 0).then(|| format!("left out of {}: {}{of}", id_of(archive), counted(n, what)))
        };
        what.into_iter().filter_map(note).collect()
    }
}

/// Calls `each` with the picture and the label of every sample of an archive.
fn samples(path: &Path, key: Option<&str>, mut each: impl FnMut(Picture, Label, &Sample)) -> Result<LeftOut> {
    let damaged = || format!("{} is damaged, or no tar file: fetch it again", path.display());
    let mut left_out = LeftOut::default();
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut end_of = |sample: Sample, left_out: &mut LeftOut| -> Result<()> {
        let Some(picture) = sample.pictures.iter().find(|(picture, _)| !picture.is_dotted).or(sample.pictures.first())
        else {
            left_out.without_picture += usize::from(!sample.key.is_empty());
            return Ok(());
        };
        left_out.further_pictures += sample.pictures.len() - 1;
        let (Member { offset, bytes, .. }, mut name) = (picture.0, picture.1.clone());
        let times = names.entry(name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            name = format!("{name}#{times}");
        }
        let label = sample.label(key).with_context(|| format!("{}, sample {name}", path.display()))?;
        each(Picture { name, offset, bytes }, label, &sample);
        Ok(())
    };
    let archive = Archive::open(path)?;
    let length = archive.length().with_context(damaged)?;
    let mut archive = tar::Archive::new(archive);
    let (mut sample, mut end) = (Sample::default(), 0);
    for entry in archive.entries_with_seek().with_context(damaged)? {
        let mut entry = entry.with_context(damaged)?;
        let (kind, path_bytes) = (entry.header().entry_type(), entry.path_bytes().into_owned());
        let name = id_of(Path::new(OsStr::from_bytes(&path_bytes)));
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        if kind.is_gnu_sparse() {
            bail!("{}: {name} is stored as a sparse file: make the archive without --sparse", path.display());
        }
        if !kind.is_file() {
            left_out.links += usize::from(kind.is_hard_link() || kind.is_symlink());
            continue;
        }
        ensure!(bytes <= MOST_BYTES, "{}: {name} claims {bytes} bytes, more than {MOST_BYTES}", path.display());
        ensure!(offset + bytes <= length, "{} is cut in {name}: fetch it again", path.display());
        end = offset + bytes.next_multiple_of(BLOCK);
        let file = path_bytes.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let Some(dot) = file.iter().position(|&byte| byte == b'.').filter(|&dot| dot > 0) else { continue };
        let key = &path_bytes[..path_bytes.len() - file.len() + dot];
        let extension = String::from_utf8_lossy(&file[dot + 1..]).to_ascii_lowercase();
        if key != sample.key {
            end_of(std::mem::replace(&mut sample, Sample { key: key.to_vec(), ..Sample::default() }), &mut left_out)?;
        }
        let last = extension.rsplit('.').next().unwrap_or_default();
        if picture::has_extension(Path::new(&format!("x.{last}"))) {
            sample.pictures.push((Member { offset, bytes, is_dotted: last != extension }, name));
        } else if matches!(extension.as_str(), "cls" | "json" | "txt") {
            let mut text = Vec::new();
            (&mut entry).take(MOST_LABEL_BYTES).read_to_end(&mut text).with_context(damaged)?;
            sample.texts.push((extension, String::from_utf8_lossy(&text).into_owned()));
        }
    }
    end_of(sample, &mut left_out)?;
    require_end(path, archive.into_inner(), end).with_context(damaged)?;
    Ok(left_out)
}

/// An error unless nothing but zeros follows the last member, and at least a block of them.
fn require_end(path: &Path, mut archive: Archive, end: u64) -> Result<()> {
    let reached = archive.seek(SeekFrom::Start(end))?;
    let (mut zeros, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let read = archive.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        ensure!(
            buffer[..read].iter().all(|&byte| byte == 0),
            "{} goes on behind its end, as archives do that were put together: keep them apart",
            path.display()
        );
        zeros += read as u64;
    }
    ensure!(reached == end && zeros >= BLOCK, "{} is cut: it has no end", path.display());
    Ok(())
}

/// A picture among the members of an archive.
#[derive(Clone, Copy)]
struct Member {
    offset: u64,
    bytes: u64,
    /// Whether its extension has a dot, as `seg.png`.
    is_dotted: bool,
}

/// A sample, being collected.
#[derive(Default)]
struct Sample {
    /// The path up to the first dot of the file's name.
    key: Vec<u8>,
    /// With their names.
    pictures: Vec<(Member, String)>,
    /// The members that may hold a label, by their extension.
    texts: Vec<(String, String)>,
}

impl Sample {
    /// The label in `.cls`, else under `key`, or a usual name, in `.json`, else in `.txt`.
    fn label(&self, key: Option<&str>) -> Result<Label> {
        let text = |extension: &str| {
            let text = self.texts.iter().find(|(e, _)| e == extension).map(|(_, text)| text.trim());
            text.filter(|text| !text.is_empty())
        };
        let of_text = |text: &str| match text.parse() {
            Ok(number) => Label::Number(number),
            Err(_) => Label::Name(text.to_owned()),
        };
        if let (None, Some(cls)) = (key, text("cls")) {
            return Ok(of_text(cls));
        }
        if let Some(json) = text("json") {
            let json: Value = serde_json::from_str(json).context("the .json is damaged")?;
            let usual = [LABEL].into_iter().chain(LABELS);
            let value = key.map_or_else(|| usual.clone().find_map(|name| json.get(name)), |key| json.get(key));
            match (value.filter(|value| !value.is_null()), key) {
                (Some(Value::String(text)), _) => return Ok(Label::Name(text.clone())),
                (Some(Value::Number(n)), _) if n.is_i64() => {
                    return Ok(Label::Number(n.as_i64().map_or(0, i128::from)));
                }
                (Some(other), _) => bail!("the label should be an integer or text, but is {other}"),
                (None, Some(key)) => {
                    let keys = json.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>().join(", "));
                    bail!("the .json has no key {key:?} (it has: {})", keys.unwrap_or_default())
                }
                (None, None) => {}
            }
        }
        match text("txt") {
            Some(text) if key.is_none() => Ok(of_text(text)),
            _ => bail!("no label: expected a .cls, a .txt, or a .json with the key {}", key.unwrap_or("label")),
        }
    }
}

impl Sample {
    /// What of `.json` is kept, without the label.
    fn record(&self, key: Option<&str>, keep: &Keep) -> Map<String, Value> {
        let json = self.texts.iter().find(|(extension, _)| extension == "json");
        let mut record: Map<String, Value> =
            json.and_then(|(_, text)| serde_json::from_str(text).ok()).unwrap_or_default();
        let is_kept = |name: &String| match keep {
            Keep::Columns(names) => names.contains(name),
            _ => Some(name.as_str()) != key,
        };
        record.retain(|name, _| is_kept(name));
        record
    }
}

impl Images for Archives {
    fn read<'a>(&'a self, rows: &'a [u32]) -> Result<Encoded<'a>> {
        Ok(Box::new(rows.iter().map(|&row| {
            let (file, _) = self.file_of(row);
            let Picture { offset, bytes, .. } = &self.pictures[row as usize];
            let path = self.root.join(file);
            let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if last.as_ref().is_none_or(|(open, _)| *open != path) {
                *last = Some((path.clone(), Archive::open(&path)?));
            }
            let Some((_, archive)) = last.as_mut() else { bail!("{} is not open", path.display()) };
            let mut image = Vec::new();
            let read =
                archive.seek(SeekFrom::Start(*offset)).and_then(|_| archive.take(*bytes).read_to_end(&mut image));
            let read = read.with_context(|| format!("{} is damaged: fetch it again", path.display()))?;
            ensure!(read as u64 == *bytes, "{} ends in a picture: fetch it again", path.display());
            Ok(Ok(image))
        })))
    }

    fn paths(&self, rows: &[u32]) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = rows.iter().map(|&row| self.root.join(self.file_of(row).0)).collect();
        paths.dedup();
        paths
    }

    fn id(&self, row: u32) -> String {
        format!("{}/{}", id_of(self.file_of(row).0), self.pictures[row as usize].name)
    }

    fn columns(&self) -> Vec<Field> {
        records::fields_of(&self.others)
    }

    fn values(&self, columns: &[&str], rows: &[u32]) -> Result<RecordBatch> {
        records::values(&self.others, columns, rows)
    }
}

impl Archives {
    fn file_of(&self, row: u32) -> (&Path, &Range<u32>) {
        let (file, rows) = &self.files[self.files.partition_point(|(_, rows)| rows.end <= row)];
        (file, rows)
    }

    /// The names in the file beside the archives, or above them.
    fn class_names(&self) -> Result<Option<Vec<String>>> {
        let beside = self.files.first().and_then(|(file, _)| self.root.join(file).parent().map(Path::to_owned));
        let dirs = beside.iter().flat_map(|dir| dir.ancestors().take(2));
        let Some(file) = dirs.map(|dir| dir.join(CLASS_NAMES)).find(|file| storage::is_file(file)) else {
            return Ok(None);
        };
        let text = storage::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Some(text.trim_start_matches('\u{feff}').trim_end().lines().map(|line| line.trim().to_owned()).collect()))
    }
}

/// An archive, or what is inside a compressed one, which is read again from its beginning where it has
/// to go back.
enum Archive {
    Plain(BufReader<File>),
    Compressed { file: PathBuf, inside: Box<MultiGzDecoder<BufReader<File>>>, at: u64 },
}

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let open = || storage::open(path).with_context(|| format!("cannot open {}", path.display()));
        let mut first = Vec::new();
        open()?.take(2).read_to_end(&mut first).with_context(|| format!("cannot read {}", path.display()))?;
        let file = BufReader::new(open()?);
        Ok(match first[..] {
            [0x1f, 0x8b] => {
                Archive::Compressed { file: path.to_owned(), inside: Box::new(MultiGzDecoder::new(file)), at: 0 }
            }
            _ => Archive::Plain(file),
        })
    }
}

impl Archive {
    /// Bytes of the archive; of a compressed one not known, whose reading says where it is cut.
    fn length(&self) -> io::Result<u64> {
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
