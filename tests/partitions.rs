//! Partitions: parts of a stage that run anywhere, at once, in any order and again, and leave the
//! tables of one process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::tempdir;

use crate::support::{
    Rows, assert_same_tables, command, copy, fails, golden, hugging_face_shard, image_folder, imported, number, path,
    query, run, text,
};

/// Exit code of what may go well when it is tried again.
const TRANSIENT: i32 = 75;

const STREAM: &str = "latents/dataset-order-tasks-3/vae";

/// `cgil extract` of a folder into a run, with small shards.
fn extract(data: &Path, run_dir: &Path) -> Vec<String> {
    let checkpoint = golden("checkpoint");
    let args =
        ["extract", "--model", path(&checkpoint), "--data", path(data), "--run", path(run_dir), "--shard-rows", "8"];
    args.map(str::to_owned).to_vec()
}

/// `cgil fit-vae` in three tasks, which takes a while.
fn fit(run_dir: &Path) -> Vec<String> {
    let args =
        ["fit-vae", "--run", path(run_dir), "--tasks", "3", "--epochs", "300", "--hidden", "64", "--latent", "8"];
    args.map(str::to_owned).to_vec()
}

/// A command for a partition alone.
fn part(command: &[String], partition: &str) -> Vec<String> {
    [command, &["--partition".to_owned(), partition.to_owned()]].concat()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn start(args: &[String]) -> Child {
    command(&words(args)).env("RAYON_NUM_THREADS", "1").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a process ends with, which has to be success.
fn end(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Sends a signal once `ready` holds; panics if the process ended before. Returns its end.
fn signal_once(args: &[String], signal: &str, ready: impl Fn() -> bool) -> Output {
    let mut child = start(args);
    let began = Instant::now();
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "{args:?} ended before it was signalled");
        assert!(began.elapsed() < Duration::from_secs(120), "{args:?} did not get far enough");
        thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    child.wait_with_output().unwrap()
}

fn shards(run_dir: &Path) -> usize {
    let count =
        |split: &str| fs::read_dir(run_dir.join("sources/base/embeddings").join(split)).into_iter().flatten().count();
    ["train", "test"].map(count).iter().sum()
}

/// Files that were not finished.
fn unfinished(dir: &Path) -> Vec<PathBuf> {
    let names = crate::support::files(dir).into_keys();
    names.filter(|name| name.to_string_lossy().ends_with(".tmp")).collect()
}

#[test]
fn partitions_of_shards_in_any_order_and_twice_at_once_leave_the_tables_of_one_process() {
    let dir = tempdir().unwrap();
    let (data, whole, parts) = (dir.path().join("images"), dir.path().join("whole"), dir.path().join("parts"));
    image_folder(&data, 20, 6);
    let picture = fs::read(data.join("train/river/001.png")).unwrap();
    let broken = data.join("train/river/broken.png");
    fs::write(&broken, [&picture[..8], &vec![0; picture.len() - 8]].concat()).unwrap();
    run(&words(&extract(&data, &whole)));

    let of = |partition: &str| part(&extract(&data, &parts), partition);
    let printed = run(&words(&of("2/3")));
    assert!(printed.contains("partition 2/3") && printed.contains("lack 10 of 14 shards"), "{printed}");
    assert_eq!(shards(&parts), 4); // 2, 5, 8 and 11
    fails(&["fit-vae", "--run", path(&parts), "--tasks", "2"], &["are not complete", "10 of 14 shards"]);
    // each of the others twice at once; nobody waits for another
    let running: Vec<Child> = ["0/3", "1/3", "1/3", "0/3"].map(|partition| start(&of(partition))).into();
    let ends: Vec<String> = running.into_iter().map(|child| text(&end(child).stdout)).collect();
    assert!(ends.iter().any(|printed| printed.contains("1 quarantined")), "{ends:?}");
    assert_same_tables(&whole, &parts);
    assert!(unfinished(&parts).is_empty());
    // again, whole and in parts of another number
    for more in [&[][..], &["--partition", "3/4"]] {
        let printed = run(&[&words(&extract(&data, &parts))[..], more].concat());
        assert!(printed.contains(" 0 encoded now"), "{printed}");
    }
    assert_same_tables(&whole, &parts);

    // an image that is repaired is encoded by the partition of its shard
    fs::write(&broken, &picture).unwrap();
    for i in 0..3 {
        run(&words(&of(&format!("{i}/3"))));
    }
    assert_eq!(number(&parts, "SELECT COUNT(*) FROM quarantine"), 0.0);
    run(&words(&extract(&data, &whole)));
    assert_same_tables(&whole, &parts);
}

#[test]
fn partitions_that_were_killed_or_stopped_go_on_to_the_same_tables() {
    let dir = tempdir().unwrap();
    let (data, whole, parts) = (dir.path().join("images"), dir.path().join("whole"), dir.path().join("parts"));
    image_folder(&data, 60, 20);
    run(&words(&extract(&data, &whole)));
    let of = |partition: &str| part(&extract(&data, &parts), partition);
    for (signal, code, said) in [
        ("-KILL", None, ""),
        ("-TERM", Some(TRANSIENT), "stopped by SIGTERM"),
        ("-USR1", Some(TRANSIENT), "stopped before all was done"),
    ] {
        let before = shards(&parts);
        let output = signal_once(&of("0/2"), signal, || shards(&parts) > before);
        assert_eq!(output.status.code(), code, "{signal} {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
        let status = run(&["status", "--run", path(&parts)]);
        assert!(status.contains(if code.is_none() { "0/2 runs on" } else { "0/2 stopped on" }), "{status}");
        assert!(status.contains(said), "{status}");
    }
    assert!(shards(&parts) < 20);
    let running = ["0/2", "1/2"].map(|partition| start(&of(partition)));
    running.into_iter().for_each(|child| drop(end(child)));
    assert_same_tables(&whole, &parts);
    assert!(unfinished(&parts).is_empty());
}

#[test]
fn partitions_of_classes_twice_at_once_killed_and_stopped_leave_the_generators_of_one_process() {
    let dir = tempdir().unwrap();
    let rows = Rows::clouds(6, 40, 4);
    let (whole, parts) = (imported(dir.path(), "whole", &rows), dir.path().join("parts"));
    copy(&whole, &parts);
    run(&words(&fit(&whole)));

    let of = |partition: &str| part(&fit(&parts), partition);
    let printed = run(&words(&of("1/4")));
    assert!(printed.contains("its generators are there, 2 fitted now; other partitions lack 4 of 6"), "{printed}");
    let kept = |task: usize, class: usize| {
        parts.join(STREAM).join(format!("task-0{task}.partial/class-{class}.safetensors")).exists()
    };
    assert!(kept(1, 1) && kept(3, 5) && !kept(1, 0));
    // what is fitted otherwise is not mixed in
    let mut other = of("3/4");
    other.extend(["--lr", "0.5"].map(str::to_owned));
    run(&words(&other)); // nobody is at work, so what was begun otherwise goes
    assert!(!kept(1, 1) && kept(2, 3));
    let output = signal_once(&of("0/2"), "-USR1", || kept(1, 0));
    assert_eq!(output.status.code(), Some(TRANSIENT), "{}", text(&output.stderr));
    signal_once(&of("0/2"), "-KILL", || kept(2, 2));
    let output = signal_once(&of("1/2"), "-TERM", || kept(1, 1) || kept(2, 3) || kept(3, 5));
    assert_eq!(output.status.code(), Some(TRANSIENT));
    let running = ["0/2", "1/2", "0/2", "2/3"].map(|partition| start(&of(partition)));
    running.into_iter().for_each(|child| drop(end(child)));
    assert_same_tables(&whole, &parts);
    assert!(run(&words(&of("1/2"))).contains("6 generators in 3 tasks"));
    let left = fs::read_dir(parts.join(STREAM)).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().ends_with(".partial")));
    assert_eq!(query(&parts, "SELECT COUNT(*) FROM latents"), ["6"]);
}

#[test]
fn a_source_that_cannot_be_read_in_places_costs_these_shards_alone() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    let images = |n: usize| -> Vec<(i64, Option<Vec<u8>>)> {
        let png = |i: usize| crate::support::encoded(crate::support::picture(i % 2, i, 40), image::ImageFormat::Png);
        (0..n).map(|i| ((i % 2) as i64, Some(png(i)))).collect()
    };
    for shard in 0..3 {
        hugging_face_shard(&data.join(format!("train-0000{shard}-of-00003.parquet")), &images(8));
    }
    hugging_face_shard(&data.join("test-00000-of-00001.parquet"), &images(4));
    // in the middle of the images of the second; its footer and labels are whole
    let bad = data.join("train-00001-of-00003.parquet");
    let whole = fs::read(&bad).unwrap();
    let mut bytes = whole.clone();
    bytes[4..400].fill(0xff);
    fs::write(&bad, &bytes).unwrap();
    let args = extract(&data, &run_dir);
    let message = fails(&words(&part(&args, "0/1")), &["the shard train 1 cannot be made, the others are there"]);
    assert!(message.contains("train-00001-of-00003.parquet"), "{message}");
    assert_eq!(shards(&run_dir), 3);
    fails(&words(&args), &["the shard train 1 cannot be made"]);
    fs::write(&bad, &whole).unwrap();
    assert!(run(&words(&args)).contains("8 encoded now"));
}

