//! The members of a sweep: methods under seeds, and the commands that make each.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cgil::{
    choice::Choice,
    generator::Kind,
    stream::stream_name,
    task::{Convention, Order},
};
use clap::{Args, Parser};

use crate::{
    Cli, Stage,
    options::{TaskOptions, choice, flags, options_of, pairs},
    work::Scored,
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

/// Methods and seeds.
#[derive(Args, Clone)]
pub struct Compared {
    /// Seeds, each a class order and its draws
    #[arg(long, value_delimiter = ',')]
    pub seeds: Vec<u32>,
    /// A method, such as lda or cgil,lr=0.01; may be given again
    ///
    /// cgil or a baseline, and options of it as in the tables' column `method`; | between values
    /// stands for one method each: cgil,lr=0.01|0.05; in a value, ; stands for a comma. The first
    /// is what the others are compared with; without, cgil, its paper's form and every baseline but
    /// ensemble.
    #[arg(long = "method", value_name = "METHOD", requires = "seeds")]
    methods: Vec<String>,
}

impl Compared {
    /// The methods that are compared.
    pub fn methods(&self) -> Vec<String> {
        let default: Vec<String> = METHODS.map(str::to_owned).into();
        let asked = if self.methods.is_empty() { &default } else { &self.methods };
        asked.iter().flat_map(|method| expand(method)).collect()
    }
}

/// What decides the members of a sweep, and how they are made.
#[derive(Args, Clone)]
#[command(mut_arg("seeds", |seeds| seeds.required(true)))]
pub struct MemberOptions {
    /// Directory of the run, with its embeddings
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    #[command(flatten)]
    pub tasks: TaskOptions,
    #[command(flatten)]
    compared: Compared,
    /// What the numbers of a seed's permutation are
    ///
    /// Positions, unless it is given.
    #[arg(long, hide_short_help = true, value_parser = choice::<Convention>())]
    convention: Option<Convention>,
    /// Options of fit-vae, such as epochs=100,latent=64
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    fit_vae: String,
    /// Directory or hub name of the CLIP checkpoint, if the run does not know it
    ///
    /// As `extract` takes it. The run knows it, unless the embeddings were imported.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
}

/// A method under a seed, and the commands that make what is missing of it, its own last.
pub struct Member {
    /// What tables call the method, and the stream.
    pub scored: Scored,
    pub commands: Vec<Vec<String>>,
}

impl MemberOptions {
    /// The members on so many classes: the methods under the first seed, under the second, and so on.
    pub fn members(&self, classes: usize) -> Result<Vec<Member>> {
        let cut = self.tasks.required()?;
        let mut members = Vec::new();
        for &seed in &self.compared.seeds {
            let convention = self.convention.unwrap_or_default();
            let order = Order { convention, ..Order::of_seed(Some(seed)) };
            let stream = stream_name(&order, cut, self.tasks.shots, classes)?;
            for method in self.compared.methods() {
                members.push(Member::new(self, &method, seed, stream.clone())?);
            }
        }
        Ok(members)
    }

    /// An error for a method that the program would not understand.
    pub fn check(&self) -> Result<()> {
        let methods = self.compared.methods();
        methods.iter().try_for_each(|method| Member::new(self, method, 0, String::new()).map(|_| ()))
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
    fn new(options: &MemberOptions, method: &str, seed: u32, stream: String) -> Result<Self> {
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
                Stage::Baseline(options) => {
                    ensure!(
                        options.baseline.partition().is_none(),
                        "method {method:?}: a sweep's members are whole; --partition cuts the sweep itself"
                    );
                    name = options.baseline.method()?;
                }
                _ => {}
            }
        }
        Ok(Member { scored: Scored { stream, method: name }, commands })
    }
}

/// The commands that make a method under a seed, its own last.
fn commands(options: &MemberOptions, method: &str, seed: u32) -> Result<Vec<Vec<String>>> {
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
fn commands_of_prompts(options: &MemberOptions, method: &str, seed: u32) -> Result<Vec<Vec<String>>> {
    match method.split(',').next() {
        Some("cgil" | "finetune" | "joint") => commands(options, method, seed),
        _ => bail!("method \"ensemble\": {method:?} has no prompts; take cgil, finetune or joint"),
    }
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
}
