//! What may be wrong with an artefact.

use std::path::PathBuf;

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
        "{} has {kind} in format {format}.{algorithm} (made by {program}), but this program reads {expected}: \
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
    /// A file of it is not what was written: take it from a backup, or remove it and make it again, which
    /// needs what it was made from.
    #[error(
        "{} is damaged: {what}; take it from a backup, or, if nothing that it was made from is forgotten, remove it and \
         make it again",
        dir.display()
    )]
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
