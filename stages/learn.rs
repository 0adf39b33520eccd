//! fit-vae and prompt-tune in one go, for commands that change what a run has learned.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use cgil::{
    artefact::{self, Manifest},
    device::class_of,
    generator::{GeneratorConfig, LatentStore},
    results::Results,
    run::Run,
    stream::Stream,
};
use clap::{Args, Parser};

use crate::{
    Cli, Stage, fit_vae,
    options::{StreamOption, flags, pairs},
    prompt_tune,
};

#[derive(Args)]
pub struct LearnOptions {
    #[command(flatten)]
    pub stream: StreamOption,
    /// The checkpoint, as extract takes it [default: the one that the run was begun with]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Options of fit-vae, such as epochs=100,latent=64 [default: those that the run was made with]
    #[arg(long, value_name = "OPTIONS")]
    fit_vae: Option<String>,
    /// Options of prompt-tune, such as epochs=10,batch-size=512 [default: as of fit-vae]
    #[arg(long, value_name = "OPTIONS")]
    prompt_tune: Option<String>,
}

/// The two stages with their options.
pub struct Learning {
    generators: (GeneratorConfig, Device),
    tune: prompt_tune::Options,
}

impl LearnOptions {
    /// The stages on a run, which may have learned a stream already. An error where an option is none
    /// of theirs, or generators are there that were made otherwise.
    pub fn stages(&self, run: &Run, stream: Option<&Stream>) -> Result<Learning> {
        let tune = self.prompt_tune.clone().or_else(|| tuned(run, stream?)).unwrap_or_default();
        let fit = parse("fit-vae", run.dir(), self.fit_vae.as_deref().unwrap_or_default())?;
        let (Stage::FitVae(fit), Stage::PromptTune(mut tune)) = (fit, parse("prompt-tune", run.dir(), &tune)?) else {
            bail!("the stages have other names")
        };
        tune.set_model(self.model.as_deref());
        let (mut config, device) = fit.generators()?;
        let Some(stream) = stream else { return Ok(Learning { generators: (config, device), tune }) };
        if self.fit_vae.is_none()
            && let Ok(store) = LatentStore::open(run, stream, tune.generator())
        {
            config = store.config;
        }
        let store = LatentStore::new(run, stream, config.clone(), class_of(&device));
        (0..stream.tasks()).try_for_each(|task| store.find(task).map(drop))?;
        Ok(Learning { generators: (config, device), tune })
    }
}

/// The options of the only prompts of CGIL that a stream was scored with.
fn tuned(run: &Run, stream: &Stream) -> Option<String> {
    let method = |name: String| -> Option<String> {
        let dir = Results::new(run, stream, &name).step_dir(0);
        let manifest = Manifest::find(&dir, &artefact::RESULTS).ok()??;
        let method = manifest.options["method"].as_str()?;
        if method == "cgil" { Some(String::new()) } else { Some(method.strip_prefix("cgil,")?.to_owned()) }
    };
    let methods: Vec<String> = run.methods(&stream.name).into_iter().filter_map(method).collect();
    match &methods[..] {
        [only] => Some(only.clone()),
        _ => None,
    }
}

impl Learning {
    /// The fewest rows that a class can be learned from.
    pub fn least_rows(&self) -> usize {
        self.generators.0.least_rows()
    }

    /// Learns and scores what is missing of a stream.
    pub fn learn(&self, run: &Run, stream: &Stream) -> Result<()> {
        let (config, device) = &self.generators;
        fit_vae::fit(run, stream, config.clone(), device)?;
        prompt_tune::tune(&self.tune, run, stream)
    }
}

/// A stage with these options, on the run.
fn parse(stage: &str, run: &Path, options: &str) -> Result<Stage> {
    let run = run.to_str().with_context(|| format!("{} is not UTF-8", run.display()))?;
    let own = flags(&pairs(options).with_context(|| format!("--{stage}"))?);
    let words = ["cgil", stage, "--run", run].map(str::to_owned).into_iter().chain(own);
    let parsed = Cli::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        anyhow::anyhow!("--{stage}: {}", text.lines().next().unwrap_or_default().trim_start_matches("error: "))
    })?;
    Ok(parsed.stage)
}
