//! The same pictures in every format: the same embeddings, labels and names, whatever they came in.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray},
    datatypes::{DataType, Field, Schema},
    ipc::writer::StreamWriter,
};
use flate2::{Compression, write::GzEncoder};
use image::ImageFormat;
use parquet::{
    arrow::ArrowWriter,
    basic::{BrotliLevel, Compression as Codec, GzipLevel, ZstdLevel},
    file::properties::WriterProperties,
};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{
    sources::{assert_holds, extract, refused, write},
    support::{self, encoded, number, path, picture, query, run, write_parquet},
};

/// In the order of the alphabet, so that labels are the same where names are counted.
const CLASSES: [&str; 4] = ["bird", "cat", "dog", "red fox"];

/// A picture: its split, its class, and its name there.
struct Item {
    split: &'static str,
    class: usize,
    name: String,
    bytes: Vec<u8>,
}

/// 160 pictures to learn from, and 40 to test on.
fn items() -> &'static [Item] {
    static ITEMS: OnceLock<Vec<Item>> = OnceLock::new();
    ITEMS.get_or_init(|| {
        let of = |split, n: usize| (0..CLASSES.len()).flat_map(move |class| (0..n).map(move |i| (split, class, i)));
        let item = |(split, class, i): (&'static str, usize, usize)| {
            let shown = picture(class, if split == "test" { i + 100 } else { i }, 32);
            Item { split, class, name: format!("{i:03}.png"), bytes: encoded(shown, ImageFormat::Png) }
        };
        of("train", 40).chain(of("test", 10)).map(item).collect()
    })
}

fn of_split(split: &str) -> Vec<&'static Item> {
    items().iter().filter(|item| item.split == split).collect()
}

/// What a run has of each row, but for its id.
fn rows(run_dir: &Path) -> Vec<String> {
    query(
        run_dir,
        "SELECT split, label, class_name, ROUND(norm, 4) AS length FROM embeddings ORDER BY split, label, length",
    )
}

/// The rows of the plainest format.
fn expected() -> &'static [String] {
    static ROWS: OnceLock<Vec<String>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let dir = tempdir().unwrap();
        let data = folder(dir.path(), "train", "test");
        extract(&data, &dir.path().join("run"), &[]);
        let rows = rows(&dir.path().join("run"));
        assert_eq!(rows.len(), 200);
        rows
    })
}

fn folder(dir: &Path, train: &str, test: &str) -> PathBuf {
    let data = dir.join("pictures");
    for Item { split, class, name, bytes } in items() {
        write(data.join(if *split == "train" { train } else { test }).join(CLASSES[*class]).join(name), bytes);
    }
    data
}

/// Extracts `data`, whose rows have to be those of the image folder, and `id` the first test row's.
fn assert_same(dir: &TempDir, data: &Path, more: &[&str], id: &str, notes: &[&str]) {
    let run_dir = dir.path().join("run");
    let said = extract(data, &run_dir, more);
    assert_holds(&said, notes);
    let rows = rows(&run_dir);
    let others: Vec<_> = rows.iter().zip(expected()).filter(|(found, expected)| found != expected).collect();
    assert!(others.is_empty(), "{}: {} rows, {others:?}", data.display(), rows.len());
    assert_eq!(rows.len(), expected().len());
    let ids = query(&run_dir, "SELECT sample_id FROM embeddings WHERE split = 'test' ORDER BY sample_id");
    assert_eq!(ids[0], id, "{}", data.display());
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT sample_id) FROM embeddings"), 200.0);
}

#[test]
fn folders_have_their_splits_by_any_usual_name() {
    for (train, test, notes) in [
        ("Training", "eval", "160 train and 40 test images"),
        ("train", "validation", "no test split: the 40 images of the validation split are the test images"),
    ] {
        let dir = tempdir().unwrap();
        let data = folder(dir.path(), train, test);
        assert_same(&dir, &data, &[], &format!("{test}/bird/000.png"), &["4 classes", notes]);
    }
    let dir = tempdir().unwrap();
    let data = folder(dir.path(), "train", "test");
    write(data.join("dev/bird/x.png"), &items()[0].bytes);
    assert_same(&dir, &data, &[], "test/bird/000.png", &["left out: the 1 image of the validation split"]);
    refused(&data, &["--holdout", "0.2"], &["a test split", "--holdout"]);
}

