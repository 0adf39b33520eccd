//! The report, through the command line.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use cgil::{
    embeddings::{Embeddings, ShardRows, SourcePlan},
    run::Run,
    source::SourceId,
    stream::Stream,
    task::Class,
};
use tempfile::tempdir;

use crate::support::{
    Rows, as_another, command, encoded, fails, golden, image_folder, imported, number, open_to_all, path, picture,
    query, run, text,
};

/// A run with results of some methods under two seeds, in 3 tasks.
fn swept(dir: &Path) -> std::path::PathBuf {
    let run_dir = imported(dir, "my <run>", &Rows::clouds(6, 12, 6));
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
    assert_eq!(figures, 11);
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
    // probabilities of the methods that have some, and no deliveries
    for method in ["cgil,epochs=3,samples=16", "lda", "zero-shot"] {
        let error =
            format!("SELECT AVG(value) FROM metrics WHERE metric = 'ece' AND after_task = 3 AND method = '{method}'");
        let named = format!("{method}: ECE {:.1} ± ", number(&run_dir, &error));
        assert!(page.contains(&named), "{named}");
    }
    assert!(page.contains("id=\"confusions\"") && !page.contains("id=\"deliveries\""));
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
            && page.contains("None of these methods has scores that can be read as probabilities")
    );
    // a table that is damaged is named
    let metrics = run_dir.join("results/seed-1-tasks-3/lda/task-03/metrics.parquet");
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

/// A baseline, with a CLIP where it reads one.
fn baseline(run_dir: &Path, name: &str, more: &[&str]) {
    let model = golden("checkpoint");
    let clip = if name == "zero-shot" { vec!["--model", path(&model)] } else { Vec::new() };
    run(&[&["baseline", name, "--run", path(run_dir)], &clip[..], more].concat());
}

/// The page that a report writes, which says nothing on standard error.
fn page(run_dir: &Path, more: &[&str]) -> String {
    let output = command(&[&["report", "--run", path(run_dir)], more].concat()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let page = fs::read_to_string(run_dir.join("report.html")).unwrap();
    assert!(!page.contains("NaN") && !page.contains("inf %"));
    page
}

/// The figures of a page, with their tables.
fn figures(page: &str) -> &str {
    let first = page.find("id=\"curves\"").unwrap();
    let last = page.find("id=\"plane\"").unwrap();
    &page[first..last]
}

#[test]
fn methods_without_a_common_stream_have_no_difference() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(4, 6, 3));
    baseline(&run_dir, "ncm", &["--tasks", "2"]);
    baseline(&run_dir, "lda", &["--tasks", "2", "--seed", "5"]);
    let page = page(&run_dir, &[]);
    assert!(page.contains("<td>0 of 0</td><td>–</td>"));
}

#[test]
fn a_report_shows_what_is_finished_and_names_the_rest() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(6, 6, 3));
    let lda = run_dir.join("results/dataset-order-tasks-3/lda");
    baseline(&run_dir, "lda", &["--tasks", "3"]);
    fs::remove_dir_all(lda.join("task-03")).unwrap();
    fails(&["report", "--run", path(&run_dir)], &["no finished results", "lda on dataset-order-tasks-3: 2 of 3 tasks"]);
    baseline(&run_dir, "ncm", &["--tasks", "3"]);
    baseline(&run_dir, "lda", &["--tasks", "3", "--seed", "1"]);
    let shown = page(&run_dir, &[]);
    assert!(shown.contains("<dd>lda on dataset-order-tasks-3: 2 of 3 tasks</dd>"));
    assert!(shown.contains(">ncm</th><td>1</td>") && shown.contains(">lda</th><td>1</td>"));
    // figures are those of a run that never had the unfinished steps
    let clean = imported(dir.path(), "clean", &Rows::clouds(6, 6, 3));
    baseline(&clean, "ncm", &["--tasks", "3"]);
    baseline(&clean, "lda", &["--tasks", "3", "--seed", "1"]);
    assert_eq!(figures(&shown), figures(&page(&clean, &[])));
    fails(
        &["report", "--run", path(&run_dir), "--class-order", "dataset-order", "--method", "lda"],
        &["the method \"lda\" has no finished results among", "lda on seed-1-tasks-3"],
    );
    // the other method's results there do not hide it
    let two = ["--method", "lda", "--method", "ncm", "--class-order", "dataset-order"];
    fails(&[&["report", "--run", path(&run_dir)], &two[..]].concat(), &["the method \"lda\"", "lda on seed-1-tasks-3"]);
    let orders = ["--method", "ncm", "--class-order", "dataset-order", "--class-order", "seed-1"];
    let parts = ["the class order \"seed-1\" has no finished results", "lda on seed-1-tasks-3"];
    fails(&[&["report", "--run", path(&run_dir)], &orders[..]].concat(), &parts);
    let twice = page(&run_dir, &["--method", "ncm", "--method", "lda", "--method", "ncm"]);
    let first = twice.find(">ncm</th><td>1</td>").unwrap();
    assert!(first < twice.find(">lda</th><td>1</td>").unwrap());
    assert_eq!(twice.matches(">ncm</th><td>1</td>").count(), 1);

    // as many tasks, of other sizes: a mean over both would be of nothing
    baseline(&run_dir, "ncm", &["--first-task", "4", "--per-task", "1", "--seed", "1"]);
    let refused = fails(&["report", "--run", path(&run_dir)], &["[2, 2, 2], [4, 1, 1]", "--per-task"]);
    assert!(!refused.contains("numbers of tasks"), "{refused}");
    fails(&["report", "--run", path(&run_dir), "--per-task", "3"], &["then tasks of 3 classes", "some in 3"]);
    assert_eq!(page(&run_dir, &["--tasks", "3"]), shown);
    // nor do results in another number of tasks count
    baseline(&run_dir, "ncm", &["--tasks", "2"]);
    baseline(&run_dir, "lda", &["--tasks", "2", "--seed", "1"]);
    assert_eq!(page(&run_dir, &["--tasks", "3"]), shown);
    let other = page(&run_dir, &["--first-task", "4", "--per-task", "1"]);
    assert!(other.contains("<dd>seed-1-first-4-per-1</dd>"));
}

