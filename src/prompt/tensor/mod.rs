//! Prompts on candle's tensors: what learns on other devices than the CPU.

mod generator;
mod loss;
pub mod optimiser;

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use candle_core::{Device, Tensor, Var, backprop::GradStore};

use self::{
    generator::{Generator, LayerState},
    loss::{Targets, normalise, own_cosines},
    optimiser::Optimiser,
};
use super::{
    Batch, Candidates, Context, PromptConfig,
    learner::{Learner, Learning, texts},
    orthogonal,
    parameters::{Layer, Parameters},
};
use crate::{
    clip::{Tokenizer, tensor::text::TextEncoder},
    dense::cosine::cosines,
    task::Class,
};

/// Prompts in hand at a time, where they depend on the image and those of one image are not more:
/// what bounds the memory.
const IMAGE_PROMPTS: usize = 1024;

/// The prompts of C classes, with V context vectors each. W is the text encoder's width, P the
/// features' dimension.
pub struct Prompts {
    encoder: TextEncoder,
    start: Option<Tensor>, // (1, 1, W), start of text, where there is one
    tails: Tensor,         // (C, longest, W), tokens of "NAME." and what ends them, then zeros
    ends: Vec<usize>,      // position of each class's end of text in its prompt
    zero_shot: Tensor,     // (C, P), not normalised
    zero_shot_values: Vec<f32>,
    config: PromptConfig,
    parameters: Parameters, // their names and shapes; the values are those of the start
    vars: Vec<Var>,         // the values, in the order of the parameters
    generator: Generator,   // of them
    optimiser: Option<Optimiser>,
    learning: Learning,
    fixed: Option<Tensor>, // (F, P), the features of the first classes, where nothing in their prompts learns; not normalised
}

/// Context vectors of K classes, learned ones and then generated ones.
struct Vectors {
    values: Tensor, // (K, V, W)
    /// Of the context generator's layers.
    states: Vec<LayerState>,
}

/// Classes, ascending, by their places in learning order.
enum Classes<'a> {
    Range(Range<usize>),
    List(&'a [usize]),
}

impl Classes<'_> {
    fn len(&self) -> usize {
        match self {
            Classes::Range(range) => range.len(),
            Classes::List(list) => list.len(),
        }
    }

    fn places(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Classes::Range(range) => Box::new(range.clone()),
            Classes::List(list) => Box::new(list.iter().copied()),
        }
    }

    /// Those below a place, and the others.
    fn split(&self, place: usize) -> [Classes<'_>; 2] {
        match self {
            Classes::Range(range) => {
                let middle = place.clamp(range.start, range.end);
                [Classes::Range(range.start..middle), Classes::Range(middle..range.end)]
            }
            Classes::List(list) => {
                let (below, others) = list.split_at(list.partition_point(|&class| class < place));
                [Classes::List(below), Classes::List(others)]
            }
        }
    }

    /// Their rows of x (C, …).
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Classes::Range(range) => x.narrow(0, range.start, range.len())?,
            Classes::List(_) => x.index_select(&self.indices(x.device())?, 0)?,
        })
    }

    /// Their places (K) u32.
    fn indices(&self, device: &Device) -> Result<Tensor> {
        let places: Vec<u32> = self.places().map(|class| class as u32).collect();
        Ok(Tensor::new(places, device)?)
    }
}

impl Prompts {
    /// Prompts for `classes`, initialised from `seed`.
    pub fn new(
        encoder: TextEncoder,
        tokenizer: &Tokenizer,
        classes: &[Class],
        config: &PromptConfig,
        seed: u64,
    ) -> Result<Self> {
        let (zero_shot, tails) = texts(tokenizer, classes, config)?;
        let zero_shot = encoder.features(tokenizer, &zero_shot)?; // (C, P)
        let longest = tails.iter().map(Vec::len).max().context("no classes")?;
        let embedded: Vec<Tensor> = tails
            .iter()
            .map(|ids| Ok(encoder.embed(ids)?.pad_with_zeros(0, 0, longest - ids.len())?))
            .collect::<Result<_>>()?;
        let parameters = Parameters::initial(classes, config, encoder.dim, encoder.width, seed);
        let vars = parameters
            .fields()
            .map(|(_, shape, range)| Ok(Var::from_slice(&parameters.values[range], shape, encoder.device())?))
            .collect::<Result<Vec<_>>>()?;
        let var = |place: &Range<usize>| -> Result<Var> { Ok(var(&parameters, &vars, place)?.clone()) };
        let layer = |Layer { weight, bias, norm }: Layer| -> Result<generator::Layer> {
            let norm = match &norm {
                Some([scale, shift]) => Some([var(scale)?, var(shift)?]),
                None => None,
            };
            Ok(generator::Layer { weight: var(&weight)?, bias: var(&bias)?, norm })
        };
        let generator = Generator { layers: parameters.generator().into_iter().map(layer).collect::<Result<_>>()? };
        let start = match tokenizer.start() {
            Some(start) => Some(encoder.embed(&[start])?.unsqueeze(0)?),
            None => None,
        };
        let before = usize::from(start.is_some()) + config.vectors();
        Ok(Prompts {
            start,
            tails: Tensor::stack(&embedded, 0)?,
            ends: tails.iter().map(|ids| before + ids.len() - 1).collect(),
            zero_shot_values: zero_shot.flatten_all()?.to_vec1()?,
            zero_shot,
            config: config.clone(),
            generator,
            vars,
            parameters,
            encoder,
            optimiser: None,
            learning: Learning::default(),
            fixed: None,
        })
    }

