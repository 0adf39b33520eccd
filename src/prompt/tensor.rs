//! Prompts on candle's tensors: what learns on other devices than the CPU.

use anyhow::{Context, Result, ensure};
use candle_core::{D, Tensor, Var, backprop::GradStore};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

use super::{
    learner::{Learner, texts},
    parameters::{FROZEN_NORM, Layer, Parameters, SELU_ALPHA, SELU_SCALE},
};
use crate::{
    clip::{Tokenizer, tensor::text::TextEncoder},
    task::Class,
};

/// The prompts of C classes. W is the text encoder's width, P the features' dimension.
pub struct Prompts {
    encoder: TextEncoder,
    start: Tensor,     // (1, 1, W), start of text
    tails: Tensor,     // (C, longest, W), tokens of "NAME." and end of text, then zeros
    ends: Vec<usize>,  // position of each class's end of text in its prompt
    zero_shot: Tensor, // (C, P), not normalised
    zero_shot_values: Vec<f32>,
    parameters: Parameters, // their names and shapes; the values are those of the start
    vars: Vec<Var>,         // the values, in the order of the parameters
    optimiser: Option<AdamW>,
}

impl Prompts {
    /// Prompts for `classes`, initialised from `seed`.
    pub fn new(
        encoder: TextEncoder,
        tokenizer: &Tokenizer,
        classes: &[Class],
        n_ctx: usize,
        seed: u64,
    ) -> Result<Self> {
        let (zero_shot, tails) = texts(tokenizer, classes, n_ctx)?;
        let zero_shot = encoder.features(tokenizer, &zero_shot)?; // (C, P)
        let longest = tails.iter().map(Vec::len).max().context("no classes")?;
        let embedded: Vec<Tensor> = tails
            .iter()
            .map(|ids| Ok(encoder.embed(ids)?.pad_with_zeros(0, 0, longest - ids.len())?))
            .collect::<Result<_>>()?;
        let parameters = Parameters::initial(classes, n_ctx, encoder.dim, encoder.width, seed);
        let vars = parameters
            .fields()
            .map(|(_, shape, range)| Ok(Var::from_slice(&parameters.values[range], shape, encoder.device())?));
        Ok(Prompts {
            start: encoder.embed(&[tokenizer.start()])?.unsqueeze(0)?,
            tails: Tensor::stack(&embedded, 0)?,
            ends: tails.iter().map(|ids| ids.len() + n_ctx + 1).collect(),
            zero_shot_values: zero_shot.flatten_all()?.to_vec1()?,
            zero_shot,
            vars: vars.collect::<Result<_>>()?,
            parameters,
            encoder,
            optimiser: None,
        })
    }

    /// The trainable parameters, in the order of [`Learner::parameters`].
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Cross-entropy of embeddings (B, P), normalised, against the prompts of the first `n` classes, with labels
    /// (B) u32; and its gradients.
    pub fn loss(&self, n: usize, embeddings: &Tensor, labels: &Tensor) -> Result<(Tensor, GradStore)> {
        // The text encoder's backward pass is written down; candle's graph ends on either side of it.
        let x = self.embeddings(n)?; // (n, T, W)
        let (features, state) = self.encoder.encode(&x.detach(), &self.ends[..n])?;
        let features = Var::from_tensor(&features)?; // (n, P)
        let logits = (embeddings.matmul(&normalise(&features)?.t()?)? * self.encoder.logit_scale)?; // (B, n)
        let loss = candle_nn::loss::cross_entropy(&logits, labels)?;
        let grads = loss.backward()?;
        let grad = grads.get(&features).context("the loss does not depend on the prompts")?;
        let grad = self.encoder.backward(&state, grad)?; // (n, T, W)
        // the vector-Jacobian product of `embeddings`, as the gradient of a scalar
        let grads = (x * grad)?.sum_all()?.backward()?;
        Ok((loss, grads))
    }

