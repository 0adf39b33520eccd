//! Artefacts: whatever a command makes is a directory that appears whole, with a `manifest.json`
//! that says what it was made of and by, and an identity that two artefacts share only if they hold
//! the same.
//!
//! The identity is the SHA-256 of the canonical JSON of everything that decides the values: kind,
//! format, algorithm, class of device, options, and the identities of the inputs. So what belongs
//! together can be told without reading a row, and what an artefact will be is known before it is
//! made. Paths and the program's version do not count: the algorithm number is raised whenever
//! draws or results of a kind change.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    atomic,
    hash::{canonical, hash_file, hash_lines},
};

/// Name of the manifest in an artefact's directory.
pub(crate) const MANIFEST: &str = "manifest.json";

/// A kind of artefact.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name, as manifests have it.
    pub name: &'static str,
    /// Raised by every change of its files that an older reader would not understand.
    pub format: u32,
    /// Raised by every change of what the same options and inputs give.
    pub algorithm: u32,
}

/// The embeddings of a source.
pub static SOURCE: Kind = Kind { name: "source", format: 1, algorithm: 1 };
/// A task of a stream.
pub static STREAM: Kind = Kind { name: "stream", format: 1, algorithm: 1 };
/// The generators of a task's classes.
pub static GENERATORS: Kind = Kind { name: "generators", format: 1, algorithm: 1 };
/// What a classifier keeps after a task.
pub static STATISTICS: Kind = Kind { name: "statistics", format: 1, algorithm: 1 };
/// The prompts after a task.
pub static PROMPTS: Kind = Kind { name: "prompts", format: 1, algorithm: 1 };
/// What a method predicts after a task, and its scores.
pub static RESULTS: Kind = Kind { name: "results", format: 1, algorithm: 1 };
/// How good the generators of a stream are.
pub static QUALITY: Kind = Kind { name: "quality", format: 1, algorithm: 1 };

/// The kinds of artefacts.
pub static KINDS: [&Kind; 7] = [&SOURCE, &STREAM, &GENERATORS, &STATISTICS, &PROMPTS, &RESULTS, &QUALITY];

/// SHA-256 of what decides an artefact's values, as lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(String);

/// An artefact that another was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Where it is, below the run's directory; does not count.
    pub path: String,
    /// What the artefact is.
    pub identity: Identity,
}

/// What an artefact is to be: everything that decides its values.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What kind of artefact it is.
    pub kind: &'static Kind,
    /// Class of the device that computes, where values depend on it: `cpu` or `cuda`.
    pub device: Option<String>,
    /// Everything that was asked for and decides the values.
    pub options: Value,
    /// The artefacts that it is made from, by what they are to it.
    pub inputs: BTreeMap<String, Input>,
}

/// A file of an artefact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Its size in bytes.
    pub bytes: u64,
    /// The SHA-256 of its bytes, as lower-case hexadecimal.
    pub sha256: String,
}

/// What an artefact's `manifest.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the [`Kind`].
    pub kind: String,
    /// Format number of the kind when it was made.
    pub format: u32,
    /// Algorithm number of the kind when it was made.
    pub algorithm: u32,
    /// Name and version of the program; does not count.
    pub program: String,
    /// Class of the device that computed it, where values depend on it.
    pub device: Option<String>,
    /// Everything that was asked for and decides the values.
    pub options: Value,
    /// The artefacts that it was made from, by what they are to it.
    pub inputs: BTreeMap<String, Input>,
    /// The hash of what is above, but for `program`.
    pub identity: Identity,
    /// The files beside the manifest, by their paths in the directory.
    pub files: BTreeMap<String, FileSum>,
    /// What else is known of it; does not count.
    #[serde(default)]
    pub about: Value,
}

