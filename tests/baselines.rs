//! The baselines against numpy and scikit-learn, and on data that are hard to learn from.

use cgil::{
    baseline::{
        Classifier, Covariance, Discriminant, Examples, FEATURES, Features, LAMBDAS, NearestMean, RandomProjection,
        ReplayHead, Ridge, Shrinkage, TextAndMean,
        ensemble::{combine, log_probabilities},
    },
    task::Class,
};

use crate::support::{golden_tensors, values};

/// The sets of the golden file.
const SETS: [&str; 3] = ["plain", "uneven", "few"];

/// A set of embeddings with its classes.
struct Set {
    name: &'static str,
    dim: usize,
    classes: Vec<Class>,
    /// Training embeddings of each class, flat.
    train: Vec<Vec<f32>>,
    test: Vec<f32>,
    truth: Vec<usize>,
}

impl Set {
    fn golden(name: &'static str) -> Self {
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
            train,
            test: values(tensor("test")),
            truth: classes("test_classes"),
        }
    }

    fn examples(&self) -> Vec<Examples<'_>> {
        self.classes.iter().zip(&self.train).map(|(class, rows)| Examples { class, rows }).collect()
    }

    /// The scores of the test embeddings, with `per_task` classes learned at a time.
    fn scores(&self, classifier: &mut dyn Classifier, per_task: usize) -> Vec<f32> {
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
        assert!((55.0..95.0).contains(&accuracy), "{} {method}: {accuracy} % tell little", self.name);
    }
}

/// Per row of scores (N, n) the place of the highest.
fn answers(scores: &[f32], n: usize) -> Vec<usize> {
    let highest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    scores.chunks(n).map(highest).collect()
}

/// In percent, of scores of 10 classes.
fn accuracy(scores: &[f32], truth: &[usize]) -> f64 {
    let right = answers(scores, 10).iter().zip(truth).filter(|(a, b)| a == b).count();
    100.0 * right as f64 / truth.len() as f64
}

fn projection(set: &Set, ridge: Ridge) -> RandomProjection {
    let tensors = golden_tensors("baselines.safetensors");
    RandomProjection::with_projection(values(&tensors[&format!("{}.projection", set.name)]), set.dim, ridge, 0)
}

/// Every classifier, with a ridge that does not depend on the tasks.
fn all(dim: usize) -> Vec<Box<dyn Classifier>> {
    let text: Vec<f32> = (0..10 * dim).map(|i| if i / dim == i % dim { 1.0 } else { 0.1 }).collect(); // (10, D)
    vec![
        Box::new(NearestMean::new(dim)),
        Box::new(Discriminant::new(dim, Shrinkage::None)),
        Box::new(Discriminant::new(dim, Shrinkage::Oas)),
        Box::new(RandomProjection::new(dim, Features::Fixed(80), Ridge::Fixed(10.0), 1)),
        Box::new(TextAndMean::new(&text, dim, 0.3).unwrap()),
        Box::new(ReplayHead::new(dim, Covariance::Diagonal, 1)),
        Box::new(ReplayHead::new(dim, Covariance::Full, 1)),
    ]
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
            log_probabilities(&mut scores, 10);
            set.assert_golden(method, &scores, 1e-4);
        }
    }
}

#[test]
fn random_projections_are_numpys() {
    for set in SETS.map(Set::golden) {
        for (lambda, method) in [(100.0, "projection_100"), (10000.0, "projection_10000")] {
            let scores = set.scores(&mut projection(&set, Ridge::Fixed(lambda)), 2);
            set.assert_golden(method, &scores, 1e-4);
        }
    }
}

#[test]
fn the_ridge_is_chosen_as_numpy_would() {
    for set in SETS.map(Set::golden) {
        let expected = values(&golden_tensors("baselines.safetensors")[&format!("{}.held_out_errors", set.name)]);
        let split = |rows: &Vec<f32>| {
            let n = rows.len() / set.dim;
            let (learned, held_out) = rows.split_at((n - (n / 5).max(1)) * set.dim);
            (learned.to_vec(), held_out.to_vec())
        };
        let (learned, held_out): (Vec<_>, Vec<_>) = set.train.iter().map(split).unzip();
        let found = projection(&set, Ridge::HeldOut).held_out_errors(&learned, &held_out);
        for ((lambda, found), expected) in LAMBDAS.into_iter().zip(found).zip(expected) {
            let off = (found.mean / f64::from(expected) - 1.0).abs();
            assert!(off < 1e-3, "{} lambda {lambda}: {}, not {expected}", set.name, found.mean);
        }
    }
}

