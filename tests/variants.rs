//! Variants of the prompts and of how they learn: every option through the program.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use cgil::tensors;
use serde_json::Value;
use tempfile::tempdir;

use crate::support::{
    Rows, command, copy, fails, files, golden, imported, kill_once, number, only, path, query, run, text,
};

/// A run of six classes in three tasks, whose generators are fitted.
fn fitted(dir: &Path) -> PathBuf {
    let run_dir = imported(dir, "run", &Rows::clouds(6, 12, 5));
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--epochs", "20", "--hidden", "32", "--latent", "8"]);
    run_dir
}

/// `cgil prompt-tune` of a run, with few epochs.
fn tune<'a>(run_dir: &'a Path, checkpoint: &'a Path, epochs: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args =
        ["prompt-tune", "--run", path(run_dir), "--model", path(checkpoint), "--samples", "16", "--epochs", epochs];
    [&args[..], more].concat()
}

fn tune_with_threads(threads: &str, args: &[&str]) -> String {
    let output = command(args).env("RAYON_NUM_THREADS", threads).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Where the steps of a run lie.
fn steps(run_dir: &Path) -> PathBuf {
    only(run_dir, "results", "dataset-order-tasks-3", "")
}

/// Where its prompts lie.
fn prompts(run_dir: &Path) -> PathBuf {
    only(run_dir, "prompts", "dataset-order-tasks-3", "")
}

/// The contexts after `learned` tasks, flat.
fn contexts_after(run_dir: &Path, learned: usize) -> Vec<f32> {
    let file = prompts(run_dir).join(format!("task-{learned:02}/prompts.safetensors"));
    let (mut stored, _): (_, Value) = tensors::read(&file).unwrap();
    tensors::take(&mut stored, "contexts").unwrap().1
}

#[test]
fn every_option_gives_the_same_files_whatever_the_threads_and_where_it_goes_on() {
    const VARIANTS: [&[&str]; 12] = [
        &["--context", "class", "--n-ctx", "2"],
        &["--context", "class", "--train-prompts", "current"],
        &["--context", "general", "--n-ctx", "4", "--optimizer", "sgd", "--lr", "0.002"],
        &["--context", "generated", "--n-ctx", "2"],
        &["--context", "image", "--n-ctx", "2", "--batch-size", "96"],
        &["--optimizer", "sgd", "--lr", "0.01", "--weight-decay", "0.0005"],
        &["--optimizer", "adam", "--lr", "0.01", "--weight-decay", "0.001"],
        &["--weight-decay", "0.1"],
        &["--ortho", "0.1"],
        &["--train-prompts", "current", "--weight-decay", "0.1"],
        &["--template", "a bad drawing of the {}."],
        &["--classes-per-step", "3", "--batch-size", "2"],
    ];
    let (dir, checkpoint) = (tempdir().unwrap(), golden("checkpoint"));
    let base = fitted(dir.path());
    let plain = dir.path().join("plain");
    copy(&base, &plain);
    run(&tune(&plain, &checkpoint, "2", &[]));
    let mut seen: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for (i, more) in VARIANTS.iter().enumerate() {
        let (one, two) = (dir.path().join(format!("one-{i}")), dir.path().join(format!("two-{i}")));
        for run_dir in [&one, &two] {
            copy(&base, run_dir);
        }
        let printed = tune_with_threads("1", &tune(&one, &checkpoint, "2", more));
        let args = tune(&two, &checkpoint, "2", more);
        assert_eq!(tune_with_threads("2", &args), printed, "{more:?}");
        assert!(files(&steps(&one)) == files(&steps(&two)), "{more:?}: threads");

        for later in ["task-02", "task-03"] {
            fs::remove_dir_all(steps(&two).join(later)).unwrap();
            fs::remove_dir_all(prompts(&two).join(later)).unwrap();
        }
        assert_eq!(tune_with_threads("1", &args), printed, "{more:?}");
        assert!(files(&steps(&one)) == files(&steps(&two)), "{more:?}: going on");
        assert!(files(&prompts(&one)) == files(&prompts(&two)), "{more:?}: going on");

        // the option does something, and is known
        let learned = fs::read(prompts(&one).join("task-03/prompts.safetensors")).unwrap();
        if let Some(other) = seen.insert(learned, format!("{more:?}")) {
            panic!("{more:?} learns what {other} learns");
        }
        assert_ne!(files(&steps(&one)), files(&steps(&plain)), "{more:?}");
        let manifest = fs::read_to_string(prompts(&one).join("task-03/manifest.json")).unwrap();
        let config: Value = serde_json::from_str::<Value>(&manifest).unwrap()["options"]["config"].clone();
        let option = |name: &str| config[name.trim_start_matches("--").replace('-', "_")].clone();
        for pair in more.chunks(2).filter(|pair| pair.len() == 2) {
            let found = option(pair[0]);
            let shown = found.as_str().map_or(found.to_string(), str::to_owned);
            assert_eq!(shown, pair[1], "{more:?}");
        }
        assert_eq!(number(&one, "SELECT COUNT(*) FROM predictions"), 120.0);

        let contexts = |learned| contexts_after(&one, learned);
        if more.contains(&"current") {
            let (second, third) = (contexts(2), contexts(3));
            let per_class = third.len() / 6;
            assert_eq!(second[..4 * per_class], third[..4 * per_class], "{more:?}");
            assert_ne!(second[4 * per_class..], third[4 * per_class..], "{more:?}");
        }
        if more.contains(&"image") {
            // no text feature is a seen class's
            let rows = "SELECT after_task, COUNT(*) FROM text_features WHERE origin = 'zero_shot' GROUP BY after_task \
                        ORDER BY after_task";
            assert_eq!(query(&one, rows), ["0,6", "1,4", "2,2"]);
            assert_eq!(number(&one, "SELECT COUNT(*) FROM text_features WHERE origin = 'prompt'"), 0.0);
            assert_eq!(contexts(3).len(), 2 * 32);
        }
        // of prompts alone scores are cosines
        run(&[&tune(&one, &checkpoint, "2", more)[..], &["--statistics", "off"]].concat());
        let alone = "SELECT COUNT(*) FROM predictions WHERE score <= 1.001 AND method LIKE '%statistics=off%'";
        assert_eq!(number(&one, alone), 120.0);
    }
    // all contexts learn where nothing else is said
    assert_ne!(contexts_after(&plain, 2)[..32], contexts_after(&plain, 3)[..32]);
}

#[test]
fn killed_variants_go_on_with_the_next_task() {
    let (dir, checkpoint) = (tempdir().unwrap(), golden("checkpoint"));
    let base = fitted(dir.path());
    for (i, more) in
        [["--context", "image", "--batch-size", "32"], ["--context", "class", "--train-prompts", "current"]]
            .iter()
            .enumerate()
    {
        let (whole, killed) = (dir.path().join(format!("whole-{i}")), dir.path().join(format!("killed-{i}")));
        for run_dir in [&whole, &killed] {
            copy(&base, run_dir);
        }
        let printed = run(&tune(&whole, &checkpoint, "12", more));
        let args = tune(&killed, &checkpoint, "12", more);
        kill_once(&args, || steps(&killed).join("task-01").exists());
        assert!(!steps(&killed).join("task-03").exists());
        assert_eq!(run(&args), printed, "{more:?}");
        assert!(files(&steps(&whole)) == files(&steps(&killed)), "{more:?}");
    }
}

#[test]
fn the_default_is_the_combined_context_by_adamw() {
    let (dir, checkpoint) = (tempdir().unwrap(), golden("checkpoint"));
    let base = fitted(dir.path());
    let spelt = dir.path().join("spelt");
    copy(&base, &spelt);
    run(&tune(&base, &checkpoint, "1", &[]));
    let options = [
        ["--context", "combined"],
        ["--n-ctx", "1"],
        ["--optimizer", "adamw"],
        ["--weight-decay", "0"],
        ["--ortho", "0"],
        ["--train-prompts", "all"],
        ["--template", "a photo of a {}"],
    ];
    run(&tune(&spelt, &checkpoint, "1", options.as_flattened()));
    assert!(files(&steps(&base)) == files(&steps(&spelt)));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let (dir, checkpoint) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = fitted(dir.path());
    for (option, value, expected) in [
        ("--template", "a photo", "{} once"),
        ("--template", "{} and {}", "2 times"),
        ("--template", "", "0 times"),
        ("--ortho", "-1", "0 or a number above it"),
        ("--weight-decay", "nan", "0 or a number above it"),
        ("--context", "none", "possible values: class, general, generated, image, combined"),
        ("--optimizer", "rmsprop", "possible values: sgd, adam, adamw"),
    ] {
        let output = command(&tune(&run_dir, &checkpoint, "1", &[&format!("{option}={value}")])).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(option) && message.contains(expected), "{message}");
    }
    let long = "very ".repeat(80) + "{}";
    fails(&tune(&run_dir, &checkpoint, "1", &["--template", &long]), &["very very", "77", "template"]);
    assert!(!run_dir.join("results").exists());
    // what makes sense stands side by side
    run(&tune(&run_dir, &checkpoint, "1", &["--context", "general"]));
    run(&tune(&run_dir, &checkpoint, "1", &[]));
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT method) FROM metrics"), 2.0);
}
