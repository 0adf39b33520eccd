//! Class orders, baselines, and methods side by side, through the command line.

use std::{fs, path::Path};

use tempfile::tempdir;

use crate::support::{self, Rows, command, copy_checkpoint, fails, golden, number, only, path, query, run, text};

const FIT: &str = "epochs=8,hidden=32,latent=8";

/// A run with the embeddings of `classes` classes.
fn imported(dir: &Path, classes: usize) -> std::path::PathBuf {
    support::imported(dir, "run", &Rows::clouds(classes, 12, 6))
}

fn baseline(run_dir: &Path, name: &str, more: &[&str]) -> String {
    run(&[&["baseline", name, "--run", path(run_dir), "--tasks", "3"], more].concat())
}

#[test]
fn a_class_order_is_written_and_read_in_either_convention() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 6);
    let printed = |more: &[&str]| run(&[&["order", "--run", path(&run_dir)], more].concat());
    let classes = printed(&["--seed", "1992", "--as", "classes"]);
    assert_eq!(classes, "[4,5,1,2,0,3]\n");
    assert_eq!(printed(&["--seed", "1992", "--as", "positions"]), "[4,2,3,5,0,1]\n"); // numpy's permutation
    let file = dir.path().join("mine.json");
    fs::write(&file, &classes).unwrap();
    let mine = ["--order", path(&file), "--convention", "classes"];
    assert_eq!(printed(&[&mine[..], &["--as", "positions"]].concat()), "[4,2,3,5,0,1]\n");

    let fit = |more: &[&str]| {
        let options = ["fit-vae", "--run", path(&run_dir), "--first-task", "3", "--per-task", "2", "--epochs", "1"];
        run(&[&options[..], more].concat())
    };
    fit(&mine);
    fit(&["--seed", "1992"]);
    let labels = |order: &str| {
        query(&run_dir, &format!("SELECT task, label FROM latents WHERE class_order = '{order}' ORDER BY task, slot"))
    };
    assert_eq!(labels("order-mine"), ["1,4", "1,5", "1,1", "2,2", "2,0", "3,3"]);
    assert_eq!(labels("seed-1992"), labels("order-mine"));

    // prompts find the generators by the order's name, and see that the file still says the same
    let model = golden("checkpoint");
    let tune =
        [&["prompt-tune", "--run", path(&run_dir), "--model", path(&model), "--epochs", "1"], &mine[..]].concat();
    run(&tune);
    assert_eq!(
        number(&run_dir, "SELECT COUNT(DISTINCT after_task) FROM metrics WHERE class_order = 'order-mine'"),
        4.0
    );
    fs::write(&file, "[0,1,2,3,4,5]").unwrap();
    fails(&tune, &["mine.json", "another order", "order-mine"]);
}

#[test]
fn class_orders_that_are_none() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 3);
    let file = dir.path().join("order.json");
    for (text, parts) in [
        ("[0,2]", &["order.json", "1 is missing"][..]),
        ("[0,2,2]", &["order.json", "2 twice"]),
        ("[0,1,3]", &["order.json", "3", "0 to 2"]),
        ("{\"a\": 1}", &["order.json", "JSON list"]),
    ] {
        fs::write(&file, text).unwrap();
        let order = ["--order", path(&file), "--convention", "classes"];
        fails(&[&["fit-vae", "--run", path(&run_dir), "--tasks", "3"], &order[..]].concat(), parts);
    }
    assert!(!run_dir.join("latents").exists());
}

