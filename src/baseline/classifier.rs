//! What classifiers have in common: what they are shown, what they answer, and what they keep.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Error,
    evaluate::Scores,
    rows::{Rows, Train},
    task::Class,
    tensors::{self, Named, Tensors},
};

/// What a classifier has learned, as named tensors in float64, which holds counts and float32
/// values exactly.
pub type State = Named<f64>;

/// What learns classes task by task. What it needs of past ones it keeps itself.
pub trait Incremental {
    /// Learns the classes of the next task: new ones, and where it can more rows of known ones. An
    /// error names the class that it is about; after one the learner is not to be used.
    fn learn(&mut self, classes: &[Examples]) -> Result<()>;

    /// What learns from sums over the rows of a task; none where it needs the rows.
    fn of_sums(&mut self) -> Option<&mut dyn OfSums> {
        None
    }

    /// Takes classes out, given as positions in learning order: those alone, from now on. What has no
    /// use for it scores them all the same.
    fn leave_out(&mut self, _classes: Vec<usize>) {}

    /// What it has learned, to be stored: everything that [`Incremental::restore`] needs.
    fn state(&self) -> State;

    /// Sets a learner that was made in the same way to a stored state: it then goes on as the one
    /// that the state is of. An error where the tensors do not fit; then it stays as it was.
    fn restore(&mut self, state: State) -> Result<()>;

    /// What it keeps.
    fn stored(&self) -> Stored;
}

/// What needs no more of a task than sums over the rows of each class, so that parts of the rows may
/// be summed up anywhere.
pub trait OfSums {
    /// What sums up rows of some classes.
    fn sum(&self) -> Sum;

    /// As [`Incremental::learn`], from the sums of parts of the rows, each row in one of them: to the
    /// last bit the same from the same parts.
    fn learn_sums(&mut self, classes: &[Class], parts: &mut dyn Iterator<Item = Result<State>>) -> Result<()>;
}

/// What sums up rows of classes, to be stored.
#[derive(Clone, Copy)]
pub struct Sum {
    /// Values per embedding, D.
    pub(super) dim: usize,
    pub(super) of: fn(usize, &[Examples]) -> Result<State>,
}

impl Sum {
    /// The sums of rows of some classes, of each at least one row. An error names the class that it is
    /// about.
    pub fn of(self, classes: &[Examples]) -> Result<State> {
        (self.of)(self.dim, classes)
    }
}

/// Learns examples from their sums.
pub(super) fn learn_as_sums(learner: &mut (impl OfSums + ?Sized), classes: &[Examples]) -> Result<()> {
    let sums = learner.sum().of(classes);
    let classes: Vec<Class> = classes.iter().map(|examples| examples.class.clone()).collect();
    learner.learn_sums(&classes, &mut std::iter::once(sums))
}

/// An error where the sums of a task's parts have no row of one of its classes.
pub(super) fn require_rows(classes: &[Class], counts: &[usize]) -> Result<()> {
    match classes.iter().zip(counts).find(|(_, count)| **count == 0) {
        Some((class, _)) => bail!("there are no sums of rows of {class}"),
        None => Ok(()),
    }
}

/// A classifier that learns classes task by task.
pub trait Classifier: Incremental {
    /// Scores (N, n) of embeddings (N, D), raw, for the n classes learned so far, in the order in
    /// which they were learned; the highest is the answer.
    fn scores(&self, embeddings: &[f32]) -> Vec<f32>;

    /// Whether the softmax of the scores is a probability.
    fn are_logits(&self) -> bool {
        false
    }
}

/// A classifier whose candidates are all classes, those that are not learned by their text.
pub trait OpenSet: Incremental {
    /// Scores of embeddings (N, D), raw, for the classes learned so far and for the others.
    fn scores_of_all(&self, embeddings: &[f32]) -> Scores;

    /// What a program has to keep to classify, as a file; none where it has no form for that.
    /// `classes` are all, in learning order, but for those at the positions `removed`.
    fn file(&self, _classes: &[Class], _removed: &[usize]) -> Result<Option<(Tensors, Value)>> {
        Ok(None)
    }
}

