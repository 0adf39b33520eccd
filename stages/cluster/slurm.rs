//! Jobs of a plan on Slurm: what is missing is submitted, what waits or runs already is not.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use cgil::{atomic, run::Run, storage, words::counted};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::{
    plan::{Plan, Planned},
    script::Script,
};
use crate::{jobs::JOBS, options::at_least, terminal};

/// What was submitted, in the directory of the jobs.
const SUBMITTED: &str = "slurm.json";

/// Jobs that will do something yet. One that is ending may be doing so for long, on a node that is lost.
const ALIVE: &str = "--states=pending,running,suspended,configuring";

/// Indices of an array, where Slurm does not say how many it takes; its own default.
const MAX_ARRAY: usize = 1001;

/// A job of partitions that end sooner has several.
const SECONDS: f64 = 300.0;

#[derive(Subcommand)]
pub enum Submit {
    /// Submit to Slurm what is missing of a plan's stages
    ///
    /// A job array for each stage, each after the one before it. What waits or runs already is left as
    /// it is, so the same command again submits what has failed or was lost.
    Slurm(SlurmOptions),
}

#[derive(Args)]
pub struct SlurmOptions {
    /// The plan, as cgil plan prints it
    plan: PathBuf,
    /// An option of sbatch for every job, such as --sbatch-arg=--time=4:00:00; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    sbatch_arg: Vec<String>,
    /// Partitions of a job, one after another [default: as many as take five minutes, where the plan
    /// says what they take]
    #[arg(long, value_name = "K", value_parser = at_least::<1>)]
    per_job: Option<usize>,
    /// Print the scripts, and submit nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub struct CancelOptions {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
}

/// An array of jobs that was submitted.
#[derive(Clone, Serialize, Deserialize)]
struct Submitted {
    stage: String,
    /// The number of the array.
    job: String,
    /// What partitions there are.
    of: usize,
    /// Those of each job.
    partitions: Vec<Vec<usize>>,
}

pub fn submit(Submit::Slurm(options): &Submit) -> Result<()> {
    let plan = Plan::read(&options.plan)?;
    let run = Run::open(&plan.run, terminal::note)?;
    let directory = plan.directory.clone();
    let dir = files(&run, &directory);
    // one at a time, so that two do not submit the same
    let _lock = if options.dry_run { None } else { Some(run.lock(&dir)?) };
    let stages = plan.stages(&run)?;
    let alive = alive(&dir, options.dry_run)?;
    let mut jobs = alive.clone();
    let mut after: Vec<String> = Vec::new();
    for Planned { name, plan, missing } in stages {
        let of = plan.partitions;
        let own =
            |jobs: &[Submitted]| -> Vec<Submitted> { jobs.iter().filter(|job| job.stage == name).cloned().collect() };
        let taken: BTreeSet<usize> =
            own(&alive).iter().filter(|job| job.of == of).flat_map(|job| job.partitions.concat()).collect();
        let open: Vec<usize> = missing.difference(&taken).copied().collect();
        let fitting = plan.seconds.map_or(1, |seconds| (SECONDS * of as f64 / seconds.max(1e-3)) as usize);
        let per_job = options.per_job.unwrap_or(fitting).clamp(1, of);
        let partitions: Vec<Vec<usize>> = open.chunks(per_job).map(<[usize]>::to_vec).collect();
        let arrays: Vec<&[Vec<usize>]> = partitions.chunks(max_array()?).collect();
        for (number, &array) in (1..).zip(&arrays) {
            let text = Script {
                name,
                command: &command(name, &run, &plan.options)?,
                directory: &directory,
                logs: &dir.join("logs"),
                of,
                jobs: array,
                sbatch_args: &options.sbatch_arg,
            }
            .text();
            let file = dir.join(format!("{name}-{number}.sbatch"));
            let job = match options.dry_run {
                true => {
                    terminal::print(format!("# sbatch {}\n{text}\n", sbatch_words(&after, &file).join(" ")))?;
                    format!("{name}-{number}")
                }
                false => submit_script(&dir, &file, &text, &after)?,
            };
            jobs.push(Submitted { stage: name.into(), job, of, partitions: array.to_vec() });
            keep(&dir, &jobs, options.dry_run)?;
        }
        let own = own(&jobs);
        let new: Vec<String> = own.iter().skip(own.len() - arrays.len()).map(|job| format!(" {}", job.job)).collect();
        terminal::note(&format!(
            "{name}: {} of {of} missing, {} submitted in {}{}{}",
            counted(missing.len(), "partition"),
            open.len(),
            counted(partitions.len(), "job"),
            if new.is_empty() { "" } else { ", array" },
            new.join(",")
        ));
        after = own.into_iter().map(|job| job.job).collect();
    }
    Ok(())
}

