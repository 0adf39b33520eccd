//! Who may see which rows: runs of imported tables, everything learned and scored on them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use tempfile::tempdir;

use crate::support::{
    Rows, assert_same_tables, command, copy, fails, files, golden, number, only, path, query, run, text,
};

/// Options that make generators and prompts quickly.
const FIT: [&str; 6] = ["--epochs", "4", "--hidden", "16", "--latent", "4"];

const TUNE: [&str; 4] = ["--epochs", "2", "--samples", "16"];

/// Classes, and training rows of each.
pub const CLASSES: usize = 6;

pub const TRAIN: usize = 12;

/// Where the stream of [`CLASSES`] in three tasks stands, below each kind of artefact.
pub const STREAM: &str = "dataset-order-tasks-3";

/// Imports rows into a run, a class's training rows to a shard.
pub fn imported(rows: &Rows, dir: &Path) -> PathBuf {
    let (table, run_dir) = (dir.join("table.parquet"), dir.join("run"));
    rows.write(&table);
    run(&["import", path(&table), "--run", path(&run_dir), "--shard-rows", &TRAIN.to_string()]);
    run_dir
}

/// `cgil prompt-tune`, quick.
pub fn tune<'a>(run_dir: &'a Path, model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["prompt-tune", "--run", path(run_dir), "--model", path(model)], &TUNE[..], more].concat()
}

/// `cgil baseline`, with the stream in three tasks.
pub fn baseline<'a>(run_dir: &'a Path, tasks: &'a str, name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["baseline", name, "--run", path(run_dir), "--tasks", tasks], more].concat()
}

/// Fits generators of every kind.
fn fit_all(run_dir: &Path, tasks: &str) {
    let common = ["fit-vae", "--run", path(run_dir), "--tasks", tasks];
    run(&[&common[..], &FIT].concat());
    for kind in ["gaussian", "mog", "shared"] {
        run(&[&common[..], &["--generator", kind]].concat());
    }
    run(&[&common[..], &["--generator", "diffusion", "--epochs", "2", "--hidden", "16"]].concat());
}

/// The methods that never need rows of past tasks.
pub fn learn_all(run_dir: &Path, tasks: &str) {
    let model = golden("checkpoint");
    fit_all(run_dir, tasks);
    for more in [
        &[][..],
        &["--statistics", "off"],
        &["--paper"],
        &["--current", "real", "--paper"],
        &["--current", "both", "--statistics", "lda"],
        &["--generator", "gaussian", "--paper"],
        &["--generator", "shared"],
    ] {
        run(&tune(run_dir, &model, more));
    }
    for name in ["ncm", "lda", "linear"] {
        run(&baseline(run_dir, tasks, name, &[]));
    }
    run(&baseline(run_dir, tasks, "ranpac", &["--features", "60"]));
    run(&baseline(run_dir, tasks, "linear", &["--covariance", "shared"]));
    run(&baseline(run_dir, tasks, "rail", &["--features", "60", "--model", path(&model)]));
    for name in ["zero-shot", "hybrid", "evidence", "tip-adapter"] {
        run(&baseline(run_dir, tasks, name, &["--model", path(&model)]));
    }
    run(&baseline(run_dir, tasks, "finetune", &[&["--model", path(&model)], &TUNE[..]].concat()));
}

/// What keeps every row.
pub fn joint<'a>(run_dir: &'a Path, model: &'a Path, epochs: &'a str) -> Vec<&'a str> {
    baseline(run_dir, "3", "joint", &["--model", path(model), "--samples", "16", "--epochs", epochs])
}

/// The files of all artefacts made of a stream, but for the time that fits took.
fn made(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(run_dir);
    found.retain(|name, _| {
        let is_timed =
            name.starts_with("latents") && (name.ends_with("index.parquet") || name.ends_with("manifest.json"));
        let first = name.iter().next().unwrap().to_str().unwrap();
        ["latents", "statistics", "prompts", "results"].contains(&first) && !is_timed && !name.ends_with(".lock")
    });
    found
}

/// The files of everything that was learned.
fn models(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(run_dir);
    found.retain(|name, _| name.extension().is_some_and(|extension| extension == "safetensors"));
    found
}