#[test]
fn a_folder_without_splits_is_learned_from_and_some_of_it_held_out_when_asked() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("pictures");
    for Item { split, class, name, bytes } in items() {
        write(data.join(CLASSES[*class]).join("deeper").join(format!("{split}-{name}")), bytes);
    }
    write(data.join("notes/readme.txt"), "no class");
    let run_dir = dir.path().join("all");
    let said = extract(&data, &run_dir, &[]);
    assert_holds(&said, &["200 train and 0 test images", "no test images", "--holdout", "notes/readme.txt"]);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings WHERE split = 'train'"), 200.0);

    let held = |run_dir: &Path| {
        extract(&data, run_dir, &["--holdout", "0.25"]);
        query(run_dir, "SELECT sample_id FROM embeddings WHERE split = 'test' ORDER BY sample_id")
    };
    let before = held(&dir.path().join("held"));
    assert!((25..75).contains(&before.len()), "{}", before.len());
    let per_class = query(
        &dir.path().join("held"),
        "SELECT class_name, COUNT(*) FROM embeddings WHERE split = 'test' GROUP BY class_name",
    );
    assert_eq!(per_class.len(), 4, "{per_class:?}");
    // more pictures move no other row
    for i in 0..20 {
        write(data.join("cat").join(format!("{i}.png")), &items()[i].bytes);
    }
    let after = held(&dir.path().join("more"));
    assert!(after.len() > before.len());
    assert!(before.iter().all(|id| after.contains(id)));
    assert_eq!(after.iter().filter(|id| !before.contains(id)).filter(|id| id.contains("deeper")).count(), 0);
    refused(&data, &["--format", "folder"], &["train"]);
}

/// A manifest of the pictures in `folder`, relative to where it lies.
fn records(with_split: bool, directory: &str) -> Vec<Value> {
    let record = |Item { split, class, name, .. }: &Item| {
        let path = format!("{directory}{split}/{}/{name}", CLASSES[*class]);
        let mut record = json!({"path": path, "label": class, "class_name": CLASSES[*class], "note": "a, \"b\""});
        if with_split {
            record["split"] = json!(if *split == "train" { "training" } else { "TEST" });
        }
        record
    };
    items().iter().map(record).collect()
}

fn csv(records: &[Value]) -> String {
    let header: Vec<String> = records[0].as_object().unwrap().keys().cloned().collect();
    let value = |value: &Value| match value {
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        other => other.to_string(),
    };
    let line = |record: &Value| header.iter().map(|key| value(&record[key])).collect::<Vec<_>>().join(",");
    std::iter::once(header.join(",")).chain(records.iter().map(line)).collect::<Vec<_>>().join("\n")
}

fn json_lines(records: &[Value]) -> String {
    records.iter().map(|record| record.to_string() + "\n").collect()
}

fn texts(records: &[Value], key: &str) -> ArrayRef {
    Arc::new(records.iter().map(|record| record[key].as_str()).collect::<StringArray>())
}

fn parquet_of(file: &Path, records: &[Value], keys: &[&str]) {
    let labels = || Arc::new(records.iter().map(|record| record["label"].as_i64()).collect::<Int64Array>());
    let column = |key: &&'static str| -> (&'static str, ArrayRef) {
        (*key, if *key == "label" { labels() } else { texts(records, key) })
    };
    let keys: Vec<&'static str> =
        ["path", "file_name", "label", "class_name", "split"].into_iter().filter(|key| keys.contains(key)).collect();
    write_parquet(file, keys.iter().map(column).collect(), &[]);
}

