//! Deliveries to a classifier in use: it answers while they come, its checkpoint may move, and what a run
//! knows of them already is said.

use std::{fs, path::Path};

use crate::{
    add::{Data, LITTLE},
    support::{copy, copy_checkpoint, ended, fails, files, only, path, run, text},
};

/// Runs a command that succeeds, and returns its notes.
fn told(args: &[&str]) -> String {
    let output = ended(args);
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    told
}

#[test]
fn while_a_delivery_is_not_learned_the_classifier_before_it_answers() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    let pictures = format!("{}/test", data.at("0"));
    let classify = ["classify", "--run", &run_dir, &pictures, "--top", "1"];
    let before = run(&classify);
    data.add(&run_dir, "1", &[]);
    let method = only(Path::new(&run_dir), "results", "dataset-order-tasks-1", "cgil");
    fs::remove_dir_all(method.join("task-02")).unwrap();
    // the class of an unlearned task was not known then
    assert_eq!(run(&classify), before);
    assert!(told(&classify).contains("the classifier after task 1 of 2"));
    let also = run(&[&classify[..], &["--also", "gnu"]].concat());
    assert!(also.lines().count() == 6 && also.contains(": bee ("), "{also}");
    // what it is made from is what it has learned
    let head = data.root.join("head");
    run(&["export", "--run", &run_dir, "--to", "npy", "--out", path(&head)]);
    let made: String = files(&head).into_values().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
    assert!(made.contains("base") && !made.contains("delivery-2"), "{made}");
    fs::remove_dir_all(&method).unwrap();
    fails(&classify, &["no classifier yet", "cgil add"]);
    // another method beside it does not hide it
    data.add(&run_dir, "1", &[]);
    run(&["baseline", "evidence", "--run", &run_dir, "--tasks", "1"]);
    assert!(!told(&classify).contains("after task"));
    // a method is called as tables call it
    assert!(!told(&[&classify[..], &["--method", "cgil,epochs=2"]].concat()).contains("after task"));
    fails(&[&classify[..], &["--method", "cgil,epochs=3"]].concat(), &["cgil,epochs=3 has no classifier", "evidence"]);
    fs::remove_dir_all(method.join("task-02")).unwrap();
    assert!(told(&classify).contains("the classifier after task 1 of 2"));
}

#[test]
fn a_checkpoint_that_was_moved_is_given_once() {
    let data = Data::new();
    let run_dir = data.at("run");
    let [first, second] = ["clip", "moved"].map(|name| data.at(name));
    copy_checkpoint(Path::new(&first));
    let places = [data.at("0"), data.at("1"), data.at("2")];
    let add = |delivery: usize, more: &[&str]| -> Vec<String> {
        let words = [&["add", "--run", &run_dir, "--data", &places[delivery]][..], &LITTLE, more].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    let told = |args: Vec<String>| told(&args.iter().map(String::as_str).collect::<Vec<_>>());
    told(add(0, &["--model", &first]));
    fs::rename(&first, &second).unwrap();
    fails(&add(1, &[]).iter().map(String::as_str).collect::<Vec<_>>(), &["clip", "is not there"]);
    run(&["rename", "--run", &run_dir, "ant", "formica", "--model", &second]);
    told(add(1, &["--model", &second]));
    told(add(2, &[])); // a later delivery says where it is
}

#[test]
fn what_a_run_knows_of_a_delivery_already_is_said() {
    let data = Data::new();
    let run_dir = data.at("run");
    data.add(&run_dir, "0", &[]);
    run(&["rename", "--run", &run_dir, "ant", "formica"]);
    // a disk was full when another one began
    fs::create_dir_all(format!("{run_dir}/sources/delivery-2")).unwrap();
    fs::write(format!("{run_dir}/sources/delivery-2/.lock"), "").unwrap();

    let more = data.root.join("more");
    for (from, to) in [("1/train/cat", "train/BEE"), ("0/test/ant", "train/ant"), ("0/train/ant", "train/ant")] {
        for file in fs::read_dir(data.root.join(from)).unwrap().flatten() {
            fs::create_dir_all(more.join(to)).unwrap();
            let name = format!("{}-{}", from.replace('/', "-"), file.file_name().to_string_lossy());
            fs::copy(file.path(), more.join(to).join(name)).unwrap();
        }
    }
    let said = told(&[&["add", "--run", &run_dir, "--data", path(&more), "--forget"][..], &LITTLE].concat());
    for part in [
        "\"BEE\" is learned as a class of its own, beside \"bee\"",
        "\"ant\" is learned as a class of its own; what was called so before is \"formica\" now",
        "3 of its 15 training images are test images of base",
        "6 of its 15 training images are training images of base already",
        "training embeddings of base are there still: `cgil forget`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(run(&["status", "--run", &run_dir]).contains("extract delivery-2: 0 of 0 shards, 0 of 0 images, complete"));
    let renamed = told(&["rename", "--run", &run_dir, "formica", "Bee "]);
    assert!(renamed.contains("\"Bee\" is spelled nearly as \"bee\""), "{renamed}");

    // what nothing will learn from is removed by hand
    let lone = data.at("lone");
    copy(Path::new(&format!("{run_dir}/sources/base")), Path::new(&format!("{lone}/sources/base")));
    fails(
        &["forget", "--run", &lone, "--source", "base"],
        &["nothing was learned from base", "remove", "sources/base"],
    );
}
