//! The states of baselines: a classifier goes on from one, and none that does not fit is taken.

use std::{fs, path::Path};

use cgil::{
    baseline::{
        ClassStatistics, Classifier, Covariance, Discriminant, Examples, Features, Incremental, NearestMean,
        RandomProjection, ReplayHead, Ridge, Shrinkage, State, TextAndMean,
    },
    rows::{Rows as TrainRows, Train},
    task::Class,
    tensors,
};
use tempfile::tempdir;

use crate::baselines::{Set, all, text_of};

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
    // whoever shares it
    let dim = set.dim;
    let mut head = ReplayHead::new(dim, Covariance::Shared, 1);
    head.learn(&set.examples()).unwrap();
    let (good, scores) = (head.state(), head.scores(&set.test));
    let mut none = good.clone();
    none.get_mut("scatter").unwrap().1 =
        (0..dim).flat_map(|i| (0..=i).map(move |j| if i == j { 1.0 } else { -0.9 })).collect();
    let error = head.restore(none).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
    assert!(head.scores(&set.test) == scores && head.state() == good);
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
            // "means" of statistics are float64
            let is_replay = state.contains_key("offsets") && !state.contains_key("scatter");
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