#[test]
fn manifests_name_pictures_labels_and_splits() {
    let all = records(true, "../pictures/");
    for (name, text) in [("m.csv", Some(csv(&all))), ("m.jsonl", Some(json_lines(&all))), ("m.parquet", None)] {
        let dir = tempdir().unwrap();
        folder(dir.path(), "train", "test");
        let file = dir.path().join("lists").join(name);
        match text {
            Some(text) => write(file.clone(), text),
            None => parquet_of(&file, &all, &["path", "label", "class_name", "split"]),
        }
        assert_same(&dir, &file, &[], "../pictures/test/bird/000.png", &["manifest"]);
    }
    // class names alone, which are counted in the order of the alphabet
    let dir = tempdir().unwrap();
    let data = folder(dir.path(), "train", "test");
    let names: Vec<Value> =
        all.iter().map(|r| json!({"file": r["path"], "kind": r["class_name"], "split": r["split"]})).collect();
    write(dir.path().join("lists/names.csv"), csv(&names));
    let asked = ["--label-column", "kind"];
    assert_same(&dir, &dir.path().join("lists/names.csv"), &asked, "../pictures/test/bird/000.png", &[]);

    let broken = |text: &str, more: &[&str], parts: &[&str]| {
        write(data.join("broken.csv"), text);
        refused(&data.join("broken.csv"), more, &[&["broken.csv"], parts].concat());
    };
    broken("path,label\nx.png,\n", &[], &["record 1", "null"]);
    broken("path,split,label\nx.png,train,1\ny.png,fold1,1\n", &[], &["record 2", "\"fold1\"", "train"]);
    broken("picture,label\nx.png,1\n", &[], &["no column of paths", "picture, label", "--image-column"]);
    broken("path,kind\nx.png,1\n", &[], &["no column of labels", "path, kind"]);
    broken("path,label\nx.png,1\n", &["--label-column", "kind"], &["no column \"kind\""]);
    broken("path,label,class_name\nx.png,1,cat\ny.png,1,dog\n", &[], &["record 2", "\"dog\"", "\"cat\""]);
    broken("path,label\nx.png,1,2\n", &[], &["comma-separated"]);
    broken("", &[], &["no column of paths"]);
}

#[test]
fn a_picture_that_is_listed_twice_is_two_rows_and_one_that_is_not_there_is_quarantined() {
    let dir = tempdir().unwrap();
    let data = folder(dir.path(), "train", "test");
    let file = data.join("list.csv");
    write(file.clone(), "path,label\ntrain/cat/000.png,7\ntrain/cat/000.png,9\nlost.png,9\n");
    let said = extract(&file, &dir.path().join("run"), &["--format", "manifest"]);
    assert_holds(&said, &["listed more than once: 1 row", "3 train and 0 test images"]);
    let found = query(&dir.path().join("run"), "SELECT sample_id, label, class_name FROM embeddings ORDER BY label");
    assert_eq!(found, ["train/cat/000.png,7,7", "train/cat/000.png#2,9,9"]);
    let lost = query(&dir.path().join("run"), "SELECT sample_id, label, stage FROM quarantine");
    assert_eq!(lost, ["lost.png,9,read"]);
}

#[test]
fn an_image_folder_may_have_metadata() {
    let file_names = |split: &str, inside: &str| -> Vec<Value> {
        let of =
            records(false, "").into_iter().zip(items()).filter(|(_, item)| item.split == split || split.is_empty());
        let file_name = |record: &Value| record["path"].as_str().unwrap().strip_prefix(inside).unwrap().to_owned();
        of.map(|(r, _)| json!({"file_name": file_name(&r), "label": r["label"], "class_name": r["class_name"]}))
            .collect()
    };
    // one file for all, or one for each split; with the labels, or with the directories as labels
    for (i, name) in ["metadata.csv", "metadata.jsonl", "metadata.parquet"].into_iter().enumerate() {
        let dir = tempdir().unwrap();
        let data = folder(dir.path(), "train", "test");
        write(data.join("train/bird/unlisted.png"), &items()[0].bytes);
        for (of, split) in if i == 2 { vec![("", "")] } else { vec![("train/", "train"), ("test/", "test")] } {
            let records = file_names(split, of);
            let without: Vec<Value> = records.iter().map(|r| json!({"file_name": r["file_name"], "id": 1})).collect();
            match i {
                0 => write(data.join(of).join(name), csv(&records)),
                1 => write(data.join(of).join(name), json_lines(&without)),
                _ => parquet_of(&data.join(name), &records, &["file_name", "label", "class_name"]),
            }
        }
        let notes = ["image folder with metadata", "not in the metadata: 1 file"];
        assert_same(&dir, &data, &[], "test/bird/000.png", &notes);
    }
}

