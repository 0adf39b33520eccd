//! Methods and seeds, side by side: runs what is missing, then tables means, deviations and paired
//! differences.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};
use cgil::{
    choice::Choice,
    embeddings::{Embeddings, FIRST_SOURCE},
    generator::Kind,
    partition::Partition,
    query::Tables,
    run::Run,
    sheet::Format,
    stream::{Stream, stream_name},
    summary::Summary,
    task::{Convention, Order},
    words::counted,
};
use clap::{Args, Parser};

use crate::{
    Cli, Stage, hub,
    options::{MetricOption, TaskOptions, choice, flags, options_of, pairs},
    terminal::{self, Progress},
};

/// What is compared unless methods are given.
const METHODS: [&str; 14] = [
    "cgil",
    "cgil,paper=true",
    "zero-shot",
    "evidence",
    "rail",
    "tip-adapter",
    "ncm",
    "lda",
    "ranpac",
    "hybrid",
    "linear",
    "linear,covariance=shared",
    "finetune",
    "joint",
];

#[derive(Args, Clone)]
pub struct Options {
    /// Directory of the run, with its embeddings
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    tasks: TaskOptions,
    /// Seeds, each a class order and its draws
    #[arg(long, value_delimiter = ',', required = true)]
    seeds: Vec<u32>,
    /// What the numbers of a seed's permutation are
    ///
    /// Positions, unless it is given.
    #[arg(long, hide_short_help = true, value_parser = choice::<Convention>())]
    convention: Option<Convention>,
    /// A method, such as lda or cgil,lr=0.01; may be given again
    ///
    /// cgil or a baseline, and options of it as in the tables' column `method`; | between values
    /// stands for one method each: cgil,lr=0.01|0.05; in a value, ; stands for a comma. The first
    /// is what the others are compared with; without, cgil and every baseline.
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Options of fit-vae, such as epochs=100,latent=64
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    fit_vae: String,
    /// Directory or hub name of the CLIP checkpoint, if the run does not know it
    ///
    /// As `extract` takes it. The run knows it, unless the embeddings were imported.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    metric: MetricOption,
    /// How the table is printed
    #[arg(long, value_parser = choice::<Format>(), default_value_t = Format::Text)]
    format: Format,
    /// Run every N-th member alone, from member I on, and print no table
    ///
    /// Members are the methods under the first seed, under the second, and so on; partition I of N,
    /// from 0/N to N-1/N, has the members k with k mod N = I. Partitions may run at once; the same
    /// sweep without this option then finds all done, and prints the table.
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    partition: Option<Partition>,
}

/// Methods on streams, and the numbers of tasks of these.
type Done = BTreeMap<(String, String), usize>;

/// A method under a seed, and the commands that make what is missing of it, its own last.
struct Member {
    /// What tables call the method, and the stream.
    method: String,
    stream: String,
    commands: Vec<Vec<String>>,
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    let classes = Embeddings::open_complete(&run, FIRST_SOURCE)?.plan.classes.len();
    let cut = options.tasks.required()?;
    // fetched once, for all commands
    let model = options.model.as_deref().map(hub::model).transpose()?;
    let options = &Options { model, ..options.clone() };
    let methods = options.methods();
    let mut members: Vec<Member> = Vec::new();
    for &seed in &options.seeds {
        let convention = options.convention.unwrap_or_default();
        let order = Order { convention, ..Order::of_seed(Some(seed)) };
        let stream = stream_name(&order, cut, options.tasks.shots, classes)?;
        for method in &methods {
            members.push(Member::new(options, method, seed, stream.clone())?);
        }
    }
    if let Some(partition) = options.partition {
        return run_part(&run, members, partition);
    }
    let (done, failed) = run_all(&run, &members)?;
    let mut names: Vec<String> = Vec::new();
    for Member { method, .. } in members {
        if !names.contains(&method) {
            names.push(method);
        }
    }
    let summary = Tables::open(&run).and_then(|tables| {
        tables.left_out.iter().for_each(|reason| terminal::note(&format!("note: left out: {reason}")));
        Summary::new(&tables, &names, &done)
    });
    let sheet = summary.map(|summary| summary.sheet(options.metric.metric).render(options.format));
    match (sheet, failed.len()) {
        (Ok(sheet), 0) => terminal::print(sheet),
        (Err(error), 0) => Err(error),
        (sheet, n) => {
            let table = match sheet {
                Ok(sheet) => terminal::print(sheet).map(|()| "the table has the others".to_owned())?,
                Err(error) => format!("there is no table: {error:#}"),
            };
            bail!("{n} {} failed, {table}:\n{}", if n == 1 { "command" } else { "commands" }, failed.join("\n"))
        }
    }
}

/// Runs the members of a partition.
fn run_part(run: &Run, members: Vec<Member>, partition: Partition) -> Result<()> {
    let all = members.len();
    let own = members.into_iter().enumerate().filter(|(k, _)| partition.has(*k));
    let own: Vec<Member> = own.map(|(_, member)| member).collect();
    let (_, failed) = run_all(run, &own)?;
    match &failed[..] {
        [] => terminal::print(format!(
            "partition {partition} of {}: {} of {all} done\n",
            run.dir().display(),
            counted(own.len(), "member")
        )),
        failed => bail!("{} failed:\n{}", counted(failed.len(), "command"), failed.join("\n")),
    }
}

/// An error for a method that the program would not understand, before anything is done.
pub fn check(options: &Options) -> Result<()> {
    options.methods().iter().try_for_each(|method| Member::new(options, method, 0, String::new()).map(|_| ()))
}

