//! The checkpoint that goes with a stream's embeddings, and what learns with it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use cgil::{
    clip::{Checkpoint, ModelId, Preprocess},
    device::DeviceChoice,
    embeddings::Embeddings,
    run::Run,
    stream::Stream,
    texts::TextModel,
};
use clap::Args;

use crate::{hub, terminal};

/// Where the checkpoint is.
#[derive(Args, Clone)]
pub struct ClipOptions {
    /// Directory or hub name of the CLIP checkpoint, if the run does not know it
    ///
    /// As `extract` takes it. The run knows it, unless the embeddings were imported.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
}

/// The CLIP that made the embeddings of a stream, and what artefacts record of its text encoder.
pub fn open(run: &Run, stream: &Stream, options: &ClipOptions) -> Result<(Checkpoint, TextModel)> {
    let sources =
        stream.sources().into_iter().map(|source| Embeddings::open(run, source)).collect::<Result<Vec<_>>>()?;
    let model = options.model.as_ref().or_else(|| place(&sources));
    let (checkpoint, id) = of_embeddings(run, sources.first().context("no source")?, model.map(PathBuf::as_path))?;
    sources[1..].iter().try_for_each(|embeddings| require(run, embeddings, &checkpoint, &id))?;
    let text = TextModel::new(&checkpoint, &id)?;
    Ok((checkpoint, text))
}

/// Where the checkpoint of sources is, as they say: the first place that is there.
pub fn place(sources: &[Embeddings]) -> Option<&PathBuf> {
    sources.iter().filter_map(|source| Some(&source.plan.model.as_ref()?.path)).find(|path| path.is_dir())
}

/// The preprocessing that the embeddings were made with.
pub fn preprocess(checkpoint: &Checkpoint, embeddings: &Embeddings) -> Result<Preprocess> {
    let mut preprocess = checkpoint.preprocess()?;
    let Some(recorded) = &embeddings.plan.preprocessing else { return Ok(preprocess) };
    for exif in [false, true] {
        preprocess.exif = exif;
        if preprocess.id() == *recorded {
            return Ok(preprocess);
        }
    }
    bail!(
        "the run's images were prepared otherwise ({recorded}) than its checkpoint says now: restore it, or begin another run"
    )
}

/// What learns prompts with a checkpoint's text encoder.
pub fn device(choice: &DeviceChoice, checkpoint: &Checkpoint) -> Result<Device> {
    let width = checkpoint.config.text_config.hidden_size;
    let best = choice.for_prompts(width);
    let device = best.open_one()?;
    terminal::note_device(&best, &device);
    if cfg!(feature = "cuda") && best != *choice {
        terminal::detail(&format!("prompts of a text encoder of width {width} are learned faster there than on CUDA"));
    }
    Ok(device)
}

fn of_embeddings(run: &Run, embeddings: &Embeddings, model: Option<&Path>) -> Result<(Checkpoint, ModelId)> {
    let (run_shown, recorded) = (run.dir().display(), &embeddings.plan.model);
    let dir = match (model, recorded) {
        (Some(model), _) => hub::model(model)?,
        (None, Some(model)) => bail!(
            "the checkpoint of {run_shown}, {}, is not there any more: give --model, the directory or name of {}",
            model.path.display(),
            model.name
        ),
        (None, None) => {
            bail!("the embeddings in {run_shown} were imported, so it does not know their CLIP: give --model")
        }
    };
    let checkpoint = Checkpoint::open(&dir)?;
    let id = checkpoint.id()?;
    require(run, embeddings, &checkpoint, &id)?;
    Ok((checkpoint, id))
}

/// An error unless a checkpoint made these embeddings, as far as is known.
fn require(run: &Run, embeddings: &Embeddings, checkpoint: &Checkpoint, id: &ModelId) -> Result<()> {
    let run_shown = run.dir().display();
    let (dim, projection) = (embeddings.plan.dim, checkpoint.config.projection_dim);
    if dim != projection {
        bail!(
            "the embeddings in {run_shown} have {dim} values, but the CLIP in {} projects to {projection}: give the \
             checkpoint that made them",
            id.path.display()
        );
    }
    let Some(recorded) = &embeddings.plan.model else { return Ok(()) };
    if recorded.sha256 != id.sha256 {
        bail!(
            "the embeddings in {run_shown} were made by {} (sha256 {:.12}…), not by {} (sha256 {:.12}…): \
             give the one that made them by --model, or use another --run",
            recorded.name,
            recorded.sha256,
            id.name,
            id.sha256
        );
    }
    if recorded.config != id.config {
        bail!(
            "{}/{} says otherwise than when the embeddings in {run_shown} were made: restore it",
            id.path.display(),
            checkpoint.config_name()
        );
    }
    Ok(())
}