#[test]
fn baselines_learn_task_by_task_and_go_on_where_they_stopped() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 6);
    let model = golden("checkpoint");
    let model = ["--model", path(&model)];
    for name in ["ncm", "lda", "ranpac", "linear"] {
        let printed = baseline(&run_dir, name, &[]);
        assert!(printed.contains("bytes per class") && !printed.contains("zero-shot"), "{printed}");
        fs::remove_dir_all(run_dir.join(format!("results/dataset-order-tasks-3/{name}/task-03"))).unwrap();
        assert_eq!(baseline(&run_dir, name, &[]), printed);
        let faa = number(&run_dir, &format!("SELECT value FROM metrics WHERE method = '{name}' AND metric = 'faa'"));
        assert!(faa > 90.0, "{name}: {faa}"); // the clouds hardly overlap
    }
    let printed = baseline(&run_dir, "zero-shot", &model);
    assert!(printed.contains("CI-Transfer") && printed.contains("keeps 0 bytes per class"), "{printed}");
    let two = [&model[..], &["--template", "a photo of a {}", "--template", "a drawing of the {}"]].concat();
    baseline(&run_dir, "zero-shot", &two);
    baseline(&run_dir, "hybrid", &model);

    // what forgets, and what keeps everything
    let short = [&model[..], &["--epochs", "30", "--lr", "0.03", "--samples", "32"]].concat();
    for name in ["finetune", "joint"] {
        baseline(&run_dir, name, &short);
    }
    let faa = |name: &str| {
        number(&run_dir, &format!("SELECT value FROM metrics WHERE method LIKE '{name}%' AND metric = 'faa'"))
    };
    assert!(faa("joint") > faa("finetune") + 20.0, "joint {} finetune {}", faa("joint"), faa("finetune"));
    assert_eq!(
        query(&run_dir, "SELECT DISTINCT method FROM metrics ORDER BY method"),
        [
            "\"finetune,epochs=30,lr=0.03,samples=32\"",
            "hybrid",
            "\"joint,epochs=30,lr=0.03,samples=32\"",
            "lda",
            "linear",
            "ncm",
            "ranpac",
            "zero-shot",
            "zero-shot,template=a photo of a {}+a drawing of the {}",
        ]
        .map(|name| if name.contains(',') && !name.starts_with('"') {
            format!("\"{name}\"")
        } else {
            name.to_owned()
        })
    );
    let bytes = |name: &str| {
        number(
            &run_dir,
            &format!(
                "SELECT value FROM metrics WHERE method = '{name}' AND metric = 'stored_bytes' AND after_task = 3"
            ),
        )
    };
    assert_eq!(bytes("ncm"), 48.0 * 4.0);
    assert_eq!(bytes("zero-shot"), 0.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM metrics WHERE metric = 'stored_bytes' AND after_task = 0"), 0.0);
    // of one template the length of the text features is known, of the mean of two there is none
    let raw = |method: &str| {
        number(&run_dir, &format!("SELECT COUNT(predicted_raw) FROM predictions WHERE method = '{method}'"))
    };
    assert!(raw("zero-shot") > 0.0);
    assert_eq!(raw("zero-shot,template=a photo of a {}+a drawing of the {}"), 0.0);
    fails(
        &["baseline", "ensemble", "--run", path(&run_dir), "--tasks", "3", model[0], model[1]],
        &["no prompts \"cgil\"", "cgil prompt-tune"],
    );
    assert!(!run_dir.join("results/dataset-order-tasks-3/ensemble").exists());
    let bad = command(
        &[&["baseline", "zero-shot", "--run", path(&run_dir), "--tasks", "3", "--template", "a photo"], &model[..]]
            .concat(),
    );
    let bad = { bad }.output().unwrap();
    assert!(!bad.status.success() && text(&bad.stderr).contains("{} once"), "{}", text(&bad.stderr));
}

#[test]
fn a_sweep_makes_what_is_missing_and_survives_what_fails() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 6);
    let model = golden("checkpoint");
    let sweep = |methods: &[&str]| -> Vec<String> {
        let common = ["sweep", "--run", path(&run_dir), "--tasks", "3", "--seeds", "1,2", "--model", path(&model)];
        let methods = methods.iter().flat_map(|method| ["--method", method]);
        common.into_iter().chain(["--fit-vae", FIT, "--format", "csv"]).chain(methods).map(str::to_owned).collect()
    };
    let run_sweep = |methods: &[&str]| run(&sweep(methods).iter().map(String::as_str).collect::<Vec<_>>());

    let printed = run_sweep(&["lda", "ncm", "cgil,epochs=2|3,samples=32"]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 5, "{printed}");
    assert!(lines[0].contains("\"FAA − lda\"") && lines[0].contains("\"A_B\""), "{printed}");
    for (line, method) in lines[1..].iter().zip(["lda", "ncm", "cgil,epochs=2,samples=32", "cgil,epochs=3,samples=32"])
    {
        assert!(line.starts_with(&format!("\"{method}\",\"2\",")) && line.contains(" ± "), "{line}");
    }
    // the figures are those of the metrics table
    let faa = query(&run_dir, "SELECT value FROM metrics WHERE method = 'ncm' AND metric = 'faa' ORDER BY class_order");
    let faa: Vec<f64> = faa.iter().map(|x| x.parse().unwrap()).collect();
    assert!(lines[2].contains(&format!("\"{:.1} ± ", (faa[0] + faa[1]) / 2.0)), "{} {faa:?}", lines[2]);

    // again: nothing changes; and one that fails leaves the others
    assert_eq!(run_sweep(&["lda", "ncm", "cgil,epochs=2|3,samples=32"]), printed);
    let args = sweep(&["ncm", "cgil,epochs=2,lr=1e30,samples=32", "ranpac"]);
    let output = command(&args.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
    let (table, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(table.contains("ncm") && table.contains("ranpac") && !table.contains("1e30"), "{table}");
    assert!(
        error.contains("2 commands failed") && error.contains("--lr 1e30") && error.contains("smaller --lr"),
        "{error}"
    );

    // what cannot be is said before anything runs
    let before = query(&run_dir, "SELECT COUNT(*) FROM metrics");
    let refused = |methods: &[&str], parts: &[&str]| {
        fails(&sweep(methods).iter().map(String::as_str).collect::<Vec<_>>(), parts);
    };
    refused(&["joint,epochs=1", "nearest"], &["\"nearest\""]);
    refused(&["joint,epochs=1", "cgil,speed=9"], &["cgil,speed=9", "--speed"]);
    refused(&["joint,epochs=1", "cgil,fast"], &["name=value", "fast"]);
    assert_eq!(query(&run_dir, "SELECT COUNT(*) FROM metrics"), before);
}

#[test]
fn per_class_accuracy_and_confusion_are_counted() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 3);
    baseline(&run_dir, "ncm", &[]);
    // every image counts once, on the diagonal or beside it
    assert_eq!(number(&run_dir, "SELECT SUM(images) FROM confusion WHERE after_task = 3"), 18.0);
    let right = number(&run_dir, "SELECT SUM(images) FROM confusion WHERE after_task = 3 AND label = predicted");
    let accuracy = number(&run_dir, "SELECT AVG(accuracy) FROM class_accuracy WHERE after_task = 3");
    assert!((accuracy - 100.0 * right / 18.0).abs() < 1e-9, "{accuracy} {right}");
    assert_eq!(query(&run_dir, "SELECT class_name, images FROM class_accuracy WHERE after_task = 1"), ["forest 0,6"]);
}