impl Options {
    /// The methods that are compared.
    fn methods(&self) -> Vec<String> {
        let default: Vec<String> = METHODS.map(str::to_owned).into();
        let asked = if self.methods.is_empty() { &default } else { &self.methods };
        asked.iter().flat_map(|method| expand(method)).collect()
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

impl Member {
    /// An error where the program would not understand a command.
    fn new(options: &Options, method: &str, seed: u32, stream: String) -> Result<Self> {
        let commands = commands(options, method, seed)?;
        let mut name = method.to_owned();
        for command in &commands {
            let words = [&["cgil".to_owned()], &command[..]].concat();
            let parsed = Cli::try_parse_from(words).map_err(|error| {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                anyhow!("method {method:?}: {line}")
            })?;
            match &parsed.stage {
                Stage::PromptTune(options) => name = options.method()?,
                Stage::Baseline(options) => name = options.baseline.method()?,
                _ => {}
            }
        }
        Ok(Member { method: name, stream, commands })
    }
}

/// The commands that make a method under a seed, its own last.
fn commands(options: &Options, method: &str, seed: u32) -> Result<Vec<Vec<String>>> {
    let (name, own) = method.split_once(',').unwrap_or((method, ""));
    let own = pairs(own).with_context(|| format!("method {method:?}"))?;
    let mut common = vec!["--run".into(), path(&options.run)?, "--seed".into(), seed.to_string()];
    common.extend(options.convention.iter().flat_map(|convention| ["--convention".into(), convention.to_string()]));
    let model = match &options.model {
        Some(model) => vec!["--model".into(), path(model)?],
        None => Vec::new(),
    };
    let tasks = [
        ("--tasks", options.tasks.tasks),
        ("--per-task", options.tasks.per_task),
        ("--first-task", options.tasks.first_task),
        ("--shots", options.tasks.shots),
    ];
    let tasks: Vec<String> =
        tasks.into_iter().filter_map(|(flag, n)| Some([flag.to_owned(), n?.to_string()])).flatten().collect();
    let value = |key: &str| own.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str());
    let baseline = |own: &[(String, String)], more: &[String]| {
        [&["baseline".to_owned(), name.to_owned()], &common[..], &tasks, more, &flags(own)].concat()
    };

    match name {
        "cgil" => {
            let generator = value("generator").unwrap_or("vae");
            let kind = Kind::of(generator)
                .with_context(|| format!("method {method:?}: there is no generator {generator:?}"))?;
            let mut fit = pairs(&options.fit_vae).context("--fit-vae")?;
            let is_of_others = |key: &str| {
                let flag = format!("--{key}");
                options_of(Kind::Vae).contains(&flag.as_str()) && !options_of(kind).contains(&flag.as_str())
            };
            fit.retain(|(key, _)| !is_of_others(key));
            fit.push(("generator".into(), generator.into()));
            let fit = [&["fit-vae".to_owned()], &common[..], &tasks, &flags(&fit)].concat();
            let tune = [&["prompt-tune".to_owned()], &common[..], &tasks, &model, &flags(&own)].concat();
            Ok(vec![fit, tune])
        }
        "ensemble" => {
            let mut commands = commands_of_prompts(options, value("method").unwrap_or("cgil"), seed)?;
            commands.push(baseline(&own, &model));
            Ok(commands)
        }
        "zero-shot" => {
            // its templates, as the method's name joins them
            let templates = |(key, value): &(String, String)| match key.as_str() {
                "template" => value.split('+').map(|text| (key.clone(), text.to_owned())).collect(),
                _ => vec![(key.clone(), value.clone())],
            };
            Ok(vec![baseline(&own.iter().flat_map(templates).collect::<Vec<_>>(), &model)])
        }
        "ncm" | "lda" | "ranpac" | "linear" => Ok(vec![baseline(&own, &[])]),
        _ => Ok(vec![baseline(&own, &model)]), // reads the CLIP
    }
}

/// The commands that make the prompts of an ensemble.
fn commands_of_prompts(options: &Options, method: &str, seed: u32) -> Result<Vec<Vec<String>>> {
    match method.split(',').next() {
        Some("cgil" | "finetune" | "joint") => commands(options, method, seed),
        _ => bail!("method \"ensemble\": {method:?} has no prompts; take cgil, finetune or joint"),
    }
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

/// Runs the members' commands one after another, each with all threads; one that several members
/// need runs once, and a member ends with the first that fails. Returns the methods and orders that
/// are there now, and what failed, in words.
fn run_all(run: &Run, members: &[Member]) -> Result<(Done, Vec<String>)> {
    let program = env::current_exe().context("cannot find this program")?;
    let progress = Progress::new("sweep", members.len());
    let mut outcomes: BTreeMap<&[String], bool> = BTreeMap::new();
    let (mut done, mut failed) = (Done::new(), Vec::new());
    for Member { method, stream, commands } in members {
        let mut is_done = true;
        for command in commands {
            is_done = match outcomes.get(&command[..]) {
                Some(&succeeded) => succeeded,
                None => {
                    let line = command.join(" ");
                    progress.set_message(line.clone());
                    let output = Command::new(&program)
                        .args(command)
                        .arg("--quiet")
                        .output()
                        .context("cannot start this program again")?;
                    if !output.status.success() {
                        let message = String::from_utf8_lossy(&output.stderr);
                        failed.push(format!("cgil {line}\n    {}", message.trim().trim_start_matches("error: ")));
                    }
                    outcomes.insert(command, output.status.success());
                    output.status.success()
                }
            };
            if !is_done {
                break;
            }
        }
        if is_done {
            // which may have grown since it was cut
            done.insert((method.clone(), stream.clone()), Stream::open(run, stream)?.tasks());
        }
        progress.inc(1);
    }
    progress.finish();
    Ok((done, failed))
}
