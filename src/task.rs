//! Class orders and tasks: which classes are learned when.

use std::{fs, ops::Range, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// A class of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// The dataset's own label.
    pub label: i64,
    /// What a prompt calls it.
    pub name: String,
}

/// The classes in the order in which they are learned, cut into tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curriculum {
    /// Names the order in tables and directories: `dataset-order`, `seed-1992`, `order-NAME`, `order-NAME-seed-1992`.
    pub order: String,
    /// Seed of the class order, unless that was given as a list, and of every draw; none is 0.
    pub seed: Option<u32>,
    /// Classes of each task.
    tasks: Vec<usize>,
    /// The classes in learning order.
    pub classes: Vec<Class>,
}

/// How classes are ordered: command-line options.
#[derive(Args, Clone, Debug, Default)]
pub struct OrderOptions {
    /// Permute the classes, and draw everything from this seed; without it the dataset's order, and seed 0
    #[arg(long)]
    pub seed: Option<u32>,
    /// A class order as a JSON list of numbers from 0, instead of the seed's; the seed is then for the draws alone
    #[arg(long, value_name = "FILE", requires = "convention")]
    pub order: Option<PathBuf>,
    /// What the numbers of --order are
    #[arg(long, value_enum, requires = "order")]
    pub convention: Option<Convention>,
}

/// How classes are cut into tasks: command-line options.
#[derive(Args, Clone, Debug)]
pub struct TaskOptions {
    /// Tasks that the classes are cut into: ceil(classes / tasks) each, the last takes what is left
    #[arg(long, required_unless_present = "per_task", conflicts_with = "per_task", value_parser = crate::at_least::<1>)]
    pub tasks: Option<usize>,
    /// Classes of every task; the last takes what is left
    #[arg(long, value_parser = crate::at_least::<1>)]
    pub per_task: Option<usize>,
    /// Classes of the first task, if others than of the next
    #[arg(long, requires = "per_task", value_parser = crate::at_least::<1>)]
    pub first_task: Option<usize>,
}

/// What the numbers of a class order mean. The two lists are inverses of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Convention {
    /// The i-th is the position at which the dataset's class i is learned (new = list[old])
    Positions,
    /// The i-th is the dataset's class that is learned as the i-th (old = list[new])
    Classes,
}