/// Why an artefact cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there: make it.
    #[error("{} is not there", dir.display())]
    Missing {
        /// The artefact's directory.
        dir: PathBuf,
    },
    /// Another version of the program made it, or it is of another kind: make it again.
    #[error(
        "{} is a {kind} of format {format}.{algorithm} (made by {program}), but this program reads {expected}: \
         remove it and make it again",
        dir.display()
    )]
    Version {
        /// The artefact's directory.
        dir: PathBuf,
        /// Kind of the artefact that is there.
        kind: String,
        /// Format number of what is there.
        format: u32,
        /// Algorithm number of what is there.
        algorithm: u32,
        /// Name and version of the program that made it.
        program: String,
        /// What this program reads, in words.
        expected: String,
    },
    /// A file of it is not what was written: remove it and make it again.
    #[error("{} is damaged: {what}; remove it and make it again", dir.display())]
    Damaged {
        /// The artefact's directory.
        dir: PathBuf,
        /// Which file, and what is wrong with it, in words.
        what: String,
    },
    /// It was made of other options or inputs than are asked for: ask for those, or make it
    /// elsewhere.
    #[error("{} was made otherwise ({}); {advice}", dir.display(), differences.join("; "))]
    Other {
        /// The artefact's directory.
        dir: PathBuf,
        /// What differs, in words.
        differences: Vec<String>,
        /// What can be done about it, in words.
        advice: String,
    },
}

impl Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Input {
    /// The artefact in `dir`, below `run`, as an input.
    pub fn new(run: &Path, dir: &Path, identity: Identity) -> Self {
        let path = dir.strip_prefix(run).unwrap_or(dir).to_string_lossy().replace('\\', "/");
        Input { path, identity }
    }
}

impl Plan {
    /// Of this kind, with these options, from nothing yet.
    pub fn new(kind: &'static Kind, options: Value) -> Self {
        Plan { kind, device: None, options, inputs: BTreeMap::new() }
    }

    /// With one more input.
    pub fn with(mut self, name: &str, input: Input) -> Self {
        self.inputs.insert(name.to_owned(), input);
        self
    }

