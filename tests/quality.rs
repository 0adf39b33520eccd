//! The measures of generators: against numpy, scipy and scikit-learn, and through the program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cgil::{
    dense::cosine::normalise,
    quality::{Accuracy, Likeness, Quality, Sets, accuracies, frechet, recognised},
    rng::{Draw, Rng},
    tensors,
};
use tempfile::tempdir;

use crate::support::{Rows, command, fails, files, golden_tensors, imported, number, path, query, run, text, values};

/// Sets of one class: generated and training rows (N, D), and as many held-out ones.
fn sets(generated: &[f32], real: &[f32], test: &[f32]) -> Sets {
    Sets { generated: generated.to_vec(), replayed: generated.to_vec(), real: real.to_vec(), test: test.to_vec() }
}

/// Rows (n, 8) of length 1 around an axis, each `spread` to its sides.
fn cloud(n: usize, axis: usize, spread: f32, phase: f32) -> Vec<f32> {
    let value = |i: usize| spread * (phase + 1.7 * (i * i) as f32).sin() + if i % 8 == axis { 1.0 } else { 0.0 };
    let mut rows: Vec<f32> = (0..n * 8).map(value).collect();
    normalise(&mut rows, 8);
    rows
}

#[test]
fn the_measures_are_numpys() {
    let golden = golden_tensors("quality.safetensors");
    for (name, dim) in [("many_rows", 16), ("few_rows", 32), ("few_and_many", 24), ("repeated", 12)] {
        let rows = |set: &str| values(&golden[&format!("{name}.{set}")]);
        let (train, test, generated) = (rows("train"), rows("test"), rows("generated"));
        let quality = Quality::new(&sets(&generated, &train, &test), &train, dim);
        let likeness = |of: Likeness| [of.frechet, of.precision, of.recall];
        // where held-out rows repeat training rows, numpy divides by zero
        let distance = quality.neighbour_distance.or((name == "repeated").then_some(f64::NAN));
        let found = [&likeness(quality.generated)[..], &likeness(quality.real), &[distance]].concat();
        for (found, expected) in found.into_iter().zip(rows("expected")) {
            let (found, expected) = (found.unwrap(), f64::from(expected));
            let same = (found - expected).abs() <= 1e-4 * expected.abs() || (found.is_nan() && expected.is_nan());
            assert!(same, "{name}: {found} instead of {expected}");
        }
        // whichever set comes first
        let (there, back) = (frechet(&generated, &test, dim).unwrap(), frechet(&test, &generated, dim).unwrap());
        assert!((there - back).abs() <= 1e-7, "{name}: {there} {back}");
    }
}

#[test]
fn rows_that_repeat_each_other_have_a_distance() {
    for key in 0..300 {
        let mut rng = Rng::new(1, Draw::QualityReal, &[key]);
        let corners: Vec<f32> = (0..5 * 12).map(|_| rng.below(2) as f32).collect(); // (5, 12)
        let mut rows =
            |n: usize| -> Vec<f32> { (0..n).flat_map(|_| corners[12 * rng.below(5)..][..12].to_vec()).collect() };
        let (a, b) = (rows(3 + key as usize % 40), rows(30));
        assert!(frechet(&a, &b, 12).is_some(), "{key}: {a:?}");
        assert!(frechet(&a, &a, 12).unwrap() < 1e-6, "{key}: {a:?}");
    }
}

#[test]
fn the_classifier_is_scikit_learns() {
    let golden = golden_tensors("quality.safetensors");
    let set = |set: &str| -> Vec<Vec<f32>> { (0..4).map(|i| values(&golden[&format!("classes.{set}.{i}")])).collect() };
    let (known, rows) = (set("known"), set("rows"));
    let expected = values(&golden["classes.recall"]);
    assert!(expected.iter().all(|recall| (20.0..100.0).contains(recall)), "{expected:?}");
    let known: Vec<&[f32]> = known.iter().map(Vec::as_slice).collect();
    let recall = |class: usize| recognised(&rows[class], class, &known, 16).unwrap() as f32;
    assert_eq!((0..4).map(recall).collect::<Vec<_>>(), expected);
}