/// Asserts that files are the same, byte for byte; an error names those that are not.
fn assert_same(found: &BTreeMap<PathBuf, Vec<u8>>, expected: &BTreeMap<PathBuf, Vec<u8>>) {
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    let other: Vec<&PathBuf> =
        found.iter().filter(|(name, bytes)| expected[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(other.is_empty(), "{other:?} differ");
}

/// Directories that hold the steps of artefacts, below a run's.
fn step_parents(run_dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    };
    let kinds = ["latents", "statistics", "prompts", "results"].map(|kind| run_dir.join(kind));
    kinds.iter().flat_map(|kind| list(kind)).flat_map(|stream| list(&stream)).collect()
}

/// Removes everything that was made after the first `learned` tasks.
fn forget(run_dir: &Path, learned: usize) {
    for parent in step_parents(run_dir) {
        for step in learned + 1..=3 {
            fs::remove_dir_all(parent.join(format!("task-{step:02}"))).unwrap();
        }
    }
}

fn shard(run_dir: &Path, class: usize) -> PathBuf {
    run_dir.join(format!("sources/base/embeddings/train/part-{class:05}.parquet"))
}

/// Writes other values over a class's training rows, in the file as it lies there.
fn overwrite(run_dir: &Path, rows: &Rows, class: usize) {
    let place = shard(run_dir, class);
    let mut bytes = fs::read(&place).unwrap();
    let of_class = (0..rows.label.len()).filter(|&i| rows.label[i] == class as i64 && rows.split[i] == "train");
    let own: Vec<f32> = of_class.flat_map(|i| rows.embedding[i].clone()).collect();
    let little = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let needle = little(&own);
    let start = bytes.windows(needle.len()).position(|window| window == needle).expect("rows lie as they are");
    let poison: Vec<f32> = own.iter().map(|x| 7.0 - 3.0 * x).collect();
    bytes[start..start + needle.len()].copy_from_slice(&little(&poison));
    fs::write(&place, bytes).unwrap();
    // as if the shard had always been so: what is changed on disk would be refused
    let source = run_dir.join("sources/base");
    let manifest = source.join("manifest.json");
    let mut sealed: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let name = place.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
    sealed["files"][name]["sha256"] = cgil::hash::hash_file(&place).unwrap().into();
    fs::write(&manifest, sealed.to_string()).unwrap();
}

#[test]
fn nothing_is_learned_from_test_rows() {
    let clean = Rows::clouds(CLASSES, TRAIN, 6);
    let mut poisoned = clean.clone();
    for i in 0..poisoned.label.len() {
        if poisoned.split[i] == "test" {
            // huge other values, and another class
            poisoned.embedding[i]
                .iter_mut()
                .enumerate()
                .for_each(|(j, x)| *x = 1e4 * (*x - 0.3) * (j % 7) as f32 - 50.0);
            poisoned.label[i] = (poisoned.label[i] + 1) % CLASSES as i64;
            poisoned.class_name[i] =
                clean.class_name[clean.label.iter().position(|&l| l == poisoned.label[i]).unwrap()].clone();
        }
    }
    let dirs = [&clean, &poisoned].map(|rows| {
        let dir = tempdir().unwrap();
        let run_dir = imported(rows, dir.path());
        learn_all(&run_dir, "3");
        run(&joint(&run_dir, &golden("checkpoint"), "2"));
        run(&baseline(&run_dir, "3", "ranpac", &[])); // which chooses its number of features
        dir
    });
    let [clean, poisoned] = dirs.each_ref().map(|dir| dir.path().join("run"));
    let found = models(&clean);
    // 5 kinds of generators, 6 + 2 ways to train prompts, 3 classifiers as a file and 8 learners,
    // after each of 3 tasks
    assert_eq!(found.len(), 3 * (5 + 8 + 3 + 8), "{:?}", found.keys());
    assert_same(&found, &models(&poisoned));
    // and yet they are scored on them
    for method in ["ncm", "lda", "zero-shot"] {
        let said = format!("results/{STREAM}/{method}/task-03/predictions.parquet");
        assert_ne!(fs::read(clean.join(&said)).unwrap(), fs::read(poisoned.join(&said)).unwrap(), "{method}");
    }
}

#[test]
fn what_is_learned_later_depends_on_no_row_of_past_tasks() {
    let rows = Rows::clouds(CLASSES, TRAIN, 6);
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = imported(&rows, dir.path());
    learn_all(&run_dir, "3");
    let expected = made(&run_dir);
    for learned in [1, 2] {
        let (poisoned, removed) =
            (dir.path().join(format!("poisoned-{learned}")), dir.path().join(format!("removed-{learned}")));
        for other in [&poisoned, &removed] {
            copy(&run_dir, other);
            forget(other, learned);
            assert!(made(other).len() < expected.len());
        }
        for class in 0..2 * learned {
            overwrite(&poisoned, &rows, class);
            fs::remove_file(shard(&removed, class)).unwrap();
        }
        for other in [&poisoned, &removed] {
            learn_all(other, "3");
            assert_same(&made(other), &expected);
        }
        // what learns from past rows learns something else, or says which file it lacks
        let clean = dir.path().join(format!("clean-{learned}"));
        copy(&run_dir, &clean);
        for other in [&clean, &poisoned] {
            run(&joint(other, &model, "1"));
        }
        let prompts = |run_dir: &Path| {
            fs::read(only(run_dir, "prompts", STREAM, "joint").join("task-03/prompts.safetensors")).unwrap()
        };
        assert_ne!(prompts(&clean), prompts(&poisoned));
        fails(
            &joint(&removed, &model, "1"),
            &["sources/base/embeddings/train/part-00000.parquet", "is not there any more"],
        );
    }
}

#[test]
fn without_any_training_row_everything_is_scored_again_and_nothing_is_learned() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = imported(&Rows::clouds(CLASSES, TRAIN, 6), dir.path());
    learn_all(&run_dir, "3");
    let expected = made(&run_dir);
    fs::remove_dir_all(run_dir.join("sources/base/embeddings/train")).unwrap();
    // the results of the last task, then all of them
    for parent in step_parents(&run_dir).iter().filter(|parent| parent.starts_with(run_dir.join("results"))) {
        fs::remove_dir_all(parent.join("task-03")).unwrap();
    }
    learn_all(&run_dir, "3");
    assert_same(&made(&run_dir), &expected);
    fs::remove_dir_all(run_dir.join("results")).unwrap();
    learn_all(&run_dir, "3");
    assert_same(&made(&run_dir), &expected);
    run(&["report", "--run", path(&run_dir)]);
    assert_eq!(query(&run_dir, "SELECT split, COUNT(*) FROM embeddings GROUP BY split"), ["test,36"]);
    assert_same(&made(&run_dir), &expected);

    let lacks = ["sources/base/embeddings/train/part-0000", "is not there any more", "run the command that made it"];
    fails(&joint(&run_dir, &model, "2"), &lacks);
    assert!(!only(&run_dir, "prompts", STREAM, "joint").join("task-01").exists());
    fs::remove_dir_all(run_dir.join("latents").join(STREAM).join("vae")).unwrap();
    fails(&[&["fit-vae", "--run", path(&run_dir), "--tasks", "3"], &FIT[..]].concat(), &lacks);
    assert!(!run_dir.join("latents").join(STREAM).join("vae/task-01").exists());
    fs::remove_dir_all(run_dir.join("statistics")).unwrap();
    fs::remove_dir_all(run_dir.join("results")).unwrap();
    fails(&baseline(&run_dir, "3", "lda", &[]), &lacks);
}

