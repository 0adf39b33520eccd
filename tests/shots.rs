//! Learning from a few rows of each class, which the seed draws.

use std::fs;

use tempfile::tempdir;

use crate::support::{Rows, command, fails, golden, imported, number, path, query, run, text};

#[test]
fn shots_are_rows_of_the_class_that_the_seed_draws() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let rows = Rows::clouds(4, 12, 6);
    let run_dir = imported(dir.path(), "run", &rows);
    let common = ["--run", path(&run_dir), "--tasks", "2"];
    let fit = |more: &[&str]| run(&[&["fit-vae"], &common[..], &["--generator", "shared"], more].concat());
    let fitted =
        |stream: &str| query(&run_dir, &format!("SELECT rows FROM latents WHERE stream = '{stream}' ORDER BY label"));
    for (seed, shots) in [("1", "3"), ("2", "3"), ("1", "12"), ("1", "50")] {
        fit(&["--seed", seed, "--shots", shots]);
    }
    fit(&["--seed", "1"]);
    assert_eq!(fitted("seed-1-tasks-2-shots-3"), ["3"; 4]);
    assert_eq!(fitted("seed-1-tasks-2-shots-50"), ["12"; 4]);
    let means = |stream: &str, task: usize| {
        let file = format!("latents/{stream}/shared/task-0{task}/generators.safetensors");
        cgil::tensors::read::<f32, serde_json::Value>(&run_dir.join(file)).unwrap().0["mean"].1.clone()
    };
    // as many as there are, or more, are all
    for stream in ["seed-1-tasks-2-shots-12", "seed-1-tasks-2-shots-50"] {
        assert_eq!(means(stream, 1), means("seed-1-tasks-2", 1));
    }
    // the mean of one shot is a row of its class; another seed draws another one
    let mut drawn = Vec::new();
    for seed in ["1", "2", "3", "4"] {
        fit(&["--seed", seed, "--shots", "1"]);
        let stream = format!("seed-{seed}-tasks-2-shots-1");
        let labels =
            query(&run_dir, &format!("SELECT label FROM latents WHERE stream = '{stream}' ORDER BY task, slot"));
        for (i, label) in labels.iter().enumerate() {
            let mean = means(&stream, 1 + i / 2)[i % 2 * 48..][..48].to_vec();
            let row = (0..rows.label.len()).position(|row| rows.embedding[row] == mean).unwrap();
            assert_eq!((rows.label[row].to_string(), rows.split[row]), (label.clone(), "train"));
            drawn.push((label.clone(), row));
        }
    }
    let of_first: std::collections::BTreeSet<_> = drawn.iter().filter(|(label, _)| label == "0").collect();
    assert!(of_first.len() > 1, "{drawn:?}");

    // everything that learns sees these rows alone
    let joint = ["--seed", "1", "--model", path(&model), "--epochs", "1", "--samples", "4"];
    for more in [&[][..], &["--shots", "3"]] {
        run(&[&["baseline", "joint"], &common[..], &joint, more].concat());
    }
    let stored = "SELECT value FROM metrics WHERE metric = 'stored_bytes' AND method LIKE 'joint%' AND after_task = 2 \
                  ORDER BY stream";
    let stored: Vec<f64> = query(&run_dir, stored).iter().map(|bytes| bytes.parse().unwrap()).collect();
    assert_eq!(stored[0] - stored[1], (9 * 48 * 4) as f64); // 12 rows are kept, or 3
    run(&[&["baseline", "ncm"], &common[..], &["--seed", "1", "--shots", "3"]].concat());
    run(&[&["baseline", "ncm"], &common[..], &["--seed", "1"]].concat());
    let state = |stream: &str| {
        fs::read(run_dir.join(format!("statistics/{stream}/class-means/task-02/state.safetensors"))).unwrap()
    };
    assert_ne!(state("seed-1-tasks-2-shots-3"), state("seed-1-tasks-2"));

    // what is asked with shots is found with shots
    let tune =
        ["prompt-tune", "--run", path(&run_dir), "--seed", "1", "--model", path(&model), "--generator", "shared"];
    let tune = [&tune[..], &["--epochs", "1", "--samples", "4"]].concat();
    run(&[&tune[..], &["--shots", "3"]].concat());
    assert_eq!(
        query(&run_dir, "SELECT DISTINCT stream FROM prompt_losses WHERE prompts LIKE 'cgil%'"),
        ["seed-1-tasks-2-shots-3"]
    );
    fails(&[&tune[..], &["--shots", "4"]].concat(), &["such tasks in the order seed-1", "seed-1-tasks-2-shots-3"]);
    let fit = |kind| [&["fit-vae"], &common[..], &["--seed", "1", "--shots", "1", "--generator", kind]].concat();
    fails(&fit("gaussian"), &["is learned from --shots 1, and at least 2 are needed", "vae or shared"]);
    // a report is of one number of shots
    let page = |more: &[&str]| {
        let output =
            command(&[&["report", "--run", path(&run_dir), "--method", "ncm"], more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::read_to_string(run_dir.join("report.html")).unwrap()
    };
    assert_ne!(page(&[]), page(&["--shots", "3"]));
    let parts = ["no such results with --shots 7", "with all training embeddings (no --shots), with --shots 3"];
    fails(&["report", "--run", path(&run_dir), "--shots", "7"], &parts);
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT stream) FROM metrics WHERE method = 'ncm'"), 2.0);
    // where there is one number only, it needs no saying
    let (all, few) = (page(&[]), page(&["--shots", "3"]));
    fs::remove_dir_all(run_dir.join("results/seed-1-tasks-2")).unwrap();
    assert!(page(&[]) == few && few != all);
    fails(&["report", "--run", path(&run_dir), "--shots", "7"], &["it has some with --shots 3"]);
}

#[test]
fn a_class_of_one_image_is_learned() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(6, 12, 4));
    let model = golden("checkpoint");
    let common = ["--run", path(&run_dir), "--tasks", "2", "--seed", "1", "--shots", "1"];
    let output = command(&[&["fit-vae", "--epochs", "2"], &common[..]].concat()).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("and 5 more classes have one training embedding"), "{said}");
    run(&[&["prompt-tune", "--model", path(&model), "--epochs", "1", "--samples", "4"], &common[..]].concat());
    run(&[&["baseline", "ncm"], &common[..]].concat());
    let faa = |method: &str| {
        number(&run_dir, &format!("SELECT value FROM metrics WHERE metric = 'faa' AND method LIKE '{method}%'"))
    };
    assert!(faa("cgil") >= faa("ncm") - 1.0, "{} {}", faa("cgil"), faa("ncm"));
    assert!(faa("cgil") > 50.0); // a guess is 16.7
}
