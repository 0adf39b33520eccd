//! Known classes: more images of one, another name, and out of the classifier.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;

use crate::{
    add::{Data, LITTLE},
    support::{encoded, fails, files, golden, path, picture, query, run},
};

/// Adds pictures of a class to a folder.
fn pictures(dir: &Path, name: &str, class: usize, train: std::ops::Range<usize>, test: std::ops::Range<usize>) {
    for (split, pictures) in [("train", train), ("test", test)] {
        let dir = dir.join(split).join(name);
        fs::create_dir_all(&dir).unwrap();
        for i in pictures {
            fs::write(dir.join(format!("{i}.png")), encoded(picture(class, i, 40), image::ImageFormat::Png)).unwrap();
        }
    }
}

/// A tensor of a file, as float64.
fn tensor(file: &Path, name: &str) -> (Vec<usize>, Vec<f64>) {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let values = match view.dtype() {
        safetensors::Dtype::F64 => view.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
        _ => view.data().as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
    };
    (view.shape().to_vec(), values)
}

/// The only directory of a kind below a run, with the artefacts of a stream's tasks.
fn steps(run_dir: &str, kind: &str, name: &str) -> PathBuf {
    let mut dir = Path::new(run_dir).join(kind);
    for level in 0..2 {
        let entries = fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path());
        let fits = |path: &PathBuf| level == 0 || path.file_name().unwrap().to_string_lossy().starts_with(name);
        dir = entries.filter(fits).min().unwrap();
    }
    dir
}

/// The files that are there before and after, of which none may be another.
fn assert_kept(before: &BTreeMap<PathBuf, Vec<u8>>, run_dir: &str) {
    let after = files(Path::new(run_dir));
    let changed: Vec<&PathBuf> =
        before.iter().filter(|(name, bytes)| after.get(*name) != Some(bytes)).map(|x| x.0).collect();
    assert!(changed.is_empty(), "{changed:?} changed");
}

