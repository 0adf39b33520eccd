//! Benchmarks as data: a recipe says what is learned, in which order, by which methods, and what
//! the data have to be, so that who runs it runs the same thing.

mod builtin;
mod difference;
mod plan;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

pub use plan::{Work, multiply_adds_per_second};

use crate::task::{Convention, Cut};

/// A benchmark, as its recipe has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// What it is, in a line.
    pub title: String,
    /// Whose protocol it is, and what of it is not as theirs.
    pub about: String,
    /// The checkpoint, as `--model` takes it.
    pub model: String,
    /// Tasks that the classes are cut into, all of a size, the last of what is left.
    pub tasks: usize,
    /// Seeds of the class orders and draws.
    pub seeds: Vec<u32>,
    /// What the numbers of a seed's permutation are; none is positions.
    #[serde(default)]
    pub convention: Option<Convention>,
    /// The methods, as `sweep --method` takes them.
    pub methods: Vec<String>,
    /// Options of the generators, as `sweep --fit-vae` takes them.
    #[serde(default)]
    pub fit_vae: String,
    /// The score that methods are compared by, as `sweep --metric` takes it.
    pub metric: String,
    /// What the data have to be.
    pub data: Data,
    /// What others published, to be read beside.
    #[serde(default)]
    pub published: Vec<Published>,
}

/// What the data of a benchmark have to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Where they come from, and how they have to lie.
    pub about: String,
    /// A data set of the hub that is them, as `extract --data` takes it.
    #[serde(default)]
    pub hub: Option<String>,
    /// The column of the labels, where a table has several.
    #[serde(default)]
    pub label_column: Option<String>,
    /// Number of classes, C.
    pub classes: usize,
    /// Images of each split.
    #[serde(default)]
    pub images: BTreeMap<String, usize>,
    /// Images of each split in every class.
    #[serde(default)]
    pub images_per_class: BTreeMap<String, usize>,
    /// Images of each split in the classes that are named.
    #[serde(default)]
    pub images_of: BTreeMap<String, BTreeMap<String, usize>>,
    /// What classes are called, in the order of their labels.
    #[serde(default)]
    pub names: Vec<String>,
    /// What classes are called, by their directories, or their names in a table.
    #[serde(default)]
    pub names_of: BTreeMap<String, String>,
}

/// A figure that others published.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The method, and what it was run with.
    pub method: String,
    /// What is measured.
    pub metric: String,
    /// In %.
    pub value: f64,
    /// Where it stands.
    pub source: String,
}

impl Benchmark {
    /// The recipe of a name that the program has, or the file at a path: its name and its text.
    pub fn text(recipe: &str) -> Result<(String, String)> {
        if let Some(text) = builtin::text(recipe) {
            return Ok((recipe.to_owned(), text.to_owned()));
        }
        let path = Path::new(recipe);
        let text = fs::read_to_string(path).with_context(|| {
            format!("{recipe} is no file that can be read, and no recipe: those are {}", builtin::names().join(", "))
        })?;
        Ok((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text))
    }

    /// Reads a recipe; `name` is what errors call it.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let benchmark: Self = toml::from_str(text).with_context(|| format!("the recipe {name} is not one"))?;
        benchmark.check().with_context(|| format!("the recipe {name}"))?;
        Ok(benchmark)
    }

    /// The names of the recipes that the program has.
    pub fn names() -> Vec<&'static str> {
        builtin::names()
    }

    fn check(&self) -> Result<()> {
        let data = &self.data;
        self.cut().sizes(data.classes)?;
        ensure!(!self.seeds.is_empty(), "it has no seeds");
        ensure!(!self.methods.is_empty(), "it has no methods");
        if !data.names.is_empty() && !data.names_of.is_empty() {
            bail!("its data have names and names_of: one of them says what classes are called");
        }
        for (what, n) in [("names", data.names.len()), ("names_of", data.names_of.len())] {
            ensure!(n == 0 || n == data.classes, "its data have {} classes, but {n} {what}", data.classes);
        }
        for splits in [&data.images, &data.images_per_class].into_iter().chain(data.images_of.values()) {
            difference::require_splits(splits)?;
        }
        Ok(())
    }

    /// How the classes are cut into tasks.
    pub fn cut(&self) -> Cut {
        Cut::Tasks(self.tasks)
    }

    /// What classes are called, as `extract --class-names` reads it: JSON; none where the data say
    /// so themselves.
    pub fn class_names(&self) -> Option<String> {
        let by_label = self.data.names.iter().enumerate().map(|(label, name)| (label.to_string(), name.clone()));
        let by_key = self.data.names_of.iter().map(|(key, name)| (key.clone(), name.clone()));
        let names: serde_json::Map<String, serde_json::Value> =
            by_label.chain(by_key).map(|(key, name)| (key, name.into())).collect();
        (!names.is_empty()).then(|| serde_json::Value::from(names).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_that_the_program_has_is_one() {
        assert!(Benchmark::names().len() >= 9);
        for name in Benchmark::names() {
            let (_, text) = Benchmark::text(name).unwrap();
            let benchmark = Benchmark::parse(name, &text).unwrap();
            assert!(benchmark.published.iter().all(|figure| (0.0..=100.0).contains(&figure.value)), "{name}");
            // where both are known they agree
            for (split, &images) in &benchmark.data.images {
                if let Some(each) = benchmark.data.images_per_class.get(split) {
                    assert_eq!(each * benchmark.data.classes, images, "{name}: {split}");
                }
                let of_classes = benchmark.data.images_of.values().filter_map(|of| of.get(split));
                let sum: usize = of_classes.sum();
                assert!(sum == 0 || sum == images, "{name}: {split} {sum} {images}");
            }
        }
    }

    #[test]
    fn a_recipe_that_makes_no_sense_is_told() {
        let (_, text) = Benchmark::text("cifar-100").unwrap();
        let error = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            format!("{:#}", Benchmark::parse("mine", &text.replacen(from, to, 1)).unwrap_err())
        };
        assert!(error("tasks = 10", "tasks = 1000").contains("the recipe mine: 100 classes cannot be cut into 1000"));
        assert!(error("tasks = 10", "task = 10").contains("unknown field `task`"));
        assert!(error("seeds = [1992, 1996, 1997]", "seeds = []").contains("no seeds"));
        assert!(error("train = 500", "training = 500").contains("no split \"training\""));
        assert!(error("classes = 100", "classes = 100\nnames = [\"a\"]").contains("100 classes, but 1 names"));
        let error = Benchmark::text("cifar-1000").unwrap_err().to_string();
        assert!(error.contains("no recipe: those are") && error.contains("cifar-100,"), "{error}");
    }
}