#[test]
fn generators_that_repeat_or_collapse_are_recognised() {
    let train = [cloud(20, 0, 0.2, 0.0), cloud(20, 1, 0.2, 5.0)];
    let test = [cloud(12, 0, 0.2, 3.0), cloud(12, 1, 0.2, 7.0)];
    let measure = |class: usize, sets: &Sets| Quality::new(sets, &train[class], 8);

    // its training rows again: as like the held-out ones as can be, but at no distance
    let repeating = [0, 1].map(|i| sets(&train[i], &train[i], &test[i]));
    let repeated = measure(0, &repeating[0]);
    assert_eq!(repeated.neighbour_distance, Some(0.0));
    assert_eq!(repeated.generated, repeated.real);
    assert!(repeated.real.recall.unwrap() >= 50.0, "{repeated:?}");
    let all = Accuracy { generated_to_real: Some(100.0), real_to_real: Some(100.0), real_to_generated: Some(100.0) };
    assert_eq!(accuracies(&repeating, 8, || ()), [all.clone(), all]);

    // one row always: covers nothing
    let one: Vec<f32> = (0..20).flat_map(|_| train[0][..8].to_vec()).collect();
    let collapsed = measure(0, &sets(&one, &train[0], &test[0]));
    assert_eq!(collapsed.generated.recall, Some(0.0));
    assert!(collapsed.generated.frechet.unwrap() > 2.0 * collapsed.real.frechet.unwrap(), "{collapsed:?}");

    // another class's rows: like none of its own, and taken for the other's
    let swapped = [0, 1].map(|i| sets(&train[1 - i], &train[i], &test[i]));
    assert_eq!(measure(0, &swapped[0]).generated.precision, Some(0.0));
    assert!(measure(0, &swapped[0]).neighbour_distance.unwrap() > 2.0);
    let found = accuracies(&swapped, 8, || ());
    assert_eq!((found[0].generated_to_real, found[0].real_to_generated), (Some(0.0), Some(0.0)));
}

/// Six classes, imported and fitted in three tasks.
fn fitted(dir: &Path, name: &str, epochs: &str) -> PathBuf {
    let run_dir = imported(dir, name, &Rows::clouds(6, 20, 10));
    fit(&run_dir, "3", epochs);
    run_dir
}

fn fit(run_dir: &Path, tasks: &str, epochs: &str) {
    let size = ["--hidden", "64", "--latent", "16", "--lr", "1e-3"];
    run(&[&["fit-vae", "--run", path(run_dir), "--tasks", tasks, "--epochs", epochs], &size[..]].concat());
}

