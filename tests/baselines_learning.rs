//! What baselines learn: task by task as at once, whatever the threads, and of data that are hard
//! to learn from.

use cgil::{
    baseline::{
        ClassStatistics, Classifier, Covariance, Discriminant, Examples, FEATURES, Features, Incremental, NearestMean,
        RandomProjection, ReplayHead, Ridge, Shrinkage, TextAndMean,
    },
    rows::{Rows as TrainRows, Train},
    task::Class,
};

use crate::baselines::{SETS, Set, accuracy, all, answers};

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

/// The rows of a class, and how many of them come in the first part.
fn cut(rows: &TrainRows<Train>, first: usize) -> [TrainRows<Train>; 2] {
    let (first, others) = rows.values().split_at(first * rows.dim());
    [first, others].map(|values| TrainRows::new(rows.dim(), values.to_vec()))
}

#[test]
fn sums_of_parts_of_the_rows_are_those_of_all() {
    fn check(mut whole: impl Incremental, mut once: impl Incremental, mut parts: impl Incremental, set: &Set) {
        let examples = set.examples();
        for task in [&examples[..5], &examples[5..]] {
            whole.learn(task).unwrap();
            let classes: Vec<Class> = task.iter().map(|examples| examples.class.clone()).collect();
            let learner = once.of_sums().expect("it learns from sums");
            let sums = learner.sum().of(task);
            learner.learn_sums(&classes, &mut std::iter::once(sums)).unwrap();
            // of the first class all rows are in the first part, of the second none, of the others some
            let cuts: Vec<[TrainRows<Train>; 2]> = task
                .iter()
                .enumerate()
                .map(|(i, Examples { rows, .. })| cut(rows, [rows.len(), 0, 1, 2, rows.len() / 2][i % 5]))
                .collect();
            let learner = parts.of_sums().unwrap();
            let sum = learner.sum();
            let part = |part: usize| {
                let own = task.iter().zip(&cuts).filter(|(_, cut)| !cut[part].is_empty());
                sum.of(&own
                    .map(|(Examples { class, .. }, cut)| Examples { class, rows: &cut[part] })
                    .collect::<Vec<_>>())
            };
            learner.learn_sums(&classes, &mut [1, 0].into_iter().map(part)).unwrap();
            assert!(whole.state() == once.state(), "to the last bit");
            let (expected, found) = (whole.state(), parts.state());
            assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
            for (name, (shape, expected)) in &expected {
                assert_eq!(*shape, found[name].0);
                let size = expected.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
                for (expected, found) in expected.iter().zip(&found[name].1) {
                    // unit means are stored as float32
                    let most = if name == "unit_means" { 1e-7 } else { 1e-12 };
                    assert!((expected - found).abs() <= most * size, "{name}: {expected} {found}");
                }
            }
        }
    }
    let set = Set::golden("plain");
    let dim = set.dim;
    check(NearestMean::new(dim), NearestMean::new(dim), NearestMean::new(dim), &set);
    check(ClassStatistics::new(dim), ClassStatistics::new(dim), ClassStatistics::new(dim), &set);
    let discriminant = || Discriminant::new(dim, Shrinkage::Oas);
    check(discriminant(), discriminant(), discriminant(), &set);
    assert!(RandomProjection::new(dim, Features::HeldOut, Ridge::HeldOut, 3).of_sums().is_none());
}

#[test]
fn sums_without_a_class_of_the_task_are_refused() {
    let set = Set::golden("plain");
    let examples = set.examples();
    let classes: Vec<Class> = examples[..3].iter().map(|examples| examples.class.clone()).collect();
    fn check(mut learner: impl Incremental, examples: &[Examples], classes: &[Class]) {
        let learner = learner.of_sums().unwrap();
        let sums = learner.sum().of(examples);
        let error = learner.learn_sums(classes, &mut std::iter::once(sums)).unwrap_err().to_string();
        assert!(error.contains("no sums of rows") && error.contains(&classes[2].name), "{error}");
    }
    check(NearestMean::new(set.dim), &examples[..2], &classes);
    check(ClassStatistics::new(set.dim), &examples[..2], &classes);
}

#[test]
fn classes_learned_task_by_task_are_learned_as_well_as_at_once() {
    for set in SETS.map(Set::golden) {
        for (i, (mut by_task, mut at_once)) in all(set.dim).into_iter().zip(all(set.dim)).take(5).enumerate() {
            assert_eq!(set.scores(&mut *by_task, 2), set.scores(&mut *at_once, 10), "{} classifier {i}", set.name);
        }
    }
}

