//! Classes, class orders, and how classes are cut into tasks.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{choice::choices, hash, storage};

/// A class of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// What tables know it by: the dataset's own label, unless another source's class has that
    /// already.
    pub label: i64,
    /// What a prompt calls it.
    pub name: String,
}

impl Class {
    /// What its draws are keyed by: its name, so that they are the same whatever its label and
    /// whichever task learns it.
    pub fn key(&self) -> u64 {
        hash::key(&self.name)
    }
}

impl std::fmt::Display for Class {
    /// As errors call it.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "class {:?} (label {})", self.name, self.label)
    }
}

/// A class order.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Seed of the order, unless that is a file's, and of every draw; without, the dataset's order,
    /// and seed 0.
    pub seed: Option<u32>,
    /// A JSON list of numbers from 0.
    pub file: Option<PathBuf>,
    /// What the numbers of the list, or of the seed's permutation, mean.
    pub convention: Convention,
}

/// How classes are cut into tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// Into so many: ceil(classes / tasks) each, the last takes what is left.
    Tasks(usize),
    /// Into tasks of `next` classes, after a first one of `first`; the last takes what is left.
    Sizes {
        /// Classes of the first task.
        first: usize,
        /// Classes of every other.
        next: usize,
    },
}

choices! {
    /// What the numbers of a class order mean. The two lists are inverses of each other.
    pub enum Convention {
        Positions = "positions": "The i-th is the position at which the dataset's class i is learned (`new = list[old]`)",
        Classes = "classes": "The i-th is the dataset's class that is learned as the i-th (`old = list[new]`)",
    }
}

impl Default for Convention {
    /// As the authors of CGIL permute.
    fn default() -> Self {
        Convention::Positions
    }
}

impl Order {
    /// Of a seed, or the dataset's.
    pub fn of_seed(seed: Option<u32>) -> Self {
        Order { seed, ..Order::default() }
    }

    /// The name of the order, in tables and directories: `dataset-order`, `seed-1992`,
    /// `seed-1993-classes`, `order-NAME`, `order-NAME-seed-1992`.
    pub fn name(&self) -> Result<String> {
        let seed = self.seed.map(|seed| format!("seed-{seed}"));
        let Some(path) = &self.file else {
            return Ok(match (seed, self.convention) {
                (None, _) => "dataset-order".into(),
                (Some(seed), Convention::Positions) => seed,
                (Some(seed), Convention::Classes) => format!("{seed}-{}", self.convention),
            });
        };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if stem.is_empty() || !stem.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            bail!(
                "--order {}: the file's name names the order in tables and directories, so it may have letters, digits, \
                 '.', '_' and '-' only",
                path.display()
            );
        }
        Ok(["order", &*stem].into_iter().chain(seed.as_deref()).collect::<Vec<_>>().join("-"))
    }

    /// The new position of each of `n` classes.
    pub fn positions(&self, n: usize) -> Result<Vec<usize>> {
        let Some(path) = &self.file else {
            let list = class_order(n, self.seed);
            return if self.convention == Convention::Positions { Ok(list) } else { inverse(&list, n) };
        };
        let text = storage::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let list: Vec<usize> = serde_json::from_str(&text)
            .with_context(|| format!("{} should be a JSON list of whole numbers from 0", path.display()))?;
        let inverse = inverse(&list, n).with_context(|| format!("{} is no order of {n} classes", path.display()))?;
        Ok(if self.convention == Convention::Positions { list } else { inverse })
    }

    /// The order of `n` classes as a list of numbers from 0.
    pub fn list(&self, n: usize, convention: Convention) -> Result<Vec<usize>> {
        let positions = self.positions(n)?;
        match convention {
            Convention::Positions => Ok(positions),
            Convention::Classes => inverse(&positions, n),
        }
    }

    /// The classes, which stand in the dataset's order, in this one.
    pub fn apply(&self, dataset: &[Class]) -> Result<Vec<Class>> {
        let classes = self.list(dataset.len(), Convention::Classes)?;
        Ok(classes.into_iter().map(|old| dataset[old].clone()).collect())
    }
}

/// The list `inverse` with inverse[list[i]] = i. An error that names what is missing or doubled
/// unless `list` holds each of 0..n once.
fn inverse(list: &[usize], n: usize) -> Result<Vec<usize>> {
    let mut inverse = vec![None; n];
    for (i, &x) in list.iter().enumerate() {
        match inverse.get_mut(x) {
            None => bail!("it has {x}, but the classes are 0 to {}", n - 1),
            Some(Some(first)) => bail!("it has {x} twice, at the places {first} and {i} (from 0)"),
            Some(place) => *place = Some(i),
        }
    }
    let missing = |i| format!("{i} is missing: it has {} of {n} numbers", list.len());
    inverse.into_iter().enumerate().map(|(i, place)| place.with_context(|| missing(i))).collect()
}

impl Cut {
    /// How many of `count` classes each task learns.
    pub fn sizes(self, count: usize) -> Result<Vec<usize>> {
        let (first, next) = match self {
            Cut::Tasks(tasks) => {
                if tasks == 0 || tasks > count {
                    bail!("{count} classes cannot be cut into {tasks} tasks: use --tasks 1 to {count}");
                }
                let size = count.div_ceil(tasks);
                let full = count.div_ceil(size);
                if full < tasks {
                    bail!(
                        "{count} classes in tasks of {size} fill {full} tasks and leave none for task {}: use --tasks {full}",
                        full + 1
                    );
                }
                (size, size)
            }
            Cut::Sizes { first, next } => (first, next),
        };
        if first == 0 || next == 0 || first > count {
            bail!("the first task cannot have {first} classes, nor the next {next}: there are {count}");
        }
        let rest = count - first;
        let next = (0..rest).step_by(next).map(|start| next.min(rest - start));
        Ok([first].into_iter().chain(next).collect())
    }