#[test]
fn the_first_task_chooses_the_number_of_random_features_by_rows_held_out() {
    let set = Set::golden("plain");
    let examples = set.examples();
    let mut chosen = RandomProjection::new(set.dim, Features::HeldOut, Ridge::HeldOut, 3);
    chosen.learn(&examples[..5]).unwrap();
    let features = chosen.feature_count();
    assert!(FEATURES.contains(&features), "{features}");
    // it is then the one that had that number from the start, also in later tasks
    let mut fixed = RandomProjection::new(set.dim, Features::Fixed(features), Ridge::HeldOut, 3);
    fixed.learn(&examples[..5]).unwrap();
    for classifier in [&mut chosen, &mut fixed] {
        classifier.learn(&examples[5..]).unwrap();
    }
    assert_eq!(chosen.scores(&set.test), fixed.scores(&set.test));
    // and the others have a larger error on the rows held out of the first task
    let errors = |features| {
        let candidate = RandomProjection::new(set.dim, Features::Fixed(features), Ridge::HeldOut, 3);
        let errors = candidate.errors(&examples[..5]);
        errors.into_iter().map(|error| error.mean).fold(f64::INFINITY, f64::min)
    };
    assert!(FEATURES.into_iter().all(|other| errors(other) >= errors(features)));
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
fn classes_learned_task_by_task_are_learned_as_well_as_at_once() {
    for set in SETS.map(Set::golden) {
        for (i, (mut by_task, mut at_once)) in all(set.dim).into_iter().zip(all(set.dim)).take(5).enumerate() {
            assert_eq!(set.scores(&mut *by_task, 2), set.scores(&mut *at_once, 10), "{} classifier {i}", set.name);
        }
    }
}

#[test]
fn a_head_on_draws_of_past_classes_is_nearly_as_good_as_on_their_embeddings() {
    let set = Set::golden("plain");
    for covariance in [Covariance::Diagonal, Covariance::Full] {
        let [by_task, at_once] =
            [2, 10].map(|n| accuracy(&set.scores(&mut ReplayHead::new(set.dim, covariance, 1), n), &set.truth));
        assert!(by_task > at_once - 8.0 && by_task > 55.0, "{covariance:?}: {by_task}, at once {at_once}");
    }
}

#[test]
fn one_thread_and_two_learn_the_same() {
    let set = Set::golden("uneven");
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut classifiers = all(set.dim);
            classifiers.push(Box::new(RandomProjection::new(set.dim, Features::Fixed(700), Ridge::HeldOut, 1)));
            classifiers.iter_mut().map(|classifier| set.scores(&mut **classifier, 2)).collect::<Vec<_>>()
        })
    };
    assert!(with(1) == with(2));
}

#[test]
fn few_and_strange_rows_are_learned_without_nan() {
    let [first, second, third] =
        [(1, "one row"), (2, "two rows"), (3, "four rows")].map(|(label, name)| Class { label, name: name.into() });
    let dim = 6; // the last is constant
    let rows = |n: usize, place: usize| -> Vec<f32> {
        (0..n * dim)
            .map(|i| match i % dim {
                5 => 2.0,
                j if j == place => 3.0 + (i / dim) as f32,
                _ => 0.5,
            })
            .collect()
    };
    let (one, two, four) = (rows(1, 0), rows(2, 1), rows(4, 2));
    let test = [rows(1, 0), rows(1, 1), rows(1, 2)].concat();
    for (i, mut classifier) in all(dim).into_iter().enumerate() {
        let [first, second, third] =
            [(&first, &one), (&second, &two), (&third, &four)].map(|(class, rows)| Examples { class, rows });
        classifier.learn(&[first, second]).unwrap();
        classifier.learn(&[third]).unwrap();
        let scores = classifier.scores(&test);
        assert_eq!(answers(&scores, 3), [0, 1, 2], "classifier {i}: {scores:?}");
        let strange = [vec![0.0; dim], vec![1e-30; dim], vec![1e6; dim]].concat();
        assert!(classifier.scores(&strange).iter().all(|x| x.is_finite()), "classifier {i}");
    }
    let mut ranpac = RandomProjection::new(dim, Features::Fixed(20), Ridge::HeldOut, 1);
    ranpac.learn(&[Examples { class: &first, rows: &one }]).unwrap(); // nothing to hold out
    ranpac.learn(&[Examples { class: &second, rows: &two }, Examples { class: &third, rows: &four }]).unwrap();
    assert_eq!(answers(&ranpac.scores(&test), 3), [0, 1, 2]);
}

