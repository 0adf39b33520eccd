//! Prompts of every image's own: a meta-net makes of its embedding what is added to the shared
//! context vectors (CoCoOp, Zhou et al., 2022). I images and n classes have I·n prompts, image by
//! image.

use std::ops::Range;

use super::Prompts;
use crate::{
    clip::cpu::text::PART,
    dense::{
        cosine::{normalise, normalise_backward},
        layers,
        product::{Matrix, Threads},
        softmax::cross_entropy,
        vector::{add_scaled, dot, vectorised},
    },
    profile::{Phase, time},
    prompt::parameters::Layer,
};

/// Prompts in hand at a time, where those of one image are not more: what bounds the memory.
const PROMPTS: usize = 16 * PART;

/// What the meta-net makes of B embeddings.
struct Shifts {
    hidden: Vec<f32>, // (B, H), after the ReLU
    shifts: Vec<f32>, // (B, W)
}

impl Prompts {
    /// As [`Prompts::loss`].
    pub(super) fn image_loss(&mut self, n: usize, embeddings: &[f32], labels: &[u32]) -> f32 {
        let (p, w, b) = (self.encoder.dim, self.encoder.width(), labels.len());
        let (scale, learned) = (self.encoder.logit_scale, self.config.learned() * w);
        let at_a_time = images_at_a_time(n);
        let Shifts { hidden, shifts } = time(Phase::Forward, || self.shifts(embeddings));
        let mut dshifts = vec![0.0; b * w]; // (B, W)
        let mut dcontexts = vec![0.0; learned]; // (n_ctx, W)
        let left_out = self.learning.left_out(n);
        let mut loss = 0.0;
        let images = embeddings.chunks(at_a_time * p).zip(labels.chunks(at_a_time));
        let shifts = shifts.chunks(at_a_time * w).zip(dshifts.chunks_mut(at_a_time * w));
        for ((embeddings, labels), (shifts, dshifts)) in images.zip(shifts) {
            let classes: Vec<usize> = (0..labels.len()).flat_map(|_| 0..n).collect();
            let features = time(Phase::Forward, || {
                let vectors = self.shifted(n, shifts); // (I·n, n_ctx·W)
                self.encode(&classes, &vectors) // (I·n, P)
            });
            time(Phase::Backward, || {
                let mut keys = features.clone(); // (I·n, P)
                normalise(&mut keys, p);
                let mut logits = own_cosines(embeddings, &keys, n, p); // (I, n), then their gradient
                logits.iter_mut().for_each(|x| *x *= scale);
                logits.chunks_exact_mut(n).for_each(|row| add_scaled(row, 1.0, &left_out));
                loss += cross_entropy(&mut logits, n, labels.iter().map(|&label| label as usize), b);
                let mut dfeatures = Vec::with_capacity(keys.len()); // (I·n, P)
                for (image, logits) in embeddings.chunks_exact(p).zip(logits.chunks_exact(n)) {
                    logits.iter().for_each(|logit| dfeatures.extend(image.iter().map(|x| scale * logit * x)));
                }
                normalise_backward(&features, &keys, &mut dfeatures, p);
                let dvectors = self.encode_backward(&classes, &dfeatures); // (I·n, n_ctx·W)
                for (dshift, prompts) in dshifts.chunks_exact_mut(w).zip(dvectors.chunks_exact(n * learned)) {
                    prompts.chunks_exact(learned).for_each(|prompt| add_scaled(&mut dcontexts, 1.0, prompt));
                    layers::sum_rows(prompts, dshift);
                }
            });
        }
        time(Phase::Backward, || self.shifts_backward(embeddings, &hidden, &dshifts));
        let penalty = self.penalise(&self.parameters.values[..learned], &mut dcontexts);
        self.gradients[..learned].copy_from_slice(&dcontexts);
        (loss / b as f64) as f32 + penalty
    }

