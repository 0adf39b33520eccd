//! Ridge regression fused with zero-shot text: RAIL, the primal form (Xu, Chen, Nie, Wang, Zhuang
//! and Okumura, NeurIPS 2024). Text alone tells whether a class is a learned one.

use anyhow::Result;

use super::{
    classifier::{Classifier, Examples, Incremental, OpenSet, State, Stored, require_texts, require_texts_of_state},
    projection::RandomProjection,
};
use crate::{
    dense::{cosine::cosines, softmax::softmax, vector::vectorised},
    evaluate::Scores,
};

/// What zero-shot probabilities count beside the ridge regression, as in the authors' code.
const ZERO_SHOT: f32 = 0.1;

/// A random projection with ridge regression, and zero-shot text beside it. The ridge and the
/// number of random features are chosen as [`RandomProjection`] chooses them.
pub struct Rail {
    projection: RandomProjection,
    text: Vec<f32>, // (C, P), of length 1, in learning order
    dim: usize,
    logit_scale: f32,
}

impl Rail {
    /// For the classes whose zero-shot text features are `text` (C, P), of length 1, in the order
    /// in which they will be learned.
    pub fn new(projection: RandomProjection, text: Vec<f32>, dim: usize, logit_scale: f32) -> Self {
        Rail { projection, text, dim, logit_scale }
    }

    /// How many classes have a text feature.
    fn texts(&self) -> usize {
        self.text.len() / self.dim
    }
}

impl Incremental for Rail {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        require_texts(classes.iter().map(|examples| examples.class), self.projection.labels(), self.texts())?;
        self.projection.learn(classes)
    }

    fn state(&self) -> State {
        self.projection.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let labels = state.get("labels").and_then(|(shape, _)| shape.first());
        require_texts_of_state(labels.copied().unwrap_or(0), self.texts())?;
        self.projection.restore(state)
    }

    fn stored(&self) -> Stored {
        self.projection.stored()
    }
}

impl OpenSet for Rail {
    fn scores_of_all(&self, embeddings: &[f32]) -> Scores {
        let (all, seen) = (self.texts(), self.projection.class_count());
        let mut text = cosines(embeddings, &self.text, self.dim); // (N, C)
        text.iter_mut().for_each(|x| *x *= self.logit_scale);
        let open: Vec<f32> = text.chunks_exact(all).flat_map(|row| &row[..seen]).copied().collect();
        let unseen = text.chunks_exact(all).flat_map(|row| &row[seen..]).copied().collect();
        let mut fused = self.projection.scores(embeddings); // (N, n)
        for (fused, text) in fused.chunks_exact_mut(seen).zip(text.chunks_exact_mut(all)) {
            vectorised(
                #[inline(always)]
                || softmax(text),
            );
            fused.iter_mut().zip(text).for_each(|(x, text)| *x = (1.0 - ZERO_SHOT) * *x + ZERO_SHOT * *text);
        }
        Scores { seen: Some(fused), unseen: Some(unseen), ..open.into() }
    }
}
