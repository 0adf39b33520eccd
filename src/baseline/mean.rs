//! Nearest class mean: the cosine to the mean of a class's embeddings.

use anyhow::{Context, Result};

use super::classifier::{Classifier, Examples, Incremental, Known, State, Stored, finish, take_f32, tensor, unit};
use crate::dense::cosine::cosines;

/// The means of classes: embeddings are brought to length 1, and so is their mean.
#[derive(Clone)]
pub(super) struct UnitMeans {
    known: Known,
    means: Vec<f32>, // (n, D)
}

impl UnitMeans {
    /// Of embeddings of `dim` values, no class yet.
    pub fn new(dim: usize) -> Self {
        UnitMeans { known: Known::new(dim), means: Vec::new() }
    }

    /// Values per embedding, D.
    pub fn dim(&self) -> usize {
        self.known.dim
    }

    /// The means (n, D).
    pub fn values(&self) -> &[f32] {
        &self.means
    }

    /// Labels (n) of the classes.
    pub fn labels(&self) -> &[i64] {
        &self.known.labels
    }

    /// Takes in the classes of a task; see [`Incremental::learn`].
    pub fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.known.admit_new(classes)?;
        for class in classes {
            self.means.extend(unit_mean(class, self.known.dim)?);
        }
        Ok(())
    }

    /// See [`Incremental::state`].
    pub fn state(&self) -> State {
        let shape = vec![self.known.count(), self.known.dim];
        let mut state = State::from([("unit_means".into(), tensor(shape, &self.means))]);
        self.known.put(&mut state);
        state
    }

    /// What [`UnitMeans::state`] gave, of embeddings of `dim` values. An error where the tensors do
    /// not fit.
    pub fn from_state(mut state: State, dim: usize) -> Result<Self> {
        let known = Known::take(&mut state, dim)?;
        let means = take_f32(&mut state, "unit_means", &[known.count(), dim])?;
        finish(state)?;
        Ok(UnitMeans { known, means })
    }

    /// What they take.
    pub fn stored(&self) -> Stored {
        Stored { per_class: self.known.dim * size_of::<f32>(), shared: 0 }
    }
}

/// Nearest class mean, by the cosine.
///
/// ```
/// use cgil::{baseline::{Classifier, Examples, Incremental, NearestMean}, rows::Rows, task::Class};
/// let [cat, dog] = [(3, "cat"), (5, "dog")].map(|(label, name)| Class { label, name: name.into() });
/// let mut ncm = NearestMean::new(2);
/// let [cats, dogs] = [vec![3.0, 0.0, 0.1, 0.0], vec![0.0, 7.0]].map(|rows| Rows::new(2, rows));
/// ncm.learn(&[Examples { class: &cat, rows: &cats }]).unwrap();
/// ncm.learn(&[Examples { class: &dog, rows: &dogs }]).unwrap();
/// assert_eq!(ncm.scores(&[2.0, 0.0, 0.0, 0.0]), [1.0, 0.0, 0.0, 0.0]);
/// ```
pub struct NearestMean {
    means: UnitMeans,
}

impl NearestMean {
    /// For embeddings of `dim` values.
    pub fn new(dim: usize) -> Self {
        NearestMean { means: UnitMeans::new(dim) }
    }
}

impl Incremental for NearestMean {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        self.means.learn(classes)
    }

    fn in_parts(&mut self) -> Option<&mut dyn Incremental> {
        Some(self)
    }

    fn state(&self) -> State {
        self.means.state()
    }

    fn restore(&mut self, state: State) -> Result<()> {
        self.means = UnitMeans::from_state(state, self.means.dim())?;
        Ok(())
    }

    fn stored(&self) -> Stored {
        self.means.stored()
    }
}

impl Classifier for NearestMean {
    fn scores(&self, embeddings: &[f32]) -> Vec<f32> {
        cosines(embeddings, self.means.values(), self.means.dim())
    }
}

/// The mean (D) of a class's embeddings at length 1, at length 1.
fn unit_mean(examples: &Examples, dim: usize) -> Result<Vec<f32>> {
    let mut sum = vec![0.0; dim];
    for (i, row) in examples.rows.values().chunks_exact(dim).enumerate() {
        let row = unit(row.iter().map(|&x| f64::from(x))).with_context(|| {
            let name = examples.class;
            format!("training embedding {i} of {name} has length 0, so it points nowhere: leave it out")
        })?;
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    // what is left of rows that cancel out is the rounding of their values
    let least = f64::from(f32::EPSILON) * examples.rows.len() as f64;
    let mean = unit(sum.iter().copied()).filter(|_| sum.iter().map(|x| x * x).sum::<f64>().sqrt() > least);
    let mean = mean.with_context(|| {
        format!(
            "the training embeddings of {} cancel out, so their mean points nowhere: use a baseline that needs no \
             direction of it, such as lda or ranpac",
            examples.class
        )
    })?;
    Ok(mean.map(|x| x as f32).collect())
}
