//! Classes that arrive after a run is finished: a second source as a further task of a stream.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use cgil::{
    embeddings::{Embeddings, ShardRows, SourcePlan, content_line},
    results::CLASSIFIER,
    run::Run,
    source::SourceId,
    stream::Stream,
    task::{Class, Cut, Order},
};
use tempfile::{TempDir, tempdir};

use crate::{
    middle::{imported, learn_all},
    support::{Rows, fails, files, number, path, query, run},
};

/// Methods whose scores do not depend on the names of classes to come.
const WITHOUT_EVIDENCE: &str = "method <> 'evidence' AND (method NOT LIKE 'cgil%' OR method LIKE '%statistics=%')";

/// The stream of the first source.
const GROWN: &str = "dataset-order-tasks-2";

/// The rows of some classes.
fn part(rows: &Rows, labels: std::ops::Range<i64>) -> Rows {
    let mut found = Rows::default();
    for i in (0..rows.label.len()).filter(|&i| labels.contains(&rows.label[i])) {
        found.split.push(rows.split[i]);
        found.label.push(rows.label[i] - labels.start); // from 0 in every source
        found.class_name.push(rows.class_name[i].clone());
        found.embedding.push(rows.embedding[i].clone());
    }
    found
}

fn silent(_: &str) {}

/// Makes rows a source of a run.
fn arrive(run: &Run, name: &str, rows: &Rows) -> Embeddings {
    let names: BTreeMap<i64, &String> = rows.label.iter().copied().zip(&rows.class_name).collect();
    let count = |split: &str| rows.split.iter().filter(|&&of| of == split).count();
    let plan = SourcePlan {
        source: SourceId { origin: name.into(), fingerprint: format!("{name} of a test") },
        model: None,
        preprocessing: None,
        compute_dtype: "float32".into(),
        device: None,
        dim: rows.embedding[0].len(),
        classes: names.into_iter().map(|(label, name)| Class { label, name: name.clone() }).collect(),
        rows: ["train", "test"].map(|split| (split.to_owned(), count(split))).into(),
        shard_rows: 1000,
        kept: Vec::new(),
    };
    let mut embeddings = Embeddings::create(run, name, plan).unwrap();
    for shard in embeddings.missing() {
        let mut own = ShardRows::default();
        for i in (0..rows.label.len()).filter(|&i| rows.split[i] == shard.split) {
            own.sample_ids.push(format!("table.parquet#{i}")); // as in the first source
            own.labels.push(rows.label[i]);
            own.embeddings.extend(&rows.embedding[i]);
            own.contents.push(content_line(&i.to_string(), rows.label[i], None));
        }
        embeddings.write_shard(&shard, own).unwrap();
    }
    embeddings.seal().unwrap();
    Embeddings::open_complete(run, name).unwrap()
}

/// All files but locks, which say nothing, and the index of generators' `seconds`.
fn kept(run_dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = files(run_dir);
    found.retain(|name, _| !name.ends_with(".lock"));
    found
}

