//! The memory that the program takes, as the system measures it: rows are held once, and a large
//! matrix as often as is said.

use std::{path::Path, process::Command};

use tempfile::tempdir;

use crate::support::{Rows, imported, path, text};

/// The most memory that `cgil` held, in MB of 2²⁰ bytes. On one thread, so that the memory of
/// threads does not count.
fn peak(args: &[&str]) -> f64 {
    let measure = "import resource, subprocess, sys\n\
                   subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n\
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let program = [&["-c", measure, env!("CARGO_BIN_EXE_cgil")], args].concat();
    let output = Command::new("python3").args(program).env("RAYON_NUM_THREADS", "1").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().parse::<f64>().unwrap() / 1024.0
}

/// The most that a baseline takes on one task of so many training rows.
fn of_baseline(dir: &Path, train: usize, args: &[&str]) -> f64 {
    let name = train.to_string();
    let run_dir =
        if dir.join(&name).exists() { dir.join(&name) } else { imported(dir, &name, &Rows::clouds(2, train, 2)) };
    peak(&[&["baseline"], args, &["--run", path(&run_dir), "--tasks", "1"]].concat())
}

#[test]
fn rows_are_held_once() {
    let dir = tempdir().unwrap();
    let (few, many) = (10, 60_000);
    let rows = (2 * (many - few) * 48 * 4) as f64 / 1024.0 / 1024.0;
    let taken = of_baseline(dir.path(), many, &["ncm"]) - of_baseline(dir.path(), few, &["ncm"]);
    assert!(taken < 1.6 * rows, "{taken:.0} MB for {rows:.0} MB of rows");
}

#[test]
fn a_large_matrix_is_held_as_often_as_is_said() {
    let dir = tempdir().unwrap();
    let features = |n: &str| of_baseline(dir.path(), 10, &["ranpac", "--features", n]);
    // one matrix and its triangle; saving takes a second triangle, when the matrix is gone
    let matrix = (4_000f64 * 4_000.0 - 500.0 * 500.0) * 8.0 / 1024.0 / 1024.0;
    let taken = features("4000") - features("500");
    assert!(taken < 1.5 * matrix, "{taken:.0} MB where a matrix takes {matrix:.0} MB");
}
