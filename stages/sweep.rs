//! Methods and seeds, side by side: runs what is missing, then tables means, deviations and paired differences.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};
use cgil::{
    query::Tables,
    sheet::Format,
    summary::{MetricOption, Summary},
    table::embeddings::Embeddings,
    task::{Curriculum, OrderOptions, TaskOptions},
};
use clap::{Args, Parser};

use crate::{Cli, Stage, terminal};

/// What is compared unless methods are given.
const METHODS: [&str; 10] =
    ["cgil", "zero-shot", "ncm", "lda", "ranpac", "hybrid", "linear", "ensemble", "finetune", "joint"];

#[derive(Args)]
pub struct Options {
    /// Directory of the run, with its embeddings
    #[arg(long)]
    run: PathBuf,
    #[command(flatten)]
    tasks: TaskOptions,
    /// Seeds, each a class order and its draws
    #[arg(long, value_delimiter = ',', required = true)]
    seeds: Vec<u32>,
    /// A method: cgil or a baseline, and options of it as in the tables' column `method`; | between values stands for one method
    /// each: cgil,lr=0.01|0.05. May be given again; the first is what the others are compared with; without, cgil and every baseline
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Options of fit-vae, such as epochs=100,latent=64
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    fit_vae: String,
    /// Directory of the CLIP checkpoint; needed where the embeddings were imported, else the run knows it
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    metric: MetricOption,
    /// How the table is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A command that makes what is missing of a method under a seed.
#[derive(PartialEq)]
struct Member {
    /// What tables call the method.
    method: String,
    arguments: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let dataset = Embeddings::open_complete(&options.run)?.manifest.classes;
    let default: Vec<String> = METHODS.map(str::to_owned).into();
    let asked = if options.methods.is_empty() { &default } else { &options.methods };
    let methods: Vec<String> = asked.iter().flat_map(|method| expand(method)).collect();
    let (mut members, mut names, mut orders, mut tasks) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for &seed in &options.seeds {
        let order = OrderOptions { seed: Some(seed), ..Default::default() };
        tasks = Curriculum::new(&dataset, &options.tasks, &order)?.tasks();
        orders.push(order.name()?);
        let of_seed = methods.iter().map(|method| members_of(options, method, seed)).collect::<Result<Vec<_>>>()?;
        names = of_seed.iter().filter_map(|members| Some(members.last()?.method.clone())).collect();
        for member in of_seed.into_iter().flatten() {
            if !members.contains(&member) {
                members.push(member); // methods may share generators
            }
        }
    }
    let failed = run_all(&members)?;
    let summary = Summary::new(&mut Tables::open(&options.run)?, &names, &orders, tasks)?;
    terminal::print(summary.sheet(&options.metric.metric).render(options.format))?;
    match failed.len() {
        0 => Ok(()),
        n => bail!("{n} of {} commands failed, the table has the others:\n{}", members.len(), failed.join("\n")),
    }
}

/// The methods that one with lists stands for: `cgil,lr=0.01|0.05` for two.
fn expand(method: &str) -> Vec<String> {
    method.split(',').fold(vec![String::new()], |sofar, part| {
        let (key, values) = part.split_once('=').map_or(("", part), |(key, values)| (&part[..=key.len()], values));
        let values: Vec<&str> = if key.is_empty() { vec![values] } else { values.split('|').collect() };
        let joined =
            |before: &str, value: &str| [before, if before.is_empty() { "" } else { "," }, key, value].concat();
        sofar.iter().flat_map(|before| values.iter().map(|value| joined(before, value)).collect::<Vec<_>>()).collect()
    })
}

/// The commands that make a method under a seed, its own last.
fn members_of(options: &Options, method: &str, seed: u32) -> Result<Vec<Member>> {
    let (name, own) = method.split_once(',').unwrap_or((method, ""));
    let own = flags(own).with_context(|| format!("method {method:?}"))?;
    let common = ["--run".into(), path(&options.run)?, "--seed".into(), seed.to_string()];
    let model = match &options.model {
        Some(model) => vec!["--model".into(), path(model)?],
        None => Vec::new(),
    };
    let tasks = [
        ("--tasks", options.tasks.tasks),
        ("--per-task", options.tasks.per_task),
        ("--first-task", options.tasks.first_task),
    ];
    let tasks: Vec<String> =
        tasks.into_iter().filter_map(|(flag, n)| Some([flag.to_owned(), n?.to_string()])).flatten().collect();

    if name == "cgil" {
        let generator: Vec<String> = own.chunks(2).filter(|pair| pair[0] == "--generator").flatten().cloned().collect();
        let fit = [&["fit-vae".to_owned()][..], &common, &tasks, &generator, &flags(&options.fit_vae)?[..]].concat();
        let tune = [&["prompt-tune".to_owned()][..], &common[..], &model, &own].concat();
        return Ok(vec![Member::new(method, fit)?, Member::new(method, tune)?]);
    }
    let reads_clip = !matches!(name, "ncm" | "lda" | "ranpac" | "linear");
    let model = if reads_clip { model } else { Vec::new() };
    let command = [&["baseline".to_owned(), name.to_owned()][..], &common[..], &tasks, &model, &own].concat();
    Ok(vec![Member::new(method, command)?])
}

/// `lr=0.01,legacy-reparam=true` as `--lr 0.01 --legacy-reparam`.
fn flags(options: &str) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let Some((key, value)) = option.split_once('=') else {
            bail!("expected options as name=value, separated by commas, but found {option:?}");
        };
        flags.push(format!("--{key}"));
        if value != "true" {
            flags.push(value.to_owned());
        }
    }
    Ok(flags)
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

impl Member {
    /// An error where the program would not understand the arguments.
    fn new(method: &str, arguments: Vec<String>) -> Result<Self> {
        let parsed = Cli::try_parse_from([&["cgil".to_owned()], &arguments[..]].concat()).map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            anyhow!("method {method:?}: {line}")
        })?;
        let method = match &parsed.stage {
            Stage::PromptTune(options) => options.method()?,
            Stage::Baseline(options) => options.baseline.method()?,
            _ => method.to_owned(),
        };
        Ok(Member { method, arguments })
    }
}

/// Runs the commands one after another, each with all threads; returns what failed, in words.
fn run_all(members: &[Member]) -> Result<Vec<String>> {
    let program = env::current_exe().context("cannot find this program")?;
    let progress = terminal::bar("sweep", members.len());
    let mut failed = Vec::new();
    for Member { arguments, .. } in members {
        let command = arguments.join(" ");
        progress.set_message(command.clone());
        let output = Command::new(&program).args(arguments).output().context("cannot start this program again")?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            failed.push(format!("cgil {command}\n    {}", message.trim().trim_start_matches("error: ")));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(failed)
}
