//! A benchmark from its recipe: embeddings, methods and seeds, their table and report, in one
//! command that goes on where it stopped.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cgil::{
    atomic,
    benchmark::{Benchmark, Work, multiply_adds_per_second},
    clip::{Checkpoint, Config},
    embeddings::{Embeddings, FIRST_SOURCE},
    rows::{Split, Test, Train},
    run::Run,
    sheet::{Format, Sheet},
    storage,
};
use clap::{Args, Parser};

use crate::{Cli, Stage, extract, hub, report, sweep, terminal};

/// File in the run's directory with the names that the recipe has for classes.
const CLASS_NAMES: &str = "class-names.json";

#[derive(Args)]
pub struct Options {
    #[arg(help = format!("A recipe: a file, or one of {}", Benchmark::names().join(", ")))]
    recipe: String,
    /// The images, as extract takes them [default: what of the hub the recipe names, or the
    /// embeddings that the run has]
    #[arg(long)]
    data: Option<PathBuf>,
    /// The CLIP checkpoint, as extract takes it [default: the recipe's]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Directory of the run [default: runs/RECIPE]
    #[arg(long)]
    run: Option<PathBuf>,
    /// Print the recipe, to be copied and changed, and do nothing
    #[arg(long)]
    show: bool,
}

/// A recipe, and what is asked of it.
struct Asked<'a> {
    name: String,
    benchmark: Benchmark,
    run_dir: PathBuf,
    options: &'a Options,
}

pub fn run(options: &Options) -> Result<()> {
    let (name, text) = Benchmark::text(&options.recipe)?;
    if options.show {
        return terminal::print(text);
    }
    let benchmark = Benchmark::parse(&name, &text)?;
    let run_dir = options.run.clone().unwrap_or_else(|| Path::new("runs").join(&name));
    let asked = Asked { name, benchmark, run_dir, options };
    asked.sweep(None)?.members.check()?;
    match asked.data() {
        Some(data) => asked.extract(&data)?,
        None => asked.check_embeddings()?,
    }
    sweep::run(&asked.sweep(asked.model_of_methods()?)?)?;
    asked.print_published()?;
    asked.report()
}

