//! How sure methods are: of learned classes at all, and of their answers.

use std::path::Path;

use cgil::baseline::OpenClassifier;
use serde_json::Value;
use tempfile::tempdir;

use crate::support::{Rows, golden, imported, number, only, path, query, run};

/// A run with results of methods in 3 tasks of 2 classes, 6 test images each.
fn scored(dir: &Path) -> std::path::PathBuf {
    let run_dir = imported(dir, "run", &Rows::clouds(6, 12, 6));
    let model = golden("checkpoint");
    for (method, reads) in [("ncm", false), ("lda", false), ("zero-shot", true), ("evidence", true), ("rail", true)] {
        let clip = if reads { vec!["--model", path(&model)] } else { Vec::new() };
        run(&[&["baseline", method, "--run", path(&run_dir), "--tasks", "3"][..], &clip].concat());
    }
    run_dir
}

/// The predictions of a method after so many tasks.
fn said(run_dir: &Path, method: &str, learned: usize) -> Vec<Value> {
    let sql = format!("SELECT * FROM predictions WHERE method = '{method}' AND after_task = {learned}");
    serde_json::from_str(&run(&["query", "--run", path(run_dir), "--format", "json", &sql])).unwrap()
}

fn metric(run_dir: &Path, method: &str, learned: usize, name: &str) -> Option<f64> {
    let sql = "SELECT value FROM metrics WHERE on_task IS NULL";
    let found =
        query(run_dir, &format!("{sql} AND method = '{method}' AND after_task = {learned} AND metric = '{name}'"));
    found.first().map(|value| value.parse().unwrap())
}

