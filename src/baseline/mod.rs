//! Rivals of CGIL on the same cached embeddings: classifiers that learn classes task by task, and keep statistics of past
//! ones instead of images.

mod covariance;
mod discriminant;
pub mod ensemble;
mod hybrid;
mod mean;
mod projection;
mod replay;
pub mod text;

use anyhow::{Result, bail};

pub use discriminant::{Discriminant, Shrinkage};
pub use hybrid::TextAndMean;
pub use mean::NearestMean;
pub use projection::{FEATURES, Features, HeldOutError, LAMBDAS, RandomProjection, Ridge, choose_ridge};
pub use replay::{Covariance, ReplayHead};

use crate::{
    dense::{
        product::{Matrix, Product, Threads},
        vector::{dot, vectorised},
    },
    table::embeddings::Embeddings,
    task::{Class, Curriculum},
};

/// A classifier that learns classes task by task. What it needs of past ones it keeps itself.
pub trait Classifier {
    /// Learns the classes of the next task. An error names the class that it is about; after one the classifier is not to
    /// be used.
    fn learn(&mut self, classes: &[Examples]) -> Result<()>;

    /// Scores (N, n) of embeddings (N, D), raw, for the n classes learned so far, in the order in which they were
    /// learned; the highest is the answer.
    fn scores(&self, embeddings: &[f32]) -> Vec<f32>;

    /// What it keeps.
    fn stored(&self) -> Stored;
}

/// A class to be learned, and its training embeddings (N, D), flat, raw as the encoder gives them.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    pub class: &'a Class,
    pub rows: &'a [f32],
}

/// Bytes that have to be kept, beside the CLIP, to classify and to learn further classes. Of a symmetric matrix one triangle
/// counts; what is drawn from the seed again does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stored {
    /// For every class.
    pub per_class: usize,
    /// Once, however many classes there are.
    pub shared: usize,
}

impl Stored {
    /// For `classes` classes in all.
    pub fn total(self, classes: usize) -> usize {
        self.per_class * classes + self.shared
    }
}

/// Shows a classifier the training embeddings of a task (from 0).
pub fn learn_task(
    classifier: &mut impl Classifier,
    embeddings: &Embeddings,
    curriculum: &Curriculum,
    task: usize,
) -> Result<()> {
    let classes: Vec<&Class> = curriculum.classes[curriculum.task(task)].iter().collect();
    let rows = embeddings.by_class("train", &classes)?;
    let examples: Vec<Examples> = classes
        .iter()
        .map(|class| Examples { class, rows: rows.get(&class.label).map_or(&[][..], Vec::as_slice) })
        .collect();
    classifier.learn(&examples)
}

/// The classes that a classifier has learned.
struct Known {
    /// Values per embedding, D.
    dim: usize,
    /// In the order in which they were learned.
    labels: Vec<i64>,
}

impl Known {
    /// Of embeddings of `dim` values, no class yet.
    fn new(dim: usize) -> Self {
        Known { dim, labels: Vec::new() }
    }

    /// Takes in the classes of a task, unless one of them cannot be learned by anything.
    fn admit(&mut self, classes: &[Examples]) -> Result<()> {
        for Examples { class, rows } in classes {
            let (name, dim) = (named(class), self.dim);
            if self.labels.contains(&class.label) {
                bail!("{name} has been learned before: every class is learned once, with all its rows");
            }
            if rows.is_empty() {
                bail!("{name} has no training embeddings: give it some, or leave it out");
            }
            if rows.len() % dim != 0 {
                bail!("{name} has {} values, which are no rows of {dim}: give whole embeddings", rows.len());
            }
            if let Some(row) = rows.chunks(dim).position(|row| row.iter().any(|x| !x.is_finite())) {
                bail!("training embedding {row} of {name} is not finite: make the embeddings again");
            }
            self.labels.push(class.label);
        }
        Ok(())
    }

    fn count(&self) -> usize {
        self.labels.len()
    }
}

/// A class, as errors call it.
fn named(class: &Class) -> String {
    format!("class {:?} (label {})", class.name, class.label)
}

/// Products (N, n) of embeddings (N, D), raw, brought to length 1, with keys (n, D): cosines where those have length 1. An
/// embedding of length 0 has products of 0.
pub fn cosines(embeddings: &[f32], keys: &[f32], dim: usize) -> Vec<f32> {
    let mut rows = embeddings.to_vec(); // (N, D)
    vectorised(|| {
        for row in rows.chunks_exact_mut(dim) {
            let length = dot(row, row).sqrt();
            if length > 0.0 {
                row.iter_mut().for_each(|x| *x /= length);
            }
        }
    });
    let n = keys.len() / dim;
    let mut cosines = vec![0.0; rows.len() / dim * n]; // (N, n)
    Product::on(Threads::All).into(&mut cosines, n, Matrix::new(&rows, dim), Matrix::new(keys, dim).t());
    cosines
}

/// The mean (D) of rows (N, D).
fn mean_row(rows: &[f32], dim: usize) -> Vec<f64> {
    let n = (rows.len() / dim) as f64;
    let mut mean = vec![0.0; dim];
    for row in rows.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x));
    }
    mean.iter_mut().for_each(|mean| *mean /= n);
    mean
}

/// A vector at length 1; None where it has no length.
fn unit(x: impl Iterator<Item = f64> + Clone) -> Option<impl Iterator<Item = f64> + Clone> {
    let length = x.clone().map(|x| x * x).sum::<f64>().sqrt();
    (length > 0.0).then(|| x.map(move |x| x / length))
}