#[test]
fn more_pictures_of_a_known_class_are_learned_with_what_stands_for_those_before() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &["--forget"]);
    data.add(&run_dir, "1", &[]);
    let before = files(Path::new(&run_dir));
    // four more ants, some to test on, and a class that is new
    let more = data.root.join("more");
    pictures(&more, "ant", 0, 20..24, 24..27);
    pictures(&more, "emu", 4, 0..6, 6..9);
    let output = crate::support::command(&[&["add", "--run", &run_dir, "--data", path(&more)][..], &LITTLE].concat())
        .output()
        .unwrap();
    let told = crate::support::text(&output.stderr);
    assert!(output.status.success(), "{told}");
    let note = "1 class known: generators are fitted to 4 new embeddings and to 6 that the earlier generators give";
    assert!(told.contains(note), "{told}");

    // no class twice, and of what was learned nothing is another
    let dir = Path::new(&run_dir);
    let classes = query(dir, "SELECT task, class_name, source FROM classes ORDER BY label");
    assert_eq!(classes, ["1,ant,base", "1,bee,base", "2,cat,delivery-2", "2,dog,delivery-2", "3,emu,delivery-3"]);
    assert_kept(&before, &run_dir);
    let fitted = query(dir, "SELECT task, class_name, rows FROM latents ORDER BY task, class_name");
    assert_eq!(fitted, ["1,ant,6", "1,bee,6", "2,cat,6", "2,dog,6", "3,ant,10", "3,emu,6"]);
    // its test pictures count from then on, as pictures of the class
    let scored = "SELECT after_task, COUNT(*) FROM predictions p JOIN classes c ON p.label = c.label \
                  WHERE c.class_name = 'ant' GROUP BY after_task ORDER BY after_task";
    assert_eq!(query(dir, scored), ["0,3", "1,3", "2,3", "3,6"]);
    assert_eq!(
        query(dir, "SELECT DISTINCT on_task FROM predictions WHERE source = 'delivery-3' ORDER BY on_task"),
        ["1", "3"]
    );

    // statistics are those of all pictures at once
    let whole = data.root.join("whole");
    for (name, class) in [("bee", 1), ("cat", 2), ("dog", 3), ("emu", 4)] {
        pictures(&whole, name, class, 0..6, 6..9);
    }
    pictures(&whole, "ant", 0, 0..6, 6..9);
    pictures(&whole, "ant", 0, 20..24, 24..27);
    let at_once = data.at("at-once");
    let begin = ["--model", path(&golden("checkpoint"))].map(str::to_owned);
    let begin: Vec<&str> = begin.iter().map(String::as_str).collect();
    run(&[&["add", "--run", &at_once, "--data", path(&whole)][..], &begin, &LITTLE].concat());
    let state = |run_dir: &str, step: &str| {
        steps(run_dir, "statistics", "class-statistics").join(step).join("state.safetensors")
    };
    let (found, expected) = (state(&run_dir, "task-03"), state(&at_once, "task-01"));
    assert_eq!(tensor(&found, "counts").1, [10.0, 6.0, 6.0, 6.0, 6.0]);
    for name in ["counts", "means", "scatter"] {
        let (found, expected) = (tensor(&found, name), tensor(&expected, name));
        let most = expected.1.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let worst = found.1.iter().zip(&expected.1).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(found.0 == expected.0 && worst <= 1e-9 * most, "{name}: off by {worst:e} of {most:e}");
    }

    // adding again finds everything done; a delivery may bring nothing but more
    let before = files(dir);
    run(&[&["add", "--run", &run_dir, "--data", path(&more)][..], &LITTLE].concat());
    assert!(files(dir) == before);
    let again = data.root.join("again");
    pictures(&again, "ant", 0, 30..31, 0..0);
    run(&[&["add", "--run", &run_dir, "--data", path(&again), "--forget"][..], &LITTLE].concat());
    let fitted = query(dir, "SELECT class_name, rows FROM latents WHERE task = 4");
    assert_eq!(fitted, ["ant,11"]);
    assert_eq!(tensor(&state(&run_dir, "task-04"), "counts").1, [11.0, 6.0, 6.0, 6.0, 6.0]);
    run(&["baseline", "lda", "--run", &run_dir, "--tasks", "1"]);
    let page = data.at("report.html");
    run(&["report", "--run", &run_dir, "--out", &page]);
    fails(&["quality", "--run", &run_dir], &["sources/base", "forgotten"]);
}

