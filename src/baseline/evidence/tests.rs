//! Golden values, leaving out against never having been there, and what is at the edge.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};

use super::{
    matrix::{less, product},
    whitened::square,
    *,
};
use crate::{
    dense::{covariance::add_scatter, moments::mean_row, product::Matrix, symmetric::Cholesky},
    evaluate::{TestSet, ZeroShot, evaluate},
    rng::{Draw, Rng},
    rows::{Rows, Train},
    stream::Stream,
    task::Class,
};

fn golden() -> HashMap<String, Tensor> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/evidence.safetensors");
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

fn named(classes: usize) -> Vec<Class> {
    (0..classes).map(|i| Class { label: i as i64, name: format!("c{i}") }).collect()
}

/// What is answered by these scores where all classes are candidates.
fn answers(scores: &Together, rows: &[f64], seen: usize, dim: usize) -> Vec<f64> {
    let (n, all) = (rows.len() / dim, scores.all.len() / (rows.len() / dim));
    let stream = Stream::of_sizes(&named(all), &[seen, all - seen]).unwrap();
    let test = TestSet {
        sources: vec!["base".into(); n],
        sample_ids: (0..n).map(|i| i.to_string()).collect(),
        classes: vec![0; n],
        since: vec![1; n],
        rows: Rows::new(dim, rows.iter().map(|&x| x as f32).collect()),
        forgotten: Vec::new(),
    };
    let single = |values: &mut dyn Iterator<Item = &f64>| values.map(|&x| x as f32).collect::<Vec<_>>();
    let given = |_: &[f32]| {
        let open = single(&mut scores.all.chunks_exact(all).flat_map(|row| &row[..seen]));
        Ok(Scores {
            seen: Some(single(&mut scores.seen.iter())),
            unseen: Some(single(&mut scores.all.chunks_exact(all).flat_map(|row| &row[seen..]))),
            ..open.into()
        })
    };
    let zero_shot = ZeroShot { features: &vec![1.0; all * dim], is_raw: false };
    let found = evaluate(&test, &stream, 1, Some(zero_shot), given).unwrap();
    found.into_iter().map(|p| p.unwrap().open.unwrap() as f64).collect()
}

/// With more classes than dimensions the other one of the two matrices is decomposed, of the
/// same text in more dimensions, all 0, the first.
#[test]
fn the_map_is_the_same_with_more_classes_than_dimensions() {
    let (n, dim, wide) = (9, 3, 12);
    let noise: Vec<f64> =
        Rng::new(5, Draw::Embeddings, &[]).normals(2 * n * dim + dim * dim).into_iter().map(f64::from).collect();
    let (text, rest) = noise.split_at(n * dim);
    let (means, whitener) = rest.split_at(n * dim);
    let padded = |rows: &[f64]| -> Vec<f64> {
        rows.chunks_exact(dim).flat_map(|row| row.iter().copied().chain(vec![0.0; wide - dim])).collect()
    };
    let mut wide_whitener = padded(whitener);
    wide_whitener.resize(wide * wide, 0.0);
    let narrow = Text::new(text, dim).unwrap().map(means, whitener);
    let wider = Text::new(&padded(text), wide).unwrap().map(&padded(means), &wide_whitener);
    assert_close("residuals", &padded(&narrow.residuals), &wider.residuals, 1e-9);
    assert_close("means", &padded(&narrow.predict(text)), &wider.predict(&padded(text)), 1e-9);
    assert!(narrow.residuals.iter().any(|x| x.abs() > 1e-3));
}

/// A mean square of residuals, four rows of each class, and what is left of their variance.
#[test]
fn the_spread_of_few_rows_is_not_taken_for_noise() {
    for (mean_square, within, expected) in [(0.3, 0.3, 0.225), (0.45, 0.4, 0.2), (1.0, 0.8, 0.75), (0.05, 1.0, 1e-3)] {
        let spread = model::around_priors(mean_square, &[4.0, 4.0], within);
        assert!((spread - expected).abs() < 1e-12, "{mean_square}, {within}: {spread}");
    }
}

#[test]
fn the_bias_is_where_the_worse_share_is_best_and_stays_where_nothing_is_hit() {
    let tally = |unseen: [f64; 3], seen: [f64; 3], tasks: [f64; 2]| {
        let fill = |shares: [f64; 3]| (0..BIASES).map(|place| shares[place / 20]).collect::<Vec<_>>();
        Tally { unseen: fill(unseen), seen: fill(seen), tasks, ..Tally::new() }.bias()
    };
    // after 4 tasks, of which 2 were tested before: 0.2 and 0.9, 0.6 and 0.5, 0.8 and 0.1
    assert_eq!(tally([0.4, 1.2, 1.6], [3.6, 2.0, 0.4], [2.0, 4.0]), Some(bias_at(20)));
    assert_eq!(tally([0.0; 3], [4.0; 3], [2.0, 4.0]), None);
    assert_eq!(tally([0.0; 3], [4.0; 3], [0.0, 4.0]), None);
}

/// Learns rows (N, D) of classes that are new, so many of each.
fn learn_new(evidence: &mut Evidence, rows: &[f64], counts: &[usize]) {
    let counts: Vec<(usize, usize)> = (evidence.seen()..).zip(counts.iter().copied()).collect();
    evidence.learn_rows(rows, &counts).unwrap();
}