#[test]
fn what_cannot_be_learned_is_refused_by_name() {
    let [cat, dog] = [(7, "cat"), (8, "dog")].map(|(label, name)| Class { label, name: name.into() });
    let refused = |classifier: &mut dyn Classifier, class, rows: &[f32], part: &str| {
        let error = classifier.learn(&[Examples { class, rows }]).unwrap_err().to_string();
        for part in [format!("class {:?} (label {})", class.name, class.label).as_str(), part] {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    };
    for mut classifier in all(2) {
        refused(&mut *classifier, &cat, &[], "no training embeddings");
    }
    for mut classifier in all(2) {
        refused(&mut *classifier, &cat, &[1.0, 2.0, 3.0], "no rows of 2");
    }
    for mut classifier in all(2) {
        refused(&mut *classifier, &cat, &[1.0, 2.0, f32::NAN, 1.0], "embedding 1");
    }
    for mut classifier in all(2) {
        classifier.learn(&[Examples { class: &cat, rows: &[1.0, 2.0, 2.0, 1.0] }]).unwrap();
        refused(&mut *classifier, &cat, &[1.0, 2.0, 2.0, 1.0], "learned before");
    }
    let pointless = [1.0, 2.0, 0.0, 0.0];
    refused(&mut NearestMean::new(2), &dog, &pointless, "embedding 1");
    refused(&mut TextAndMean::new(&[1.0, 0.0], 2, 0.5).unwrap(), &dog, &pointless, "embedding 1");
    refused(&mut NearestMean::new(2), &dog, &[1.0, 2.0, -1.0, -2.0], "cancel out");
    for shrinkage in [Shrinkage::None, Shrinkage::Oas] {
        refused(&mut Discriminant::new(2, shrinkage), &dog, &[1.0, 2.0, 1.0, 2.0], "two different");
    }
    let mut hybrid = TextAndMean::new(&[1.0, 0.0], 2, 0.5).unwrap();
    hybrid.learn(&[Examples { class: &cat, rows: &[1.0, 2.0] }]).unwrap();
    refused(&mut hybrid, &dog, &[1.0, 2.0], "no text feature");
    refused(&mut RandomProjection::new(2, Features::Fixed(8), Ridge::HeldOut, 1), &dog, &[3e38, 3e38], "too large");
    assert!(TextAndMean::new(&[0.0, 0.0], 2, 0.5).is_err());
    assert!(TextAndMean::new(&[1.0, 0.0], 2, 1.5).is_err());
}

#[test]
fn an_ensemble_lies_between_its_members() {
    let set = Set::golden("plain");
    let mean: Vec<f32> = set.scores(&mut NearestMean::new(set.dim), 2).iter().map(|x| 20.0 * x).collect();
    let discriminant = set.scores(&mut Discriminant::new(set.dim, Shrinkage::Oas), 2);
    for (weight, alone) in [(0.0, &mean), (1.0, &discriminant)] {
        assert_eq!(answers(&combine(&mean, &discriminant, 10, weight), 10), answers(alone, 10));
    }
    let both = combine(&mean, &discriminant, 10, 0.25);
    let [mut mean, mut discriminant] = [mean, discriminant];
    for scores in [&mut mean, &mut discriminant] {
        log_probabilities(scores, 10);
    }
    for ((both, mean), discriminant) in both.iter().zip(&mean).zip(&discriminant) {
        assert!((both - 0.75 * mean - 0.25 * discriminant).abs() < 1e-4);
    }
}
