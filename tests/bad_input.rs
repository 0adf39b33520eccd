//! Bad input: a message that names the file or class and what to do, exit code 1 where nothing
//! useful was done, no panic, nothing lost.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, StringArray},
    datatypes::{DataType, Field},
};

use crate::support::{
    Rows, command, copy_checkpoint, encoded, fails, files, golden, hugging_face_shard, image_folder, imported, number,
    path, picture, query, run, text, write_parquet,
};
use image::{ImageFormat, RgbImage};
use tempfile::{TempDir, tempdir};

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
fn images_that_cannot_be_used_go_to_the_quarantine() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 6, 3);
    let jpeg = encoded(picture(0, 0, 200), ImageFormat::Jpeg);
    let png = encoded(picture(0, 0, 200), ImageFormat::Png);
    // a header that claims 60000x60000 pixels, with the checksum that belongs to it
    let mut vast = png.clone();
    vast[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    vast[29..33].copy_from_slice(&[0x0f, 0xb0, 0xe2, 0x15]);
    for (name, bytes) in [
        ("train/forest/half.jpg", &jpeg[..jpeg.len() / 2]),
        ("train/forest/tail.jpg", &jpeg[..jpeg.len() - 40]),
        ("train/river/half.png", &png[..png.len() / 2]),
        ("test/river/empty.jpg", &[]),
        ("test/forest/text.webp", b"this is text"),
        ("test/forest/thread.png", &encoded(RgbImage::new(1, 60_000), ImageFormat::Png)),
        ("test/forest/vast.png", &vast),
    ] {
        fs::write(data.join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("/nowhere", data.join("train/river/link.jpg")).unwrap();
    run(&["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir), "--shard-rows", "8"]);
    let quarantined = query(&run_dir, "SELECT sample_id, stage FROM quarantine ORDER BY sample_id");
    assert_eq!(
        quarantined,
        [
            "test/forest/text.webp,decode",
            "test/forest/thread.png,decode",
            "test/forest/vast.png,decode",
            "test/river/empty.jpg,decode",
            "train/forest/half.jpg,decode",
            "train/forest/tail.jpg,decode",
            "train/river/half.png,decode",
            "train/river/link.jpg,read"
        ]
    );
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine WHERE error = ''"), 0.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine WHERE error LIKE '60000x60000 pixels%'"), 1.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine WHERE error LIKE '%too elongated%'"), 1.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings"), 36.0);
}

#[test]
fn a_source_of_which_nothing_can_be_used() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("images"), dir.path().join("run"));
    for split in ["train", "test"] {
        fs::create_dir_all(data.join(split).join("fox")).unwrap();
        fs::write(data.join(split).join("fox/a.jpg"), "text").unwrap();
    }
    fails(
        &["extract", "--model", path(&golden("checkpoint")), "--data", path(&data), "--run", path(&run_dir)],
        &["none of the 2 images", "quarantine"],
    );
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine"), 2.0);
    fails(
        &[
            "extract",
            "--model",
            path(&golden("checkpoint")),
            "--data",
            path(&dir.path().join("nowhere")),
            "--run",
            path(&run_dir),
        ],
        &["nowhere", "not a directory"],
    );
    fails(
        &[
            "extract",
            "--model",
            path(&golden("checkpoint")),
            "--data",
            path(&data.join("train")),
            "--run",
            path(&run_dir),
        ],
        &["no train images", "train/CLASS"],
    );
}