#[test]
fn scores_and_what_is_chosen_are_the_references() {
    let golden = golden();
    let at = |name: &str| values(&golden[name]);
    let text = at("text");
    let dim = golden["text"].dims()[1];
    let mut evidence = Evidence::new(text, dim, at("logit_scale")[0]);
    for t in 0..3 {
        let own = |name: &str| at(&format!("task_{t}.{name}"));
        let (rows, labels) = (own("rows"), own("labels"));
        let counts: Vec<usize> = labels.chunk_by(|a, b| a == b).map(<[f64]>::len).collect();
        learn_new(&mut evidence, &rows, &counts);
        let Chosen { shrinkage, weight, bias, .. } = evidence.chosen();
        let expected = own("chosen");
        assert_close("shrinkage", &[shrinkage], &expected[..1], 1e-12);
        assert_eq!([weight, bias], expected[1..], "task {t}");
        let truth: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
        let left_out = evidence.model.as_ref().unwrap().left_out(&rows, &truth);
        assert_close("left out", &left_out, &own("left_out"), 1e-6);
        // float32 is what prompts' cosines are
        let cosines = product(Matrix::new(&at("test"), dim), Matrix::new(&own("prompts"), dim).t());
        let cosines: Vec<f32> = cosines.into_iter().map(|x| x as f32).collect();
        let scores = evidence.together(&at("test"), Some(&cosines));
        assert_close("among seen", &scores.seen, &own("seen"), 1e-6);
        assert_close("over all", &scores.all, &own("over_all"), 1e-6);
        assert_eq!(answers(&scores, &at("test"), evidence.seen(), dim), own("predicted"), "task {t}");
        assert_reads_back(&evidence, &own("prompts"), &at("test"), &own("predicted"));
    }
}

/// Asserts that the file of the classifier, written and read, answers as it should.
fn assert_reads_back(evidence: &Evidence, prompts: &[f64], test: &[f64], answers: &[f64]) {
    let single = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let (all, dim) = (evidence.classes(), evidence.statistics.dim());
    let classes = named(all);
    let dir_of_file = tempfile::tempdir().unwrap();
    let path = dir_of_file.path().join("classifier.safetensors");
    let (tensors, about) = evidence.classifier(Some(&single(prompts))).unwrap().file(&classes).unwrap();
    crate::tensors::write(&path, &tensors, &about).unwrap();
    let (classifier, read) = OpenClassifier::read(&path).unwrap();
    assert_eq!((read, classifier.seen()), (classes.clone(), evidence.seen()));
    let (rows, seen) = (single(test), evidence.seen());
    let n = rows.len() / dim;
    let test = TestSet {
        sources: vec!["base".into(); n],
        sample_ids: (0..n).map(|i| i.to_string()).collect(),
        classes: vec![0; n],
        since: vec![1; n],
        rows: Rows::new(dim, rows),
        forgotten: Vec::new(),
    };
    let stream = Stream::of_sizes(&classes, &[seen, all - seen]).unwrap();
    let zero_shot = ZeroShot { features: &vec![1.0; all * dim], is_raw: false };
    let found = evaluate(&test, &stream, 1, Some(zero_shot), |images| Ok(classifier.scores(images))).unwrap();
    let found: Vec<f64> = found.into_iter().map(|p| p.unwrap().open.unwrap() as f64).collect();
    assert_eq!(found, answers);
    // what does not fit together is refused
    for (name, shape) in
        [("means", vec![all - 1, dim]), ("whitener", vec![dim, dim - 1]), ("prompts", vec![seen + 1, dim])]
    {
        let mut other = tensors.clone();
        other.insert(name.into(), (shape.clone(), vec![0.5; shape.iter().product()]));
        crate::tensors::write(&path, &other, &about).unwrap();
        let error = format!("{:#}", OpenClassifier::read(&path).err().unwrap());
        assert!(error.contains("is no classifier") && error.contains(name), "{error}");
    }
}

/// Rows (N, D) of a class around a direction of its own.
fn drawn(class: usize, n: usize, dim: usize) -> (Class, Rows<Train>) {
    let noise = Rng::new(1, Draw::Embeddings, &[class as u64]).normals(n * dim);
    let own = |j: usize| if j == class % dim { 6.0 } else { 0.0 };
    let rows = noise.into_iter().enumerate().map(|(i, x)| own(i % dim) + x).collect();
    (Class { label: class as i64, name: format!("class {class}") }, Rows::new(dim, rows))
}

/// Text features of `classes` classes, not far from their directions.
fn text(classes: usize, dim: usize) -> Vec<f64> {
    let text: Vec<f32> = (0..classes).flat_map(|class| drawn(class, 1, dim).1.into_values()).collect();
    unit_rows(&text, dim)
}

fn learn(evidence: &mut Evidence, classes: &[(Class, Rows<Train>)]) {
    let examples: Vec<Examples> = classes.iter().map(|(class, rows)| Examples { class, rows }).collect();
    evidence.learn(&examples).unwrap();
}

/// Leaving a row out in closed form is as computing its class's mean and the scatter without
/// it, where the shrinkage, the map, the spread and the distance that means are normalised to are held.
#[test]
fn a_row_that_is_left_out_was_never_there() {
    for text_counts in [true, false] {
        left_out_was_never_there(text_counts);
    }
}

