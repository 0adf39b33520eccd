//! A cache of class means beside zero-shot text: Tip-Adapter (Zhang, Fang, Zhang, Gao, Li, Dai,
//! Qiao and Li, ECCV 2022) with one key per class, so that no row is kept.

use anyhow::Result;
use rayon::prelude::*;

use super::{
    classifier::{
        Examples, Incremental, OpenSet, State, Stored, learn_as_sums, require_texts, require_texts_of_state, take, unit,
    },
    mean::UnitMeans,
};
use crate::{dense::cosine::cosines, evaluate::Scores};

/// What the cache may count, α, where a logit of text is the cosine times the logit scale.
const ALPHAS: [f64; 8] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// How fast an affinity may fall with the distance, β.
const BETAS: [f64; 7] = [1.0, 2.0, 4.0, 5.5, 8.0, 16.0, 32.0];

/// α and β as the authors begin with.
const AUTHORS: (f64, f64) = (1.0, 5.5);

/// Scores s·cos(x, text) + α exp(−β (1 − cos(x, mean))) of learned classes; of the others the text
/// alone. α and β are those that hit most of the rows so far, each left out of its class's mean
/// when its task was learned.
pub struct ClassCache {
    means: UnitMeans,
    text: Vec<f32>, // (C, P), of length 1, in learning order
    logit_scale: f32,
    hits: Vec<f64>, // (alphas, betas)
}

impl ClassCache {
    /// For the classes whose zero-shot text features are `text` (C, P), of length 1, in the order
    /// in which they will be learned.
    pub fn new(text: Vec<f32>, dim: usize, logit_scale: f32) -> Self {
        ClassCache { means: UnitMeans::new(dim), text, logit_scale, hits: vec![0.0; ALPHAS.len() * BETAS.len()] }
    }

    /// α and β of the most hits, the first of several; the authors' where nothing was hit.
    pub fn chosen(&self) -> (f64, f64) {
        let most = self.hits.iter().copied().fold(0.0, f64::max);
        let place = self.hits.iter().position(|&hits| hits == most && hits > 0.0);
        place.map_or(AUTHORS, |place| (ALPHAS[place / BETAS.len()], BETAS[place % BETAS.len()]))
    }

    /// How many classes are learned, n.
    fn seen(&self) -> usize {
        self.means.values().len() / self.means.dim()
    }

    /// How many classes have a text feature.
    fn texts(&self) -> usize {
        self.text.len() / self.means.dim()
    }

    /// What each α and β hits of the rows (N, D) of a learned class, each left out. A class of one
    /// row says nothing: without the row it has no mean.
    fn hits_of(&self, rows: &[f32], class: usize) -> Vec<f64> {
        let (dim, seen) = (self.means.dim(), self.seen());
        let mut hits = vec![0.0; self.hits.len()];
        let unit_row = |row: &[f32]| unit(row.iter().map(|&x| f64::from(x))).map(Iterator::collect);
        let units: Vec<Vec<f64>> = rows.chunks_exact(dim).filter_map(unit_row).collect();
        let sum: Vec<f64> = (0..dim).map(|j| units.iter().map(|row| row[j]).sum()).collect();
        let text = cosines(rows, &self.text[..seen * dim], dim); // (N, n)
        let mut keys = cosines(rows, self.means.values(), dim); // (N, n)
        for ((row, text), keys) in units.iter().zip(text.chunks_exact(seen)).zip(keys.chunks_exact_mut(seen)) {
            let others = unit(sum.iter().zip(row).map(|(sum, x)| sum - x));
            let Some(mean) = others.filter(|_| units.len() > 1) else { continue };
            keys[class] = mean.zip(row).map(|(mean, x)| mean * x).sum::<f64>() as f32;
            for (j, beta) in BETAS.into_iter().enumerate() {
                let affinities: Vec<f64> = keys.iter().map(|&key| affinity(key, beta)).collect(); // (n)
                for (i, alpha) in ALPHAS.into_iter().enumerate() {
                    let score = |c: usize| f64::from(self.logit_scale * text[c]) + alpha * affinities[c];
                    let own = score(class);
                    let is_hit = (0..seen).all(|c| c == class || score(c) < own || (score(c) == own && c > class));
                    hits[i * BETAS.len() + j] += f64::from(u8::from(is_hit));
                }
            }
        }
        hits
    }
}

/// What a key counts at a cosine: exp(−β (1 − cos)).
fn affinity(cosine: f32, beta: f64) -> f64 {
    (beta * (f64::from(cosine) - 1.0)).exp()
}

impl Incremental for ClassCache {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        let learned = self.seen();
        require_texts(classes.iter().map(|examples| examples.class), self.means.labels(), self.texts())?;
        learn_as_sums(&mut self.means, classes)?;
        let of_class = |(place, examples): (usize, &Examples)| self.hits_of(examples.rows.values(), learned + place);
        let all: Vec<Vec<f64>> = classes.par_iter().enumerate().map(of_class).collect();
        for hits in all {
            self.hits.iter_mut().zip(hits).for_each(|(sum, hits)| *sum += hits);
        }
        Ok(())
    }

    fn state(&self) -> State {
        let mut state = self.means.state();
        state.insert("hits".into(), (vec![ALPHAS.len(), BETAS.len()], self.hits.clone()));
        state
    }

    fn restore(&mut self, mut state: State) -> Result<()> {
        let hits = take(&mut state, "hits", &[ALPHAS.len(), BETAS.len()])?;
        let means = UnitMeans::from_state(state, self.means.dim())?;
        require_texts_of_state(means.values().len() / means.dim(), self.texts())?;
        (self.means, self.hits) = (means, hits);
        Ok(())
    }

    fn stored(&self) -> Stored {
        let Stored { per_class, shared } = self.means.stored();
        Stored { per_class, shared: shared + size_of_val(&self.hits[..]) }
    }
}

impl OpenSet for ClassCache {
    fn scores_of_all(&self, embeddings: &[f32]) -> Scores {
        let dim = self.means.dim();
        let (all, seen) = (self.texts(), self.seen());
        let (alpha, beta) = self.chosen();
        let text = cosines(embeddings, &self.text, dim); // (N, C)
        let keys = cosines(embeddings, self.means.values(), dim); // (N, n)
        let rows = || text.chunks_exact(all);
        let fused = rows().zip(keys.chunks_exact(seen)).flat_map(|(text, keys)| {
            text.iter()
                .zip(keys)
                .map(|(&text, &key)| (f64::from(self.logit_scale * text) + alpha * affinity(key, beta)) as f32)
        });
        let unseen = rows().flat_map(|row| &row[seen..]).map(|text| self.logit_scale * text);
        Scores { unseen: Some(unseen.collect()), ..Scores::logits(fused.collect(), 1.0) }
    }
}
