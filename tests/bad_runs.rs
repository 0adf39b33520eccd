//! Runs with damaged files: a message that names the file, no panic, and no other answer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{Rows, command, fails, files, golden, imported, path, query, run, text};

#[test]
fn generators_that_lost_their_manifest_are_made_again_and_damaged_ones_are_named() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 3, 1));
    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "1"];
    run(&fit);
    let task = run_dir.join("latents/dataset-order-tasks-2/vae/task-01");
    let (manifest, whole) = (task.join("manifest.json"), files(&run_dir));
    fs::remove_file(&manifest).unwrap();
    // nobody knows what it is: no query shows it
    assert_eq!(query(&run_dir, "SELECT COUNT(*) FROM latents"), ["1"]);
    assert!(run(&fit).contains("1 fitted now"));
    let tensors = task.strip_prefix(&run_dir).unwrap().join("generators.safetensors");
    assert!(files(&run_dir)[&tensors] == whole[&tensors]);

    let text = fs::read_to_string(&manifest).unwrap();
    let model = golden("checkpoint");
    let tune = ["prompt-tune", "--run", path(&run_dir), "--model", path(&model), "--epochs", "1"];
    for (damaged, part) in [
        (text.replacen("\"epochs\": 1", "\"epochs\": 2", 1), "another identity"),
        (text.replacen('{', "", 1), "no manifest"),
        (text.replacen("\"format\": 1", "\"format\": 9", 1), "format 9.1"),
    ] {
        fs::write(&manifest, damaged).unwrap();
        fails(&tune, &[path(&task), part, "make it again"]);
    }
    fs::write(&manifest, &text).unwrap();
    let file = run_dir.join(&tensors);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    fails(&tune, &[path(&task), "generators.safetensors", "SHA-256"]);
}

#[test]
fn a_damaged_or_foreign_shard_is_named() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 3, 1));
    let shard = run_dir.join("sources/base/embeddings/train/part-00000.parquet");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "2"], &["part-00000.parquet", "damaged"]);
    Rows::clouds(2, 3, 1).write(&shard);
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "2"], &["part-00000.parquet", "damaged, or was changed"]);
    // where nobody has looked at it yet, it is told by its footer
    fs::remove_file(run_dir.join("sources/base/manifest.json")).unwrap();
    let import = ["import", path(&dir.path().join("table.parquet")), "--run", path(&run_dir)].map(str::to_owned);
    fails(&import.each_ref().map(String::as_str), &["part-00000.parquet", "cgil.contents"]);
}

/// Files of a run, one of each kind, by what they are called.
fn kinds(run_dir: &Path) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut chosen = Vec::new();
    for file in files(run_dir).into_keys() {
        let parts: Vec<String> = file.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let kind = (parts[0].clone(), parts.last().unwrap().clone());
        if !seen.contains(&kind) && !kind.1.starts_with('.') {
            seen.push(kind);
            chosen.push(file);
        }
    }
    chosen
}

#[test]
fn a_flipped_bit_is_no_panic_and_no_other_answer() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 4, 2));
    let model = golden("checkpoint");
    let stage = |name: &'static str, more: &[&str]| -> Vec<String> {
        [&[name, "--run", path(&run_dir)], more].concat().into_iter().map(str::to_owned).collect()
    };
    let (model, page) = (path(&model), dir.path().join("page.html"));
    let tune = ["--model", model, "--epochs", "1", "--samples", "4"];
    let commands = [
        stage("fit-vae", &["--tasks", "2", "--epochs", "1", "--hidden", "8", "--latent", "4"]),
        stage("prompt-tune", &tune),
        [vec!["baseline".to_owned(), "ncm".into()], stage("--tasks=2", &[])].concat(),
        stage("quality", &[]),
        stage("query", &["--format", "csv", "SELECT * FROM metrics ORDER BY method, after_task, metric, on_task"]),
        stage("query", &["--format", "csv", "SELECT COUNT(*), SUM(norm) FROM embeddings"]),
        stage("report", &["--out", path(&page)]),
    ];
    let ask = |args: &Vec<String>| {
        let output = command(&args.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
        let message = text(&output.stderr);
        assert!(!message.contains("panicked"), "{args:?}:\n{message}");
        (output.status.code(), text(&output.stdout), message)
    };
    for args in &commands {
        assert_eq!(ask(args).0, Some(0), "{args:?}");
    }
    let whole: Vec<_> = commands.iter().map(ask).collect();
    let whole_page = fs::read(&page).unwrap();
    for file in kinds(&run_dir).iter().filter(|file| !file.ends_with("report.html")) {
        let place = run_dir.join(file);
        let bytes = fs::read(&place).unwrap();
        // in the midst of what it holds, and where a Parquet file's footer is
        let footer = bytes.len().checked_sub(40).filter(|_| file.extension().is_some_and(|end| end == "parquet"));
        for at in [bytes.len() / 3].into_iter().chain(footer) {
            let before = files(&run_dir);
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            fs::write(&place, &changed).unwrap();
            for (args, whole) in commands.iter().zip(&whole).skip(1) {
                let (code, printed, message) = ask(args);
                let shown = format!("{} at {at}, {args:?}: {code:?}\n{printed}{message}", file.display());
                match code {
                    Some(1) => assert!(message.contains("error: ") && printed.is_empty(), "{shown}"),
                    Some(0) if args[0] == "report" => {
                        let same = fs::read(&page).unwrap() == whole_page;
                        let page = text(&fs::read(&page).unwrap());
                        assert!(same || page.contains("Left out") || page.contains("nothing to draw: "), "{shown}");
                    }
                    Some(0) => assert!(printed == whole.1 || message.contains("left out"), "{shown}"),
                    _ => panic!("{shown}"),
                }
            }
            // what was made again meanwhile goes, and what was there comes back
            for (name, bytes) in &before {
                fs::write(run_dir.join(name), bytes).unwrap();
            }
        }
        fs::write(&place, &bytes).unwrap();
    }
}

