//! The prompts of all classes: [SOS][context of the class][generated context][tokens of "NAME."][EOS],
//! through the frozen text encoder.

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor, Var, backprop::GradStore};

use crate::{
    clip::{TextEncoder, Tokenizer},
    rng::{Draw, Rng},
    task::Class,
    tensors::{self, Tensors},
};

/// 1 / deviation of the context generator's batch norms, frozen at their initial statistics (mean 0,
/// variance 1): a batch of class names has none to use.
const FROZEN_NORM: f64 = 0.999_995_000_037_499_7; // 1 / sqrt(1 + 1e-5)

/// SELU's constants (Klambauer et al., 2017).
const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
const SELU_SCALE: f64 = 1.050_700_987_355_480_5;

/// Positions of the affine maps and of the frozen norms in the context generator, as in its PyTorch module.
const LINEARS: [usize; 4] = [0, 3, 6, 9];

/// The trainable prompts of C classes. W is the text encoder's width, P the features' dimension.
pub struct PromptLearner {
    encoder: TextEncoder,
    start: Tensor,     // (1, 1, W), start of text
    tails: Tensor,     // (C, longest, W), tokens of "NAME." and end of text, then zeros
    ends: Vec<usize>,  // position of each class's end of text in its prompt
    zero_shot: Tensor, // (C, P), not normalised
    contexts: Var,     // (C, n_ctx, W)
    generator: Vec<(String, Var)>,
}

impl PromptLearner {
    /// Prompts for `classes`, initialised from `seed`.
    pub fn new(
        encoder: TextEncoder,
        tokenizer: &Tokenizer,
        classes: &[Class],
        n_ctx: usize,
        seed: u64,
    ) -> Result<Self> {
        let names: Vec<String> = classes.iter().map(|class| class.name.replace('_', " ")).collect();
        let zero_shot: Vec<String> = names.iter().map(|name| format!("a photo of a {name}")).collect();
        let zero_shot = encoder.features(tokenizer, &zero_shot)?; // (C, P)

        let (mut tails, mut ends) = (Vec::new(), Vec::new());
        let mut start = None;
        for name in &names {
            let ids = tokenizer.encode(&format!("{name}."), n_ctx + 1)?;
            ends.push(tokenizer.end_of_text(&ids) + n_ctx + 1);
            start = Some(ids[0]);
            tails.push(ids[1..].to_vec());
        }
        let longest = tails.iter().map(Vec::len).max().context("no classes")?;
        let width = encoder.width;
        let tails: Vec<Tensor> = tails
            .iter()
            .map(|ids| Ok(encoder.embed(ids)?.pad_with_zeros(0, 0, longest - ids.len())?))
            .collect::<Result<_>>()?;

        let device = encoder.device().clone();
        let contexts: Vec<f32> = classes
            .iter()
            .flat_map(|class| Rng::new(seed, Draw::Context, &[class.label as u64]).normals(n_ctx * width))
            .map(|x| 0.02 * x)
            .collect();
        let start = encoder.embed(&[start.context("no classes")?])?.unsqueeze(0)?;
        Ok(PromptLearner {
            start,
            tails: Tensor::stack(&tails, 0)?,
            ends,
            zero_shot,
            contexts: Var::from_tensor(&Tensor::from_vec(contexts, (classes.len(), n_ctx, width), &device)?)?,
            generator: context_generator(encoder.dim, width, seed, &device)?,
            encoder,
        })
    }

    /// The trainable parameters by name.
    pub fn parameters(&self) -> Vec<(String, Var)> {
        let contexts = ("contexts".to_owned(), self.contexts.clone());
        std::iter::once(contexts)
            .chain(self.generator.iter().map(|(name, var)| (format!("generator.{name}"), var.clone())))
            .collect()
    }

    /// Text features (C, P) of "a photo of a NAME", not normalised.
    pub fn zero_shot(&self) -> &Tensor {
        &self.zero_shot
    }

    /// exp(logit_scale): what cosines are multiplied with.
    pub fn logit_scale(&self) -> f64 {
        self.encoder.logit_scale
    }

