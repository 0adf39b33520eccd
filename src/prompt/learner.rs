//! Prompts that learn, wherever they are computed.

use anyhow::Result;
use candle_core::Device;

use super::{NAME, PromptConfig, cpu, parameters::Parameters, tensor};
use crate::{
    clip::{Checkpoint, Tokenizer},
    dense::product::{Matrix, Product, Threads},
    task::Class,
};

/// The prompts of C classes: [start of text][context vectors][tokens of "NAME."][end of text], through the frozen text
/// encoder. P is the features' dimension. Rows are flat.
pub trait Learner {
    /// Text features (C, P) of the template with the classes' names, not normalised.
    fn zero_shot(&self) -> &[f32];

    /// What cosines are multiplied with.
    fn logit_scale(&self) -> f32;

    /// Normalised text features (n, P) of the prompts of the first `n` classes; empty where prompts depend on the image.
    fn keys(&mut self, n: usize) -> Result<Vec<f32>>;

    /// Cosines (N, n) of embeddings (N, P), normalised, with the text features of the prompts of the first `n` classes.
    fn scores(&mut self, n: usize, embeddings: &[f32]) -> Result<Vec<f32>>;

    /// Starts a new optimiser, for a task before which `past` classes were learned.
    fn begin(&mut self, past: usize) -> Result<()>;

    /// A step for each of the `batches`, which are rows of the `embeddings` (N, P), as the image encoder gives them, and
    /// of their `classes` (N), against the prompts of the first `n` classes. Returns the steps' losses: cross-entropy of
    /// exp(logit_scale)·cosine, and the penalty of --ortho.
    fn steps(&mut self, n: usize, embeddings: &[f32], classes: &[u32], batches: &[&[usize]]) -> Result<Vec<f32>>;

    /// What is learned.
    fn parameters(&self) -> Result<Parameters>;

    /// Sets what is learned.
    fn set_parameters(&mut self, parameters: Parameters) -> Result<()>;
}

/// The prompts of `classes`, initialised from `seed`.
pub fn new(
    checkpoint: &Checkpoint,
    classes: &[Class],
    config: &PromptConfig,
    seed: u64,
    device: &Device,
) -> Result<Box<dyn Learner>> {
    config.check()?;
    let tokenizer = checkpoint.tokenizer()?;
    Ok(match device {
        Device::Cpu => {
            Box::new(cpu::Prompts::new(checkpoint.text_encoder(&tokenizer)?, &tokenizer, classes, config, seed)?)
        }
        device => {
            let encoder = checkpoint.text_encoder_on(device)?;
            Box::new(tensor::Prompts::new(encoder, &tokenizer, classes, config, seed)?)
        }
    })
}

/// The two texts of every class, the template with its name and the tokens of "NAME." with the end of text; underscores
/// in a name become spaces.
pub(super) fn texts(
    tokenizer: &Tokenizer,
    classes: &[Class],
    config: &PromptConfig,
) -> Result<(Vec<String>, Vec<Vec<u32>>)> {
    let names = || classes.iter().map(|class| class.name.replace('_', " "));
    let zero_shot = names().map(|name| config.template.replace(NAME, &name)).collect();
    let tail = |name: String| Ok(tokenizer.encode(&format!("{name}."), config.vectors())?[1..].to_vec());
    Ok((zero_shot, names().map(tail).collect::<Result<_>>()?))
}

/// Products (N, n) of embeddings (N, P) and keys (n, P).
pub(super) fn cosines(embeddings: &[f32], keys: &[f32], dim: usize) -> Vec<f32> {
    let (rows, n) = (embeddings.len() / dim, keys.len() / dim);
    let mut cosines = vec![0.0; rows * n]; // (N, n)
    Product::on(Threads::All).into(&mut cosines, n, Matrix::new(embeddings, dim), Matrix::new(keys, dim).t());
    cosines
}
