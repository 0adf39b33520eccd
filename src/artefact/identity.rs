//! What an artefact is: its kind, and the identity that says what decided its values.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::{canonical, hash_lines};

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
pub static RESULTS: Kind = Kind { name: "results", format: 4, algorithm: 1 };
/// How good the generators of a stream are.
pub static QUALITY: Kind = Kind { name: "quality", format: 2, algorithm: 1 };

/// The kinds of artefacts.
pub static KINDS: [&Kind; 7] = [&SOURCE, &STREAM, &GENERATORS, &STATISTICS, &PROMPTS, &RESULTS, &QUALITY];

/// SHA-256 of what decides an artefact's values, as lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(String);

impl Identity {
    /// The hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An artefact that another was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Where it is, below the run's directory; does not count.
    pub path: String,
    /// What the artefact is.
    pub identity: Identity,
}

impl Input {
    /// The artefact in `dir`, below `run`, as an input.
    pub fn new(run: &Path, dir: &Path, identity: Identity) -> Self {
        Input { path: place(run, dir), identity }
    }
}

/// Where an artefact's directory is, below that of its run.
pub(crate) fn place(run: &Path, dir: &Path) -> String {
    dir.strip_prefix(run).unwrap_or(dir).to_string_lossy().replace('\\', "/")
}

/// The identity of what all this decides.
pub(super) fn identity(
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
