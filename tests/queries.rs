//! What a query sees: the tables of the run and nothing else, whatever the run is called and
//! whoever changed a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cgil::table::{contract, views};
use tempfile::tempdir;

use crate::support::{Rows, fails, imported, path, query, run};

/// A run with two methods, under a seed each.
fn learned(dir: &Path) -> PathBuf {
    let run_dir = imported(dir, "plain/run", &Rows::clouds(4, 6, 3));
    run(&["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2"]);
    run(&["baseline", "lda", "--run", path(&run_dir), "--tasks", "2", "--seed", "5"]);
    run_dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn nothing_in_a_path_changes_an_answer() {
    let dir = tempdir().unwrap();
    let plain = learned(dir.path());
    let answers = |run_dir: &Path| {
        let ask = |sql: &str| query(run_dir, sql);
        let sweep = ["sweep", "--run", path(run_dir), "--tasks", "2", "--seeds", "5,6", "--method", "ncm"];
        let table = run(&[&sweep[..], &["--method", "lda", "--format", "csv"]].concat());
        run(&["report", "--run", path(run_dir)]);
        let report = fs::read_to_string(run_dir.join("report.html")).unwrap();
        // says where the run is
        let (start, rest) = report.split_once("<section id=\"quality\">").unwrap();
        let report = [start, rest.split_once("</section>").unwrap().1].concat();
        (
            ask("SELECT * FROM metrics ORDER BY stream, method, after_task, on_task, metric"),
            ask(
                "SELECT split, label, class_name, COUNT(*) FROM embeddings GROUP BY split, label, class_name ORDER BY split, label",
            ),
            ask(
                "SELECT stream, seed, method, AVG(accuracy) FROM class_accuracy GROUP BY stream, seed, method ORDER BY stream, method",
            ),
            table,
            report,
        )
    };
    answers(&plain); // makes what is missing
    let expected = answers(&plain);
    assert!(expected.0.len() > 20 && expected.1.len() == 8, "{expected:?}");
    for name in [
        "seed=7/run",
        "label=3/run",
        "split=val/method=ours/run",
        "class_name=x,value=1/run",
        "=/run",
        "a*b/run",
        "x?y[1]{a,b}/run",
        "with space/ümlaut 日本/run",
        "new\nline/50%41/run",
        "~/$HOME/back\\slash/quote'\"/run",
    ] {
        let run_dir = dir.path().join("moved").join(name);
        copy(&plain, &run_dir);
        assert_eq!(answers(&run_dir), expected, "{name}");
    }
}

#[test]
fn an_alias_of_a_view_is_its_own() {
    let dir = tempdir().unwrap();
    let run_dir = learned(dir.path());
    for sql in [
        "SELECT c.class_name FROM class_accuracy c WHERE c.label = 0 LIMIT 1",
        "SELECT p.class_name FROM class_accuracy p JOIN classes c ON p.stream = c.stream AND p.label = c.label WHERE c.label = 0 LIMIT 1",
        "SELECT c.class_name FROM embeddings c WHERE c.label = 0 LIMIT 1",
    ] {
        assert_eq!(query(&run_dir, sql), ["forest 0"], "{sql}");
    }
    assert_eq!(query(&run_dir, "SELECT c.metric FROM metrics c WHERE c.metric = 'faa' LIMIT 1"), ["faa"]);
    let mut names: Vec<String> = contract::on_disk().map(|table| table.name.clone()).collect();
    names.extend(views::all().iter().map(|view| view.name.clone()));
    names.sort();
    assert_eq!(query(&run_dir, "SHOW TABLES"), names);
}

#[test]
fn a_file_that_was_changed_is_named_by_what_reads_it_and_by_nothing_else() {
    let dir = tempdir().unwrap();
    let run_dir = learned(dir.path());
    let all =
        ["metrics", "predictions", "embeddings", "classes"].map(|name| (name, format!("SELECT COUNT(*) FROM {name}")));
    for (table, file) in [
        ("metrics", "results/seed-5-tasks-2/lda/task-02/metrics.parquet"),
        ("predictions", "results/seed-5-tasks-2/lda/task-01/predictions.parquet"),
        ("embeddings", "sources/base/embeddings/test/part-00000.parquet"),
        ("classes", "streams/seed-5-tasks-2/task-01/classes.parquet"),
    ] {
        let place = run_dir.join(file);
        let whole = fs::read(&place).unwrap();
        let mut changed = whole.clone();
        changed[60] ^= 1; // in the first page, where no reader of Parquet looks for damage
        fs::write(&place, changed).unwrap();
        for (name, sql) in &all {
            match *name == table {
                true => {
                    _ = fails(&["query", "--run", path(&run_dir), sql], &[file.rsplit('/').next().unwrap(), "SHA-256"])
                }
                false => _ = query(&run_dir, sql),
            }
        }
        if table == "predictions" {
            fails(&["query", "--run", path(&run_dir), "SELECT * FROM Confusion LIMIT 1"], &["predictions.parquet"]);
        }
        fs::write(&place, &whole[..whole.len() / 2]).unwrap();
        for (name, sql) in &all {
            match *name == table {
                true => {
                    _ = fails(&["query", "--run", path(&run_dir), sql], &[file.rsplit('/').next().unwrap(), "damaged"])
                }
                false => _ = query(&run_dir, sql),
            }
        }
        if table == "embeddings" {
            run(&["report", "--run", path(&run_dir), "--seeds", "5"]);
        }
        fs::write(&place, whole).unwrap();
    }
    for (_, sql) in &all {
        query(&run_dir, sql);
    }
}
