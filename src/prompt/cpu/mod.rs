//! Prompts on the CPU: forward and backward pass written down, on slices that are kept from step to
//! step.

mod generator;
mod image;
pub mod optimiser;

use std::ops::Range;

use anyhow::Result;
use rayon::prelude::*;

use self::{generator::LayerState, optimiser::Optimiser};
use super::{
    Batch, Candidates, Context, PromptConfig,
    learner::{Learner, Learning, texts},
    orthogonal,
    parameters::Parameters,
};
use crate::{
    clip::{
        Tokenizer,
        cpu::text::{PART, State, TextEncoder},
    },
    dense::{
        cosine::{cosines, normalise, normalise_backward},
        product::{Matrix, Product, Threads},
        softmax,
        vector::add_scaled,
    },
    profile::{Phase, time},
    task::Class,
};

/// The prompts of C classes, with V context vectors each. W is the text encoder's width, P the
/// features' dimension.
pub struct Prompts {
    encoder: TextEncoder,
    tails: Vec<Vec<f32>>, // per class the token embeddings (rows, W) that follow the contexts
    zero_shot: Vec<f32>,  // (C, P), not normalised
    config: PromptConfig,
    parameters: Parameters,
    gradients: Vec<f32>,
    optimiser: Optimiser,
    learning: Learning,
    fixed: Vec<f32>, // (F, P), the features of the first classes, not normalised, where nothing in their prompts learns
    states: Vec<State>, // a state for every part of the prompts
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
        // one at a time: among others it would be rounded otherwise, and classes that come later
        // change nothing of these
        let feature = |text: &String| encoder.features(tokenizer, std::slice::from_ref(text));
        let zero_shot: Vec<Vec<f32>> = zero_shot.par_iter().map(feature).collect::<Result<_>>()?;
        let embed = |ids: Vec<u32>| ids.iter().flat_map(|&id| encoder.embed(id)).copied().collect();
        let parameters = Parameters::initial(classes, config, encoder.dim, encoder.width(), seed);
        Ok(Prompts {
            tails: tails.into_iter().map(embed).collect(),
            zero_shot: zero_shot.concat(),
            config: config.clone(),
            gradients: vec![0.0; parameters.values.len()],
            optimiser: Optimiser::new(config, parameters.values.len()),
            learning: Learning::default(),
            fixed: Vec::new(),
            states: Vec::new(),
            parameters,
            encoder,
        })
    }

    /// Cross-entropy of embeddings (B, P), normalised, of classes `labels` (B), against the prompts
    /// of the first `n` classes, and the penalty of --ortho. Leaves the gradients.
    pub fn loss(&mut self, n: usize, embeddings: &[f32], labels: &[u32]) -> f32 {
        if self.config.context == Context::Image {
            return self.image_loss(n, embeddings, labels);
        }
        let all = Candidates { classes: (0..n).collect(), more: self.learning.left_out(n) };
        self.loss_among(&all, embeddings, labels)
    }

    /// As [`Prompts::loss`], against the prompts of K candidates.
    pub fn loss_among(&mut self, candidates: &Candidates, embeddings: &[f32], labels: &[u32]) -> f32 {
        let classes = &candidates.classes;
        let (vectors, layers, features) = time(Phase::Forward, || {
            let (vectors, layers) = self.vectors(classes); // (K, V·W)
            let features = self.features(classes, &vectors); // (K, P)
            (vectors, layers, features)
        });
        time(Phase::Backward, || {
            let (loss, dfeatures) = self.cross_entropy(&features, candidates, embeddings, labels);
            let mut dvectors = self.backward(classes, &dfeatures); // (K, V·W)
            let penalty = self.penalise(&vectors, &mut dvectors);
            self.vectors_backward(classes, &layers, &dvectors);
            loss + penalty
        })
    }

    /// The gradient that [`Prompts::loss`] left for a parameter.
    pub fn gradient(&self, place: Range<usize>) -> &[f32] {
        &self.gradients[place]
    }

    /// A step of the optimiser with the gradients that [`Prompts::loss`] left. Contexts of classes
    /// that do not learn or are not seen stay.
    fn step(&mut self, n: usize) {
        let contexts = self.parameters.contexts();
        let per_class = self.config.learned() * self.encoder.width();
        let learning = match self.config.context.is_shared() {
            true => contexts.clone(),
            false => {
                let own = self.learning.own(&self.config, n);
                own.start * per_class..own.end * per_class
            }
        };
        let shared = if self.learning.alone.is_some() { 0..0 } else { contexts.end..self.gradients.len() };
        let places = [learning, shared];
        self.optimiser.step(&places, &mut self.parameters.values, &mut self.gradients);
    }

    /// The context vectors (K, V·W) of classes: learned ones, then generated ones.
    fn vectors(&self, classes: &[usize]) -> (Vec<f32>, Vec<LayerState>) {
        let (w, p) = (self.encoder.width(), self.encoder.dim);
        let (learned, made) = (self.config.learned() * w, self.config.generated() * w);
        let features: Vec<f32> = match made {
            0 => Vec::new(),
            _ => classes.iter().flat_map(|class| &self.zero_shot[class * p..][..p]).copied().collect(),
        };
        let (generated, layers) = generator::forward(&self.parameters, &features, classes.len()); // (K, G·W)
        let contexts = &self.parameters.values[self.parameters.contexts()];
        let mut vectors = Vec::with_capacity(classes.len() * (learned + made)); // (K, V·W)
        for (i, &class) in classes.iter().enumerate() {
            let own = if self.config.context.is_shared() { 0 } else { class };
            vectors.extend_from_slice(&contexts[own * learned..][..learned]);
            vectors.extend_from_slice(&generated[i * made..][..made]);
        }
        (vectors, layers)
    }

    /// Gradients of the parameters from that of the context vectors (K, V·W) of classes.
    fn vectors_backward(&mut self, classes: &[usize], layers: &[LayerState], dvectors: &[f32]) {
        let w = self.encoder.width();
        let (learned, made) = (self.config.learned() * w, self.config.generated() * w);
        let mut dgenerated = Vec::with_capacity(classes.len() * made); // (K, G·W)
        let contexts = self.parameters.contexts();
        self.gradients[contexts].fill(0.0);
        for (&class, row) in classes.iter().zip(dvectors.chunks_exact(learned + made)) {
            let (row, generated) = row.split_at(learned);
            match self.config.context.is_shared() {
                true => add_scaled(&mut self.gradients[..learned], 1.0, row),
                false => self.gradients[class * learned..][..learned].copy_from_slice(row),
            }
            dgenerated.extend_from_slice(generated);
        }
        generator::backward(&self.parameters, layers, dgenerated, &mut self.gradients);
    }

    /// Features (K, P), not normalised, of classes with their context vectors (K, V·W).
    fn features(&mut self, classes: &[usize], vectors: &[f32]) -> Vec<f32> {
        let (p, fixed) = (self.encoder.dim, self.fixed_of(classes));
        let mut features: Vec<f32> =
            classes[..fixed].iter().flat_map(|class| &self.fixed[class * p..][..p]).copied().collect();
        features.extend(self.encode(&classes[fixed..], &vectors[fixed * self.vector_values()..]));
        features
    }

    /// Gradient of the context vectors (K, V·W) of classes from that of their features (K, P).
    fn backward(&mut self, classes: &[usize], dfeatures: &[f32]) -> Vec<f32> {
        let fixed = self.fixed_of(classes);
        let mut dvectors = vec![0.0; fixed * self.vector_values()];
        dvectors.extend(self.encode_backward(&classes[fixed..], &dfeatures[fixed * self.encoder.dim..]));
        dvectors
    }

    /// How many of the classes, which ascend, have features that do not change: they come first.
    fn fixed_of(&self, classes: &[usize]) -> usize {
        classes.partition_point(|class| *class < self.fixed.len() / self.encoder.dim)
    }

    /// V·W.
    fn vector_values(&self) -> usize {
        self.config.vectors() * self.encoder.width()
    }

    /// The penalty of --ortho of the context vectors (K, V·W); adds its gradient.
    fn penalise(&self, vectors: &[f32], dvectors: &mut [f32]) -> f32 {
        if self.config.ortho == 0.0 {
            return 0.0;
        }
        let w = self.encoder.width();
        let (count, group) = orthogonal::groups(&self.config, vectors.len() / self.vector_values());
        orthogonal::penalise(&vectors[..count * w], group, w, self.config.ortho, &mut dvectors[..count * w])
    }

    /// The parts that `n` prompts are encoded in: as many as keep each within [`PART`], and of one
    /// size, give or take one.
    fn parts(n: usize) -> Vec<Range<usize>> {
        let parts = n.div_ceil(PART);
        (0..parts).map(|i| i * n / parts..(i + 1) * n / parts).collect()
    }

    /// Features (N, P), not normalised, of N prompts of `classes` (N) with their context vectors
    /// (N, V·W).
    fn encode(&mut self, classes: &[usize], vectors: &[f32]) -> Vec<f32> {
        let parts = Self::parts(classes.len());
        self.states.resize_with(parts.len().max(self.states.len()), State::default);
        let (encoder, tails, w, v) = (&self.encoder, &self.tails, self.encoder.width(), self.vector_values());
        let features = self.states.par_iter_mut().zip(parts).map(|(state, prompts)| {
            let (mut x, mut lengths) = (Vec::new(), Vec::new()); // (rows, W)
            for i in prompts {
                let tail = &tails[classes[i]];
                x.extend_from_slice(&vectors[i * v..][..v]);
                x.extend_from_slice(tail);
                lengths.push((v + tail.len()) / w);
            }
            encoder.encode(&x, &lengths, state)
        });
        features.collect::<Vec<_>>().concat()
    }

    /// Gradient of the context vectors (N, V·W) of the prompts that [`Prompts::encode`] was given
    /// last, from that of their features (N, P).
    fn encode_backward(&mut self, classes: &[usize], dfeatures: &[f32]) -> Vec<f32> {
        let (encoder, tails, p, v) = (&self.encoder, &self.tails, self.encoder.dim, self.vector_values());
        let parts = Self::parts(classes.len());
        let grads = self.states.par_iter_mut().zip(&parts).map(|(state, prompts)| {
            encoder.backward(state, &dfeatures[prompts.start * p..prompts.end * p]) // (rows, W)
        });
        let grads: Vec<Vec<f32>> = grads.collect();
        let mut dvectors = Vec::with_capacity(classes.len() * v); // (N, V·W)
        for (prompts, grad) in parts.into_iter().zip(&grads) {
            let mut rows = &grad[..];
            for i in prompts {
                let (vectors, rest) = rows.split_at(v);
                dvectors.extend_from_slice(vectors);
                rows = &rest[tails[classes[i]].len()..];
            }
        }
        dvectors
    }

    /// Cross-entropy of embeddings (B, P), and the gradient of the candidates' features (K, P).
    fn cross_entropy(
        &self,
        features: &[f32],
        candidates: &Candidates,
        embeddings: &[f32],
        labels: &[u32],
    ) -> (f32, Vec<f32>) {
        let (p, all) = (self.encoder.dim, Threads::All);
        let (n, b) = (candidates.classes.len(), labels.len());
        let scale = self.encoder.logit_scale;
        let mut keys = features.to_vec(); // (K, P)
        normalise(&mut keys, p);
        let embeddings = Matrix::new(embeddings, p);
        let mut logits = vec![0.0; b * n]; // (B, K), then their gradient
        Product::on(all).scaled(scale).into(&mut logits, n, embeddings, Matrix::new(&keys, p).t());
        for row in logits.chunks_exact_mut(n) {
            add_scaled(row, 1.0, &candidates.more);
        }
        let places = candidates.places(labels).into_iter().map(|place| place as usize);
        let loss = softmax::cross_entropy(&mut logits, n, places, b);
        let mut grad = vec![0.0; n * p]; // (K, P), of the keys, then of the features
        Product::on(all).scaled(scale).into(&mut grad, p, Matrix::new(&logits, n).t(), embeddings);
        normalise_backward(features, &keys, &mut grad, p);
        ((loss / b as f64) as f32, grad)
    }
}

