//! Nearest class mean: the cosine to the mean of a class's embeddings.

use anyhow::{Context, Result};

use super::{Classifier, Examples, Known, Stored, cosines, named, unit};

/// Nearest class mean: embeddings are brought to length 1, and so is their mean, which the cosine is taken to.
///
/// ```
/// use cgil::{baseline::{Classifier, Examples, NearestMean}, task::Class};
/// let [cat, dog] = [(3, "cat"), (5, "dog")].map(|(label, name)| Class { label, name: name.into() });
/// let mut ncm = NearestMean::new(2);
/// ncm.learn(&[Examples { class: &cat, rows: &[3.0, 0.0, 0.1, 0.0] }]).unwrap();
/// ncm.learn(&[Examples { class: &dog, rows: &[0.0, 7.0] }]).unwrap();
/// assert_eq!(ncm.scores(&[2.0, 0.0, 0.0, 0.0]), [1.0, 0.0, 0.0, 0.0]);
/// ```
pub struct NearestMean {
    known: Known,
    means: Vec<f32>, // (n, D)
}

impl NearestMean {
    /// For embeddings of `dim` values.
    pub fn new(dim: usize) -> Self {
        NearestMean { known: Known::new(dim), means: Vec::new() }
    }
}

impl Classifier for NearestMean {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.known.admit(classes)?;
        for class in classes {
            self.means.extend(unit_mean(class, self.known.dim)?.into_iter().map(|x| x as f32));
        }
        Ok(())
    }

    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        cosines(embeddings, &self.means, self.known.dim)
    }

    fn stored(&self) -> Stored {
        Stored { per_class: self.known.dim * size_of::<f32>(), shared: 0 }
    }
}

/// The mean (D) of a class's embeddings at length 1, at length 1.
pub(super) fn unit_mean(examples: &Examples, dim: usize) -> Result<Vec<f64>> {
    let mut sum = vec![0.0; dim];
    for (i, row) in examples.rows.chunks_exact(dim).enumerate() {
        let row = unit(row.iter().map(|&x| f64::from(x))).with_context(|| {
            let name = named(examples.class);
            format!("training embedding {i} of {name} has length 0, so it points nowhere: leave it out")
        })?;
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let mean = unit(sum.iter().copied()).with_context(|| {
        format!("the training embeddings of {} cancel out: they have no mean", named(examples.class))
    })?;
    Ok(mean.collect())
}