/// A checkpoint as the golden one, but for its tokens, so that texts have other features.
fn other_checkpoint(dir: &Path) -> std::path::PathBuf {
    let model = dir.join("other");
    copy_checkpoint(&model);
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&0.125f32.to_le_bytes()); // the last weight
    fs::write(&weights, bytes).unwrap();
    model
}

#[test]
fn zero_shot_near_chance_is_told() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 6);
    let model = golden("checkpoint"); // of random weights
    let args = ["baseline", "zero-shot", "--run", path(&run_dir), "--tasks", "3", "--model", path(&model)];
    let told = text(&command(&args).output().unwrap().stderr);
    let accuracy =
        number(&run_dir, "SELECT value FROM metrics WHERE metric = 'zero_shot_accuracy' AND on_task IS NULL");
    assert!(accuracy < 25.0, "{accuracy}");
    for part in [&format!("{accuracy:.1} %"), "16.7 % of a guess", "forest 0", "change class_name in the table"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
}

#[test]
fn baselines_that_read_texts_know_their_clip() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 6);
    let (model, other) = (golden("checkpoint"), other_checkpoint(dir.path()));
    for name in ["zero-shot", "hybrid"] {
        baseline(&run_dir, name, &["--model", path(&model)]);
        let again = ["baseline", name, "--run", path(&run_dir), "--tasks", "3", "--model", path(&other)];
        fails(&again, &["made otherwise", "model_sha256"]);
    }
}

