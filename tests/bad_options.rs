//! Options that make no sense, tasks that cannot be learned, and stages out of order: a message
//! that says what to do, exit code 1 where nothing useful was done, no panic.

use std::fs;

use cgil::dense::bfloat16::Unit;
use tempfile::tempdir;

use crate::support::{Rows, command, fails, golden, image_folder, imported, path, run, text};

#[test]
fn a_class_with_one_image() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::clouds(3, 3, 1);
    for i in 4..6 {
        rows.split[i] = "test"; // of class 1, one row is left to train on
    }
    let run_dir = imported(dir.path(), "run", &rows);
    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--generator"];
    fails(&[&fit[..], &["gaussian"]].concat(), &["\"river 1\"", "1 training", "at least 2"]);
    assert!(!run_dir.join("latents").exists());
}

#[test]
fn learning_rates_that_diverge() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 6, 1));
    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--epochs", "30", "--lr"];
    fails(&[&fit[..], &["1e9"]].concat(), &["diverged", "\"forest 0\"", "smaller --lr"]);
    fs::remove_dir_all(run_dir.join("latents")).unwrap();
    run(&[&fit[..], &["1e-3"]].concat());
    let model = golden("checkpoint");
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&model), "--epochs", "3", "--lr", "1e30"],
        &["smaller --lr"],
    );
    assert!(!run_dir.join("prompts/dataset-order-tasks-1/cgil-epochs-3-lr-1e30").exists());
}

#[test]
fn more_tasks_than_classes() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(3, 3, 1));
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "4"], &["3 classes", "4 tasks", "--tasks 1 to 3"]);
    let none = command(&["fit-vae", "--run", path(&run_dir), "--tasks", "0"]).output().unwrap();
    assert!(text(&none.stderr).contains("--tasks"), "{}", text(&none.stderr));
    assert!(!run_dir.join("latents").exists());
}

#[test]
fn a_task_without_test_images() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::clouds(2, 3, 1);
    rows.split[7] = "train";
    let run_dir = imported(dir.path(), "run", &rows);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "1"]);
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&golden("checkpoint"))],
        &["task 2", "no test images", "river 1"],
    );
}

#[test]
fn a_closed_standard_error_is_no_panic() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = command(&["query", "--run", "nowhere", "SELECT 1"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn stages_out_of_order() {
    let dir = tempdir().unwrap();
    let run_dir = dir.path().join("run");
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "2"], &["no embeddings", "cgil extract"]);
    fails(&["query", "--run", path(&run_dir), "SELECT 1"], &["not a run"]);
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 3, 1));
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&golden("checkpoint"))],
        &["no tasks in the order dataset-order", "cgil fit-vae"],
    );
    fails(&["query", "--run", path(&run_dir), "SELECT nothing FROM nowhere"], &["query failed", "nowhere"]);
    fs::remove_file(run_dir.join("sources/base/embeddings/test/part-00000.parquet")).unwrap();
    fails(
        &["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2"],
        &["test/part-00000.parquet", "not there any more"],
    );
    fs::remove_file(run_dir.join("sources/base/manifest.json")).unwrap();
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "2"], &["not complete", "1 of 2 shards"]);
}

#[test]
fn a_device_or_a_number_type_that_is_not_there() {
    let dir = tempdir().unwrap();
    image_folder(dir.path(), 2, 1);
    let (model, data, run_dir) = (golden("checkpoint"), path(dir.path()), dir.path().join("run"));
    let extract = ["extract", "--model", path(&model), "--data", data, "--run", path(&run_dir)];
    let with = |more: &[&'static str]| [&extract[..], more].concat();
    for device in ["gpu", "cuda:", "cuda:1,1"] {
        let output = command(&with(&["--device", device])).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{device}");
        assert!(text(&output.stderr).contains(device));
    }
    fails(&with(&["--device", "cpu", "--dtype", "tf32"]), &["float32", "bfloat16", "tf32", "CUDA"]);
    if Unit::all().is_empty() {
        fails(&with(&["--device", "cpu", "--dtype", "bfloat16"]), &["AMX", "AVX512-BF16", "float32", "--dtype"]);
    }
    if !cfg!(feature = "cuda") {
        fails(&with(&["--device", "cuda:0,1"]), &["without CUDA", "--features cuda"]);
    }
    assert!(!run_dir.exists());
    run(&with(&["--device", "cpu"]));
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--device", "cuda:0,1"], &["one device", "names 2"]);
}

#[test]
fn sizes_that_no_memory_holds_are_refused_with_what_they_would_take() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(3, 4, 2));
    let model = golden("checkpoint");
    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--epochs", "1"];
    for more in [
        &["--hidden", "1000000"][..],
        &["--latent", "1000000", "--hidden", "100000"],
        &["--generator", "diffusion", "--hidden", "1000000"],
    ] {
        fails(&[&fit[..], more].concat(), &["GB per class", "16 GB are the most", "smaller --hidden"]);
    }
    assert!(!run_dir.join("latents").exists());
    run(&[&fit[..], &["--batch-size", "1000000", "--hidden", "16", "--latent", "4"]].concat());
    for stage in
        [&["prompt-tune"][..], &["baseline", "joint", "--tasks", "1"], &["baseline", "finetune", "--tasks", "1"]]
    {
        let stage = [stage, &["--run", path(&run_dir), "--model", path(&model), "--epochs", "1"]].concat();
        fails(&[&stage[..], &["--n-ctx", "1000000"]].concat(), &["context vectors", "77"]);
        run(&[&stage[..], &["--batch-size", "1000000", "--samples", "4"]].concat());
    }
    let ranpac = ["baseline", "ranpac", "--run", path(&run_dir), "--tasks", "1", "--features", "1000000"];
    let output = command(&ranpac).output().unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("from 1 to 20000"), "{}", text(&output.stderr));

    let many = dir.path().join("many");
    fs::create_dir(&many).unwrap();
    let run_dir = imported(&many, "run", &Rows::clouds(90, 2, 1));
    let tasks = ["--run", path(&run_dir), "--tasks", "1"];
    run(&[&["fit-vae", "--generator", "gaussian"][..], &tasks].concat());
    for stage in [&["prompt-tune", "--generator", "gaussian"][..], &["baseline", "joint"], &["baseline", "finetune"]] {
        let args = [stage, &tasks, &["--model", path(&model), "--samples", "1000000"]].concat();
        fails(&args, &["1000000 embeddings of 90 classes", "17 GB per epoch", "16 GB are the most", "--samples"]);
    }
    assert!(!run_dir.join("prompts").exists());
}
