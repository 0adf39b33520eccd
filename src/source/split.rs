//! Which rows are learned from and which are scored: split names as people write them, and rows held
//! out where there is no test split.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    rows::{Split, Test, Train},
    words::counted,
};

/// What a source's own split is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The source has no splits.
    Unsplit,
    Train,
    Validation,
    Test,
}

/// Names of splits, in any case.
const NAMES: [(Part, &[&str]); 3] = [
    (Part::Train, &["train", "training"]),
    (Part::Validation, &["val", "valid", "validation", "dev"]),
    (Part::Test, &["test", "testing", "eval", "evaluation"]),
];

impl Part {
    /// The part that is called so; none by another name.
    pub fn of(name: &str) -> Option<Part> {
        let is_called = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        NAMES.iter().find(|(_, names)| is_called(names)).map(|(part, _)| *part)
    }

    /// The part that a file's or directory's name stands for.
    pub fn of_os(name: &std::ffi::OsStr) -> Option<Part> {
        name.to_str().and_then(Part::of)
    }
}

/// Whether a file's or directory's name is that of a split.
pub fn is_split(name: &std::ffi::OsStr) -> bool {
    Part::of_os(name).is_some()
}

/// The rows of a source's two splits, and what is to be said about them.
#[derive(Debug, Default, PartialEq)]
pub struct Assigned {
    /// Places in the source's order, ascending, of `train` and `test`.
    pub places: BTreeMap<String, Vec<u32>>,
    pub notes: Vec<String>,
}

/// Assigns rows to the splits `train` and `test`. The test split is the source's own, else its
/// validation split, else a share `holdout` of the rows, else empty. `id` says of a row what may not
/// be on both sides.
pub fn assign(path: &Path, parts: &[Part], holdout: Option<f64>, id: impl Fn(u32) -> String) -> Result<Assigned> {
    let of = |part: Part| (0..).zip(parts).filter(move |(_, p)| **p == part).map(|(row, _)| row);
    let count = |part: Part| of(part).count();
    let [unsplit, train, validation, test] = [Part::Unsplit, Part::Train, Part::Validation, Part::Test].map(count);
    if unsplit > 0 && unsplit < parts.len() {
        bail!(
            "{}: {} of {} have no split: give each one, or none",
            path.display(),
            unsplit,
            counted(parts.len(), "row")
        );
    }
    if unsplit + train == 0 {
        bail!(
            "{} has no train images{}",
            path.display(),
            if parts.is_empty() { String::new() } else { format!(": all {} are of another split", parts.len()) }
        );
    }
    let mut notes = Vec::new();
    let (learned, scored): (Vec<u32>, Vec<u32>) = match (test, validation, holdout) {
        (0, 0, None) => {
            notes.push(
                "no test images, so its classes will not be scored: --holdout 0.2 keeps a share of the images".into(),
            );
            (of(Part::Unsplit).chain(of(Part::Train)).collect(), Vec::new())
        }
        (0, 0, Some(share)) => {
            let (scored, learned): (Vec<u32>, Vec<u32>) =
                of(Part::Unsplit).chain(of(Part::Train)).partition(|&row| is_held_out(&id(row), share));
            if learned.is_empty() {
                bail!("{}: all rows are held out by --holdout {share}: take a smaller share", path.display());
            }
            (learned, scored)
        }
        (_, _, Some(_)) => bail!(
            "{} has {} split: --holdout is for data without one",
            path.display(),
            if test > 0 { "a test" } else { "a validation" }
        ),
        (0, _, None) => {
            notes.push(format!(
                "no test split: the {} of the validation split are the test images",
                counted(validation, "image")
            ));
            (of(Part::Train).collect(), of(Part::Validation).collect())
        }
        (..) => {
            if validation > 0 {
                notes.push(format!("left out: the {} of the validation split", counted(validation, "image")));
            }
            (of(Part::Train).collect(), of(Part::Test).collect())
        }
    };
    let places = [(Train::NAME.to_owned(), learned), (Test::NAME.to_owned(), scored)].into();
    Ok(Assigned { places, notes })
}

/// Whether a row is held out: its id decides, so that no other row moves when some are added.
fn is_held_out(id: &str, share: f64) -> bool {
    let hash = Sha256::digest(id.as_bytes());
    let first = hash.iter().take(8).fold(0, |value: u64, &byte| value << 8 | u64::from(byte));
    (first as f64) < share * 2f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(parts: &[Part], holdout: Option<f64>) -> Result<[Vec<u32>; 2], String> {
        let assigned = assign(Path::new("here"), parts, holdout, |row| format!("{row}.png"));
        assigned.map(|mut a| ["train", "test"].map(|split| a.places.remove(split).unwrap())).map_err(|e| e.to_string())
    }

    #[test]
    fn the_test_split_is_test_or_validation_or_held_out() {
        use Part::{Test, Train, Unsplit, Validation};
        assert_eq!(assigned(&[Train, Validation, Test, Train], None).unwrap(), [vec![0, 3], vec![2]]);
        assert_eq!(assigned(&[Validation, Train], None).unwrap(), [vec![1], vec![0]]);
        assert_eq!(assigned(&[Unsplit, Unsplit], None).unwrap(), [vec![0, 1], vec![]]);
        assert_eq!(assigned(&[Train], None).unwrap(), [vec![0], vec![]]);
        for (parts, holdout, part) in [
            (&[Test, Validation][..], None, "no train images: all 2"),
            (&[], None, "no train images"),
            (&[Train, Test], Some(0.5), "a test split"),
            (&[Train, Validation], Some(0.5), "a validation split"),
            (&[Unsplit, Train], None, "1 of 2 rows have no split"),
        ] {
            let error = assigned(parts, holdout).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_share_of_the_rows_is_held_out_and_stays_when_some_are_added() {
        let [learned, scored] = assigned(&[Part::Unsplit; 2000], Some(0.2)).unwrap();
        assert!((340..460).contains(&scored.len()), "{}", scored.len());
        assert_eq!(learned.len() + scored.len(), 2000);
        let [_, more] = assigned(&[Part::Train; 3000], Some(0.2)).unwrap();
        assert_eq!(more[..scored.len()], scored);
    }

    #[test]
    fn splits_are_known_by_their_usual_names() {
        for (name, part) in [("Training", Part::Train), ("dev", Part::Validation), ("EVAL", Part::Test)] {
            assert_eq!(Part::of(name), Some(part));
        }
        assert_eq!(Part::of("trains"), None);
    }
}
