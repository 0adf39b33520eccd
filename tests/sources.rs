//! What is a source: which files of a folder are read, and when they are read again; what is left
//! out is said.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cgil::{
    embeddings::{Embeddings, FIRST_SOURCE},
    rows::Train,
    run::Run,
};
use image::ImageFormat;
use tempfile::tempdir;

use crate::support::{
    Rows, as_another, command, encoded, ended, fails, files, golden, hugging_face_shard, number, open_to_all, path,
    picture, query, run, text,
};

/// `cgil extract` with the golden checkpoint.
pub fn args<'a>(data: &'a Path, run_dir: &'a Path, model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["extract", "--model", path(model), "--data", path(data), "--run", path(run_dir)], more].concat()
}

/// Extracts, which has to work, and returns the notes on standard error.
pub fn extract(data: &Path, run_dir: &Path, more: &[&str]) -> String {
    let output = command(&args(data, run_dir, &golden("checkpoint"), more)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// Extracts, which has to fail with `parts` and to write nothing.
pub fn refused(data: &Path, more: &[&str], parts: &[&str]) {
    let run_dir = data.with_file_name("refused");
    fails(&args(data, &run_dir, &golden("checkpoint"), more), parts);
    assert!(!run_dir.exists());
}

pub fn write(file: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

pub fn png(class: usize, i: usize) -> Vec<u8> {
    encoded(picture(class, i, 64), ImageFormat::Png)
}

/// An image folder of these classes, with two pictures of train and one of test each.
pub fn folder(data: &Path, classes: &[&str]) {
    for (c, class) in classes.iter().enumerate() {
        for (split, n) in [("train", 2), ("test", 1)] {
            (0..n).for_each(|i| write(data.join(split).join(class).join(format!("{i}.png")), png(c, i)));
        }
    }
}

pub fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in:\n{text}");
    }
}

#[test]
fn only_regular_files_are_opened() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    let pipe = data.join("train/cat/pipe.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", data.join("train/dog/zero.png")).unwrap();
    let output = ended(&args(&data, &run_dir, &golden("checkpoint"), &[]));
    let notes = text(&output.stderr);
    assert!(output.status.success(), "{notes}");
    assert_holds(&notes, &["no regular files: train/cat/pipe.png, train/dog/zero.png"]);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings"), 6.0);
}

#[test]
fn a_directory_that_cannot_be_listed_is_a_note_unless_rows_could_lie_there() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    open_to_all(dir.path());
    let model = golden("checkpoint");
    let extract = || as_another(&args(&data, &run_dir, &model, &[]));
    let (lost, private) = (data.join("lost+found"), data.join("train/cat/private"));
    locked(&lost);
    if let Some(output) = extract() {
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_holds(&text(&output.stderr), &["cannot be listed", "lost+found"]);
    }
    locked(&private);
    if let Some(output) = extract() {
        assert_eq!(output.status.code(), Some(1));
        assert_holds(&text(&output.stderr), &["train/cat/private", "rows of a split"]);
    }
    [lost, private].iter().for_each(|path| mode(path, 0o755));
}

/// Makes a directory that only root may list.
fn locked(path: &Path) {
    fs::create_dir(path).unwrap();
    mode(path, 0o0);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
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
fn what_changed_is_encoded_once_however_many_look() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    // of one size, since another one makes another source; what follows the end of a PNG is not read
    let write = |seed| {
        let padded = [png(0, seed), vec![0; 1 << 16]].concat()[..1 << 16].to_vec();
        fs::write(data.join("train/cat/0.png"), padded).unwrap();
    };
    write(9);
    extract(&data, &run_dir, &[]);
    let model = golden("checkpoint");
    for round in 0..4 {
        write(round);
        let start = |_| {
            let mut command = command(&args(&data, &run_dir, &model, &[]));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = (0..3).map(start).collect();
        let mut encoded = 0;
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            encoded += usize::from(!text(&output.stdout).contains(" 0 encoded now"));
        }
        assert_eq!(encoded, 1, "round {round}");
    }
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
        fs::File::options().append(true).open(file).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    };
    assert_holds(&printed(&data, &run_dir), &[" 5 encoded now", "5 embeddings", "1 quarantined"]);
    let source = Embeddings::open_complete(&Run::open(&run_dir, |_| ()).unwrap(), FIRST_SOURCE).unwrap();
    let quarantined = source.quarantined_of::<Train>(1).unwrap();
    assert_eq!(
        quarantined.iter().map(|q| (&q.sample_id[..], q.stage)).collect::<Vec<_>>(),
        [("train/dog/1.png", "decode")]
    );
    let ncm = ["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2"];
    run(&ncm);

    // nothing has changed, not even what was touched, or is broken as it was
    touch(&good);
    touch(&broken);
    let before = files(&run_dir);
    assert_holds(&printed(&data, &run_dir), &[" 0 encoded now", "1 quarantined"]);
    assert_eq!(files(&run_dir), before);
    // what was found to be the same is not read again
    let modified = |file: &Path| fs::metadata(file).unwrap().modified().unwrap();
    assert!(modified(&run_dir.join("sources/base/embeddings/train/part-00000.parquet")) > modified(&good));

    // repaired, at the same size and with an older time
    fs::write(&broken, &whole).unwrap();
    fs::File::options().append(true).open(&broken).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_holds(&printed(&data, &run_dir), &[" 4 encoded now", "6 embeddings", "0 quarantined"]);
    fails(&ncm, &["dataset-order-tasks-2", "from another sources/base than is there now", "remove"]);
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
    fails(&ncm, &["from another sources/base than is there now"]);
}