#[test]
fn a_class_that_is_renamed_learns_alone_and_steps_before_keep_its_name() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &["--forget"]);
    data.add(&run_dir, "1", &[]);
    let dir = Path::new(&run_dir);
    let before = files(dir);
    let rename = |old: &str, new: &str| -> Vec<String> {
        [&["rename", "--run", &run_dir, old, new][..], &LITTLE].concat().into_iter().map(str::to_owned).collect()
    };
    let as_str = |args: Vec<String>, f: &dyn Fn(&[&str])| f(&args.iter().map(String::as_str).collect::<Vec<_>>());
    as_str(rename("wasp", "ant colony"), &|args| drop(fails(args, &["no class \"wasp\"", "ant, bee"])));
    as_str(rename("ant", "bee"), &|args| drop(fails(args, &["has a class \"bee\" already"])));
    as_str(rename("ant", " "), &|args| drop(fails(args, &["cannot be called"])));
    assert!(files(dir) == before);

    as_str(rename("ant", "formica"), &|args| drop(run(args)));
    assert_kept(&before, &run_dir);
    let prompts = steps(&run_dir, "prompts", "cgil");
    let [old, new] = ["task-02", "task-03"].map(|step| prompts.join(step).join("prompts.safetensors"));
    let (shape, old_contexts) = tensor(&old, "contexts");
    let (_, new_contexts) = tensor(&new, "contexts");
    let per_class = old_contexts.len() / shape[0];
    assert_eq!(shape[0], 4);
    assert!(old_contexts[..per_class] != new_contexts[..per_class], "the class did not learn");
    assert!(old_contexts[per_class..] == new_contexts[per_class..], "other classes learned");
    for layer in ["generator.0.weight", "generator.9.bias"] {
        assert!(tensor(&old, layer) == tensor(&new, layer), "{layer} learned");
    }
    // what answers calls it so
    let answer = run(&[
        "classify",
        "--run",
        &run_dir,
        path(&data.root.join("0/test/ant/6.png")),
        "--top",
        "4",
        "--format",
        "csv",
    ]);
    assert!(answer.contains(",formica,") && !answer.contains(",ant,"), "{answer}");
    assert_eq!(query(dir, "SELECT COUNT(*) FROM predictions WHERE after_task = 3"), ["12"]);
    // once more finds it done
    let done = files(dir);
    as_str(rename("ant", "formica"), &|args| drop(run(args)));
    assert!(files(dir) == done);

    // a method that comes later learns the steps before as they were learned then
    let run_of = |more: &[&str]| {
        let args = ["prompt-tune", "--run", &run_dir, "--epochs", "1", "--samples", "16"];
        run(&[&args[..], more].concat());
    };
    run_of(&[]);
    let other = data.at("other");
    data.add(&other, "0", &[]);
    data.add(&other, "1", &[]);
    run(&["prompt-tune", "--run", &other, "--epochs", "1", "--samples", "16"]);
    let of = |run_dir: &str, step: &str| {
        let dir = steps(run_dir, "prompts", "cgil-epochs-1-samples-16").join(step);
        fs::read(dir.join("prompts.safetensors")).unwrap()
    };
    for step in ["task-01", "task-02"] {
        assert!(of(&run_dir, step) == of(&other, step), "{step}");
    }
    // what a baseline keeps of the task is what it would have kept then
    let linear = |run_dir: &str| {
        run(&["baseline", "linear", "--run", run_dir, "--tasks", "1", "--covariance", "diagonal"]);
        fs::read(steps(run_dir, "statistics", "linear").join("task-01/state.safetensors")).unwrap()
    };
    let renamed = data.at("renamed");
    data.add(&renamed, "0", &[]);
    data.add(&renamed, "1", &[]);
    run(&["rename", "--run", &renamed, "ant", "formica"]);
    assert!(linear(&renamed) == linear(&other));
    data.add(&run_dir, "2", &[]); // and the stream goes on
    assert_eq!(query(dir, "SELECT COUNT(*) FROM predictions WHERE after_task = 4"), ["18"]);
}