#[test]
fn images_of_tasks_to_come_are_unknown_to_every_method() {
    let dir = tempdir().unwrap();
    let run_dir = scored(dir.path());
    for method in ["ncm", "lda", "zero-shot", "evidence", "rail"] {
        let mut steps = Vec::new();
        for learned in 1..=3 {
            let rows = said(&run_dir, method, learned);
            assert_eq!(rows.len(), 36, "{method} after {learned}");
            let (mut known, mut unknown) = (Vec::new(), Vec::new());
            for row in &rows {
                let is_known = row["on_task"].as_u64().unwrap() as usize <= learned;
                if is_known { &mut known } else { &mut unknown }.push(row["confidence"].as_f64().unwrap());
                // what cannot score a class says no more of its images
                let is_silent = !is_known && matches!(method, "ncm" | "lda");
                assert_eq!(row["candidates"] == "none", is_silent);
                for column in ["predicted", "score", "predicted_in_task"] {
                    assert_eq!(row[column].is_null(), is_silent, "{method} {column}");
                }
                let own = if method == "evidence" { "confidence" } else { "score" };
                assert!(!is_known || row["confidence"] == row[own]);
            }
            assert_eq!(known.len(), 12 * learned);
            // pair by pair, and the highest threshold that keeps 95 % of the known ones
            let pairs = known.iter().flat_map(|k| unknown.iter().map(move |u| (k, u)));
            let won: f64 = pairs
                .map(|(k, u)| {
                    if k > u {
                        1.0
                    } else if k == u {
                        0.5
                    } else {
                        0.0
                    }
                })
                .sum();
            let kept =
                |threshold: f64, of: &[f64]| of.iter().filter(|x| **x >= threshold).count() as f64 / of.len() as f64;
            let thresholds = known.iter().copied().filter(|&x| kept(x, &known) >= 0.95);
            let threshold = thresholds.fold(f64::NEG_INFINITY, f64::max);
            let expected = [100.0 * won / (known.len() * unknown.len()) as f64, 100.0 * kept(threshold, &unknown)];
            for (name, expected) in ["auroc", "fpr95"].into_iter().zip(expected) {
                let found = metric(&run_dir, method, learned, name);
                let is_there = found.is_some_and(|found| (found - expected).abs() < 1e-9);
                assert!(
                    is_there == (learned < 3) && found.is_some() == is_there,
                    "{method} {name}: {found:?}, {expected}"
                );
            }
            steps.push(expected);
        }
        for (i, name) in ["mean_auroc", "mean_fpr95"].into_iter().enumerate() {
            let found = metric(&run_dir, method, 3, name).unwrap();
            assert!((found - (steps[0][i] + steps[1][i]) / 2.0).abs() < 1e-9, "{method} {name}: {found}");
        }
    }
    // nothing else is scored of what a method cannot answer
    let sql = "SELECT COUNT(*) FROM metrics WHERE method IN ('ncm', 'lda') AND (metric LIKE '%transfer%' OR on_task > after_task)";
    assert_eq!(number(&run_dir, sql), 0.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM class_accuracy WHERE method = 'ncm' AND after_task = 1"), 2.0);
}

#[test]
fn probabilities_are_of_methods_whose_scores_are_logits() {
    let dir = tempdir().unwrap();
    let run_dir = scored(dir.path());
    for method in ["ncm", "lda", "zero-shot", "evidence", "rail"] {
        for learned in 1..=3 {
            let rows = said(&run_dir, method, learned);
            for (column, name) in [("probability", "ece"), ("probability_uncalibrated", "ece_uncalibrated")] {
                let has_some = match name {
                    "ece" => matches!(method, "lda" | "zero-shot" | "evidence"),
                    _ => method == "evidence",
                };
                let mut bins = [(0.0, 0.0); 15];
                for row in &rows {
                    let probability = row[column].as_f64();
                    assert_eq!(probability.is_some(), has_some && row["candidates"] == "seen", "{method} {column}");
                    let Some(probability) = probability else { continue };
                    assert!(
                        probability > 0.999 / (2 * learned) as f64 && probability <= 1.0,
                        "{method}: {probability}"
                    );
                    let bin = &mut bins[(probability * 15.0).ceil() as usize - 1];
                    bin.0 += probability;
                    bin.1 += f64::from(u8::from(row["predicted"] == row["label"]));
                }
                if name == "ece" {
                    let found = metric(&run_dir, method, learned, "ece_if_calibrated");
                    let expected = 100.0 * deviations(&rows) / (12 * learned) as f64;
                    assert_eq!(found.is_some(), has_some, "{method}");
                    assert!(found.is_none_or(|found| (found - expected).abs() < 1e-4), "{found:?} {expected}");
                }
                let off: f64 = bins.iter().map(|(confidence, right)| (confidence - right).abs()).sum();
                let (expected, found) = (100.0 * off / (12 * learned) as f64, metric(&run_dir, method, learned, name));
                assert_eq!(found.is_some(), has_some, "{method} {name}");
                assert!(
                    found.is_none_or(|found| (found - expected).abs() < 1e-4),
                    "{method} {name}: {found:?} {expected}"
                );
            }
        }
    }
}

/// The sum over bins of the mean distance of the right ones from what probabilities say, if they do.
fn deviations(rows: &[Value]) -> f64 {
    let mut variances = [0.0; 15];
    for probability in rows.iter().filter_map(|row| row["probability"].as_f64()) {
        variances[(probability * 15.0).ceil() as usize - 1] += probability * (1.0 - probability);
    }
    variances.iter().map(|variance| (2.0 / std::f64::consts::PI * variance).sqrt().min(2.0 * variance)).sum()
}

/// What the table says of evidence is what the classifier's file says, of classes learned alone.
#[test]
fn the_file_of_a_classifier_is_as_sure_as_the_table() {
    let dir = tempdir().unwrap();
    let run_dir = scored(dir.path());
    let file = only(&run_dir, "results", "dataset-order-tasks-3", "evidence").join("task-03/classifier.safetensors");
    let (classifier, _) = OpenClassifier::read(&file).unwrap();
    let sql = "SELECT p.confidence, p.probability, e.embedding FROM predictions p JOIN embeddings e \
               ON p.sample_id = e.sample_id WHERE p.method = 'evidence' AND p.after_task = 3";
    let rows: Vec<Value> =
        serde_json::from_str(&run(&["query", "--run", path(&run_dir), "--format", "json", sql])).unwrap();
    assert_eq!(rows.len(), 36);
    for row in &rows {
        let embedding: Vec<f32> =
            row["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let highest = classifier.probabilities(&embedding).into_iter().fold(0.0, f32::max);
        for (found, expected) in
            [(classifier.confidence(&embedding)[0], &row["confidence"]), (highest, &row["probability"])]
        {
            let expected = expected.as_f64().unwrap();
            assert!((f64::from(found) - expected).abs() < 1e-3 * expected.abs().max(1.0), "{found} {expected}");
        }
    }
}