#[test]
fn an_image_that_may_be_read_now_leaves_the_quarantine() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    folder(&data, &["cat", "dog"]);
    let (private, other) = (data.join("test/cat/0.png"), data.join("test/dog/0.png"));
    // what follows the end of a PNG is not read
    let padded = |i| [png(1, i), vec![0; 1 << 16]].concat()[..1 << 16].to_vec();
    fs::write(&other, padded(0)).unwrap();
    mode(&private, 0o0);
    open_to_all(dir.path());
    let (run_dir, model) = (dir.path().join("run"), golden("checkpoint"));
    let extract = || as_another(&args(&data, &run_dir, &model, &["--shard-rows", "4"]));
    let Some(output) = extract() else { return };
    assert_holds(&text(&output.stdout), &[" 5 encoded now", "1 quarantined"]);
    assert_eq!(query(&run_dir, "SELECT stage FROM quarantine"), ["read"]);
    // one that never could be read keeps no other from being looked at
    fs::write(&other, padded(5)).unwrap();
    assert_holds(&text(&extract().unwrap().stdout), &[" 1 encoded now", "1 quarantined"]);
    mode(&private, 0o644);
    assert_holds(&text(&extract().unwrap().stdout), &[" 2 encoded now", "0 quarantined"]);
    // one that was read, and cannot be for now, is not taken for another
    fs::File::options().append(true).open(&private).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    mode(&private, 0o0);
    assert_holds(&text(&extract().unwrap().stdout), &[" 0 encoded now", "6 embeddings", "0 quarantined"]);
}

#[test]
fn every_image_of_the_quarantine_is_looked_at_again() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    folder(&data, &["cat", "dog"]);
    let file = |i: usize| data.join(format!("train/bird/{i:02}.png"));
    let broken = [1, 3, 30];
    (0..40).filter(|i| !broken.contains(i)).for_each(|i| write(file(i), png(2, i)));
    let spoil = |i: usize| write(file(i), vec![b'x'; png(2, i).len()]);
    broken.into_iter().for_each(spoil);
    let extract = |rows: &str| run(&args(&data, &run_dir, &golden("checkpoint"), &["--shard-rows", rows]));
    assert_holds(&extract("64"), &["43 embeddings", "3 quarantined"]);
    assert_holds(&extract("64"), &[" 0 encoded now", "3 quarantined"]);
    for (i, left) in [(3, 2), (30, 1), (1, 0)] {
        write(file(i), png(2, i));
        fs::File::options()
            .append(true)
            .open(file(i))
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_holds(&extract("64"), &[&format!(" {} encoded now", 44 - left), &format!("{left} quarantined")]);
    }

    // what another shard's quarantine says is no quarantine of this one
    fs::remove_dir_all(&run_dir).unwrap();
    [1, 9].into_iter().for_each(spoil);
    extract("8");
    let quarantine = run_dir.join("sources/base/quarantine/train");
    fs::copy(quarantine.join("part-00001.parquet"), quarantine.join("part-00000.parquet")).unwrap();
    let model = golden("checkpoint");
    fails(&args(&data, &run_dir, &model, &["--shard-rows", "8"]), &["part-00000.parquet is damaged: remove it"]);
}