#[test]
fn an_ensemble_takes_prompts_of_the_same_tasks_only_and_leaves_unseen_classes_to_them() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 6);
    let model = golden("checkpoint");
    let run_of = |command: &[&str], more: &[&str]| {
        run(&[command, &["--run", path(&run_dir), "--model", path(&model)], more].concat());
    };
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--generator", "gaussian"]);
    let short = ["--generator", "gaussian", "--epochs", "2", "--samples", "16"];
    for statistics in ["lda", "off"] {
        run_of(&["prompt-tune"], &[&short[..], &["--replay-noise", "off", "--statistics", statistics]].concat());
    }
    let alone = "%statistics=off%";
    let name = query(&run_dir, "SELECT DISTINCT method FROM metrics ORDER BY method");
    assert_eq!(name.len(), 2, "{name:?}");
    let method = name.iter().find(|name| name.contains("statistics=lda")).unwrap().trim_matches('"');

    // text decides whether a class is unseen, so what is said of tasks to come does not change
    let transfer = |condition: &str| {
        let metric = "metric IN ('transfer_accuracy', 'transfer_accuracy_raw', 'ci_transfer', 'ci_transfer_raw')";
        let columns = "after_task, on_task, metric, value";
        query(&run_dir, &format!("SELECT {columns} FROM metrics WHERE {metric} AND {condition} ORDER BY {columns}"))
    };
    let with = transfer(&format!("method = '{method}'"));
    assert!(with.len() == 8 && with == transfer(&format!("method LIKE '{alone}'")), "{with:?}");
    // the clouds are told apart by their statistics
    let faa =
        |condition: &str| number(&run_dir, &format!("SELECT value FROM metrics WHERE metric = 'faa' AND {condition}"));
    let (together, prompts) = (faa(&format!("method = '{method}'")), faa(&format!("method LIKE '{alone}'")));
    assert!(together > prompts, "{together} {prompts}");
    // what they keep: 6 means and counts, and the triangle of a scatter, of 48 values
    let bytes = |condition: &str| {
        number(
            &run_dir,
            &format!("SELECT value FROM metrics WHERE metric = 'stored_bytes' AND after_task = 3 AND {condition}"),
        )
    };
    let alone = bytes(&format!("method LIKE '{alone}'"));
    assert_eq!(bytes(&format!("method = '{method}'")) - alone, 8.0 * (49.0 + 48.0 * 49.0 / 2.0 / 6.0));

    // the same prompts and statistics, asked afterwards, say the same
    run_of(&["baseline", "ensemble"], &["--tasks", "3", "--method", method]);
    let predicted = |condition: &str| {
        query(
            &run_dir,
            &format!(
                "SELECT after_task, sample_id, predicted FROM predictions WHERE {condition} ORDER BY after_task, sample_id"
            ),
        )
    };
    assert_eq!(predicted("method LIKE 'ensemble%'"), predicted(&format!("method = '{method}'")));
    let ensemble = ["baseline", "ensemble", "--run", path(&run_dir), "--model", path(&model), "--method", method];
    fails(&[&ensemble[..], &["--tasks", "2"]].concat(), &["no prompts", "dataset-order-tasks-2"]);
    fails(&[&ensemble[..6], &["--method", "../seed-1/cgil", "--tasks", "3"]].concat(), &["no prompts"]);

    let heads = format!("SELECT COUNT(*) FROM statistics_head WHERE after_task = 3 AND method = '{method}'");
    assert_eq!(number(&run_dir, &heads), 6.0);
    // prompts that have not learned all tasks are refused, not trained on
    let prompts = only(&run_dir, "prompts", "dataset-order-tasks-3", "cgil");
    let manifest = fs::read_to_string(prompts.join("task-01/manifest.json")).unwrap();
    assert!(manifest.contains("\"device\": \"cpu\""), "{manifest}");
    let last = (prompts.join("task-03"), dir.path().join("aside"));
    fs::rename(&last.0, &last.1).unwrap();
    let asked = ["--tasks", "3", "--method", method];
    fails(&[&ensemble[..6], &asked].concat(), &["have not learned all tasks"]);
    fs::rename(&last.1, &last.0).unwrap();
    // before the first task there are no statistics, and what computed the prompts is recorded
    let scored = only(&run_dir, "results", "dataset-order-tasks-3", "ensemble").join("task-01/manifest.json");
    assert!(fs::read_to_string(scored).unwrap().contains("\"device\": \"cpu\""));
    let before = only(&run_dir, "results", "dataset-order-tasks-3", "ensemble").join("task-00");
    assert!(before.join("predictions.parquet").exists() && !before.join("statistics_head.parquet").exists());
}

#[test]
fn a_sweep_makes_prompts_for_ensembles_and_tables_no_results_of_other_tasks() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), 6);
    let model = golden("checkpoint");
    let common =
        ["--run", path(&run_dir), "--model", path(&model), "--seeds", "1,2", "--fit-vae", FIT, "--format", "csv"];
    let ensemble = "ensemble,method=cgil;epochs=2;samples=16;generator=gaussian";
    let sweep = [
        &["sweep", "--tasks", "3"],
        &common[..],
        &[
            "--method",
            ensemble,
            "--method",
            "zero-shot,template=a {}; drawn",
            "--method",
            "finetune,template=a + b {},epochs=1",
        ],
    ];
    let table = run(&sweep.concat());
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[1].contains("ensemble,method=cgil;epochs=2") && lines[2].contains("template=a {}; drawn"), "{table}");
    assert!(lines[3].contains("template=a + b {}"), "{table}");
    assert!(only(&run_dir, "results", "seed-1-tasks-3", "zero-shot").exists());

    // results in other numbers of tasks stand beside them, and are not tabled with them
    run(&["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2", "--seed", "1"]);
    let three =
        ["sweep", "--tasks", "3", "--run", path(&run_dir), "--seeds", "1,2", "--method", "ncm", "--format", "csv"];
    let table = run(&three);
    assert!(table.contains("\"ncm\",\"2\""), "{table}");
    let faa = "SELECT AVG(value) FROM metrics WHERE metric = 'faa' AND method = 'ncm' AND after_task = 3";
    assert!(table.contains(&format!("\"{:.1} ± ", number(&run_dir, faa))), "{table}");
    let output = command(&[&three[..], &["--metric", "speed"]].concat()).output().unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("'speed'"), "{}", text(&output.stderr));
}