fn left_out_was_never_there(text_counts: bool) {
    let (dim, sizes) = (8, [3, 5, 2, 6, 4]);
    let classes: Vec<_> = sizes.iter().enumerate().map(|(class, &n)| drawn(class, n, dim)).collect();
    let mut evidence = Evidence::new(text(7, dim), dim, 20.0);
    learn(&mut evidence, &classes);
    let rows: Vec<f64> = classes.iter().flat_map(|(_, rows)| unit_rows(rows.values(), dim)).collect();
    let truth: Vec<usize> = sizes.iter().enumerate().flat_map(|(class, &n)| vec![class; n]).collect();
    let beside = evidence.beside(text_counts).unwrap();
    assert!(matches!((text_counts, &beside), (true, Beside::Text(Some(_))) | (false, Beside::Nothing)));
    let (shrinkage, n) = (0.3, truth.len());
    let model = evidence.fit(&Spread::of(&evidence.statistics).unwrap(), shrinkage, &beside);
    let found = model.left_out(&rows, &truth);
    // where text does not count, as near to one distance, in logarithms, as the root of the count is to 1
    let centre = &model.whitened.centre;
    let mu = |class: usize, mean: &[f64], k: f64| -> Vec<f64> {
        let prior = &model.prior[class * dim..][..dim];
        (0..dim).map(|j| (k * mean[j] + prior[j]) / (1.0 + k)).collect()
    };
    let normalised = |mu: &[f64], radius: f64, count: usize| -> Vec<f64> {
        let distance = square(mu.iter().zip(centre).map(|(x, centre)| x - centre)).sqrt();
        let factor = (radius / distance).powf(if text_counts { 0.0 } else { 1.0 / (count as f64).sqrt() });
        mu.iter().zip(centre).map(|(x, centre)| centre + (x - centre) * factor).collect()
    };
    let shrunk: Vec<Vec<f64>> =
        (0..5).map(|class| mu(class, &model.means[class * dim..][..dim], model.trust[class])).collect();
    let radius = (shrunk.iter().map(|mu| square(less(mu, centre).into_iter())).sum::<f64>() / 5.0).sqrt();
    let expected: Vec<f64> = shrunk.iter().zip(sizes).flat_map(|(mu, count)| normalised(mu, radius, count)).collect();
    assert_close("means", &model.whitened.mu[..5 * dim], &expected, 1e-12);

    let freedom = (n - sizes.len()) as f64;
    let identity: Vec<f64> = (0..dim * dim).map(|i| f64::from(u8::from(i % (dim + 1) == 0))).collect();
    let mean = evidence.statistics.scatter().diagonal().sum::<f64>() / freedom / dim as f64;
    // out of the whitened space: x = y W⁻¹, where W Wᵀ is the inverse of the covariance
    let back = |y: &[f64]| -> Vec<f64> {
        let covariance = of_scatter(&evidence.statistics.scatter().whole(), dim, shrinkage, freedom, mean, &identity);
        let turned = product(Matrix::new(y, dim), Matrix::new(&model.whitened.whitener, dim).t()); // y Wᵀ
        product(Matrix::new(&turned, dim), Matrix::new(&covariance, dim))
    };
    for row in 0..20 {
        let own = truth[row];
        let others: Vec<usize> = (0..n).filter(|&i| i != row && truth[i] == own).collect();
        let without = |class: usize| -> Vec<f64> {
            (0..n).filter(|&i| i != row && truth[i] == class).flat_map(|i| rows[i * dim..][..dim].to_vec()).collect()
        };
        let mut scatter = vec![0.0; dim * dim];
        for class in 0..sizes.len() {
            let kept = without(class);
            add_scatter(&mut scatter, &kept, &mean_row(&kept, dim));
        }
        let covariance = of_scatter(&scatter, dim, shrinkage, freedom, mean, &identity);
        let distance = |from: &[f64]| -> f64 {
            let offset: Vec<f64> = (0..dim).map(|j| rows[row * dim + j] - from[j]).collect();
            let mut solved = offset.clone();
            Cholesky::factor(&mut covariance.clone(), dim, 0.0).unwrap().solve(&mut solved, 1);
            offset.iter().zip(&solved).map(|(a, b)| a * b).sum()
        };
        let background = distance(&back(&model.whitened.centre));
        let k = model.trust[own] / sizes[own] as f64 * others.len() as f64;
        let own_mean =
            product(Matrix::new(&mean_row(&without(own), dim), dim), Matrix::new(&model.whitened.whitener, dim));
        for class in 0..7 {
            let distant = match class == own {
                true => back(&normalised(&mu(own, &own_mean, k), radius, others.len())),
                false => back(&model.whitened.mu[class * dim..][..dim]),
            };
            let expected = -0.5 * dim as f64 * (distance(&distant) / background).ln();
            let found = found[row * 7 + class];
            assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "row {row}: {found}, not {expected}");
        }
    }
}

/// The log-likelihood of a shrinkage is that of each row as it is predicted from the others, with
/// dimensions to spare and with few rows for them; sums go on over tasks.
#[test]
fn rows_are_likely_as_draws_around_the_others() {
    for (dim, sizes) in [(6, [3, 5, 1, 6]), (20, [2, 2, 1, 2])] {
        predicted_from_the_others(dim, sizes);
    }
}

fn predicted_from_the_others(dim: usize, sizes: [usize; 4]) {
    let classes: Vec<_> = sizes.iter().enumerate().map(|(class, &n)| drawn(class, n, dim)).collect();
    let mut evidence = Evidence::new(text(4, dim), dim, 20.0);
    learn(&mut evidence, &classes);
    let rows: Vec<f64> = classes.iter().flat_map(|(_, rows)| unit_rows(rows.values(), dim)).collect();
    let truth: Vec<usize> = sizes.iter().enumerate().flat_map(|(class, &n)| vec![class; n]).collect();
    let found = Spread::of(&evidence.statistics).unwrap().log_likelihoods(&evidence.statistics, &rows, &truth);
    assert_eq!(evidence.tally.log_likelihoods, found);

    let freedom = (truth.len() - 4) as f64;
    let identity: Vec<f64> = (0..dim * dim).map(|i| f64::from(u8::from(i % (dim + 1) == 0))).collect();
    let mean = evidence.statistics.scatter().diagonal().sum::<f64>() / freedom / dim as f64;
    for (found, shrinkage) in found.iter().zip(LOOC_SHRINKAGES) {
        let mut expected = 0.0;
        for row in (0..truth.len()).filter(|&row| truth[row] != 2) {
            let kept = |class: usize| -> Vec<f64> {
                let of_class = (0..truth.len()).filter(|&i| i != row && truth[i] == class);
                of_class.flat_map(|i| rows[i * dim..][..dim].to_vec()).collect()
            };
            let mut scatter = vec![0.0; dim * dim];
            (0..4).for_each(|class| add_scatter(&mut scatter, &kept(class), &mean_row(&kept(class), dim)));
            let covariance = of_scatter(&scatter, dim, shrinkage, freedom, mean, &identity);
            let (variances, directions) = crate::dense::eigen::eigen(&covariance, dim).unwrap();
            let others = kept(truth[row]);
            let offset: Vec<f64> =
                rows[row * dim..][..dim].iter().zip(mean_row(&others, dim)).map(|(x, mean)| x - mean).collect();
            let along = product(Matrix::new(&offset, dim), Matrix::new(&directions, dim));
            let count = (others.len() / dim) as f64;
            let distance: f64 = along.iter().zip(&variances).map(|(x, variance)| x * x / variance).sum();
            let volume: f64 = variances.iter().map(|x| x.ln()).sum();
            expected -= 0.5 * (distance / (1.0 + 1.0 / count) + volume); // a mean of so many rows is as far off
        }
        assert!((found - expected).abs() < 1e-8 * expected.abs(), "{shrinkage}: {found}, not {expected}");
    }
}

