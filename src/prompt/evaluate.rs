//! Scores the test images against the classifier that the prompts make.

use anyhow::{Result, bail};

use super::{Learner, cpu::normalise};
use crate::{
    dense::product::{Matrix, Product, Threads},
    task::Curriculum,
};

/// Images compared with all classes at a time.
const BATCH: usize = 4096;

/// The test images of a run, in the source's order.
pub struct TestSet {
    pub sample_ids: Vec<String>,
    /// Position of each image's class in learning order.
    pub classes: Vec<usize>,
    /// Normalised embeddings (N, P), flat.
    pub embeddings: Vec<f32>,
}

/// What a classifier says of the test images.
pub struct Evaluation {
    /// Normalised text features (C, P), flat: learned for seen classes, zero-shot for the others.
    pub features: Vec<f32>,
    /// Per image the predicted class, in learning order, and its cosine.
    pub predictions: Vec<(usize, f32)>,
    /// Accuracy in percent on each task's images.
    pub accuracy: Vec<f64>,
}

/// Classifies by the prompts of the first `seen` classes and the zero-shot features of the others. An image
/// of a seen class is compared with the seen ones, one of an unseen class with all. With `legacy` the
/// unseen classes' features keep their length, as in the authors' code, so scores are no cosines.
pub fn evaluate(
    learner: &mut dyn Learner,
    curriculum: &Curriculum,
    test: &TestSet,
    seen: usize,
    legacy: bool,
) -> Result<Evaluation> {
    let all = curriculum.classes.len();
    let p = learner.zero_shot().len() / all;
    let mut features = if seen > 0 { learner.keys(seen)? } else { Vec::new() }; // (n, P)
    features.extend_from_slice(&learner.zero_shot()[seen * p..]); // (C, P)
    if !legacy {
        normalise(&mut features[seen * p..], p);
    }
    if features.iter().any(|x| !x.is_finite()) {
        bail!("the text features are not finite: use a smaller --lr, or look whether the checkpoint is whole");
    }

    let mut predictions = Vec::with_capacity(test.classes.len());
    let mut cosines = vec![0.0; BATCH.min(test.classes.len()) * all];
    for (images, classes) in test.embeddings.chunks(BATCH * p).zip(test.classes.chunks(BATCH)) {
        let cosines = &mut cosines[..classes.len() * all]; // (rows, C)
        Product::on(Threads::All).into(cosines, all, Matrix::new(images, p), Matrix::new(&features, p).t());
        for (scores, &class) in cosines.chunks_exact(all).zip(classes) {
            let candidates = if class < seen { seen } else { all };
            predictions.push(highest(&scores[..candidates]));
        }
    }

    let (mut right, mut images) = (vec![0usize; curriculum.tasks()], vec![0usize; curriculum.tasks()]);
    for (&class, &(predicted, _)) in test.classes.iter().zip(&predictions) {
        let task = curriculum.task_of(class);
        images[task] += 1;
        right[task] += usize::from(predicted == class);
    }
    let accuracy = right.iter().zip(&images).map(|(&right, &images)| 100.0 * right as f64 / images as f64).collect();
    Ok(Evaluation { features, predictions, accuracy })
}

/// The first of the highest scores.
fn highest(scores: &[f32]) -> (usize, f32) {
    scores
        .iter()
        .copied()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
}
