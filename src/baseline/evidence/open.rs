//! Text, prompts and evidence in one score: a classifier over all classes, learned or not, and the
//! file that a program keeps of it to classify.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{matrix::product, tally::QUANTILES, whitened::Whitened};
use crate::{
    baseline::classifier::take_f32,
    calibration::Calibration,
    dense::product::Matrix,
    evaluate::{Logits, Scores},
    task::Class,
    tensors::{self, Named, Tensors},
};

/// What the evidence weighs where seen and unseen classes are told apart.
pub(super) const GATE: f64 = 0.05;

/// What was chosen after a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// How far the covariance is shrunk towards a multiple of the identity, 0 to 1.
    pub shrinkage: f64,
    /// What the evidence weighs among seen classes, where text counts 1.
    pub weight: f64,
    /// What zero-shot text counts among seen classes: 1, or 0 where it tells them no better than a guess.
    pub text_weight: f64,
    /// What unseen classes' logits are raised by.
    pub bias: f64,
    /// How scores become probabilities.
    pub calibration: Calibration,
}

/// All that scores embeddings for the classes of a stream, of which the first n are learned.
pub struct OpenClassifier {
    pub(super) text: Vec<f64>,            // (C, D), zero-shot, of length 1
    pub(super) prompts: Option<Vec<f64>>, // (n, D), learned, of length 1
    pub(super) whitened: Whitened,
    pub(super) seen: usize,
    pub(super) logit_scale: f64,
    pub(super) chosen: Chosen,
    pub(super) known: Option<Vec<f64>>, // (101), quantiles of the confidence in training rows, each left out
}

/// What stands beside the tensors in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierAbout {
    /// In learning order; the first `seen` are learned.
    pub classes: Vec<Class>,
    /// Number of classes learned, n.
    pub seen: usize,
    /// What cosines are multiplied with.
    pub logit_scale: f64,
    /// What the evidence weighs among seen classes.
    pub weight: f64,
    /// As [`Chosen::text_weight`].
    #[serde(default = "one")]
    pub text_weight: f64,
    /// What the evidence weighs where seen and unseen classes are told apart.
    pub gate: f64,
    /// What unseen classes' logits are raised by.
    pub bias: f64,
    /// As [`Chosen::shrinkage`]; scoring does not need it.
    pub shrinkage: f64,
    /// As [`Calibration::temperature`].
    #[serde(default = "one")]
    pub temperature: f64,
    /// As [`Calibration::power`].
    #[serde(default)]
    pub power: f64,
    /// As [`Calibration::even`].
    #[serde(default)]
    pub even: f64,
    /// What it was made from, in a file that has left its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_from: Option<serde_json::Value>,
}

/// What a file that says nothing of them has as temperature and as the weight of text.
fn one() -> f64 {
    1.0
}

/// Scores of rows, of text and evidence together.
pub(super) struct Together {
    /// (N, n), among the seen classes.
    pub seen: Vec<f64>,
    /// (N, C), over all classes, by which seen and unseen ones are told apart.
    pub all: Vec<f64>,
    /// (N), that rows are of a seen class at all.
    pub confidence: Vec<f64>,
}

impl OpenClassifier {
    /// Number of classes learned, n.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// Without some of the learned classes, given as positions in learning order.
    pub fn without(mut self, classes: &[usize]) -> Self {
        let dim = self.whitened.dim;
        let keep = |rows: &[f64]| -> Vec<f64> {
            let kept = rows.chunks_exact(dim).enumerate().filter(|(class, _)| !classes.contains(class));
            kept.flat_map(|(_, row)| row).copied().collect()
        };
        self.text = keep(&self.text);
        self.prompts = self.prompts.map(|prompts| keep(&prompts));
        self.whitened.mu = keep(&self.whitened.mu);
        self.seen -= classes.len();
        self
    }