    /// Computed on this class of device.
    pub fn on(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    /// What the artefact will be.
    pub fn identity(&self) -> Identity {
        let Kind { name, format, algorithm } = self.kind;
        identity(name, *format, *algorithm, self.device.as_deref(), &self.options, &self.inputs)
    }

    /// Makes the artefact in `dir`, in the place of what may be there: `fill` writes its files.
    /// Returns its manifest.
    pub fn make(&self, dir: &Path, about: Value, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Manifest> {
        let mut manifest = self.manifest(about);
        atomic::replace_dir(dir, |temporary| {
            fill(temporary)?;
            manifest.files = files_of(temporary)?;
            atomic::write_json(&temporary.join(MANIFEST), &manifest)
        })?;
        Ok(manifest)
    }

    /// The manifest of an artefact without files yet.
    pub fn manifest(&self, about: Value) -> Manifest {
        Manifest {
            kind: self.kind.name.to_owned(),
            format: self.kind.format,
            algorithm: self.kind.algorithm,
            program: concat!("cgil ", env!("CARGO_PKG_VERSION")).to_owned(),
            device: self.device.clone(),
            options: self.options.clone(),
            inputs: self.inputs.clone(),
            identity: self.identity(),
            files: BTreeMap::new(),
            about,
        }
    }

    /// The artefact in `dir` if it is there and is what is planned, whatever device it was computed
    /// on; none if it is not there; an error with what differs and the `advice` if it is another
    /// one.
    pub fn find(&self, dir: &Path, advice: &str) -> Result<Option<Manifest>> {
        let Some(there) = Manifest::find(dir, self.kind)? else { return Ok(None) };
        let planned = Plan { device: there.device.clone(), ..self.clone() };
        if planned.identity() == there.identity {
            return Ok(Some(there));
        }
        let mut differences = self.differences(&there);
        if differences.is_empty() {
            differences.push("by what its manifest.json says".into());
        }
        Err(Error::Other { dir: dir.to_owned(), differences, advice: advice.to_owned() }.into())
    }

    /// What makes an artefact that is there another one than is planned, in words.
    fn differences(&self, there: &Manifest) -> Vec<String> {
        let mut differences = Vec::new();
        compare("", &there.options, &self.options, &mut differences);
        let mut names: Vec<&String> = there.inputs.keys().chain(self.inputs.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            match (there.inputs.get(name), self.inputs.get(name)) {
                (Some(was), Some(is)) if was.identity == is.identity => {}
                (Some(_), Some(is)) => differences.push(format!("its {name} were not those of {} now", is.path)),
                (Some(was), None) => differences.push(format!("it has {name} of {}, which do not count now", was.path)),
                (None, Some(is)) => differences.push(format!("it has no {name}, now those of {}", is.path)),
                (None, None) => {}
            }
        }
        differences
    }
}

impl Manifest {
    /// Reads the manifest of an artefact of a kind.
    pub fn read(dir: &Path, kind: &Kind) -> Result<Self> {
        Self::find(dir, kind)?.ok_or_else(|| Error::Missing { dir: dir.to_owned() }.into())
    }

    /// As [`Manifest::read`]; none where there is none.
    pub fn find(dir: &Path, kind: &Kind) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(dir, kind, &text).map(Some)
    }

    fn parse(dir: &Path, kind: &Kind, text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
            format: u32,
            algorithm: u32,
            program: String,
        }
        let damaged = |what: String| Error::Damaged { dir: dir.to_owned(), what: format!("its {MANIFEST} {what}") };
        let head: Head = serde_json::from_str(text).map_err(|e| damaged(format!("is no manifest: {e}")))?;
        if (head.kind.as_str(), head.format, head.algorithm) != (kind.name, kind.format, kind.algorithm) {
            let Head { kind: found, format, algorithm, program } = head;
            let expected = format!("a {} of format {}.{}", kind.name, kind.format, kind.algorithm);
            return Err(
                Error::Version { dir: dir.to_owned(), kind: found, format, algorithm, program, expected }.into()
            );
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
        let Manifest { device, options, inputs, .. } = &manifest;
        let found = identity(kind.name, kind.format, kind.algorithm, device.as_deref(), options, inputs);
        if found != manifest.identity {
            return Err(damaged("was changed since it was written: it has another identity".into()).into());
        }
        let is_inside =
            |name: &String| Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if let Some(name) = manifest.files.keys().find(|name| !is_inside(name)) {
            return Err(damaged(format!("names a file outside the directory, {name:?}")).into());
        }
        Ok(manifest)
    }

    /// The options, as the type that they were made of.
    pub fn options<T: serde::de::DeserializeOwned>(&self, dir: &Path) -> Result<T> {
        T::deserialize(&self.options)
            .map_err(|e| Error::Damaged { dir: dir.to_owned(), what: format!("options of its {MANIFEST}: {e}") }.into())
    }

    /// An error unless a file of the artefact in `dir` is what it was when it was written.
    pub fn check_file(&self, dir: &Path, name: &str) -> Result<()> {
        let damaged = |what: String| Error::Damaged { dir: dir.to_owned(), what };
        let sum = self.files.get(name).ok_or_else(|| damaged(format!("its {MANIFEST} knows no {name}")))?;
        let path = dir.join(name);
        let bytes = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if bytes != sum.bytes {
            return Err(damaged(format!("{name} should have {} bytes, but has {bytes}", sum.bytes)).into());
        }
        if hash_file(&path)? != sum.sha256 {
            return Err(damaged(format!("{name} was changed since it was written: it has another SHA-256")).into());
        }
        Ok(())
    }
}

fn identity(
    kind: &str,
    format: u32,
    algorithm: u32,
    device: Option<&str>,
    options: &Value,
    inputs: &BTreeMap<String, Input>,
) -> Identity {
    let inputs: BTreeMap<&String, &Identity> = inputs.iter().map(|(name, input)| (name, &input.identity)).collect();
    let all = serde_json::json!({
        "kind": kind, "format": format, "algorithm": algorithm, "device": device, "options": options, "inputs": inputs,
    });
    Identity(hash_lines([canonical(&all)]))
}

/// Size and checksum of every file below a directory.
pub(crate) fn files_of(dir: &Path) -> Result<BTreeMap<String, FileSum>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.insert(name, FileSum::of(&path)?);
        }
    }
    Ok(files)
}

impl FileSum {
    /// Of a file. Reads it once.
    pub fn of(path: &Path) -> Result<Self> {
        let bytes = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        Ok(FileSum { bytes, sha256: hash_file(path)? })
    }
}

/// Adds what differs between options that are `there` and those `asked` for.
fn compare(path: &str, there: &Value, asked: &Value, differences: &mut Vec<String>) {
    match (there, asked) {
        (Value::Object(there), Value::Object(asked)) => {
            let mut keys: Vec<&String> = there.keys().chain(asked.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&path, &value(there), &value(asked), differences);
            }
        }
        _ if there != asked => differences.push(format!("{path} is {} there, {} now", short(there), short(asked))),
        _ => {}
    }
}

/// A value as a message has room for.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(79).chain(['…']).collect() }
}