#[test]
fn parquet_without_a_needed_column() {
    let dir = tempdir().unwrap();
    let model = golden("checkpoint");
    for (column, rest) in [("label", "image"), ("image", "label")] {
        let data = dir.path().join(column);
        let png = encoded(picture(0, 0, 64), ImageFormat::Png);
        hugging_face_shard(&data.join("test-00000-of-00001.parquet"), &[(0, Some(png))]);
        let whole = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
            fs::File::open(data.join("test-00000-of-00001.parquet")).unwrap(),
        )
        .unwrap()
        .build()
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
        write_parquet(&data.join("train-00000-of-00001.parquet"), vec![(rest, whole[rest].clone())], &[]);
        let run_dir = data.join("run");
        fails(
            &["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)],
            &["train-00000-of-00001.parquet", &format!("no column {column:?}"), rest],
        );
        assert!(!run_dir.exists());
    }
    // embeddings made elsewhere
    let table = dir.path().join("table.parquet");
    for missing in 0..4 {
        let mut columns = Rows::clouds(2, 2, 1).columns();
        let (name, _) = columns.remove(missing);
        write_parquet(&table, columns, &[]);
        fails(
            &["import", path(&table), "--run", path(&dir.path().join("run"))],
            &["table.parquet", &format!("no column {name:?}")],
        );
    }
}

#[test]
fn a_row_that_cannot_be_used_is_named() {
    let dir = tempdir().unwrap();
    let shard = dir.path().join("data/train-0.parquet");
    let png = encoded(picture(0, 0, 64), ImageFormat::Png);
    hugging_face_shard(&shard, &[(0, Some(png.clone())), (0, None), (9, Some(png.clone()))]);
    hugging_face_shard(&dir.path().join("data/test-0.parquet"), &[(0, Some(png))]);
    let model = golden("checkpoint");
    let args = |run_dir: &'static str| {
        [
            "extract".to_owned(),
            "--model".into(),
            path(&model).into(),
            "--data".into(),
            path(&dir.path().join("data")).into(),
            "--run".into(),
            path(&dir.path().join(run_dir)).into(),
        ]
    };
    fails(&args("run").each_ref().map(String::as_str), &["train-0.parquet#2", "0 to 3", "9"]);

    let png = encoded(picture(0, 0, 64), ImageFormat::Png);
    hugging_face_shard(&shard, &[(0, Some(png)), (0, None)]);
    run(&args("again").each_ref().map(String::as_str));
    assert_eq!(query(&dir.path().join("again"), "SELECT sample_id, stage FROM quarantine"), ["train-0.parquet#1,read"]);

    let table = dir.path().join("table.parquet");
    let import = ["import", path(&table), "--run", path(&dir.path().join("imported"))].map(str::to_owned);
    let import = import.each_ref().map(String::as_str);
    let mut rows = Rows::clouds(2, 3, 1);
    rows.embedding[5].truncate(47);
    rows.write(&table);
    fails(&import, &["table.parquet row 5", "47 values", "48"]);
    let mut rows = Rows::clouds(2, 3, 1);
    rows.embedding[2][7] = f32::NAN;
    rows.write(&table);
    fails(&import, &["row 2", "not finite"]);
    let mut rows = Rows::clouds(2, 3, 1);
    rows.split[1] = "dev";
    rows.write(&table);
    fails(&import, &["row 1", "\"dev\""]);
    let mut rows = Rows::clouds(2, 3, 1);
    rows.class_name[3] = "other".into();
    rows.write(&table);
    fails(&import, &["row 3", "\"other\"", "\"forest 0\""]);
    assert!(!dir.path().join("imported").exists());
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
fn a_class_with_one_image() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::clouds(3, 3, 1);
    for i in 4..6 {
        rows.split[i] = "test"; // of class 1, one row is left to train on
    }
    let run_dir = imported(dir.path(), "run", &rows);
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "3"], &["\"river 1\"", "1 training", "at least 2"]);
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
    refused(extract(&[]), &["source", "fingerprint", "--run"]);
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
fn embeddings_removed_to_be_made_anew_leave_no_quarantine_behind() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 2, 1);
    fs::write(data.join("train/river/broken.jpg"), "text").unwrap();
    let args = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
    run(&args);
    fs::remove_file(run_dir.join("sources/base/plan.json")).unwrap();
    fails(&args, &["lost its plan.json", "part-00000.parquet", "remove"]);
    fs::remove_dir_all(run_dir.join("sources")).unwrap();
    fs::remove_file(data.join("train/river/broken.jpg")).unwrap();
    run(&args);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine"), 0.0);
}