#[test]
fn partitions_of_a_sweep_leave_what_the_sweep_does() {
    let dir = tempdir().unwrap();
    let (whole, parts) = (imported(dir.path(), "whole", &Rows::clouds(4, 8, 4)), dir.path().join("parts"));
    copy(&whole, &parts);
    let sweep = |run_dir: &Path| {
        let of =
            ["sweep", "--run", path(run_dir), "--tasks", "2", "--seeds", "1,2", "--method", "ncm", "--method", "lda"];
        of.map(str::to_owned).to_vec()
    };
    let printed = run(&words(&sweep(&whole)));
    let running = ["1/3", "0/3", "1/3"].map(|partition| start(&part(&sweep(&parts), partition)));
    let ends = running.map(|child| text(&end(child).stdout));
    assert!(ends[0].ends_with(": 1 member of 4 done\n"), "{ends:?}");
    assert_eq!(query(&parts, "SELECT COUNT(DISTINCT stream || method) FROM metrics"), ["3"]); // of 4: 0, 1 and 3
    run(&words(&part(&sweep(&parts), "2/3")));
    assert_same_tables(&whole, &parts);
    assert_eq!(run(&words(&sweep(&parts))), printed);
}

/// Whether a process of a command has such a path among its words.
fn is_at_work(stage: &str, run_dir: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let words = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
    processes.map(words).any(|words| words.split('\0').any(|w| w == stage) && words.contains(path(run_dir)))
}