    /// The trainable parameters, in the order of [`Learner::parameters`].
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Cross-entropy of embeddings (B, P), normalised, against the prompts of the first `n`
    /// classes, with labels (B) u32, and the penalty of --ortho; and its gradients.
    pub fn loss(&self, n: usize, embeddings: &Tensor, labels: &Tensor) -> Result<(Tensor, GradStore)> {
        if self.config.context == Context::Image {
            return self.image_loss(n, embeddings, labels);
        }
        self.loss_of(&Classes::Range(0..n), self.left_out(n)?.as_ref(), embeddings, labels)
    }

    /// As `loss`, against the prompts of K candidates, of which the labels (B) are.
    pub fn loss_among(
        &self,
        candidates: &Candidates,
        embeddings: &Tensor,
        labels: &[u32],
    ) -> Result<(Tensor, GradStore)> {
        let device = self.encoder.device();
        let more = Tensor::new(candidates.more.as_slice(), device)?;
        let places = Tensor::new(candidates.places(labels), device)?;
        self.loss_of(&Classes::List(&candidates.classes), Some(&more), embeddings, &places)
    }

    /// Cross-entropy and penalty against the prompts of K classes, to whose logits `more` (K) is
    /// added, where there is any. Labels (B) are places among them.
    fn loss_of(
        &self,
        classes: &Classes,
        more: Option<&Tensor>,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<(Tensor, GradStore)> {
        let Vectors { values, states } = self.vectors(classes)?;
        let [fixed, learning] = classes.split(self.fixed_classes());
        let targets = Targets { embeddings, labels, more, logit_scale: self.encoder.logit_scale };
        let (mut loss, mut grad) = match learning.len() {
            // nothing in the prompts of these classes learns
            0 => (targets.loss(&self.kept(&fixed)?)?.0, values.zeros_like()?),
            count => {
                let prompts = values.narrow(0, fixed.len(), count)?; // (K − F, V, W)
                let (loss, grad) = self.gradient(&prompts, &learning, |features| {
                    let (loss, grad) = targets.loss(&self.with_kept(&fixed, features)?)?;
                    // products want it where a tensor begins
                    let grad =
                        if fixed.len() > 0 { grad.narrow(0, fixed.len(), count)?.force_contiguous()? } else { grad };
                    Ok((loss, grad))
                })?;
                (loss, grad.pad_with_zeros(0, fixed.len(), 0)?)
            }
        };
        if self.config.ortho != 0.0 {
            let values = Var::from_tensor(&values)?;
            let penalty = self.penalty(&values)?;
            let of_penalty = penalty.backward()?.remove(&values).context("no prompt vectors are penalised")?;
            (loss, grad) = ((loss + penalty)?, (grad + of_penalty)?); // (K, V, W)
        }
        let mut gradients = GradStore::default();
        let (learned, generated) = (self.config.learned(), self.config.generated());
        if learned > 0 {
            gradients.insert(self.contexts()?, self.of_contexts(classes, &grad.narrow(1, 0, learned)?)?);
        }
        if generated > 0 {
            let grad = grad.narrow(1, learned, generated)?.flatten_from(1)?; // (K, G·W)
            self.generator.backward(&states, &grad, &mut gradients)?;
        }
        Ok((loss, gradients))
    }

    /// Gradient of the learned context vectors (C, n_ctx, W), or (1, n_ctx, W), from that of those
    /// of some classes (K, n_ctx, W).
    fn of_contexts(&self, classes: &Classes, grad: &Tensor) -> Result<Tensor> {
        if self.config.context.is_shared() {
            return Ok(grad.sum_keepdim(0)?);
        }
        Ok(match classes {
            Classes::Range(range) => grad.pad_with_zeros(0, range.start, self.ends.len() - range.end)?,
            Classes::List(_) => {
                self.contexts()?.zeros_like()?.index_add(&classes.indices(grad.device())?, &grad.contiguous()?, 0)?
            }
        })
    }

    /// As `loss`, for prompts that depend on the image: some images at a time.
    fn image_loss(&self, n: usize, embeddings: &Tensor, labels: &Tensor) -> Result<(Tensor, GradStore)> {
        let (b, contexts, left_out) = (labels.dim(0)?, self.contexts()?, self.left_out(n)?);
        let mut penalty = (self.config.ortho != 0.0).then(|| self.penalty(contexts)).transpose()?;
        let mut whole: Option<(Tensor, GradStore)> = None;
        for images in images_at_a_time(b, n) {
            let share = images.len() as f64 / b as f64;
            let embeddings = embeddings.narrow(0, images.start, images.len())?; // (I, P)
            let labels = labels.narrow(0, images.start, images.len())?;
            let targets = Targets {
                embeddings: &embeddings,
                labels: &labels,
                more: left_out.as_ref(),
                logit_scale: self.encoder.logit_scale,
            };
            let vectors = self.shifted(n, &embeddings)?;
            let (loss, grad) =
                self.gradient(&vectors.detach(), &Classes::Range(0..n), |features| targets.loss_of_own(features))?;
            // the gradient of what the vectors come of, as that of a scalar
            let scalar = ((vectors * grad)?.sum_all()? * share)?;
            let loss = (loss * share)?;
            let part = match penalty.take() {
                None => (loss, scalar.backward()?),
                Some(penalty) => ((loss + &penalty)?, (scalar + penalty)?.backward()?),
            };
            whole = Some(match whole {
                None => part,
                Some((loss, mut gradients)) => {
                    gradients.extend(part.1)?;
                    ((loss + part.0)?, gradients)
                }
            });
        }
        whole.context("no embeddings")
    }

    /// The loss of prompts with context vectors (N, V, W), image by image of `classes`, and its
    /// gradient by the vectors; `loss` gives that of their features (N, P), with its gradient.
    fn gradient(
        &self,
        vectors: &Tensor,
        classes: &Classes,
        loss: impl Fn(&Tensor) -> Result<(Tensor, Tensor)>,
    ) -> Result<(Tensor, Tensor)> {
        let (x, ends) = self.embeddings(vectors, classes)?; // (N, T, W)
        let (features, state) = self.encoder.encode(&x, &ends)?;
        let (loss, grad) = loss(&features)?;
        let grad = self.encoder.backward(&state, &grad)?; // (N, T, W)
        Ok((loss, grad.narrow(1, self.starts(), vectors.dim(1)?)?))
    }

    /// The context vectors of classes.
    fn vectors(&self, classes: &Classes) -> Result<Vectors> {
        let (n, w) = (classes.len(), self.encoder.width);
        let (mut vectors, mut states) = (Vec::new(), Vec::new());
        if self.config.learned() > 0 {
            let contexts = self.contexts()?.as_detached_tensor();
            vectors.push(match self.config.context.is_shared() {
                true => contexts.expand((n, self.config.n_ctx, w))?,
                false => classes.of(&contexts)?,
            });
        }
        if self.config.generated() > 0 {
            let generated;
            (generated, states) = self.generator.forward(&classes.of(&self.zero_shot)?)?; // (K, G·W)
            vectors.push(generated.reshape((n, self.config.generated(), w))?);
        }
        Ok(Vectors { values: Tensor::cat(&vectors, 1)?, states })
    }

    /// The context vectors (I·n, n_ctx, W) of the prompts of images (I, P) of the first `n`
    /// classes, image by image.
    fn shifted(&self, n: usize, images: &Tensor) -> Result<Tensor> {
        let mut x = images.clone();
        let layers = self.parameters.meta_net();
        for (i, Layer { weight, bias, .. }) in layers.iter().enumerate() {
            x = x.matmul(&self.var(weight)?.t()?)?.broadcast_add(self.var(bias)?)?;
            if i + 1 < layers.len() {
                x = x.relu()?;
            }
        }
        let (i, w) = x.dims2()?;
        let n_ctx = self.config.n_ctx;
        let vectors = self.contexts()?.broadcast_add(&x.unsqueeze(1)?)?; // (I, n_ctx, W)
        Ok(vectors.unsqueeze(1)?.expand((i, n, n_ctx, w))?.reshape((i * n, n_ctx, w))?)
    }

    /// The penalty of --ortho of context vectors (K, V, W).
    fn penalty(&self, vectors: &Tensor) -> Result<Tensor> {
        let (count, group) = orthogonal::groups(&self.config, vectors.dim(0)?);
        let vectors = vectors.flatten_to(1)?.narrow(0, 0, count)?;
        orthogonal::penalty(&vectors, group, self.config.ortho)
    }

    /// Token embeddings (N, T, W) of prompts with context vectors (N, V, W), image by image of
    /// `classes`, T the longest of them; and the positions of their ends of text.
    fn embeddings(&self, vectors: &Tensor, classes: &Classes) -> Result<(Tensor, Vec<usize>)> {
        let (n, v, w) = vectors.dims3()?;
        let images = n / classes.len();
        let ends: Vec<usize> = classes.places().map(|class| self.ends[class]).collect();
        let ends = ends.repeat(images);
        let longest = ends.iter().max().context("no classes")? + 1;
        let start: Vec<Tensor> = self.start.iter().map(|start| Ok(start.expand((n, 1, w))?)).collect::<Result<_>>()?;
        let tails = classes.of(&self.tails)?.narrow(1, 0, longest - v - start.len())?;
        let parts: Vec<Tensor> = start.into_iter().chain([vectors.clone(), tails.repeat((images, 1, 1))?]).collect();
        let x = Tensor::cat(&parts, 1)?;
        Ok((x, ends))
    }

    /// Features (n, P), not normalised, of the first `n` classes.
    fn features(&self, n: usize) -> Result<Tensor> {
        let classes = Classes::Range(0..n);
        let [fixed, learning] = classes.split(self.fixed_classes());
        if learning.len() == 0 {
            return self.kept(&fixed);
        }
        let vectors = self.vectors(&classes)?.values.narrow(0, fixed.len(), learning.len())?;
        let (x, ends) = self.embeddings(&vectors, &learning)?;
        self.with_kept(&fixed, &self.encoder.encode(&x, &ends)?.0)
    }

    /// The features of classes that do not change.
    fn kept(&self, classes: &Classes) -> Result<Tensor> {
        classes.of(self.fixed.as_ref().context("no classes")?)
    }

    /// The features of classes that do not change, and after them those of others.
    fn with_kept(&self, fixed: &Classes, features: &Tensor) -> Result<Tensor> {
        match fixed.len() {
            0 => Ok(features.clone()),
            _ => Ok(Tensor::cat(&[&self.kept(fixed)?, features], 0)?),
        }
    }

    /// How many of the first classes have features that do not change.
    fn fixed_classes(&self) -> usize {
        self.fixed.as_ref().map_or(0, |fixed| fixed.dims()[0])
    }

    /// The learned context vectors (C, n_ctx, W), or (1, n_ctx, W) where classes share them.
    fn contexts(&self) -> Result<&Var> {
        self.var(&self.parameters.contexts())
    }

    /// The parameter at a place.
    fn var(&self, place: &Range<usize>) -> Result<&Var> {
        var(&self.parameters, &self.vars, place)
    }

    /// How many tokens stand before the context vectors.
    fn starts(&self) -> usize {
        usize::from(self.start.is_some())
    }

    /// What takes classes that are no candidates out of logits of the first `n`, where there are such.
    fn left_out(&self, n: usize) -> Result<Option<Tensor>> {
        if self.learning.removed.is_empty() {
            return Ok(None);
        }
        Ok(Some(Tensor::new(self.learning.left_out(n), self.encoder.device())?))
    }

    /// A step of the optimiser. Contexts of classes outside `learning` stay; where a class learns
    /// alone, what classes share does too.
    fn step(&self, optimiser: &mut Optimiser, gradients: &mut GradStore, learning: Option<&Tensor>) -> Result<()> {
        let Some(learning) = learning else { return optimiser.step(gradients) };
        if self.learning.alone.is_some() {
            let contexts = self.contexts()?.as_tensor().id();
            for var in self.vars.iter().filter(|var| var.as_tensor().id() != contexts) {
                gradients.remove(var);
            }
        }
        let contexts = self.contexts()?;
        let before = contexts.copy()?;
        optimiser.step(gradients)?;
        Ok(contexts.set(&learning.where_cond(contexts, &before)?)?)
    }

    /// Which contexts (C, n_ctx, W) learn, 1, where a step against the first `n` classes would
    /// change others, too: those that stay, and by the weight decay those that are not seen.
    fn learning(&self, n: usize) -> Result<Option<Tensor>> {
        let own = self.config.learned() > 0 && !self.config.context.is_shared();
        let learning = self.learning.own(&self.config, n);
        let all = learning == (0..n) && self.config.weight_decay == 0.0 && self.learning.alone.is_none();
        if !own || all {
            return Ok(None);
        }
        let contexts = self.contexts()?;
        let classes: Vec<u8> = (0..contexts.dim(0)?).map(|c| u8::from(learning.contains(&c))).collect();
        let classes = Tensor::new(classes, self.encoder.device())?.reshape(((), 1, 1))?;
        Ok(Some(classes.broadcast_as(contexts.shape())?.contiguous()?))
    }
}

impl Learner for Prompts {
    fn logit_scale(&self) -> f32 {
        self.encoder.logit_scale as f32
    }