impl OrderOptions {
    /// The name of the order, in tables and directories.
    pub fn name(&self) -> Result<String> {
        let seed = self.seed.map(|seed| format!("seed-{seed}"));
        let Some(path) = &self.order else { return Ok(seed.unwrap_or("dataset-order".into())) };
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

    /// An error unless `curriculum`, which was found by its name, is in this order.
    pub fn require(&self, curriculum: &Curriculum, dataset: &[Class]) -> Result<()> {
        if let Some(path) = &self.order
            && self.positions(dataset.len())? != curriculum.list(dataset, Convention::Positions)
        {
            bail!(
                "{} is another order than the generators of {} were fitted in: give it another name and run `cgil fit-vae` with it",
                path.display(),
                curriculum.order
            );
        }
        Ok(())
    }

    /// The new position of each of `n` classes.
    fn positions(&self, n: usize) -> Result<Vec<usize>> {
        let Some(path) = &self.order else { return Ok(class_order(n, self.seed)) };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let list: Vec<usize> = serde_json::from_str(&text)
            .with_context(|| format!("{} should be a JSON list of whole numbers from 0", path.display()))?;
        let inverse = inverse(&list, n).with_context(|| format!("{} is no order of {n} classes", path.display()))?;
        Ok(if self.convention == Some(Convention::Positions) { list } else { inverse })
    }
}

/// The list `inverse` with inverse[list[i]] = i. An error that names what is missing or doubled unless `list` holds each of 0..n once.
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

impl TaskOptions {
    /// How many of `count` classes each task learns.
    fn sizes(&self, count: usize) -> Result<Vec<usize>> {
        let (first, next) = match (self.tasks, self.per_task) {
            (Some(tasks), _) => {
                if tasks > count {
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
            (None, per_task) => {
                let next = per_task.context("either --tasks or --per-task is needed")?;
                (self.first_task.unwrap_or(next), next)
            }
        };
        if first > count {
            bail!("the first task cannot have {first} classes: there are {count}");
        }
        let rest = count - first;
        let next = (0..rest).step_by(next).map(|start| next.min(rest - start));
        Ok([first].into_iter().chain(next).collect())
    }
}

impl Curriculum {
    /// Orders `classes`, which stand in the dataset's order, and cuts them into tasks.
    pub fn new(classes: &[Class], tasks: &TaskOptions, order: &OrderOptions) -> Result<Self> {
        let mut ordered = classes.to_vec();
        for (old, new) in order.positions(classes.len())?.into_iter().enumerate() {
            ordered[new] = classes[old].clone();
        }
        Ok(Curriculum { order: order.name()?, seed: order.seed, tasks: tasks.sizes(classes.len())?, classes: ordered })
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// The classes that task `t` (from 0) learns, as positions in `classes`.
    pub fn task(&self, t: usize) -> Range<usize> {
        let end = self.seen(t);
        end - self.tasks[t]..end
    }

    /// How many classes are known after task `t` (from 0).
    pub fn seen(&self, t: usize) -> usize {
        self.tasks[..=t].iter().sum()
    }

    /// The task (from 0) that learns the class at a position.
    pub fn task_of(&self, class: usize) -> usize {
        (0..self.tasks()).find(|&t| class < self.seen(t)).expect("a class of the curriculum")
    }

    /// The position, in learning order, of the class with a label.
    pub fn position(&self, label: i64) -> Result<usize> {
        let position = self.classes.iter().position(|class| class.label == label);
        position.with_context(|| format!("no class has the label {label}"))
    }

    /// What draws are keyed by.
    pub fn draws(&self) -> u64 {
        u64::from(self.seed.unwrap_or(0))
    }

    /// The order of the classes as a list of numbers from 0, of the classes as they stand in `dataset`.
    pub fn list(&self, dataset: &[Class], convention: Convention) -> Vec<usize> {
        let positions = |of: &[Class], among: &[Class]| -> Vec<usize> {
            of.iter().filter_map(|class| among.iter().position(|c| c.label == class.label)).collect()
        };
        match convention {
            Convention::Positions => positions(dataset, &self.classes),
            Convention::Classes => positions(&self.classes, dataset),
        }
    }
}

/// New position of each of `n` classes: the identity, or `numpy.random.RandomState(seed).permutation(n)`.
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

    fn classes(n: usize) -> Vec<Class> {
        (0..n).map(|i| Class { label: i as i64, name: format!("c{i}") }).collect()
    }

    fn cut(classes: &[Class], tasks: &[&str]) -> Result<Curriculum> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            tasks: TaskOptions,
        }
        let options: Only = clap::Parser::try_parse_from([&["cgil"], tasks].concat())?;
        Curriculum::new(classes, &options.tasks, &OrderOptions::default())
    }

    fn sizes(curriculum: &Curriculum) -> Vec<usize> {
        (0..curriculum.tasks()).map(|t| curriculum.task(t).len()).collect()
    }

    #[test]
    fn the_last_task_takes_what_is_left() {
        let c = cut(&classes(10), &["--tasks", "4"]).unwrap();
        assert_eq!(sizes(&c), [3, 3, 3, 1]);
        assert_eq!((c.seen(0), c.seen(3), c.task_of(8), c.task_of(9)), (3, 10, 2, 3));
        assert_eq!(sizes(&cut(&classes(10), &["--per-task", "4"]).unwrap()), [4, 4, 2]);
        assert_eq!(sizes(&cut(&classes(10), &["--first-task", "5", "--per-task", "2"]).unwrap()), [5, 2, 2, 1]);
        assert_eq!(sizes(&cut(&classes(10), &["--first-task", "10", "--per-task", "2"]).unwrap()), [10]);
    }

    #[test]
    fn an_empty_task_is_refused_with_the_number_that_fits() {
        let error = |n, tasks: &[&str]| cut(&classes(n), tasks).unwrap_err().to_string();
        assert!(error(12, &["--tasks", "5"]).contains("use --tasks 4"));
        assert!(error(3, &["--tasks", "4"]).contains("use --tasks 1 to 3"));
        assert!(error(3, &["--first-task", "4", "--per-task", "1"]).contains("there are 3"));
    }

    #[test]
    fn a_seed_permutes_as_new_equals_perm_of_old() {
        let (dataset, order) = (classes(6), OrderOptions { seed: Some(1992), ..Default::default() });
        let tasks = TaskOptions { tasks: Some(2), per_task: None, first_task: None };
        let c = Curriculum::new(&dataset, &tasks, &order).unwrap();
        let labels: Vec<i64> = c.classes.iter().map(|c| c.label).collect();
        assert_eq!(labels, [4, 5, 1, 2, 0, 3]);
        assert_eq!(c.list(&dataset, Convention::Classes), [4, 5, 1, 2, 0, 3]);
        assert_eq!(c.list(&dataset, Convention::Positions), class_order(6, Some(1992)));
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
