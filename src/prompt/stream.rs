//! The embedding stream: real and generated embeddings under one Arrow schema, an epoch at a time.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use rayon::prelude::*;

use super::Current;
use crate::{
    generator::Generator,
    rng::{Draw, Rng},
    table::{contract, file},
};

/// What the prompts of the seen classes are trained on during one task.
pub struct EmbeddingStream<'a> {
    /// Labels of the seen classes in learning order: the keys of their draws.
    pub labels: Vec<i64>,
    /// Their generators.
    pub generators: &'a [Generator],
    /// Real training embeddings (N, D), flat, by label; only of classes that the task learns.
    pub real: BTreeMap<i64, Vec<f32>>,
    /// The task (from 0).
    pub task: usize,
    /// Values per embedding, D.
    pub dim: usize,
    /// Rows per class and epoch.
    pub samples: usize,
    pub current: Current,
    pub seed: u64,
}

impl EmbeddingStream<'_> {
    /// The rows of an epoch, class by class, in the schema of `schemas/embedding_stream.toml`.
    pub fn epoch(&self, epoch: usize) -> Result<RecordBatch> {
        let drawn: Vec<(usize, Vec<f32>)> =
            (0..self.labels.len()).into_par_iter().map(|class| self.draw(class, epoch)).collect();
        let n = drawn.len() * self.samples;
        let class = (0..n).map(|i| (i / self.samples) as i64);
        let origin = (0..n).map(|i| if i % self.samples < drawn[i / self.samples].0 { "real" } else { "generated" });
        file::rows(
            contract::embedding_stream(),
            self.dim,
            vec![
                Arc::new(Int64Array::from_iter_values(class)),
                Arc::new(StringArray::from_iter_values(origin)),
                file::vectors(drawn.iter().flat_map(|(_, rows)| rows).copied().collect(), self.dim),
            ],
        )
    }

    /// How many rows of a class are real, and its rows (samples, D): the real ones first.
    fn draw(&self, class: usize, epoch: usize) -> (usize, Vec<f32>) {
        let label = self.labels[class];
        let mut rng = Rng::new(self.seed, Draw::Embeddings, &[self.task as u64, epoch as u64, label as u64]);
        let (n, mut rows) = match (self.real.get(&label), self.current) {
            (None, _) | (_, Current::Generated) => (0, Vec::new()),
            (Some(real), Current::Real) => (self.samples, self.draw_real(real, self.samples, &mut rng)),
            (Some(real), Current::Both) => {
                let half = self.samples.div_ceil(2);
                (half, self.draw_real(real, half, &mut rng))
            }
        };
        rows.extend(self.generators[class].sample(self.samples - n, &mut rng));
        (n, rows)
    }

    /// `n` rows, each as often as the others, give or take one.
    fn draw_real(&self, rows: &[f32], n: usize, rng: &mut Rng) -> Vec<f32> {
        let mut drawn = Vec::with_capacity(n * self.dim);
        while drawn.len() < n * self.dim {
            for i in rng.permutation(rows.len() / self.dim) {
                drawn.extend_from_slice(&rows[i * self.dim..(i + 1) * self.dim]);
            }
        }
        drawn.truncate(n * self.dim);
        drawn
    }
}
