//! How a source is known.

use serde::{Deserialize, Serialize};

/// A source of rows, as a plan records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceId {
    /// Kind and path, for people.
    pub origin: String,
    /// Hash of the rows' keys and order, of their files' sizes, and of the classes' names; of
    /// embeddings that were imported, of the whole table.
    pub fingerprint: String,
}
