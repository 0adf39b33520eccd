//! The baselines against numpy and scikit-learn, and on data that are hard to learn from.

use std::{fs, path::Path};

use cgil::{
    baseline::{
        ClassStatistics, Classifier, Covariance, Discriminant, Examples, FEATURES, Features, LAMBDAS, NearestMean,
        RandomProjection, ReplayHead, Ridge, Rows, Shrinkage, State, TextAndMean,
        ensemble::{Ensemble, combine},
    },
    dense::{cosine, softmax::log_softmax},
    rows::{Rows as TrainRows, Train},
    task::Class,
    tensors,
};
use tempfile::tempdir;

use crate::support::{golden_tensors, values};

/// The sets of the golden file.
const SETS: [&str; 3] = ["plain", "uneven", "few"];

/// A set of embeddings with its classes.
struct Set {
    name: &'static str,
    dim: usize,
    classes: Vec<Class>,
    /// Training embeddings of each class.
    train: Vec<TrainRows<Train>>,
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
            train: train.into_iter().map(|rows| TrainRows::new(dim, rows)).collect(),
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
        assert!((50.0..95.0).contains(&accuracy), "{} {method}: {accuracy} % tell little", self.name);
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
fn draws_are_keyed_by_the_names_of_classes_and_not_by_their_labels() {
    let set = Set::golden("uneven");
    let classifiers = || -> Vec<Box<dyn Classifier>> {
        vec![
            Box::new(ReplayHead::new(set.dim, Covariance::Diagonal, 1)),
            Box::new(RandomProjection::new(set.dim, Features::Fixed(70), Ridge::HeldOut, 1)),
        ]
    };
    let errors = |classes: &[Class]| {
        let examples: Vec<Examples> =
            classes.iter().zip(&set.train).map(|(class, rows)| Examples { class, rows }).collect();
        let errors = RandomProjection::new(set.dim, Features::Fixed(70), Ridge::HeldOut, 1).errors(&examples);
        errors.iter().map(|error| error.mean).collect::<Vec<f64>>()
    };
    let scores = |mut classifier: Box<dyn Classifier>, classes: &[Class]| {
        let examples: Vec<Examples> =
            classes.iter().zip(&set.train).map(|(class, rows)| Examples { class, rows }).collect();
        examples.chunks(5).for_each(|task| classifier.learn(task).unwrap());
        classifier.scores(&set.test)
    };
    let changed = |label: i64, name: &str| -> Vec<Class> {
        let class = |class: &Class| Class { label: class.label + label, name: format!("{}{name}", class.name) };
        set.classes.iter().map(class).collect()
    };
    let (relabelled, renamed) = (changed(1 << 40, ""), changed(0, "!"));
    for (i, (a, b)) in classifiers().into_iter().zip(classifiers()).enumerate() {
        assert!(scores(a, &set.classes) == scores(b, &relabelled), "classifier {i}");
    }
    let head = || classifiers().swap_remove(0);
    assert!(scores(head(), &set.classes) != scores(head(), &renamed));
    assert_eq!(errors(&set.classes), errors(&relabelled));
    assert_ne!(errors(&set.classes), errors(&renamed));
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
    let [one, two, four] = [rows(1, 0), rows(2, 1), rows(4, 2)].map(|rows| TrainRows::new(dim, rows));
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
        let rows = &TrainRows::new(2, rows.to_vec());
        let error = classifier.learn(&[Examples { class, rows }]).unwrap_err().to_string();
        for part in [format!("class {:?} (label {})", class.name, class.label).as_str(), part] {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    };
    for mut classifier in all(2) {
        refused(&mut *classifier, &cat, &[], "no training embeddings");
    }
    for mut classifier in all(2) {
        let rows = &TrainRows::new(3, vec![1.0, 2.0, 3.0]);
        let error = classifier.learn(&[Examples { class: &cat, rows }]).unwrap_err().to_string();
        assert!(error.contains("class \"cat\" (label 7) has embeddings of 3 values, not 2"), "{error}");
    }
    for mut classifier in all(2) {
        refused(&mut *classifier, &cat, &[1.0, 2.0, f32::NAN, 1.0], "embedding 1");
    }
    for mut classifier in all(2) {
        let rows = &TrainRows::new(2, vec![1.0, 2.0, 2.0, 1.0]);
        classifier.learn(&[Examples { class: &cat, rows }]).unwrap();
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
    hybrid.learn(&[Examples { class: &cat, rows: &TrainRows::new(2, vec![1.0, 2.0]) }]).unwrap();
    refused(&mut hybrid, &dog, &[1.0, 2.0], "no text feature");
    assert!(TextAndMean::new(&[0.0, 0.0], 2, 0.5).is_err());
    assert!(TextAndMean::new(&[1.0, 0.0], 2, 1.5).is_err());
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

/// The text features of a set's classes, (10, D).
fn text_of(set: &Set) -> Vec<f32> {
    values(&golden_tensors("baselines.safetensors")[&format!("{}.text", set.name)])
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

#[test]
fn embeddings_at_any_scale_are_told_apart_alike() {
    for set in SETS.map(Set::golden) {
        let answers_at = |scale: f32| -> Vec<Vec<usize>> {
            let scaled = |rows: &[f32]| -> Vec<f32> { rows.iter().map(|x| x * scale).collect() };
            let scaled_rows = |rows: &TrainRows<Train>| TrainRows::new(set.dim, scaled(rows.values()));
            let train: Vec<TrainRows<Train>> = set.train.iter().map(scaled_rows).collect();
            let test = scaled(&set.test);
            let mut classifiers = all(set.dim);
            classifiers.push(Box::new(RandomProjection::new(set.dim, Features::Fixed(100), Ridge::HeldOut, 1)));
            let learn = |mut classifier: Box<dyn Classifier>| {
                let examples: Vec<Examples> =
                    set.classes.iter().zip(&train).map(|(class, rows)| Examples { class, rows }).collect();
                examples.chunks(5).for_each(|task| classifier.learn(task).unwrap());
                answers(&classifier.scores(&test), 10)
            };
            classifiers.into_iter().map(learn).collect()
        };
        let expected = answers_at(1.0);
        for scale in [1e-6, 1e-3, 1e3, 1e6] {
            for (i, (found, expected)) in answers_at(scale).iter().zip(&expected).enumerate() {
                let other = found.iter().zip(expected).filter(|(a, b)| a != b).count();
                assert!(other <= 2, "{} classifier {i} at scale {scale:e}: {other} other answers", set.name);
            }
        }
    }
}

/// A state from its file.
fn through_a_file(state: State, dir: &Path) -> State {
    let path = dir.join("state.safetensors");
    tensors::write(&path, &state, &()).unwrap();
    let (read, ()) = tensors::read(&path).unwrap();
    assert_eq!(read, state);
    read
}

/// Every classifier that chooses something as it learns, too.
fn all_and_choosing(dim: usize) -> Vec<Box<dyn Classifier>> {
    let mut classifiers = all(dim);
    classifiers.push(Box::new(RandomProjection::new(dim, Features::Fixed(70), Ridge::HeldOut, 1)));
    classifiers.push(Box::new(RandomProjection::new(dim, Features::HeldOut, Ridge::HeldOut, 3)));
    classifiers
}

#[test]
fn a_classifier_goes_on_from_its_state_as_if_it_had_never_stopped() {
    let dir = tempdir().unwrap();
    for set in ["plain", "uneven"].map(Set::golden) {
        let set = Set {
            // labels of any size
            classes: (0..10)
                .map(|i| Class {
                    label: [i64::MIN, -1, 7, i64::MAX - 10][i as usize % 4] + i,
                    name: format!("thing {i}"),
                })
                .collect(),
            ..set
        };
        let examples = set.examples();
        for stop in [0, 2, 4] {
            for (i, (mut whole, mut first)) in
                all_and_choosing(set.dim).into_iter().zip(all_and_choosing(set.dim)).enumerate()
            {
                if i + 1 == all_and_choosing(set.dim).len() && (stop, set.name) != (2, "plain") {
                    continue; // with many features it takes its time
                }
                let mut second = all_and_choosing(set.dim).swap_remove(i);
                for task in examples.chunks(2).take(stop) {
                    whole.learn(task).unwrap();
                    first.learn(task).unwrap();
                }
                second.restore(through_a_file(first.state(), dir.path())).unwrap();
                if stop > 0 {
                    assert_eq!(second.scores(&set.test), whole.scores(&set.test), "{} classifier {i}", set.name);
                }
                for task in examples.chunks(2).skip(stop) {
                    whole.learn(task).unwrap();
                    second.learn(task).unwrap();
                    assert_eq!(second.scores(&set.test), whole.scores(&set.test), "{} classifier {i}", set.name);
                }
                assert_eq!(second.state(), whole.state(), "{} classifier {i}", set.name);
            }
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
    let set = Set::golden("plain");
    let learned = |dim: usize| -> Vec<Box<dyn Classifier>> {
        let mut classifiers = all(dim);
        for classifier in &mut classifiers {
            let first = |rows: &TrainRows<Train>| TrainRows::new(dim, rows.values()[..3 * dim].to_vec());
            let rows: Vec<TrainRows<Train>> = set.train.iter().map(first).collect();
            let examples: Vec<Examples> =
                set.classes.iter().zip(&rows).map(|(class, rows)| Examples { class, rows }).collect();
            classifier.learn(&examples[..4]).unwrap();
        }
        classifiers
    };
    let others = learned(set.dim - 1);
    for (i, (mut classifier, other)) in learned(set.dim).into_iter().zip(others).enumerate() {
        let (state, scores) = (classifier.state(), classifier.scores(&set.test));
        let mut refused = |state: State, parts: &[&str]| {
            let error = classifier.restore(state).expect_err(&format!("classifier {i} took it: {parts:?}")).to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "classifier {i}: expected {parts:?} in: {error}");
            assert_eq!(classifier.scores(&set.test), scores, "classifier {i}");
        };
        // random projections keep features alone, whatever the dimensions
        if !state.contains_key("gram") {
            refused(other.state(), &["should have the shape", &set.dim.to_string()]);
        }
        for (name, (shape, values)) in &state {
            let quoted = format!("{name:?}");
            let with = |tensor: Option<(Vec<usize>, Vec<f64>)>| {
                let mut state = state.clone();
                match tensor {
                    Some(tensor) => state.insert(name.clone(), tensor),
                    None => state.remove(name),
                };
                state
            };
            refused(with(None), &[&quoted, "missing"]);
            refused(with(Some(([&shape[..], &[1]].concat(), values.clone()))), &[&quoted, "shape"]);
            refused(with(Some((shape.clone(), values[1..].to_vec()))), &[&quoted, "values"]);
            let mut strange = values.clone();
            strange[0] = f64::NAN;
            refused(with(Some((shape.clone(), strange))), &[&quoted]);
        }
        let mut more = state.clone();
        more.insert("more".into(), (vec![1], vec![1.0]));
        refused(more, &["\"more\""]);
        let mut twice = state.clone();
        let labels = &mut twice.get_mut("labels").unwrap().1;
        (labels[2], labels[3]) = (labels[0], labels[1]);
        refused(twice, &["label 10 twice"]);
        let mut none = state.clone();
        none.get_mut("labels").unwrap().1[1] = 0.5;
        refused(none, &["no halves"]);
    }
}

#[test]
fn statistics_whose_numbers_cannot_be_are_refused() {
    let set = Set::golden("plain");
    let mut statistics = ClassStatistics::new(set.dim);
    statistics.learn(&set.examples()).unwrap();
    let state = statistics.state();
    for (name, place, value, part) in [
        ("counts", 3, 0.0, "no number of rows"),
        ("counts", 3, 2.5, "no number of rows"),
        ("scatter", 0, -1.0, "diagonal"),
        ("scatter", 1, 1e9, "diagonal"),
    ] {
        let mut state = state.clone();
        state.get_mut(name).unwrap().1[place] = value;
        let error = ClassStatistics::from_state(state, set.dim).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
    // within its bounds, and yet no covariance
    let mut none = state.clone();
    let scatter = &mut none.get_mut("scatter").unwrap().1;
    let diagonal = |i: usize| i * (i + 3) / 2;
    let roots: Vec<f64> = (0..3).map(|i| scatter[diagonal(i)].sqrt()).collect();
    (scatter[1], scatter[3], scatter[4]) = (roots[0] * roots[1], roots[0] * roots[2], -roots[1] * roots[2]);
    let statistics = ClassStatistics::from_state(none, set.dim).unwrap();
    let error = Discriminant::of(statistics, Shrinkage::Oas).err().unwrap().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn one_set_of_statistics_serves_both_shrinkages_and_the_ensemble() {
    let set = Set::golden("few");
    let learn = |shrinkage| {
        let mut discriminant = Discriminant::new(set.dim, shrinkage);
        set.examples().chunks(5).for_each(|task| discriminant.learn(task).unwrap());
        discriminant
    };
    let [none, oas] = [Shrinkage::None, Shrinkage::Oas].map(learn);
    assert_eq!(none.state(), oas.state());
    let statistics = || ClassStatistics::from_state(none.state(), set.dim).unwrap();
    for (shrinkage, learned) in [(Shrinkage::None, &none), (Shrinkage::Oas, &oas)] {
        let solved = Discriminant::of(statistics(), shrinkage).unwrap();
        assert_eq!(solved.scores(&set.test), learned.scores(&set.test));
    }
    assert_ne!(none.scores(&set.test), oas.scores(&set.test));
    // so do the two that keep means
    let text = text_of(&set);
    let (mut ncm, mut hybrid) = (NearestMean::new(set.dim), TextAndMean::new(&text, set.dim, 0.3).unwrap());
    set.scores(&mut ncm, 2);
    let scores = set.scores(&mut hybrid, 2);
    let mut restored = TextAndMean::new(&text, set.dim, 0.3).unwrap();
    restored.restore(ncm.state()).unwrap();
    assert_eq!(restored.scores(&set.test), scores);
    let mut few = TextAndMean::new(&text[..3 * set.dim], set.dim, 0.3).unwrap();
    let error = few.restore(ncm.state()).unwrap_err().to_string();
    assert!(error.contains("10 classes") && error.contains("3 text features"), "{error}");
}

#[test]
fn stored_bytes_are_those_of_the_state() {
    // values of single precision, which count half of what the float64 of the state take
    const SINGLE: [&str; 6] = ["unit_means", "deviations", "factors", "weights", "offsets", "means"];
    let dir = tempdir().unwrap();
    let set = Set::golden("plain");
    for tasks in [1, 3] {
        for (i, mut classifier) in all_and_choosing(set.dim).into_iter().enumerate() {
            set.examples().chunks(2).take(tasks).for_each(|task| classifier.learn(task).unwrap());
            let state = classifier.state();
            let is_replay = state.contains_key("offsets"); // "means" of statistics are float64
            let bytes: usize = state
                .iter()
                .map(|(name, (_, values))| match name.as_str() {
                    "labels" | "keys" => 0,
                    "means" if !is_replay => 8 * values.len(),
                    name if SINGLE.contains(&name) => 4 * values.len(),
                    _ => 8 * values.len(),
                })
                .sum();
            assert_eq!(classifier.stored().total(2 * tasks), bytes, "classifier {i}");
            let path = dir.path().join("state.safetensors");
            tensors::write(&path, &state, &()).unwrap();
            let file = fs::read(&path).unwrap();
            let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(file.len() - header, 8 * state.values().map(|(_, values)| values.len()).sum::<usize>());
        }
    }
}

#[test]
fn rows_that_hardly_differ_are_learned_or_refused_with_advice_that_fits() {
    let [cat, dog] = [(7, "cat"), (8, "dog")].map(|(label, name)| Class { label, name: name.into() });
    // classes far apart; the rows of one differ by the smallest values that there are
    let rows = |place: usize| -> Vec<f32> {
        let value = |i: usize, j: usize| if j == place { 1.0 } else { 1e-42 * (i % 3) as f32 };
        (0..6).flat_map(|i| (0..4).map(move |j| value(i, j))).collect()
    };
    let (first, second) = (rows(0), rows(1));
    let [train_first, train_second] = [&first, &second].map(|rows| TrainRows::new(4, rows.clone()));
    let examples = [Examples { class: &cat, rows: &train_first }, Examples { class: &dog, rows: &train_second }];
    for mut classifier in all(4) {
        match classifier.learn(&examples) {
            Ok(()) => {
                let scores = classifier.scores(&[first.clone(), second.clone()].concat());
                let expected = [[0; 6], [1; 6]].concat();
                assert_eq!(answers(&scores, 2), expected, "{scores:?}");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("differ by") && error.contains("baseline ncm"), "{error}");
                assert!(classifier.state().contains_key("scatter"), "{error}");
            }
        }
    }
    // opposite rows, the second ones but for rounding
    for opposite in [[1.0, 3.0, -1.0, -3.0], [1.0, 3.0, -1.0 - f32::EPSILON, -3.0]] {
        let rows = &TrainRows::new(2, opposite.to_vec());
        let error = NearestMean::new(2).learn(&[Examples { class: &cat, rows }]).unwrap_err().to_string();
        assert!(error.contains("cancel out") && error.contains("lda or ranpac"), "{error}");
    }
}
