//! Deliveries: classes that arrive one after another, are learned, forgotten, and classified.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use arrow::{array::AsArray, datatypes::Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::{TempDir, tempdir};

use crate::{
    python::{executes, python, snippets},
    support::{copy, encoded, fails, files, golden, only, path, picture, query, run, text},
};

const NAMES: [&str; 6] = ["ant", "bee", "cat", "dog", "emu", "fox"];

/// Options that learn little, and fast.
pub const LITTLE: [&str; 4] = ["--fit-vae", "epochs=3,hidden=16,latent=4", "--prompt-tune", "epochs=2"];

/// An image folder of some classes, 6 training and 3 test pictures each.
fn folder(dir: &Path, classes: std::ops::Range<usize>) {
    for class in classes {
        for (split, pictures) in [("train", 0..6), ("test", 6..9)] {
            let dir = dir.join(split).join(NAMES[class]);
            fs::create_dir_all(&dir).unwrap();
            for i in pictures {
                let bytes = encoded(picture(class, i, 40), image::ImageFormat::Png);
                fs::write(dir.join(format!("{i}.png")), bytes).unwrap();
            }
        }
    }
}

/// Three deliveries of two classes, and all of them in one folder.
pub struct Data {
    _dir: TempDir,
    pub root: PathBuf,
}

impl Data {
    pub fn new() -> Self {
        let dir = tempdir().unwrap();
        for k in 0..3 {
            folder(&dir.path().join(format!("{k}")), 2 * k..2 * k + 2);
        }
        folder(&dir.path().join("all"), 0..6);
        let root = dir.path().to_owned();
        Data { _dir: dir, root }
    }

    pub fn at(&self, name: &str) -> String {
        path(&self.root.join(name)).to_owned()
    }

    pub fn add(&self, run_dir: &str, delivery: &str, more: &[&str]) -> String {
        let data = self.at(delivery);
        let model = golden("checkpoint");
        let begin = if Path::new(run_dir).exists() { vec![] } else { vec!["--model", path(&model)] };
        run(&[&["add", "--run", run_dir, "--data", &data][..], &begin, &LITTLE, more].concat())
    }
}

/// The last step's predictions of the default method, and its scores that need no earlier step.
fn outcome(run_dir: &str) -> Vec<String> {
    let mut found = query(
        Path::new(run_dir),
        "SELECT label, predicted, COUNT(*) FROM predictions WHERE after_task = 3 GROUP BY label, predicted \
         ORDER BY label, predicted",
    );
    found.extend(query(
        Path::new(run_dir),
        "SELECT metric, ROUND(value, 6) FROM metrics WHERE after_task = 3 AND on_task IS NULL AND metric = 'faa'",
    ));
    found
}