    /// Cosines (N, n) of embeddings (N, P), normalised, with their own prompts of the first `n`
    /// classes.
    pub(super) fn image_scores(&mut self, n: usize, embeddings: &[f32]) -> Vec<f32> {
        let p = self.encoder.dim;
        let mut scores = Vec::with_capacity(embeddings.len() / p * n); // (N, n)
        for embeddings in embeddings.chunks(images_at_a_time(n) * p) {
            let classes: Vec<usize> = embeddings.chunks_exact(p).flat_map(|_| 0..n).collect();
            let vectors = self.shifted(n, &self.shifts(embeddings).shifts); // (I·n, n_ctx·W)
            let mut keys = self.encode(&classes, &vectors); // (I·n, P)
            normalise(&mut keys, p);
            scores.extend(own_cosines(embeddings, &keys, n, p));
        }
        scores
    }

    /// The meta-net: embeddings (B, P) to shifts (B, W).
    fn shifts(&self, embeddings: &[f32]) -> Shifts {
        let b = embeddings.len() / self.encoder.dim;
        let [first, second] = self.meta_net();
        let at = |place: &Range<usize>| &self.parameters.values[place.clone()];
        let matrix = |layer: &Layer| Matrix::new(at(&layer.weight), layer.weight.len() / layer.bias.len()).t(); // (I, O)
        let mut hidden = vec![0.0; b * first.bias.len()]; // (B, H)
        layers::affine(embeddings, matrix(&first), at(&first.bias), &mut hidden, Threads::All);
        hidden.iter_mut().for_each(|x| *x = x.max(0.0));
        let mut shifts = vec![0.0; b * second.bias.len()]; // (B, W)
        layers::affine(&hidden, matrix(&second), at(&second.bias), &mut shifts, Threads::All);
        Shifts { hidden, shifts }
    }

    /// Gradients of the meta-net from that of the shifts (B, W).
    fn shifts_backward(&mut self, embeddings: &[f32], hidden: &[f32], dshifts: &[f32]) {
        let [first, second] = self.meta_net();
        let w = self.encoder.width();
        let mut dhidden = vec![0.0; hidden.len()]; // (B, H)
        let weight = &self.parameters.values[second.weight.clone()];
        layers::affine_backward_input(weight, dshifts, &mut dhidden, w, Threads::All);
        vectorised(
            #[inline(always)]
            || {
                for (dhidden, &hidden) in dhidden.iter_mut().zip(hidden) {
                    *dhidden = if hidden > 0.0 { *dhidden } else { 0.0 };
                }
            },
        );
        layers::affine_backward_weight(hidden, dshifts, &mut self.gradients[second.weight], w, Threads::All);
        layers::sum_rows(dshifts, &mut self.gradients[second.bias]);
        let dweight = &mut self.gradients[first.weight];
        layers::affine_backward_weight(embeddings, &dhidden, dweight, first.bias.len(), Threads::All);
        layers::sum_rows(&dhidden, &mut self.gradients[first.bias]);
    }

    fn meta_net(&self) -> [Layer; 2] {
        self.parameters.meta_net().try_into().ok().expect("prompts of every image's own have a meta-net")
    }

    /// Context vectors (I·n, n_ctx·W) of the prompts of I images with their shifts (I, W).
    fn shifted(&self, n: usize, shifts: &[f32]) -> Vec<f32> {
        let w = self.encoder.width();
        let contexts = &self.parameters.values[self.parameters.contexts()]; // (n_ctx, W)
        let mut vectors = Vec::with_capacity(shifts.len() * n * self.config.n_ctx); // (I·n, n_ctx·W)
        for shift in shifts.chunks_exact(w) {
            let mut shifted = contexts.to_vec(); // (n_ctx, W)
            shifted.chunks_exact_mut(w).for_each(|vector| add_scaled(vector, 1.0, shift));
            (0..n).for_each(|_| vectors.extend_from_slice(&shifted));
        }
        vectors
    }
}

/// How many images' prompts of `n` classes are in hand at a time.
fn images_at_a_time(n: usize) -> usize {
    (PROMPTS / n).max(1)
}

/// Cosines (I, n) of embeddings (I, P) with the keys (I·n, P), normalised, of each.
fn own_cosines(embeddings: &[f32], keys: &[f32], n: usize, p: usize) -> Vec<f32> {
    vectorised(
        #[inline(always)]
        || {
            let images = embeddings.chunks_exact(p).zip(keys.chunks_exact(n * p));
            images.flat_map(|(image, keys)| keys.chunks_exact(p).map(move |key| dot(image, key))).collect()
        },
    )
}
