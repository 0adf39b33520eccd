//! A run of an earlier version, whose evidence is by rule 7: where images are forgotten, it goes on.
//! `tests/golden/rule-7.tar.gz` is what that version made of [`Data`]'s first two deliveries.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use cgil::artefact::{Manifest, STATISTICS};
use flate2::read::GzDecoder;

use crate::{
    add::{Data, LITTLE},
    support::{command, ended, fails, files, golden, path, run, text},
};

const STREAM: &str = "dataset-order-tasks-1";

/// The run, and deliveries.
struct Earlier {
    data: Data,
    run_dir: String,
}

impl Earlier {
    fn new() -> Self {
        let data = Data::new();
        tar::Archive::new(GzDecoder::new(File::open(golden("rule-7.tar.gz")).unwrap())).unpack(&data.root).unwrap();
        Earlier { run_dir: data.at("run"), data }
    }

    /// The command that adds the third delivery. The checkpoint is elsewhere now.
    fn add(&self, prompt_tune: &str, more: &[&str]) -> Vec<String> {
        let model = path(&golden("checkpoint")).to_owned();
        let tune = format!("{prompt_tune},model={model}");
        let delivery = self.data.at("2");
        let words = ["add", "--run", &self.run_dir, "--data", &delivery, "--model", &model, "--fit-vae", LITTLE[1]];
        let all = [&words[..], &["--prompt-tune", &tune], more].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn at(&self, kind: &str) -> PathBuf {
        Path::new(&self.run_dir).join(kind).join(STREAM)
    }

    /// Directories of evidence: that of rule 7, and that of today's, if there is one.
    fn evidence(&self) -> (PathBuf, Option<PathBuf>) {
        let entries = fs::read_dir(self.at("statistics")).unwrap().flatten().map(|entry| entry.path());
        let (earlier, now): (Vec<PathBuf>, Vec<PathBuf>) = entries
            .filter(|dir| dir.file_name().unwrap().to_string_lossy().starts_with("evidence"))
            .partition(|dir| dir.to_string_lossy().ends_with("d559e8fc"));
        (earlier[0].clone(), now.first().cloned())
    }

    fn forget(&self, source: &str, more: &[&str]) -> String {
        run(&[&["forget", "--run", &self.run_dir, "--source", source], more].concat())
    }
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// What artefacts are of, without locks.
fn made(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(dir).into_iter().filter(|(name, _)| !name.ends_with(".lock")).collect()
}

#[test]
fn what_was_learned_by_an_earlier_rule_from_images_that_are_forgotten_stays_and_the_run_goes_on() {
    let earlier = Earlier::new();
    earlier.forget("delivery-2", &[]); // the first delivery's images are there
    let kinds = ["statistics", "prompts", "results"];
    let before = kinds.map(|kind| made(&earlier.at(kind)));
    let add = earlier.add("epochs=2", &[]);
    let output = ended(&words(&add));
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    let note = "what evidence learned of the first 2 tasks is by an earlier rule, and stays";
    assert_eq!(told.matches(note).count(), 1, "{told}");
    for (kind, before) in kinds.iter().zip(before) {
        let after = made(&earlier.at(kind));
        assert!(before.len() > 2 && before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "{kind}");
    }
    let (was, now) = earlier.evidence();
    let now = now.unwrap();
    let steps = |dir: &Path| (1..=3).filter(|step| dir.join(format!("task-0{step}")).exists()).collect::<Vec<_>>();
    assert_eq!((steps(&was), steps(&now)), (vec![1, 2], vec![3]));
    let last = Manifest::find(&now.join("task-03"), &STATISTICS).unwrap().unwrap();
    assert!(was.join("task-02").ends_with(&last.inputs["before"].path));

    // everything is found done; whatever else was learned may be forgotten, and classes are told
    let there = files(Path::new(&earlier.run_dir));
    run(&words(&add));
    assert!(files(Path::new(&earlier.run_dir)) == there);
    earlier.forget("base", &["--test"]);
    run(&words(&earlier.add("epochs=2", &["--forget"])));
    earlier.forget("delivery-3", &["--test"]);
    let model = golden("checkpoint");
    let picture = format!("{}/test", earlier.data.at("0"));
    let classify = ["classify", "--run", &earlier.run_dir, &picture, "--top", "1", "--model", path(&model)];
    let said = run(&[&classify[..], &["--also", "gnu"]].concat());
    assert_eq!(said.lines().filter(|line| line.contains(": ant (") || line.contains(": bee (")).count(), 6, "{said}");
}

#[test]
fn a_delivery_that_evidence_of_an_earlier_rule_has_not_learned_is_not_forgotten() {
    let earlier = Earlier::new();
    earlier.forget("base", &[]);
    fs::create_dir(earlier.evidence().0.join("task-03")).unwrap(); // what was not made to its end
    let parts = ["has not learned delivery-3", "evidence"];
    fails(&words(&earlier.add("epochs=2,statistics=lda", &["--forget"])), &parts);
    run(&words(&earlier.add("epochs=2", &["--forget"])));
}

#[test]
fn where_images_are_there_results_of_an_earlier_rule_are_refused_and_made_again() {
    let earlier = Earlier::new();
    let add = earlier.add("epochs=2", &[]);
    fails(&words(&add), &["results/", "task-01 was made otherwise", "remove it and the steps after it"]);
    fs::remove_dir_all(earlier.at("results")).unwrap();
    let output = command(&words(&add)).output().unwrap();
    assert!(output.status.success() && !text(&output.stderr).contains("earlier rule"));
    let (_, now) = earlier.evidence();
    assert!((1..=3).all(|step| now.as_ref().unwrap().join(format!("task-0{step}")).exists()));
}
