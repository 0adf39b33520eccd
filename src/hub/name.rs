//! What a repository of the hub is called: `OWNER/NAME`, `OWNER/NAME@REVISION`.

use std::fmt;

use anyhow::{Error, Result, anyhow, bail};
use percent_encoding::percent_decode_str;

/// How open_clip writes the names of the hub.
const OPEN_CLIP: &str = "hf-hub:";

/// How fsspec, and with it pandas, Polars and DuckDB, write data sets of the hub.
const DATASET: &str = "hf://datasets/";

/// What lies in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A checkpoint.
    Model,
    /// Images, or a table of them.
    Dataset,
}

/// A repository at a revision, and what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What lies there.
    pub kind: Kind,
    /// `OWNER/NAME`.
    pub id: String,
    /// Branch, tag or commit; none is the branch `main`.
    pub revision: Option<String>,
    /// The configuration of a data set that has several.
    pub config: Option<String>,
}

impl Name {
    /// Parses `OWNER/NAME[@REVISION]`, which `hf-hub:` may precede. None where it is no name.
    ///
    /// ```
    /// use cgil::hub::Name;
    ///
    /// let name = Name::of_model("openai/clip-vit-base-patch32@refs/pr/3").unwrap();
    /// assert_eq!(name.id, "openai/clip-vit-base-patch32");
    /// assert_eq!(name.revision.as_deref(), Some("refs/pr/3"));
    /// assert_eq!(Name::of_model("hf-hub:timm/ViT-B-16-SigLIP").unwrap().id, "timm/ViT-B-16-SigLIP");
    /// assert!(Name::of_model("./models/clip").is_none());
    /// ```
    pub fn of_model(text: &str) -> Option<Self> {
        let (id, revision, rest) = parts(text.strip_prefix(OPEN_CLIP).unwrap_or(text))?;
        rest.is_empty().then_some(Name { kind: Kind::Model, id, revision, config: None })
    }

    /// Whether a text is meant to be a data set of the hub.
    pub fn means_dataset(text: &str) -> bool {
        text.starts_with("hf://")
    }

    /// Parses `hf://datasets/OWNER/NAME[@REVISION][/CONFIG]`.
    ///
    /// ```
    /// let name = cgil::hub::Name::of_dataset("hf://datasets/uoft-cs/cifar100@v1/cifar100").unwrap();
    /// assert_eq!((name.id.as_str(), name.config.as_deref()), ("uoft-cs/cifar100", Some("cifar100")));
    /// ```
    pub fn of_dataset(text: &str) -> Result<Self> {
        let Some((id, revision, rest)) = text.strip_prefix(DATASET).and_then(parts) else {
            bail!("{text:?} names no data set of the hub: expected {DATASET}OWNER/NAME[@REVISION][/CONFIG]");
        };
        let config = (!rest.is_empty()).then(|| rest.to_owned());
        Ok(Name { kind: Kind::Dataset, id, revision, config })
    }

    /// The revision, written out.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Whether the revision is a commit.
    pub fn is_at_commit(&self) -> bool {
        self.revision.as_deref().is_some_and(|text| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.id)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

/// Where a repository has no such revision.
pub fn missing_revision(name: &Name) -> Error {
    anyhow!(
        "{} has no revision {:?} on the hub: give a branch, a tag or a commit that it has",
        name.id,
        name.revision()
    )
}

/// `OWNER/NAME`, the revision, and what follows.
fn parts(text: &str) -> Option<(String, Option<String>, &str)> {
    let text = text.trim_end_matches('/');
    let (owner, rest) = text.split_once('/')?;
    let end = rest.find(['/', '@']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let of_id = |part: &str| {
        let chars = part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        chars && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    };
    if !of_id(owner) || !of_id(name) {
        return None;
    }
    let id = format!("{owner}/{name}");
    let Some(rest) = rest.strip_prefix('@') else { return Some((id, None, rest.trim_start_matches('/'))) };
    // those of the hub's own have slashes; in others these are written %2F
    let slashes = if ["refs/convert/", "refs/pr/"].iter().any(|own| rest.starts_with(own)) { 2 } else { 0 };
    let end = rest.match_indices('/').nth(slashes).map_or(rest.len(), |(place, _)| place);
    let (revision, rest) = rest.split_at(end);
    let revision = percent_decode_str(revision).decode_utf8().ok()?.into_owned();
    let is_safe = !revision.is_empty() && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    is_safe.then(|| (id, Some(revision), rest.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths_and_revisions_from_configurations() {
        let dataset = |text: &str| {
            Name::of_dataset(&format!("hf://datasets/{text}"))
                .map(|name| [Some(name.id), name.revision, name.config].map(|part| part.unwrap_or_default()))
        };
        for (text, expected) in [
            ("o/n", ["o/n", "", ""]),
            ("o/n/", ["o/n", "", ""]),
            ("o/n/fine", ["o/n", "", "fine"]),
            ("o/n@v1.0/fine", ["o/n", "v1.0", "fine"]),
            ("o/n@refs/convert/parquet/a/b", ["o/n", "refs/convert/parquet", "a/b"]),
            ("o/n@refs/pr/7", ["o/n", "refs/pr/7", ""]),
            ("o/n@feature%2Fx/c", ["o/n", "feature/x", "c"]),
        ] {
            assert_eq!(dataset(text).unwrap(), expected, "{text}");
        }
        for text in ["", "n", "o/", "../n", "o/n@", "o/n@../../x", "o/n@%2e%2e", "o/a b"] {
            assert!(dataset(text).unwrap_err().to_string().contains("OWNER/NAME"), "{text}");
        }
        for text in ["clip", "./o/n", "/o/n", "o/n/m", "o//n", "", "o/n@v1/x", "~/clip"] {
            assert_eq!(Name::of_model(text), None, "{text}");
        }
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(Name::of_model(&format!("o/n@{commit}")).unwrap().is_at_commit());
        assert!(!Name::of_model("o/n@0123456789abcdef").unwrap().is_at_commit());
    }
}
