//! The baselines against numpy and scikit-learn.

use cgil::{
    baseline::{
        Classifier, Covariance, Discriminant, Examples, Features, Incremental, LAMBDAS, NearestMean, RandomProjection,
        ReplayHead, Ridge, Rows, Shrinkage, TextAndMean,
        ensemble::{Ensemble, combine},
    },
    dense::{cosine, softmax::log_softmax},
    rows::{Rows as TrainRows, Train},
    task::Class,
};

use crate::support::{golden_tensors, values};

/// The sets of the golden file.
pub const SETS: [&str; 3] = ["plain", "uneven", "few"];

/// A set of embeddings with its classes.
pub struct Set {
    pub name: &'static str,
    pub dim: usize,
    pub classes: Vec<Class>,
    /// Training embeddings of each class.
    pub train: Vec<TrainRows<Train>>,
    pub test: Vec<f32>,
    pub truth: Vec<usize>,
}

impl Set {
    pub fn golden(name: &'static str) -> Self {
        let tensors = golden_tensors("baselines.safetensors");
        let tensor = |part: &str| &tensors[&format!("{name}.{part}")];
        let classes = |part: &str| -> Vec<usize> {
            tensor(part).to_vec1::<i64>().unwrap().into_iter().map(|c| c as usize).collect()
        };
        let (dim, labels) = (tensor("train").dims()[1], classes("train_classes"));
        let mut train = vec![Vec::new(); 10];
        for (row, class) in values(tensor("train")).chunks(dim).zip(labels) {
            train[class].extend_from_slice(row);
        }
        let class = |i: i64| Class { label: 10 + i, name: format!("thing {i}") };
        let classes_by_label = (0..10).map(class).collect();
        Set {
            name,
            dim,
            classes: classes_by_label,
            train: train.into_iter().map(|rows| TrainRows::new(dim, rows)).collect(),
            test: values(tensor("test")),
            truth: classes("test_classes"),
        }
    }

    pub fn examples(&self) -> Vec<Examples<'_>> {
        self.classes.iter().zip(&self.train).map(|(class, rows)| Examples { class, rows }).collect()
    }

    /// The scores of the test embeddings, with `per_task` classes learned at a time.
    pub fn scores(&self, classifier: &mut dyn Classifier, per_task: usize) -> Vec<f32> {
        self.examples().chunks(per_task).for_each(|task| classifier.learn(task).unwrap());
        classifier.scores(&self.test)
    }

    /// Asserts that scores of 10 classes are those of the golden file, and so are the answers.
    fn assert_golden(&self, method: &str, scores: &[f32], tolerance: f32) {
        let expected = values(&golden_tensors("baselines.safetensors")[&format!("{}.{method}", self.name)]);
        assert_eq!(scores.len(), expected.len(), "{} {method}", self.name);
        let worst = scores.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{} {method}: off by {worst:e}", self.name);
        assert_eq!(answers(scores, 10), answers(&expected, 10), "{} {method}", self.name);
        let accuracy = accuracy(scores, &self.truth);
        assert!((50.0..95.0).contains(&accuracy), "{} {method}: {accuracy} % tell little", self.name);
    }
}

/// Per row of scores (N, n) the place of the highest.
pub fn answers(scores: &[f32], n: usize) -> Vec<usize> {
    let highest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    scores.chunks(n).map(highest).collect()
}

/// In percent, of scores of 10 classes.
pub fn accuracy(scores: &[f32], truth: &[usize]) -> f64 {
    let right = answers(scores, 10).iter().zip(truth).filter(|(a, b)| a == b).count();
    100.0 * right as f64 / truth.len() as f64
}

fn projection(set: &Set, ridge: Ridge) -> RandomProjection {
    let tensors = golden_tensors("baselines.safetensors");
    RandomProjection::with_projection(values(&tensors[&format!("{}.projection", set.name)]), set.dim, ridge, 0)
}

/// Every classifier, with a ridge that does not depend on the tasks.
pub fn all(dim: usize) -> Vec<Box<dyn Classifier>> {
    let text: Vec<f32> = (0..10 * dim).map(|i| if i / dim == i % dim { 1.0 } else { 0.1 }).collect(); // (10, D)
    vec![
        Box::new(NearestMean::new(dim)),
        Box::new(Discriminant::new(dim, Shrinkage::None)),
        Box::new(Discriminant::new(dim, Shrinkage::Oas)),
        Box::new(RandomProjection::new(dim, Features::Fixed(80), Ridge::Fixed(10.0), 1)),
        Box::new(TextAndMean::new(&text, dim, 0.3).unwrap()),
        Box::new(ReplayHead::new(dim, Covariance::Diagonal, 1)),
        Box::new(ReplayHead::new(dim, Covariance::Class, 1)),
        Box::new(ReplayHead::new(dim, Covariance::Shared, 1)),
    ]
}

/// The text features of a set's classes, (10, D).
pub fn text_of(set: &Set) -> Vec<f32> {
    values(&golden_tensors("baselines.safetensors")[&format!("{}.text", set.name)])
}

#[test]
fn the_nearest_mean_is_numpys() {
    for set in SETS.map(Set::golden) {
        let scores = set.scores(&mut NearestMean::new(set.dim), 2);
        set.assert_golden("nearest_mean", &scores, 1e-6);
    }
}

