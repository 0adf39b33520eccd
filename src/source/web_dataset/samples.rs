//! What an archive holds, by looking through it: a picture and a label of each sample.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::{self, Read, Seek, SeekFrom},
    mem,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    super::{
        columns::{LABEL, LABELS},
        damage::{is_damage, may_not_be_opened},
        kept::Keep,
        labels::{Label, Labels},
        names::id_of,
    },
    archive::Archive,
};
use crate::{picture, words::counted};

/// Most bytes of a member, and of one that holds a label.
const MOST_BYTES: u64 = 1 << 32;
const MOST_LABEL_BYTES: u64 = 16 << 20;

/// What an archive is made of.
const BLOCK: u64 = 512;

/// What an archive holds, in its order.
#[derive(Default)]
pub struct Contents {
    pub pictures: Vec<Picture>,
    pub labels: Labels,
    /// What is kept of the `.json` of the samples; nothing where nothing is kept.
    pub records: Vec<Map<String, Value>>,
    pub left_out: LeftOut,
}

/// A picture in an archive.
pub struct Picture {
    pub name: String,
    /// Where its bytes lie in the archive, of a compressed one in what is inside.
    pub offset: u64,
    pub bytes: u64,
}

/// What an archive has that is no row.
#[derive(Default, Serialize, Deserialize)]
pub struct LeftOut {
    without_picture: usize,
    further_pictures: usize,
    links: usize,
}

impl LeftOut {
    pub fn notes(&self, archive: &Path) -> Vec<String> {
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

/// Why an archive was not looked through to its end.
pub struct Damage {
    /// Where it is, in words that follow the archive's name.
    place: String,
    advice: &'static str,
    cause: Option<io::Error>,
}

impl Damage {
    /// Where something is lost of what the archive had.
    fn at(place: String, cause: Option<io::Error>) -> Self {
        Damage { place, advice: "fetch it again, or take what lies before by --skip-damaged", cause }
    }

    /// Where so many samples before it are taken.
    pub fn note(&self, archive: &Path, taken: usize) -> String {
        let taken = match taken {
            0 => "nothing of it is taken".to_owned(),
            1 => "the sample before is taken, what follows is lost".to_owned(),
            n => format!("the {n} samples before are taken, what follows is lost"),
        };
        format!("{} {}: {taken}", id_of(archive), self.place)
    }

    /// Where nothing is taken.
    pub fn error(self, archive: &Path) -> Error {
        let text = format!("{} {}: {}", archive.display(), self.place, self.advice);
        match self.cause {
            Some(cause) => Error::from(cause).context(text),
            None => anyhow!(text),
        }
    }
}

/// What ends looking through an archive before its end.
enum End {
    Damage(Damage),
    Error(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Error(error)
    }
}

/// What the archive at `path` holds, and what of it is damaged: the samples before are whole. `key` is
/// that of the labels in `.json`.
pub fn look_through(path: &Path, key: Option<&str>, keep: &Keep) -> Result<(Contents, Option<Damage>)> {
    let mut walk = Walk { path, key, keep, names: HashMap::new(), contents: Contents::default() };
    match walk.archive() {
        Ok(()) => Ok((walk.contents, None)),
        Err(End::Damage(damage)) => Ok((walk.contents, Some(damage))),
        Err(End::Error(error)) => Err(error),
    }
}

struct Walk<'a> {
    path: &'a Path,
    key: Option<&'a str>,
    keep: &'a Keep,
    /// How often a picture of a name was there.
    names: HashMap<String, usize>,
    contents: Contents,
}

impl Walk<'_> {
    fn archive(&mut self) -> Result<(), End> {
        let path = self.path;
        let archive = Archive::open(path).map_err(|error| match may_not_be_opened(path, &error) {
            true => End::Damage(Damage {
                place: "cannot be opened".into(),
                advice: "make it readable, or leave it out by --skip-damaged",
                cause: Some(error),
            }),
            false => self.unread(error, "at its beginning"),
        })?;
        let length = archive.length().map_err(|error| self.unread(error, "at its beginning"))?;
        let mut archive = tar::Archive::new(archive);
        let (mut sample, mut end) = (Sample::default(), 0);
        let mut place = "at its beginning, or no tar file".to_owned();
        for entry in archive.entries_with_seek().map_err(|error| self.unread(error, &place))? {
            let mut entry = entry.map_err(|error| self.unread(error, &place))?;
            let (kind, path_bytes) = (entry.header().entry_type(), entry.path_bytes().into_owned());
            let name = id_of(Path::new(OsStr::from_bytes(&path_bytes)));
            place = format!("behind {name}");
            let (offset, bytes) = (entry.raw_file_position(), entry.size());
            if kind.is_gnu_sparse() {
                let error = "is stored as a sparse file: make the archive without --sparse";
                return Err(anyhow!("{}: {name} {error}", path.display()).into());
            }
            if !kind.is_file() {
                self.contents.left_out.links += usize::from(kind.is_hard_link() || kind.is_symlink());
                continue;
            }
            if bytes > MOST_BYTES {
                let error = format!("claims {bytes} bytes, more than {MOST_BYTES}");
                return Err(anyhow!("{}: {name} {error}", path.display()).into());
            }
            let of_sample = key_and_extension(&path_bytes);
            if let Some((key, _)) = &of_sample
                && *key != sample.key
            {
                let next = Sample { key: key.to_vec(), ..Sample::default() };
                self.finish(mem::replace(&mut sample, next))?;
            }
            if offset + bytes > length {
                return Err(End::Damage(Damage::at(format!("is cut in {name}"), None)));
            }
            end = offset + bytes.next_multiple_of(BLOCK);
            let Some((_, extension)) = of_sample else { continue };
            let last = extension.rsplit('.').next().unwrap_or_default();
            if picture::has_extension(Path::new(&format!("x.{last}"))) {
                sample.pictures.push((Member { offset, bytes, is_dotted: last != extension }, name));
            } else if matches!(extension.as_str(), "cls" | "json" | "txt") {
                let mut text = Vec::new();
                let read = (&mut entry).take(MOST_LABEL_BYTES).read_to_end(&mut text);
                read.map_err(|error| self.unread(error, &format!("in {name}")))?;
                sample.texts.push((extension, String::from_utf8_lossy(&text).into_owned()));
            }
        }
        self.require_end(archive.into_inner(), end, &place)?;
        Ok(self.finish(sample)?)
    }

