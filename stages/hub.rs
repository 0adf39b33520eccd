//! Checkpoints and data sets that are given by name are fetched, as far as they are not there.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use cgil::hub::{File, Hub, Name, Watch};

use crate::terminal::{self, Progress};

/// Bytes of a unit of progress.
const MB: u64 = 1_000_000;

/// The directory of a checkpoint: `model` itself where it is there, else its name on the hub.
pub fn model(model: &Path) -> Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_owned());
    }
    let Some(name) = model.to_str().and_then(Name::of_model) else {
        bail!(
            "{} is not there, and no name on the Hugging Face hub: --model takes the directory of a CLIP checkpoint, \
             or OWNER/NAME[@REVISION], such as openai/clip-vit-large-patch14",
            model.display()
        );
    };
    Hub::from_env()?.model(&name, &Bars::default()).map_err(|error| {
        error.context(format!("there is no directory {}, and the hub was asked for a model", model.display()))
    })
}

/// What `data` is, or the directory of a data set `hf://datasets/…` of the hub.
pub fn data(data: &Path) -> Result<PathBuf> {
    match data.to_str() {
        Some(text) if Name::means_dataset(text) && !data.exists() => {
            Hub::from_env()?.dataset(&Name::of_dataset(text)?, &Bars::default())
        }
        _ => Ok(data.to_owned()),
    }
}

/// How far each file is, one after another.
#[derive(Default)]
struct Bars {
    last: RefCell<Option<(String, u64, Progress)>>,
}

impl Watch for Bars {
    fn note(&self, line: &str) {
        terminal::note(line);
    }

    fn fetched(&self, file: &File, there: u64) {
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(path, ..)| *path != file.path) {
            let progress = Progress::new("fetch, MB", (file.size / MB) as usize);
            progress.set_message(terminal::shorten(&file.path, 40));
            *last = Some((file.path.clone(), 0, progress));
        }
        let Some((_, known, progress)) = last.as_mut() else { return };
        progress.inc((there / MB).saturating_sub(*known));
        *known = there / MB;
        if there == file.size {
            progress.finish();
        }
    }
}
