//! A plan: the stages of a run, what their partitions are, and about what each needs. It is frozen in
//! a TOML file.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, Result, anyhow, ensure};
use cgil::{
    benchmark,
    clip::Checkpoint,
    device::DeviceChoice,
    embeddings::{Embeddings, FIRST_SOURCE},
    run::Run,
    storage,
    stream::{Stream, stream_name},
};
use clap::{ArgMatches, Args, Command, CommandFactory, parser::ValueSource};
use serde::Deserialize;

use super::estimate;
use crate::{
    Cli,
    extract::{self, DataOptions},
    fit_vae::{self, FitOptions},
    hub,
    members::{Compared, MemberOptions},
    options::{GeneratorOptions, at_least},
    sweep, terminal,
    work::{Scored, Work},
};

/// Options of the stages that are the plan's own, or each partition's.
const OWN: [&str; 3] = ["run", "partition", "profile"];

#[derive(Args)]
pub struct Options {
    /// Partitions that each stage is cut into
    ///
    /// Of a stage with fewer shards, classes or members, as many as it has.
    #[arg(long, value_name = "N", value_parser = at_least::<1>)]
    partitions: usize,
    /// The CLIP or SigLIP checkpoint, as extract takes it
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    fit: FitOptions,
    /// Of --seeds methods are compared, as by `sweep`, whose options of fit-vae are the plan's. Their
    /// generators are fitted in the sweep, but for those of the order that --seed names.
    #[command(flatten)]
    compared: Compared,
}

/// What the file of a plan says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Plan {
    /// Directory of the run.
    pub run: PathBuf,
    /// Where relative paths among the options begin.
    pub directory: PathBuf,
    extract: StagePlan,
    fit_vae: Option<StagePlan>,
    sweep: Option<StagePlan>,
}

/// What the file says of a stage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePlan {
    /// Of the command, but for the run and the partition.
    pub options: Vec<String>,
    /// Shards, classes or members.
    pub items: usize,
    pub partitions: usize,
    /// About what one process on the machine that planned takes for all, where that is known.
    pub seconds: Option<f64>,
    /// About what a process takes, in MB.
    #[serde(rename = "memory")]
    _memory: Option<u64>,
    /// Bytes of what is made, about.
    #[serde(rename = "bytes")]
    _bytes: Option<u64>,
}

/// A run's directory, wherever one is.
fn placed(run: &Path) -> Result<PathBuf> {
    if storage::is_remote(run) { Ok(run.to_owned()) } else { Ok(absolute(run)?) }
}

/// Says what the stages will be, as TOML.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        !matches!(&options.data.device, DeviceChoice::Cuda(numbers) if numbers.len() > 1),
        "a partition computes on one device: give one --device, and a job for each"
    );
    let checkpoint = Checkpoint::open(&hub::model(&options.model)?)?;
    let run = Run::open(&options.run, terminal::note)?;
    let source = extract::open_source(&options.data, &run, FIRST_SOURCE, None)?;
    let matches = Cli::command().get_matches();
    let matches = matches.subcommand().context("a plan is a subcommand")?.1;
    let words = |stage: Command| words(&given(matches, &stage));

    let classes = source.classes.len();
    let images: usize = source.rows.values().sum();
    let mut text = format!(
        "# {images} images of {classes} classes, from {}\nrun = {}\ndirectory = {}\n",
        source.id.origin,
        quoted(&placed(&options.run)?)?,
        quoted(&env::current_dir()?)?
    );
    let mut write = |name: &str, words: Vec<String>, items: (usize, &str), needed: &str| -> Result<()> {
        let (items, noun) = items;
        ensure!(items > 0, "{name} has nothing to do: there are no {noun}");
        let (words, partitions) = (serde_json::to_string(&words)?, options.partitions.min(items));
        write!(text, "\n[{name}]\noptions = {words}\nitems = {items}  # {noun}\npartitions = {partitions}\n{needed}")?;
        Ok(())
    };
    let shards: usize = source.rows.values().map(|rows| rows.div_ceil(options.data.shard_rows)).sum();
    let needed = estimate::of_images(&checkpoint, &source, &options.data)?;
    write("extract", words(extract::Options::augment_args(Command::new(""))), (shards, "shards"), &needed.lines())?;
    let FitOptions { tasks, order, generator } = &options.fit;
    let (Some(cut), compared) = (tasks.cut(), &options.compared) else {
        ensure!(
            options.compared.seeds.is_empty(),
            "a sweep needs --tasks or --per-task: how the classes are cut into tasks"
        );
        return terminal::print(text);
    };
    let (sizes, rows) = (cut.sizes(classes)?, source.rows.get("train").copied().unwrap_or(0));
    let (config, dim) = (generator.config()?, checkpoint.config.projection_dim);
    config.check_size(dim)?;
    let of_class = rows.div_ceil(classes).min(tasks.shots.unwrap_or(usize::MAX));
    let fitting = estimate::of_generators(&config, classes, of_class, dim, &options.data.device.open_one()?)?;
    if compared.seeds.is_empty() || order.seed.is_some() || order.order.is_some() {
        let words = words(fit_vae::Options::augment_args(Command::new("")));
        write("fit-vae", words, (classes, "classes"), &fitting.lines())?;
    }
    if !compared.seeds.is_empty() {
        // the run knows the checkpoint
        let own = MemberOptions::augment_args(Command::new("")).mut_arg("model", |model| model.id("known"));
        let mut words = words(own);
        let fit = given(matches, &GeneratorOptions::augment_args(Command::new("")));
        let fit = fit.into_iter().filter(|(name, _)| name != "generator");
        let fit: Vec<String> =
            fit.map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("true"))).collect();
        if !fit.is_empty() {
            words.extend(["--fit-vae".to_owned(), fit.join(",")]);
        }
        let members = parsed::<MemberOptions>("sweep", &options.run, &words)?.members(classes)?.len();
        let methods = compared.methods();
        let work = benchmark::Work::of_methods(&methods, "", compared.seeds.len(), &sizes, of_class * classes);
        let needed = estimate::of_members(&work, compared.seeds.len(), &fitting, &checkpoint.config);
        write("sweep", words, (members, "members"), &needed)?;
    }
    terminal::print(text)
}

