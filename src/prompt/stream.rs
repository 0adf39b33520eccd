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
    task::Class,
};

/// What the prompts of the seen classes are trained on during one task.
pub struct EmbeddingStream<'a> {
    /// The seen classes in learning order; their labels are the keys of their draws.
    pub seen: &'a [Class],
    /// The first of them that rows are drawn of: 0, or the task's first.
    pub first: usize,
    /// Their generators; none where all rows are real.
    pub generators: &'a [Generator],
    /// Real training embeddings (N, D), flat, by label; classes without are generated.
    pub real: BTreeMap<i64, Vec<f32>>,
    /// The task (from 0).
    pub task: usize,
    /// Values per embedding, D.
    pub dim: usize,
    /// Rows per class and epoch.
    pub samples: usize,
    /// How many rows of a class that has real ones are real.
    pub current: Current,
    pub seed: u64,
}

impl EmbeddingStream<'_> {
    /// The rows of an epoch, class by class, in the schema of `schemas/embedding_stream.toml`.
    pub fn epoch(&self, epoch: usize) -> Result<RecordBatch> {
        let classes = self.seen.len() - self.first;
        let mut rows = vec![0.0; classes * self.samples * self.dim];
        let real: Vec<usize> = rows
            .par_chunks_exact_mut(self.samples * self.dim)
            .enumerate()
            .map(|(i, rows)| self.draw(self.first + i, epoch, rows))
            .collect();
        let n = classes * self.samples;
        let class = (0..n).map(|i| (self.first + i / self.samples) as i64);
        let origin = (0..n).map(|i| if i % self.samples < real[i / self.samples] { "real" } else { "generated" });
        file::rows(
            contract::embedding_stream(),
            self.dim,
            vec![
                Arc::new(Int64Array::from_iter_values(class)),
                Arc::new(StringArray::from_iter_values(origin)),
                file::vectors(rows, self.dim),
            ],
        )
    }

    /// Draws the rows of a class, (samples, D), the real ones first; returns how many are real.
    fn draw(&self, class: usize, epoch: usize, rows: &mut [f32]) -> usize {
        let label = self.seen[class].label;
        let mut rng = Rng::new(self.seed, Draw::Embeddings, &[self.task as u64, epoch as u64, label as u64]);
        let real = match (self.real.get(&label), self.current) {
            (None, _) | (_, Current::Generated) => 0,
            (Some(_), Current::Real) => self.samples,
            (Some(_), Current::Both) => self.samples.div_ceil(2),
        };
        let (first, rest) = rows.split_at_mut(real * self.dim);
        if real > 0 {
            first.copy_from_slice(&self.draw_real(&self.real[&label], real, &mut rng));
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&self.generators[class].sample(self.samples - real, &mut rng));
        }
        real
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
