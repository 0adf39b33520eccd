//! Tables of images and of embeddings that cannot be used as they are: a message that names the
//! file, the column and the row.

use std::{fs, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, StringArray},
    datatypes::{DataType, Field},
};
use image::ImageFormat;
use tempfile::tempdir;

use crate::support::{
    Rows, encoded, fails, golden, hugging_face_shard, number, path, picture, query, run, write_parquet,
};

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
    let run_dir = dir.path().join("run");
    let import = ["import", path(&table), "--run", path(&run_dir)];
    for (missing, expected) in [
        (&["embedding"][..], "no column \"embedding\""),
        (&["label", "class_name"], "expected a column \"label\" or \"class_name\""),
    ] {
        let columns = Rows::clouds(2, 2, 1).columns().into_iter().filter(|(name, _)| !missing.contains(name));
        write_parquet(&table, columns.collect(), &[]);
        fails(&import, &["table.parquet", expected]);
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
    rows.split[1] = "held-out";
    rows.write(&table);
    fails(&import, &["row 1", "\"held-out\""]);
    let mut rows = Rows::clouds(2, 3, 1);
    rows.class_name[3] = "other".into();
    rows.write(&table);
    fails(&import, &["row 3", "\"other\"", "\"forest 0\""]);
    let mut rows = Rows::clouds(1, 1, 1);
    rows.embedding.iter_mut().for_each(|embedding| embedding.resize((1 << 20) + 1, 0.1));
    rows.write(&table);
    fails(&import, &["table.parquet", "1048577 values, more than 1048576"]);
    assert!(!dir.path().join("imported").exists());
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
    columns.push(("sample_id", Arc::new(StringArray::from(vec!["x"; 8]))));
    write_parquet(&twice, columns, &[]);
    fails(&["import", path(&twice), "--run", path(&dir.path().join("other"))], &["row 1", "sample_id", "\"x\""]);
    let mut rows = Rows::clouds(2, 3, 1);
    rows.embedding[4].fill(1e30);
    rows.write(&twice);
    fails(&["import", path(&twice), "--run", path(&dir.path().join("other"))], &["row 4", "length"]);
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