fn image_column(items: &[&Item], with: &str) -> ArrayRef {
    let bytes = items.iter().map(|item| (with != "path").then_some(item.bytes.as_slice()));
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter(bytes));
    if with == "binary" {
        return bytes;
    }
    let path = |item: &&Item| format!("../pictures/{}/{}/{}", item.split, CLASSES[item.class], item.name);
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values(items.iter().map(path)));
    Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]))
}

/// The columns `image` and `label`: integers, or names.
fn batch(items: &[&Item], image: &str, with: &str, label: &str, is_named: bool) -> RecordBatch {
    let labels: ArrayRef = match is_named {
        true => Arc::new(StringArray::from_iter_values(items.iter().map(|item| CLASSES[item.class]))),
        false => Arc::new(Int64Array::from_iter_values(items.iter().map(|item| item.class as i64))),
    };
    let columns = [(image, image_column(items, with)), (label, labels)];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn class_label(column: &str) -> String {
    json!({"info": {"features": {column: {"_type": "ClassLabel", "names": CLASSES}}}}).to_string()
}

fn parquet(file: &Path, batch: &RecordBatch, codec: Codec, features: Option<&str>) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let pairs =
        features.map(|text| vec![parquet::file::metadata::KeyValue::new("huggingface".into(), text.to_owned())]);
    let properties = WriterProperties::builder().set_compression(codec).set_key_value_metadata(pairs).build();
    let mut writer = ArrowWriter::try_new(File::create(file).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_is_read_in_every_layout_and_compression() {
    let names = class_label("label");
    let named = Some(names.as_str());
    for (train, test, codec) in [
        ("train.parquet", "test.parquet", Codec::UNCOMPRESSED),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet", Codec::SNAPPY),
        ("default/train/0000.parquet", "default/test/0000.parquet", Codec::GZIP(GzipLevel::default())),
        ("train-0.parquet", "dev-0.parquet", Codec::BROTLI(BrotliLevel::default())),
        ("train/a.parquet", "test/b.parquet", Codec::ZSTD(ZstdLevel::default())),
        ("training.parquet", "testing.parquet", Codec::LZ4_RAW),
    ] {
        let dir = tempdir().unwrap();
        let data = dir.path().join("data");
        for (split, file) in [("train", train), ("test", test)] {
            parquet(&data.join(file), &batch(&of_split(split), "image", "bytes", "label", false), codec, named);
        }
        assert_same(&dir, &data, &[], &format!("{test}#0"), &["Parquet shards, 4 classes"]);
    }
}

#[test]
fn labels_are_counted_named_or_explained_by_the_card() {
    let card = format!(
        "---\ndataset_info:\n  features:\n  - name: fine\n    dtype:\n      class_label:\n        names:\n{}---\n",
        CLASSES.iter().enumerate().map(|(i, name)| format!("          '{i}': {name}\n")).collect::<String>()
    );
    let columns = "the images are the column \"img\", the labels";
    for (image, with, label, is_named, notes) in [
        ("image", "bytes", "class", true, "the labels \"class\""),
        ("img", "bytes", "fine", false, columns),
        ("jpg", "binary", "label", true, "the images are the column \"jpg\""),
        ("image", "path", "label", true, ""),
    ] {
        let dir = tempdir().unwrap();
        folder(dir.path(), "train", "test");
        let data = dir.path().join("data");
        for split in ["train", "test"] {
            let batch = batch(&of_split(split), image, with, label, is_named);
            parquet(&data.join(format!("{split}.parquet")), &batch, Codec::SNAPPY, None);
        }
        if label == "fine" {
            write(data.join("README.md"), &card);
        }
        assert_same(&dir, &data, &[], "test.parquet#0", &[notes]);
    }
    // one file, whose integers nobody names: they are the labels, and what the classes are called
    let dir = tempdir().unwrap();
    let file = dir.path().join("all.parquet");
    let items: Vec<&Item> = items().iter().collect();
    parquet(&file, &batch(&items, "image", "bytes", "label", false), Codec::SNAPPY, None);
    let said = extract(&file, &dir.path().join("run"), &["--holdout", "0.2"]);
    assert_holds(&said, &["4 of 4 class names look like ids", "--class-names"]);
    let classes = query(&dir.path().join("run"), "SELECT DISTINCT label, class_name FROM embeddings ORDER BY label");
    assert_eq!(classes, ["0,0", "1,1", "2,2", "3,3"]);
    let half = |split: &str| {
        number(&dir.path().join("run"), &format!("SELECT COUNT(*) FROM embeddings WHERE split = '{split}'"))
    };
    assert_eq!(half("train") + half("test"), 200.0);
    assert!((20.0..65.0).contains(&half("test")), "{}", half("test"));
    let images = |split: &str| {
        query(
            &dir.path().join("run"),
            &format!("SELECT ROUND(norm, 4) AS length FROM embeddings WHERE split = '{split}'"),
        )
    };
    let mut all = [images("train"), images("test")].concat();
    let mut plain: Vec<String> = expected().iter().map(|row| row.rsplit(',').next().unwrap().to_owned()).collect();
    all.sort();
    plain.sort();
    assert_eq!(all, plain);
}

#[test]
fn arrow_files_of_save_to_disk_are_read() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("saved");
    for split in ["train", "test"] {
        let items = of_split(split);
        let (first, second) = items.split_at(items.len() / 3);
        for (i, items) in [first, second].into_iter().enumerate() {
            let file = data.join(split).join(format!("data-{i:05}-of-00002.arrow"));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let whole = batch(items, "image", "bytes", "label", false);
            let metadata: HashMap<_, _> = [("huggingface".to_owned(), class_label("label"))].into();
            let schema = Arc::new(Schema::new_with_metadata(whole.schema().fields().clone(), metadata));
            let whole: RecordBatch = whole.with_schema(schema.clone()).unwrap();
            let mut writer = StreamWriter::try_new(File::create(file).unwrap(), &schema).unwrap();
            for start in (0..whole.num_rows()).step_by(7) {
                writer.write(&whole.slice(start, 7.min(whole.num_rows() - start))).unwrap();
            }
            writer.finish().unwrap();
        }
        write(data.join(split).join("state.json"), "{}");
        write(data.join(split).join("cache-0123.arrow"), "of another time");
    }
    let more = ["--shard-rows", "23"];
    assert_same(&dir, &data, &more, "test/data-00000-of-00002.arrow#0", &["Arrow files", "cache-0123.arrow"]);
    fs::remove_file(data.join("train/data-00001-of-00002.arrow")).unwrap();
    refused(&data, &[], &["00001", "missing"]);
}

/// Writes tars of at most `size` samples: a picture, and its label as `label` says.
fn tars(pattern: &Path, items: &[&Item], size: usize, is_compressed: bool, label: &str) {
    fs::create_dir_all(pattern.parent().unwrap()).unwrap();
    for (n, items) in items.chunks(size).enumerate() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        for item in items {
            let key =
                format!("{}/{}-{}", item.split, CLASSES[item.class].replace(' ', "_"), item.name.replace(".png", ""));
            let (class, json) = (item.class, json!({"class": item.class, "kind": CLASSES[item.class]}).to_string());
            match label {
                "cls" => add(format!("{key}.cls"), format!("{class}\n").as_bytes()),
                "txt" => add(format!("{key}.txt"), CLASSES[class].as_bytes()),
                _ => add(format!("{key}.json"), json.as_bytes()),
            }
            add(format!("{key}.png"), &item.bytes);
        }
        let bytes = tar.into_inner().unwrap();
        let file = PathBuf::from(pattern.to_str().unwrap().replace('*', &format!("{n:04}")));
        let mut file = File::create(file).unwrap();
        if is_compressed {
            let mut encoder = GzEncoder::new(file, Compression::fast());
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap();
        } else {
            file.write_all(&bytes).unwrap();
        }
    }
}