impl Learner for Prompts {
    fn logit_scale(&self) -> f32 {
        self.encoder.logit_scale
    }

    fn zero_shot(&self) -> &[f32] {
        &self.zero_shot
    }

    fn keys(&mut self, n: usize) -> Result<Vec<f32>> {
        if self.config.context == Context::Image {
            return Ok(Vec::new());
        }
        let classes: Vec<usize> = (0..n).collect();
        let (vectors, _) = self.vectors(&classes);
        let mut keys = self.features(&classes, &vectors);
        normalise(&mut keys, self.encoder.dim);
        Ok(keys)
    }

    fn scores(&mut self, n: usize, embeddings: &[f32]) -> Result<Vec<f32>> {
        if self.config.context == Context::Image {
            return Ok(self.image_scores(n, embeddings));
        }
        Ok(cosines(embeddings, &self.keys(n)?, self.encoder.dim))
    }

    fn begin(&mut self, learning: &Learning) -> Result<()> {
        self.optimiser = Optimiser::new(&self.config, self.gradients.len());
        self.learning = learning.clone();
        self.fixed.clear();
        if self.config.context == Context::Class {
            let frozen: Vec<usize> = (0..self.learning.own(&self.config, self.tails.len()).start).collect();
            let (vectors, _) = self.vectors(&frozen);
            self.fixed = self.features(&frozen, &vectors);
        }
        Ok(())
    }

    fn steps(&mut self, n: usize, embeddings: &[f32], classes: &[u32], batches: &[Batch]) -> Result<Vec<f32>> {
        let p = self.encoder.dim;
        let step = |batch: &Batch| {
            let mut rows = Vec::with_capacity(batch.rows.len() * p); // (B, P)
            batch.rows.iter().for_each(|&row| rows.extend_from_slice(&embeddings[row * p..][..p]));
            normalise(&mut rows, p);
            let labels: Vec<u32> = batch.rows.iter().map(|&row| classes[row]).collect();
            let loss = match &batch.candidates {
                Some(candidates) => self.loss_among(candidates, &rows, &labels),
                None => self.loss(n, &rows, &labels),
            };
            time(Phase::Optimise, || self.step(n));
            loss
        };
        Ok(batches.iter().map(step).collect())
    }

    fn parameters(&self) -> Result<Parameters> {
        Ok(self.parameters.clone())
    }

    fn set_parameters(&mut self, parameters: Parameters) -> Result<()> {
        self.parameters = parameters;
        self.fixed.clear();
        Ok(())
    }
}