/// A name that a directory may have: `name` as far as it is readable, of small letters, digits,
/// dots and dashes, and where that loses something, a short hash of it. Never longer than 60 bytes,
/// and without `=`, which readers of tables would take for a column.
///
/// ```
/// use cgil::artefact::slug;
/// assert_eq!(slug("cgil"), "cgil");
/// assert_eq!(slug("cgil,lr=0.01"), "cgil-lr-0.01-d6b02183");
/// assert!(slug(&"x".repeat(300)).len() <= 60);
/// ```
pub fn slug(name: &str) -> String {
    const READABLE: usize = 48;
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let mut readable = String::new();
    for c in name.chars().map(plain).take(READABLE) {
        if c != '-' || !(readable.is_empty() || readable.ends_with('-')) {
            readable.push(c);
        }
    }
    let readable = readable.trim_matches(['-', '.']);
    let hash = hash_lines([name.to_owned()]);
    match readable {
        "" => format!("{hash:.8}"),
        readable if readable == name => name.to_owned(),
        readable => format!("{readable}-{hash:.8}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan() -> Plan {
        let input = Input { path: "streams/a/task-01".into(), identity: Identity("ab".into()) };
        Plan::new(&PROMPTS, json!({"epochs": 3, "lr": 0.05})).on("cpu").with("stream", input)
    }

    #[test]
    fn everything_that_decides_values_decides_the_identity_and_a_path_does_not() {
        let base = plan().identity();
        let mut others = [plan(), plan(), plan(), plan(), plan()];
        others[0].options["lr"] = json!(0.06);
        others[1].device = Some("cuda".into());
        others[2].inputs.get_mut("stream").unwrap().identity = Identity("ac".into());
        others[3] = others[3].clone().with("clip", Input { path: String::new(), identity: Identity("ab".into()) });
        others[4].kind = &RESULTS;
        for other in &others {
            assert_ne!(other.identity(), base, "{other:?}");
        }
        let mut moved = plan();
        moved.inputs.get_mut("stream").unwrap().path = "elsewhere".into();
        assert_eq!(moved.identity(), base);
        // another order of the same options
        let mut turned = plan();
        turned.options = serde_json::from_str(r#"{"lr": 0.05, "epochs": 3}"#).unwrap();
        assert_eq!(turned.identity(), base);
    }

    #[test]
    fn an_artefact_is_found_again_and_what_is_damaged_or_of_other_options_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("task-01");
        assert!(plan().find(&place, "").unwrap().is_none());
        let made = plan().make(&place, Value::Null, |dir| Ok(fs::write(dir.join("a.bin"), "abc")?)).unwrap();
        let found = plan().find(&place, "").unwrap().unwrap();
        assert_eq!(found, made);
        found.check_file(&place, "a.bin").unwrap();

        let mut other = plan();
        other.options["epochs"] = json!(4);
        let error = other.find(&place, "use another --run").unwrap_err().to_string();
        assert!(error.contains("epochs is 3 there, 4 now") && error.contains("use another --run"), "{error}");
        // what was computed on another device is the same artefact, with another identity
        let elsewhere = plan().on("cuda").find(&place, "").unwrap().unwrap();
        assert_ne!(elsewhere.identity, plan().on("cuda").identity());

        fs::write(place.join("a.bin"), "abd").unwrap();
        assert!(found.check_file(&place, "a.bin").unwrap_err().to_string().contains("SHA-256"));
        fs::write(place.join("a.bin"), "ab").unwrap();
        assert!(found.check_file(&place, "a.bin").unwrap_err().to_string().contains("3 bytes, but has 2"));
        let text = fs::read_to_string(place.join(MANIFEST)).unwrap();
        for (from, to, expected) in [
            ("0.05", "0.06", "another identity"),
            ("\"format\": 1", "\"format\": 9", "format 9.1"),
            ("a.bin", "../a", "outside"),
            ("{", "", "no manifest"),
        ] {
            fs::write(place.join(MANIFEST), text.replacen(from, to, 1)).unwrap();
            let error = plan().find(&place, "").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn names_of_directories_are_readable_short_and_their_own() {
        for name in ["cgil,template=一张关于{}的照片", "a=b", "..", "x/../y", "A", "a ", "a", "", "a,b", "a;b"] {
            let slug = slug(name);
            assert!(slug.len() <= 60 && !slug.is_empty() && !slug.starts_with('.'), "{slug:?}");
            assert!(slug.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'), "{slug:?}");
        }
        assert_ne!(slug("a,b"), slug("a;b"));
        assert_ne!(slug("A"), slug("a"));
    }
}