#[test]
fn deliveries_that_are_forgotten_become_what_one_stream_of_all_becomes() {
    let data = Data::new();
    let [grown, whole] = ["grown", "whole"].map(|name| data.at(name));
    let model = golden("checkpoint");
    run(&["extract", "--model", path(&model), "--data", &data.at("all"), "--run", &whole]);
    run(&["fit-vae", "--run", &whole, "--tasks", "3", "--epochs", "3", "--hidden", "16", "--latent", "4"]);
    run(&["prompt-tune", "--run", &whole, "--epochs", "2"]);

    for k in ["0", "1", "2"] {
        let said = data.add(&grown, k, &["--forget"]);
        assert!(said.contains("forgotten: 12 training embeddings of ") && said.contains("kept of 2 classes"), "{said}");
    }
    assert_eq!(outcome(&grown), outcome(&whole));
    let left: Vec<PathBuf> = files(Path::new(&grown)).into_keys().collect();
    let train = |file: &&PathBuf| file.to_string_lossy().contains("embeddings/train");
    assert_eq!(left.iter().filter(train).count(), 0, "{left:?}");
    assert_eq!(query(Path::new(&grown), "SELECT COUNT(*) FROM embeddings WHERE split = 'test'"), ["18"]);
    // the report says what each delivery added, and what its classes lose
    let report = data.at("report.html");
    run(&["report", "--run", &grown, "--out", &report]);
    let page = fs::read_to_string(&report).unwrap();
    let accuracy = |class: &str, after: usize| {
        let of_class = format!("class_name = '{class}' AND after_task = {after}");
        let sql = format!("SELECT accuracy FROM class_accuracy WHERE {of_class} AND on_task <= after_task");
        query(Path::new(&grown), &sql).first().map_or("–".to_owned(), |x| format!("{:.1}", x.parse::<f64>().unwrap()))
    };
    let both =
        |classes: [&str; 2], after| -> f64 { classes.iter().map(|c| accuracy(c, after).parse::<f64>().unwrap()).sum() };
    let (own, [before, after]) = (both(["cat", "dog"], 2), [1, 2].map(|after| both(["ant", "bee"], after)));
    let [own, before, after] = [own, before, after].map(|sum| format!("<td>{:.1}</td>", sum / 2.0));
    let row = format!("delivery-2</th><td>2: cat, dog</td><td>12</td><td>yes</td>{own}{before}{after}");
    assert!(page.contains(&row), "{row}");
    assert!(page.contains("base</th><td>2: ant, bee</td><td>12</td><td>yes</td>"));
    let steps = [1, 2, 3].map(|after| format!("<td>{}</td>", accuracy("cat", after))).concat();
    assert!(
        page.contains(&format!("cat</th><td>delivery-2</td>{steps}")) && steps.starts_with("<td>–</td>"),
        "{steps}"
    );
    // adding again finds everything done
    let before = files(Path::new(&grown));
    data.add(&grown, "2", &["--forget"]);
    assert!(files(Path::new(&grown)) == before);

    // what needs the rows says so, and changes nothing
    let args = ["quality", "--run", &grown, "--samples", "4"];
    fails(&args, &["sources/base", "were forgotten"]);
    let args = ["extract", "--model", path(&model), "--data", &data.at("0"), "--run", &grown];
    fails(&args, &["sources/base", "were forgotten"]);
    assert!(files(Path::new(&grown)) == before);
}

#[test]
fn no_training_embedding_is_left_in_any_file() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    let sql = "SELECT embedding FROM embeddings WHERE split = 'train'";
    let table = run(&["query", "--run", &run_dir, sql, "--format", "json"]);
    let of_row = |row: &serde_json::Value| -> Vec<u8> {
        let values = row["embedding"].as_array().unwrap();
        values.iter().take(4).flat_map(|x| (x.as_f64().unwrap() as f32).to_le_bytes()).collect()
    };
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let rows: Vec<Vec<u8>> = table.as_array().unwrap().iter().map(of_row).collect();
    let holds = |bytes: &[u8], row: &[u8]| bytes.windows(row.len()).any(|window| window == row);
    let found = |rows: &[Vec<u8>]| {
        let files = files(Path::new(&run_dir));
        rows.iter().filter(|row| files.values().any(|bytes| holds(bytes, row))).count()
    };
    assert_eq!(rows.len(), 12);
    assert!(found(&rows) > 0, "the test does not see them where they are");
    run(&["forget", "--run", &run_dir, "--source", "base", "--overwrite"]);
    assert_eq!(found(&rows), 0);
}

#[test]
fn test_embeddings_that_are_forgotten_are_scored_no_more_and_what_was_said_stays() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    data.add(&run_dir, "1", &[]);
    let dir = Path::new(&run_dir);
    let said = |sql: &str| query(dir, sql);
    let scored =
        "SELECT after_task, on_task, value FROM metrics WHERE metric = 'accuracy' ORDER BY after_task, on_task";
    let before = said(scored);
    assert_eq!(before.len(), 3);
    let output = run(&["forget", "--run", &run_dir, "--source", "base", "--test"]);
    assert!(output.contains("forgotten: 12 training embeddings and 6 test embeddings of base"), "{output}");
    let left: Vec<PathBuf> =
        files(dir).into_keys().filter(|file| file.starts_with("sources/base/embeddings")).collect();
    assert!(left.is_empty(), "{left:?}");
    // once more, and the same command again, find it done
    run(&["forget", "--run", &run_dir, "--source", "base", "--test"]);
    let done = files(dir);
    data.add(&run_dir, "1", &[]);
    assert!(files(dir) == done);

    // what comes later is scored on what is there
    data.add(&run_dir, "2", &["--forget"]);
    let after = said(scored);
    assert_eq!(after[..3], before[..]);
    let tasks: Vec<&str> = after[3..].iter().map(|row| row.rsplit_once(',').unwrap().0).collect();
    assert_eq!(tasks, ["3,2", "3,3"]);
    let mean: f64 =
        after[3..].iter().map(|row| row.rsplit(',').next().unwrap().parse::<f64>().unwrap()).sum::<f64>() / 2.0;
    let faa: f64 = said("SELECT value FROM metrics WHERE metric = 'faa' AND after_task = 3")[0].parse().unwrap();
    assert!((faa - mean).abs() < 1e-9, "{faa} {mean}");
    assert_eq!(said("SELECT COUNT(*) FROM predictions WHERE after_task = 3"), ["12"]);
    run(&["classify", "--run", &run_dir, path(&data.root.join("0/test"))]);
    fails(&["quality", "--run", &run_dir], &["sources/base", "training embeddings", "forgotten"]);
    run(&["report", "--run", &run_dir, "--out", &data.at("page.html")]);
}