#[test]
fn quality_is_measured_printed_and_asked_for() {
    let dir = tempdir().unwrap();
    let run_dir = fitted(dir.path(), "run", "200");
    // a table that was not made can be asked, too
    assert_eq!(query(&run_dir, "SELECT * FROM quality").len(), 0);
    let printed = run(&["quality", "--run", path(&run_dir)]);
    assert_eq!(
        query(
            &run_dir,
            "SELECT task, label, class_name, generator, train_rows, test_rows, samples FROM quality LIMIT 2"
        ),
        ["1,0,forest 0,vae,20,10,20", "1,1,river 1,vae,20,10,20"]
    );
    assert_eq!(query(&run_dir, "SELECT COUNT(*) FROM quality WHERE seed IS NULL"), ["6"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2 + 6 + 1, "{printed}");
    let order = query(&run_dir, "SELECT class_name FROM quality ORDER BY frechet - frechet_real DESC");
    for (line, class) in lines[2..].iter().zip(order) {
        assert!(line.trim_start().starts_with(&class), "no {class:?} in {line:?}");
    }
    let means = query(&run_dir, "SELECT AVG(frechet), AVG(frechet_real) FROM quality")[0].clone();
    let [own, real] = [0, 1].map(|i| means.split(',').nth(i).unwrap().parse::<f64>().unwrap());
    assert!(lines[8].trim_start().starts_with("mean of 6 classes"), "{printed}");
    assert!(lines[8].contains(&format!(" {own:.3} ({real:.3}) ")), "{printed}");

    // the clouds lie apart; generators keep them so, and neither repeat rows nor vary as much as
    // they do
    let least = |column: &str| number(&run_dir, &format!("SELECT MIN({column}) FROM quality"));
    assert_eq!((least("accuracy_real_to_real"), least("accuracy_generated_to_real")), (100.0, 100.0));
    assert!(least("recall_real") >= 50.0 && number(&run_dir, "SELECT MAX(recall) FROM quality") < 50.0, "{printed}");
    let distance = least("neighbour_distance");
    assert!((0.3..1.0).contains(&distance), "{distance}");

    // fewer samples, on both sides; the table is replaced
    run(&["quality", "--run", path(&run_dir), "--samples", "7"]);
    assert_eq!(query(&run_dir, "SELECT DISTINCT samples, COUNT(*) FROM quality GROUP BY samples"), ["7,6"]);
    assert!(number(&run_dir, "SELECT AVG(frechet_real) FROM quality") > real);
}

#[test]
fn what_real_rows_get_is_numpys_whatever_their_length() {
    let dir = tempdir().unwrap();
    let golden = golden_tensors("quality.safetensors");
    let mut rows = Rows::default();
    for split in ["train", "test"] {
        for (i, row) in values(&golden[&format!("many_rows.{split}")]).chunks(16).enumerate() {
            rows.split.push(split);
            rows.label.push(0);
            rows.class_name.push("one".into());
            rows.embedding.push(row.iter().map(|x| x * (1 + i % 5) as f32).collect());
        }
    }
    let run_dir = imported(dir.path(), "run", &rows);
    fit(&run_dir, "1", "1");
    run(&["quality", "--run", path(&run_dir)]);
    let expected = values(&golden["many_rows.expected"]);
    for (column, expected) in ["frechet_real", "precision_real", "recall_real"].into_iter().zip(&expected[3..]) {
        let (found, expected) = (number(&run_dir, &format!("SELECT {column} FROM quality")), f64::from(*expected));
        assert!((found - expected).abs() <= 1e-4 * expected, "{column}: {found} instead of {expected}");
    }
}

#[test]
fn the_same_bytes_again_and_with_one_and_two_threads() {
    let dir = tempdir().unwrap();
    let run_dir = fitted(dir.path(), "run", "5");
    let table = |threads: &str| {
        let output = command(&["quality", "--run", path(&run_dir)]).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (
            output.stdout,
            files(&run_dir).remove(Path::new("latents/dataset-order-tasks-3/vae/quality/quality.parquet")).unwrap(),
        )
    };
    let one = table("1");
    assert!(table("2") == one && table("2") == one);
}

#[test]
fn what_needs_more_rows_than_a_class_has_is_null() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::clouds(3, 10, 0);
    // held out: 7 rows of the first class, 1 of the second, none of the third
    for i in (0..7).chain([10]) {
        rows.split[i] = "test";
    }
    let run_dir = imported(dir.path(), "run", &rows);
    fit(&run_dir, "1", "5");
    let printed = run(&["quality", "--run", path(&run_dir), "--samples", "5"]);
    assert!(printed.lines().any(|line| line.contains("red_fox 2") && line.contains("- (-)")), "{printed}");
    let columns = [
        "frechet",
        "frechet_real",
        "precision",
        "precision_real",
        "recall",
        "recall_real",
        "accuracy_generated_to_real",
        "accuracy_real_to_real",
        "accuracy_real_to_generated",
        "neighbour_distance",
    ];
    let there: Vec<String> =
        columns.iter().map(|c| format!("CASE WHEN {c} IS NULL THEN 0 ELSE 1 END AS has_{c}")).collect();
    let sql = format!("SELECT train_rows, test_rows, samples, {} FROM quality ORDER BY label", there.join(", "));
    assert_eq!(
        query(&run_dir, &sql),
        ["3,7,3,1,1,1,1,0,0,1,1,1,1", "9,1,5,0,0,0,0,1,1,1,1,1,1", "10,0,5,0,0,0,0,0,0,0,0,1,0"]
    );
}

#[test]
fn quality_without_what_it_needs() {
    let dir = tempdir().unwrap();
    let run_dir = dir.path().join("run");
    fails(&["quality", "--run", path(&run_dir)], &["no tasks in the order dataset-order", "cgil fit-vae"]);
    assert!(!run_dir.exists());
    let run_dir = fitted(dir.path(), "run", "1");
    fails(&["quality", "--run", path(&run_dir), "--seed", "3"], &["seed-3", "dataset-order-tasks-3", "cgil fit-vae"]);

    // weights that were changed are named, not measured
    let generators = run_dir.join("latents/dataset-order-tasks-3/vae/task-02/generators.safetensors");
    let (mut all, about) = tensors::read::<f32, serde_json::Value>(&generators).unwrap();
    all.get_mut("mean").unwrap().1[48] = f32::NAN; // of the task's second class
    tensors::write(&generators, &all, &about).unwrap();
    fails(&["quality", "--run", path(&run_dir)], &["vae/task-02 is damaged", "generators.safetensors", "SHA-256"]);

    fs::remove_dir_all(generators.parent().unwrap()).unwrap();
    fails(&["quality", "--run", path(&run_dir)], &["no generators for task 2", "cgil fit-vae"]);
    assert!(!run_dir.join("latents/dataset-order-tasks-3/vae/quality/quality.parquet").exists());
}