#[test]
fn archives_are_read_as_they_are() {
    let names = CLASSES.join("\n");
    for (train, test, label, more, first) in [
        ("train-*.tar", "test-*.tar", "cls", &[][..], "test-0000.tar/test/bird-000.png"),
        ("train/*.tar.gz", "val/*.tar.gz", "txt", &[], "val/0000.tar.gz/test/bird-000.png"),
        (
            "pets-train-*.tgz",
            "pets-test-*.tgz",
            "json",
            &["--label-key", "kind"],
            "pets-test-0000.tgz/test/bird-000.png",
        ),
        ("train-*.tar", "test-*.tar", "json", &[], "test-0000.tar/test/bird-000.png"),
    ] {
        let dir = tempdir().unwrap();
        let data = dir.path().join("tars");
        let is_compressed = !train.ends_with(".tar");
        tars(&data.join(train), &of_split("train"), 37, is_compressed, label);
        tars(&data.join(test), &of_split("test"), 37, is_compressed, label);
        write(data.join("classnames.txt"), &names);
        let more = [more, &["--shard-rows", "31"]].concat();
        assert_same(&dir, &data, &more, first, &["WebDataset, 4 classes"]);
    }
}

#[test]
fn braces_name_several_archives() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("tars");
    tars(&data.join("train-*.tar"), &of_split("train"), 80, false, "txt");
    tars(&data.join("test-*.tar"), &of_split("test"), 80, false, "txt");
    let pattern = data.join("{train-{0000..0001},test-0000}.tar");
    assert_same(&dir, &pattern, &[], "test-0000.tar/test/bird-000.png", &[]);
    refused(&data.join("train-{0000..0003}.tar"), &[], &["train-0002.tar", "train-0003.tar"]);

    // one archive alone, without splits, and one that is cut
    let one = data.join("train-0000.tar");
    extract(&one, &dir.path().join("one"), &[]);
    assert_eq!(number(&dir.path().join("one"), "SELECT COUNT(*) FROM embeddings"), 80.0);
    let bytes = fs::read(&one).unwrap();
    write(data.join("cut.tar"), &bytes[..bytes.len() / 2 - 300]);
    refused(&data.join("cut.tar"), &[], &["cut.tar", "fetch it again"]);
    write(data.join("none.tar"), vec![0; 1024]);
    refused(&data.join("none.tar"), &[], &["no train images"]);
    refused(&one, &["--label-key", "kind"], &["train-0000.tar", "train/bird-000"]);
}