#[test]
fn what_does_not_fit_a_run_is_refused_by_name() {
    let data = Data::new();
    let run_dir = data.at("run");
    let add = |delivery: &str, more: &[&str]| -> Vec<String> {
        let delivery = data.at(delivery);
        let words = [&["add", "--run", &run_dir, "--data", &delivery][..], &LITTLE, more].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    let refused = |args: Vec<String>, parts: &[&str]| {
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    };
    refused(add("0", &[]), &["does not know its CLIP", "--model"]);
    fails(&["forget", "--run", &run_dir, "--source", "base"], &["no embeddings", "base"]);
    fails(&["classify", "--run", &run_dir, &data.at("0")], &["learned nothing yet", "cgil add"]);
    let lost = data.at("lost");
    folder(Path::new(&lost), 0..2);
    (0..6).for_each(|i| fs::remove_file(format!("{lost}/train/bee/{i}.png")).unwrap());
    let lone = data.at("lone");
    fails(
        &["add", "--run", &lone, "--data", &lost, "--model", path(&golden("checkpoint"))],
        &["\"bee\"", "0 training images"],
    );
    assert!(!Path::new(&lone).exists()); // nothing was encoded in vain
    (0..6).for_each(|i| fs::write(format!("{lost}/train/bee/{i}.png"), "no picture").unwrap());
    fails(
        &["add", "--run", &lone, "--data", &lost, "--model", path(&golden("checkpoint"))],
        &["\"bee\"", "0 training embeddings", "quarantine"],
    );
    assert!(!Path::new(&lone).join("streams").exists()); // no task that could never be learned

    data.add(&run_dir, "0", &[]);
    let before = files(Path::new(&run_dir));
    refused(add("1", &["--name", "base"]), &["a source base of other images", "--name"]);
    refused(add("0", &["--name", "other"]), &["was added as base already"]);
    let wrong = ["add", "--run", &run_dir, "--data", &data.at("1"), "--prompt-tune", "epoch=2"];
    fails(&wrong, &["--prompt-tune", "--epoch"]);
    assert!(files(Path::new(&run_dir)) == before);
}

/// The classes that the default method answers for test pictures, by the pictures' ids.
fn predicted(run_dir: &str) -> Vec<(String, String)> {
    let rows = query(
        Path::new(run_dir),
        "SELECT p.sample_id, c.class_name FROM predictions p JOIN classes c ON p.predicted = c.label \
         WHERE p.after_task = 2 ORDER BY p.sample_id",
    );
    rows.iter().map(|row| row.split_once(',').map(|(id, class)| (id.to_owned(), class.to_owned())).unwrap()).collect()
}

#[test]
fn pictures_are_classified_as_the_tables_say() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    data.add(&run_dir, "1", &["--forget"]);
    let expected = predicted(&run_dir);
    assert_eq!(expected.len(), 12);
    let mut found = Vec::new();
    for delivery in ["0", "1"] {
        let root = data.root.join(delivery);
        let test = root.join("test");
        let csv = run(&["classify", "--run", &run_dir, path(&test), "--top", "1", "--format", "csv"]);
        let (head, lines) = csv.split_once('\n').unwrap();
        assert_eq!(head, "path,rank,class,probability,learned,rejected");
        for line in lines.lines() {
            let [file, rank, class, probability, learned, rejected] = line.split(',').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            assert_eq!((rank, learned, rejected), ("1", "true", "false"));
            assert!(probability.parse::<f32>().unwrap() > 0.25, "{line}");
            let id = Path::new(file).strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            found.push((id, class.to_owned()));
        }
    }
    found.sort();
    assert_eq!(found, expected);

    // names that are asked about beside them are not learned
    let whole = data.at("whole");
    data.add(&whole, "all", &[]);
    let learned = only(Path::new(&whole), "statistics", "dataset-order-tasks-1", "evidence");
    let states = files(&learned);
    fs::remove_dir_all(&learned).unwrap();
    run(&["classify", "--run", &whole, &data.at("0"), "--also", "gnu"]);
    assert!(files(&learned) == states);

    // a share of them are refused, where that is asked for
    let rejected = |share: &str| -> usize {
        let test = data.root.join("0/test");
        let lines = run(&["classify", "--run", &run_dir, path(&test), "--reject", share, "--format", "jsonl"]);
        let is_rejected = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["rejected"] == true;
        lines.lines().filter(|line| is_rejected(line)).count()
    };
    let counts = ["0.001", "0.5", "0.999"].map(rejected);
    assert!(counts[0] <= 1 && counts.is_sorted() && counts[2] >= 5, "{counts:?}");

    // all classes of a picture, one nobody has learned among them
    let one = data.root.join("0/test/ant/6.png");
    let line = run(&[
        "classify",
        "--run",
        &run_dir,
        path(&one),
        "--also",
        "a red fox, wolf",
        "--top",
        "9",
        "--format",
        "jsonl",
    ]);
    let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
    let classes = answer["classes"].as_array().unwrap();
    let names: Vec<&str> = classes.iter().map(|class| class["class"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 6);
    for class in classes {
        assert_eq!(
            class["learned"].as_bool().unwrap(),
            !["a red fox", "wolf"].contains(&class["class"].as_str().unwrap())
        );
    }
    let sum: f64 = classes.iter().map(|class| class["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    fails(&["classify", "--run", &run_dir, path(&one), "--also", "bee"], &["--also", "\"bee\"", "knows"]);
}

#[test]
fn pictures_come_from_anywhere_and_go_where_their_class_is() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    let test = data.root.join("0/test");
    let same = run(&["classify", "--run", &run_dir, path(&test.join("ant")), "--format", "jsonl"]);

    // a list of paths on standard input, one of them as a URL
    let mut child = Command::new(env!("CARGO_BIN_EXE_cgil"))
        .args(["classify", "--run", &run_dir, "-", "--format", "jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let list = format!("{0}/ant/6.png\n\nfile://{0}/ant/7.png\n{0}/ant/8.png\n", path(&test));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), list.as_bytes()).unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), same);

    // a tar of the directory
    let tar = data.root.join("ants.tar");
    let mut builder = tar::Builder::new(fs::File::create(&tar).unwrap());
    builder.append_dir_all("ants", test.join("ant")).unwrap();
    builder.finish().unwrap();
    let of_tar = run(&["classify", "--run", &run_dir, path(&tar), "--format", "jsonl"]);
    let answers = |lines: &str| -> Vec<String> {
        let mut found: Vec<String> = lines
            .lines()
            .map(|line| line[line.find("\"classes\"").unwrap()..].split("\"path\"").next().unwrap().to_owned())
            .collect();
        found.sort();
        found
    };
    assert_eq!(answers(&of_tar), answers(&same));
    assert!(of_tar.contains("ants.tar/ants/6.png"), "{of_tar}");

    // into directories; a picture that is none fails the command, and stops no other
    let broken = data.root.join("more");
    copy(&test, &broken);
    fs::write(broken.join("ant/broken.png"), "no picture").unwrap();
    let sorted = data.root.join("sorted");
    let args = ["classify", "--run", &run_dir, path(&broken), "--sort-into", path(&sorted)];
    fails(&args, &["broken.png", "1 of 7 pictures could not be read"]);
    let count = |dir: &Path| files(dir).len();
    assert_eq!(count(&sorted), 6);
    run(&["classify", "--run", &run_dir, path(&test), "--sort-into", path(&sorted), "--link"]);
    assert_eq!(count(&sorted), 12); // none took another's name
    fails(&["classify", "--run", &run_dir, &data.at("nowhere")], &["nowhere", "is not there"]);
}

const TUTORIAL: &str = include_str!("../docs/tutorial.md");

/// The shell commands of the tutorial below a heading.
fn commands_of_tutorial(heading: &str) -> String {
    let part = &TUTORIAL[TUTORIAL.find(heading).expect("the heading is there")..];
    part.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect::<Vec<_>>().concat()
}

/// A directory where the tutorial's second half ran, and what it printed, both ways.
fn second_half_of_the_tutorial() -> (TempDir, String, String) {
    let dir = tempdir().unwrap();
    unpack_photos(dir.path());
    copy(Path::new("data/demo/clip"), &dir.path().join("cgil-demo/clip"));
    let program = Path::new(env!("CARGO_BIN_EXE_cgil")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let script = commands_of_tutorial("## New classes arrive");
    assert_eq!(script.matches("cgil ").count(), 10, "{script}");
    let output = Command::new("sh").args(["-ec", &script]).env("PATH", path).current_dir(&dir).output().unwrap();
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{told}");
    (dir, said, told)
}

/// The demo's pictures as the tutorial has them: photos/SPLIT/CLASS/NNNN.jpg.
fn unpack_photos(to: &Path) {
    for split in ["train", "test"] {
        let file = fs::File::open(format!("data/demo/pictures/{split}-00000-of-00001.parquet")).unwrap();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let footer = builder.schema().metadata()["huggingface"].clone();
        let footer: serde_json::Value = serde_json::from_str(&footer).unwrap();
        let names = footer["info"]["features"]["label"]["names"].as_array().unwrap();
        let mut number = 0;
        for batch in builder.build().unwrap() {
            let batch = batch.unwrap();
            let bytes = batch["image"].as_struct()["bytes"].clone();
            let labels = batch["label"].as_primitive::<Int64Type>();
            for (i, bytes) in bytes.as_binary::<i32>().iter().enumerate() {
                let dir = to.join("photos").join(split).join(names[labels.value(i) as usize].as_str().unwrap());
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(format!("{number:04}.jpg")), bytes.unwrap()).unwrap();
                number += 1;
            }
        }
    }
}

#[test]
fn the_second_half_of_the_tutorial_runs_as_it_stands() {
    let (dir, said, told) = second_half_of_the_tutorial();
    for part in [
        "forgotten: 600 training embeddings of base",
        "forgotten: 390 training embeddings of delivery-2",
        "forgotten: 10 training embeddings of delivery-3",
        "a teal car (",
        "shop.safetensors: 19 classes, 19 of them learned",
        "shop-embeddings: 0 training embeddings and 475 to test on",
    ] {
        assert!(said.contains(part), "expected {part:?} in:\n{said}");
    }
    let note = "generators are fitted to 10 new embeddings and to 40 that the earlier generators give";
    assert!(told.contains(note), "{told}");
    let sorted = files(&dir.path().join("sorted"));
    let right = sorted.keys().filter(|link| {
        let class = link.parent().unwrap();
        let target = fs::read_link(dir.path().join("sorted").join(link)).unwrap();
        target.parent().unwrap().ends_with(class)
    });
    assert_eq!(sorted.len(), 500);
    assert!(right.count() >= 480); // the page's figures, but for an image or two
}

#[test]
#[ignore = "installs PyTorch: make test-python"]
fn pytorch_reads_what_the_tutorial_exports_and_answers_as_classify_does() {
    let Some(python) = python(&["torch", "numpy", "pyarrow", "safetensors"]) else { return };
    let (dir, ..) = second_half_of_the_tutorial();
    let at = |name: &str| path(&dir.path().join(name)).to_owned();
    let args = ["classify", "--run", &at("runs/shop"), &at("photos/test"), "--top", "99", "--format", "jsonl"];
    fs::write(at("answers.jsonl"), run(&args)).unwrap();
    let holds = "
answers = [json.loads(line) for line in open('answers.jsonl')]
answers = {tuple(a['path'].split('/')[-3:]): {c['class']: c['probability'] for c in a['classes']} for a in answers}
expected = [[answers[tuple(row['image_path'].split('/')[-3:])][name] for name in names] for row in rows]
assert (likely - torch.tensor(expected)).abs().max() < 1e-5 and likely.shape == (475, 19)
assert sum(right) >= 460, sum(right)
";
    executes(&python, "the tutorial", &(snippets(TUTORIAL, "Elsewhere", "python") + holds), dir.path());
}
