//! Artefacts: whatever a command makes is a directory that appears whole, with a `manifest.json`
//! that says what it was made of and by, and an identity that two artefacts share only if they hold
//! the same.
//!
//! The identity is the SHA-256 of the canonical JSON of everything that decides the values: kind,
//! format, algorithm, class of device, options, and the identities of the inputs. So what belongs
//! together can be told without reading a row, and what an artefact will be is known before it is
//! made. Paths and the program's version do not count: the algorithm number is raised whenever
//! draws or results of a kind change.

mod error;
mod identity;
mod manifest;
mod plan;
mod slug;

pub use error::Error;
pub(crate) use identity::place;
pub use identity::{GENERATORS, Identity, Input, KINDS, Kind, PROMPTS, QUALITY, RESULTS, SOURCE, STATISTICS, STREAM};
pub use manifest::{FileSum, MANIFEST, Manifest};
pub use plan::Plan;
pub use slug::slug;