pub fn cancel(options: &CancelOptions) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    let jobs: Vec<String> = alive(&files(&run, &env::current_dir()?), false)?.into_iter().map(|job| job.job).collect();
    let jobs: BTreeSet<String> = jobs.into_iter().collect();
    if jobs.is_empty() {
        return terminal::print("no job of this run waits or runs\n");
    }
    let words: Vec<&str> = jobs.iter().map(String::as_str).collect();
    answer("scancel", &words)?;
    terminal::print(format!("cancelled {}\n", words.join(", ")))
}

/// Where scripts and logs lie: in the run, or where that is in an object store, in a directory of the
/// cluster's file system.
fn files(run: &Run, directory: &Path) -> PathBuf {
    match storage::is_remote(run.dir()) {
        true => directory.join("cgil-jobs").join(run.dir().display().to_string().replace("://", "/")),
        false => run.dir().join(JOBS),
    }
}

/// The program with a stage's options.
fn command(name: &str, run: &Run, options: &[String]) -> Result<Vec<String>> {
    let program = env::current_exe().context("cannot find this program")?;
    let text = |path: &Path| {
        Ok::<_, anyhow::Error>(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
    };
    let words = [text(&program)?, name.to_owned(), "--run".into(), text(run.dir())?];
    Ok(words.into_iter().chain(options.iter().cloned()).collect())
}

/// What was submitted and waits or runs, a job of the arrays a time; without Slurm, in a dry run,
/// nothing.
fn alive(dir: &Path, dry_run: bool) -> Result<Vec<Submitted>> {
    let path = dir.join(SUBMITTED);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let submitted: Vec<Submitted> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged: cancel the jobs by scancel, and remove it", path.display()))?;
    let listed = match answer("squeue", &["--noheader", "--array", ALIVE, "--format=%F %K"]) {
        Err(_) if dry_run => return Ok(Vec::new()),
        listed => listed?,
    };
    let listed: BTreeSet<&str> = listed.lines().map(str::trim).collect();
    let alive = submitted.into_iter().filter_map(|job| {
        let is_alive = |(index, _): &(usize, &Vec<usize>)| listed.contains(format!("{} {index}", job.job).as_str());
        let partitions: Vec<Vec<usize>> = job
            .partitions
            .iter()
            .enumerate()
            .map(|own| if is_alive(&own) { own.1.clone() } else { Vec::new() })
            .collect();
        partitions.iter().any(|own| !own.is_empty()).then_some(Submitted { partitions, ..job })
    });
    Ok(alive.collect())
}

/// Keeps what was submitted.
fn keep(dir: &Path, jobs: &[Submitted], dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    atomic::write_file(&dir.join(SUBMITTED), |file| Ok(file.write_all(serde_json::to_string(jobs)?.as_bytes())?))
}

/// Submits a script, to begin when other jobs have succeeded. Returns the number of its array.
fn submit_script(dir: &Path, file: &Path, text: &str, after: &[String]) -> Result<String> {
    atomic::create_dir(&dir.join("logs"))?;
    atomic::write_file(file, |file| Ok(file.write_all(text.as_bytes())?))?;
    let words = sbatch_words(after, file);
    let answer = answer("sbatch", &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let job = answer.trim().split(';').next().unwrap_or_default(); // with its cluster behind it
    ensure!(!job.is_empty() && job.bytes().all(|b| b.is_ascii_digit()), "sbatch answered {answer:?}, and no number");
    Ok(job.to_owned())
}

fn sbatch_words(after: &[String], file: &Path) -> Vec<String> {
    let mut words = vec!["--parsable".to_owned()];
    if !after.is_empty() {
        words.extend([format!("--dependency=afterok:{}", after.join(":")), "--kill-on-invalid-dep=yes".into()]);
    }
    words.push(file.display().to_string());
    words
}

/// How many jobs an array may have here.
fn max_array() -> Result<usize> {
    let Ok(config) = answer("scontrol", &["show", "config"]) else { return Ok(MAX_ARRAY) };
    let line = config.lines().find(|line| line.starts_with("MaxArraySize"));
    let size = line.and_then(|line| line.split_once('=')?.1.trim().parse().ok()).unwrap_or(MAX_ARRAY);
    ensure!(size > 0, "this cluster takes no job arrays (MaxArraySize is 0)");
    Ok(size)
}

/// What a program of Slurm answers.
fn answer(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("cannot start {program}: is this a machine of a Slurm cluster?"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
