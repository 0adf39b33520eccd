//! A plan: the stages of a run, what their partitions are, and about what each needs. It is frozen in
//! a TOML file.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, Result, bail, ensure};
use cgil::{
    clip::Checkpoint,
    device::DeviceChoice,
    embeddings::{Embeddings, FIRST_SOURCE},
    generator::Kind,
    run::Run,
    storage,
    stream::{Stream, stream_name},
};
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, parser::ValueSource};
use serde::Deserialize;

use super::estimate::{self, Needed};
use crate::{
    Cli,
    extract::{self, DataOptions},
    fit_vae, hub,
    options::{GeneratorOptions, OrderOptions, TaskOptions, at_least},
    terminal,
    work::Work,
};

/// Options of the stages that are the plan's own, or each partition's.
const OWN: [&str; 3] = ["run", "partition", "profile"];

#[derive(Args)]
pub struct Options {
    /// Partitions that each stage is cut into
    ///
    /// Of a stage with fewer shards, or classes, as many as it has.
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
    tasks: TaskOptions,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    generator: GeneratorOptions,
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
}

/// What the file says of a stage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePlan {
    /// Of the command, but for the run and the partition.
    pub options: Vec<String>,
    /// Shards, or classes.
    pub items: usize,
    pub partitions: usize,
    /// About what one process on the machine that planned takes for all.
    pub seconds: f64,
    /// About what a process takes, in MB.
    #[serde(rename = "memory")]
    _memory: u64,
    /// Bytes of what is made, about.
    #[serde(rename = "bytes")]
    _bytes: u64,
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
    let source = extract::open_source(&options.data, &options.run)?;
    let matches = Cli::command().get_matches();
    let matches = matches.subcommand().context("a plan is a subcommand")?.1;
    let words = |stage: Command| words(matches, &stage);

    let images: usize = source.rows.values().sum();
    let shards: usize = source.rows.values().map(|rows| rows.div_ceil(options.data.shard_rows)).sum();
    let needed = estimate::of_images(&checkpoint, &source, &options.data)?;
    let mut text = format!(
        "# {images} images of {} classes, from {}\nrun = {}\ndirectory = {}\n",
        source.classes.len(),
        source.id.origin,
        quoted(&placed(&options.run)?)?,
        quoted(&env::current_dir()?)?
    );
    let mut write = |name: &str, words: Vec<String>, items: (usize, &str), needed: Needed| -> Result<()> {
        let Needed { seconds, memory, bytes } = needed;
        let (items, noun) = items;
        ensure!(items > 0, "{name} has nothing to do: there are no {noun}");
        write!(
            text,
            "\n[{name}]\noptions = {}\nitems = {items}  # {noun}\npartitions = {}\nseconds = {seconds:.3}  # {}, of one process on \
             this machine\nmemory = {memory}  # MB of a process\nbytes = {bytes}  # of what is made\n",
            serde_json::to_string(&words)?,
            options.partitions.min(items),
            terminal::duration(seconds)
        )?;
        Ok(())
    };
    write("extract", words(extract::Options::augment_args(Command::new(""))), (shards, "shards"), needed)?;
    if let Some(cut) = options.tasks.cut() {
        cut.sizes(source.classes.len())?;
        let (rows, dim) = (source.rows.get("train").copied().unwrap_or(0), checkpoint.config.projection_dim);
        let rows = rows.div_ceil(source.classes.len()).min(options.tasks.shots.unwrap_or(usize::MAX));
        let config = options.generator.config()?;
        config.check_size(dim)?;
        let needed =
            estimate::of_generators(&config, source.classes.len(), rows, dim, &options.data.device.open_one()?)?;
        let words = words(fit_vae::Options::augment_args(Command::new("")));
        write("fit-vae", words, (source.classes.len(), "classes"), needed)?;
    }
    terminal::print(text)
}

/// The options of a stage that were given, as words.
fn words(matches: &ArgMatches, stage: &Command) -> Vec<String> {
    let is_given = |id: &str| {
        matches.try_contains_id(id).is_ok()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && !OWN.contains(&id)
    };
    let mut words = Vec::new();
    for arg in stage.get_arguments().filter(|arg| is_given(arg.get_id().as_str())) {
        let Some(long) = arg.get_long() else { continue };
        let takes_values = arg.get_action().takes_values();
        for value in matches.get_raw(arg.get_id().as_str()).into_iter().flatten() {
            words.push(format!("--{long}"));
            if takes_values {
                words.push(value.to_string_lossy().into_owned());
            }
        }
    }
    words
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
        for stage in [Some(&plan.extract), plan.fit_vae.as_ref()].into_iter().flatten() {
            ensure!(
                (1..=stage.items).contains(&stage.partitions) && stage.seconds.is_finite() && stage.seconds >= 0.0,
                "{} has {} partitions of {} items, which take {} s: expected 1 to as many as there are items",
                path.display(),
                stage.partitions,
                stage.items,
                stage.seconds
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
        let generators = match &self.fit_vae {
            Some(stage) if source.as_ref().is_some_and(|work| work.is_complete) => generators(run, stage)?,
            _ => None,
        };
        let extract = planned("extract", self.extract, source.as_ref());
        let fit_vae = self.fit_vae.map(|stage| planned("fit-vae", stage, generators.as_ref()));
        Ok([Some(extract), fit_vae].into_iter().flatten().collect())
    }
}

/// What there is of the generators that a stage fits; none where its stream was not begun.
fn generators(run: &Run, stage: &StagePlan) -> Result<Option<Work>> {
    let command = fit_vae::Options::augment_args(Command::new("fit-vae"));
    let words = ["fit-vae", "--run", "."].map(str::to_owned).into_iter().chain(stage.options.iter().cloned());
    let matches = command.try_get_matches_from(words);
    let options = matches.and_then(|matches| fit_vae::Options::from_arg_matches(&matches));
    let (order, tasks, kind): (_, _, Kind) = match &options {
        Ok(options) => options.stream(),
        Err(error) => {
            bail!("the options of fit-vae in the plan: {}", error.to_string().lines().next().unwrap_or_default())
        }
    };
    let classes = Embeddings::open(run, FIRST_SOURCE)?.plan.classes.len();
    let name = stream_name(&order, tasks.required()?, tasks.shots, classes)?;
    match run.streams().contains(&name) {
        true => Ok(Some(Work::of_generators(run, &Stream::open(run, &name)?, kind))),
        false => Ok(None),
    }
}
