//! Listings of archives: made once, kept in the run, and never taken for what they are not.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, SystemTime},
};

use tempfile::tempdir;

use crate::{
    formats_odd::tar,
    sources::{args, assert_holds, extract, png, refused},
    support::{
        as_another, assert_same_tables, command, copy, fails, files, golden, open_to_all, path, query, run, text,
    },
};

const SHARDS: [&str; 2] = ["--shard-rows", "4"];

const CLASSES: [&str; 2] = ["ant", "bee"];

/// Archives of six samples of two classes each, of a split, the first of which has a sample without a
/// picture too; made an hour ago, since what is new is not listed.
fn tars(data: &Path, split: &str, archives: Range<usize>, classes: [&str; 2]) {
    for archive in archives {
        let (mut names, mut bytes) = (Vec::new(), Vec::new());
        for i in 0..6 {
            let class = i % 2;
            let json = format!(
                r#"{{"label": "{}", "turned": "{}", "x": {}, "note": "no. {i}"}}"#,
                classes[class],
                classes[1 - class],
                i as f64 / 7.0
            );
            names.extend([format!("{split}-{archive}-{i}.png"), format!("{split}-{archive}-{i}.json")]);
            bytes.extend([png(class, 10 * archive + i), json.into_bytes()]);
        }
        if archive == 0 {
            names.push("alone.txt".into());
            bytes.push(b"ant".to_vec());
        }
        let members: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(bytes.iter().map(Vec::as_slice)).collect();
        let file = data.join(format!("{split}-{archive:03}.tar"));
        tar(&file, &members);
        set_modified(&file, SystemTime::now() - Duration::from_secs(3600));
    }
}

pub fn set_modified(file: &Path, time: SystemTime) {
    fs::File::options().append(true).open(file).unwrap().set_modified(time).unwrap();
}

/// Five archives to learn from, one to test on.
fn data(dir: &Path) -> PathBuf {
    let data = dir.join("tars");
    tars(&data, "train", 0..5, CLASSES);
    tars(&data, "test", 0..1, CLASSES);
    data
}

/// The listings of a run with their bytes, by their places.
fn listings(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = files(run_dir).into_iter();
    all.filter(|(name, _)| name.starts_with("listings") && !name.ends_with(".lock")).collect()
}

/// What is said of data, by an extraction that works.
fn said(data: &Path, run_dir: &Path, more: &[&str]) -> Vec<String> {
    let said = extract(data, run_dir, more);
    said.lines().filter(|line| line.contains("note") || line.contains("WebDataset")).map(str::to_owned).collect()
}

/// Replaces what is in an archive, so that nobody who looks at its size and time knows.
fn blind(archive: &Path) {
    let found = fs::metadata(archive).unwrap();
    fs::write(archive, vec![0x55; found.len() as usize]).unwrap();
    set_modified(archive, found.modified().unwrap());
}

fn blind_all(data: &Path) {
    fs::read_dir(data).unwrap().for_each(|entry| blind(&entry.unwrap().path()));
}

#[test]
fn an_archive_is_looked_through_once() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (data(dir.path()), dir.path().join("run"), golden("checkpoint"));
    let more = [&SHARDS[..], &["--keep", "all"]].concat();
    let before = said(&data, &run_dir, &more);
    assert_holds(&before.join("\n"), &["2 classes, 30 train", "left out of train-000.tar: 1 sample without a picture"]);
    assert_eq!(listings(&run_dir).len(), 6);
    // a shard of the first archive alone, when the others cannot be read any more
    let (whole, shard) = (files(&run_dir), "sources/base/embeddings/train/part-00000.parquet");
    fs::remove_file(run_dir.join(shard)).unwrap();
    fs::remove_file(run_dir.join("sources/base/manifest.json")).unwrap();
    (1..5).for_each(|k| blind(&data.join(format!("train-{k:03}.tar"))));
    blind(&data.join("test-000.tar"));
    assert_eq!(said(&data, &run_dir, &more), before);
    assert!(files(&run_dir) == whole);
    // nothing at all
    blind(&data.join("train-000.tar"));
    assert!(run(&args(&data, &run_dir, &model, &more)).contains(" 0 encoded now"));
    assert!(files(&run_dir) == whole);
    refused(&data, &more, &["train-000.tar is damaged at its beginning, or no tar file", "--skip-damaged"]);
}

