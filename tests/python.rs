//! What docs/python.md shows is run with the real packages, on a run whose classes have names that
//! paths, SQL and shells would trip over.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, StringArray};
use arrow::datatypes::{DataType, Field};
use tempfile::tempdir;

use crate::support::{Rows, only, path, run, text, write_parquet};

const NAMES: [&str; 5] = ["a=b", "it's \"twice\", quoted", "ümlaut 日本 🦊", "and/or\\else", "50% {off} *?[x]"];

/// What stands in a section's snippets, and has to hold once they have run.
struct Section {
    title: &'static str,
    packages: &'static [&'static str],
    holds: &'static str,
}

const LIGHT: [Section; 3] = [
    Section {
        title: "Polars",
        packages: &["polars", "numpy"],
        holds: "
assert set(classes.collect()['class_name']) == NAMES and accuracy.shape == (5, 6), (classes, accuracy)
assert x.shape == (30, 64) and abs((x * x).sum(1) - 1).max() < 1e-5 and len(set(y)) == 5",
    },
    Section {
        title: "pandas",
        packages: &["pandas", "pyarrow"],
        holds: "
assert set(accuracy.index) == NAMES and accuracy.between(0, 1).all() and len(hits) == 15, accuracy",
    },
    Section {
        title: "DuckDB",
        packages: &["duckdb"],
        holds: "
found = nearest.fetchall()
assert {row[1] for row in found} == NAMES and len(found) == 15 and all(row[1] == row[2] for row in found), found",
    },
];

const HEAVY: [Section; 2] = [
    Section {
        title: "PyTorch",
        packages: &["torch", "numpy", "pyarrow"],
        holds: "
assert train.tensors[0].shape == (30, 64) and len(test) == 15 and accuracy == 1, accuracy
assert (train.tensors[0].norm(dim=1) - 1).abs().max() < 1e-5",
    },
    Section {
        title: "datasets",
        packages: &["datasets"],
        holds: "
assert set(data['train']['class_name']) == NAMES and len(data['test']) == 15, data
assert len(data['train'][0]['embedding']) == 64",
    },
];

#[test]
fn polars_pandas_and_duckdb_read_a_run() {
    check(&LIGHT);
}

#[test]
#[ignore = "installs PyTorch: make test-python"]
fn pytorch_and_datasets_read_a_run() {
    check(&HEAVY);
}

fn check(sections: &[Section]) {
    let packages: Vec<&str> = sections.iter().flat_map(|section| section.packages).copied().collect();
    let Some(python) = python(&packages) else { return };
    let dir = tempdir().unwrap();
    learned(dir.path());
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/python.md")).unwrap();
    for Section { title, holds, .. } in sections {
        let snippets = snippets(&page, title, "python");
        let program = format!("{snippets}\nNAMES = set({})\n{holds}", serde_json::to_string(&NAMES).unwrap());
        executes(&python, title, &program, dir.path());
    }
}

/// What a section of a page shows in a language.
pub fn snippets(page: &str, title: &str, language: &str) -> String {
    let (_, section) = page.split_once(&format!("\n## {title}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    let snippets: String = section.split(&fence).skip(1).map(|s| s.split("```").next().unwrap()).collect();
    assert!(!snippets.is_empty(), "{title}");
    snippets
}

/// Runs a program, which has to print something, in a directory.
pub fn executes(python: &Path, title: &str, program: &str, dir: &Path) {
    let mut command = Command::new(python);
    command.args(["-c", program]).current_dir(dir).env("HF_HOME", dir);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{title}: {}", text(&output.stderr));
    assert!(!output.stdout.is_empty(), "{title} prints nothing");
}

/// The run that the page reads, of five classes in five tasks with 64 values.
fn learned(dir: &Path) {
    let mut rows = Rows::clouds(NAMES.len(), 6, 3);
    rows.class_name = rows.label.iter().map(|&label| NAMES[label as usize].to_owned()).collect();
    let values: Vec<f32> =
        rows.embedding.iter().flat_map(|row| (0..64).map(|j| row.get(j).copied().unwrap_or(0.1))).collect();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(item, 64, Arc::new(Float32Array::from(values)), None));
    let mut columns = rows.columns();
    columns.retain(|(name, _)| *name != "embedding");
    let ids = (0..rows.label.len()).map(|i| format!("{}/{i}", rows.class_name[i]));
    columns.push(("sample_id", Arc::new(StringArray::from_iter_values(ids))));
    columns.push(("embedding", vectors));
    let (table, run_dir) = (dir.join("table.parquet"), dir.join("cgil-demo/run"));
    write_parquet(&table, columns, &[]);
    let (run_dir, model) = (path(&run_dir), Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo/clip"));
    run(&["import", path(&table), "--run", run_dir]);
    run(&["fit-vae", "--run", run_dir, "--tasks", "5", "--epochs", "5", "--hidden", "32", "--latent", "8"]);
    run(&["prompt-tune", "--run", run_dir, "--model", path(&model), "--epochs", "1"]);
    // the method's name without options, which would take longer to learn
    let results = only(Path::new(run_dir), "results", "dataset-order-tasks-5", "cgil");
    fs::rename(&results, results.with_file_name("cgil")).unwrap();
}

/// A Python with these packages: that of CGIL_PYTHON, else one made below target/. None, and a line
/// that says so, where there is no Python, or nothing to fetch them from.
pub fn python(packages: &[&str]) -> Option<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(()); // pip at a time
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(python) = env::var_os("CGIL_PYTHON") {
        return Some(python.into());
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = venv.join("bin/python");
    let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if !python.exists() && !succeeds(Command::new("python3").args(["-m", "venv"]).arg(&venv)) {
        eprintln!("skipped: there is no python3 with venv");
        return None;
    }
    let name = |package: &str| package.split(['[', '<', '>', '=']).next().unwrap_or_default().to_owned();
    let module = |package: &&str| if name(package) == "pillow" { "PIL".to_owned() } else { name(package) };
    let imports = packages.iter().map(|package| format!("import {}\n", module(package))).collect::<String>();
    let has_them = || succeeds(Command::new(&python).args(["-c", &imports]));
    let install = || succeeds(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages));
    if has_them() || install() {
        return Some(python);
    }
    eprintln!("skipped: pip cannot install {}", packages.join(", "));
    None
}