#[test]
fn a_plan_of_nonsense_is_refused() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 4, 2));
    let plan = run_dir.join("sources/base/plan.json");
    let whole = fs::read_to_string(&plan).unwrap();
    for (from, to) in [
        ("\"dim\": 48", "\"dim\": 0"),
        ("\"dim\": 48", "\"dim\": 4800000000"),
        ("\"dim\": 48", "\"dim\": 49"),
        ("\"dim\": 48", "\"dim\": -1"),
        ("\"shard_rows\": 4096", "\"shard_rows\": 0"),
        ("\"shard_rows\": 4096", "\"shard_rows\": 1"),
        ("\"train\": 8", "\"train\": 18446744073709551615"),
        ("\"train\": 8", "\"train\": 9"),
        ("\"train\"", "\"validation\""),
        ("forest 0", "forest 1"),
        ("\"label\": 0", "\"label\": 5"),
        ("{", "["),
    ] {
        assert!(whole.contains(from), "{from} in {whole}");
        fs::write(&plan, whole.replacen(from, to, 1)).unwrap();
        for stage in [&["fit-vae", "--tasks", "2"][..], &["baseline", "ncm", "--tasks", "2"]] {
            fails(&[stage, &["--run", path(&run_dir)]].concat(), &["plan.json", "damaged", "remove"]);
        }
        // where nobody has sealed it yet, neither
        let manifest = run_dir.join("sources/base/manifest.json");
        let sealed = fs::read(&manifest).unwrap();
        fs::remove_file(&manifest).unwrap();
        let import = ["import", path(&dir.path().join("table.parquet")), "--run", path(&run_dir)].map(str::to_owned);
        let output = command(&import.each_ref().map(String::as_str)).output().unwrap();
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{from} as {to}");
        fs::write(&manifest, sealed).unwrap();
    }
}

#[test]
fn a_manifest_that_says_other_rows_than_the_plan_is_damaged() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 3, 1));
    let manifest = run_dir.join("sources/base/manifest.json");
    let whole: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let ncm = ["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2"];
    for [a, b] in [[1_000_000_000_000_000_000u64, 3], [u64::MAX, u64::MAX], [4, 3]] {
        let mut said = whole.clone();
        said["about"]["shards"][0]["labels"] = json!({"0": a, "1": b});
        fs::write(&manifest, said.to_string()).unwrap();
        fails(&ncm, &["sources/base is damaged", "are not those of the plan"]);
    }
    let mut said = whole.clone();
    said["about"]["shards"].as_array_mut().unwrap().pop();
    fs::write(&manifest, said.to_string()).unwrap();
    fails(&ncm, &["are not those of the plan"]);
    fs::write(&manifest, whole.to_string()).unwrap();
    run(&ncm);
}

#[test]
fn bytes_and_files_that_are_not_what_was_written_are_named() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 3, 1));
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--generator", "gaussian"]);
    let model = golden("checkpoint");
    let tune =
        ["prompt-tune", "--run", path(&run_dir), "--model", path(&model), "--generator", "gaussian", "--epochs", "1"];
    run(&tune);
    // the bytes that generators take are read from their index, and only where it is what it was
    let tasks = run_dir.join("latents/dataset-order-tasks-2/gaussian");
    fs::copy(tasks.join("task-01/index.parquet"), tasks.join("task-02/index.parquet")).unwrap();
    fs::remove_dir_all(run_dir.join("results")).unwrap();
    fails(&tune, &["task-02 is damaged", "index.parquet"]);

    run(&["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2"]);
    let step = run_dir.join("results/dataset-order-tasks-2/ncm/task-02");
    fs::remove_file(step.join("predictions.parquet")).unwrap();
    let missing = ["task-02 is damaged: predictions.parquet is missing", "remove it and make it again"];
    fails(&["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2"], &missing);
}
