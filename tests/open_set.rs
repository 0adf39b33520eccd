//! Classifiers whose candidates are all classes: what they say, and the file that a program keeps.

use std::{collections::BTreeMap, path::Path};

use cgil::{
    baseline::{
        ClassCache, Evidence, Examples, Features, Incremental, OpenClassifier, OpenSet, Rail, RandomProjection, Ridge,
    },
    rows,
    task::Class,
};
use serde_json::Value;
use tempfile::tempdir;

use crate::support::{Rows, fails, golden, imported, number, only, path, query, run};

fn classes() -> Vec<Class> {
    (0..3).map(|i| Class { label: 10 + i, name: format!("c{i}") }).collect()
}

/// Text features of three classes, of length 1, the first two of them the same.
const TEXT: [f32; 9] = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.6, 0.8];

/// Shows the first two classes to a learner, one after another.
fn learn(learner: &mut impl Incremental) {
    let rows = [vec![1.0, 0.9, 0.0, 1.0, 1.1, 0.2], vec![1.0, -0.9, 0.1, 2.0, -2.2, 0.0, 1.0, -1.0, 0.3]];
    for (class, rows) in classes().iter().zip(rows) {
        learner.learn(&[Examples { class, rows: &rows::Rows::new(3, rows) }]).unwrap();
    }
}

#[test]
fn a_cache_of_means_tells_what_text_does_not_and_says_nothing_of_unseen_classes() {
    let new = || ClassCache::new(TEXT.to_vec(), 3, 10.0);
    let mut cache = new();
    learn(&mut cache);
    // text is the same for both, so every weight hits all rows but where means are hardly told
    let (alpha, beta) = cache.chosen();
    assert_eq!((alpha, beta), (0.5, 1.0));
    let image = [0.6f32, 0.8, 0.0]; // of class 0
    let scores = cache.scores_of_all(&image);
    let cosine = |mean: [f64; 3]| {
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        mean.iter().zip(image).map(|(x, y)| x * f64::from(y)).sum::<f64>() / length
    };
    let unit = |row: [f64; 3]| row.map(|x| x / row.iter().map(|x| x * x).sum::<f64>().sqrt());
    let mean = |rows: &[[f64; 3]]| -> [f64; 3] { std::array::from_fn(|j| rows.iter().map(|row| unit(*row)[j]).sum()) };
    let means =
        [mean(&[[1.0, 0.9, 0.0], [1.0, 1.1, 0.2]]), mean(&[[1.0, -0.9, 0.1], [2.0, -2.2, 0.0], [1.0, -1.0, 0.3]])];
    for (found, mean) in scores.open.iter().zip(means) {
        let expected = 10.0 * 0.6 + alpha * (-beta * (1.0 - cosine(mean))).exp();
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
    }
    assert!(scores.seen.is_none() && (scores.unseen.unwrap()[0] - 4.8).abs() < 1e-5);
    // and it goes on from its state
    let mut again = new();
    again.restore(cache.state()).unwrap();
    assert_eq!((again.chosen(), again.scores_of_all(&image).open), (cache.chosen(), scores.open));
    let mut few = ClassCache::new(TEXT[..3].to_vec(), 3, 10.0);
    assert!(few.restore(cache.state()).unwrap_err().to_string().contains("1 text features"));
}

/// A class of one row has no mean without it, so nothing is chosen by it.
#[test]
fn a_cache_of_single_rows_takes_what_the_authors_begin_with() {
    let mut cache = ClassCache::new(TEXT.to_vec(), 3, 10.0);
    for (class, row) in classes().iter().zip([vec![1.0, 0.9, 0.0], vec![1.0, -0.9, 0.1]]) {
        cache.learn(&[Examples { class, rows: &rows::Rows::new(3, row) }]).unwrap();
    }
    assert_eq!(cache.chosen(), (1.0, 5.5));
    let scores = cache.scores_of_all(&[1.0, 1.0, 0.0]).open;
    assert!(scores[0] > scores[1] + 0.5, "{scores:?}");
    // and there is a text for every class that is learned
    let [_, _, third] = &classes()[..] else { unreachable!() };
    let row = rows::Rows::new(3, vec![0.0, 0.0, 1.0]);
    let mut few = ClassCache::new(TEXT[..6].to_vec(), 3, 10.0);
    few.restore(cache.state()).unwrap();
    let error = few.learn(&[Examples { class: third, rows: &row }]).unwrap_err().to_string();
    assert!(error.contains("\"c2\" (label 12) has no text feature: there are 2 only"), "{error}");
    let mut rail =
        Rail::new(RandomProjection::new(3, Features::Fixed(20), Ridge::Fixed(0.1), 7), TEXT.to_vec(), 3, 10.0);
    learn(&mut rail);
    let one = RandomProjection::new(3, Features::Fixed(20), Ridge::Fixed(0.1), 7);
    let error = Rail::new(one, TEXT[..3].to_vec(), 3, 10.0).restore(rail.state()).unwrap_err().to_string();
    assert!(error.contains("2 classes, but there are 1 text features"), "{error}");
}

