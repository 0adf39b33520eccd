//! A cache of class means beside zero-shot text: Tip-Adapter (Zhang, Fang, Zhang, Gao, Li, Dai,
//! Qiao and Li, ECCV 2022) with one key per class, so that no row is kept.

use anyhow::{Result, ensure};

use super::{
    classifier::{Examples, Incremental, OpenSet, State, Stored, take, unit},
    mean::UnitMeans,
};
use crate::{dense::cosine::cosines, evaluate::Scores};

/// What the cache may count, α, where a logit of text is the cosine times the logit scale.
const ALPHAS: [f64; 8] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// How fast an affinity may fall with the distance, β.
const BETAS: [f64; 7] = [1.0, 2.0, 4.0, 5.5, 8.0, 16.0, 32.0];

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

    /// α and β of the most hits, the first of several.
    pub fn chosen(&self) -> (f64, f64) {
        let most = self.hits.iter().copied().fold(0.0, f64::max);
        let place = self.hits.iter().position(|&hits| hits == most).unwrap_or(0);
        (ALPHAS[place / BETAS.len()], BETAS[place % BETAS.len()])
    }

    /// Counts what each α and β hit of the rows (N, D) of a learned class, each left out.
    fn count_hits(&mut self, rows: &[f32], class: usize) {
        let dim = self.means.dim();
        let seen = self.means.values().len() / dim;
        let units: Vec<Vec<f64>> =
            rows.chunks_exact(dim).filter_map(|row| Some(unit(row.iter().map(|&x| f64::from(x)))?.collect())).collect();
        let sum: Vec<f64> = (0..dim).map(|j| units.iter().map(|row| row[j]).sum()).collect();
        let text = cosines(rows, &self.text[..seen * dim], dim); // (N, n)
        let mut keys = cosines(rows, self.means.values(), dim); // (N, n)
        for ((row, text), keys) in units.iter().zip(text.chunks_exact(seen)).zip(keys.chunks_exact_mut(seen)) {
            // without the row its class's mean points elsewhere, or nowhere
            let others = unit(sum.iter().zip(row).map(|(sum, x)| sum - x));
            keys[class] = others.map_or(-1.0, |mean| mean.zip(row).map(|(mean, x)| mean * x).sum::<f64>() as f32);
            for (i, (alpha, beta)) in grid().enumerate() {
                let score = |c: usize| self.score(text[c], keys[c], alpha, beta);
                let own = score(class);
                let is_hit = (0..seen).all(|c| c == class || score(c) < own || (score(c) == own && c > class));
                self.hits[i] += f64::from(u8::from(is_hit));
            }
        }
    }

    fn score(&self, text: f32, key: f32, alpha: f64, beta: f64) -> f64 {
        f64::from(self.logit_scale * text) + alpha * (beta * (f64::from(key) - 1.0)).exp()
    }
}

fn grid() -> impl Iterator<Item = (f64, f64)> {
    ALPHAS.into_iter().flat_map(|alpha| BETAS.map(|beta| (alpha, beta)))
}

impl Incremental for ClassCache {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.means.learn(classes)?;
        let dim = self.means.dim();
        let (seen, texts) = (self.means.values().len() / dim, self.text.len() / dim);
        ensure!(seen <= texts, "{seen} classes are learned, and there are {texts} text features only");
        for (class, examples) in (seen - classes.len()..).zip(classes) {
            self.count_hits(examples.rows.values(), class);
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
        let (seen, texts) = (means.values().len() / means.dim(), self.text.len() / means.dim());
        ensure!(seen <= texts, "the means are of {seen} classes, but there are {texts} text features");
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
        let (all, seen) = (self.text.len() / dim, self.means.values().len() / dim);
        let (alpha, beta) = self.chosen();
        let text = cosines(embeddings, &self.text, dim); // (N, C)
        let keys = cosines(embeddings, self.means.values(), dim); // (N, n)
        let rows = || text.chunks_exact(all);
        let fused = rows().zip(keys.chunks_exact(seen)).flat_map(|(text, keys)| {
            text.iter().zip(keys).map(|(&text, &key)| self.score(text, key, alpha, beta) as f32)
        });
        let unseen = rows().flat_map(|row| &row[seen..]).map(|text| self.logit_scale * text);
        Scores { open: fused.collect(), seen: None, unseen: Some(unseen.collect()) }
    }
}
