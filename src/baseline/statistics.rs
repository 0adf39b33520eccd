//! Statistics of classes: how many rows, their mean, and how rows of all classes vary around the
//! mean of their own.

use anyhow::{Result, ensure};

use super::classifier::{
    Examples, Incremental, Known, OfSums, State, Stored, Sum, finish, learn_as_sums, require_rows, take, take_counts,
};
use crate::{
    dense::{
        covariance::{Scatter, shrink_by},
        moments::mean_row,
        symmetric::Triangle,
    },
    task::Class,
};

/// What is said of a scatter that only a damaged file can hold.
pub(super) const NO_COVARIANCE: &str =
    "the scatter of the classes is no covariance: are the stored statistics damaged?";

/// The counts, means and common scatter of classes, of raw embeddings. They are sums over rows, so
/// classes may come in any tasks: what is kept is the same. Every linear discriminant is made of
/// them, whatever its shrinkage.
#[derive(Clone, Debug)]
pub struct ClassStatistics {
    known: Known,
    counts: Vec<usize>, // (n), rows of the classes
    means: Vec<f64>,    // (n, D)
    scatter: Triangle,  // (D, D), Σ (x - mean)(x - mean)ᵀ
}

impl ClassStatistics {
    /// Of embeddings of `dim` values, no class yet.
    pub fn new(dim: usize) -> Self {
        ClassStatistics { known: Known::new(dim), counts: Vec::new(), means: Vec::new(), scatter: Triangle::zeros(dim) }
    }

    /// Values per embedding, D.
    pub fn dim(&self) -> usize {
        self.known.dim
    }

    /// Labels (n) of the classes, in the order in which they were learned.
    pub fn labels(&self) -> &[i64] {
        &self.known.labels
    }

    /// Rows (n) of the classes, in the order in which they were learned.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Rows of all classes.
    pub fn rows(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Means (n, D) of the classes.
    pub fn means(&self) -> &[f64] {
        &self.means
    }

    /// The scatter (D, D): Σ (x - mean)(x - mean)ᵀ over the rows of all classes, each with the mean
    /// of its own.
    pub fn scatter(&self) -> &Triangle {
        &self.scatter
    }

    /// Whether any class has two different rows.
    pub fn varies(&self) -> bool {
        self.scatter.diagonal().any(|x| x > 0.0)
    }

    /// Takes in the labels of classes whose rows follow. Returns their places.
    pub(super) fn admit(&mut self, classes: &[Examples]) -> Result<Vec<usize>> {
        self.known.admit(classes)
    }

    /// Adds classes by their places and their rows (N, D).
    pub(super) fn add<T: Copy + Into<f64>>(&mut self, classes: &[(usize, &[T])]) {
        let (dim, mut sum) = (self.known.dim, self.scatter.whole());
        let mut scatter = Scatter::onto(&mut sum, dim);
        for &(place, rows) in classes {
            let mean = mean_row(rows, dim);
            scatter.push_about(rows, &mean);
            self.join(place, rows.len() / dim, &mean, &mut scatter);
        }
        scatter.finish();
        self.scatter.set(&sum);
    }

    /// Adds the statistics of more rows.
    fn add_statistics(&mut self, more: &ClassStatistics) {
        let (dim, mut sum) = (self.known.dim, self.scatter.whole());
        sum.iter_mut().zip(more.scatter.whole()).for_each(|(x, more)| *x += more);
        let mut scatter = Scatter::onto(&mut sum, dim);
        for (i, (&label, &key)) in more.known.labels.iter().zip(&more.known.keys).enumerate() {
            let place = self.known.enter(label, key);
            self.join(place, more.counts[i], &more.means[i * dim..][..dim], &mut scatter);
        }
        scatter.finish();
        self.scatter.set(&sum);
    }

    /// Joins `count` rows with the mean (D) to the class at a place. `scatter` has the scatter of either;
    /// of a known class it gets what two samples have more as one (Chan, Golub and LeVeque, 1983).
    fn join(&mut self, place: usize, count: usize, mean: &[f64], scatter: &mut Scatter) {
        let dim = self.known.dim;
        if place == self.counts.len() {
            self.means.extend(mean);
            self.counts.push(count);
            return;
        }
        let (before, own) = (self.counts[place] as f64, &mut self.means[place * dim..][..dim]);
        let all = before + count as f64;
        let apart: Vec<f64> = mean.iter().zip(&*own).map(|(new, old)| new - old).collect(); // (D)
        if before > 0.0 {
            let share = (before * count as f64 / all).sqrt();
            scatter.push(apart.iter().map(|x| share * x));
        }
        own.iter_mut().zip(&apart).for_each(|(mean, apart)| *mean += count as f64 / all * apart);
        self.counts[place] += count;
    }

    /// What [`Incremental::state`] gave, of embeddings of `dim` values. An error where the
    /// tensors do not fit.
    pub fn from_state(mut state: State, dim: usize) -> Result<Self> {
        let known = Known::take(&mut state, dim)?;
        let n = known.count();
        let counts = take_counts(&mut state, n)?;
        let means = take(&mut state, "means", &[n, dim])?;
        let scatter = Triangle::from_values(take(&mut state, "scatter", &[Triangle::len(dim)])?, dim);
        ensure!(scatter.may_be_gram(), "tensor \"scatter\" holds a value above what its diagonal allows");
        finish(state)?;
        Ok(ClassStatistics { known, counts, means, scatter })
    }

    /// The covariance (D, D) within classes, shrunk towards a multiple of the identity by `least` at
    /// least, and as far as oracle approximating shrinkage says. 0 where the rows of every class are
    /// equal; where every class has one row, [`ClassStatistics::half_of_means`] of the identity.
    pub fn covariance(&self, least: f64) -> Vec<f64> {
        let dim = self.dim();
        let freedom = self.rows().saturating_sub(self.counts.len());
        if freedom == 0 {
            let variance = self.half_of_means();
            return (0..dim * dim).map(|i| if i % (dim + 1) == 0 { variance } else { 0.0 }).collect();
        }
        let mut covariance = self.scatter.whole();
        covariance.iter_mut().for_each(|x| *x /= freedom as f64);
        shrink_by(&mut covariance, dim, self.rows(), least);
        covariance
    }

    /// A variance within classes of which every one has one row, so that nobody knows it: half of
    /// what the rows vary by, so that a row and what is known without it count alike. 0 of one
    /// class.
    pub fn half_of_means(&self) -> f64 {
        let dim = self.dim();
        let centre = mean_row(&self.means, dim);
        let squares =
            self.means.chunks_exact(dim).flat_map(|row| row.iter().zip(&centre).map(|(x, c)| (x - c).powi(2)));
        squares.sum::<f64>() / (2 * self.means.len()).max(1) as f64
    }
}

impl OfSums for ClassStatistics {
    fn sum(&self) -> Sum {
        let of = |dim, classes: &[Examples]| {
            let mut sums = ClassStatistics::new(dim);
            let places = sums.admit(classes)?;
            sums.add(&places.into_iter().zip(classes.iter().map(|e| e.rows.values())).collect::<Vec<_>>());
            Ok(sums.state())
        };
        Sum { dim: self.dim(), of }
    }

