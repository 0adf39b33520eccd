//! A plan, its jobs on Slurm, and what is said of them. Programs of Slurm stand in for a cluster here: their
//! jobs run on the spot. `make test-cluster` has a real one.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::{TempDir, tempdir};

use crate::support::{assert_same_tables, command, encoded, golden, image_folder, path, picture, text};

const FIT: [&str; 6] = ["--epochs", "4", "--hidden", "16", "--latent", "4"];

/// Pictures, a run, its plan, and programs that stand in for Slurm's.
struct Cluster {
    dir: TempDir,
}

/// Options of a plan with a sweep, of two methods under two seeds.
const SWEEP: [&str; 8] =
    ["--seed", "1", "--seeds", "1,2", "--method", "ncm", "--method", "cgil,epochs=1,samples=8,statistics=lda"];

impl Cluster {
    fn new(train: usize, partitions: &str) -> Self {
        Self::with(train, partitions, &[])
    }

    /// With more options of the plan.
    fn with(train: usize, partitions: &str, more: &[&str]) -> Self {
        let cluster = Cluster { dir: tempdir().unwrap() };
        image_folder(&cluster.at("images"), train, 4);
        let printed = cluster.planned(&[&cluster.plan(partitions)[..], more].concat());
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        fs::write(cluster.at("plan.toml"), printed.stdout).unwrap();
        fs::write(cluster.at("queue"), "").unwrap();
        fs::create_dir(cluster.at("bin")).unwrap();
        let at = cluster.dir.path().display();
        // runs the jobs of an array one after another, and answers its number
        cluster.program(
            "sbatch",
            &format!(
                r#"echo "$@" >> {at}/said
script=${{!#}}; cp "$script" {at}/last.sbatch
[ ! -e {at}/broken ] || {{ echo "sbatch: error: no account" >&2; exit 1; }}
id=$((100 + $(wc -l < {at}/said)))
[ -e {at}/waiting ] || for i in $(seq 0 "$(sed -n 's/^#SBATCH --array=0-//p' "$script")"); do
    SLURM_CPUS_ON_NODE=1 SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$i bash "$script" >> {at}/log 2>&1
    echo "$i $?" >> {at}/codes
done
echo "$id;small""#
            ),
        );
        cluster.program(
            "scontrol",
            &format!(r#"[ "$1" = requeue ] && echo "$2" >> {at}/requeued || echo "MaxArraySize            = 2""#),
        );
        cluster.program("squeue", &format!("cat {at}/queue"));
        cluster.program("scancel", &format!(r#"echo "$@" >> {at}/cancelled"#));
        cluster
    }

    fn plan<'a>(&self, partitions: &'a str) -> Vec<&'a str> {
        let checkpoint = Box::leak(path(&golden("checkpoint")).to_owned().into_boxed_str());
        let of_data = ["plan", "--model", checkpoint, "--data", "images", "--run", "run", "--shard-rows", "8"];
        [&of_data[..], &["--partitions", partitions, "--tasks", "2"], &FIT].concat()
    }

    fn planned(&self, words: &[&str]) -> Output {
        command(words).current_dir(self.dir.path()).output().unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let file = self.at("bin").join(name);
        fs::write(&file, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A program that finds Slurm's.
    fn with_slurm(&self, mut program: Command) -> Command {
        let path = env::var_os("PATH").unwrap();
        let path = env::join_paths([self.at("bin")].into_iter().chain(env::split_paths(&path))).unwrap();
        program.current_dir(self.dir.path()).env("PATH", path);
        program
    }

    fn cgil(&self, args: &[&str]) -> Output {
        self.with_slurm(command(args)).output().unwrap()
    }

    /// `cgil submit`, which has to succeed: what it said, and printed.
    fn submit(&self, more: &[&str]) -> (String, String) {
        let output = self.cgil(&[&["submit", "slurm", "plan.toml"], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stderr), text(&output.stdout))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    /// What `cgil status` says, and its exit code.
    fn status(&self, more: &[&str]) -> (String, Option<i32>) {
        let output = self.cgil(&[&["status", "--run", "run"], more].concat());
        (text(&output.stdout) + &text(&output.stderr), output.status.code())
    }

    /// A run of one process, with these commands after its first.
    fn whole(&self, more: &[&[&str]]) -> PathBuf {
        let checkpoint = golden("checkpoint");
        let extract =
            ["extract", "--run", "whole", "--model", path(&checkpoint), "--data", "images", "--shard-rows", "8"];
        for command in [&[&extract[..]], more].concat() {
            let output = self.cgil(command);
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        self.at("whole")
    }
}

#[test]
fn a_plan_says_what_its_stages_are() {
    let cluster = Cluster::new(10, "3");
    let plan: toml::Table = toml::from_str(&cluster.read("plan.toml")).unwrap();
    assert_eq!(plan["run"].as_str(), Some(path(&cluster.at("run").canonicalize().unwrap_or(cluster.at("run")))));
    let number = |stage: &str, key: &str| plan[stage][key].as_integer().unwrap();
    // 40 and 16 pictures in shards of 8; 48 values of 4 bytes
    assert_eq!(["items", "partitions", "bytes"].map(|key| number("extract", key)), [7, 3, 56 * 48 * 4]);
    assert_eq!(["items", "partitions"].map(|key| number("fit-vae", key)), [4, 3]);
    assert!(plan["extract"]["seconds"].as_float().unwrap() > 0.0 && number("fit-vae", "memory") > 0);
    let options = |stage: &str| -> Vec<String> {
        plan[stage]["options"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(options("extract")[2..], ["--data", "images", "--shard-rows", "8"]);
    assert_eq!(options("fit-vae"), [&["--tasks", "2"], &FIT[..]].concat());
    // extract's has the same name
    let printed = cluster.planned(&[&cluster.plan("3")[..], &["--batch-size", "16"]].concat()).stdout;
    let printed = text(&printed);
    let (of_extract, of_fit) = printed.split_once("[fit-vae]").unwrap();
    assert!(!of_extract.contains("--batch-size") && of_fit.contains(r#""--batch-size","16""#), "{printed}");
    assert!(!cluster.at("run").exists(), "a plan writes nothing");
}

#[test]
fn a_dry_run_prints_scripts_that_a_shell_understands_and_writes_nothing() {
    let cluster = Cluster::new(10, "3");
    let (said, printed) = cluster.submit(&["--dry-run", "--per-job", "1", "--sbatch-arg=--time=1:00:00"]);
    assert!(said.contains("extract: 3 partitions of 3 missing, 3 submitted in 3 jobs"), "{said}");
    assert!(!cluster.at("run").exists() && cluster.read("said").is_empty());
    let program = env!("CARGO_BIN_EXE_cgil");
    // at most two jobs to an array here
    for line in [
        "# sbatch --parsable ".to_owned(),
        "# sbatch --parsable --dependency=afterok:extract-1:extract-2 --kill-on-invalid-dep=yes ".into(),
        "#SBATCH --job-name=cgil-extract".into(),
        "#SBATCH --array=0-1".into(),
        "#SBATCH --array=0-0".into(),
        "#SBATCH --requeue".into(),
        "#SBATCH --open-mode=append".into(),
        "#SBATCH --signal=B:USR1@120\n#SBATCH --time=1:00:00".into(),
        format!("#SBATCH --chdir={}", cluster.dir.path().display()),
        format!("#SBATCH --output={}/logs/extract-%A_%a.log", cluster.at("run/jobs").display()),
        "partitions=(0 1)\n".into(),
        "partitions=(2)\n".into(),
        format!("    {program} extract --run {} --model ", cluster.at("run").display()),
        " --data images --shard-rows 8 --partition \"${own[i]}/3\" &".into(),
        " --tasks 2 --epochs 4 --hidden 16 --latent 4 --partition \"${own[i]}/3\" &".into(),
    ] {
        assert!(printed.contains(&line), "expected {line:?} in:\n{printed}");
    }
    let scripts: Vec<&str> = printed.split("# sbatch ").skip(1).map(|part| part.split_once('\n').unwrap().1).collect();
    assert_eq!(scripts.len(), 4);
    for script in scripts {
        fs::write(cluster.at("script"), script).unwrap();
        let output = Command::new("bash").args(["-n", path(&cluster.at("script"))]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    // short partitions share a job
    let (said, printed) = cluster.submit(&["--dry-run"]);
    assert!(said.contains("3 submitted in 1 job,") && printed.contains("partitions=(0 1 2)"), "{said}{printed}");
}

#[test]
fn what_is_missing_is_submitted_and_leaves_the_tables_of_one_process() {
    let cluster = Cluster::new(10, "3");
    assert!(cluster.status(&[]).0.contains("has nothing yet"));
    let (said, _) = cluster.submit(&["--per-job", "1"]);
    assert!(said.contains("extract: 3 partitions of 3 missing, 3 submitted in 3 jobs, array 101, 102\n"), "{said}");
    assert!(said.contains("fit-vae: 3 partitions of 3 missing, 3 submitted in 3 jobs, array 103, 104\n"), "{said}");
    assert_eq!(cluster.read("codes"), "0 0\n1 0\n0 0\n0 0\n1 0\n0 0\n", "{}", cluster.read("log"));
    assert!(cluster.read("said").contains("--dependency=afterok:101:102 --kill-on-invalid-dep=yes"));
    let fit = [&["fit-vae", "--run", "whole", "--tasks", "2"], &FIT[..]].concat();
    let (whole, run_dir) = (cluster.whole(&[&fit]), cluster.at("run"));
    assert_same_tables(&whole, &run_dir);
    let (said, code) = cluster.status(&[]);
    assert_eq!(code, Some(0));
    assert!(said.contains("extract base: 7 of 7 shards, 56 of 56 images, complete"), "{said}");
    assert!(said.contains("fit-vae dataset-order-tasks-2 vae: 4 of 4 classes, complete"), "{said}");
    assert_eq!(cluster.status(&["--missing"]).0, "");

    // again: nothing; what is lost alone; and what waits is not submitted twice
    let (said, _) = cluster.submit(&[]);
    assert_eq!(said.matches("0 submitted").count(), 2, "{said}");
    fs::remove_file(run_dir.join("sources/base/embeddings/train/part-00002.parquet")).unwrap();
    fs::write(cluster.at("waiting"), "").unwrap();
    let missing = cluster.status(&["--missing"]).0;
    assert_eq!(missing, "extract base 2/3 train 2\n");
    let (said, _) = cluster.submit(&["--per-job", "1"]);
    assert!(said.contains("extract: 1 partition of 3 missing, 1 submitted in 1 job"), "{said}");
    let job = said.split("array ").nth(1).unwrap().split('\n').next().unwrap().to_owned();
    fs::write(cluster.at("queue"), format!("{job} 0\n99 1\n")).unwrap();
    let (said, _) = cluster.submit(&["--per-job", "1"]);
    assert!(said.contains("extract: 1 partition of 3 missing, 0 submitted"), "{said}");
    let cancelled = cluster.cgil(&["cancel", "--run", "run"]);
    assert_eq!(text(&cancelled.stdout), format!("cancelled {job}\n"));
    assert_eq!(cluster.read("cancelled"), format!("{job}\n"));
    fs::write(cluster.at("queue"), "").unwrap();
    assert!(text(&cluster.cgil(&["cancel", "--run", "run"]).stdout).contains("no job"));
    fs::remove_file(cluster.at("waiting")).unwrap();
    cluster.submit(&[]);
    assert_same_tables(&whole, &run_dir);
}

#[test]
fn a_sweep_is_an_array_of_its_own_after_the_generators() {
    let cluster = Cluster::with(10, "3", &SWEEP);
    let plan: toml::Table = toml::from_str(&cluster.read("plan.toml")).unwrap();
    let sweep = plan["sweep"].as_table().unwrap();
    assert_eq!(["items", "partitions"].map(|key| sweep[key].as_integer().unwrap()), [4, 3]);
    assert!(sweep["seconds"].as_float().unwrap() > 0.0 && !sweep.contains_key("memory"));
    let options: Vec<&str> = sweep["options"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    // the generators are those of the plan
    let methods = ["--method", "ncm", "--method", "cgil,epochs=1,samples=8,statistics=lda"];
    let fit = ["--fit-vae", "epochs=4,hidden=16,latent=4"];
    assert_eq!(options, [&["--tasks", "2"], &methods[..], &["--seeds", "1", "--seeds", "2"], &fit].concat());

    let (said, _) = cluster.submit(&["--per-job", "1"]);
    assert!(said.contains("sweep: 3 partitions of 3 missing, 3 submitted in 3 jobs, array 105, 106\n"), "{said}");
    assert!(cluster.read("said").contains("--dependency=afterok:103:104 --kill-on-invalid-dep=yes"));
    assert_eq!(cluster.read("codes").matches(" 0\n").count(), 9, "{}", cluster.read("log"));
    let stages = [
        [&["fit-vae", "--run", "whole", "--tasks", "2", "--seed", "1"], &FIT[..]].concat(),
        [&["sweep", "--run", "whole"], &options[..]].concat(),
    ];
    let (whole, run_dir) = (cluster.whole(&stages.each_ref().map(Vec::as_slice)), cluster.at("run"));
    assert_same_tables(&whole, &run_dir);
    let (said, code) = cluster.status(&[]);
    assert!(said.contains("sweep ncm-cgil-") && said.contains(": 4 of 4 members, complete\n"), "{said}");
    assert_eq!((cluster.status(&["--missing"]).0.as_str(), code), ("", Some(0)));

    // what is lost alone; what fails is told
    assert_eq!(cluster.submit(&[]).0.matches("0 submitted").count(), 3);
    let lost = run_dir.join("results/seed-2-tasks-2/ncm");
    fs::remove_dir_all(lost.join("task-02")).unwrap();
    let missing = cluster.status(&["--missing"]).0;
    assert!(missing.lines().count() == 1 && missing.ends_with(" 2/3 seed-2-tasks-2 ncm\n"), "{missing}");
    fs::write(lost.join("task-01/manifest.json"), "{}").unwrap();
    let (said, _) = cluster.submit(&["--per-job", "1"]);
    assert!(said.contains("sweep: 1 partition of 3 missing, 1 submitted in 1 job,"), "{said}");
    let (said, code) = cluster.status(&[]);
    assert!(said.contains("3 of 4 members\n") && said.contains("  2/3 failed on ") && code == Some(1), "{said}");
    fs::remove_dir_all(&lost).unwrap();
    cluster.submit(&[]);
    assert_same_tables(&whole, &run_dir);
}

#[test]
fn a_plan_of_a_sweep_alone_fits_generators_in_its_members() {
    let cluster = Cluster::with(4, "2", &["--seeds", "1", "--method", "lda"]);
    let text_of_plan = cluster.read("plan.toml");
    assert!(text_of_plan.contains("[sweep]") && !text_of_plan.contains("[fit-vae]"), "{text_of_plan}");
    assert!(text_of_plan.contains("# what baselines need is not estimated"), "{text_of_plan}");
    let (said, _) = cluster.submit(&["--dry-run"]);
    assert!(said.contains("sweep: 1 partition of 1 missing, 1 submitted in 1 job,"), "{said}");
    let refused = |more: &[&str], said: &str| {
        let output = cluster.planned(&[&cluster.plan("2")[..], more].concat());
        assert!(!output.status.success() && text(&output.stderr).contains(said), "{}", text(&output.stderr));
    };
    refused(&["--method", "lda"], "--seeds");
    refused(&["--seeds", "1", "--method", "ldb"], "method \"ldb\"");
    fs::write(cluster.at("plan.toml"), text_of_plan.replace("--seeds", "--seats")).unwrap();
    fs::create_dir(cluster.at("run")).unwrap();
    assert!(text(&cluster.cgil(&["submit", "slurm", "plan.toml", "--dry-run"]).stderr).contains("sweep: 1 partition"));
}

#[test]
fn a_job_that_is_told_to_end_starts_again_and_one_that_fails_does_not() {
    let cluster = Cluster::new(60, "1");
    fs::write(cluster.at("waiting"), "").unwrap();
    cluster.submit(&[]);
    fs::copy(cluster.at("run/jobs/extract-1.sbatch"), cluster.at("job")).unwrap();
    let job = |restarts: &str| {
        let mut job = cluster.with_slurm(Command::new("bash"));
        job.arg(cluster.at("job"));
        job.env("SLURM_ARRAY_JOB_ID", "7").env("SLURM_ARRAY_TASK_ID", "0").env("SLURM_CPUS_ON_NODE", "1");
        job.env("SLURM_RESTART_COUNT", restarts).stdout(Stdio::piped()).stderr(Stdio::piped());
        job.spawn().unwrap()
    };
    let shards = || fs::read_dir(cluster.at("run/sources/base/embeddings/train")).into_iter().flatten().count();
    for (restarts, requeued) in [("0", "7_0\n"), ("20", "7_0\n")] {
        let (before, running, began) = (shards(), job(restarts), Instant::now());
        while shards() == before {
            assert!(began.elapsed() < Duration::from_secs(120));
            thread::sleep(Duration::from_millis(1));
        }
        assert!(Command::new("kill").args(["-USR1", &running.id().to_string()]).status().unwrap().success());
        let output = running.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{}", text(&output.stderr));
        assert_eq!(cluster.read("requeued"), requeued); // not for ever
    }
    let (said, code) = cluster.status(&[]);
    assert!(said.contains("0/1 stopped on ") && code == Some(0), "{said}");

    // what is missing of it cannot be made: it fails, says so, and is not started again
    let class = cluster.at("images/train/other");
    fs::create_dir(&class).unwrap();
    fs::write(class.join("0.png"), encoded(picture(1, 1, 40), image::ImageFormat::Png)).unwrap();
    let output = job("0").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(cluster.read("requeued"), "7_0\n");
    let (said, code) = cluster.status(&[]);
    assert!(said.contains("0/1 failed on ") && said.contains("holds other embeddings") && code == Some(1), "{said}");
}

#[test]
fn what_slurm_or_the_plan_refuses_is_said() {
    let cluster = Cluster::new(2, "2");
    fs::write(cluster.at("broken"), "").unwrap();
    let output = cluster.cgil(&["submit", "slurm", "plan.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("sbatch failed: sbatch: error: no account"), "{}", text(&output.stderr));
    for (from, to, said) in [
        ("partitions = 2", "partitions = 9", "9 partitions of"),
        ("[extract]", "[extrakt]", "is no plan"),
        ("\nseconds", "\nsecond", "is no plan"),
    ] {
        fs::write(cluster.at("other.toml"), cluster.read("plan.toml").replace(from, to)).unwrap();
        let output = cluster.cgil(&["submit", "slurm", "other.toml"]);
        assert!(!output.status.success() && text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    let program = |name: &str| fs::remove_file(cluster.at("bin").join(name)).unwrap();
    ["sbatch", "squeue", "scontrol"].iter().for_each(|name| program(name));
    let alone = command(&["submit", "slurm", "plan.toml"]).current_dir(cluster.dir.path()).env("PATH", "").output();
    let message = text(&alone.unwrap().stderr);
    assert!(message.contains("cannot start sbatch: is this a machine of a Slurm cluster?"), "{message}");
}
