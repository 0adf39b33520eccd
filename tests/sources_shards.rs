//! Which Parquet shards are a split, and which of their columns the images and the labels.

use std::{ops::Range, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, StringArray, StructArray, UInt64Array},
    datatypes::{DataType, Field},
};
use cgil::source::{Source, SourceOptions};
use serde_json::{Map, Value, json};
use tempfile::tempdir;

use crate::{
    sources::{assert_holds, extract, folder, png, refused, write},
    support::{Rows, fails, path, query, write_parquet},
};

/// A shard with an image column and label columns; those with names are ClassLabels.
fn shard(file: &Path, image: &str, labels: &[(&str, ArrayRef, Option<&[&str]>)]) {
    let rows = labels[0].1.len();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..rows).map(|i| png(i % 3, i))));
    let paths: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; rows]));
    let images = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]);
    let mut columns: Vec<(&str, ArrayRef)> = vec![(image, Arc::new(images))];
    let mut features = Map::from_iter([(image.to_owned(), json!({"_type": "Image"}))]);
    for (name, values, names) in labels {
        columns.push((name, values.clone()));
        let feature = match names {
            Some(names) => json!({"_type": "ClassLabel", "names": names}),
            None => json!({"_type": "Value", "dtype": "int64"}),
        };
        features.insert((*name).to_owned(), feature);
    }
    let features = json!({"info": {"features": Value::Object(features)}});
    write_parquet(file, columns, &[("huggingface", &features.to_string())]);
}

fn integers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

const CAT_AND_DOG: Option<&[&str]> = Some(&["cat", "dog"]);

/// A good shard of two rows.
pub fn good(file: &Path) {
    hugging_face(file, &["cat", "dog"]);
}

/// A shard of a row of each of two classes.
pub fn hugging_face(file: &Path, classes: &[&str]) {
    shard(file, "image", &[("label", integers(&[0, 1]), Some(classes))]);
}

