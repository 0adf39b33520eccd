//! What the program says beside its answers: help, version, progress, notes and errors, for people
//! and for programs.

use std::process::Output;

use serde_json::Value;
use tempfile::tempdir;

use crate::support::{CLASSES, Rows, command, golden, image_folder, imported, path, text};

/// Lines and columns of a screen.
const SCREEN: (usize, usize) = (30, 100);

#[test]
fn short_help_fits_a_screen() {
    let mut open: Vec<Vec<String>> = vec![vec![]];
    let mut seen = 0;
    while let Some(words) = open.pop() {
        let help = |flag: &str| {
            let mut command = command(&[]);
            let output = command.args(&words).arg(flag).env("COLUMNS", SCREEN.1.to_string()).output().unwrap();
            assert!(output.status.success(), "{words:?}");
            text(&output.stdout)
        };
        let short = help("-h");
        assert!(short.lines().count() <= SCREEN.0, "cgil {words:?} -h is too long:\n{short}");
        assert!(short.lines().all(|line| line.chars().count() <= SCREEN.1), "cgil {words:?} -h is too wide:\n{short}");
        let long = help("--help");
        for option in ["--quiet", "--verbose", "--log"] {
            assert!(long.contains(option) && short.contains(option), "{words:?} {option}");
        }
        if let Some((_, commands)) = short.split_once("Commands:\n") {
            let commands = commands.lines().take_while(|line| !line.is_empty());
            let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
            let names = commands.map(|line| line.split_whitespace().next().unwrap()).filter(|name| *name != "help");
            open.extend(names.map(|name| [&words[..], &[name.to_owned()]].concat()));
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn the_version_says_what_the_program_was_built_with() {
    let features = if cfg!(feature = "cuda") { "cuda" } else { "none" };
    let expected = format!("cgil {} (features: {features})\n", env!("CARGO_PKG_VERSION"));
    for flag in ["-V", "--version"] {
        assert_eq!(text(&command(&[flag]).output().unwrap().stdout), expected);
    }
}

/// Runs `cgil`, which has to succeed.
fn told(args: &[&str]) -> Output {
    let output = command(args).output().unwrap();
    assert!(output.status.success(), "cgil {args:?} failed:\n{}", text(&output.stderr));
    output
}

/// What was told as JSON, an object per line.
fn objects(output: &Output) -> Vec<Value> {
    text(&output.stderr).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

#[test]
fn a_program_reads_progress_notes_and_errors() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    image_folder(&data, 3, 2);
    std::fs::create_dir(data.join("train/empty one")).unwrap();
    std::fs::create_dir(data.join("test/empty one")).unwrap();
    let model = golden("checkpoint");
    let extract = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
    let first = told(&[&extract[..], &["--log", "json"]].concat());
    let events = objects(&first);
    let of = |event: &str| events.iter().filter(|e| e["event"] == event).collect::<Vec<_>>();
    let progress = of("progress");
    let images = 5 * CLASSES.len();
    let done: Vec<u64> = progress.iter().map(|e| e["done"].as_u64().unwrap()).collect();
    assert!(done[0] == 0 && done[done.len() - 1] == images as u64 && done.is_sorted(), "{events:?}");
    assert!(progress.iter().all(|e| e["total"] == images && e["stage"] == "extract" && e["message"].is_string()));
    assert!(of("note").iter().any(|e| e["message"].as_str().unwrap().contains("empty one")), "{events:?}");
    assert_eq!(events[events.len() - 1]["event"], "done");
    assert!(events.iter().all(|e| e["seconds"].is_number()));
    assert!(text(&first.stdout).contains("20 images"));

    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "9", "--log", "json"];
    let failed = command(&fit).output().unwrap();
    let events = objects(&failed);
    assert_eq!(failed.status.code(), Some(1));
    assert!(events.len() == 1 && events[0]["event"] == "error", "{events:?}");
    assert!(events[0]["message"].as_str().unwrap().contains("9 tasks"), "{events:?}");

    let refused = command(&["--log=json", "fit-vae", "--task", "9"]).output().unwrap();
    let events = objects(&refused);
    assert_eq!(refused.status.code(), Some(2));
    assert!(events.len() == 1 && events[0]["event"] == "error", "{events:?}");
    assert!(events[0]["message"].as_str().unwrap().starts_with("unexpected argument '--task'"), "{events:?}");
}

#[test]
fn quiet_leaves_answers_and_errors_and_verbose_says_more() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    image_folder(&data, 2, 1);
    std::fs::create_dir(data.join("train/empty one")).unwrap();
    let model = golden("checkpoint");
    let extract = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
    let with = |more: &[&'static str]| told(&[&extract[..], more].concat());
    let plain = with(&["--device", "cpu"]);
    assert!(text(&plain.stderr).contains("note: ") && text(&plain.stderr).contains("empty one"));
    let quiet = with(&["-q"]);
    assert!(quiet.stderr.is_empty(), "{}", text(&quiet.stderr));
    assert!(text(&quiet.stdout).contains("12 images"));
    assert!(with(&["--log", "json", "--quiet"]).stderr.is_empty());
    let verbose = text(&with(&["--verbose"]).stderr);
    for part in [concat!("cgil ", env!("CARGO_PKG_VERSION")), "computing on the CPU, with ", "note: ", "done in "] {
        assert!(verbose.contains(part), "{part} in {verbose}");
    }
    assert!(!text(&plain.stderr).contains("computing on"));
    let failed = command(&["-q", "fit-vae", "--run", path(&run_dir), "--tasks", "9"]).output().unwrap();
    assert!(text(&failed.stderr).starts_with("error: "), "{}", text(&failed.stderr));
    let both = command(&["-q", "-v", "query", "--run", path(&run_dir), "SELECT 1"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn short_work_leaves_no_progress_in_a_log() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", &Rows::clouds(3, 4, 2));
    let output = told(&["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--epochs", "2"]);
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}
