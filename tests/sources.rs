//! What is a source: which files are pictures, which shards are a split, what classes are called;
//! what is left out is said.

use std::{
    ffi::OsStr,
    fs,
    ops::Range,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray, StructArray, UInt64Array};
use arrow::datatypes::{DataType, Field};
use cgil::source::{Source, SourceOptions};
use image::{DynamicImage, Frame, ImageFormat, Rgb, RgbImage, codecs::gif::GifEncoder};
use serde_json::{Map, Value, json};
use tempfile::tempdir;

use crate::support::{
    Rows, command, encoded, fails, golden, hugging_face_shard, number, path, picture, query, run, text, write_parquet,
};

/// `cgil extract` with the golden checkpoint.
fn args<'a>(data: &'a Path, run_dir: &'a Path, model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["extract", "--model", path(model), "--data", path(data), "--run", path(run_dir)], more].concat()
}

/// Extracts, which has to work, and returns the notes on standard error.
fn extract(data: &Path, run_dir: &Path, more: &[&str]) -> String {
    let output = command(&args(data, run_dir, &golden("checkpoint"), more)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// Extracts, which has to fail with `parts` and to write nothing.
fn refused(data: &Path, more: &[&str], parts: &[&str]) {
    let run_dir = data.with_file_name("refused");
    fails(&args(data, &run_dir, &golden("checkpoint"), more), parts);
    assert!(!run_dir.exists());
}

fn write(file: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

fn png(class: usize, i: usize) -> Vec<u8> {
    encoded(picture(class, i, 64), ImageFormat::Png)
}

/// An image folder of these classes, with two pictures of train and one of test each.
fn folder(data: &Path, classes: &[&str]) {
    for (c, class) in classes.iter().enumerate() {
        for (split, n) in [("train", 2), ("test", 1)] {
            (0..n).for_each(|i| write(data.join(split).join(class).join(format!("{i}.png")), png(c, i)));
        }
    }
}

fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in:\n{text}");
    }
}

#[test]
fn the_content_decides_what_a_picture_is() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    let one = picture(0, 7, 64);
    let cat = data.join("train/cat");
    for (name, format) in [
        ("a.png", ImageFormat::Png),
        ("a.bmp", ImageFormat::Bmp),
        ("a.tif", ImageFormat::Tiff),
        ("a.TIFF", ImageFormat::Tiff),
        ("a.ppm", ImageFormat::Pnm),
        ("bmp.jpg", ImageFormat::Bmp),
        ("png.data", ImageFormat::Png),
        ("tiff", ImageFormat::Tiff),
        ("j.jpg", ImageFormat::Jpeg),
        ("j.jfif", ImageFormat::Jpeg),
        ("j.jpe", ImageFormat::Jpeg),
        ("j.png", ImageFormat::Jpeg),
        ("deep/er/j.heic", ImageFormat::Jpeg),
    ] {
        write(cat.join(name), encoded(one.clone(), format));
    }
    // an animation of two frames, and its first alone
    let frame = |class| Frame::new(DynamicImage::from(picture(class, 0, 64)).into_rgba8());
    for (name, frames) in [("g1.gif", vec![frame(1)]), ("g2.gif", vec![frame(1), frame(2)])] {
        let mut bytes = Vec::new();
        GifEncoder::new(&mut bytes).encode_frames(frames).unwrap();
        write(cat.join(name), bytes);
    }
    write(cat.join("x.avif"), b"\0\0\0\x20ftypavif\0\0\0\0");
    write(cat.join("x.jpg"), "<html>404</html>");
    write(cat.join("unnamed"), b"\0\0\0\x0cjP  \r\n\x87\n");
    write(cat.join("notes.txt"), "BM are two letters");
    write(cat.join("Thumbs.db"), "");
    let notes = extract(&data, &run_dir, &[]);
    assert_holds(&notes, &["train/cat/Thumbs.db and 1 more files"]);

    let same = |pattern: &str| {
        let sql = format!("SELECT COUNT(DISTINCT norm), COUNT(*) FROM embeddings WHERE {pattern}");
        query(&run_dir, &sql)[0].clone()
    };
    let lossless = "sample_id LIKE 'train/cat/a.%' OR sample_id IN \
                    ('train/cat/bmp.jpg', 'train/cat/png.data', 'train/cat/tiff')";
    assert_eq!(same(lossless), "1,8");
    assert_eq!(same("sample_id LIKE 'train/cat/%j.%'"), "1,5");
    assert_eq!(same("sample_id LIKE 'train/cat/g%.gif'"), "1,2");
    assert_eq!(
        query(&run_dir, "SELECT sample_id, stage, error FROM quarantine ORDER BY sample_id"),
        [
            "train/cat/unnamed,decode,JPEG 2000 is not read: convert it to PNG or JPEG",
            "train/cat/x.avif,decode,AVIF is not read: convert it to PNG or JPEG",
            "train/cat/x.jpg,decode,\"by its first bytes it is no picture: expected JPEG, PNG, WebP, GIF, BMP, TIFF or PNM\"",
        ]
    );
}

