//! Tables whose rows are in no order of classes: generators are those of the same rows in order.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use cgil::{
    embeddings::{Embeddings, FIRST_SOURCE},
    rows::{Rows, Train},
    run::Run,
    stream::{ByClass, Stream},
    task::{Cut, Order},
};
use tempfile::tempdir;

use crate::support::{self, command, files, path, run, text};

const CLASSES: usize = 8;

/// Rows class after class, and the same ones with a row of every class in turn. Classes differ in size.
fn sorted_and_mixed() -> [support::Rows; 2] {
    let all = support::Rows::clouds(CLASSES, 40, 2);
    let of_class = |class: usize| (0..42).filter(move |i| *i >= 40 || *i < 40 - 3 * class).map(move |i| (class, i));
    let sorted: Vec<(usize, usize)> = (0..CLASSES).flat_map(of_class).collect();
    let mut mixed = sorted.clone();
    mixed.sort_by_key(|&(class, i)| (i, class));
    [sorted, mixed].map(|places| {
        let mut rows = support::Rows::default();
        for i in places.into_iter().map(|(class, i)| class * 42 + i) {
            rows.split.push(all.split[i]);
            rows.label.push(all.label[i]);
            rows.class_name.push(all.class_name[i].clone());
            rows.embedding.push(all.embedding[i].clone());
        }
        rows
    })
}

/// The rows in a new run, in shards of 16.
fn imported(dir: &Path, name: &str, rows: &support::Rows) -> Run {
    let (table, run_dir) = (dir.join("table.parquet"), dir.join(name));
    rows.write(&table);
    run(&["import", path(&table), "--run", path(&run_dir), "--shard-rows", "16"]);
    Run::open(&run_dir, |_| ()).unwrap()
}

/// How often a run's shards are read for each class alone, and how many shards these are.
fn reads(run: &Run) -> (usize, usize) {
    let classes: Vec<Vec<i64>> = (0..CLASSES as i64).map(|label| vec![label]).collect();
    Embeddings::open_complete(run, FIRST_SOURCE).unwrap().reads::<Train>(&classes).unwrap()
}

#[test]
fn rows_are_sorted_where_shards_would_be_read_too_often() {
    let dir = tempdir().unwrap();
    let (scratch, asked): (PathBuf, [&[i64]; 2]) = (dir.path().join("scratch"), [&[0, 7, 1], &[3, 7, 1]]);
    let [sorted, mixed] = sorted_and_mixed();
    let (sorted, mixed) = (imported(dir.path(), "sorted", &sorted), imported(dir.path(), "mixed", &mixed));
    // of 236 training rows in 15 shards most are of one class, or of all
    assert_eq!(reads(&sorted), (15 + CLASSES - 1, 15));
    assert!(reads(&mixed).0 > 3 * 15, "{:?}", reads(&mixed));
    for shots in [None, Some(5)] {
        let rows = |run: &Run, labels: &[i64], scratch: &Path| -> anyhow::Result<Vec<Rows<Train>>> {
            let source = Embeddings::open_complete(run, FIRST_SOURCE).unwrap();
            let stream = Stream::new(&source, &Order::of_seed(Some(1)), Cut::Tasks(4), shots).unwrap();
            let parts: Vec<Vec<i64>> = (0..CLASSES as i64).map(|label| vec![label]).collect();
            // three shards at a time, so that classes begin and end in other runs
            ByClass::new(&stream, source, &parts, scratch, 3 * 16 * 48 * 4, |_| ())?.rows(labels)
        };
        // without a place for the file only what is in order is read
        assert!(!scratch.exists() && rows(&sorted, &[1], &scratch).is_ok());
        let error = format!("{:#}", rows(&mixed, &[1], &scratch).unwrap_err());
        assert!(error.starts_with("cannot sort 0.0 MB of training rows by class in a file of "), "{error}");
        assert!(error.contains(path(&scratch)), "{error}");
        for labels in asked {
            let found = rows(&mixed, labels, dir.path()).unwrap();
            assert_eq!(found, rows(&sorted, labels, dir.path()).unwrap());
            let expected = labels.iter().map(|&label| shots.unwrap_or(40 - 3 * label as usize));
            assert_eq!(found.iter().map(Rows::len).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// Words of a fit.
fn fit<'a>(run_dir: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fit = ["fit-vae", "--tasks", "4", "--seed", "1", "--hidden", "16", "--latent", "4", "--run", run_dir];
    [&fit, more].concat()
}

/// The generators of a run and their losses: what else there is has seconds, or the identity of the
/// source.
fn generators(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut latents = files(&run_dir.join("latents"));
    latents.retain(|file, _| file.ends_with("generators.safetensors") || file.ends_with("losses.parquet"));
    assert!(latents.len() >= 8, "{:?}", latents.keys());
    latents
}

#[test]
fn mixed_classes_have_the_generators_of_sorted_ones() {
    let dir = tempdir().unwrap();
    let [sorted, mixed] = sorted_and_mixed();
    imported(dir.path(), "sorted", &sorted);
    imported(dir.path(), "mixed", &mixed);
    for shots in [&[][..], &["--shots", "5"]] {
        let latents = ["sorted", "mixed"].map(|name| {
            let run_dir = dir.path().join(name);
            run(&fit(path(&run_dir), &[&["--epochs", "3"], shots].concat()));
            assert!(files(&run_dir).keys().all(|file| !file.starts_with(".tmp")));
            generators(&run_dir)
        });
        assert!(latents[0] == latents[1]);
    }
}

#[test]
fn partitions_and_what_an_interrupted_fit_left_are_read_where_it_was_not_sorted() {
    let dir = tempdir().unwrap();
    let [_, mixed] = sorted_and_mixed();
    let expected = imported(dir.path(), "whole", &mixed).dir().to_owned();
    run(&fit(path(&expected), &["--epochs", "3"]));
    // the classes that one partition has fitted, of other epochs
    let run_dir = imported(dir.path(), "begun", &mixed).dir().to_owned();
    run(&fit(path(&run_dir), &["--epochs", "2", "--partition", "0/3"]));
    run(&fit(path(&run_dir), &["--epochs", "3"]));
    assert!(generators(&run_dir) == generators(&expected));
    // two at once, twice
    let shared = imported(dir.path(), "shared", &mixed).dir().to_owned();
    let parts = ["0/2", "1/2", "1/2", "0/2"].map(|part| {
        let words = fit(path(&shared), &["--epochs", "3", "--partition", part]);
        command(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for part in parts {
        let output = part.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(generators(&shared) == generators(&expected));
}