/// An error where a class has no text feature: those of the first `texts` classes are there, and
/// those with the labels `learned` are learned.
pub(super) fn require_texts<'a>(
    classes: impl IntoIterator<Item = &'a Class>,
    learned: &[i64],
    texts: usize,
) -> Result<()> {
    let mut new = classes.into_iter().filter(|class| !learned.contains(&class.label));
    match new.nth(texts.saturating_sub(learned.len())) {
        Some(class) => {
            bail!("{class} has no text feature: there are {texts} only, give one for every class of the stream")
        }
        None => Ok(()),
    }
}

/// As [`require_texts`], of the classes that a state is of.
pub(super) fn require_texts_of_state(classes: usize, texts: usize) -> Result<()> {
    ensure!(classes <= texts, "the state is of {classes} classes, but there are {texts} text features");
    Ok(())
}

/// A class to be learned, and its training embeddings (N, D), raw as the encoder gives them.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// The class.
    pub class: &'a Class,
    /// Its training embeddings (N, D) of the task, raw.
    pub rows: &'a Rows<Train>,
}

/// Bytes that have to be kept, beside the CLIP, to classify and to learn further classes: those of
/// the tensors of [`Incremental::state`], where a value of single precision counts 4 bytes, though
/// the state holds it as float64. Labels and keys do not count: who they are of stands in every
/// manifest.
/// What is drawn from the seed again does not count either.
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

/// The classes that a classifier has learned.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Values per embedding, D.
    pub dim: usize,
    /// In the order in which they were learned.
    pub labels: Vec<i64>,
    /// What their draws are keyed by.
    pub keys: Vec<u64>,
    /// The place of each label.
    places: HashMap<i64, usize>,
}

impl Known {
    /// Of embeddings of `dim` values, no class yet.
    pub fn new(dim: usize) -> Self {
        Known { dim, labels: Vec::new(), keys: Vec::new(), places: HashMap::new() }
    }

    /// An error where a class is known, for what cannot learn more rows of one.
    pub fn require_new<'a>(&self, classes: impl IntoIterator<Item = &'a Class>) -> Result<()> {
        if let Some(class) = classes.into_iter().find(|class| self.places.contains_key(&class.label)) {
            bail!(
                "{class} has been learned before, and this classifier learns a class once, with all its rows; lda, \
                 ranpac, rail, evidence and prompts learn more of it"
            );
        }
        Ok(())
    }

    /// As [`Known::admit`], for what cannot learn more rows of a class that it knows.
    pub fn admit_new(&mut self, classes: &[Examples]) -> Result<()> {
        self.require_new(classes.iter().map(|examples| examples.class))?;
        self.admit(classes).map(drop)
    }

    /// Takes in the classes of a task, unless one of them cannot be learned by anything. Returns
    /// their places in learning order, those of known ones too.
    pub fn admit(&mut self, classes: &[Examples]) -> Result<Vec<usize>> {
        let (mut places, mut own) = (Vec::with_capacity(classes.len()), HashSet::new());
        for Examples { class, rows } in classes {
            let (name, dim) = (class, self.dim);
            if !own.insert(class.label) {
                bail!("{name} is twice in a task: give all its rows at once");
            }
            if rows.is_empty() {
                let reason = format!("{name} has no training embeddings: give it some, or leave it out");
                return Err(Error::TooFewRows { label: class.label, reason }.into());
            }
            if rows.dim() != dim {
                bail!("{name} has embeddings of {} values, not {dim}: give those of one encoder", rows.dim());
            }
            if let Some(row) = (0..rows.len()).find(|&row| rows.row(row).iter().any(|x| !x.is_finite())) {
                bail!("training embedding {row} of {name} is not finite: make the embeddings again");
            }
            places.push(self.enter(class.label, class.key()));
        }
        Ok(places)
    }

    /// The place of a class in learning order, which is the last where it is new.
    pub fn enter(&mut self, label: i64, key: u64) -> usize {
        let next = self.count();
        *self.places.entry(label).or_insert_with(|| {
            self.labels.push(label);
            self.keys.push(key);
            next
        })
    }

    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The place of a class in learning order; none where it is not known.
    pub fn place(&self, label: i64) -> Option<usize> {
        self.places.get(&label).copied()
    }

    /// The labels and the keys as tensors (n, 2): their high and low 32 bits, since not every
    /// integer of 64 bits is a float64.
    pub fn put(&self, state: &mut State) {
        let labels: Vec<u64> = self.labels.iter().map(|label| label.cast_unsigned()).collect();
        for (name, values) in [(LABELS, &labels), (KEYS, &self.keys)] {
            let halves = |value: &u64| [(value >> 32) as f64, f64::from(*value as u32)];
            state.insert(name.into(), (vec![self.count(), 2], values.iter().flat_map(halves).collect()));
        }
    }

    /// Takes what [`Known::put`] gave out of `state`, for embeddings of `dim` values.
    pub fn take(state: &mut State, dim: usize) -> Result<Self> {
        let mut known = Known::new(dim);
        let labels = take_whole(state, LABELS)?;
        let keys = take_whole(state, KEYS)?;
        let (n, of_keys) = (labels.len(), keys.len());
        ensure!(n == of_keys, "tensor {KEYS:?} should have the shape [{n}, 2], but has [{of_keys}, 2]");
        for (place, (label, key)) in labels.into_iter().map(u64::cast_signed).zip(keys).enumerate() {
            ensure!(known.enter(label, key) == place, "tensor {LABELS:?} holds the label {label} twice");
        }
        Ok(known)
    }

    /// As [`Known::take`], for embeddings of as many values as these; with the number of classes,
    /// n, and that of values, D.
    pub fn take_next(&self, state: &mut State) -> Result<(Self, usize, usize)> {
        let next = Known::take(state, self.dim)?;
        let n = next.count();
        Ok((next, n, self.dim))
    }
}