#[test]
fn a_listing_of_something_else_or_that_is_damaged_is_made_again() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (data(dir.path()), dir.path().join("run"), golden("checkpoint"));
    extract(&data, &run_dir, &SHARDS);
    let begin = |name: &str| {
        let begun = dir.path().join(name);
        copy(&run_dir.join("listings"), &begun.join("listings"));
        begun
    };
    // a run that begins with listings, and one that does not
    let assert_same = |name: &str, more: &[&str]| {
        let (begun, fresh) = (begin(name), dir.path().join(format!("{name}-fresh")));
        let more = [&SHARDS[..], more].concat();
        assert_eq!(said(&data, &begun, &more), said(&data, &fresh, &more), "{name}");
        assert_same_tables(&fresh, &begun);
        assert!(listings(&fresh) == listings(&begun), "{name}");
        fresh
    };
    assert_same("same", &[]);
    let turned = assert_same("label", &["--label-key", "turned"]);
    assert!(listings(&turned) != listings(&run_dir));
    assert_same("keep", &["--keep", "x"]);
    assert_same("keep-all", &["--keep", "all"]);

    // whatever became of them
    for (i, file) in listings(&run_dir).into_keys().enumerate() {
        let file = run_dir.join(file);
        let mut bytes = fs::read(&file).unwrap();
        match i {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.fill(7),
            3 => bytes[40] ^= 0x10,
            4 => bytes = fs::read(golden("jpeg_444.jpg")).unwrap(),
            _ => bytes.extend([0; 3]),
        }
        fs::write(&file, bytes).unwrap();
    }
    assert!(run(&args(&data, &run_dir, &model, &SHARDS)).contains(" 0 encoded now"));
    assert!(listings(&run_dir) == listings(&dir.path().join("same-fresh")));

    // an archive that is replaced: by others of its size, and of another time
    let file = data.join("train-001.tar");
    let before = fs::metadata(&file).unwrap();
    tars(&data, "train", 1..2, ["bee", "ant"]);
    assert_eq!(fs::metadata(&file).unwrap().len(), before.len());
    let later = before.modified().unwrap() + Duration::from_millis(3);
    set_modified(&file, later);
    assert_same("replaced", &[]);
    fails(&args(&data, &run_dir, &model, &SHARDS), &["holds other embeddings"]);
}

