//! Data that is not quite as it should be: nothing is lost, mixed or guessed without a word.

use std::{fs, path::Path, process::Command, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampSecondArray},
    ipc::writer::StreamWriter,
};
use tempfile::tempdir;

use crate::{
    sources::{args, assert_holds, extract, png, refused, write},
    support::{fails, golden, number, path, query, write_parquet},
};

/// A tar of members, without its end where it is cut.
pub fn tar(file: &Path, members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    write(file.to_owned(), &bytes);
    bytes
}

fn ids(run_dir: &Path) -> Vec<String> {
    query(run_dir, "SELECT sample_id, label FROM embeddings ORDER BY sample_id")
}

#[test]
fn another_column_of_labels_is_another_source() {
    let dir = tempdir().unwrap();
    (0..2).for_each(|i| write(dir.path().join(format!("{i}.png")), png(i, 0)));
    let (list, run_dir) = (dir.path().join("list.csv"), dir.path().join("run"));
    write(list.clone(), "path,a,b\n0.png,0,1\n1.png,1,0\n");
    extract(&list, &run_dir, &["--label-column", "a"]);
    let model = golden("checkpoint");
    fails(&args(&list, &run_dir, &model, &["--label-column", "b"]), &["holds other embeddings"]);
    let (a, b): (&[u8], &[u8]) = (b"{\"a\": 0, \"b\": 1}", b"{\"a\": 1, \"b\": 0}");
    let tars = dir.path().join("x.tar");
    tar(&tars, &[("p.png", &png(0, 0)), ("p.json", a), ("q.png", &png(1, 0)), ("q.json", b)]);
    extract(&tars, &dir.path().join("tar"), &["--label-key", "a"]);
    fails(&args(&tars, &dir.path().join("tar"), &model, &["--label-key", "b"]), &["holds other embeddings"]);
}

#[test]
fn a_split_in_a_name_is_one_or_an_error() {
    for names in [
        ["train_000.tar", "test_000.tar"],
        ["pets-train.tar", "pets-test.tar"],
        ["v1.0-train-0.tar", "v1.0-test-0.tar"],
    ] {
        let dir = tempdir().unwrap();
        for (i, name) in names.iter().enumerate() {
            tar(&dir.path().join("d").join(name), &[("p.png", &png(i, 0)), ("p.cls", b"3")]);
        }
        extract(&dir.path().join("d"), &dir.path().join("run"), &[]);
        let splits = query(&dir.path().join("run"), "SELECT split, label FROM embeddings ORDER BY split");
        assert_eq!(splits, ["test,3", "train,3"], "{names:?}");
    }
    let dir = tempdir().unwrap();
    for name in ["cifar-train.parquet", "cifar-test.parquet"] {
        crate::sources_shards::good(&dir.path().join("d").join(name));
    }
    refused(&dir.path().join("d"), &[], &["cifar-t", "the name of a split", "SPLIT-N"]);
}