    /// What names the cut of `count` classes: the same sizes have the same name, however they were
    /// asked for.
    pub fn name(self, count: usize) -> Result<String> {
        let sizes = self.sizes(count)?;
        if Cut::Tasks(sizes.len()).sizes(count).is_ok_and(|same| same == sizes) {
            return Ok(format!("tasks-{}", sizes.len()));
        }
        // several sizes, or they would be a number of tasks
        Ok(match sizes[..] {
            [first, next, ..] if first != next => format!("first-{first}-per-{next}"),
            _ => format!("per-{}", sizes[0]),
        })
    }
}

/// New position of each of `n` classes: the identity, or
/// `numpy.random.RandomState(seed).permutation(n)`.
///
/// ```
/// assert_eq!(cgil::task::class_order(3, None), [0, 1, 2]);
/// assert_eq!(cgil::task::class_order(6, Some(1992)), [4, 2, 3, 5, 0, 1]);
/// ```
pub fn class_order(n: usize, seed: Option<u32>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let Some(seed) = seed else { return order };
    let mut twister = rand_mt::Mt::new(seed);
    for i in (1..n).rev() {
        // numpy draws below i + 1 by masking and rejecting
        let mask = u32::MAX >> (i as u32).leading_zeros();
        let j = loop {
            let value = twister.next_u32() & mask;
            if value <= i as u32 {
                break value as usize;
            }
        };
        order.swap(i, j);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_task_takes_what_is_left() {
        assert_eq!(Cut::Tasks(4).sizes(10).unwrap(), [3, 3, 3, 1]);
        let sizes = |first, next| Cut::Sizes { first, next }.sizes(10).unwrap();
        assert_eq!(sizes(4, 4), [4, 4, 2]);
        assert_eq!(sizes(5, 2), [5, 2, 2, 1]);
        assert_eq!(sizes(10, 2), [10]);
    }

    #[test]
    fn the_same_sizes_have_one_name() {
        let name = |cut: Cut| cut.name(20).unwrap();
        assert_eq!(name(Cut::Tasks(5)), "tasks-5");
        assert_eq!(name(Cut::Sizes { first: 4, next: 4 }), "tasks-5");
        assert_eq!(name(Cut::Sizes { first: 10, next: 5 }), "first-10-per-5");
        assert_eq!(name(Cut::Sizes { first: 9, next: 9 }), "per-9"); // in 3 tasks of 7, 7 and 6 otherwise
        assert_eq!(name(Cut::Sizes { first: 15, next: 15 }), name(Cut::Sizes { first: 15, next: 5 })); // 15 and 5
    }

    #[test]
    fn an_empty_task_is_refused_with_the_number_that_fits() {
        let error = |cut: Cut, n| cut.sizes(n).unwrap_err().to_string();
        assert!(error(Cut::Tasks(5), 12).contains("use --tasks 4"));
        assert!(error(Cut::Tasks(4), 3).contains("use --tasks 1 to 3"));
        for (first, next) in [(4, 1), (0, 1), (1, 0)] {
            assert!(error(Cut::Sizes { first, next }, 3).contains("there are 3"), "{first} {next}");
        }
    }

    #[test]
    fn a_file_names_an_order_as_a_directory_may_be_called() {
        let name = |file: &str| {
            Order { file: Some(file.into()), convention: Convention::Classes, ..Order::of_seed(Some(7)) }.name()
        };
        assert_eq!(name("orders/by-hand_2.txt").unwrap(), "order-by-hand_2-seed-7");
        for file in ["by hand.txt", "a=b.txt", "", "é.txt"] {
            assert!(name(file).unwrap_err().to_string().contains("letters, digits"), "{file}");
        }
    }

    #[test]
    fn a_seed_permutes_as_new_equals_perm_of_old() {
        let dataset: Vec<Class> = (0..6).map(|i| Class { label: i, name: format!("c{i}") }).collect();
        let order = Order::of_seed(Some(1992));
        let labels: Vec<i64> = order.apply(&dataset).unwrap().iter().map(|c| c.label).collect();
        assert_eq!(labels, [4, 5, 1, 2, 0, 3]);
        assert_eq!(order.list(6, Convention::Classes).unwrap(), [4, 5, 1, 2, 0, 3]);
        assert_eq!(order.list(6, Convention::Positions).unwrap(), class_order(6, Some(1992)));
        // as those do who take the permutation for a list of classes
        let other = Order { convention: Convention::Classes, ..order };
        assert_eq!(other.list(6, Convention::Classes).unwrap(), class_order(6, Some(1992)));
        assert_eq!(other.name().unwrap(), "seed-1992-classes");
        assert_eq!(Order { seed: None, ..other }.name().unwrap(), "dataset-order");
    }

    #[test]
    fn an_order_is_refused_that_lacks_or_doubles_a_class() {
        assert_eq!(inverse(&[2, 0, 1], 3).unwrap(), [1, 2, 0]);
        let error = |list: &[usize]| inverse(list, 3).unwrap_err().to_string();
        assert!(error(&[2, 0]).contains("1 is missing"), "{}", error(&[2, 0]));
        assert!(error(&[2, 0, 2]).contains("2 twice, at the places 0 and 2"), "{}", error(&[2, 0, 2]));
        assert!(error(&[3, 0, 1]).contains("it has 3, but the classes are 0 to 2"), "{}", error(&[3, 0, 1]));
    }
}