#[test]
fn an_interrupted_run_over_compressed_archives_goes_on() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("tars");
    tars(&data.join("train-*.tar.gz"), &of_split("train"), 100, true, "txt");
    tars(&data.join("test-*.tar.gz"), &of_split("test"), 100, true, "txt");
    let (run_dir, more) = (dir.path().join("run"), ["--shard-rows", "16"]);
    extract(&data, &run_dir, &more);
    let shards = run_dir.join("sources/base/embeddings/train");
    let (third, kept) = (shards.join("part-00003.parquet"), shards.join("part-00002.parquet"));
    let before = fs::read(&third).unwrap();
    fs::remove_file(&third).unwrap();
    let made = fs::metadata(&kept).unwrap().modified().unwrap();
    fs::remove_file(run_dir.join("sources/base/manifest.json")).unwrap();
    extract(&data, &run_dir, &more);
    assert_eq!(fs::read(&third).unwrap(), before);
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), made);
}

#[test]
fn what_is_no_data_is_said() {
    let dir = tempdir().unwrap();
    refused(&dir.path().join("none"), &[], &["none", "is not there"]);
    write(dir.path().join("a.zip"), "PK");
    refused(
        &dir.path().join("a.zip"),
        &[],
        &["a.zip", "WebDataset", "manifest"].map(|s| if s == "WebDataset" { "webdataset" } else { s }),
    );
    write(dir.path().join("empty/readme.txt"), "nothing");
    refused(&dir.path().join("empty"), &[], &["holds no images", "SPLIT/CLASS"]);
    let both = dir.path().join("both");
    tars(&both.join("train-*.tar"), &of_split("test"), 80, false, "txt");
    parquet(
        &both.join("train.parquet"),
        &batch(&of_split("test"), "image", "bytes", "label", true),
        Codec::SNAPPY,
        None,
    );
    refused(&both, &[], &["train.parquet", "train-0000.tar", "--format"]);
    extract(&both, &dir.path().join("run"), &["--format", "webdataset"]);
    assert_eq!(number(&dir.path().join("run"), "SELECT COUNT(*) FROM embeddings"), 40.0);
}