/// The log-likelihoods of tasks are added up, those of equal rows say nothing, and the likeliest
/// shrinkage counts where it is above OAS's.
#[test]
fn likelihoods_are_sums_over_tasks() {
    let (dim, before) = (6, [3, 5, 1, 6]);
    let mut evidence = Evidence::new(text(4, dim), dim, 20.0);
    learn(&mut evidence, &[0, 1, 2, 3].map(|class| drawn(class, before[class], dim)));
    let found = evidence.tally.log_likelihoods.clone();
    evidence.text = text(6, dim);
    let more: Vec<_> = (4..6).map(|class| drawn(class, 4, dim)).collect();
    learn(&mut evidence, &more);
    let rows: Vec<f64> = more.iter().flat_map(|(_, rows)| unit_rows(rows.values(), dim)).collect();
    let own = Spread::of(&evidence.statistics).unwrap().log_likelihoods(
        &evidence.statistics,
        &rows,
        &[4, 4, 4, 4, 5, 5, 5, 5],
    );
    let sums: Vec<f64> = found.iter().zip(&own).map(|(before, own)| before + own).collect();
    assert_eq!(evidence.tally.log_likelihoods, sums);
    let likeliest = LOOC_SHRINKAGES[first_highest(&sums)];
    assert_eq!(evidence.tally.likeliest(), likeliest);
    let mut spread = Spread::of(&evidence.statistics).unwrap();
    assert!(likeliest > spread.oas);
    let alone = |spread: &Spread| evidence.alone(spread, &rows, &[4, 4, 4, 4, 5, 5, 5, 5]).unwrap().shrinkage;
    assert_eq!(alone(&spread), likeliest);
    spread.oas = 0.99;
    assert_eq!(alone(&spread), 0.99);
    assert_eq!(Tally::new().likeliest(), 0.0);
    let mut equal = Evidence::new(text(2, dim), dim, 20.0);
    learn_new(&mut equal, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0].repeat(4), &[2, 2]);
    assert_eq!(equal.tally.log_likelihoods, [0.0; LOOC_SHRINKAGES.len()]);
}

/// The shrunk covariance (D, D) that a scatter makes.
fn of_scatter(scatter: &[f64], dim: usize, shrinkage: f64, freedom: f64, mean: f64, identity: &[f64]) -> Vec<f64> {
    (0..dim * dim)
        .map(|i| {
            let (row, column) = (i / dim, i % dim);
            let value = scatter[row.max(column) * dim + row.min(column)] / freedom;
            (1.0 - shrinkage) * value + shrinkage * mean * identity[i]
        })
        .collect()
}

#[test]
fn few_classes_few_rows_equal_rows_and_many_dimensions_are_defined() {
    let equal = |class: usize, n: usize| {
        let (class, row) = drawn(class, 1, 6);
        (class, Rows::new(6, row.values().repeat(n)))
    };
    for (what, tasks) in [
        ("tasks of one class", (0..6).map(|class| vec![drawn(class, 4, 6)]).collect::<Vec<_>>()),
        ("one row each", vec![(0..3).map(|c| drawn(c, 1, 6)).collect(), (3..6).map(|c| drawn(c, 1, 6)).collect()]),
        ("a task of one row", vec![(0..5).map(|c| drawn(c, 4, 6)).collect(), vec![drawn(5, 1, 6)]]),
        ("equal rows", vec![(0..4).map(|c| equal(c, 5)).collect(), vec![equal(4, 1), equal(5, 2)]]),
        ("the same class twice", vec![vec![drawn(0, 3, 6)], vec![(drawn(1, 1, 6).0, drawn(0, 3, 6).1)]]),
    ] {
        let mut evidence = Evidence::new(text(6, 6), 6, 20.0);
        for classes in &tasks {
            learn(&mut evidence, classes);
            let scores = evidence.together(&text(6, 6), None);
            assert!(scores.seen.iter().chain(&scores.all).all(|x| x.is_finite()), "{what}");
            let Chosen { shrinkage, weight, bias, .. } = evidence.chosen();
            assert!((0.0..=1.0).contains(&shrinkage) && weight > 0.0 && bias.is_finite(), "{what}");
            assert!(evidence.tally.errors.iter().all(|error| error.is_finite()), "{what}");
            // rows that are all equal are told from the others by them alone
            if what == "equal rows" {
                for (c, (_, rows)) in classes.iter().enumerate() {
                    let (n, scores) = (evidence.seen(), evidence.scores(rows.row(0)));
                    assert_eq!(highest(scores.iter().map(|&x| x.into())).0, n - classes.len() + c, "{what}");
                }
            }
        }
        assert_eq!(evidence.seen(), tasks.iter().map(Vec::len).sum::<usize>());
    }
    // 40 values, 12 rows
    let mut evidence = Evidence::new(text(6, 40), 40, 20.0);
    learn(&mut evidence, &(0..6).map(|class| drawn(class, 2, 40)).collect::<Vec<_>>());
    let scores = evidence.scores(drawn(2, 2, 40).1.values());
    for scores in scores.chunks_exact(6) {
        assert_eq!(highest(scores.iter().map(|&x| x.into())).0, 2);
    }
}