#[test]
fn a_second_source_becomes_a_task_that_leaves_the_first_ones_as_they_are() {
    let rows = Rows::clouds(6, 12, 6);
    let (first, second) = (part(&rows, 0..4), part(&rows, 4..6));
    let dir = tempdir().unwrap();
    let run_dir = imported(&first, dir.path());
    learn_all(&run_dir, "2");
    let before = kept(&run_dir);
    let faa = query(&run_dir, "SELECT method, value FROM metrics WHERE metric = 'faa' ORDER BY method");

    let library = Run::open(&run_dir, silent).unwrap();
    let arrived = arrive(&library, "second", &second);
    let mut stream = Stream::open(&library, GROWN).unwrap();
    stream.append(&library, &arrived).unwrap();
    let again = stream.append(&library, &arrived).unwrap_err().to_string();
    assert!(again.contains("has the classes of the source second already"), "{again}");
    let reopened = Stream::open(&library, GROWN).unwrap();
    assert_eq!((reopened.tasks(), reopened.sizes()), (3, vec![2, 2, 2]));
    // labels that the stream had already became the next that were free
    assert_eq!(reopened.classes.iter().map(|class| class.label).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(reopened.source_labels(2), [0, 1]);
    assert_eq!(reopened.classes_of(2)[0].name, rows.class_name[rows.label.iter().position(|&l| l == 4).unwrap()]);

    // nothing is made, and nothing is missed
    let sources =
        |name: &Path| name.starts_with("sources/second") || name.starts_with(format!("streams/{GROWN}/task-03"));
    let mut grown = kept(&run_dir);
    grown.retain(|name, _| !sources(name));
    assert!(grown == before);
    assert_eq!(query(&run_dir, "SELECT method, value FROM metrics WHERE metric = 'faa' ORDER BY method"), faa);

    // the same commands learn and score the task that has come
    learn_all(&run_dir, "2");
    let after = kept(&run_dir);
    for (name, bytes) in &before {
        assert!(after[name] == *bytes, "{} differs", name.display());
    }
    for (name, metrics) in [("zero-shot", true), ("ncm", false)] {
        let step = run_dir.join(format!("results/{GROWN}/{name}/task-03"));
        assert!(step.join("predictions.parquet").exists() && (step.join("metrics.parquet").exists() || metrics));
    }
    learn_all(&run_dir, "2"); // and then there is nothing left to do
    assert!(kept(&run_dir) == after);

    // what was learned is what one source in three tasks teaches
    let whole = dir.path().join("whole");
    fs::create_dir(&whole).unwrap();
    let whole = imported(&rows, &whole);
    learn_all(&whole, "3");
    let models = |run_dir: &Path, stream: &str| -> BTreeMap<String, Vec<u8>> {
        let mut found = kept(run_dir);
        found.retain(|name, _| name.extension().is_some_and(|extension| extension == "safetensors"));
        // evidence has tested its rows against the names of the classes to come, which were others
        found.retain(|name, _| !name.display().to_string().contains("/evidence-") && !name.ends_with(CLASSIFIER));
        found.into_iter().map(|(name, bytes)| (name.display().to_string().replace(stream, "STREAM"), bytes)).collect()
    };
    let (grown, whole_models) = (models(&run_dir, GROWN), models(&whole, "dataset-order-tasks-3"));
    assert_eq!(grown.keys().collect::<Vec<_>>(), whole_models.keys().collect::<Vec<_>>());
    for (name, bytes) in &grown {
        assert!(whole_models[name] == *bytes, "{name} differs");
    }

    // so are the predictions of the last step, and the scores that need no step before the task
    // came
    let predictions = |run_dir: &Path| {
        query(
            run_dir,
            &format!(
                "SELECT method, on_task, label, predicted, predicted_in_task, COUNT(*) FROM predictions \
                 WHERE after_task = 3 AND {WITHOUT_EVIDENCE} \
                 GROUP BY method, on_task, label, predicted, predicted_in_task \
                 ORDER BY method, on_task, label, predicted, predicted_in_task"
            ),
        )
    };
    assert_eq!(predictions(&run_dir), predictions(&whole));
    let scores = |run_dir: &Path| {
        query(
            run_dir,
            &format!(
                "SELECT method, on_task, metric, value FROM metrics WHERE after_task = 3 AND {WITHOUT_EVIDENCE} \
                 AND metric NOT IN ('fwt', 'ci_transfer', 'ci_transfer_raw', 'mean_open_accuracy', 'h', 'ausuc', 'mean_auroc', 'mean_fpr95', \
                 'x_tail_transfer', 'x_tail_average') ORDER BY method, on_task, metric"
            ),
        )
    };
    let own = scores(&run_dir);
    assert_eq!(own, scores(&whole));
    assert!(own.iter().any(|row| row.starts_with("ncm,,forgetting")), "{own:?}");

    // transfer is over what was scored: task 2 after task 1, and nothing of task 3 before it came
    for method in ["zero-shot", "\"cgil,epochs=2,samples=16\""] {
        let value = |metric: &str, condition: &str| {
            let method = method.trim_matches('"');
            let sql =
                format!("SELECT value FROM metrics WHERE method = '{method}' AND metric = '{metric}' AND {condition}");
            number(&run_dir, &sql)
        };
        assert_eq!(
            value("ci_transfer", "after_task = 3"),
            value("transfer_accuracy", "after_task = 1 AND on_task = 2")
        );
        assert_eq!(value("ci_transfer", "after_task = 3"), value("ci_transfer", "after_task = 2"));
        // so is open accuracy: after task 2 no class was to come
        let open = value("mean_open_accuracy", "after_task = 3");
        assert_eq!(open, value("open_accuracy", "after_task = 1 AND on_task IS NULL"));
        assert_eq!(
            value("fwt", "after_task = 3"),
            value("transfer_accuracy", "after_task = 1 AND on_task = 2")
                - value("zero_shot_accuracy", "after_task = 0 AND on_task = 2")
        );
    }
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM metrics WHERE metric LIKE 'transfer%' AND on_task = 3"), 0.0);

    // images of both sources are told apart though their ids are the same
    let images = "SELECT source, COUNT(*) FROM predictions WHERE method = 'ncm' AND after_task = 3 GROUP BY source ORDER BY source";
    assert_eq!(query(&run_dir, images), ["base,24", "second,12"]);
    let classes = "SELECT source, COUNT(*) FROM embeddings GROUP BY source ORDER BY source";
    assert_eq!(query(&run_dir, classes), ["base,72", "second,36"]);
    assert_eq!(
        query(&run_dir, "SELECT task, label, source_label FROM classes WHERE task = 3 ORDER BY label"),
        ["3,4,0", "3,5,1"]
    );
    run(&["report", "--run", path(&run_dir)]);
    let page = fs::read_to_string(run_dir.join("report.html")).unwrap();
    assert!(page.contains(&rows.class_name[rows.label.iter().position(|&l| l == 5).unwrap()]));
    assert!(page.contains("3 tasks"), "the report is not about three tasks");
}

/// A run of the first four of six classes, in two tasks: where it lies, the rows of all six, the
/// run, its source and its stream.
fn begun() -> (TempDir, Rows, Run, Embeddings, Stream) {
    let (dir, rows) = (tempdir().unwrap(), Rows::clouds(6, 12, 6));
    let library = Run::open(&imported(&part(&rows, 0..4), dir.path()), silent).unwrap();
    let base = Embeddings::open_complete(&library, "base").unwrap();
    let stream = Stream::new(&base, &Order::default(), Cut::Tasks(2), None).unwrap().create(&library).unwrap();
    (dir, rows, library, base, stream)
}

#[test]
fn labels_that_are_free_stay_and_a_stream_is_found_by_the_cut_of_its_first_source() {
    let (_dir, rows, library, base, mut stream) = begun();
    let mut second = part(&rows, 4..6);
    second.label.iter_mut().for_each(|label| *label += 40);
    let arrived = arrive(&library, "second", &second);
    stream.append(&library, &arrived).unwrap();
    assert_eq!(stream.classes.iter().map(|class| class.label).collect::<Vec<_>>(), [0, 1, 2, 3, 40, 41]);
    for cut in [Some(Cut::Tasks(2)), Some(Cut::Sizes { first: 2, next: 2 }), None] {
        let found = Stream::find(&library, &Order::default(), cut, None).unwrap();
        assert_eq!((found.name.as_str(), found.tasks()), (GROWN, 3));
    }
    assert!(Stream::find(&library, &Order::default(), Some(Cut::Tasks(3)), None).is_err());
    let of_seed = Stream::new(&base, &Order::of_seed(Some(7)), Cut::Tasks(2), None).unwrap();
    assert_eq!((of_seed.draws(), stream.draws()), (7, 0));
    // one that is asked for with fewer classes of the source is another
    let there = Stream::new(&base, &Order::default(), Cut::Tasks(2), None).unwrap().create(&library).unwrap();
    assert_eq!(there.tasks(), 3);
    let first = there.first_tasks(2).unwrap();
    assert_eq!((first.tasks(), first.classes.len(), first.input(1)), (2, 4, there.input(1)));
    assert_ne!(there.input(1), there.input(2));
}

/// A source whose embeddings are not those that a stream was made of is not appended, and its rows
/// are not read for others.
#[test]
fn every_task_reads_its_own_source() {
    let (_dir, rows, library, _, mut stream) = begun();
    let second = part(&rows, 4..6);
    stream.append(&library, &arrive(&library, "second", &second)).unwrap();
    let found = stream.task_rows(&library, 2).unwrap();
    let expected: Vec<f32> = (0..rows.label.len())
        .filter(|&i| rows.label[i] == 5 && rows.split[i] == "train")
        .flat_map(|i| rows.embedding[i].clone())
        .collect();
    assert_eq!((found.task, found.rows.len()), (2, 2));
    assert_eq!(found.classes, stream.classes_of(2));
    assert_eq!(found.rows[1].values(), expected);
    assert_eq!(stream.task_rows(&library, 0).unwrap().rows[1].len(), 12);

    // rows of another encoder are of no task
    let mut short = second.clone();
    short.embedding.iter_mut().for_each(|embedding| embedding.truncate(5));
    let error = stream.append(&library, &arrive(&library, "short", &short)).unwrap_err().to_string();
    assert!(error.contains("one has embeddings of 48 values, the other of 5"), "{error}");

    // another source under the same name
    fs::remove_dir_all(library.dir().join("sources/second")).unwrap();
    let mut other = second.clone();
    other.class_name.iter_mut().for_each(|name| name.push('!'));
    arrive(&library, "second", &other);
    let error = stream.task_rows(&library, 2).err().unwrap().to_string();
    assert!(error.contains("sources/second are others now than the stream"), "{error}");
    stream.task_rows(&library, 1).unwrap();
}

#[test]
fn a_stream_may_have_a_hundred_tasks_and_misses_one_in_the_middle() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::default();
    for class in 0..101 {
        for (split, offset) in [("train", 0.0), ("train", 0.1), ("test", 0.05)] {
            rows.split.push(split);
            rows.label.push(class);
            rows.class_name.push(format!("class {class}"));
            rows.embedding.push(vec![1.0, (class as f32).sin(), (class as f32).cos() + offset]);
        }
    }
    let run_dir = imported(&rows, dir.path());
    let ncm = ["baseline", "ncm", "--run", path(&run_dir), "--tasks", "101"];
    run(&ncm);
    let library = Run::open(&run_dir, silent).unwrap();
    let stream = Stream::find(&library, &Order::default(), None, None).unwrap();
    assert_eq!(stream.tasks(), 101);
    fs::remove_dir_all(run_dir.join("streams").join(&stream.name).join("task-100")).unwrap();
    fails(&ncm, &["has task-101, but not task-100"]);
}