/// The columns that a table has beside its own.
#[test]
fn columns_of_ones_own_go_through() {
    let dir = tempdir().unwrap();
    let data = folder(dir.path(), "train", "test");
    let list = data.join("list.csv");
    write(data.join("broken.png"), "no picture");
    let text = "path,label,weight,note,norm,ok\ntrain/cat/000.png,1,0.5,\"a, \"\"b\"\"\",9,true\n\
                broken.png,1,7,lost,9,true\ntrain/dog/001.png,2,,,9,false\n";
    write(list.clone(), text);
    let kept = |name: &str, keep: &[&str]| {
        let run_dir = dir.path().join(name);
        let said = extract(&list, &run_dir, keep);
        (run_dir, said)
    };
    let (all, said) = kept("all", &["--keep", "all"]);
    assert_holds(&said, &["columns not kept: \"norm\" (a name of the table's own)"]);
    let found = query(&all, "SELECT sample_id, weight, note, ok FROM embeddings ORDER BY sample_id");
    assert_eq!(found, ["train/cat/000.png,0.5,\"a, \"\"b\"\"\",true", "train/dog/001.png,,,false"]);
    let (some, _) = kept("some", &["--keep", "note", "--keep", "weight"]);
    assert!(support::fails(&["query", "--run", path(&some), "SELECT ok FROM embeddings"], &["ok"]).contains("ok"));
    // another choice is another table
    let args = ["--keep", "note"];
    let model = support::golden("checkpoint");
    support::fails(&crate::sources::args(&list, &some, &model, &args), &["kept columns", "note, weight"]);
    refused(&list, &["--keep", "colour"], &["no column \"colour\"", "\"weight\"", "list.csv"]);
    refused(&list, &["--keep", "norm"], &["\"norm\" cannot be kept"]);
    refused(&data, &["--keep", "note"], &["no column \"note\"", "it has none"]);

    // of Parquet and of tars, which hold nothing for the pictures that are held out
    let items: Vec<&Item> = items().iter().collect();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..200));
    let whole = batch(&items, "image", "bytes", "label", true);
    let columns = whole.columns().iter().cloned().zip(["image", "label"]).map(|(column, name)| (name, column));
    let whole = RecordBatch::try_from_iter(columns.chain([("id", ids)])).unwrap();
    parquet(&dir.path().join("t/all.parquet"), &whole, Codec::SNAPPY, None);
    let run_dir = dir.path().join("parquet");
    extract(&dir.path().join("t"), &run_dir, &["--holdout", "0.3", "--keep", "id", "--shard-rows", "9"]);
    let off = "SELECT COUNT(*) FROM embeddings WHERE sample_id <> CONCAT('all.parquet#', CAST(id AS VARCHAR))";
    assert_eq!(number(&run_dir, off), 0.0);
    tars(&dir.path().join("w/*.tar"), &items, 64, false, "json");
    let run_dir = dir.path().join("tar");
    extract(&dir.path().join("w"), &run_dir, &["--keep", "kind", "--holdout", "0.3"]);
    let of = query(&run_dir, "SELECT DISTINCT label, kind FROM embeddings ORDER BY label");
    assert_eq!(of, ["0,bird", "1,cat", "2,dog", "3,red fox"]);
}

/// Every stage works where there is nothing to test on.
#[test]
fn a_run_without_test_rows_is_learned_from() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("pictures");
    for Item { class, name, bytes, .. } in of_split("test") {
        write(data.join(CLASSES[*class]).join(name), bytes);
    }
    let run_dir = dir.path().join("run");
    extract(&data, &run_dir, &[]);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "5"]);
    let said = run(&["prompt-tune", "--run", path(&run_dir), "--epochs", "2"]);
    assert_holds(&said, &["no test"]);
    for method in ["lda", "zero-shot", "evidence"] {
        let said = run(&["baseline", method, "--run", path(&run_dir), "--tasks", "2"]);
        assert_holds(&said, &["no test"]);
    }
    let said = run(&["quality", "--run", path(&run_dir)]);
    assert_holds(&said, &["mean of 4 classes"]);
    let metrics = "SELECT metric, value FROM metrics WHERE metric <> 'stored_bytes'";
    assert_eq!(query(&run_dir, metrics), [""; 0]);
    run(&["report", "--run", path(&run_dir), "--out", path(&dir.path().join("report.html"))]);
}