    /// Token embeddings (n, T, W) of the first `n` prompts, T the longest of them.
    fn embeddings(&self, n: usize) -> Result<Tensor> {
        let contexts = &self.vars[0];
        let (_, n_ctx, w) = contexts.dims3()?;
        let longest = self.ends[..n].iter().max().context("no classes")? + 1;
        let generated = self.generate(&self.zero_shot.narrow(0, 0, n)?)?.unsqueeze(1)?; // (n, 1, W)
        let tails = self.tails.narrow(0, 0, n)?.narrow(1, 0, longest - n_ctx - 2)?;
        Ok(Tensor::cat(&[&self.start.expand((n, 1, w))?, &contexts.narrow(0, 0, n)?, &generated, &tails], 1)?)
    }

    /// The context generator: text features (n, P) → contexts (n, W).
    fn generate(&self, features: &Tensor) -> Result<Tensor> {
        let mut vars = self.vars[1..].iter();
        let mut next = || vars.next().context("a parameter is missing");
        let mut x = features.clone();
        for Layer { norm, .. } in self.parameters.layers() {
            x = x.matmul(&next()?.t()?)?.broadcast_add(next()?)?;
            if norm.is_some() {
                x = (x * f64::from(FROZEN_NORM))?.broadcast_mul(next()?)?.broadcast_add(next()?)?;
                x = (x.elu(f64::from(SELU_ALPHA))? * f64::from(SELU_SCALE))?;
            }
        }
        Ok(x)
    }
}

impl Learner for Prompts {
    fn zero_shot(&self) -> &[f32] {
        &self.zero_shot_values
    }

    fn keys(&mut self, n: usize) -> Result<Vec<f32>> {
        let (features, _) = self.encoder.encode(&self.embeddings(n)?.detach(), &self.ends[..n])?;
        Ok(normalise(&features)?.flatten_all()?.to_vec1()?)
    }

    fn begin(&mut self, lr: f64) -> Result<()> {
        let options = ParamsAdamW { lr, weight_decay: 0.0, ..Default::default() };
        self.optimiser = Some(AdamW::new(self.vars.clone(), options)?);
        Ok(())
    }

    fn steps(&mut self, n: usize, embeddings: &[f32], classes: &[u32], batches: &[&[usize]]) -> Result<Vec<f32>> {
        let device = self.encoder.device();
        let embeddings = Tensor::from_slice(embeddings, (classes.len(), self.encoder.dim), device)?; // (N, P)
        let embeddings = normalise(&embeddings)?;
        let classes = Tensor::new(classes, device)?; // (N)
        let mut optimiser = self.optimiser.take().context("no optimiser was begun")?;
        let mut losses = Vec::new();
        for batch in batches {
            let rows: Vec<u32> = batch.iter().map(|&row| row as u32).collect();
            let rows = Tensor::new(rows, device)?; // (B)
            let (loss, grads) = self.loss(n, &embeddings.index_select(&rows, 0)?, &classes.index_select(&rows, 0)?)?;
            optimiser.step(&grads)?;
            losses.push(loss); // read at the end: the device need not wait for the host
        }
        self.optimiser = Some(optimiser);
        Ok(Tensor::stack(&losses, 0)?.to_vec1()?)
    }

    fn parameters(&self) -> Result<Parameters> {
        let mut parameters = self.parameters.clone();
        parameters.values.clear();
        for var in &self.vars {
            parameters.values.extend(var.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(parameters)
    }

    fn set_parameters(&mut self, parameters: Parameters) -> Result<()> {
        ensure!(parameters.values.len() == self.parameters.values.len(), "parameters of other prompts");
        for (var, (_, shape, range)) in self.vars.iter().zip(parameters.fields()) {
            var.set(&Tensor::from_slice(&parameters.values[range], shape, var.device())?)?;
        }
        Ok(())
    }
}

/// Rows (N, P) of length 1.
fn normalise(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}