#[test]
fn a_tiff_is_turned_as_pillow_turns_it() {
    // 2 x 1 pixels, red and blue, and an orientation of 6: to be turned right
    let entry = |tag: u16, kind: u16, value: u32| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let mut tiff = b"II*\0\x10\0\0\0\xff\0\0\0\0\xff\0\0".to_vec();
    let entries = [
        entry(256, 4, 2),
        entry(257, 4, 1),
        [&258u16.to_le_bytes()[..], &3u16.to_le_bytes(), &3u32.to_le_bytes(), &130u32.to_le_bytes()].concat(),
        entry(259, 3, 1),
        entry(262, 3, 2),
        entry(273, 4, 8),
        entry(274, 3, 6),
        entry(277, 3, 3),
        entry(279, 4, 6),
    ];
    tiff.extend((entries.len() as u16).to_le_bytes());
    entries.iter().for_each(|entry| tiff.extend(entry));
    tiff.extend(0u32.to_le_bytes());
    tiff.extend([8u16, 8, 8].iter().flat_map(|bits| bits.to_le_bytes()));
    let turned = RgbImage::from_fn(1, 2, |_, y| if y == 0 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
    assert_eq!(cgil::picture::decode(&tiff, false).unwrap(), turned);
}

#[test]
fn around_a_gifs_first_frame_is_the_first_colour_of_its_palette() {
    let mut bytes = Vec::new();
    let frame = RgbImage::from_fn(4, 4, |x, _| if x < 2 { Rgb([200, 10, 30]) } else { Rgb([10, 20, 230]) });
    GifEncoder::new(&mut bytes).encode_frames([Frame::new(DynamicImage::from(frame).into_rgba8())]).unwrap();
    let inside = cgil::picture::decode(&bytes, false).unwrap();
    bytes[6..10].copy_from_slice(&[7, 0, 6, 0]); // the picture's size, which the frame leaves as it is
    let whole = cgil::picture::decode(&bytes, false).unwrap();
    let outside = *whole.get_pixel(6, 5);
    assert!(outside == *inside.get_pixel(0, 0) || outside == *inside.get_pixel(3, 0), "{outside:?}");
    let expected = RgbImage::from_fn(7, 6, |x, y| if x < 4 && y < 4 { *inside.get_pixel(x, y) } else { outside });
    assert_eq!(whole, expected);
}

#[test]
fn a_class_keeps_its_label_and_is_named_when_it_loses_its_pictures() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["bird", "cat", "dog"]);
    fs::remove_dir_all(data.join("train/bird")).unwrap();
    write(data.join("train/bird/a.txt"), "no picture");
    write(data.join("train/bird/b.txt"), "no picture");
    write(data.join("train/ant/a.csv"), "1,2");
    write(data.join("train/dog/x.txt"), "beside pictures");
    fs::create_dir_all(data.join("train/empty/below")).unwrap();
    let notes = extract(&data, &run_dir, &[]);
    assert_holds(
        &notes,
        &[
            "2 classes have no train images: \"ant\" (the one file in train/ant is no picture), \
             \"bird\" (none of the 2 files in train/bird is a picture)",
            "a class has no test images: \"ant\" (no file in test/ant)",
            "directories without a file are no classes: train/empty",
        ],
    );
    let classes = query(&run_dir, "SELECT DISTINCT label, class_name FROM embeddings ORDER BY label");
    assert_eq!(classes, ["1,bird", "2,cat", "3,dog"]);

    // those that cannot be decoded are rows of the quarantine
    for i in 0..2 {
        fs::write(data.join(format!("train/cat/{i}.png")), "text").unwrap();
    }
    let notes = extract(&data, &dir.path().join("other"), &[]);
    assert_holds(&notes, &["all train images of these classes are in the quarantine: \"cat\" (2)"]);
}