    /// Of an error that was met there.
    fn unread(&self, error: io::Error, place: &str) -> End {
        match is_damage(&error) {
            true => End::Damage(Damage::at(format!("is damaged {place}"), Some(error))),
            false => End::Error(anyhow!(error).context(format!("cannot read {}", self.path.display()))),
        }
    }

    /// Takes a sample all of whose members were met.
    fn finish(&mut self, sample: Sample) -> Result<()> {
        let left_out = &mut self.contents.left_out;
        let Some(picture) = sample.pictures.iter().find(|(picture, _)| !picture.is_dotted).or(sample.pictures.first())
        else {
            left_out.without_picture += usize::from(!sample.key.is_empty());
            return Ok(());
        };
        left_out.further_pictures += sample.pictures.len() - 1;
        let (Member { offset, bytes, .. }, mut name) = (picture.0, picture.1.clone());
        let times = self.names.entry(name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            name = format!("{name}#{times}");
        }
        let label = sample.label(self.key).with_context(|| format!("{}, sample {name}", self.path.display()))?;
        self.contents.labels.push(label);
        self.contents.pictures.push(Picture { name, offset, bytes });
        if *self.keep != Keep::None {
            self.contents.records.push(sample.record(self.key, self.keep));
        }
        Ok(())
    }

    /// An error unless nothing but zeros follows the last member, and at least a block of them.
    fn require_end(&self, mut archive: Archive, end: u64, place: &str) -> Result<(), End> {
        let reached = archive.seek(SeekFrom::Start(end)).map_err(|error| self.unread(error, place))?;
        let (mut zeros, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            let read = archive.read(&mut buffer).map_err(|error| self.unread(error, place))?;
            if read == 0 {
                break;
            }
            if buffer[..read].iter().any(|&byte| byte != 0) {
                let error = "goes on behind its end, as archives do that were put together: keep them apart";
                return Err(anyhow!("{} {error}", self.path.display()).into());
            }
            zeros += read as u64;
        }
        if reached != end || zeros < BLOCK {
            return Err(End::Damage(Damage::at("is cut, as it has no end".into(), None)));
        }
        Ok(())
    }
}

/// The path of a member up to the first dot of its file's name, and what follows the dot, in small
/// letters; none of a file without one.
fn key_and_extension(path: &[u8]) -> Option<(&[u8], String)> {
    let file = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let dot = file.iter().position(|&byte| byte == b'.').filter(|&dot| dot > 0)?;
    let extension = String::from_utf8_lossy(&file[dot + 1..]).to_ascii_lowercase();
    Some((&path[..path.len() - file.len() + dot], extension))
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
