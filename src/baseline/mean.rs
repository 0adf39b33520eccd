//! Nearest class mean: the cosine to the mean of a class's embeddings.

use anyhow::{Context, Result};

use super::classifier::{
    Classifier, Examples, Incremental, Known, OfSums, State, Stored, Sum, finish, learn_as_sums, require_rows, take,
    take_counts, take_f32, tensor, unit,
};
use crate::{dense::cosine::cosines, task::Class};

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

impl OfSums for UnitMeans {
    fn sum(&self) -> Sum {
        Sum { dim: self.known.dim, of: |dim, classes| Ok(UnitSums::of(dim, classes)?.state()) }
    }

    fn learn_sums(&mut self, classes: &[Class], parts: &mut dyn Iterator<Item = Result<State>>) -> Result<()> {
        self.known.require_new(classes)?;
        let mut sums = UnitSums::new(self.known.dim);
        classes.iter().for_each(|class| sums.enter(class.label, class.key()));
        for part in parts {
            sums.add(&UnitSums::from_state(part?, self.known.dim)?)?;
        }
        require_rows(classes, &sums.counts)?;
        for (place, class) in classes.iter().enumerate() {
            self.known.enter(class.label, class.key());
            self.means.extend(sums.mean(place, class)?);
        }
        Ok(())
    }
}

/// Sums of the embeddings of classes, each embedding at length 1.
struct UnitSums {
    known: Known,
    counts: Vec<usize>, // (n)
    sums: Vec<f64>,     // (n, D)
}

impl UnitSums {
    fn new(dim: usize) -> Self {
        UnitSums { known: Known::new(dim), counts: Vec::new(), sums: Vec::new() }
    }

    fn of(dim: usize, classes: &[Examples]) -> Result<Self> {
        let mut sums = UnitSums::new(dim);
        sums.known.admit(classes)?;
        for examples in classes {
            sums.counts.push(examples.rows.len());
            sums.sums.extend(unit_sum(examples)?);
        }
        Ok(sums)
    }

    /// Takes in a class without rows.
    fn enter(&mut self, label: i64, key: u64) {
        self.known.enter(label, key);
        self.counts.push(0);
        self.sums.resize(self.sums.len() + self.known.dim, 0.0);
    }

    /// Adds the sums of more rows, of the same classes or fewer.
    fn add(&mut self, more: &UnitSums) -> Result<()> {
        let dim = self.known.dim;
        for (i, &label) in more.known.labels.iter().enumerate() {
            let place =
                self.known.place(label).with_context(|| format!("the task has no class of the label {label}"))?;
            self.counts[place] += more.counts[i];
            let sums = self.sums[place * dim..][..dim].iter_mut().zip(&more.sums[i * dim..]);
            sums.for_each(|(sum, more)| *sum += more);
        }
        Ok(())
    }

    /// The mean (D) of a class at length 1.
    fn mean(&self, place: usize, class: &Class) -> Result<impl Iterator<Item = f32>> {
        let sum = &self.sums[place * self.known.dim..][..self.known.dim];
        // what is left of rows that cancel out is the rounding of their values
        let least = f64::from(f32::EPSILON) * self.counts[place] as f64;
        let mean = unit(sum.iter().copied()).filter(|_| sum.iter().map(|x| x * x).sum::<f64>().sqrt() > least);
        let mean = mean.with_context(|| {
            format!(
                "the training embeddings of {class} cancel out, so their mean points nowhere: use a baseline that needs \
                 no direction of it, such as lda or ranpac"
            )
        })?;
        Ok(mean.map(|x| x as f32))
    }

    fn state(&self) -> State {
        let (dim, n) = (self.known.dim, self.known.count());
        let counts = self.counts.iter().map(|&count| count as f64).collect();
        let sums = [("counts".into(), (vec![n], counts)), ("unit_sums".into(), (vec![n, dim], self.sums.clone()))];
        let mut state = State::from(sums);
        self.known.put(&mut state);
        state
    }

    fn from_state(mut state: State, dim: usize) -> Result<Self> {
        let known = Known::take(&mut state, dim)?;
        let counts = take_counts(&mut state, known.count())?;
        let sums = take(&mut state, "unit_sums", &[known.count(), dim])?;
        finish(state)?;
        Ok(UnitSums { known, counts, sums })
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
        learn_as_sums(&mut self.means, classes)
    }

    fn of_sums(&mut self) -> Option<&mut dyn OfSums> {
        Some(&mut self.means)
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

/// The sum (D) of a class's embeddings at length 1.
fn unit_sum(examples: &Examples) -> Result<Vec<f64>> {
    let dim = examples.rows.dim();
    let mut sum = vec![0.0; dim];
    for (i, row) in examples.rows.values().chunks_exact(dim).enumerate() {
        let row = unit(row.iter().map(|&x| f64::from(x))).with_context(|| {
            let name = examples.class;
            format!("training embedding {i} of {name} has length 0, so it points nowhere: leave it out")
        })?;
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    Ok(sum)
}