#[test]
fn a_state_that_was_stored_goes_on_as_what_it_is_of() {
    let first: Vec<_> = (0..5).map(|class| drawn(class, 6, 8)).collect();
    let next: Vec<_> = (5..8).map(|class| drawn(class, 3, 8)).collect();
    let mut evidence = Evidence::new(text(9, 8), 8, 20.0);
    learn(&mut evidence, &first);
    let mut restored = Evidence::new(text(9, 8), 8, 20.0);
    restored.restore(evidence.state()).unwrap();
    for evidence in [&mut evidence, &mut restored] {
        learn(evidence, &next);
    }
    let rows = drawn(6, 4, 8).1.into_values();
    assert_eq!(restored.scores(&rows), evidence.scores(&rows));
    assert_eq!(restored.state(), evidence.state());
    assert_eq!(restored.chosen(), evidence.chosen());
    let bytes: usize = evidence.state().values().map(|(_, values)| values.len() * size_of::<f64>()).sum();
    assert_eq!(evidence.stored().total(8) + 8 * 4 * size_of::<f64>(), bytes); // labels and keys do not count
    for (name, values) in [
        ("hits", vec![0.0; 59]),
        ("log_likelihoods", vec![0.0; 4]),
        ("chosen", vec![0.5, 0.1, 1.0, 0.0, 1.0]),
        ("chosen", vec![1.5, 0.1, 1.0, 0.0, 1.0, 0.5, 0.1]),
        ("chosen", vec![0.5, 0.1, 1.0, 0.0, 0.0, 0.5, 0.1]),
        ("chosen", vec![0.5, 0.1, 1.0, 0.0, 1.0, 1.5, 0.1]),
        ("chosen", vec![0.5, 0.1, 1.0, 0.0, 1.0, 0.5, f64::NAN]),
        ("tasks", vec![f64::NAN, 1.0]),
    ] {
        let mut state = evidence.state();
        state.insert(name.into(), (vec![values.len()], values));
        assert!(restored.restore(state).is_err(), "{name}");
    }
    let mut state = evidence.state();
    state.insert("chosen".into(), (vec![CHOSEN], vec![0.5, 0.1, 1.0, 0.0, 1.0, 0.5, 0.1]));
    restored.restore(state).unwrap();
    let calibration = Calibration { temperature: 1.0, power: 0.5, even: 0.1 };
    let expected = Chosen { shrinkage: 0.5, weight: 0.1, text_weight: 1.0, bias: 0.0, calibration };
    assert_eq!(restored.chosen(), expected);
    assert!(Evidence::new(text(7, 8), 8, 20.0).restore(evidence.state()).is_err());
}

#[test]
fn a_state_of_rule_7_goes_on_with_scores_that_are_divided_by_a_temperature_alone() {
    let mut evidence = Evidence::new(text(9, 8), 8, 20.0);
    evidence.power = 0.0;
    learn(&mut evidence, &(0..5).map(|class| drawn(class, 6, 8)).collect::<Vec<_>>());
    let (state, before) = (evidence.state(), evidence.chosen().calibration);
    assert_eq!((&state["chosen"].0[..], before.power), (&[6][..], 0.0));
    let mut restored = Evidence::new(text(9, 8), 8, 20.0);
    restored.restore(state).unwrap();
    assert_eq!(restored.chosen(), evidence.chosen());
    // one row more does not undo what thirty have said
    for evidence in [&mut evidence, &mut restored] {
        learn(evidence, &[drawn(5, 1, 8)]);
    }
    let after = restored.chosen().calibration;
    assert_eq!((after.power, restored.state()), (0.0, evidence.state()));
    assert!((0.5..=2.0).contains(&(after.temperature / before.temperature)), "{before:?} and {after:?}");
}

#[test]
fn of_one_row_a_class_text_counts_only_where_it_tells_more_than_a_guess() {
    let classes = 12;
    let text = text(classes, 8);
    // rows beside their own text, and beside another class's
    for (shift, weights) in [(0, (WEIGHTS[0], 1.0)), (5, (ALONE, 0.0))] {
        let mut evidence = Evidence::new(text.clone(), 8, 20.0);
        let row = |class: usize| {
            let own = &text[(class + shift) % classes * 8..][..8];
            own.iter().enumerate().map(|(i, x)| x + 0.01 * (3 * class + i) as f64).collect::<Vec<_>>()
        };
        let rows: Vec<f64> = (0..classes).flat_map(row).collect();
        learn_new(&mut evidence, &rows, &vec![1; classes]);
        let Chosen { weight, text_weight, calibration, .. } = evidence.chosen();
        assert_eq!((weight, text_weight), weights, "{shift}");
        assert_eq!(calibration == Calibration::NONE, text_weight == 1.0, "{shift}");
    }
}