#[test]
fn four_processes_at_once_make_the_tables_of_one_after_another() {
    let dir = tempdir().unwrap();
    let model = golden("checkpoint");
    let rows = Rows::clouds(CLASSES, TRAIN, 6);
    let (together, apart) = (imported(&rows, dir.path()), dir.path().join("apart"));
    copy(&together, &apart);
    let fit = |run_dir: &Path, seed: &str| -> Vec<String> {
        let args = [&["fit-vae", "--run", path(run_dir), "--tasks", "3", "--seed", seed], &FIT[..]].concat();
        args.into_iter().map(str::to_owned).collect()
    };
    let tune = |run_dir: &Path, seed: &str, more: &[&str]| -> Vec<String> {
        let args = tune(run_dir, &model, &[&["--seed", seed], more].concat());
        args.into_iter().map(str::to_owned).collect()
    };
    let run = |args: &[String]| run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    for run_dir in [&together, &apart] {
        run(&fit(run_dir, "3"));
    }
    for seed in ["1", "2"] {
        run(&fit(&apart, seed));
        run(&tune(&apart, seed, &[]));
    }
    run(&tune(&apart, "3", &[]));
    run(&tune(&apart, "3", &["--statistics", "off"]));

    let start = |args: &[String]| -> Child {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let end = |children: Vec<Child>| {
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    };
    // generators of two streams, and two methods that share the prompts of a third
    let of_third = [start(&tune(&together, "3", &[])), start(&tune(&together, "3", &["--statistics", "off"]))];
    end(["1", "2"].map(|seed| start(&fit(&together, seed))).into());
    end(["1", "2"].map(|seed| start(&tune(&together, seed, &[]))).into_iter().chain(of_third).collect());
    assert_same_tables(&together, &apart);
    assert_eq!(number(&together, "SELECT COUNT(*) FROM metrics WHERE metric = 'faa'"), 4.0);
    assert_eq!(number(&together, "SELECT COUNT(DISTINCT stream) FROM prompt_losses"), 3.0);
}