#[test]
fn a_class_that_is_taken_out_is_no_candidate_and_may_come_again() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    data.add(&run_dir, "1", &["--forget"]);
    let dir = Path::new(&run_dir);
    let before = files(dir);
    let remove = |class: &str| -> Vec<String> {
        [&["remove-class", "--run", &run_dir, class][..], &LITTLE].concat().into_iter().map(str::to_owned).collect()
    };
    let as_str = |args: Vec<String>, f: &dyn Fn(&[&str])| f(&args.iter().map(String::as_str).collect::<Vec<_>>());
    as_str(remove("wasp"), &|args| drop(fails(args, &["no class \"wasp\""])));
    assert!(files(dir) == before);
    as_str(remove("ant"), &|args| drop(run(args)));
    assert_kept(&before, &run_dir);

    let ant = "(SELECT label FROM classes WHERE class_name = 'ant')";
    let count = |condition: &str| query(dir, &format!("SELECT COUNT(*) FROM predictions WHERE {condition}"));
    assert_eq!(
        count(&format!("after_task = 3 AND (label IN {ant} OR predicted IN {ant} OR predicted_open IN {ant})")),
        ["0"]
    );
    assert_eq!([count("after_task = 2"), count("after_task = 3")].concat(), ["12", "9"]);
    assert_eq!(
        query(dir, "SELECT class_name FROM text_features WHERE after_task = 3 ORDER BY class_name"),
        ["bee", "cat", "dog"]
    );
    let answers = |top: &str| {
        run(&["classify", "--run", &run_dir, path(&data.root.join("0/test")), "--top", top, "--format", "csv"])
    };
    assert!(!answers("9").contains(",ant,"));
    let also = run(&[
        "classify",
        "--run",
        &run_dir,
        path(&data.root.join("0/test/bee/6.png")),
        "--also",
        "a red fox",
        "--top",
        "9",
        "--format",
        "csv",
    ]);
    assert!(!also.contains(",ant,") && also.contains(",bee,") && also.contains(",a red fox,"), "{also}");
    // what is exported has no such class either
    let out = data.at("npy");
    run(&["export", "--run", &run_dir, "--to", "npy", "--out", &out]);
    let labels = fs::read_to_string(Path::new(&out).join("labels.json")).unwrap();
    assert!(!labels.contains("\"ant\"") && labels.contains("\"bee\""), "{labels}");

    // the same pictures under the same name are another class
    let ants = data.root.join("ants");
    pictures(&ants, "ant", 0, 0..6, 6..9);
    run(&[&["add", "--run", &run_dir, "--data", path(&ants)][..], &LITTLE].concat());
    let classes = query(dir, "SELECT task, class_name FROM classes ORDER BY label");
    assert_eq!(classes, ["1,ant", "1,bee", "2,cat", "2,dog", "4,ant"]);
    assert!(answers("9").contains(",ant,"));
    assert_eq!(count("after_task = 4"), ["12"]);
    for class in ["bee", "cat", "dog"] {
        as_str(remove(class), &|args| drop(run(args)));
    }
    as_str(remove("ant"), &|args| drop(fails(args, &["the only class"])));
}

/// What `classify` says of test pictures, and what the last step's predictions say, by picture.
fn said(data: &Data, run_dir: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let mut classified = Vec::new();
    for delivery in ["0", "1"] {
        let root = data.root.join(delivery);
        let csv = run(&["classify", "--run", run_dir, path(&root.join("test")), "--top", "1", "--format", "csv"]);
        for line in csv.lines().skip(1) {
            let [file, _, class, probability, ..] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let id = Path::new(file).strip_prefix(&root).unwrap().to_str().unwrap();
            classified.push(format!("{id} {class} {:.4}", probability.parse::<f64>().unwrap()));
        }
    }
    let sql = format!(
        "SELECT p.sample_id, c.class_name, p.probability FROM predictions p JOIN classes c ON p.predicted = c.label \
         WHERE p.after_task = {after}"
    );
    let rows = query(Path::new(run_dir), &sql);
    let predicted = rows.iter().map(|row| {
        let [id, class, probability] = row.split(',').collect::<Vec<_>>()[..] else { panic!("{row}") };
        format!("{id} {class} {:.4}", probability.parse::<f64>().unwrap())
    });
    let predicted: std::collections::BTreeSet<String> = predicted.collect();
    classified.retain(|line| predicted.iter().any(|row| row.split(' ').next() == line.split(' ').next()));
    classified.sort();
    (classified, predicted.into_iter().collect())
}

#[test]
fn predictions_say_what_classify_says_after_a_class_was_taken_out() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    data.add(&run_dir, "1", &[]);
    let (classified, predicted) = said(&data, &run_dir, "2");
    assert_eq!((classified.len(), &classified), (12, &predicted));
    run(&["remove-class", "--run", &run_dir, "cat"]); // the options are the run's
    let (classified, predicted) = said(&data, &run_dir, "3");
    assert_eq!((classified.len(), &classified), (9, &predicted));
    let methods = query(Path::new(&run_dir), "SELECT COUNT(DISTINCT method) FROM metrics");
    assert_eq!(methods, ["1"]);
}

