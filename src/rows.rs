//! Embeddings in memory. They know their dimension, and their split is part of the type, so that
//! test rows cannot reach anything that learns. What learns a task is shown [`TaskRows`], of that
//! task alone.

use std::marker::PhantomData;

use crate::task::Class;

/// A split of a source.
pub trait Split {
    /// As tables and sources call it.
    const NAME: &'static str;
}

/// What is learned from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Train {}

/// What is scored on, and never learned from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {}

impl Split for Train {
    const NAME: &'static str = "train";
}

impl Split for Test {
    const NAME: &'static str = "test";
}

/// The splits of every source.
pub const SPLITS: [&str; 2] = [Train::NAME, Test::NAME];

/// Embeddings (N, D) of a split, raw as the encoder gives them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<S> {
    dim: usize,
    values: Vec<f32>,
    split: PhantomData<S>,
}

impl<S: Split> Rows<S> {
    /// Rows of `dim` values each, flat. Panics unless `values` are whole rows.
    pub fn new(dim: usize, values: Vec<f32>) -> Self {
        assert!(dim > 0 && values.len().is_multiple_of(dim), "{} values are no rows of {dim}", values.len());
        Rows { dim, values, split: PhantomData }
    }

    /// Values per embedding, D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of rows, N.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values (N, D), flat.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Row `i` (D).
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..][..self.dim]
    }

    /// The values (N, D), flat, no longer told from others by their type.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// The training rows of the classes of one task, and of no other: all that a learner is shown of
/// it.
pub struct TaskRows {
    /// The task, from 0.
    pub task: usize,
    /// Its classes in learning order.
    pub classes: Vec<Class>,
    /// The rows of each.
    pub rows: Vec<Rows<Train>>,
}