#[test]
fn the_page_counts_embeddings_and_shows_differences_in_their_unit() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("data"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 3, 2);
    fs::write(data.join("train/river/broken.png"), "text").unwrap();
    fs::write(data.join("test/river/other.png"), encoded(picture(1, 9, 64), image::ImageFormat::Png)).unwrap();
    run(&["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)]);
    baseline(&run_dir, "ncm", &["--tasks", "2"]);
    baseline(&run_dir, "lda", &["--tasks", "2"]);
    let shown = page(&run_dir, &["--metric", "stored_bytes"]);
    assert!(shown.contains("4 classes in 2 tasks, 12 training and 9 test embeddings of 48 values"));
    let bytes = |method: &str| {
        let sql = "SELECT value FROM metrics WHERE metric = 'stored_bytes' AND after_task = 2 AND method = ";
        number(&run_dir, &format!("{sql}'{method}'"))
    };
    let (first, other) = if shown.contains("<strong>lda</strong> has") { ("lda", "ncm") } else { ("ncm", "lda") };
    let difference = bytes(other) - bytes(first);
    assert!(shown.contains(&format!("a difference of {difference:.0} bytes")), "{difference}");
    assert!(page(&run_dir, &[]).contains(" points, more in "));
}

#[test]
fn reports_of_little_are_whole() {
    let dir = tempdir().unwrap();
    // one class; and classes without test rows, one of them with a task of its own
    let mut few = Rows::clouds(4, 6, 3);
    let kept: Vec<usize> = (0..few.label.len()).filter(|&i| few.label[i] != 1 || few.split[i] == "train").collect();
    few = Rows {
        split: kept.iter().map(|&i| few.split[i]).collect(),
        label: kept.iter().map(|&i| few.label[i]).collect(),
        class_name: kept.iter().map(|&i| few.class_name[i].clone()).collect(),
        embedding: kept.iter().map(|&i| few.embedding[i].clone()).collect(),
    };
    for (name, rows, tasks) in [("one", Rows::clouds(1, 6, 3), "1"), ("few", few.clone(), "2"), ("all", few, "1")] {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let (run_dir, model) = (imported(&dir, "run", &rows), golden("checkpoint"));
        run(&["fit-vae", "--run", path(&run_dir), "--tasks", tasks, "--epochs", "2"]);
        run(&["prompt-tune", "--run", path(&run_dir), "--model", path(&model), "--epochs", "2", "--samples", "8"]);
        baseline(&run_dir, "zero-shot", &["--tasks", tasks]);
        baseline(&run_dir, "ncm", &["--tasks", tasks]);
        run(&["quality", "--run", path(&run_dir)]);
        let page = page(&run_dir, &[]);
        assert_eq!(count(&page, "svg"), page.matches("</svg>").count());
        assert!(page.contains("Loss of the prompts"), "{name}");
    }
}

#[test]
fn without_the_training_embeddings_all_but_the_plane_is_shown() {
    let dir = tempdir().unwrap();
    let run_dir = swept(dir.path());
    let whole = page(&run_dir, &[]);
    fs::remove_dir_all(run_dir.join("sources/base/embeddings/train")).unwrap();
    let without = page(&run_dir, &[]);
    assert_eq!(count(&without, "figure"), count(&whole, "figure") - 1);
    assert!(without.contains("There is nothing to draw:") && without.contains("is not there any more"));
}

#[test]
fn a_stream_that_grew_is_reported_by_its_last_task() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(4, 6, 3));
    baseline(&run_dir, "zero-shot", &["--tasks", "2"]);
    baseline(&run_dir, "ncm", &["--tasks", "2"]);
    baseline(&run_dir, "lda", &["--tasks", "2"]);
    let before = page(&run_dir, &[]);

    let home = Run::open(&run_dir, |_| ()).unwrap();
    let (label, dim) = (7, 48);
    let plan = SourcePlan {
        source: SourceId { origin: "later".into(), fingerprint: "later".into() },
        model: None,
        preprocessing: None,
        compute_dtype: "float32".into(),
        device: None,
        dim,
        classes: vec![Class { label, name: "owl".into() }],
        rows: [("train".to_owned(), 4), ("test".to_owned(), 2)].into(),
        shard_rows: 8,
        kept: Vec::new(),
    };
    let mut later = Embeddings::create(&home, "later", plan).unwrap();
    for shard in later.missing() {
        let rows = shard.rows.len();
        let rows = ShardRows {
            sample_ids: (0..rows).map(|i| format!("{} {i}", shard.split)).collect(),
            labels: vec![label; rows],
            embeddings: (0..rows * dim).map(|i| if i % 5 == 0 { -1.0 } else { 0.01 * (i % 7) as f32 }).collect(),
            contents: vec!["row".into(); rows],
            ..Default::default()
        };
        later.write_shard(&shard, rows).unwrap();
    }
    later.seal().unwrap();
    let mut stream = Stream::open(&home, "dataset-order-tasks-2").unwrap();
    stream.append(&home, &later).unwrap();
    drop(later);

    // nothing has learned the new task
    fails(&["report", "--run", path(&run_dir)], &["no finished results", "ncm on dataset-order-tasks-2: 2 of 3 tasks"]);
    for name in ["zero-shot", "ncm"] {
        baseline(&run_dir, name, &["--tasks", "2"]);
    }
    let faa = "SELECT after_task FROM metrics WHERE metric = 'faa' AND method = 'ncm' ORDER BY after_task";
    assert_eq!(query(&run_dir, faa), ["2", "3"]);
    let after = page(&run_dir, &[]);
    assert!(after.contains("5 classes in 3 tasks") && before.contains("4 classes in 2 tasks"));
    assert!(after.contains("lda on dataset-order-tasks-2: 2 of 3 tasks") && !after.contains(">lda</th>"));
    assert!(after.contains(">owl</th>"), "what the new class gains and loses is not shown");
    assert_eq!(page(&run_dir, &["--tasks", "3"]), after);
}