#[test]
fn only_regular_files_are_opened() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    let pipe = data.join("train/cat/pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", data.join("train/dog/zero.png")).unwrap();
    let notes = extract(&data, &run_dir, &[]);
    assert_holds(&notes, &["no regular files: train/cat/pipe.png, train/dog/zero.png"]);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings"), 6.0);
}

#[test]
fn a_directory_that_cannot_be_listed_is_a_note_unless_rows_could_lie_there() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    let locked = |name: &str| {
        let path = data.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
        (fs::read_dir(&path).is_err(), path)
    };
    let (is_locked, lost) = locked("lost+found");
    if !is_locked {
        return; // whoever may read everything cannot see this
    }
    assert_holds(&extract(&data, &run_dir, &[]), &["cannot be listed", "lost+found"]);
    let (_, private) = locked("train/cat/private");
    refused(&data, &[], &["train/cat/private", "rows of a split"]);
    for path in [lost, private] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn the_runs_directory_is_no_part_of_its_source() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("images");
    folder(&data, &["cat", "dog"]);
    let shards = dir.path().join("shards");
    for split in ["train", "test"] {
        hugging_face_shard(&shards.join(format!("{split}-0.parquet")), &[(0, Some(png(0, 0)))]);
    }
    for data in [&data, &shards] {
        let run_dir = data.join("run");
        for _ in 0..2 {
            assert!(!extract(data, &run_dir, &[]).contains("run/"));
        }
        let other = dir.path().join("link");
        std::os::unix::fs::symlink(&run_dir, &other).unwrap();
        assert!(!extract(data, &other, &[]).contains("run/"));
        fs::remove_file(other).unwrap();
        fails(&args(data, data, &golden("checkpoint"), &[]), &["both the data's directory and the run's"]);
    }
    let table = dir.path().join("table");
    Rows::clouds(2, 3, 1).write(&table.join("rows.parquet"));
    for _ in 0..2 {
        run(&["import", path(&table), "--run", path(&table.join("run"))]);
    }
    assert_eq!(number(&table.join("run"), "SELECT COUNT(*) FROM embeddings"), 8.0);
}

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
fn good(file: &Path) {
    shard(file, "image", &[("label", integers(&[0, 1]), CAT_AND_DOG)]);
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
        let others = ["train_noisy-00000-of-00001", "test_small-0", "train_test_split-info", "training", "x-train-0"];
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
        (vec!["train.parquet", "validation.parquet"], vec!["no test images", "validation.parquet"]),
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

    let cifar = written("img", &[("fine_label", zero_one.clone(), names), ("coarse_label", zeros.clone(), animals)]);
    let data = cifar.path().join("data");
    refused(&data, &[], &["fine_label, coarse_label", "--label-column"]);
    assert_eq!(classes(&cifar, &["--label-column", "coarse_label"]), ["animal"]);
    let both = ["--label-column", "fine_label", "--image-column", "img"];
    assert_eq!(classes(&cifar, &both), ["cat", "dog"]);
    refused(&data, &["--label-column", "label"], &["no column \"label\"", "img, fine_label, coarse_label"]);
    refused(&data, &["--label-column", "fine_label", "--image-column", "coarse_label"], &["struct<bytes"]);

    let images = cifar.path().join("images");
    folder(&images, &["cat", "dog"]);
    refused(&images, &["--label-column", "label"], &["images", "no Parquet shards", "--label-column"]);

    let plain = written("image", &[("label", zero_one, None)]);
    refused(&plain.path().join("data"), &[], &["\"label\"", "Int64", "class_encode_column"]);
    let words: ArrayRef = Arc::new(StringArray::from(vec!["cat", "dog"]));
    let worded = written("image", &[("label", words, None)]);
    refused(&worded.path().join("data"), &[], &["\"label\"", "Utf8", "class_encode_column"]);
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
fn classes_are_called_as_a_file_says() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    folder(&data, &["n01440764", "n01443537"]);
    let notes = extract(&data, &dir.path().join("ids"), &[]);
    assert_holds(&notes, &["look like ids", "\"n01440764\"", "--class-names"]);
    let file = |name: &str, content: &str| {
        fs::write(dir.path().join(name), content).unwrap();
        dir.path().join(name)
    };
    let by = |run_name: &str, file: &Path| {
        let run_dir = dir.path().join(run_name);
        assert_eq!(extract(&data, &run_dir, &["--class-names", path(file)]), "");
        query(&run_dir, "SELECT DISTINCT label, class_name FROM embeddings ORDER BY label")
    };
    let expected = ["0,\"tench, Tinca\"", "1,goldfish"];
    let csv = file("names.csv", "directory,name\nn01443537,goldfish\r\nn01440764,\"tench, Tinca\"\n");
    assert_eq!(by("csv", &csv), expected);
    let json = file("names.json", r#"{"n01440764": "tench, Tinca", "n01443537": "goldfish"}"#);
    assert_eq!(by("json", &json), expected);
    assert_eq!(by("labels", &file("labels.JSON", r#"{"1": "goldfish", "0": "tench, Tinca"}"#)), expected);
    by("json", &csv); // the same names, in other words

    // other names are another source
    fails(&args(&data, &dir.path().join("csv"), &golden("checkpoint"), &[]), &["source", "fingerprint"]);
    let other = file("other.csv", "n01440764,tench\nn01443537,goldfish\n");
    let run_dir = dir.path().join("csv");
    fails(&args(&data, &run_dir, &golden("checkpoint"), &["--class-names", path(&other)]), &["source", "fingerprint"]);

    for (name, content, parts) in [
        ("a.csv", "n01440764,tench\n", ["no name for \"n01443537\"", "every class"]),
        ("b.csv", "n01440764,tench\nn1,carp\nn01443537,x\n", ["no class: \"n1\"", "0 to 1"]),
        ("c.csv", "n01440764,tench\nn01440764,carp\n", ["more than one name", "\"n01440764\""]),
        ("d.csv", "n01440764,tench,fish\n", ["record 1 has 3 values", "double quotes"]),
        ("e.csv", "n01440764,\nn01443537,x\n", ["\"n01440764\" is empty", "e.csv"]),
        ("f.json", "[\"tench\", \"goldfish\"]", ["object of texts", "f.json"]),
        ("g.json", r#"{"0": "tench", "0": "carp", "1": "x"}"#, ["more than one name", "\"0\""]),
        ("h.json", r#"{"0": 1, "1": "x"}"#, ["object of texts", "h.json"]),
    ] {
        refused(&data, &["--class-names", path(&file(name, content))], &parts);
    }
    refused(&data, &["--class-names", "nowhere.csv"], &["nowhere.csv", "cannot be read"]);

    // Parquet shards, whose classes have names of their own
    let shards = dir.path().join("shards");
    ["train.parquet", "test.parquet"].iter().for_each(|name| good(&shards.join(name)));
    let run_dir = dir.path().join("renamed");
    extract(&shards, &run_dir, &["--class-names", path(&file("animals.csv", "dog,Hund\ncat,Katze\n"))]);
    let names = query(&run_dir, "SELECT DISTINCT class_name FROM embeddings ORDER BY class_name");
    assert_eq!(names, ["Hund", "Katze"]);
    fails(&args(&shards, &run_dir, &golden("checkpoint"), &[]), &["source", "fingerprint"]);
}

#[test]
fn two_spellings_of_a_class_are_noted() {
    for (train, test) in [("caf\u{e9}", "cafe\u{301}"), ("Cat", "cat"), ("cat", "cat "), ("big cat", "big  cat")] {
        let dir = tempdir().unwrap();
        let data = dir.path().join("data");
        folder(&data, &["dog"]);
        write(data.join("train").join(train).join("0.png"), png(1, 0));
        write(data.join("test").join(test).join("0.png"), png(1, 1));
        let notes = extract(&data, &dir.path().join("run"), &[]);
        assert_holds(&notes, &["spelled nearly the same", train, test, "(1 train, 0 test images)", "(0 train, 1 test"]);
    }
    let dir = tempdir().unwrap();
    folder(&dir.path().join("data"), &["cat", "dog"]);
    assert_eq!(extract(&dir.path().join("data"), &dir.path().join("run"), &[]), "");
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

#[test]
fn names_that_are_not_utf_8_have_ids_of_their_own() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    for name in [&b"\xe9.png"[..], b"\xe8.png", b"\\xe9.png"] {
        write(data.join("train/cat").join(OsStr::from_bytes(name)), png(0, 9));
    }
    extract(&data, &run_dir, &[]);
    let ids = query(&run_dir, "SELECT sample_id FROM embeddings WHERE sample_id LIKE '%xe%' ORDER BY sample_id");
    assert_eq!(ids, ["./train/cat/\\xe8.png", "./train/cat/\\xe9.png", "train/cat/\\xe9.png"]);

    write(data.join("test").join(OsStr::from_bytes(b"caf\xe9")).join("a.png"), png(0, 0));
    refused(&data, &[], &["test/caf", "not UTF-8", "rename"]);
}

/// What an extraction prints.
fn printed(data: &Path, run_dir: &Path) -> String {
    run(&args(data, run_dir, &golden("checkpoint"), &["--shard-rows", "4"]))
}

#[test]
fn images_that_changed_are_encoded_again_and_what_was_made_of_the_old_ones_is_left_out() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    let (broken, good) = (data.join("train/dog/1.png"), data.join("train/cat/0.png"));
    let whole = fs::read(&broken).unwrap();
    fs::write(&broken, vec![b'x'; whole.len()]).unwrap();
    // what follows the end of a PNG is not read
    let padded = |class, i| [png(class, i), vec![0; 1 << 16]].concat()[..1 << 16].to_vec();
    fs::write(&good, padded(0, 0)).unwrap();
    let touch = |file: &Path| {
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        fs::File::options().append(true).open(file).unwrap().set_modified(later).unwrap();
    };
    assert_holds(&printed(&data, &run_dir), &["6 encoded now", "5 embeddings", "1 quarantined"]);
    let ncm = ["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2"];
    run(&ncm);

    // nothing has changed, not even what was touched, or is broken as it was
    touch(&good);
    touch(&broken);
    let before = crate::support::files(&run_dir);
    assert_holds(&printed(&data, &run_dir), &[" 0 encoded now", "1 quarantined"]);
    assert_eq!(crate::support::files(&run_dir), before);

    // repaired, at the same size and with an older time
    fs::write(&broken, &whole).unwrap();
    fs::File::options().append(true).open(&broken).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_holds(&printed(&data, &run_dir), &[" 4 encoded now", "6 embeddings", "0 quarantined"]);
    fails(&ncm, &["dataset-order-tasks-2", "source were not those of sources/base now", "remove"]);
    let output =
        command(&["query", "--run", path(&run_dir), "--format", "csv", "SELECT COUNT(*) FROM metrics"]).output();
    let output = output.unwrap();
    assert_eq!(text(&output.stdout).lines().nth(1), Some("0"));
    assert_holds(
        &text(&output.stderr),
        &["left out: streams/dataset-order-tasks-2/task-01 was made from other source"],
    );
    fails(&["report", "--run", path(&run_dir)], &["no finished results"]);

    // another picture of the same size
    fs::remove_dir_all(run_dir.join("streams")).unwrap();
    fs::remove_dir_all(run_dir.join("results")).unwrap();
    fs::remove_dir_all(run_dir.join("statistics")).unwrap();
    run(&ncm);
    fs::write(&good, padded(1, 5)).unwrap();
    touch(&good);
    assert_holds(&printed(&data, &run_dir), &[" 4 encoded now", "0 quarantined"]);
    fails(&ncm, &["source were not those of sources/base now"]);
}

#[test]
fn an_image_that_may_be_read_now_leaves_the_quarantine() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    folder(&data, &["cat", "dog"]);
    let private = data.join("test/cat/0.png");
    let mode = |mode| fs::set_permissions(&private, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o0);
    let run_dir = dir.path().join("run");
    if fs::read(&private).is_ok() {
        return; // whoever may read everything cannot see this
    }
    assert_holds(&printed(&data, &run_dir), &["6 encoded now", "1 quarantined"]);
    assert_eq!(query(&run_dir, "SELECT stage FROM quarantine"), ["read"]);
    mode(0o644);
    assert_holds(&printed(&data, &run_dir), &[" 2 encoded now", "0 quarantined"]);
}
