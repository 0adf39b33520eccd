//! The embedding stream: real and generated embeddings under one Arrow schema, an epoch at a time.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use arrow::array::{Int64Array, RecordBatch, StringArray};
use rayon::prelude::*;

use super::Current;
use crate::{
    generator::{Generator, Noise},
    rng::{Draw, Rng},
    rows::{Rows, Train},
    table::{contract, file},
    task::Class,
};

/// What the prompts of the seen classes are trained on during one task.
pub struct EmbeddingStream<'a> {
    /// The seen classes in learning order; their names are the keys of their draws.
    pub seen: &'a [Class],
    /// Those of them that rows are drawn of, as positions.
    pub drawn: &'a [usize],
    /// Their generators; none where all rows are real.
    pub generators: &'a [Generator],
    /// What is added to what they give.
    pub noise: Option<&'a Noise>,
    /// Real training embeddings (N, D) by label, one at least; classes without are generated.
    pub real: BTreeMap<i64, Rows<Train>>,
    /// The task (from 0).
    pub task: usize,
    /// Values per embedding, D.
    pub dim: usize,
    /// Rows per class and epoch.
    pub samples: usize,
    /// How many rows of a class that has real ones are real.
    pub current: Current,
    /// Seed of every draw.
    pub seed: u64,
}

impl EmbeddingStream<'_> {
    /// The rows of an epoch, class by class, in the schema of `schemas/embedding_stream.toml`.
    pub fn epoch(&self, epoch: usize) -> Result<RecordBatch> {
        let mut rows = vec![0.0; self.drawn.len() * self.samples * self.dim];
        let real: Vec<usize> = rows
            .par_chunks_exact_mut(self.samples * self.dim)
            .enumerate()
            .map(|(i, rows)| self.draw(self.drawn[i], epoch, rows))
            .collect();
        let n = self.drawn.len() * self.samples;
        let class = (0..n).map(|i| self.drawn[i / self.samples] as i64);
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
        let class_of = &self.seen[class];
        let key = [self.task as u64, epoch as u64, class_of.key()];
        let mut rng = Rng::new(self.seed, Draw::Embeddings, &key);
        let own = self.real.get(&class_of.label);
        let real = match (own, self.current) {
            (None, _) | (_, Current::Generated) => 0,
            (Some(_), Current::Real) => self.samples,
            (Some(_), Current::Both) => self.samples.div_ceil(2),
        };
        let (first, rest) = rows.split_at_mut(real * self.dim);
        if let Some(own) = own {
            draw_real(own, first, &mut rng);
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&self.generators[class].sample(self.samples - real, &mut rng));
            if let Some(noise) = self.noise {
                noise.add(rest, self.dim, &mut Rng::new(self.seed, Draw::ReplayNoise, &key));
            }
        }
        real
    }
}

/// Fills `drawn` (n, D) with rows, each as often as the others, give or take one.
fn draw_real(rows: &Rows<Train>, drawn: &mut [f32], rng: &mut Rng) {
    let mut places = drawn.chunks_exact_mut(rows.dim());
    while places.len() > 0 && !rows.is_empty() {
        for (i, place) in rng.permutation(rows.len()).into_iter().zip(&mut places) {
            place.copy_from_slice(rows.row(i));
        }
    }
}