#[test]
fn pictures_of_one_known_class_do_not_say_when_all_are_none_of_these() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    data.add(&run_dir, "1", &[]);
    let all = data.root.join("all/test");
    let refused = || {
        let args = ["classify", "--run", &run_dir, path(&all), "--reject", "0.3", "--format", "csv"];
        run(&args).lines().filter(|line| line.contains(",1,") && line.ends_with(",true")).count()
    };
    let known = |step: &str| {
        let dir = steps(&run_dir, "results", "cgil").join(step);
        tensor(&dir.join("classifier.safetensors"), "known")
    };
    let (before, quantiles) = (refused(), known("task-02"));
    assert!(before > 0);
    let more = data.root.join("more");
    pictures(&more, "ant", 0, 20..21, 0..0);
    run(&["add", "--run", &run_dir, "--data", path(&more)]);
    assert!(known("task-03") == quantiles);
}

#[test]
fn what_cannot_be_learned_stays_out_of_the_stream() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    run(&["baseline", "ncm", "--run", &run_dir, "--tasks", "1"]);
    let before = files(Path::new(&run_dir));
    let other = ["--fit-vae", "epochs=5,hidden=16,latent=4"];
    let parts = ["epochs is 3 there, 5 now"];
    fails(&[&["rename", "--run", &run_dir, "ant", "formica"][..], &other].concat(), &parts);
    fails(&[&["remove-class", "--run", &run_dir, "ant"][..], &other].concat(), &parts);
    fails(&[&["add", "--run", &run_dir, "--data", &data.at("1")][..], &other].concat(), &parts);
    fails(&["add", "--run", &run_dir, "--data", &data.at("1"), "--stream", "none"], &["no stream \"none\""]);
    assert!(files(Path::new(&run_dir)) == before);

    // a class without test pictures is learned, and not scored
    let silent = data.root.join("silent");
    pictures(&silent, "gnu", 2, 0..6, 0..0);
    pictures(&silent, "ant", 0, 20..24, 0..0); // a baseline that learns a class once is out of it
    run(&["add", "--run", &run_dir, "--data", path(&silent), "--forget"]);
    let dir = Path::new(&run_dir);
    assert_eq!(query(dir, "SELECT on_task FROM metrics WHERE metric = 'accuracy' AND after_task = 2"), ["1"]);
    let answer = run(&["classify", "--run", &run_dir, path(&data.root.join("0/test/ant/6.png")), "--top", "9"]);
    assert!(answer.contains("gnu"), "{answer}");
}

#[test]
fn what_is_scored_after_test_pictures_were_forgotten_is_another_artefact() {
    let data = Data::new();
    let [early, late] = ["early", "late"].map(|name| data.at(name));
    for run_dir in [&early, &late] {
        data.add(run_dir, "0", &[]);
        data.add(run_dir, "1", &[]);
    }
    let lda = |run_dir: &str| run(&["baseline", "lda", "--run", run_dir, "--tasks", "1"]);
    let forget = |run_dir: &str| run(&["forget", "--run", run_dir, "--source", "base", "--test"]);
    run(&["baseline", "lda", "--run", &late, "--tasks", "1"]); // statistics, while the rows are there
    fs::remove_dir_all(steps(&late, "results", "lda")).unwrap();
    lda(&early);
    forget(&early);
    forget(&late);
    lda(&late);
    lda(&early); // what was scored before goes on
    let identity = |run_dir: &str| {
        let manifest = fs::read_to_string(steps(run_dir, "results", "lda").join("task-01/manifest.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["identity"].to_string()
    };
    assert_ne!(identity(&early), identity(&late));
    let count = |run_dir: &str| {
        query(
            Path::new(run_dir),
            "SELECT COUNT(*) FROM predictions WHERE method = 'lda' AND after_task = 1 AND on_task = 1",
        )
    };
    assert_eq!([count(&early), count(&late)].concat(), ["6", "0"]);
}
