//! fit-vae and prompt-tune in one go, for commands that change what a run has learned.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use cgil::{generator::GeneratorConfig, run::Run, stream::Stream};
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
    /// Options of fit-vae, such as epochs=100,latent=64
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    fit_vae: String,
    /// Options of prompt-tune, such as epochs=10,batch-size=512
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    prompt_tune: String,
}

/// The two stages with their options.
pub struct Learning {
    generators: (GeneratorConfig, Device),
    tune: prompt_tune::Options,
}

impl LearnOptions {
    /// The stages on a run. An error where an option is none of theirs.
    pub fn stages(&self, run: &Path) -> Result<Learning> {
        let fit = parse("fit-vae", run, &self.fit_vae)?;
        match (fit, parse("prompt-tune", run, &self.prompt_tune)?) {
            (Stage::FitVae(fit), Stage::PromptTune(tune)) => Ok(Learning { generators: fit.generators()?, tune }),
            _ => bail!("the stages have other names"),
        }
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