#[test]
fn a_split_is_exactly_what_is_called_so() {
    for (i, names) in [
        ["train.parquet", "test.parquet"],
        ["train-0.parquet", "test-12.parquet"],
        ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
        ["train-00000-of-00001-a09b74b3ef9c3b56.parquet", "test-00000-of-00001-6e587552aa3c8ac8.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
        ["train/anything.parquet", "test/test-00000-of-00001.parquet"],
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempdir().unwrap();
        let (data, run_dir) = (dir.path().join("data"), dir.path().join(format!("run{i}")));
        names.iter().for_each(|name| good(&data.join(name)));
        let others = ["train_noisy-00000-of-00001", "test_small-0", "train_test_split-info", "trains", "x-train-0"];
        others.iter().for_each(|name| good(&data.join(format!("{name}.parquet"))));
        good(&data.join("default/partial-train/0000.parquet"));
        let notes = extract(&data, &run_dir, &[]);
        assert_holds(&notes, &["no shard of train or test: default/partial-train/0000.parquet and 5 more files"]);
        let rows = query(&run_dir, "SELECT sample_id FROM embeddings ORDER BY sample_id");
        let [train, test] = names;
        assert_eq!(rows, [format!("{test}#0"), format!("{test}#1"), format!("{train}#0"), format!("{train}#1")]);
    }
}

#[test]
fn shards_that_are_not_one_data_set_are_refused() {
    let all = |names: &[&str]| {
        let dir = tempdir().unwrap();
        names.iter().for_each(|name| good(&dir.path().join("data").join(name)));
        dir
    };
    let two = ["small/train-0.parquet", "small/test-0.parquet", "large/train-0.parquet", "large/test-0.parquet"];
    let dir = all(&two);
    refused(&dir.path().join("data"), &[], &["train", "large/train-N.parquet", "small/train-N.parquet", "--data"]);
    extract(&dir.path().join("data/small"), &dir.path().join("run"), &[]);
    for (names, parts) in [
        (vec!["train.parquet", "train/0000.parquet", "test.parquet"], vec!["train.parquet", "train/*.parquet"]),
        (vec!["small/train.parquet", "large/test.parquet"], vec!["different directories", "small/", "large/"]),
        (
            vec!["train-00000-of-00001.parquet", "train-00001-of-00002.parquet", "test.parquet"],
            vec!["of-00001", "of-00002"],
        ),
        (vec!["train-00001-of-00004.parquet", "test.parquet"], vec!["00000, 00002, 00003", "missing"]),
        (
            vec!["train-00000-of-00001-a.parquet", "train-00000-of-00001-b.parquet", "test.parquet"],
            vec!["2 files, not 1"],
        ),
        (vec!["validation.parquet", "test.parquet"], vec!["no train images", "all 4"]),
        (vec!["a/x.parquet", "b/y.parquet"], vec!["several directories, a, b"]),
    ] {
        refused(&all(&names).path().join("data"), &[], &parts);
    }
    let dir = all(&["train.parquet", "test.parquet"]);
    write(dir.path().join("data/train/examples/logo.png"), png(0, 0));
    refused(&dir.path().join("data"), &[], &["train/examples/logo.png", "test.parquet"]);
}

#[test]
fn columns_are_found_where_one_pair_fits() {
    let names: Option<&[&str]> = Some(&["cat", "dog"]);
    let animals: Option<&[&str]> = Some(&["animal", "thing"]);
    let (zero_one, zeros) = (integers(&[0, 1]), integers(&[0, 0]));
    let written = |image: &str, labels: &[(&str, ArrayRef, Option<&[&str]>)]| {
        let dir = tempdir().unwrap();
        for split in ["train", "test"] {
            shard(&dir.path().join(format!("data/{split}.parquet")), image, labels);
        }
        dir
    };
    let classes = |dir: &tempfile::TempDir, more: &[&str]| {
        let run_dir = dir.path().join(format!("run{}", more.len()));
        extract(&dir.path().join("data"), &run_dir, more);
        query(&run_dir, "SELECT DISTINCT class_name FROM embeddings ORDER BY class_name")
    };
    let found = classes(&written("img", &[("labels", zero_one.clone(), names), ("id", zeros.clone(), None)]), &[]);
    assert_eq!(found, ["cat", "dog"]);
    let found =
        classes(&written("image", &[("coarse", zeros.clone(), animals), ("label", zero_one.clone(), names)]), &[]);
    assert_eq!(found, ["cat", "dog"]);

    // which columns were taken is said where they are not called as usual, and were not asked for
    let other = written("img", &[("labels", zero_one.clone(), names)]);
    let data = other.path().join("data");
    assert_holds(
        &extract(&data, &other.path().join("a"), &[]),
        &["images are the column \"img\", the labels \"labels\""],
    );
    let asked = ["--image-column", "img", "--label-column", "labels"];
    assert_eq!(extract(&data, &other.path().join("b"), &asked).lines().count(), 1);
    // labels without names beside another ClassLabel: either could be meant
    for plain in ["label", "target"] {
        let two = written("image", &[(plain, zero_one.clone(), None), ("domain", zeros.clone(), animals)]);
        let parts = ["\"domain\", the only ClassLabel", &format!("column {plain:?}, Int64"), "--label-column"];
        refused(&two.path().join("data"), &[], &parts);
        assert_eq!(classes(&two, &["--label-column", "domain"]), ["animal"]);
    }

    let cifar = written("img", &[("fine_label", zero_one.clone(), names), ("coarse_label", zeros.clone(), animals)]);
    let data = cifar.path().join("data");
    refused(&data, &[], &["fine_label, coarse_label", "--label-column"]);
    assert_eq!(classes(&cifar, &["--label-column", "coarse_label"]), ["animal"]);
    let both = ["--label-column", "fine_label", "--image-column", "img"];
    assert_eq!(classes(&cifar, &both), ["cat", "dog"]);
    refused(&data, &["--label-column", "label"], &["no column \"label\"", "img, fine_label, coarse_label"]);
    refused(&data, &["--label-column", "fine_label", "--image-column", "coarse_label"], &["should be struct<bytes"]);

    let images = cifar.path().join("images");
    folder(&images, &["cat", "dog"]);
    refused(&images, &["--label-column", "label"], &["images", "holds no table", "--label-column"]);

    let plain = written("image", &[("id", zero_one.clone(), None)]);
    refused(&plain.path().join("data"), &[], &["no column \"label\"", "image, id", "--label-column"]);
    assert_eq!(classes(&plain, &["--label-column", "id"]), ["0", "1"]);
}

#[test]
fn labels_are_looked_at_before_anything_is_encoded() {
    let with = |labels: ArrayRef| {
        let dir = tempdir().unwrap();
        good(&dir.path().join("data/train.parquet"));
        shard(&dir.path().join("data/test.parquet"), "image", &[("label", labels, CAT_AND_DOG)]);
        dir
    };
    for (labels, parts) in [
        (integers(&[1, -1, -1]), ["test.parquet#1", "is -1", "2 of", "validation"]),
        (integers(&[0, 1, 1, 2]), ["test.parquet#3", "0 to 1", "is 2", "1 of"]),
        (Arc::new(Int64Array::from(vec![Some(0), None])), ["test.parquet#1", "is null", "1 of", "label"]),
        (
            Arc::new(UInt64Array::from(vec![u64::MAX, 0])),
            ["test.parquet#0", "is 18446744073709551615", "1 of", "0 to 1"],
        ),
    ] {
        refused(&with(labels).path().join("data"), &[], &parts);
    }
    let dir = with(Arc::new(UInt64Array::from(vec![0, 1])));
    extract(&dir.path().join("data"), &dir.path().join("run"), &[]);

    let (table, mut columns) = (dir.path().join("table.parquet"), Rows::clouds(2, 3, 1).columns());
    columns[1].1 = Arc::new(UInt64Array::from_iter_values((0..8).map(|i| if i == 5 { 1 << 63 } else { 0 })));
    write_parquet(&table, columns, &[]);
    fails(&["import", path(&table), "--run", path(&dir.path().join("imported"))], &["row 5", "9223372036854775808"]);
}

#[test]
fn counts_and_ids_are_known_without_reading_images() {
    let dir = tempdir().unwrap();
    let (images, shards) = (dir.path().join("images"), dir.path().join("shards"));
    folder(&images, &["cat", "dog"]);
    write(images.join("train/dog/9.png"), "text");
    shard(&shards.join("train-0.parquet"), "image", &[("label", integers(&[1, 0, 1]), CAT_AND_DOG)]);
    good(&shards.join("train-1.parquet"));
    good(&shards.join("test-0.parquet"));
    for (data, counts, ids) in [
        (&images, [[2, 3], [1, 1]], ["train/cat/1.png", "train/dog/0.png", "train/dog/1.png"]),
        (&shards, [[2, 3], [1, 1]], ["train-0.parquet#1", "train-0.parquet#2", "train-1.parquet#0"]),
    ] {
        let source = Source::open(data, &SourceOptions::default()).unwrap();
        assert_eq!([&source.counts["train"][..], &source.counts["test"]], counts.each_ref().map(|c| &c[..]));
        assert_eq!(source.rows["train"], 5);
        assert_eq!(source.ids("train", 1..4), ids);
        let read = |range: Range<usize>| {
            source.read("train", range).unwrap().map(|record| record.unwrap().sample_id).collect::<Vec<_>>()
        };
        assert_eq!(read(1..4), ids);
        assert_eq!(read(0..5), source.ids("train", 0..5));
        assert!(source.ids("test", 1..1).is_empty());
    }
}