#[test]
fn discriminants_are_scikit_learns() {
    for set in SETS.map(Set::golden) {
        for (shrinkage, method) in [(Shrinkage::None, "discriminant"), (Shrinkage::Oas, "discriminant_shrunk")] {
            let mut scores = set.scores(&mut Discriminant::new(set.dim, shrinkage), 2);
            log_softmax(&mut scores, 10);
            set.assert_golden(method, &scores, 1e-4);
        }
    }
}

#[test]
fn random_projections_are_numpys() {
    for set in SETS.map(Set::golden) {
        for (lambda, method) in [(10.0, "projection_10"), (100.0, "projection_100")] {
            let scores = set.scores(&mut projection(&set, Ridge::Fixed(lambda)), 2);
            set.assert_golden(method, &scores, 1e-4);
        }
    }
}

#[test]
fn the_ridge_is_chosen_as_numpy_would() {
    for set in SETS.map(Set::golden) {
        let expected = values(&golden_tensors("baselines.safetensors")[&format!("{}.held_out_errors", set.name)]);
        let (mut learned, mut held_out) = (Rows::default(), Rows::default());
        for (class, rows) in set.train.iter().enumerate() {
            let n = rows.len();
            let (first, last) = rows.values().split_at((n - (n / 5).max(1)) * set.dim);
            for (part, rows) in [(&mut learned, first), (&mut held_out, last)] {
                part.embeddings.extend_from_slice(rows);
                part.classes.resize(part.embeddings.len() / set.dim, class);
            }
        }
        let found = projection(&set, Ridge::HeldOut).held_out_errors(&learned, &held_out, 10);
        for ((lambda, found), expected) in LAMBDAS.into_iter().zip(found).zip(expected) {
            let off = (found.mean / f64::from(expected) - 1.0).abs();
            assert!(off < 1e-3, "{} lambda {lambda}: {}, not {expected}", set.name, found.mean);
        }
    }
}

#[test]
fn the_head_scores_as_the_discriminant_does() {
    let set = Set::golden("plain");
    let mut discriminant = Discriminant::new(set.dim, Shrinkage::Oas);
    discriminant.learn(&set.examples()).unwrap();
    let scores = discriminant.scores(&set.test);
    let (directions, offsets) = discriminant.head();
    for (row, scores) in set.test.chunks(set.dim).zip(scores.chunks(10)) {
        for ((direction, offset), score) in directions.chunks(set.dim).zip(&offsets).zip(scores) {
            let product: f64 = row.iter().zip(direction).map(|(&x, &d)| f64::from(x) * f64::from(d)).sum();
            let found = (product + f64::from(*offset)) as f32;
            assert!((found - score).abs() <= 1e-3 * score.abs().max(1.0), "{found}, not {score}");
        }
    }
}

#[test]
fn an_ensemble_lies_between_its_members() {
    let set = Set::golden("plain");
    let mean: Vec<f32> = set.scores(&mut NearestMean::new(set.dim), 2).iter().map(|x| 20.0 * x).collect();
    let discriminant = set.scores(&mut Discriminant::new(set.dim, Shrinkage::Oas), 2);
    for (weight, alone) in [(0.0, &mean), (1.0, &discriminant)] {
        assert_eq!(answers(&combine(mean.clone(), discriminant.clone(), 10, weight), 10), answers(alone, 10));
    }
    let both = combine(mean.clone(), discriminant.clone(), 10, 0.25);
    let [mut mean, mut discriminant] = [mean, discriminant];
    for scores in [&mut mean, &mut discriminant] {
        log_softmax(scores, 10);
    }
    for ((both, mean), discriminant) in both.iter().zip(&mean).zip(&discriminant) {
        assert!((both - 0.75 * mean - 0.25 * discriminant).abs() < 1e-4);
    }
}

#[test]
fn the_hybrid_is_numpys() {
    for set in SETS.map(Set::golden) {
        for (weight, method) in [(0.25, "hybrid_25"), (0.5, "hybrid_50"), (0.75, "hybrid_75")] {
            let mut hybrid = TextAndMean::new(&text_of(&set), set.dim, weight).unwrap();
            let scores = set.scores(&mut hybrid, 2);
            set.assert_golden(method, &scores, 1e-6);
        }
    }
}

#[test]
fn prompts_and_statistics_together_are_numpys() {
    const LOGIT_SCALE: f32 = 20.0;
    for set in SETS.map(Set::golden) {
        let mut keys = text_of(&set);
        cosine::normalise(&mut keys, set.dim);
        let mut statistics = Discriminant::new(set.dim, Shrinkage::Oas);
        set.examples().chunks(2).for_each(|task| statistics.learn(task).unwrap());
        for (weight, method) in [(0.25, "together_25"), (0.5, "together_50"), (0.75, "together_75")] {
            let cosines = cosine::cosines(&set.test, &keys, set.dim);
            let scores = Ensemble::new(&statistics, weight, LOGIT_SCALE).scores(&set.test, cosines.clone());
            assert_eq!(scores.open, cosines);
            set.assert_golden(method, &scores.seen.unwrap(), 1e-4);
        }
    }
}
