//! What the classes of a source are, and what they are called.

use std::{fs, path::Path};

use tempfile::tempdir;

use crate::{
    sources::{args, assert_holds, extract, folder, png, refused, write},
    sources_shards::{good, hugging_face},
    support::{Rows, command, fails, golden, path, query, text},
};

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
        assert_eq!(extract(&data, &run_dir, &["--class-names", path(file)]).lines().count(), 1);
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
    let names = ["class 1 of the source was 0 \"tench, Tinca\", now it is 0 \"n01440764\""];
    fails(&args(&data, &dir.path().join("csv"), &golden("checkpoint"), &[]), &names);
    let other = file("other.csv", "n01440764,tench\nn01443537,goldfish\n");
    let run_dir = dir.path().join("csv");
    fails(&args(&data, &run_dir, &golden("checkpoint"), &["--class-names", path(&other)]), &["now it is 0 \"tench\""]);

    for (name, content, parts) in [
        ("a.csv", "n01440764,tench\n", ["no name for \"n01443537\"", "every class"]),
        ("b.csv", "n01440764,tench\nn1,carp\nn01443537,x\n", ["no class: \"n1\"", "0 to 1"]),
        ("c.csv", "n01440764,tench\nn01440764,carp\n", ["more than one name", "\"n01440764\""]),
        ("d.csv", "n01440764,tench,fish\n", ["record 1 has 3 values", "double quotes"]),
        ("e.csv", "n01440764,\nn01443537,x\n", ["\"n01440764\" is empty", "e.csv"]),
        ("f.json", "[\"tench\", \"goldfish\"]", ["object of texts", "f.json"]),
        ("g.json", r#"{"0": "tench", "0": "carp", "1": "x"}"#, ["more than one name", "\"0\""]),
        ("h.json", r#"{"0": 1, "1": "x"}"#, ["object of texts", "h.json"]),
        ("i.json", r#"{"0": "a", "1": "b"} {"0": "c"}"#, ["nothing else", "i.json"]),
        ("j.csv", "n01440764,_\nn01443537,x\n", ["\"n01440764\" is empty", "j.csv"]),
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
    fails(&args(&shards, &run_dir, &golden("checkpoint"), &[]), &["was 0 \"Katze\", now it is 0 \"cat\""]);

    // a class directory that is called as a header would be; blanks around values
    let odd = dir.path().join("odd");
    folder(&odd, &["a", "label"]);
    let run_dir = dir.path().join("odd-run");
    extract(&odd, &run_dir, &["--class-names", path(&file("odd.csv", "label, sticker\na , \"b, c\"\n"))]);
    let names = query(&run_dir, "SELECT DISTINCT label, class_name FROM embeddings ORDER BY label");
    assert_eq!(names, ["0,\"b, c\"", "1,sticker"]);
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
    assert_eq!(extract(&dir.path().join("data"), &dir.path().join("run"), &[]).lines().count(), 1);
}

#[test]
fn names_are_looked_at_whichever_way_classes_come() {
    let dir = tempdir().unwrap();
    let (table, run_dir) = (dir.path().join("table.parquet"), dir.path().join("run"));
    let import = ["import", path(&table), "--run", path(&run_dir)];
    let mut rows = Rows::clouds(3, 2, 1);
    rows.class_name.fill(" ".into());
    rows.write(&table);
    fails(&import, &["table.parquet", "labels are empty: 0 \" \", 1 \" \", 2 \" \"", "class_name"]);
    assert!(!run_dir.exists());
    rows.class_name.fill("same".into());
    rows.write(&table);
    let notes = text(&command(&import).output().unwrap().stderr);
    assert_holds(&notes, &["spelled nearly the same: 0 \"same\" (2 train, 1 test images), 1 \"same\""]);
    rows.class_name = rows.label.iter().map(|label| format!("n0144076{label}")).collect();
    rows.write(&table);
    let other = dir.path().join("other");
    let output = command(&["import", path(&table), "--run", path(&other)]).output().unwrap();
    assert!(output.status.success());
    assert_holds(
        &text(&output.stderr),
        &["3 of 3 class names look like ids", "--class-names FILE, or a column class_name, gives others"],
    );

    folder(&dir.path().join("folder"), &["cat", " "]);
    refused(&dir.path().join("folder"), &[], &["labels are empty: 0 \" \"", "--class-names"]);
    let shards = dir.path().join("shards");
    ["train", "test"].iter().for_each(|split| hugging_face(&shards.join(format!("{split}.parquet")), &["cat", ""]));
    refused(&shards, &[], &["labels are empty: 1 \"\"", "--class-names"]);
    let names = dir.path().join("names.csv");
    fs::write(&names, "0,cat\n1,dog\n").unwrap();
    extract(&shards, &dir.path().join("named"), &["--class-names", path(&names)]);
}