    fn learn_sums(&mut self, classes: &[Class], parts: &mut dyn Iterator<Item = Result<State>>) -> Result<()> {
        let dim = self.dim();
        let mut task = ClassStatistics::new(dim);
        for class in classes {
            task.known.enter(class.label, class.key());
            task.counts.push(0);
            task.means.resize(task.means.len() + dim, 0.0);
        }
        for part in parts {
            task.add_statistics(&ClassStatistics::from_state(part?, dim)?);
        }
        ensure!(task.counts.len() == classes.len(), "there are sums of classes that the task does not have");
        require_rows(classes, &task.counts)?;
        self.add_statistics(&task);
        Ok(())
    }
}

impl Incremental for ClassStatistics {
    fn learn(&mut self, classes: &[Examples]) -> Result<()> {
        learn_as_sums(self, classes)
    }

    fn of_sums(&mut self) -> Option<&mut dyn OfSums> {
        Some(self)
    }

    fn state(&self) -> State {
        let (dim, n) = (self.known.dim, self.known.count());
        let counts = self.counts.iter().map(|&count| count as f64).collect();
        let mut state = State::from([
            ("counts".into(), (vec![n], counts)),
            ("means".into(), (vec![n, dim], self.means.clone())),
            ("scatter".into(), (vec![Triangle::len(dim)], self.scatter.values().to_vec())),
        ]);
        self.known.put(&mut state);
        state
    }

    fn restore(&mut self, state: State) -> Result<()> {
        *self = ClassStatistics::from_state(state, self.dim())?;
        Ok(())
    }

    fn stored(&self) -> Stored {
        let dim = self.known.dim;
        Stored { per_class: (dim + 1) * size_of::<f64>(), shared: Triangle::len(dim) * size_of::<f64>() }
    }
}
