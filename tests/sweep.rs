//! Sweeps: what several methods need is made once, and two sweeps do not disturb each other.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tempfile::tempdir;

use crate::support::{self, Rows, command, files, golden, path, query, run, text};

fn imported(dir: &Path, name: &str, classes: usize) -> PathBuf {
    support::imported(dir, name, &Rows::clouds(classes, 8, 4))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// When each file of a run that is trained was written.
fn trained(run_dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let is_trained = |file: &PathBuf| ["latents", "prompts", "statistics"].iter().any(|kind| file.starts_with(kind));
    let all = files(run_dir).into_keys().filter(is_trained);
    all.map(|file| (file.clone(), fs::metadata(run_dir.join(file)).unwrap().modified().unwrap())).collect()
}

#[test]
fn a_default_sweep_trains_each_set_of_prompts_and_generators_once() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run", 2);
    let model = golden("checkpoint");
    let sweep = ["sweep", "--run", path(&run_dir), "--tasks", "2", "--seeds", "1", "--model", path(&model)];
    let sweep = [&sweep[..], &["--fit-vae", "epochs=2,hidden=16,latent=4", "--format", "csv"]].concat();
    let printed = run(&sweep);
    assert_eq!(printed.lines().count(), 15, "{printed}");
    let of = |kind: &str| names(&run_dir.join(kind).join("seed-1-tasks-2"));
    let mut prompts = of("prompts");
    let papers = prompts.remove(1);
    assert!(papers.starts_with("cgil-replay-noise-off-"), "{papers}");
    assert_eq!(prompts, ["cgil", "finetune", "joint"]);
    assert_eq!(of("latents"), ["vae"]);
    let mut statistics = of("statistics");
    for (place, begin) in [(0, "class-cache-clip-"), (2, "evidence-clip-"), (3, "linear-covariance-shared-")] {
        let name = statistics.remove(place); // its options are in its name
        assert!(name.starts_with(begin), "{name}");
    }
    assert_eq!(statistics, ["class-means", "class-statistics", "linear", "ranpac"]);
    assert_eq!(of("results").len(), 14);

    // nothing is trained again: by the same sweep, nor by other ways to score
    let before = trained(&run_dir);
    assert_eq!(run(&sweep), printed);
    let more = [
        "cgil,statistics=lda",
        "ensemble,weight=0.25",
        "hybrid,weight=0.25",
        "lda,shrinkage=none",
        "ensemble,method=joint",
    ];
    let more: Vec<&str> = more.iter().flat_map(|method| ["--method", method]).collect();
    run(&[&sweep[..], &more].concat());
    assert_eq!(trained(&run_dir), before);
}

#[test]
fn two_sweeps_at_once_make_the_tables_of_one_after_the_other_and_cuts_stand_side_by_side() {
    let dir = tempdir().unwrap();
    let (apart, together) = (imported(dir.path(), "apart", 4), imported(dir.path(), "together", 4));
    let model = golden("checkpoint");
    let sweep = |run_dir: &Path, tasks: &str, seeds: &str| -> Vec<String> {
        let common = ["sweep", "--run", path(run_dir), "--tasks", tasks, "--seeds", seeds, "--model", path(&model)];
        let methods = ["cgil,epochs=2,samples=8", "cgil,epochs=2,samples=8,statistics=off", "lda", "zero-shot"];
        let methods = methods.iter().flat_map(|method| ["--method", method]);
        common
            .into_iter()
            .chain(methods)
            .chain(["--fit-vae", "epochs=2,hidden=16,latent=4"])
            .map(str::to_owned)
            .collect()
    };
    let sweeps = [("2", "1,2"), ("2", "2,1"), ("4", "1")];
    for (tasks, seeds) in sweeps {
        run(&sweep(&apart, tasks, seeds).iter().map(String::as_str).collect::<Vec<_>>());
    }
    let started: Vec<_> = sweeps
        .iter()
        .map(|(tasks, seeds)| {
            let args = sweep(&together, tasks, seeds);
            let mut command = command(&args.iter().map(String::as_str).collect::<Vec<_>>());
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in started {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    for table in ["metrics", "predictions", "prompt_losses", "generator_losses", "classes"] {
        let all = |run_dir: &Path| {
            let mut rows = query(run_dir, &format!("SELECT * FROM {table}"));
            rows.sort();
            rows
        };
        let expected = all(&apart);
        assert!(expected.len() > 10 && all(&together) == expected, "{table}");
    }
    assert_eq!(names(&together.join("streams")), ["seed-1-tasks-2", "seed-1-tasks-4", "seed-2-tasks-2"]);
    assert_eq!(names(&together.join("prompts/seed-1-tasks-4")).len(), 1);
}