/// Two batches of two pictures, as save_to_disk writes them.
pub fn arrow_stream() -> Vec<u8> {
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..2).map(|i| png(i, 0))));
    let labels: ArrayRef = Arc::new(StringArray::from(vec!["cat", "dog"]));
    let batch = RecordBatch::try_from_iter([("image", images), ("label", labels)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn a_stream_of_arrow_without_an_end_is_cut_and_what_is_cached_is_no_row() {
    let (dir, bytes) = (tempdir().unwrap(), arrow_stream());
    let data = dir.path().join("saved");
    write(data.join("data-00000-of-00001.arrow"), &bytes);
    write(data.join("cache-17.arrow"), &bytes);
    let said = extract(&data, &dir.path().join("run"), &[]);
    assert_holds(&said, &["4 train and 0 test images", "cache-17.arrow"]);
    write(data.join("data-00000-of-00001.arrow"), &bytes[..bytes.len() - 8]);
    refused(&data, &[], &["data-00000-of-00001.arrow", "is cut"]);
}

#[test]
fn labels_are_integers_or_names() {
    let dir = tempdir().unwrap();
    for (split, labels) in [("train", ["0", "cat"]), ("test", ["0", "0"])] {
        let mut text = "file_name,label\n".to_owned();
        for (i, label) in labels.iter().enumerate() {
            write(dir.path().join("d").join(split).join(format!("{i}.png")), png(i, 0));
            text += &format!("{i}.png,{label}\n");
        }
        write(dir.path().join("d").join(split).join("metadata.csv"), text);
    }
    extract(&dir.path().join("d"), &dir.path().join("run"), &[]);
    let found = query(&dir.path().join("run"), "SELECT split, label, class_name FROM embeddings ORDER BY split, label");
    assert_eq!(found, ["test,0,0", "test,0,0", "train,0,0", "train,1,cat"]);

    let list = dir.path().join("d/list.csv");
    write(list.clone(), "path,label\ntrain/0.png,0.0\ntrain/1.png,2.5\n");
    refused(&list, &[], &["list.csv", "\"label\"", "2.5 is no label"]);
    write(list.clone(), "path,label\ntrain/0.png,10.0\ntrain/1.png,2.0\n");
    // as pandas writes integers where one is missing
    extract(&list, &dir.path().join("floats"), &[]);
    assert_eq!(
        query(&dir.path().join("floats"), "SELECT label, class_name FROM embeddings ORDER BY label"),
        ["2,2", "10,10"]
    );
    write(list.clone(), "path,label,category\ntrain/0.png,4,animal\ntrain/1.png,9,animal\n");
    let said = extract(&list, &dir.path().join("shared"), &[]);
    assert_holds(&said, &["share a class name"]);
    assert_eq!(
        query(&dir.path().join("shared"), "SELECT label, class_name FROM embeddings ORDER BY label"),
        ["4,4", "9,9"]
    );
}

#[test]
fn kept_values_stay_what_they_are_and_are_made_anew_when_they_change() {
    let dir = tempdir().unwrap();
    write(dir.path().join("0.png"), png(0, 0));
    let (list, run_dir) = (dir.path().join("list.csv"), dir.path().join("run"));
    write(list.clone(), "path,label,long,price,phone,code\n0.png,1,12345678901234567890,1.10,+49301,0.5\n");
    extract(&list, &run_dir, &["--keep", "all", "--keep", "code"]);
    let sql = "SELECT long, price, phone, code FROM embeddings";
    assert_eq!(query(&run_dir, sql), ["12345678901234567890,1.10,+49301,0.5"]);

    // a dot in a column's name, a zone, and a column that a shard lacks
    let (data, run_dir) = (dir.path().join("shards"), dir.path().join("kept"));
    let image = || Arc::new(BinaryArray::from_iter_values([png(0, 0)])) as ArrayRef;
    let label = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let shard = |split: &str, note: Option<&str>| {
        let mut columns = vec![("meta.image", image()), ("meta.label", label())];
        if let Some(note) = note {
            columns.push(("meta.note", Arc::new(StringArray::from(vec![note]))));
            columns.push(("when", Arc::new(TimestampSecondArray::from(vec![0]).with_timezone("Europe/Rome"))));
        }
        write_parquet(&data.join(format!("{split}.parquet")), columns, &[]);
    };
    shard("train", Some("aa"));
    shard("test", None);
    let more = ["--label-column", "meta.label", "--keep", "meta.note", "--keep", "when"];
    extract(&data, &run_dir, &more);
    let sql = "SELECT \"meta.note\", \"when\" FROM embeddings ORDER BY split DESC";
    assert_eq!(query(&run_dir, sql), ["aa,1970-01-01T00:00:00Z", ","]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    shard("train", Some("xx"));
    extract(&data, &run_dir, &more);
    assert_eq!(query(&run_dir, sql), ["xx,1970-01-01T00:00:00Z", ","]);
}

#[test]
fn ids_are_unique_and_a_picture_is_on_one_side_alone() {
    let dir = tempdir().unwrap();
    let mut text = "path,label\n".to_owned();
    for i in 0..30 {
        write(dir.path().join(format!("{i}.png")), png(i % 3, i));
        text += &format!("{i}.png,1\n{i}.png,1\n");
    }
    write(dir.path().join("0.png#2"), png(0, 1));
    text += "0.png#2,1\n";
    let list = dir.path().join("list.csv");
    write(list.clone(), &text);
    let run_dir = dir.path().join("run");
    extract(&list, &run_dir, &["--holdout", "0.5"]);
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT sample_id) FROM embeddings"), 61.0);
    let of = |split: &str| -> Vec<String> {
        let ids = query(&run_dir, &format!("SELECT sample_id FROM embeddings WHERE split = '{split}'"));
        ids.iter().map(|id| id.split('#').next().unwrap().to_owned()).filter(|id| id != "0.png").collect()
    };
    let (train, test) = (of("train"), of("test"));
    assert!(!test.is_empty() && train.iter().all(|id| !test.contains(id)), "{test:?}");
    refused(&list, &["--holdout", "0.9999999"], &["all rows are held out"]);
}

#[test]
fn what_a_tar_has_beside_its_samples_is_said() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("x.tar");
    let (a, b) = (png(0, 0), png(1, 1));
    let good: &[(&str, &[u8])] = &[
        ("a.seg.png", &b),
        ("a.PNG", &a),
        ("a.cls", b"1"),
        ("b.cls", b"1"),
        ("./c.jpeg", &b),
        ("./c.json", b"{\"label\": null}"),
        ("./c.txt", b"2"),
        ("a.png", &b),
        ("a.cls", b"2"),
        ("a.PNG", &b),
    ];
    let bytes = tar(&file, good);
    let said = extract(&file, &dir.path().join("run"), &[]);
    assert_holds(&said, &["1 sample without a picture", "2 pictures of samples that have another"]);
    assert_eq!(ids(&dir.path().join("run")), ["x.tar/a.PNG,1", "x.tar/a.png,2", "x.tar/c.jpeg,2"]);

    let plain = tar(&file, &[("a.png", &a), ("a.cls", b"1"), ("a.png", &a), ("a.cls", b"1")]);
    let twice = tar(&file, &[("a.png", &a), ("a.cls", b"1"), ("b.txt", b"-"), ("a.png", &a), ("a.cls", b"1")]);
    extract(&file, &dir.path().join("twice"), &[]);
    assert_eq!(ids(&dir.path().join("twice")), ["x.tar/a.png,1", "x.tar/a.png#2,1"]);
    let cut = &plain[..plain.len() - 1024];
    for (bytes, part, advice) in [
        (cut, "has no end", "fetch it again"),
        (&[][..], "has no end", "fetch it again"),
        (&[&twice[..], &bytes].concat(), "goes on behind its end", "keep them apart"),
    ] {
        write(file.clone(), bytes);
        refused(&file, &[], &["x.tar", part, advice]);
    }
    tar(&file, &[("a.png", &a), ("a.cls", b"")]);
    refused(&file, &[], &["sample a.png", "no label"]);
    refused(&dir.path().join("{x,x}.tar"), &[], &["twice"]);
    refused(&dir.path().join("{0..4000000000}.tar"), &[], &["too many files"]);
}

#[test]
fn metadata_are_of_a_folder_or_a_split_of_it() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("d");
    crate::sources::folder(&data, &["cat", "train"]);
    write(data.join("train/cat/metadata.csv"), "file_name\n0.png\n");
    extract(&data, &dir.path().join("run"), &[]);
    assert_eq!(number(&dir.path().join("run"), "SELECT COUNT(*) FROM embeddings"), 6.0);
    fs::remove_file(data.join("train/cat/metadata.csv")).unwrap();
    write(data.join("metadata.csv"), "file_name\ntrain/cat/0.png\ntrain/train/1.png\ntest/train/0.png\n");
    extract(&data, &dir.path().join("all"), &[]);
    let found = query(&dir.path().join("all"), "SELECT split, class_name FROM embeddings ORDER BY split, class_name");
    assert_eq!(found, ["test,train", "train,cat", "train,train"]);
    crate::sources_shards::good(&data.join("train.parquet"));
    refused(&data, &[], &["metadata.csv", "train.parquet", "--format"]);

    let pipe = dir.path().join("pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    write(dir.path().join("list.tsv"), format!("path\tlabel\n{}\t1\nd/test/cat/0.png\t1\n", path(&pipe)));
    extract(&dir.path().join("list.tsv"), &dir.path().join("pipe"), &[]);
    assert_holds(&query(&dir.path().join("pipe"), "SELECT error FROM quarantine")[0], &["no regular file"]);
}