#[test]
fn a_sweep_that_is_stopped_stops_what_it_has_in_hand_and_goes_on() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(6, 40, 4));
    let sweep = |epochs: &str| -> Vec<String> {
        let fit = format!("epochs={epochs},hidden=64,latent=8");
        let model = golden("checkpoint");
        let of = ["sweep", "--run", path(&run_dir), "--tasks", "3", "--seeds", "1", "--model", path(&model)];
        let own = ["--method", "cgil,epochs=1,samples=4", "--fit-vae", &fit, "--partition", "0/1"];
        [&of[..], &own].concat().into_iter().map(str::to_owned).collect()
    };
    let output = signal_once(&sweep("1000000"), "-TERM", || is_at_work("fit-vae", &run_dir));
    assert_eq!(output.status.code(), Some(TRANSIENT), "{}", text(&output.stderr));
    let began = Instant::now();
    while is_at_work("fit-vae", &run_dir) {
        assert!(began.elapsed() < Duration::from_secs(60), "the command goes on without its sweep");
        thread::sleep(Duration::from_millis(20));
    }
    let name = run(&["status", "--run", path(&run_dir)]);
    assert!(name.contains(": 0 of 1 members\n") && name.contains("0/1 stopped on "), "{name}");
    let fitted = || run_dir.join("latents/seed-1-tasks-3/vae/task-01.partial").exists();
    let output = signal_once(&sweep("300"), "-USR1", fitted);
    assert_eq!(output.status.code(), Some(TRANSIENT), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("stopped before all was done"), "{}", text(&output.stderr));
    assert!(run(&words(&sweep("300"))).ends_with(": 1 member of 1 done\n"));
}

