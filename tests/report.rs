//! The report, through the command line.

use std::{fs, path::Path};

use tempfile::tempdir;

use crate::support::{Rows, fails, golden, number, path, query, run};

/// A run with results of some methods under two seeds, in 3 tasks.
fn swept(dir: &Path) -> std::path::PathBuf {
    let (table, run_dir) = (dir.join("table.parquet"), dir.join("my <run>"));
    Rows::clouds(6, 12, 6).write(&table);
    run(&["import", path(&table), "--run", path(&run_dir)]);
    let model = golden("checkpoint");
    let sweep = ["sweep", "--run", path(&run_dir), "--tasks", "3", "--seeds", "1,2", "--model", path(&model)];
    let methods = ["--method", "cgil,epochs=3,samples=16", "--method", "lda", "--method", "zero-shot"];
    run(&[&sweep[..], &methods, &["--fit-vae", "epochs=8,hidden=32,latent=8"]].concat());
    run_dir
}

/// Elements of a page by name, counted.
fn count(page: &str, element: &str) -> usize {
    page.matches(&format!("<{element}")).count()
}

#[test]
fn a_report_is_one_page_that_needs_nothing_else() {
    let dir = tempdir().unwrap();
    let run_dir = swept(dir.path());
    run(&["quality", "--run", path(&run_dir), "--seed", "1"]);
    let printed = run(&["report", "--run", path(&run_dir)]);
    assert!(printed.contains("report.html"), "{printed}");
    let page = fs::read_to_string(run_dir.join("report.html")).unwrap();
    assert!(page.len() < 3 << 20);

    // nothing is fetched, nothing runs, the title is text
    for foreign in ["<script", "src=", "@import", "url(http", "href=\"http"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("<h1>my &lt;run&gt;</h1>") && !page.contains("<run>"));
    // every figure has a title, and a text in its place
    let figures = count(&page, "figure");
    assert_eq!(figures, 9);
    assert_eq!(page.matches("role=\"img\" aria-label=\"").count(), figures);
    assert_eq!(count(&page, "section"), count(&page, "h2"));
    for unit in ["accuracy on the tasks seen (%)", "CI-Transfer, unseen classes (%)", "(percentage points)", "(nats)"] {
        assert!(page.contains(unit), "{unit}");
    }
    // the figures are those of the tables
    let faa = "SELECT value FROM metrics WHERE metric = 'faa' AND method = 'lda' ORDER BY class_order";
    let faa: Vec<f64> = query(&run_dir, faa).iter().map(|x| x.parse().unwrap()).collect();
    assert!(page.contains(&format!("{:.1} ± ", (faa[0] + faa[1]) / 2.0)), "{faa:?}");
    let cell = "SELECT AVG(value) FROM metrics WHERE metric = 'accuracy' AND method LIKE 'cgil%' AND after_task = 3 AND on_task = 1";
    assert!(page.contains(&format!("<td>{:.1}</td>", number(&run_dir, cell))));
    // tables for papers, and what made the results
    for text in
        ["\\begin{tabular}", "| method | orders |", "&quot;method&quot;,&quot;orders&quot;", "model_sha256", "cgil 0."]
    {
        assert!(page.contains(text), "{text}");
    }
    // again, the same bytes
    run(&["report", "--run", path(&run_dir), "--out", path(&dir.path().join("again.html"))]);
    assert_eq!(fs::read_to_string(dir.path().join("again.html")).unwrap(), page);
}

#[test]
fn what_a_report_is_asked_for_has_to_be_there() {
    let dir = tempdir().unwrap();
    let run_dir = swept(dir.path());
    let refused = |more: &[&str], parts: &[&str]| {
        fails(&[&["report", "--run", path(&run_dir)], more].concat(), parts);
        assert!(!run_dir.join("report.html").exists());
    };
    refused(&["--method", "nearest"], &["\"nearest\"", "lda"]);
    refused(&["--seeds", "3"], &["\"seed-3\"", "seed-1"]);
    refused(&["--tasks", "4"], &["4 tasks", "some in 3"]);
    refused(&["--class", "unicorn"], &["\"unicorn\""]);
    run(&["baseline", "ncm", "--run", path(&run_dir), "--tasks", "2", "--seed", "7"]);
    refused(&[], &["2, 3", "--tasks"]);
    // a method that knows nothing of unseen classes, alone: the figures that it cannot have say why
    run(&["report", "--run", path(&run_dir), "--tasks", "2"]);
    let page = fs::read_to_string(run_dir.join("report.html")).unwrap();
    assert!(
        page.contains("no zero-shot accuracy to compare with")
            && page.contains("None of these methods learns from a generator")
    );
    // a table that is damaged is named
    let metrics = run_dir.join("results/seed-1/lda/task-03/metrics.parquet");
    fs::write(&metrics, "x").unwrap();
    fails(&["report", "--run", path(&run_dir), "--tasks", "3"], &["lda/task-03/metrics.parquet", "damaged"]);
}

#[test]
fn losses_are_kept_for_every_epoch() {
    let dir = tempdir().unwrap();
    let run_dir = swept(dir.path());
    let count = |sql: &str| number(&run_dir, sql);
    assert_eq!(count("SELECT COUNT(*) FROM prompt_losses WHERE class_order = 'seed-1'"), 9.0); // 3 tasks of 3 epochs
    assert_eq!(count("SELECT COUNT(*) FROM generator_losses WHERE class_order = 'seed-1'"), 48.0); // 6 classes, 8 epochs
    // the last epoch's loss is what the latents say
    let last = "SELECT l.reconstruction + l.kl - g.loss AS difference FROM latents l JOIN generator_losses g ON \
                l.label = g.label AND l.class_order = g.class_order WHERE g.epoch = 8";
    assert!(query(&run_dir, last).iter().all(|x| x.parse::<f64>().unwrap().abs() < 1e-9));
}