/// Where text misleads, the cache has to outweigh it: rows that are left out say so.
#[test]
fn a_cache_weighs_as_much_as_rows_left_out_ask_for() {
    let misleading = [0.0, -1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let mut cache = ClassCache::new(misleading.to_vec(), 3, 10.0);
    learn(&mut cache);
    let (alpha, beta) = cache.chosen();
    let score = |x: f64, key: f64| 10.0 * x + alpha * (beta * (key - 1.0)).exp();
    // a row at 45° has cosines of −0.7 and 0.7 to its own text and to the other, and of 1 and 0 to the means
    assert!(score(-0.7, 1.0) > score(0.7, 0.0), "{alpha} {beta}");
    let scores = cache.scores_of_all(&[1.0, 1.0, 0.0]).open;
    assert!(scores[0] > scores[1], "{scores:?}");
}

#[test]
fn ridge_regression_is_fused_with_text_and_text_alone_tells_unseen_classes() {
    let projection = || RandomProjection::new(3, Features::Fixed(20), Ridge::Fixed(0.1), 7);
    let mut rail = Rail::new(projection(), TEXT.to_vec(), 3, 10.0);
    learn(&mut rail);
    let image = [0.6f32, 0.8, 0.0];
    let scores = rail.scores_of_all(&image);
    for (found, expected) in scores.open.iter().chain(scores.unseen.as_ref().unwrap()).zip([6.0, 6.0, 4.8]) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
    let mut ridge = projection();
    learn(&mut ridge);
    let of_ridge = cgil::baseline::Classifier::scores(&ridge, &image);
    let share = 6f32.exp() / (2.0 * 6f32.exp() + 4.8f32.exp()); // softmax over all three classes
    for (found, ridge) in scores.seen.unwrap().iter().zip(of_ridge) {
        assert!((found - (0.9 * ridge + 0.1 * share)).abs() < 1e-5, "{found}");
    }
    let mut again = Rail::new(projection(), TEXT.to_vec(), 3, 10.0);
    again.restore(rail.state()).unwrap();
    assert_eq!(again.scores_of_all(&image).open, scores.open);
}

/// The class of every test image after `learned` tasks, as predictions of all classes are asked for.
fn predicted(run_dir: &Path, method: &str, learned: usize) -> BTreeMap<String, i64> {
    let sql = format!(
        "SELECT sample_id, predicted_open FROM predictions WHERE method = '{method}' AND after_task = {learned}"
    );
    let row = |row: String| {
        let (id, label) = row.rsplit_once(',').unwrap();
        (id.trim_matches('"').to_owned(), label.parse().unwrap())
    };
    query(run_dir, &sql).into_iter().map(row).collect()
}

#[test]
fn the_file_of_a_classifier_answers_as_the_run_did() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = imported(dir.path(), "run", &Rows::clouds(6, 12, 6));
    let common = ["--run", path(&run_dir), "--model", path(&model)];
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--generator", "shared"]);
    let tune = ["--generator", "shared", "--epochs", "2", "--samples", "16"];
    run(&[&["prompt-tune"], &common[..], &tune].concat());
    run(&[&["baseline", "evidence"], &common[..], &["--tasks", "3"]].concat());
    let sql = "SELECT sample_id, embedding FROM embeddings WHERE split = 'test'";
    let rows: Vec<Value> =
        serde_json::from_str(&run(&["query", "--run", path(&run_dir), "--format", "json", sql])).unwrap();
    let mut prompted = 0;
    for (method, place) in [("cgil,epochs=2,generator=shared,samples=16", "cgil"), ("evidence", "evidence")] {
        let results = only(&run_dir, "results", "dataset-order-tasks-3", place);
        assert!(!results.join("task-00/classifier.safetensors").exists());
        for learned in 1..=3 {
            let file = results.join(format!("task-0{learned}/classifier.safetensors"));
            let (classifier, classes) = OpenClassifier::read(&file).unwrap();
            assert_eq!((classifier.seen(), classes.len()), (2 * learned, 6));
            let expected = predicted(&run_dir, method, learned);
            assert_eq!(expected.len(), 36);
            for row in &rows {
                let embedding = row["embedding"].as_array().unwrap().iter();
                let scores = classifier.scores(&embedding.map(|x| x.as_f64().unwrap() as f32).collect::<Vec<_>>());
                let best = |scores: &[f32]| (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                let (unseen, seen) = (scores.unseen.unwrap(), scores.seen.unwrap());
                let margin = best(&unseen).map(|i| unseen[i]).unwrap_or(f32::NEG_INFINITY)
                    - best(&scores.open).map(|i| scores.open[i]).unwrap();
                let class = if margin > 0.0 { 2 * learned + best(&unseen).unwrap() } else { best(&seen).unwrap() };
                let id = row["sample_id"].as_str().unwrap();
                assert_eq!(classes[class].label, expected[id], "{id} after {learned}");
            }
            prompted += usize::from(cgil::tensors::read::<f32, Value>(&file).unwrap().0.contains_key("prompts"));
        }
    }
    assert_eq!(prompted, 3);
}

#[test]
fn the_papers_form_is_both_of_its_options() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = imported(dir.path(), "run", &Rows::clouds(4, 12, 6));
    let tune = ["prompt-tune", "--run", path(&run_dir), "--model", path(&model), "--epochs", "2", "--samples", "16"];
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "4", "--hidden", "16", "--latent", "4"]);
    let printed = run(&[&tune[..], &["--paper"]].concat());
    assert_eq!(run(&[&tune[..], &["--replay-noise", "off", "--statistics", "off"]].concat()), printed);
    assert_eq!(query(&run_dir, "SELECT DISTINCT method FROM metrics").len(), 1);
    assert!(!run_dir.join("statistics").exists());
    // the prompts of the default are others, and none of the ways to score them trains them again
    for more in [&[][..], &["--statistics", "lda"], &["--statistics", "off"]] {
        run(&[&tune[..], more].concat());
    }
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT prompts) FROM prompt_losses"), 2.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT method) FROM metrics"), 4.0);
    let losses = "SELECT loss FROM prompt_losses WHERE epoch = 1 AND after_task = 1 ORDER BY prompts";
    let losses = query(&run_dir, losses);
    assert_ne!(losses[0], losses[1]);

    for more in [["--statistics", "off"], ["--replay-noise", "on"]] {
        let output = crate::support::command(&[&tune[..], &["--paper"], &more].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--generator", "shared"]);
    for more in [["--paper"].as_slice(), &["--replay-noise", "off"]] {
        let parts = ["the generator shared gives the mean of a class alone", "leave --replay-noise and --paper out"];
        fails(&[&tune[..], &["--generator", "shared"], more].concat(), &parts);
    }
}

/// One row of each class, and rows that are all equal: nobody knows how these vary.
#[test]
fn evidence_without_variance_is_a_number() {
    let text: Vec<f64> = (0..6).flat_map(|c| (0..8).map(move |j| f64::from(u8::from(c == j)))).collect();
    for copies in [1, 2] {
        let mut evidence = Evidence::new(text.clone(), 8, 10.0);
        for task in 0..2 {
            let learned: Vec<(Class, rows::Rows<rows::Train>)> = (2 * task..2 * task + 2)
                .map(|c| {
                    let row: Vec<f32> =
                        (0..8).map(|j| if j == c { 1.0 } else { 0.2 * ((c + j) as f32).sin() }).collect();
                    (Class { label: c as i64, name: format!("c{c}") }, rows::Rows::new(8, row.repeat(copies)))
                })
                .collect();
            evidence.learn(&learned.iter().map(|(class, rows)| Examples { class, rows }).collect::<Vec<_>>()).unwrap();
        }
        // no row can be left out of a class of one
        let chosen = evidence.chosen();
        assert_eq!((chosen.weight, chosen.bias), if copies == 1 { (0.05, 0.0) } else { (chosen.weight, 4.0) });
        for class in 0..6 {
            let image: Vec<f32> = (0..8).map(|j| if j == class { 1.0 } else { 0.1 }).collect();
            let scores = evidence.open_scores(&image, None);
            let (seen, unseen) = (scores.seen.unwrap(), scores.unseen.unwrap());
            assert!(
                seen.iter().chain(&unseen).chain(&scores.open).all(|x| x.is_finite()),
                "{copies}: {seen:?} {unseen:?}"
            );
            if class < 4 {
                assert!((0..4).all(|other| other == class || seen[other] < seen[class]), "{copies}, {class}: {seen:?}");
            }
        }
    }
}
