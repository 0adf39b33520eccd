//! Prompts that learn, wherever they are computed.

use anyhow::Result;
use candle_core::Device;

use super::{
    PromptConfig,
    cpu::{self, normalise},
    parameters::Parameters,
    tensor,
};
use crate::{
    clip::Checkpoint,
    dense::product::{Matrix, Product, Threads},
    task::Class,
};

/// Takes embeddings (N, P) to scores (N, n).
pub type Scorer<'a> = Box<dyn FnMut(&[f32]) -> Result<Vec<f32>> + 'a>;

/// The prompts of C classes: [start of text][n_ctx context vectors of the class][generated context][tokens of
/// "NAME."][end of text], through the frozen text encoder. P is the features' dimension. Rows are flat.
pub trait Learner {
    /// Text features (C, P) of "a photo of a NAME", not normalised.
    fn zero_shot(&self) -> &[f32];

    /// Normalised text features (n, P) of the prompts of the first `n` classes.
    fn keys(&mut self, n: usize) -> Result<Vec<f32>>;

    /// What gives the cosines (N, n) of embeddings (N, P), as the image encoder gives them, with the prompts of the first
    /// `n` classes.
    fn scorer(&mut self, n: usize) -> Result<Scorer<'_>> {
        let keys = self.keys(n)?; // (n, P)
        Ok(Box::new(move |embeddings| {
            let p = keys.len() / n;
            let mut images = embeddings.to_vec(); // (N, P)
            normalise(&mut images, p);
            let mut cosines = vec![0.0; images.len() / p * n]; // (N, n)
            Product::on(Threads::All).into(&mut cosines, n, Matrix::new(&images, p), Matrix::new(&keys, p).t());
            Ok(cosines)
        }))
    }

    /// Starts a new optimiser: AdamW without weight decay, over all parameters.
    fn begin(&mut self, lr: f64) -> Result<()>;

    /// A step for each of the `batches`, which are rows of the `embeddings` (N, P), as the image encoder gives them, and
    /// of their `classes` (N), against the prompts of the first `n` classes. Returns the steps' losses: cross-entropy of
    /// exp(logit_scale)·cosine.
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
    let (n_ctx, tokenizer) = (config.n_ctx, checkpoint.tokenizer()?);
    Ok(match device {
        Device::Cpu => {
            Box::new(cpu::Prompts::new(checkpoint.text_encoder(&tokenizer)?, &tokenizer, classes, n_ctx, seed)?)
        }
        device => {
            let encoder = checkpoint.text_encoder_on(device)?;
            Box::new(tensor::Prompts::new(encoder, &tokenizer, classes, n_ctx, seed)?)
        }
    })
}

/// The two texts of every class, "a photo of a NAME" and the tokens of "NAME." with the end of text; underscores in a
/// name become spaces.
pub(super) fn texts(
    tokenizer: &crate::clip::Tokenizer,
    classes: &[Class],
    n_ctx: usize,
) -> Result<(Vec<String>, Vec<Vec<u32>>)> {
    let names = || classes.iter().map(|class| class.name.replace('_', " "));
    let zero_shot = names().map(|name| format!("a photo of a {name}")).collect();
    let tail = |name: String| Ok(tokenizer.encode(&format!("{name}."), n_ctx + 1)?[1..].to_vec());
    Ok((zero_shot, names().map(tail).collect::<Result<_>>()?))
}
