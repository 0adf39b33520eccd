//! The checkpoint that goes with a run's embeddings.

use std::path::Path;

use anyhow::{Result, bail};
use cgil::{
    clip::{Checkpoint, ModelId},
    table::embeddings::Embeddings,
};

/// The CLIP that made the embeddings, and its identity.
pub fn open(run: &Path, model: Option<&Path>, embeddings: &Embeddings) -> Result<(Checkpoint, ModelId)> {
    let (run, recorded) = (run.display(), &embeddings.manifest.model);
    let dir = match (model, recorded) {
        (Some(dir), _) => dir,
        (None, Some(model)) if model.path.is_dir() => &model.path,
        (None, Some(model)) => {
            bail!("the checkpoint of {run}, {}, is not there any more: give --model DIR", model.path.display())
        }
        (None, None) => {
            bail!("the embeddings in {run} were imported, so it does not know their CLIP: give --model DIR")
        }
    };
    let checkpoint = Checkpoint::open(dir)?;
    let (dim, projection) = (embeddings.manifest.dim, checkpoint.config.projection_dim);
    if dim != projection {
        bail!(
            "the embeddings in {run} have {dim} values, but the CLIP in {} projects to {projection}: give the one that made them",
            dir.display()
        );
    }
    let id = checkpoint.id()?;
    if let Some(model) = recorded.as_ref().filter(|model| model.sha256 != id.sha256) {
        bail!(
            "the embeddings in {run} were made by {} (sha256 {:.12}…), but --model is {} (sha256 {:.12}…): \
             give the one that made them, or use another --run",
            model.name,
            model.sha256,
            id.name,
            id.sha256
        );
    }
    if recorded.as_ref().is_some_and(|model| model.config != id.config) {
        bail!("{}/config.json says otherwise than when the embeddings in {run} were made: restore it", dir.display());
    }
    Ok((checkpoint, id))
}