    /// With other learned prompts (n, D).
    pub fn with_prompts(mut self, prompts: Option<&[f32]>) -> Self {
        self.prompts = prompts.map(|prompts| unit_rows(prompts, self.whitened.dim));
        self
    }

    /// Scores of embeddings (N, D), of any length.
    pub fn scores(&self, embeddings: &[f32]) -> Scores {
        self.together(embeddings).scores(self.whitened.classes(), self.seen, self.chosen.calibration)
    }

    fn together(&self, embeddings: &[f32]) -> Together {
        let Whitened { dim, .. } = self.whitened;
        let rows = unit_rows(embeddings, dim);
        let text = logits(&rows, &self.text, dim, self.logit_scale);
        let prompts = self.prompts.as_ref().map(|prompts| logits(&rows, prompts, dim, self.logit_scale));
        let evidence = self.whitened.evidence(&rows);
        self.chosen.together(text, prompts.as_deref(), Some(&evidence), self.whitened.classes(), self.seen)
    }

    /// The logarithms of the probabilities (N, C) of all classes for embeddings (N, D), in learning
    /// order. Logits are on one scale: among learned classes they differ as the scores do that tell
    /// those apart, divided as the calibration says; and the highest of them stands to those of the
    /// others as it does where learned and other classes are told apart.
    pub fn logits(&self, embeddings: &[f32]) -> Vec<f64> {
        let calibration = self.chosen.calibration;
        let Together { seen, mut all, .. } = self.together(embeddings);
        for (all, seen) in all.chunks_exact_mut(self.whitened.classes()).zip(seen.chunks_exact(self.seen)) {
            let learned = &mut all[..self.seen];
            let best = [highest(learned), highest(seen)];
            let divisor = calibration.divisor(seen.iter().copied());
            learned.iter_mut().zip(seen).for_each(|(logit, score)| *logit = best[0] + (score - best[1]) / divisor);
            Calibration { even: calibration.even, ..Calibration::NONE }.logarithms(all);
        }
        all
    }

    /// Probabilities (N, C) of all classes for embeddings (N, D).
    pub fn probabilities(&self, embeddings: &[f32]) -> Vec<f32> {
        self.logits(embeddings).into_iter().map(|x| x.exp() as f32).collect()
    }

    /// The confidence (N) that embeddings (N, D) are of a learned class at all: the highest of the
    /// scores of text and evidence, without prompts, which are sure of what they were trained on.
    pub fn confidence(&self, embeddings: &[f32]) -> Vec<f32> {
        self.together(embeddings).confidence.into_iter().map(|x| x as f32).collect()
    }

    /// The confidence below which a share, 0 to 1, of training rows was, each left out; none where no
    /// row could be left out, or the file says nothing of it.
    pub fn least_confidence(&self, share: f64) -> Option<f32> {
        let known = self.known.as_ref()?;
        let at = share.clamp(0.0, 1.0) * (known.len() - 1) as f64;
        let (below, above) = (known[at.floor() as usize], known[at.ceil() as usize]);
        Some((below + (above - below) * at.fract()) as f32)
    }

    /// The learned prompts (n, D), of length 1, where there are some.
    pub fn prompts(&self) -> Option<Vec<f32>> {
        self.prompts.as_ref().map(|prompts| prompts.iter().map(|&x| x as f32).collect())
    }

    /// Its tensors, and what stands beside them, as [`OpenClassifier::read`] takes them; `classes`
    /// are in learning order.
    pub fn file(&self, classes: &[Class]) -> Result<(Tensors, serde_json::Value)> {
        Ok((self.tensors(), serde_json::to_value(self.about(classes))?))
    }