    fn zero_shot(&self) -> &[f32] {
        &self.zero_shot_values
    }

    fn keys(&mut self, n: usize) -> Result<Vec<f32>> {
        if self.config.context == Context::Image {
            return Ok(Vec::new());
        }
        Ok(normalise(&self.features(n)?)?.flatten_all()?.to_vec1()?)
    }

    fn scores(&mut self, n: usize, embeddings: &[f32]) -> Result<Vec<f32>> {
        let dim = self.encoder.dim;
        if self.config.context != Context::Image {
            return Ok(cosines(embeddings, &self.keys(n)?, dim));
        }
        let mut scores = Vec::with_capacity(embeddings.len() / dim * n); // (N, n)
        for images in images_at_a_time(embeddings.len() / dim, n) {
            let embeddings = &embeddings[images.start * dim..images.end * dim];
            let embeddings = Tensor::from_slice(embeddings, (images.len(), dim), self.encoder.device())?; // (I, P)
            let (x, ends) = self.embeddings(&self.shifted(n, &embeddings)?.detach(), &Classes::Range(0..n))?;
            let (features, _) = self.encoder.encode(&x, &ends)?; // (I·n, P)
            scores.extend(own_cosines(&embeddings, &features)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(scores)
    }

    fn begin(&mut self, learning: &Learning) -> Result<()> {
        self.optimiser = Some(Optimiser::new(&self.config, self.vars.clone())?);
        self.learning = learning.clone();
        self.fixed = None;
        let frozen = learning.own(&self.config, self.ends.len()).start;
        if self.config.context == Context::Class && frozen > 0 {
            self.fixed = Some(self.features(frozen)?);
        }
        Ok(())
    }

    fn steps(&mut self, n: usize, embeddings: &[f32], classes: &[u32], batches: &[Batch]) -> Result<Vec<f32>> {
        let device = self.encoder.device();
        let embeddings = Tensor::from_slice(embeddings, (classes.len(), self.encoder.dim), device)?; // (N, P)
        let embeddings = normalise(&embeddings)?;
        let labels = Tensor::new(classes, device)?; // (N)
        let mut optimiser = self.optimiser.take().context("no optimiser was begun")?;
        let learning = self.learning(n)?;
        let rows: Vec<u32> = batches.iter().flat_map(|batch| batch.rows.iter().map(|&row| row as u32)).collect();
        let rows = Tensor::new(rows, device)?;
        let (mut losses, mut first) = (Vec::new(), 0);
        for batch in batches {
            let rows = rows.narrow(0, first, batch.rows.len())?; // (B)
            first += batch.rows.len();
            let embeddings = embeddings.index_select(&rows, 0)?;
            let (loss, mut gradients) = match &batch.candidates {
                Some(candidates) => {
                    let labels: Vec<u32> = batch.rows.iter().map(|&row| classes[row]).collect();
                    self.loss_among(candidates, &embeddings, &labels)?
                }
                None => self.loss(n, &embeddings, &labels.index_select(&rows, 0)?)?,
            };
            self.step(&mut optimiser, &mut gradients, learning.as_ref())?;
            losses.push(loss.detach()); // read at the end: the device need not wait for the host
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
        self.fixed = None;
        Ok(())
    }
}

/// The images, of `count`, whose prompts of `n` classes are in hand at a time.
fn images_at_a_time(count: usize, n: usize) -> impl Iterator<Item = Range<usize>> {
    let images = (IMAGE_PROMPTS / n).max(1);
    (0..count).step_by(images).map(move |first| first..count.min(first + images))
}

/// The parameter at a place.
fn var<'a>(parameters: &Parameters, vars: &'a [Var], place: &Range<usize>) -> Result<&'a Var> {
    let position = parameters.fields().position(|(.., range)| range == *place);
    Ok(&vars[position.context("a parameter is missing")?])
}
