//! New classes into a classifier that is in use: extract, fit-vae and prompt-tune in one go. What
//! comes first begins the run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cgil::{
    clip::Checkpoint,
    embeddings::{Embeddings, FIRST_SOURCE},
    rows::Train,
    run::Run,
    source::Source,
    stream::Stream,
    task::{Cut, Order},
};
use clap::{Args, Parser};

use crate::{
    Cli, Stage,
    extract::{self, DataOptions},
    fit_vae, forget, hub,
    options::{StreamOption, flags, pairs},
    prompt_tune, terminal,
};

#[derive(Args)]
pub struct Options {
    /// Directory of the run; one that is not there is begun
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    /// What the delivery is called [default: base, then delivery-2, delivery-3, …]
    ///
    /// Small letters, digits, dots and dashes.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The checkpoint, as extract takes it [default: the one that the run was begun with]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    stream: StreamOption,
    /// Options of fit-vae, such as epochs=100,latent=64
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    fit_vae: String,
    /// Options of prompt-tune, such as epochs=10,batch-size=512
    #[arg(long, value_name = "OPTIONS", default_value = "")]
    prompt_tune: String,
    /// Take the training embeddings away once they are learned, as `cgil forget` does
    #[arg(long)]
    forget: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    let (Stage::FitVae(fit), Stage::PromptTune(tune)) = (options.fit_vae()?, options.prompt_tune()?) else {
        bail!("the stages have other names")
    };
    let generators = fit.generators()?;
    let mut stream = options.stream.find(&run)?;
    let source = extract::open_source(&options.data, &options.run)?;
    let name = options.name(&run, &source)?;
    require_new_classes(&source, stream.as_ref(), &name)?;

    let is_forgotten = Embeddings::open(&run, &name).is_ok_and(|embeddings| embeddings.is_forgotten());
    if is_forgotten {
        terminal::note(&format!("note: the training embeddings of {name} were learned and forgotten"));
    } else {
        extract::encode(&run, &name, &options.checkpoint(&run)?, &source, &options.data)?;
    }
    let embeddings = Embeddings::open_complete(&run, &name)?;
    require_rows(&embeddings, generators.0.least_rows())?; // before the stream has it as a task
    let stream = match stream.take() {
        None => Stream::new(&embeddings, &Order::of_seed(None), Cut::Tasks(1), None)?.create(&run)?,
        Some(mut stream) => {
            if !has(&stream, &name) {
                stream.append(&run, &embeddings)?;
            }
            stream
        }
    };
    fit_vae::fit(&run, &stream, generators.0, &generators.1)?;
    prompt_tune::tune(&tune, &run, &stream)?;
    if options.forget { forget::forget(&run, &name, false) } else { Ok(()) }
}

impl Options {
    fn fit_vae(&self) -> Result<Stage> {
        parse("fit-vae", &self.run, &self.fit_vae)
    }

    fn prompt_tune(&self) -> Result<Stage> {
        parse("prompt-tune", &self.run, &self.prompt_tune)
    }

    /// What the source is called in the run: where its images are there already, what they are
    /// called.
    fn name(&self, run: &Run, source: &Source) -> Result<String> {
        let known = run.sources();
        for name in &known {
            let there = Embeddings::open(run, name)?.plan.source.fingerprint == source.id.fingerprint;
            match &self.name {
                Some(asked) if there && asked != name => {
                    bail!("{} was added as {name} already", source.id.origin)
                }
                Some(asked) if !there && asked == name => {
                    bail!("{} has a source {name} of other images: take another --name", run.dir().display())
                }
                _ if there => return Ok(name.clone()),
                _ => {}
            }
        }
        let next = if known.is_empty() { FIRST_SOURCE.to_owned() } else { format!("delivery-{}", known.len() + 1) };
        Ok(self.name.clone().unwrap_or(next))
    }

    /// The checkpoint that is given, else the one that made the run's embeddings.
    fn checkpoint(&self, run: &Run) -> Result<Checkpoint> {
        let recorded = match run.sources().first() {
            Some(first) => Embeddings::open(run, first)?.plan.model,
            None => None,
        };
        let place = self.model.clone().or(recorded.as_ref().map(|model| model.path.clone()));
        let place = place.with_context(|| {
            format!("{} does not know its CLIP: give --model, as extract takes it", run.dir().display())
        })?;
        let checkpoint = Checkpoint::open(&hub::model(&place)?)?;
        if let Some(recorded) = recorded {
            let id = checkpoint.id()?;
            if (&id.sha256, &id.config) != (&recorded.sha256, &recorded.config) {
                bail!(
                    "the embeddings in {} were made by {} (sha256 {:.12}…), not by {} (sha256 {:.12}…): give that one by \
                     --model, or begin another --run",
                    run.dir().display(),
                    recorded.name,
                    recorded.sha256,
                    id.name,
                    id.sha256
                );
            }
        }
        Ok(checkpoint)
    }
}

/// Whether a stream has the classes of a source.
fn has(stream: &Stream, source: &str) -> bool {
    (0..stream.tasks()).any(|t| stream.source(t) == source)
}

/// An error where a class of the source is known by the stream, from another source.
fn require_new_classes(source: &Source, stream: Option<&Stream>, name: &str) -> Result<()> {
    let Some(stream) = stream.filter(|stream| !has(stream, name)) else { return Ok(()) };
    for class in &source.classes {
        if let Some(known) = stream.classes.iter().position(|known| known.name == class.name) {
            bail!(
                "the class {:?} of {} was learned from {} already: leave it out, or call it something else by --class-names",
                class.name,
                source.id.origin,
                stream.source(stream.task_of(known))
            );
        }
    }
    Ok(())
}

/// An error where a class has fewer training embeddings than a generator needs.
fn require_rows(embeddings: &Embeddings, least: usize) -> Result<()> {
    for class in &embeddings.plan.classes {
        let rows = embeddings.count::<Train>(class.label)?;
        if rows < least {
            bail!(
                "{class} has {rows} training embeddings, and at least {least} must be there: add images of it, or leave \
                 the class out, and add them again (the quarantine says which images could not be read)"
            );
        }
    }
    Ok(())
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