    /// Its tensors, by the names of `schemas/classifier.md`.
    pub fn tensors(&self) -> Tensors {
        let Whitened { dim, whitener, centre, mu } = &self.whitened;
        let rows = |values: &[f64]| -> (Vec<usize>, Vec<f32>) {
            (vec![values.len() / dim, *dim], values.iter().map(|&x| x as f32).collect())
        };
        let mut tensors = Tensors::from([
            ("text".into(), rows(&self.text)),
            ("whitener".into(), rows(whitener)),
            ("centre".into(), rows(centre)),
            ("means".into(), rows(mu)),
        ]);
        if let Some(prompts) = &self.prompts {
            tensors.insert("prompts".into(), rows(prompts));
        }
        if let Some(known) = &self.known {
            tensors.insert("known".into(), (vec![1, known.len()], known.iter().map(|&x| x as f32).collect()));
        }
        tensors
    }

    /// What stands beside its tensors; `classes` are in learning order.
    pub fn about(&self, classes: &[Class]) -> ClassifierAbout {
        let Chosen { shrinkage, weight, text_weight, bias, calibration: Calibration { temperature, power, even } } =
            self.chosen;
        ClassifierAbout {
            classes: classes.to_vec(),
            seen: self.seen,
            logit_scale: self.logit_scale,
            weight,
            text_weight,
            gate: GATE,
            bias,
            shrinkage,
            temperature,
            power,
            even,
            made_from: None,
        }
    }

    /// Reads a file of [`OpenClassifier::file`], and the classes that it is of, in learning order.
    /// An error where it does not fit together.
    pub fn read(path: &Path) -> Result<(Self, Vec<Class>)> {
        let (stored, about): (Tensors, ClassifierAbout) = tensors::read(path)?;
        Self::from_file(stored, about).with_context(|| format!("{} is no classifier: is it damaged?", path.display()))
    }

    fn from_file(stored: Tensors, about: ClassifierAbout) -> Result<(Self, Vec<Class>)> {
        let ClassifierAbout { classes, seen, logit_scale, weight, text_weight, gate, bias, shrinkage, .. } = about;
        let calibration = Calibration { temperature: about.temperature, power: about.power, even: about.even };
        ensure!((1..=classes.len()).contains(&seen), "{seen} of {} classes are learned", classes.len());
        ensure!(gate == GATE, "the gate is {gate}, and this version has {GATE}");
        let numbers = [("logit_scale", logit_scale), ("weight", weight), ("text_weight", text_weight), ("bias", bias)];
        for (name, value) in numbers {
            ensure!(value.is_finite(), "{name} is {value}");
        }
        calibration.check()?;
        let wide = |(name, (shape, values)): (String, (Vec<usize>, Vec<f32>))| {
            (name, (shape, values.into_iter().map(f64::from).collect()))
        };
        let mut stored: Named<f64> = stored.into_iter().map(wide).collect();
        let dim = stored.get("centre").and_then(|(shape, _)| shape.last()).copied().unwrap_or(0);
        ensure!(dim > 0, "tensor \"centre\" should have the shape [1, D]");
        let mut rows = |name: &str, rows: usize| -> Result<Vec<f64>> {
            let values = take_f32(&mut stored, name, &[rows, dim])?;
            Ok(values.into_iter().map(f64::from).collect())
        };
        let whitened = Whitened {
            dim,
            whitener: rows("whitener", dim)?,
            centre: rows("centre", 1)?,
            mu: rows("means", classes.len())?,
        };
        let text = rows("text", classes.len())?;
        let prompts = stored.contains_key("prompts").then(|| take_f32(&mut stored, "prompts", &[seen, dim]));
        let prompts = prompts.transpose()?.map(|prompts| prompts.into_iter().map(f64::from).collect());
        let known =
            stored.contains_key("known").then(|| take_f32(&mut stored, "known", &[1, QUANTILES])).transpose()?;
        let known = known.map(|known| known.into_iter().map(f64::from).collect());
        let chosen = Chosen { shrinkage, weight, text_weight, bias, calibration };
        Ok((OpenClassifier { text, prompts, whitened, seen, logit_scale, chosen, known }, classes))
    }
}

