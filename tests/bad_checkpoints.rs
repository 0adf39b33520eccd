//! Checkpoints that cannot be used, or are not those that a run was made with: a message that names
//! the file and what to do, nothing lost.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::ImageFormat;
use tempfile::{TempDir, tempdir};

use crate::support::{
    Rows, copy_checkpoint, encoded, fails, files, golden, image_folder, imported, path, picture, run,
};

/// A directory with a copy of the golden checkpoint.
fn checkpoint() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let copy = dir.path().join("clip");
    copy_checkpoint(&copy);
    (dir, copy)
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{} has no {from:?}", file.display());
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn a_checkpoint_without_a_file() {
    let data = tempdir().unwrap();
    image_folder(data.path(), 2, 1);
    for file in ["config.json", "model.safetensors", "preprocessor_config.json"] {
        let (dir, model) = checkpoint();
        fs::remove_file(model.join(file)).unwrap();
        let run_dir = dir.path().join("run");
        fails(
            &["extract", "--model", path(&model), "--data", path(data.path()), "--run", path(&run_dir)],
            &[file, path(&model)],
        );
        assert!(!run_dir.exists(), "nothing should be written without {file}");
    }
    // the tokenizer is not needed before the prompts
    let (dir, model) = checkpoint();
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(2, 3, 1));
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--epochs", "1"]);
    fails(&["prompt-tune", "--run", path(&run_dir), "--model", path(&model)], &["tokenizer.json", path(&model)]);
}

#[test]
fn a_checkpoint_with_a_shape_that_does_not_fit() {
    let data = tempdir().unwrap();
    image_folder(data.path(), 2, 1);
    let (dir, model) = checkpoint();
    edit(&model.join("config.json"), "\"intermediate_size\": 256", "\"intermediate_size\": 128");
    let run_dir = dir.path().join("run");
    fails(
        &["extract", "--model", path(&model), "--data", path(data.path()), "--run", path(&run_dir)],
        &["vision_model.encoder.layers.0.mlp.fc1.weight", "[128, 64]", "[256, 64]", "config.json"],
    );
    assert!(!run_dir.exists());
}

#[test]
fn a_checkpoint_cut_short() {
    let data = tempdir().unwrap();
    image_folder(data.path(), 2, 1);
    let (dir, model) = checkpoint();
    let weights = fs::read(model.join("model.safetensors")).unwrap();
    fs::write(model.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    fails(
        &["extract", "--model", path(&model), "--data", path(data.path()), "--run", path(&dir.path().join("run"))],
        &["cut short", path(&model)],
    );
}

#[test]
fn a_tokenizer_of_another_checkpoint() {
    let (dir, model) = checkpoint();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo/clip").join(file), model.join(file)).unwrap();
    }
    let mut rows = Rows::clouds(2, 3, 1);
    rows.embedding.iter_mut().for_each(|embedding| embedding.resize(64, 0.1));
    let run_dir = imported(dir.path(), "run", &rows);
    fails(
        &["baseline", "zero-shot", "--run", path(&run_dir), "--tasks", "1", "--model", path(&model)],
        &["tokenizer.json", "the token 49406", "config.json has a vocabulary of"],
    );
}

#[test]
fn a_name_longer_than_the_context() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::clouds(2, 3, 1);
    let long = "a very long name ".repeat(30);
    for (name, label) in rows.class_name.iter_mut().zip(&rows.label) {
        if *label == 1 {
            *name = long.clone();
        }
    }
    let run_dir = imported(dir.path(), "run", &rows);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--epochs", "1"]);
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&golden("checkpoint"))],
        &["a very long name", "77", "shorter"],
    );
    assert!(!run_dir.join("results").exists());
}

#[test]
fn embeddings_of_another_dimension() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::clouds(2, 3, 1);
    rows.embedding.iter_mut().for_each(|e| e.truncate(32));
    let run_dir = imported(dir.path(), "run", &rows);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "1"]);
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&golden("checkpoint"))],
        &["32 values", "48", "checkpoint"],
    );
    fails(&["prompt-tune", "--run", path(&run_dir)], &["imported", "--model"]);
}

#[test]
fn a_run_of_another_model_source_or_preprocessing() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("images"), dir.path().join("run"));
    image_folder(&data, 3, 1);
    let (_model_dir, model) = checkpoint();
    let extract = |more: &[&str]| -> Vec<String> {
        let args = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
        [&args[..], more].concat().into_iter().map(str::to_owned).collect()
    };
    let refused = |args: Vec<String>, parts: &[&str]| {
        let before = files(&run_dir);
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), parts);
        assert!(before == files(&run_dir), "a refused command changed the run");
    };
    run(&extract(&[]).iter().map(String::as_str).collect::<Vec<_>>());
    refused(extract(&["--exif"]), &["preprocessing", "exif false", "exif true", "--run"]);
    refused(extract(&["--shard-rows", "5"]), &["shard size", "4096", "5"]);
    fs::write(data.join("train/forest/new.png"), encoded(picture(0, 0, 64), ImageFormat::Png)).unwrap();
    refused(extract(&[]), &["the number of train rows was 12, now it is 13", "--run"]);
    fs::remove_file(data.join("train/forest/new.png")).unwrap();

    // the stages after it know their model too
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "1"]);
    refused(
        ["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "2"].map(str::to_owned).to_vec(),
        &["config.epochs is 1 there, 2 now", "--seed"],
    );
    refused(
        ["prompt-tune", "--run", path(&run_dir), "--seed", "3"].map(str::to_owned).to_vec(),
        &["seed-3", "fit-vae", "dataset-order-tasks-2"],
    );
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    refused(extract(&[]), &["model", "sha256"]);
    refused(
        ["prompt-tune", "--run", path(&run_dir), "--model", path(&model)].map(str::to_owned).to_vec(),
        &["sha256", "--model"],
    );
}

#[test]
fn a_checkpoint_whose_configuration_changed() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("images"), dir.path().join("run"));
    image_folder(&data, 3, 1);
    let (_model_dir, model) = checkpoint();
    let extract = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
    run(&extract);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "1"]);
    edit(&model.join("config.json"), "quick_gelu", "gelu");
    fails(&extract, &["config.json", "--run"]);
    fails(&["prompt-tune", "--run", path(&run_dir)], &["config.json", "restore"]);
    edit(&model.join("config.json"), "\"gelu\"", "\"quick_gelu\"");

    // a tokenizer that never gives the end of text, and weights with more layers than the
    // configuration
    let fresh = dir.path().join("fresh");
    Rows::clouds(2, 3, 1).write(&dir.path().join("table.parquet"));
    run(&["import", path(&dir.path().join("table.parquet")), "--run", path(&fresh)]);
    run(&["fit-vae", "--run", path(&fresh), "--tasks", "2", "--epochs", "1"]);
    edit(&model.join("config.json"), "\"eos_token_id\": 49407", "\"eos_token_id\": 300");
    let tune = ["prompt-tune", "--run", path(&fresh), "--model", path(&model)];
    fails(&tune, &["eos_token_id", "300"]);
    edit(&model.join("config.json"), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    fails(&tune, &["layers.1.", "says 1 layer"]);
}