#[test]
fn the_calibration_is_that_of_the_least_cross_entropy_of_rows_that_are_left_out() {
    // by hand, from scores that leave each row out, of four of six classes
    let counts = [6, 6, 6, 6];
    let value = |i: usize| (i as f64 * 12.9898).sin() + if i % 8 == i / 48 { 1.0 } else { 0.0 };
    let rows: Vec<f64> = (0..24 * 8).map(value).collect();
    let mut evidence = Evidence::new(text(6, 8), 8, 20.0);
    learn_new(&mut evidence, &rows, &counts);
    let truth: Vec<usize> = (0..24).map(|i| i / 6).collect();
    let (model, weight) = (evidence.model.as_ref().unwrap(), evidence.chosen().weight);
    let mut scores = evidence.logits(&rows, &evidence.text);
    scores.iter_mut().zip(model.left_out(&rows, &truth)).for_each(|(x, own)| *x += weight * own);
    let mut least = (f64::INFINITY, Calibration::NONE);
    let both =
        TEMPERATURES.iter().flat_map(|&temperature| EVENS.map(|even| Calibration { temperature, power: 0.5, even }));
    for (found, calibration) in evidence.tally.errors.iter().zip(both) {
        let of_row = |(row, &class): (&[f64], &usize)| {
            let mut row = row[..4].to_vec();
            calibration.logarithms(&mut row);
            -row[class]
        };
        let expected: f64 = scores.chunks(6).zip(&truth).map(of_row).sum();
        assert!((found - expected).abs() < 1e-6 * expected.max(1.0), "{calibration:?}: {found} {expected}");
        let with_one_more = expected - (calibration.even / 4.0).ln();
        if with_one_more < least.0 - 1e-9 {
            least = (with_one_more, calibration);
        }
    }
    assert_eq!(evidence.chosen().calibration, least.1);

    // rows of the next task, and of what was said among fewer classes the squared share
    let before = (evidence.tally.errors.clone(), evidence.chosen().weight);
    let more: Vec<f64> = (1000..1000 + 12 * 8).map(value).collect();
    learn_new(&mut evidence, &more, &[6, 6]);
    let (chosen, classes) = (evidence.chosen(), (0..12).map(|i| 4 + i / 6).collect::<Vec<_>>());
    let mut alone = Evidence::new(text(6, 8), 8, 20.0);
    (alone.statistics, alone.chosen) = (evidence.statistics.clone(), chosen);
    alone.add_errors(evidence.model.as_ref().unwrap(), &more, &classes);
    let weights = (before.1.min(chosen.weight) / before.1.max(chosen.weight)).powi(2);
    let expected: Vec<f64> =
        before.0.iter().zip(&alone.tally.errors).map(|(old, own)| weights * 16.0 / 36.0 * old + own).collect();
    assert_close("errors", &evidence.tally.errors, &expected, 1e-9);
}

#[test]
fn rows_that_are_all_right_leave_a_doubt_and_those_of_other_scores_count_less() {
    let mut tally = Evidence::new(text(2, 8), 8, 20.0).tally;
    // no row could be left out
    assert_eq!(tally.calibration(5, true, POWER), Calibration::NONE);
    assert_eq!(tally.calibration(5, false, POWER), Calibration { temperature: 8.0, power: 0.5, even: 0.02 });
    assert_eq!(tally.calibration(5, false, 0.0), Calibration::NONE);
    // n rows right however sure: (1 - even)^n · even is highest at 1 / (n + 1)
    let right = |rows: f64| {
        move |(place, error): (usize, &mut f64)| {
            *error = if place < EVENS.len() { -rows * (1.0 - EVENS[place]).ln() } else { 1e9 };
        }
    };
    for (rows, even) in [(4.0, 0.2), (19.0, 0.05), (199.0, 0.005)] {
        tally.errors.iter_mut().enumerate().for_each(right(rows));
        assert_eq!(tally.calibration(5, true, POWER), Calibration { temperature: TEMPERATURES[0], power: 0.5, even });
    }
    for text_counts in [true, false] {
        assert_eq!(tally.calibration(1, text_counts, POWER), Calibration::NONE);
    }
    // a quarter of the weight: a sixteenth of what was said, either way
    tally.errors.fill(32.0);
    tally.discount((5, [4.0, 1.0]), (5, [1.0, 1.0]));
    tally.discount((5, [1.0, 0.0]), (5, [2f64.sqrt(), 0.0]));
    tally.discount((5, [0.5, 1.0]), (5, [0.5, 1.0]));
    assert!(tally.errors.iter().all(|error| (error - 1.0).abs() < 1e-12));
    // three times the classes: a ninth
    tally.discount((5, [0.5, 1.0]), (15, [0.5, 1.0]));
    assert!(tally.errors.iter().all(|error| (error - 1.0 / 9.0).abs() < 1e-12));
    tally.discount((15, [0.5, 1.0]), (15, [0.5, 0.0]));
    assert!(tally.errors.iter().all(|error| *error == 0.0));
}

#[test]
fn the_calibration_divides_what_tells_learned_classes_apart_and_nothing_else() {
    let mut evidence = Evidence::new(text(6, 8), 8, 20.0);
    learn(&mut evidence, &(0..4).map(|class| drawn(class, 5, 8)).collect::<Vec<_>>());
    let rows = drawn(2, 3, 8).1.into_values();
    let mut classifier = evidence.classifier(None).unwrap();
    classifier.chosen.calibration = Calibration { temperature: 8.0, power: 0.5, even: 0.0 };
    let scores = classifier.scores(&rows);
    let (seen, unseen) = (scores.seen.unwrap(), scores.unseen.unwrap());
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    for (row, found) in classifier.logits(&rows).chunks(6).enumerate() {
        let [seen, open] = [&seen, &scores.open].map(|scores| &scores[row * 4..][..4]);
        let best = most(&mut found[..4].iter().copied());
        let best_score = most(&mut seen.iter().map(|&x| x.into()));
        let mean = seen.iter().map(|&x| f64::from(x)).sum::<f64>() / 4.0;
        let variance = seen.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 4.0;
        for (x, score) in found.iter().zip(seen) {
            let below = (best_score - f64::from(*score)) / (8.0 * variance.powf(0.25));
            assert!((best - x - below).abs() < 1e-3, "row {row}");
        }
        let known = most(&mut open.iter().map(|&x| x.into()));
        for (x, score) in found[4..].iter().zip(&unseen[row * 2..]) {
            assert!((best - x - (known - f64::from(*score))).abs() < 1e-3, "row {row}");
        }
    }
}