#[test]
fn a_sweep_compares_what_has_learned_all_tasks_of_a_stream_that_has_grown() {
    let (dir, rows) = (tempdir().unwrap(), Rows::clouds(6, 12, 6));
    let run_dir = imported(&part(&rows, 0..4), dir.path());
    let sweep = |methods: &[&str]| {
        let sweep = ["sweep", "--run", path(&run_dir), "--tasks", "2", "--seeds", "1", "--format", "csv"];
        run(&[&sweep, methods].concat())
    };
    let first = sweep(&["--method", "ncm"]);
    let library = Run::open(&run_dir, silent).unwrap();
    let mut stream = Stream::open(&library, "seed-1-tasks-2").unwrap();
    let mut second = part(&rows, 4..6);
    let foreign = rows.embedding[0].clone(); // of the first class: what looks like it is taken for it
    (0..second.label.len()).filter(|&i| second.split[i] == "test").for_each(|i| second.embedding[i] = foreign.clone());
    stream.append(&library, &arrive(&library, "second", &second)).unwrap();
    let both = sweep(&["--method", "ncm", "--method", "lda"]);
    assert_eq!(both.lines().count(), 3, "{both}");
    for (line, method) in both.lines().skip(1).zip(["ncm", "lda"]) {
        let sql = format!(
            "SELECT ROUND(value, 1) FROM metrics WHERE metric = 'faa' AND method = '{method}' AND after_task = 3"
        );
        assert_eq!(line.split(',').nth(2).unwrap().trim_matches('"'), query(&run_dir, &sql)[0], "{line}");
    }
    assert!(first.lines().nth(1) != both.lines().nth(1), "{both}");
}