/// The tensors of the labels and of the keys in a state.
const LABELS: &str = "labels";
const KEYS: &str = "keys";

/// Takes integers of 64 bits, whose halves the tensor `name` (n, 2) holds, out of `state`.
fn take_whole(state: &mut State, name: &str) -> Result<Vec<u64>> {
    let (shape, values) = tensors::take(state, name)?;
    ensure!(shape.len() == 2 && shape[1] == 2, "tensor {name:?} should have the shape [n, 2], but has {shape:?}");
    let whole = |&[high, low]: &[f64; 2]| {
        let halves = [high as u32, low as u32].map(f64::from);
        ensure!(halves == [high, low], "tensor {name:?} holds {high} and {low}, which are no halves of an integer");
        Ok((high as u64) << 32 | low as u64)
    };
    values.as_chunks().0.iter().map(whole).collect()
}

/// Takes the values of the tensor `name`, finite and of this `shape`, out of `state`.
pub(super) fn take(state: &mut State, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
    let values = tensors::take_shaped(state, name, shape)?;
    match values.iter().position(|x| !x.is_finite()) {
        Some(place) => bail!("value {place} of tensor {name:?} is not finite"),
        None => Ok(values),
    }
}

/// Most rows of a class: what is more is no number of rows.
const MOST_ROWS: f64 = (1u64 << 53) as f64;

/// Takes the numbers of rows of n classes, each of which has some, out of `state`.
pub(super) fn take_counts(state: &mut State, n: usize) -> Result<Vec<usize>> {
    let counts = take(state, "counts", &[n])?;
    if let Some(count) = counts.iter().find(|&&x| !(1.0..=MOST_ROWS).contains(&x) || x.fract() != 0.0) {
        bail!("tensor \"counts\" holds {count}, which is no number of rows");
    }
    Ok(counts.into_iter().map(|x| x as usize).collect())
}

/// As [`take`], for values that are float32.
pub(super) fn take_f32(state: &mut State, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let values = take(state, name, shape)?;
    let exact = |(place, x): (usize, f64)| {
        let value = x as f32;
        (f64::from(value) == x)
            .then_some(value)
            .with_context(|| format!("value {place} of tensor {name:?} is no float32"))
    };
    values.into_iter().enumerate().map(exact).collect()
}

/// Float32 values as a tensor of a state.
pub(super) fn tensor(shape: Vec<usize>, values: &[f32]) -> (Vec<usize>, Vec<f64>) {
    (shape, values.iter().map(|&x| f64::from(x)).collect())
}

/// An error where tensors are left in `state`, of which everything that a classifier has was taken.
pub(super) fn finish(state: State) -> Result<()> {
    match state.keys().next() {
        Some(name) => bail!("tensor {name:?} is not of this classifier"),
        None => Ok(()),
    }
}

/// A vector at length 1; None where it has no length.
pub(super) fn unit(x: impl Iterator<Item = f64> + Clone) -> Option<impl Iterator<Item = f64> + Clone> {
    let length = x.clone().map(|x| x * x).sum::<f64>().sqrt();
    (length > 0.0).then(|| x.map(move |x| x / length))
}