impl Asked<'_> {
    /// Where the images are; none where only the run's embeddings may be.
    fn data(&self) -> Option<PathBuf> {
        self.options.data.clone().or_else(|| self.benchmark.data.hub.as_ref().map(PathBuf::from))
    }

    fn model(&self) -> PathBuf {
        self.options.model.clone().unwrap_or_else(|| PathBuf::from(&self.benchmark.model))
    }

    /// The embeddings, of data that are what the recipe expects.
    fn extract(&self, data: &Path) -> Result<()> {
        let (model, data) = (hub::model(&self.model())?, hub::data(data)?);
        let mut args = vec!["extract".into(), "--model".into(), text(&model)?, "--data".into(), text(&data)?];
        args.extend(["--run".into(), text(&self.run_dir)?]);
        if let Some(column) = self.benchmark.data.label_column.as_ref().filter(|_| has_parquet(&data)) {
            args.extend(["--label-column".into(), column.clone()]);
        }
        if let Some(names) = self.benchmark.class_names() {
            let file = self.run_dir.join(CLASS_NAMES);
            atomic::write_file(&file, |file| Ok(file.write_all(names.as_bytes())?))?;
            args.extend(["--class-names".into(), text(&file)?]);
        }
        let Stage::Extract(options) = parse(&args)? else { bail!("extract is a stage") };
        let mut is_open = false;
        let extracted = extract::run_checked(&options, |source, checkpoint| {
            is_open = true;
            self.benchmark.require(&self.name, &source.classes, &source.counts)?;
            let rows = |split: &str| source.rows.get(split).copied().unwrap_or(0);
            self.print_plan(self.benchmark.work(rows, source.classes.len()), &checkpoint.config)
        });
        match is_open {
            true => extracted,
            // names that do not fit are met when the data are opened
            false => extracted.with_context(|| format!("cannot take {} for the recipe {}", data.display(), self.name)),
        }
    }

    /// The embeddings that are there are checked in the place of images.
    fn check_embeddings(&self) -> Result<()> {
        let run = Run::open(&self.run_dir, terminal::note)?;
        let embeddings = Embeddings::open_complete(&run, FIRST_SOURCE).with_context(|| {
            format!("give --data. The recipe {} says: {}", self.name, self.benchmark.data.about.trim())
        })?;
        let classes = &embeddings.plan.classes;
        let count = |split: &str, label: i64| -> Result<usize> {
            Ok(match split {
                Train::NAME => embeddings.count::<Train>(label)? + embeddings.quarantined_of::<Train>(label)?.len(),
                _ => embeddings.count::<Test>(label)? + embeddings.quarantined_of::<Test>(label)?.len(),
            })
        };
        let mut counts = BTreeMap::new();
        for split in [Train::NAME, Test::NAME] {
            let of: Vec<usize> = classes.iter().map(|class| count(split, class.label)).collect::<Result<_>>()?;
            counts.insert(split.to_owned(), of);
        }
        self.benchmark.require(&self.name, classes, &counts)?;
        let checkpoint = Checkpoint::open(&hub::model(&self.model())?)?;
        let rows = |split: &str| counts[split].iter().sum();
        let work = Work { images: 0, ..self.benchmark.work(rows, classes.len()) };
        self.print_plan(work, &checkpoint.config)
    }

    fn print_plan(&self, work: Work, config: &Config) -> Result<()> {
        let Benchmark { title, seeds, methods, .. } = &self.benchmark;
        let seeds: Vec<String> = seeds.iter().map(u32::to_string).collect();
        let needed = work.multiply_adds(config);
        let rate = multiply_adds_per_second();
        let time = |multiply_adds: f64| terminal::duration(multiply_adds / rate);
        terminal::print(format!(
            "{title}\n  data      {}, as expected\n  seeds     {}\n  methods   {}\n  run       {}\n  to do     at most \
             {} images to encode ({}), {} rows through generators ({}), {} steps of prompts ({}): about {} in all, at the \
             speed of this machine's CPU in products\n",
            self.benchmark.expectations(),
            seeds.join(", "),
            methods.join("  "),
            self.run_dir.display(),
            work.images,
            time(needed.images),
            work.generator_rows,
            time(needed.generators),
            work.prompt_steps,
            time(needed.prompts),
            time(needed.images + needed.generators + needed.prompts)
        ))
    }

    /// Methods and seeds, and their table.
    fn sweep(&self, model: Option<PathBuf>) -> Result<sweep::Options> {
        let Benchmark { tasks, seeds, convention, methods, fit_vae, metric, .. } = &self.benchmark;
        let seeds: Vec<String> = seeds.iter().map(u32::to_string).collect();
        let mut args = vec!["sweep".into(), "--run".into(), text(&self.run_dir)?, "--tasks".into(), tasks.to_string()];
        args.extend(["--seeds".into(), seeds.join(","), "--metric".into(), metric.clone()]);
        args.extend(["--fit-vae".into(), fit_vae.clone()]);
        args.extend(convention.iter().flat_map(|convention| ["--convention".into(), convention.to_string()]));
        args.extend(methods.iter().flat_map(|method| ["--method".into(), method.clone()]));
        if let Some(model) = model {
            args.extend(["--model".into(), text(&model)?]);
        }
        let Stage::Sweep(options) = parse(&args)? else { bail!("sweep is a stage") };
        Ok(options)
    }

    /// The checkpoint, where the run does not know it.
    fn model_of_methods(&self) -> Result<Option<PathBuf>> {
        let run = Run::open(&self.run_dir, terminal::note)?;
        let is_known = self.options.model.is_none() && Embeddings::open(&run, FIRST_SOURCE)?.plan.model.is_some();
        Ok((!is_known).then(|| self.model()))
    }

    /// What others published, beside.
    fn print_published(&self) -> Result<()> {
        let published = &self.benchmark.published;
        if published.is_empty() {
            return Ok(());
        }
        let header = ["published", "metric", "%", "source"].map(str::to_owned).into();
        let rows = published.iter().map(|figure| {
            vec![figure.method.clone(), figure.metric.clone(), format!("{:.2}", figure.value), figure.source.clone()]
        });
        terminal::print(format!("\n{}", Sheet { header, rows: rows.collect() }.render(Format::Text)))
    }

    fn report(&self) -> Result<()> {
        let args = ["report".into(), "--run".into(), text(&self.run_dir)?, "--tasks".into()];
        let metric = ["--metric".into(), self.benchmark.metric.clone()];
        let args = [&args[..], &[self.benchmark.tasks.to_string()], &metric].concat();
        let Stage::Report(options) = parse(&args)? else { bail!("report is a stage") };
        report::run(&options)
    }
}

/// A command of the program, which the recipe's words are a part of.
fn parse(args: &[String]) -> Result<Stage> {
    let words = [&["cgil".to_owned()], args].concat();
    let parsed = Cli::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        anyhow::anyhow!("the recipe's {}: {line}", args[0])
    })?;
    Ok(parsed.stage)
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}

/// Whether there is Parquet in a directory, or in one of its own.
fn has_parquet(dir: &Path) -> bool {
    let is_parquet = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    let entries = |dir: &Path| -> Vec<PathBuf> { storage::names(dir).into_iter().map(|name| dir.join(name)).collect() };
    entries(dir).iter().any(|path| is_parquet(path) || entries(path).iter().any(is_parquet))
}
