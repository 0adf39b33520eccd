//! What data have that a recipe does not expect, and lack that it does.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::Benchmark;
use crate::{rows::SPLITS, task::Class, words::counted};

/// Differences that are named; of others the number is.
const NAMED: usize = 8;

impl Benchmark {
    /// An error that names what differs, unless data of these classes, with so many images of each
    /// in each split, (C) by split, are what the recipe expects.
    pub fn require(&self, name: &str, classes: &[Class], counts: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        let differences = self.differences(classes, counts);
        if differences.is_empty() {
            return Ok(());
        }
        let named = differences[..differences.len().min(NAMED)].join("\n    ");
        let more = match differences.len().saturating_sub(NAMED) {
            0 => String::new(),
            n => format!("\n    and {n} more"),
        };
        bail!(
            "the data are not those of the recipe {name}:\n    {named}{more}\nthe recipe says: {}\nfor other data, \
             `cgil run {name} --show > mine.toml` writes a copy to change",
            self.data.about.trim()
        )
    }

    fn differences(&self, classes: &[Class], counts: &BTreeMap<String, Vec<usize>>) -> Vec<String> {
        let data = &self.data;
        let mut differences = Vec::new();
        let expects = |what: String, expected: usize, found: usize| {
            (expected != found).then(|| format!("{what}: expected {expected}, found {found}"))
        };
        differences.extend(expects("classes".into(), data.classes, classes.len()));
        let expected_names = data.names.iter().chain(data.names_of.values()).chain(data.images_of.keys());
        let mut unknown: Vec<&String> =
            expected_names.filter(|name| !classes.iter().any(|class| class.name == **name)).collect();
        unknown.dedup();
        differences.extend(unknown.into_iter().map(|name| format!("class {name:?}: expected, but not there")));
        for split in SPLITS {
            let found = |i: usize| counts.get(split).and_then(|counts| counts.get(i)).copied().unwrap_or(0);
            if let Some(&images) = data.images.get(split) {
                let all = (0..classes.len()).map(found).sum();
                differences.extend(expects(format!("{split} images"), images, all));
            }
            for (i, class) in classes.iter().enumerate() {
                let own = data.images_of.get(&class.name).and_then(|of| of.get(split));
                if let Some(&images) = own.or(data.images_per_class.get(split)) {
                    differences.extend(expects(format!("{split} images of {:?}", class.name), images, found(i)));
                }
            }
        }
        differences
    }

    /// What of the data is known, and so looked at, in words.
    pub fn expectations(&self) -> String {
        let data = &self.data;
        let mut known = vec![counted(data.classes, "class")];
        for split in SPLITS {
            match (data.images.get(split), data.images_per_class.get(split)) {
                (_, Some(n)) => known.push(format!("{n} {split} images of each")),
                (Some(n), _) if data.images_of.is_empty() => known.push(format!("{n} {split} images")),
                (Some(n), _) => known.push(format!("{n} {split} images, and how many of each class")),
                (None, None) => known.push(format!("any number of {split} images")),
            }
        }
        known.join(", ")
    }
}

/// An error that names what is no split.
pub fn require_splits(images: &BTreeMap<String, usize>) -> Result<()> {
    match images.keys().find(|split| !SPLITS.contains(&split.as_str())) {
        Some(split) => bail!("there is no split {split:?}: expected {}", SPLITS.join(" or ")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named_with_what_was_expected_and_found() {
        let (_, text) = Benchmark::text("eurosat").unwrap();
        let benchmark = Benchmark::parse("eurosat", &text).unwrap();
        let names: Vec<&String> = benchmark.data.names_of.values().collect();
        let mut classes: Vec<Class> =
            names.iter().enumerate().map(|(i, name)| Class { label: i as i64, name: (*name).clone() }).collect();
        let count = |split: &str| classes.iter().map(|class| benchmark.data.images_of[&class.name][split]).collect();
        let mut counts: BTreeMap<String, Vec<usize>> =
            SPLITS.into_iter().map(|split| (split.to_owned(), count(split))).collect();
        benchmark.require("eurosat", &classes, &counts).unwrap();
        counts.get_mut("test").unwrap()[0] -= 1;
        let name = classes[0].name.clone();
        let error = benchmark.require("eurosat", &classes, &counts).unwrap_err().to_string();
        assert!(error.contains("test images: expected 8100, found 8099"), "{error}");
        assert!(error.contains(&format!("test images of {name:?}: expected 900, found 899")), "{error}");
        assert!(!error.contains("train images:") && error.contains("--show"), "{error}");
        classes.remove(9);
        let error = benchmark.require("eurosat", &classes, &counts).unwrap_err().to_string();
        assert!(
            error.contains("classes: expected 10, found 9") && error.contains("expected, but not there"),
            "{error}"
        );
    }
}
