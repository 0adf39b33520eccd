//! Prompts that learn, wherever they are computed.

use std::ops::Range;

use anyhow::Result;

use super::{Batch, PromptConfig, parameters::Parameters};
use crate::{
    clip::Tokenizer,
    task::Class,
    texts::{self, spoken},
};

/// What learns in a task. Classes are positions in learning order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learning {
    /// How many classes were learned before it.
    pub past: usize,
    /// The class whose own vectors alone learn; none is all that `--train-prompts` says.
    pub alone: Option<usize>,
    /// Classes that are no candidates any more.
    pub removed: Vec<usize>,
}

impl Learning {
    /// All that `--train-prompts` says, where `past` classes were learned before.
    pub fn after(past: usize) -> Self {
        Learning { past, ..Learning::default() }
    }

    /// The classes, of the first `n`, whose own vectors learn.
    pub fn own(&self, config: &PromptConfig, n: usize) -> Range<usize> {
        self.alone.map_or(config.frozen(self.past)..n, |class| class..class + 1)
    }

    /// What takes classes that are no candidates out of logits of the first `n`: it is added to them
    /// (n).
    pub(super) fn left_out(&self, n: usize) -> Vec<f32> {
        let mut more = vec![0.0; n];
        self.removed.iter().for_each(|&class| more[class] = f32::NEG_INFINITY);
        more
    }
}

/// The prompts of C classes: [start of text][context vectors][tokens of "NAME."][end of text], of
/// SigLIP [context vectors][tokens of "NAME."][end of text][padding, to the last position], through
/// the frozen text encoder. P is the features' dimension. Rows are flat.
pub trait Learner {
    /// Text features (C, P) of the template with the classes' names, not normalised.
    fn zero_shot(&self) -> &[f32];

    /// What cosines are multiplied with.
    fn logit_scale(&self) -> f32;

    /// Normalised text features (n, P) of the prompts of the first `n` classes; empty where prompts
    /// depend on the image.
    fn keys(&mut self, n: usize) -> Result<Vec<f32>>;

    /// Cosines (N, n) of embeddings (N, P), normalised, with the text features of the prompts of
    /// the first `n` classes.
    fn scores(&mut self, n: usize, embeddings: &[f32]) -> Result<Vec<f32>>;

    /// Starts a new optimiser for a task.
    fn begin(&mut self, learning: &Learning) -> Result<()>;

    /// A step for each of the `batches`, which are rows of the `embeddings` (N, P), as the image
    /// encoder gives them, and of their `classes` (N), against the prompts of the first `n` classes,
    /// or of those of them that a batch names. Returns the steps' losses: cross-entropy of exp(logit_scale)·cosine, and the
    /// penalty of --ortho.
    fn steps(&mut self, n: usize, embeddings: &[f32], classes: &[u32], batches: &[Batch]) -> Result<Vec<f32>>;

    /// What is learned.
    fn parameters(&self) -> Result<Parameters>;

    /// Sets what is learned.
    fn set_parameters(&mut self, parameters: Parameters) -> Result<()>;
}

/// The two texts of every class, the template with its name and the tokens of "NAME." with what
/// ends them.
pub(super) fn texts(
    tokenizer: &Tokenizer,
    classes: &[Class],
    config: &PromptConfig,
) -> Result<(Vec<String>, Vec<Vec<u32>>)> {
    let zero_shot = classes.iter().map(|class| texts::fill(&config.template, class)).collect();
    let starts = usize::from(tokenizer.start().is_some());
    let tail = |class: &Class| {
        let ids = tokenizer.encode(&format!("{}.", spoken(class)), config.vectors())?;
        Ok(ids[starts..].to_vec())
    };
    Ok((zero_shot, classes.iter().map(tail).collect::<Result<_>>()?))
}