#[test]
fn imported_rows_have_ids_of_their_own() {
    let dir = tempdir().unwrap();
    let (tables, run_dir) = (dir.path().join("tables"), dir.path().join("run"));
    for name in ["a", "b"] {
        Rows::clouds(2, 3, 1).write(&tables.join(format!("{name}.parquet")));
    }
    run(&["import", path(&tables), "--run", path(&run_dir)]);
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT sample_id) FROM embeddings"), 16.0);

    let twice = dir.path().join("twice.parquet");
    let mut columns = Rows::clouds(2, 3, 1).columns();
    columns.push(("sample_id", std::sync::Arc::new(arrow::array::StringArray::from(vec!["x"; 8]))));
    write_parquet(&twice, columns, &[]);
    fails(&["import", path(&twice), "--run", path(&dir.path().join("other"))], &["row 1", "sample_id", "\"x\""]);
    let mut rows = Rows::clouds(2, 3, 1);
    rows.embedding[4].fill(1e30);
    rows.write(&twice);
    fails(&["import", path(&twice), "--run", path(&dir.path().join("other"))], &["row 4", "length"]);
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
    fails(&tune, &["layers.1.", "1 layers"]);
}

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
fn a_shard_made_again_takes_its_quarantine_along() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 2, 1);
    let (image, shard) =
        (data.join("train/river/001.png"), run_dir.join("sources/base/embeddings/train/part-00000.parquet"));
    let good = fs::read(&image).unwrap();
    fs::write(&image, vec![0; good.len()]).unwrap();
    let args = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
    assert!(run(&args).contains("1 quarantined"));
    fs::write(&image, good).unwrap();
    fs::remove_file(shard).unwrap();
    assert!(run(&args).contains("12 embeddings of 48 values, 0 quarantined"));
}

#[test]
fn odd_sources_lose_and_double_nothing() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 1, 1);
    std::os::unix::fs::symlink(".", data.join("train/river/self")).unwrap();
    fs::write(data.join("notes.parquet"), "not a shard").unwrap();
    // the standard allows fill bytes before a marker
    let jpeg = encoded(picture(0, 0, 64), ImageFormat::Jpeg);
    fs::write(data.join("train/river/fill.jpg"), [&jpeg[..2], &[0xff, 0xff], &jpeg[2..]].concat()).unwrap();
    let printed = run(&["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)]);
    assert!(printed.contains("9 images") && printed.contains("0 quarantined"), "{printed}");
}

#[test]
fn a_closed_standard_error_is_no_panic() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = crate::support::command(&["query", "--run", "nowhere", "SELECT 1"]).stderr(full).status().unwrap();
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
    fails(&with(&["--device", "cpu", "--dtype", "bfloat16"]), &["float32", "bfloat16", "CUDA"]);
    if !cfg!(feature = "cuda") {
        fails(&with(&["--device", "cuda:0,1"]), &["without CUDA", "--features cuda"]);
    }
    assert!(!run_dir.exists());
    run(&with(&["--device", "cpu"]));
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--device", "cuda:0,1"], &["one device", "names 2"]);
}