impl Chosen {
    /// The score of a seen class from its logit of zero-shot text and its evidence.
    pub(super) fn beside(&self, logit: f64, evidence: f64) -> f64 {
        weighed(logit, self.text_weight) + self.weight * evidence
    }

    /// Scores from logits (N, C) of zero-shot text, logits (N, n) of learned prompts, which count half
    /// and text the other half then, and evidence (N, C), where there is any. The first `seen` classes
    /// are learned.
    pub(super) fn together(
        &self,
        text: Vec<f64>,
        prompts: Option<&[f64]>,
        evidence: Option<&[f64]>,
        classes: usize,
        seen: usize,
    ) -> Together {
        let mut all = text;
        let of_seen = all.chunks_exact(classes).flat_map(|row| &row[..seen]);
        let mut among_seen: Vec<f64> = of_seen.map(|&logit| weighed(logit, self.text_weight)).collect(); // (N, n)
        if let Some(prompts) = prompts {
            among_seen.iter_mut().zip(prompts).for_each(|(text, prompt)| *text = 0.5 * (*text + prompt));
        }
        let Some(evidence) = evidence else { return Together { seen: among_seen, all, confidence: Vec::new() } };
        let mut confidence = Vec::with_capacity(all.len() / classes);
        for ((among_seen, all), evidence) in
            among_seen.chunks_exact_mut(seen).zip(all.chunks_exact_mut(classes)).zip(evidence.chunks_exact(classes))
        {
            // prompts have no say in it: they are sure of what they were trained on
            confidence.push(highest_of(all.iter().zip(evidence).take(seen).map(|(&logit, &e)| self.beside(logit, e))));
            among_seen.iter_mut().zip(evidence).for_each(|(x, evidence)| *x += self.weight * evidence);
            all.iter_mut().zip(evidence).for_each(|(x, evidence)| *x += GATE * evidence);
            all[seen..].iter_mut().for_each(|x| *x += self.bias);
        }
        Together { seen: among_seen, all, confidence }
    }
}

impl Together {
    /// As an evaluation takes them.
    pub fn scores(self, classes: usize, seen: usize, calibration: Calibration) -> Scores {
        let rows = || self.all.chunks_exact(classes);
        Scores {
            open: rows().flat_map(|row| &row[..seen]).map(|&x| x as f32).collect(),
            unseen: Some(rows().flat_map(|row| &row[seen..]).map(|&x| x as f32).collect()),
            seen: Some(self.seen.into_iter().map(|x| x as f32).collect()),
            confidence: Some(self.confidence.into_iter().map(|x| x as f32).collect()),
            logits: Some(Logits { scale: 1.0, calibration: Some(calibration) }),
        }
    }
}

fn highest(scores: &[f64]) -> f64 {
    highest_of(scores.iter().copied())
}

fn highest_of(scores: impl Iterator<Item = f64>) -> f64 {
    scores.fold(f64::NEG_INFINITY, f64::max)
}

/// A logit times what text counts; of what is no candidate it stays −∞.
fn weighed(logit: f64, text_weight: f64) -> f64 {
    if logit == f64::NEG_INFINITY { logit } else { text_weight * logit }
}

/// Logits (N, k) of unit rows (N, D) for text features (k, D) of length 1.
pub(super) fn logits(rows: &[f64], text: &[f64], dim: usize, logit_scale: f64) -> Vec<f64> {
    let mut logits = product(Matrix::new(rows, dim), Matrix::new(text, dim).t());
    logits.iter_mut().for_each(|x| *x *= logit_scale);
    logits
}

/// Rows (N, D) at length 1; those of length 0 stay.
pub(super) fn unit_rows(rows: &[f32], dim: usize) -> Vec<f64> {
    let mut unit: Vec<f64> = rows.iter().map(|&x| f64::from(x)).collect();
    for row in unit.chunks_exact_mut(dim) {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x /= length);
        }
    }
    unit
}