/// Some classes with other rows.
fn with<'a>(
    examples: &[Examples<'a>],
    rows: &'a [TrainRows<Train>],
    classes: std::ops::Range<usize>,
) -> Vec<Examples<'a>> {
    classes.map(|class| Examples { class: examples[class].class, rows: &rows[class] }).collect()
}

/// Rows of known classes that come later count as if they had come at once.
#[test]
fn more_rows_of_known_classes_are_learned_exactly() {
    for set in SETS.map(Set::golden) {
        let dim = set.dim;
        let part = |from: f64, to: f64| -> Vec<TrainRows<Train>> {
            let of_class = |rows: &TrainRows<Train>| {
                let at = |share: f64| (1.0 + share * (rows.len() - 1) as f64) as usize * dim;
                let from = if from == 0.0 { 0 } else { at(from) };
                TrainRows::new(dim, rows.values()[from..at(to)].to_vec())
            };
            set.train.iter().map(of_class).collect()
        };
        let (all, early, late) = (part(0.0, 1.0), part(0.0, 0.4), part(0.4, 1.0));
        let examples = set.examples();
        let (few, n) = (examples.len() / 2, examples.len());
        let (mut at_once, mut by_task) = (ClassStatistics::new(dim), ClassStatistics::new(dim));
        at_once.learn(&with(&examples, &all, 0..n)).unwrap();
        by_task.learn(&with(&examples, &early, 0..few)).unwrap();
        // new classes and more of known ones in one task
        by_task.learn(&[with(&examples, &all, few..n), with(&examples, &late, 0..few)].concat()).unwrap();
        assert_eq!(by_task.counts(), at_once.counts(), "{}", set.name);
        let scatter = |statistics: &ClassStatistics| statistics.scatter().values().to_vec();
        for (found, expected) in
            [(by_task.means().to_vec(), at_once.means().to_vec()), (scatter(&by_task), scatter(&at_once))]
        {
            let most = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-9 * most, "{}: off by {worst:e} of {most:e}", set.name);
        }
        // and so is what is made of them, of ridge regression too
        let ridge = || Box::new(RandomProjection::new(dim, Features::Fixed(60), Ridge::Fixed(10.0), 1));
        let both = [
            [Box::new(Discriminant::new(dim, Shrinkage::Oas)) as Box<dyn Classifier>, ridge()],
            [Box::new(Discriminant::new(dim, Shrinkage::Oas)), ridge()],
        ];
        let [at_once, by_task] = both;
        for (mut at_once, mut by_task) in at_once.into_iter().zip(by_task) {
            at_once.learn(&with(&examples, &all, 0..n)).unwrap();
            by_task.learn(&with(&examples, &early, 0..few)).unwrap();
            by_task.learn(&[with(&examples, &all, few..n), with(&examples, &late, 0..few)].concat()).unwrap();
            let (found, expected) = (by_task.scores(&set.test), at_once.scores(&set.test));
            let most = expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4 * most, "{}: off by {worst:e} of {most:e}", set.name);
        }
    }
}

#[test]
fn a_head_on_draws_of_past_classes_is_nearly_as_good_as_on_their_embeddings() {
    let set = Set::golden("plain");
    for covariance in [Covariance::Diagonal, Covariance::Class, Covariance::Shared] {
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
    let twice = [1.0, 2.0, 2.0, 1.0];
    for mut classifier in all(2) {
        let rows = &TrainRows::new(2, twice.to_vec());
        let error = classifier.learn(&[cat.clone(), cat.clone()].each_ref().map(|class| Examples { class, rows }));
        assert!(format!("{:?}", error.unwrap_err()).contains("class \"cat\" (label 7)"));
    }
    for mut classifier in [
        Box::new(NearestMean::new(2)) as Box<dyn Classifier>,
        Box::new(TextAndMean::new(&[1.0, 0.0], 2, 0.5).unwrap()),
        Box::new(ReplayHead::new(2, Covariance::Class, 0)),
    ] {
        classifier.learn(&[Examples { class: &cat, rows: &TrainRows::new(2, twice.to_vec()) }]).unwrap();
        refused(&mut *classifier, &cat, &twice, "learned before");
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