#[test]
fn what_is_no_partition_is_refused() {
    for (given, said) in [("2/2", "the last is 1/2"), ("1", "expected I/N"), ("0/0", "of no partitions")] {
        let output = command(&["fit-vae", "--run", "nowhere", "--tasks", "2", "--partition", given]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
}

/// Rows of four classes of the same number each, one after another, that are four parts of two tasks.
fn many_rows() -> Rows {
    const TRAIN: usize = 100_000;
    let clouds = Rows::clouds(4, TRAIN, 20);
    let order: Vec<usize> = (0..TRAIN + 20).flat_map(|i| (0..4).map(move |class| class * (TRAIN + 20) + i)).collect();
    let mut rows = Rows::default();
    for i in order {
        rows.split.push(clouds.split[i]);
        rows.label.push(clouds.label[i]);
        rows.class_name.push(clouds.class_name[i].clone());
        rows.embedding.push(clouds.embedding[i].clone());
    }
    rows
}

#[test]
fn sums_of_rows_in_any_order_and_twice_at_once_leave_the_tables_of_one_process() {
    let dir = tempdir().unwrap();
    let whole = imported(dir.path(), "whole", &many_rows());
    let parts = dir.path().join("parts");
    copy(&whole, &parts);
    let learner = |name: &str| parts.join("statistics/dataset-order-tasks-2").join(name);
    for (baseline, name) in [("lda", "class-statistics"), ("ncm", "class-means")] {
        let of = |run_dir: &Path| ["baseline", baseline, "--run", path(run_dir), "--tasks", "2"].map(str::to_owned);
        run(&words(&of(&whole)));
        // test rows are of no concern until there is something to score
        let [test, aside] = [parts.join("sources/base/embeddings/test"), dir.path().join("aside")];
        fs::rename(&test, &aside).unwrap();
        let printed = run(&words(&part(&of(&parts), "2/3")));
        fs::rename(&aside, &test).unwrap();
        let expected = "its sums are there, 1 part made now; other partitions lack 3 of 4";
        assert!(printed.contains(expected), "{printed}");
        let status = run(&["status", "--run", path(&parts)]);
        assert!(status.contains(&format!("sums dataset-order-tasks-2 {name}: 1 of 4 parts")), "{status}");
        let missing = run(&["status", "--run", path(&parts), "--missing"]);
        assert!(missing.contains("0/3 task 2, shards "), "{missing}");
        fails(&["forget", "--run", path(&parts), "--source", "base"], &["base"]);
        // one that is damaged is made again by who learns from it
        let sums: Vec<PathBuf> =
            fs::read_dir(learner(name).join("sums")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(sums.len(), 1);
        let bytes = fs::read(&sums[0]).unwrap();
        let half = bytes.len() / 2;
        let damaged = match baseline {
            "lda" => bytes[..half].to_vec(),
            _ => [&bytes[..half], &[bytes[half] ^ 1], &bytes[half + 1..]].concat(),
        };
        fs::write(&sums[0], damaged).unwrap();
        let running: Vec<Child> =
            ["0/3", "1/3", "1/3", "0/3"].map(|partition| start(&part(&of(&parts), partition))).into();
        let ends: Vec<String> = running.into_iter().map(|child| text(&end(child).stdout)).collect();
        assert!(ends.iter().any(|printed| printed.contains("bytes per class")), "{ends:?}");
        assert!(unfinished(&parts).is_empty());
        let status = run(&["status", "--run", path(&parts)]);
        assert!(status.contains(&format!("sums dataset-order-tasks-2 {name}: 4 of 4 parts, complete")), "{status}");
        // again: nothing is missing, and what a killed process has not taken away goes
        fs::create_dir_all(sums[0].parent().unwrap()).unwrap();
        fs::write(&sums[0], &bytes).unwrap();
        run(&words(&part(&of(&parts), "4/5")));
        assert!(!sums[0].exists());
    }
    assert_same_tables(&whole, &parts);
    // rows that are drawn come from every part
    run(&["baseline", "lda", "--run", path(&whole), "--tasks", "2", "--seed", "3", "--shots", "500"]);
    let state = whole.join("statistics/seed-3-tasks-2-shots-500/class-statistics/task-02/state.safetensors");
    let (state, _) = cgil::tensors::read::<f64, serde_json::Value>(&state).unwrap();
    assert_eq!(state["counts"].1, [500.0; 4]);
    let of_classes = run(&["sweep", "--run", path(&whole), "--tasks", "2", "--seeds", "1", "--method", "ncm"]);
    assert!(of_classes.contains("ncm"), "{of_classes}");
    fails(
        &["sweep", "--run", path(&whole), "--tasks", "2", "--seeds", "1", "--method", "lda,partition=0/2"],
        &["lda,partition=0/2", "members are whole"],
    );
}