#[test]
fn a_class_without_rows_is_named_and_why_its_images_could_not_be_used() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 2, 1);
    for file in ["000.jpg", "001.png"] {
        fs::write(data.join("train/river").join(file), "text").unwrap();
    }
    run(&["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)]);
    let tasks = ["--run", path(&run_dir), "--tasks", "2"];
    let parts = [
        "class \"river\" (label 2)",
        "0 training embeddings",
        "2 of its images could not be used (the first, train/river/000.jpg: ",
    ];
    for (needed, stage) in [
        ("at least 2 are needed", &["fit-vae"][..]),
        ("at least 1 is needed", &["baseline", "ncm"]),
        ("at least 1 is needed", &["baseline", "lda"]),
        ("at least 1 is needed", &["baseline", "linear"]),
        ("at least 1 is needed", &["baseline", "joint", "--epochs", "1", "--samples", "4"]),
        ("at least 1 is needed", &["baseline", "finetune", "--epochs", "1", "--samples", "4"]),
    ] {
        let (args, limit) = ([stage, &tasks].concat(), Duration::from_secs(60));
        let mut child = command(&args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(5));
        }
        child.kill().ok();
        let output = child.wait_with_output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?} does not end:\n{message}");
        for part in parts.iter().chain([&needed]) {
            assert!(message.contains(part), "{args:?}: expected {part:?} in:\n{message}");
        }
    }
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
fn embeddings_of_an_older_format_are_taken_over_as_they_are() {
    let dir = tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let all = Rows::clouds(3, 5, 2);
    let vector = |row: usize| all.embedding[row].iter().copied();
    for split in ["train", "test"] {
        // two shards of each split, as there were, the rows in an order of their own
        let rows: Vec<usize> = (0..all.label.len()).rev().filter(|&i| all.split[i] == split).collect();
        for (part, rows) in rows.chunks(4).enumerate() {
            let texts = |f: &dyn Fn(usize) -> String| -> ArrayRef {
                Arc::new(StringArray::from_iter_values(rows.iter().map(|&i| f(i))))
            };
            let values = Float32Array::from_iter_values(rows.iter().flat_map(|&i| vector(i)));
            let item = Arc::new(Field::new("item", DataType::Float32, false));
            let norm = |i: usize| vector(i).map(|x| x * x).sum::<f32>().sqrt();
            write_parquet(
                &old.join(format!("embeddings/{split}/part-{part:05}.parquet")),
                vec![
                    ("sample_id", texts(&|i| format!("{split}/{i}.jpg"))),
                    ("label", Arc::new(Int64Array::from_iter_values(rows.iter().map(|&i| 10 * all.label[i])))),
                    ("class_name", texts(&|i| all.class_name[i].clone())),
                    ("split", texts(&|_| split.to_owned())),
                    ("embedding", Arc::new(FixedSizeListArray::new(item, 48, Arc::new(values), None))),
                    ("norm", Arc::new(Float32Array::from_iter_values(rows.iter().map(|&i| norm(i))))),
                ],
                &[("cgil.table", "embeddings 1")],
            );
        }
    }
    fs::write(old.join("embeddings/manifest.json"), "{\"table\": \"embeddings\", \"version\": 1}").unwrap();
    let advice = [path(&old), "older format", &format!("`cgil import {}/embeddings --run NEW`", old.display())];
    for stage in [
        &["query", "SELECT 1"][..],
        &["report"],
        &["fit-vae", "--tasks", "1"],
        &["baseline", "ncm", "--tasks", "1"],
        &["import", path(&old.join("embeddings"))],
    ] {
        let message = fails(&[stage, &["--run", path(&old)]].concat(), &advice);
        assert_eq!(message.trim().lines().count(), 1, "{message}");
    }
    assert!(!old.join("sources").exists());

    run(&["import", path(&old.join("embeddings")), "--run", path(&new)]);
    let rows = query(&new, "SELECT split, sample_id, label, class_name FROM embeddings");
    let mut expected = Vec::new();
    for split in ["test", "train"] {
        for i in (0..all.label.len()).rev().filter(|&i| all.split[i] == split) {
            expected.push(format!("{split},{split}/{i}.jpg,{},{}", 10 * all.label[i], all.class_name[i]));
        }
    }
    assert_eq!(rows, expected);
    let json = run(&["query", "--run", path(&new), "--format", "json", "SELECT sample_id, embedding FROM embeddings"]);
    let values: serde_json::Value = serde_json::from_str(&json).unwrap();
    for row in values.as_array().unwrap() {
        let id: usize = row["sample_id"].as_str().unwrap().split(['/', '.']).nth(1).unwrap().parse().unwrap();
        let found: Vec<f32> = row["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert_eq!(found, all.embedding[id]);
    }
    run(&["baseline", "ncm", "--run", path(&new), "--tasks", "3"]);
}
