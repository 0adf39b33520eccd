//! Class orders and tasks: which classes are learned when.

use anyhow::{Result, bail};

/// A class of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Class {
    /// The dataset's own label.
    pub label: i64,
    /// What a prompt calls it.
    pub name: String,
}

/// The classes in the order in which they are learned, cut into tasks.
#[derive(Clone, Debug)]
pub struct Curriculum {
    /// The classes in learning order.
    pub classes: Vec<Class>,
    /// Task t learns the classes `bounds[t]..bounds[t + 1]`.
    bounds: Vec<usize>,
}

impl Curriculum {
    /// Cuts `classes` (in the dataset's order) into `tasks` of ceil(C / T) classes each; the last
    /// takes what is left. With a seed they are permuted first, as numpy's legacy generator would.
    pub fn new(classes: &[Class], tasks: usize, seed: Option<u32>) -> Result<Self> {
        let count = classes.len();
        if tasks == 0 || tasks > count {
            bail!("{count} classes cannot be cut into {tasks} tasks: use --tasks 1 to {count}");
        }
        let per_task = count.div_ceil(tasks);
        if per_task * (tasks - 1) >= count {
            let full = count.div_ceil(per_task);
            bail!(
                "{count} classes in tasks of {per_task} fill {full} tasks and leave none for task {tasks}: \
                 use --tasks {full}"
            );
        }
        let mut ordered = classes.to_vec();
        for (old, new) in class_order(count, seed).into_iter().enumerate() {
            ordered[new] = classes[old].clone();
        }
        let bounds = (0..=tasks).map(|t| (t * per_task).min(count)).collect();
        Ok(Curriculum { classes: ordered, bounds })
    }

    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The classes that task `t` (from 0) learns, as positions in `classes`.
    pub fn task(&self, t: usize) -> std::ops::Range<usize> {
        self.bounds[t]..self.bounds[t + 1]
    }

    /// How many classes are known after task `t` (from 0).
    pub fn seen(&self, t: usize) -> usize {
        self.bounds[t + 1]
    }

    /// The task (from 0) that learns the class at a position.
    pub fn task_of(&self, class: usize) -> usize {
        self.bounds.partition_point(|&b| b <= class) - 1
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

    #[test]
    fn the_last_task_takes_what_is_left() {
        let c = Curriculum::new(&classes(10), 4, None).unwrap();
        let sizes: Vec<usize> = (0..c.tasks()).map(|t| c.task(t).len()).collect();
        assert_eq!(sizes, [3, 3, 3, 1]);
        assert_eq!((c.seen(0), c.seen(3), c.task_of(8), c.task_of(9)), (3, 10, 2, 3));
    }

    #[test]
    fn an_empty_task_is_refused_with_the_number_that_fits() {
        let error = Curriculum::new(&classes(12), 5, None).unwrap_err().to_string();
        assert!(error.contains("use --tasks 4"), "{error}");
        let error = Curriculum::new(&classes(3), 4, None).unwrap_err().to_string();
        assert!(error.contains("use --tasks 1 to 3"), "{error}");
    }

    #[test]
    fn a_seed_permutes_as_new_equals_perm_of_old() {
        let c = Curriculum::new(&classes(6), 2, Some(1992)).unwrap();
        let labels: Vec<i64> = c.classes.iter().map(|c| c.label).collect();
        assert_eq!(labels, [4, 5, 1, 2, 0, 3]);
    }
}
