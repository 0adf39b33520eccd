//! A run of an earlier version, whose statistics are by another rule: where images are forgotten, it
//! goes on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cgil::{
    artefact::{Input, Manifest, Plan, STATISTICS, slug},
    hash::canonical,
    tensors,
};
use serde_json::{Value, json};

use crate::{
    add::{Data, LITTLE},
    support::{command, files, only, query, run, text},
};

/// Directory of a step.
fn step(dir: &Path, learned: usize) -> PathBuf {
    dir.join(format!("task-{learned:02}"))
}

/// Makes the evidence of a run's first `steps` tasks one by rule 7, and takes away what was made from
/// it. Returns where it was, and where it is now.
fn by_rule_7(run_dir: &Path, steps: usize) -> [PathBuf; 2] {
    let now = only(run_dir, "statistics", "dataset-order-tasks-1", "evidence");
    let (mut dir, mut before) = (PathBuf::new(), None);
    for learned in 1..=steps {
        let from = step(&now, learned);
        let made = Manifest::find(&from, &STATISTICS).unwrap().unwrap();
        let mut plan = Plan { kind: &STATISTICS, device: made.device, options: made.options, inputs: made.inputs };
        plan.options["options"]["rule"] = json!(7);
        plan.inputs.extend(before.take().map(|before| ("before".to_owned(), before)));
        dir = now.with_file_name(slug(&format!("evidence{}", canonical(&plan.options["options"]))));
        let (mut state, about) = tensors::read::<f64, Value>(&from.join("state.safetensors")).unwrap();
        let (shape, chosen) = state.get_mut("chosen").unwrap();
        assert_eq!((shape.pop(), chosen.remove(5)), (Some(7), 0.5)); // the power
        shape.push(6);
        let at = step(&dir, learned);
        let place = path_in(run_dir, &at);
        plan.make(&at, place, Value::Null, |dir| tensors::write(&dir.join("state.safetensors"), &state, &about))
            .unwrap();
        before = Some(Input::new(run_dir, &at, plan.identity()));
    }
    fs::remove_dir_all(&now).unwrap();
    fs::remove_dir_all(run_dir.join("results")).unwrap();
    [now, dir]
}

fn path_in(run_dir: &Path, dir: &Path) -> String {
    dir.strip_prefix(run_dir).unwrap().display().to_string()
}

/// What was answered after a number of tasks.
fn answers(run_dir: &Path, learned: usize) -> Vec<String> {
    let what = "SELECT source, sample_id, predicted FROM predictions";
    query(run_dir, &format!("{what} WHERE after_task = {learned} ORDER BY source, sample_id"))
}

#[test]
fn what_was_learned_by_an_earlier_rule_from_images_that_are_forgotten_stays_and_the_run_goes_on() {
    let data = Data::new();
    let run_dir = data.at("run");
    let dir = Path::new(&run_dir);
    data.add(&run_dir, "0", &[]);
    data.add(&run_dir, "1", &["--forget"]); // the first delivery's images are there
    let before = [1, 2].map(|learned| answers(dir, learned));
    let [now, earlier] = by_rule_7(dir, 2);
    let states = files(&earlier);

    let delivery = data.at("2");
    let output = command(&[&["add", "--run", &run_dir, "--data", &delivery][..], &LITTLE].concat()).output().unwrap();
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    let note = "what evidence learned of the first 2 tasks by an earlier rule stays, since images are forgotten";
    assert_eq!(told.matches(note).count(), 1, "{told}");
    assert!(files(&earlier) == states);
    assert!(!step(&now, 1).exists() && !step(&now, 2).exists());
    let made = Manifest::find(&step(&now, 3), &STATISTICS).unwrap().unwrap();
    assert_eq!(made.inputs["before"].path, path_in(dir, &step(&earlier, 2)));
    // the answers of one who had learned all by the rule of then
    let after = [1, 2].map(|learned| answers(dir, learned));
    assert_eq!(before.each_ref().map(Vec::len), [6, 12]);
    for (before, after) in before.iter().zip(&after) {
        assert!(before.iter().all(|answer| after.contains(answer)));
    }
    assert_eq!(query(dir, "SELECT COUNT(*) FROM predictions WHERE after_task = 3"), ["18"]);

    // everything is found done; what can be forgotten goes, and the classifier is of all classes
    let there = files(dir);
    data.add(&run_dir, "2", &[]);
    assert!(files(dir) == there);
    run(&["forget", "--run", &run_dir, "--source", "base"]);
    data.add(&run_dir, "2", &["--forget"]);
    let picture = format!("{}/test", data.at("0"));
    let said = run(&["classify", "--run", &run_dir, &picture, "--top", "1", "--also", "gnu"]);
    assert_eq!(said.lines().filter(|line| line.contains("ant") || line.contains("bee")).count(), 6, "{said}");
}

#[test]
fn where_images_are_there_what_an_earlier_rule_learned_is_learned_again() {
    let data = Data::new();
    let run_dir = data.at("run");
    let dir = Path::new(&run_dir);
    data.add(&run_dir, "0", &[]);
    let [now, _] = by_rule_7(dir, 1);
    data.add(&run_dir, "1", &[]);
    assert!(step(&now, 1).exists() && step(&now, 2).exists());
}
