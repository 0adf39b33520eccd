//! Bad input: a message that names the file or class and what to do, exit code 1 where nothing useful was
//! done, no panic, nothing lost.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    Rows, command, encoded, fails, files, golden, hugging_face_shard, image_folder, number, path, picture, query, run,
    text, write_parquet,
};
use image::{ImageFormat, RgbImage};
use tempfile::{TempDir, tempdir};

/// A directory with a copy of the golden checkpoint.
fn checkpoint() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let copy = dir.path().join("clip");
    fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"] {
        fs::copy(golden("checkpoint").join(file), copy.join(file)).unwrap();
    }
    (dir, copy)
}

/// Rows imported into a new run.
fn imported(dir: &Path, rows: &Rows) -> PathBuf {
    let (table, run_dir) = (dir.join("table.parquet"), dir.join("run"));
    rows.write(&table);
    run(&["import", path(&table), "--run", path(&run_dir)]);
    run_dir
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
    let run_dir = imported(dir.path(), &Rows::clouds(2, 3, 1));
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
    let run_dir = imported(dir.path(), &rows);
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
    let run_dir = imported(dir.path(), &rows);
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
    let run_dir = imported(dir.path(), &rows);
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "3"], &["\"river 1\"", "1 training", "at least 2"]);
    assert!(!run_dir.join("latents").exists());
}

#[test]
fn learning_rates_that_diverge() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), &Rows::clouds(2, 6, 1));
    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--epochs", "30", "--lr"];
    fails(&[&fit[..], &["1e9"]].concat(), &["diverged", "\"forest 0\"", "smaller --lr"]);
    fs::remove_dir_all(run_dir.join("latents")).unwrap();
    run(&[&fit[..], &["1e-3"]].concat());
    let model = golden("checkpoint");
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&model), "--epochs", "3", "--lr", "1e30"],
        &["smaller --lr"],
    );
    assert!(!run_dir.join("results/dataset-order/cgil,epochs=3,lr=1e30/task-01").exists());
}

#[test]
fn more_tasks_than_classes() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), &Rows::clouds(3, 3, 1));
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
    let run_dir = imported(dir.path(), &rows);
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
        &["seed-3", "fit-vae", "dataset-order"],
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
    fs::remove_file(run_dir.join("embeddings/manifest.json")).unwrap();
    fails(&args, &["lost its manifest.json", "part-00000.parquet", "remove"]);
    fs::remove_dir_all(run_dir.join("embeddings")).unwrap();
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

    // a tokenizer that never gives the end of text, and weights with more layers than the configuration
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
fn results_that_lost_their_manifest() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), &Rows::clouds(2, 3, 1));
    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs"];
    run(&[&fit[..], &["1"]].concat());
    fs::remove_file(run_dir.join("latents/dataset-order/vae/manifest.json")).unwrap();
    fails(&[&fit[..], &["2"]].concat(), &["lost its manifest.json", "dataset-order"]);
}

#[test]
fn a_shard_made_again_takes_its_quarantine_along() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 2, 1);
    let (image, shard) = (data.join("train/river/001.png"), run_dir.join("embeddings/train/part-00000.parquet"));
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
    let run_dir = imported(dir.path(), &Rows::clouds(2, 3, 1));
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&golden("checkpoint"))],
        &["no generators", "cgil fit-vae"],
    );
    fails(&["query", "--run", path(&run_dir), "SELECT nothing FROM nowhere"], &["query failed", "nowhere"]);
    fs::remove_file(run_dir.join("embeddings/test/part-00000.parquet")).unwrap();
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "2"], &["not complete", "1 of 2 shards"]);
}

#[test]
fn a_damaged_or_foreign_shard_is_named() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), &Rows::clouds(2, 3, 1));
    let shard = run_dir.join("embeddings/train/part-00000.parquet");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    fails(&["fit-vae", "--run", path(&run_dir), "--tasks", "2"], &["part-00000.parquet", "damaged"]);
    Rows::clouds(2, 3, 1).write(&shard);
    fails(
        &["fit-vae", "--run", path(&run_dir), "--tasks", "2"],
        &["part-00000.parquet", "not written by this version"],
    );
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