#[test]
fn what_is_finished_can_be_read_by_whoever_may_not_write() {
    let dir = tempdir().unwrap();
    let run_dir = swept(dir.path());
    let model = golden("checkpoint");
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(dir.path(), 0o755);
    open_to_all(&out);
    let mut directories = vec![run_dir.clone()];
    while let Some(next) = directories.pop() {
        directories.extend(fs::read_dir(&next).unwrap().map(|e| e.unwrap().path()).filter(|path| path.is_dir()));
        open(&next, 0o555);
    }
    let page = out.join("report.html");
    let tune = ["prompt-tune", "--run", path(&run_dir), "--seed", "1", "--model", path(&model)];
    let fit = ["fit-vae", "--run", path(&run_dir), "--seed", "1", "--tasks", "3"];
    for args in [
        &["query", "--run", path(&run_dir), "SELECT COUNT(*) FROM metrics"][..],
        &["report", "--run", path(&run_dir), "--out", path(&page)],
        &[&tune[..], &["--epochs", "3", "--samples", "16"]].concat(),
        &["baseline", "lda", "--run", path(&run_dir), "--seed", "1", "--tasks", "3"],
        &[&fit[..], &["--epochs", "8", "--hidden", "32", "--latent", "8"]].concat(),
        &["import", path(&dir.path().join("table.parquet")), "--run", path(&run_dir)],
    ] {
        if let Some(output) = as_another(args) {
            assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        }
    }
    if let Some(output) = as_another(&["report", "--run", path(&run_dir)]) {
        assert!(page.exists());
        assert!(!output.status.success() && text(&output.stderr).contains("--out says where else"));
    }
    let mut directories = vec![run_dir];
    while let Some(next) = directories.pop() {
        open(&next, 0o755);
        directories.extend(fs::read_dir(&next).unwrap().map(|e| e.unwrap().path()).filter(|path| path.is_dir()));
    }
}