    /// Normalised text features (n, P) of the prompts of the first `n` classes.
    pub fn keys(&self, n: usize) -> Result<Tensor> {
        let (features, _) = self.encoder.encode(&self.embeddings(n)?.detach(), &self.ends[..n])?;
        normalise(&features)
    }

    /// Cross-entropy of embeddings (B, P), normalised, against the prompts of the first `n` classes, with labels
    /// (B) u32; and its gradients.
    pub fn loss(&self, n: usize, embeddings: &Tensor, labels: &Tensor) -> Result<(f32, GradStore)> {
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
        Ok((loss.to_scalar()?, grads))
    }

    /// Token embeddings (n, T, W) of the first `n` prompts, T the longest of them.
    fn embeddings(&self, n: usize) -> Result<Tensor> {
        let (_, n_ctx, w) = self.contexts.dims3()?;
        let longest = self.ends[..n].iter().max().context("no classes")? + 1;
        let generated = self.generate(&self.zero_shot.narrow(0, 0, n)?)?.unsqueeze(1)?; // (n, 1, W)
        let tails = self.tails.narrow(0, 0, n)?.narrow(1, 0, longest - n_ctx - 2)?;
        Ok(Tensor::cat(&[&self.start.expand((n, 1, w))?, &self.contexts.narrow(0, 0, n)?, &generated, &tails], 1)?)
    }

    /// The context generator: text features (n, P) → contexts (n, W).
    fn generate(&self, features: &Tensor) -> Result<Tensor> {
        let var = |i: usize| &self.generator[i].1;
        let mut x = features.clone();
        for layer in 0..LINEARS.len() {
            x = x.matmul(&var(4 * layer).t()?)?.broadcast_add(var(4 * layer + 1))?;
            if layer + 1 < LINEARS.len() {
                x = (x * FROZEN_NORM)?.broadcast_mul(var(4 * layer + 2))?.broadcast_add(var(4 * layer + 3))?;
                x = (x.elu(SELU_ALPHA)? * SELU_SCALE)?;
            }
        }
        Ok(x)
    }

    /// The parameters' values, to be stored.
    pub fn tensors(&self) -> Result<Tensors> {
        let values = |var: &Var| -> Result<_> { Ok((var.dims().to_vec(), var.flatten_all()?.to_vec1::<f32>()?)) };
        self.parameters().into_iter().map(|(name, var)| Ok((name, values(&var)?))).collect()
    }

    /// Sets the parameters to stored values.
    pub fn load(&mut self, mut stored: Tensors) -> Result<()> {
        for (name, var) in self.parameters() {
            let (shape, values) = tensors::take(&mut stored, &name)?;
            if shape != var.dims() {
                bail!("tensor {name:?} should have shape {:?}, but has {shape:?}", var.dims());
            }
            var.set(&Tensor::from_vec(values, shape, var.device())?)?;
        }
        Ok(())
    }
}

/// Rows (N, P) of length 1.
pub fn normalise(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}

/// P → P → P → W → W, initialised as PyTorch's layers are: per affine map weight and bias, uniform in
/// ±1/√inputs; after each of the first three the frozen norm's scale and shift.
fn context_generator(dim: usize, width: usize, seed: u64, device: &Device) -> Result<Vec<(String, Var)>> {
    let mut rng = Rng::new(seed, Draw::ContextGenerator, &[]);
    let mut vars = Vec::new();
    for (position, (inputs, out)) in LINEARS.into_iter().zip([(dim, dim), (dim, dim), (dim, width), (width, width)]) {
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut uniform = |n: usize| -> Vec<f32> { (0..n).map(|_| bound * (2.0 * rng.uniform() - 1.0)).collect() };
        let weight = Tensor::from_vec(uniform(out * inputs), (out, inputs), device)?;
        let bias = Tensor::from_vec(uniform(out), out, device)?;
        vars.push((format!("{position}.weight"), Var::from_tensor(&weight)?));
        vars.push((format!("{position}.bias"), Var::from_tensor(&bias)?));
        if position != LINEARS[3] {
            vars.push((format!("{}.weight", position + 1), Var::ones(out, DType::F32, device)?));
            vars.push((format!("{}.bias", position + 1), Var::zeros(out, DType::F32, device)?));
        }
    }
    Ok(vars)
}