/// The options of a stage that were given, with their values; none of a flag.
fn given(matches: &ArgMatches, stage: &Command) -> Vec<(String, Option<String>)> {
    let is_given = |id: &str| {
        matches.try_contains_id(id).is_ok()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && !OWN.contains(&id)
    };
    let mut given = Vec::new();
    for arg in stage.get_arguments().filter(|arg| is_given(arg.get_id().as_str())) {
        let Some(long) = arg.get_long() else { continue };
        for value in matches.get_raw(arg.get_id().as_str()).into_iter().flatten() {
            let value = arg.get_action().takes_values().then(|| value.to_string_lossy().into_owned());
            given.push((long.to_owned(), value));
        }
    }
    given
}

/// Options as the command line has them.
fn words(given: &[(String, Option<String>)]) -> Vec<String> {
    given.iter().flat_map(|(name, value)| [Some(format!("--{name}")), value.clone()]).flatten().collect()
}

/// The options of a stage that a plan has.
fn parsed<T: Args>(stage: &'static str, run: &Path, options: &[String]) -> Result<T> {
    let run = run.to_string_lossy().into_owned();
    let words = [stage.to_owned(), "--run".into(), run].into_iter().chain(options.iter().cloned());
    let matches = T::augment_args(Command::new(stage)).try_get_matches_from(words);
    let options = matches.and_then(|matches| T::from_arg_matches(&matches));
    options.map_err(|error| {
        anyhow!("the options of {stage} in the plan: {}", error.to_string().lines().next().unwrap_or_default())
    })
}

/// A path as a TOML string, which JSON's are.
fn quoted(path: &Path) -> Result<String> {
    Ok(serde_json::to_string(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?)?)
}

/// A stage of a plan that is to be done.
pub struct Planned {
    pub name: &'static str,
    pub plan: StagePlan,
    /// The partitions that are missing.
    pub missing: BTreeSet<usize>,
}

impl Plan {
    /// Reads the file of a plan.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let plan: Plan = toml::from_str(&text)
            .with_context(|| format!("{} is no plan, as `cgil plan` prints it", path.display()))?;
        for stage in [Some(&plan.extract), plan.fit_vae.as_ref(), plan.sweep.as_ref()].into_iter().flatten() {
            let seconds = stage.seconds.unwrap_or(0.0);
            ensure!(
                (1..=stage.items).contains(&stage.partitions) && seconds.is_finite() && seconds >= 0.0,
                "{} has {} partitions of {} items, which take {seconds} s: expected 1 to as many as there are items",
                path.display(),
                stage.partitions,
                stage.items
            );
        }
        Ok(plan)
    }

    /// The stages, in their order, with what is missing of each.
    pub fn stages(self, run: &Run) -> Result<Vec<Planned>> {
        let source = match Embeddings::open(run, FIRST_SOURCE) {
            Ok(_) => Some(Work::of_source(run, FIRST_SOURCE)?),
            Err(error) if matches!(error.downcast_ref(), Some(cgil::Error::NoEmbeddings { .. })) => None,
            Err(error) => return Err(error),
        };
        let planned = |name: &'static str, plan: StagePlan, work: Option<&Work>| {
            let all = || (0..plan.partitions).collect();
            let missing = work.map_or_else(all, |work| work.missing_partitions(plan.partitions));
            Planned { name, plan, missing }
        };
        let is_sealed = source.as_ref().is_some_and(|work| work.is_complete);
        let generators = self.fit_vae.as_ref().filter(|_| is_sealed).map(|stage| generators(run, stage)).transpose()?;
        let members = self.sweep.as_ref().filter(|_| is_sealed).map(|stage| members(run, stage)).transpose()?;
        let extract = planned("extract", self.extract, source.as_ref());
        let fit_vae = self.fit_vae.map(|stage| planned("fit-vae", stage, generators.flatten().as_ref()));
        let sweep = self.sweep.map(|stage| planned("sweep", stage, members.as_ref()));
        Ok([Some(extract), fit_vae, sweep].into_iter().flatten().collect())
    }
}

/// What there is of the generators that a stage fits; none where its stream was not begun.
fn generators(run: &Run, stage: &StagePlan) -> Result<Option<Work>> {
    let options: fit_vae::Options = parsed("fit-vae", run.dir(), &stage.options)?;
    let (order, tasks, kind) = options.stream();
    let classes = Embeddings::open(run, FIRST_SOURCE)?.plan.classes.len();
    let name = stream_name(&order, tasks.required()?, tasks.shots, classes)?;
    match run.streams().contains(&name) {
        true => Ok(Some(Work::of_generators(run, &Stream::open(run, &name)?, kind))),
        false => Ok(None),
    }
}

/// What there is of the members of a sweep.
fn members(run: &Run, stage: &StagePlan) -> Result<Work> {
    let options: sweep::Options = parsed("sweep", run.dir(), &stage.options)?;
    let members = options.members.members(Embeddings::open(run, FIRST_SOURCE)?.plan.classes.len())?;
    let members: Vec<Scored> = members.into_iter().map(|member| member.scored).collect();
    Ok(Work::of_sweep(run, &members))
}