#[test]
fn partitions_share_what_they_list() {
    let dir = tempdir().unwrap();
    let (data, model) = (data(dir.path()), golden("checkpoint"));
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    extract(&data, &whole, &SHARDS);
    let start = |partition: &str| -> Child {
        let args = args(&data, &parts, &model, &SHARDS);
        let mut command = command(&[&args[..], &["--partition", partition]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in ["0/3", "1/3", "2/3", "1/3"].map(start) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_same_tables(&whole, &parts);
    assert!(listings(&whole) == listings(&parts));

    // a plan lists before them; then a partition reads its own pictures alone
    let planned = dir.path().join("planned");
    let of_data =
        ["plan", "--partitions", "10", "--model", path(&model), "--data", path(&data), "--run", path(&planned)];
    run(&[&of_data[..], &SHARDS].concat());
    assert!(listings(&whole) == listings(&planned));
    assert_eq!(run(&["status", "--run", path(&planned)]), format!("{} has nothing yet\n", planned.display()));
    (1..5).for_each(|k| blind(&data.join(format!("train-{k:03}.tar"))));
    blind(&data.join("test-000.tar"));
    let printed = run(&[&args(&data, &planned, &model, &SHARDS)[..], &["--partition", "0/10"]].concat());
    assert!(printed.contains("4 images encoded now"), "{printed}");
    let shard = "sources/base/embeddings/train/part-00000.parquet";
    assert_eq!(fs::read(planned.join(shard)).unwrap(), fs::read(whole.join(shard)).unwrap());
}

#[test]
fn a_run_that_may_only_be_read_gets_no_listings() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (data(dir.path()), dir.path().join("run"), golden("checkpoint"));
    extract(&data, &run_dir, &SHARDS);
    fs::remove_dir_all(run_dir.join("listings")).unwrap();
    open_to_all(dir.path());
    let mode = |mode| fs::set_permissions(&run_dir, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    let output = as_another(&args(&data, &run_dir, &model, &SHARDS));
    mode(0o755);
    let Some(output) = output else { return };
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_holds(&text(&output.stdout), &[" 0 encoded now"]);
    assert!(!run_dir.join("listings").exists());
}

#[test]
fn listings_go_with_the_embeddings_that_are_forgotten() {
    let dir = tempdir().unwrap();
    let (run_dir, model) = (dir.path().join("run"), golden("checkpoint"));
    let [first, second, link] = ["first", "second", "link"].map(|name| dir.path().join(name));
    tars(&first, "train", 0..2, CLASSES);
    tars(&second, "train", 2..4, ["cat", "dog"]);
    let little = ["--fit-vae", "epochs=3,hidden=16,latent=4", "--prompt-tune", "epochs=2"];
    let add = |data: &Path, more: &[&str]| {
        let of_data = ["add", "--run", path(&run_dir), "--data", path(data), "--model", path(&model)];
        run(&[&of_data[..], &little, more].concat())
    };
    let there = || -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(run_dir.join("listings"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    add(&first, &[]);
    add(&second, &[]);
    assert_eq!(there(), ["base", "delivery-2"]);
    // the same under another name is what it was
    std::os::unix::fs::symlink(&first, &link).unwrap();
    add(&link, &[]);
    let other = ["add", "--run", path(&run_dir), "--data", path(&link), "--model", path(&model), "--name", "other"];
    fails(&other, &["was added as base already"]);
    assert_eq!(there(), ["base", "delivery-2"]);

    // what is left where an earlier try was killed goes too
    copy(&run_dir.join("listings/base"), &run_dir.join("listings/.1-2-3.tmp"));
    run(&["forget", "--run", path(&run_dir), "--source", "base", "--overwrite"]);
    assert_eq!(there(), ["delivery-2"]);
    add(&first, &[]); // finds that it is learned
    add(&link, &[]);
    assert_eq!(there(), ["delivery-2"]);
    add(&second, &["--forget"]);
    assert!(!run_dir.join("listings").exists());
    assert_eq!(query(&run_dir, "SELECT COUNT(*) FROM classes"), ["4"]);
}

#[test]
fn refused_data_begins_no_run() {
    let dir = tempdir().unwrap();
    let data = data(dir.path());
    blind(&data.join("train-004.tar"));
    let run_dir = dir.path().join("runs/deep/run");
    fails(&args(&data, &run_dir, &golden("checkpoint"), &[]), &["train-004.tar"]);
    assert!(!dir.path().join("runs").exists());
    // nor a source of a run, where it is added
    let (model, there) = (golden("checkpoint"), dir.path().join("there"));
    fs::create_dir_all(&there).unwrap();
    fails(&["add", "--run", path(&there), "--data", path(&data), "--model", path(&model)], &["train-004.tar"]);
    assert!(!there.join("listings").exists());
    // what is of a run that is there stays, and is not listed again
    fs::create_dir_all(&run_dir).unwrap();
    fails(&args(&data, &run_dir, &golden("checkpoint"), &[]), &["train-004.tar"]);
    assert_eq!(listings(&run_dir).len(), 4);
    blind_all(&data);
    tars(&data, "train", 4..5, CLASSES);
    fails(&args(&data, &run_dir, &golden("checkpoint"), &[]), &["test-000.tar"]);
    assert_eq!(listings(&run_dir).len(), 5);
}

#[test]
fn an_archive_that_may_be_written_to_still_is_not_listed() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (data(dir.path()), dir.path().join("run"));
    set_modified(&data.join("train-001.tar"), SystemTime::now() + Duration::from_secs(60));
    extract(&data, &run_dir, &SHARDS);
    assert_eq!(listings(&run_dir).len(), 5);
}