#[test]
fn a_share_of_the_rows_that_were_left_out_is_below_the_confidence_for_it() {
    let mut tally = Evidence::new(text(2, 8), 8, 20.0).tally;
    tally.set_known((0..=200).map(f64::from).rev().collect());
    assert_eq!((tally.known[0], tally.known[5], tally.known[100]), (0.0, 10.0, 200.0));
    tally.set_known(Vec::new()); // of a task whose classes have one row each nothing is known
    assert_eq!((tally.known[0], tally.known[100]), (0.0, 200.0));
    tally.set_known(vec![3.0]);
    assert_eq!((tally.known[0], tally.known[100]), (3.0, 3.0));

    let value = |i: usize| (i as f64 * 12.9898).sin() + if i % 8 == i / 160 { 1.0 } else { 0.0 };
    let rows: Vec<f64> = (0..80 * 8).map(value).collect();
    let mut evidence = Evidence::new(text(4, 8), 8, 20.0);
    learn_new(&mut evidence, &rows, &[20; 4]);
    let classifier = evidence.classifier(None).unwrap();
    let values: Vec<f32> = rows.iter().map(|&x| x as f32).collect();
    let confidence = classifier.confidence(&values);
    let known = &evidence.tally.known;
    for (share, expected) in [(0.1, known[10]), (0.125, (known[12] + known[13]) / 2.0), (1.0, known[100])] {
        assert!((f64::from(classifier.least_confidence(share).unwrap()) - expected).abs() < 1e-4);
    }
    // without prompts, it is the highest of the scores among seen classes
    let scores = evidence.open_scores(&values, None).seen.unwrap();
    for (found, scores) in confidence.iter().zip(scores.chunks(4)) {
        let expected = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}

#[test]
fn text_tells_where_its_mean_over_classes_is_so_many_standard_errors_above_a_guess() {
    let tells = |more: &[f64]| {
        let sum = |power| more.iter().map(|x: &f64| x.powi(power)).sum();
        Tally { text: [more.len() as f64, sum(1), sum(2)], ..Tally::new() }.text_tells()
    };
    assert!(tells(&[])); // nothing is said against it
    assert!(tells(&[0.1]) && !tells(&[0.0]) && !tells(&[-0.1]));
    // of two classes it tells both, or next to nothing is said for it
    assert!(tells(&[0.4, 0.1]) && !tells(&[0.5, -0.1]) && !tells(&[-0.1, -0.1]));
    // a mean of 0.1 and a standard deviation of 0.3: (n - 1) / 9 against the logarithm of n
    let spread = |n: usize| {
        let one = ((n * n - 1) as f64 / 12.0).sqrt(); // of 1 to n
        (0..n).map(|i| 0.1 + 0.3 / one * (i as f64 - (n - 1) as f64 / 2.0)).collect::<Vec<_>>()
    };
    assert!(!tells(&spread(31)) && tells(&spread(34)));
}

/// The texts (C, D) of classes, each another's.
fn of_others(classes: usize, dim: usize) -> Vec<f64> {
    let own = text(classes, dim);
    (0..classes).flat_map(|class| own[(class + 3) % classes * dim..][..dim].to_vec()).collect()
}

/// Rows (N, D) of a class, which vary more along some directions than along others.
fn skewed(class: usize, n: usize, dim: usize) -> (Class, Rows<Train>) {
    let noise = Rng::new(2, Draw::Embeddings, &[class as u64]).normals(n * dim);
    let of = |(i, x): (usize, f32)| {
        let (j, own) = (i % dim, (class * dim + i % dim) as f32);
        (4.0 * x + (own * 12.9898).sin()) / (1 + j) as f32
    };
    let rows = noise.into_iter().enumerate().map(of).collect();
    (Class { label: class as i64, name: format!("class {class}") }, Rows::new(dim, rows))
}

#[test]
fn where_text_tells_nothing_evidence_without_it_scores_learned_classes() {
    let dim = 12;
    let (text, classes) = (of_others(8, dim), (0..8).map(|class| skewed(class, 9, dim)).collect::<Vec<_>>());
    let mut evidence = Evidence::new(text.clone(), dim, 20.0);
    learn(&mut evidence, &classes[..6]);
    let rows: Vec<f64> = classes[..6].iter().flat_map(|(_, rows)| unit_rows(rows.values(), dim)).collect();
    let truth: Vec<usize> = (0..54).map(|i| i / 9).collect();
    let chosen = evidence.chosen();
    assert_eq!((chosen.weight, chosen.text_weight), (ALONE, 0.0));

    // no map: what nothing is known of is at the mean of means
    let model = evidence.model.as_ref().unwrap();
    model.prior.chunks_exact(dim).for_each(|prior| assert_eq!(prior, model.whitened.centre));
    // hits beside text are summed up as well, with the map and from means that are not normalised
    let spread = Spread::of(&evidence.statistics).unwrap();
    let [beside, without] = [true, false].map(|text_counts| evidence.beside(text_counts).unwrap());
    assert!(matches!(beside, Beside::Text(Some(_))));
    let hits = |least: f64, weight: f64| {
        let left_out = evidence.fit(&spread, least.max(spread.oas), &beside).left_out(&rows, &truth);
        let logits = logits(&rows, &text, dim, 20.0);
        let told = left_out.chunks(8).zip(logits.chunks(8)).zip(&truth).filter(|((evidence, logits), class)| {
            highest((0..6).map(|c| logits[c] + weight * evidence[c])).0 == **class
        });
        told.count() as f64
    };
    let expected = SHRINKAGES.iter().flat_map(|&least| WEIGHTS.map(|weight| hits(least, weight)));
    assert_eq!(evidence.tally.hits, expected.collect::<Vec<_>>());
    // the shrinkage is the one that the rows are likeliest with, but not below OAS's
    assert_eq!(chosen.shrinkage, evidence.tally.likeliest().max(spread.oas));
    let expected = evidence.fit(&spread, chosen.shrinkage, &without);
    assert_eq!(model.whitened.mu, expected.whitened.mu);

    // scores, with prompts and without, and those of the file and of what was stored
    let images = skewed(2, 5, dim).1.into_values();
    let unit = unit_rows(&images, dim);
    let own = model.whitened.evidence(&unit);
    let expected: Vec<f64> = own.chunks(8).flat_map(|row| &row[..6]).map(|x| ALONE * x).collect();
    assert_close("alone", &evidence.together(&unit, None).seen, &expected, 1e-12);
    let cosines: Vec<f32> = (0..30).map(|i| (i as f32).sin()).collect();
    let prompted: Vec<f64> = expected.iter().zip(&cosines).map(|(x, cosine)| x + 10.0 * f64::from(*cosine)).collect();
    assert_close("with prompts", &evidence.together(&unit, Some(&cosines)).seen, &prompted, 1e-12);
    let (tensors, about) = evidence.classifier(None).unwrap().file(&named(8)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("classifier.safetensors");
    crate::tensors::write(&path, &tensors, &about).unwrap();
    let (classifier, _) = OpenClassifier::read(&path).unwrap();
    let read: Vec<f64> = classifier.scores(&images).seen.unwrap().into_iter().map(f64::from).collect();
    assert_close("from the file", &read, &expected, 1e-4);
    // a file from before scores were divided by their standard deviation says nothing of it
    let read_with = |power: Option<f64>| {
        let mut about = about.clone();
        about["power"] = power.into();
        about.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        crate::tensors::write(&path, &tensors, &about).unwrap();
        OpenClassifier::read(&path).map(|(classifier, _)| classifier.chosen.calibration)
    };
    assert_eq!(read_with(None).unwrap(), Calibration { power: 0.0, ..chosen.calibration });
    assert_eq!(read_with(Some(1.0)).unwrap().power, 1.0);
    assert!(read_with(Some(1.5)).is_err());
    let mut restored = Evidence::new(text, dim, 20.0);
    restored.restore(evidence.state()).unwrap();
    assert_eq!(restored.open_scores(&images, None).open, evidence.open_scores(&images, None).open);
    assert_eq!(restored.scores(&images), evidence.scores(&images));
    // a class that was taken out is no candidate
    evidence.leave_out(vec![2]);
    let without = evidence.together(&unit, None);
    assert!(without.seen.chunks(6).all(|row| row[2] == f64::NEG_INFINITY && row.iter().all(|x| !x.is_nan())));
}

#[test]
fn text_is_judged_anew_by_new_classes_whose_rows_can_be_left_out() {
    let dim = 8;
    // the first two are called what they are, the others by one another's names
    let (own, others) = (text(8, dim), of_others(8, dim));
    let text = [&own[..2 * dim], &others[2 * dim..]].concat();
    let learned = |tasks: &[Vec<(Class, Rows<Train>)>]| {
        let mut evidence = Evidence::new(text.clone(), dim, 20.0);
        let step = |task: &Vec<(Class, Rows<Train>)>| {
            learn(&mut evidence, task);
            (evidence.chosen().text_weight, evidence.tally.known.clone(), evidence.tally.text[0])
        };
        tasks.iter().map(step).collect::<Vec<_>>()
    };
    let named_well = || (0..2).map(|class| drawn(class, 6, dim)).collect::<Vec<_>>();
    let wrong = |rows| (2..8).map(|class| drawn(class, rows, dim)).collect::<Vec<_>>();
    let more: Vec<_> = (0..2).map(|class| (drawn(class, 1, dim).0, drawn(1 - class, 40, dim).1)).collect();

    let steps = learned(&[named_well(), wrong(6)]);
    assert_eq!(steps.iter().map(|step| (step.0, step.2)).collect::<Vec<_>>(), [(1.0, 2.0), (0.0, 8.0)]);
    assert_ne!(steps[0].1, steps[1].1);
    // of one row each there is nothing to say how sure the other scores are
    let steps = learned(&[named_well(), wrong(1)]);
    assert_eq!((steps[1].0, steps[1].2), (1.0, 8.0));
    assert_eq!(steps[0].1, steps[1].1);
    // more rows of known classes do not count once more, and change no quantiles
    let steps = learned(&[named_well(), more]);
    assert_eq!((steps[1].0, steps[1].2), (1.0, 2.0));
    assert_eq!(steps[0].1, steps[1].1);
}

#[test]
fn rows_of_a_class_count_once_whether_text_tells() {
    // three classes of 8, 2 and 4 rows, of which text tells 8, 1 and none
    let text = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let evidence_of = |told: &[usize]| -> Vec<f64> {
        told.iter()
            .enumerate()
            .flat_map(|(i, &c)| (0..3).map(move |j| if j == c { 1.0 } else { 0.01 * (i + j) as f64 }))
            .collect()
    };
    let mut evidence = Evidence::new(text, 3, 20.0);
    learn_new(&mut evidence, &evidence_of(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0]), &[8, 2, 4]);
    let more = [2.0 / 3.0, 1.0 / 6.0, -1.0 / 3.0];
    let expected = [3.0, more.iter().sum(), more.iter().map(|x| x * x).sum()];
    assert_close("sums", &evidence.tally.text, &expected, 1e-12);
}
