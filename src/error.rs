//! Failures that a caller can do something about. Functions return [`anyhow::Error`], whose
//! messages say what to do; who wants to act on the kind of a failure finds it in there:
//!
//! ```
//! use cgil::{Error, embeddings::Embeddings, run::Run};
//!
//! let run = Run::open("runs/none".as_ref(), |_| ())?;
//! let error = Embeddings::open(&run, "base").unwrap_err();
//! match error.downcast_ref() {
//!     Some(Error::NoEmbeddings { run, .. }) => println!("embed the images into {} first", run.display()),
//!     _ => return Err(error),
//! }
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! What is wrong with an artefact of a run is an [`artefact::Error`](crate::artefact::Error), a
//! column of a table a [`ContractError`](crate::table::contract::ContractError).

use std::path::PathBuf;

/// A failure that a caller can do something about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A run has no embeddings of a source yet: make them.
    #[error(
        "{} has no embeddings of the source {name:?}: run `cgil extract` or `cgil import` with this --run first",
        run.display()
    )]
    NoEmbeddings {
        /// The run's directory.
        run: PathBuf,
        /// Name of the source.
        name: String,
    },
    /// The embeddings of a source were begun and not finished: go on with them.
    #[error(
        "the embeddings in {} are not complete: {missing} of {shards} shards are missing; \
         run the command that made them again, it goes on where it stopped",
        dir.display()
    )]
    IncompleteEmbeddings {
        /// The directory of the source's embeddings.
        dir: PathBuf,
        /// Shards that are not there.
        missing: usize,
        /// All shards.
        shards: usize,
    },
    /// A run has embeddings of other images, or made otherwise: use another run.
    #[error(
        "{} holds other embeddings: {difference}; use another --run, or remove {} to make them anew",
        run.display(),
        dir.display()
    )]
    OtherEmbeddings {
        /// The run's directory.
        run: PathBuf,
        /// The directory of the source's embeddings.
        dir: PathBuf,
        /// What differs, in words.
        difference: String,
    },
    /// The embeddings of a split of a source were taken away on purpose: what needs them cannot be made
    /// any more, only what was made before can be used.
    #[error(
        "the {split} embeddings in {} were forgotten, and are needed: what was made from them goes on, but nothing else \
         can be made from them, unless the images are extracted into another --run",
        dir.display()
    )]
    Forgotten {
        /// The split, in words.
        split: &'static str,
        /// The directory of the source's embeddings.
        dir: PathBuf,
    },
    /// A run has no stream of these tasks in this order of classes: make it.
    #[error("{} has no {what}", run.display())]
    NoStream {
        /// The run's directory.
        run: PathBuf,
        /// Which stream it lacks, and which it has, in words.
        what: String,
    },
    /// A class has too few training rows: add some, or leave the class out.
    #[error("{reason}")]
    TooFewRows {
        /// The class's label.
        label: i64,
        /// The class, how many rows it has and needs, in words.
        reason: String,
    },
    /// The loss of the prompts is not finite: train with a smaller learning rate.
    #[error("the prompts diverged in epoch {epoch} of task {task}: use a smaller --lr")]
    Diverged {
        /// The task, from 1.
        task: usize,
        /// The epoch, from 1.
        epoch: usize,
    },
    /// A directory is no checkpoint of a CLIP that is computed here, or not a whole one: use
    /// another.
    #[error(transparent)]
    Checkpoint(anyhow::Error),
    /// CUDA was asked for, and the program was built without: use the CPU.
    #[error(
        "this cgil was built without CUDA: build it with `cargo build --release --features cuda`, or leave --device out"
    )]
    BuiltWithoutCuda,
    /// A CUDA device is not there, or is taken: use another, or the CPU.
    #[error("cannot use the CUDA device {number}")]
    Device {
        /// Its number.
        number: usize,
        /// What CUDA says.
        source: anyhow::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::Checkpoint;

    #[test]
    fn a_checkpoint_that_is_refused_is_told_by_its_kind_and_says_why_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        let error = Checkpoint::open(dir.path()).err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(Error::Checkpoint(_))), "{error:?}");
        let words = format!("{error:#}");
        assert_eq!(words.matches("not what a CLIP checkpoint has").count(), 1, "{words}");
        assert_eq!(words.matches("EOF").count(), 1, "{words}");
    }

    #[test]
    fn whatever_of_a_checkpoint_cannot_be_used_is_told_by_the_same_kind() {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoint");
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"] {
            std::fs::copy(golden.join(file), dir.path().join(file)).unwrap();
        }
        let change = |file: &str, from: &str, to: &str| {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(text.contains(from), "{file}");
            std::fs::write(dir.path().join(file), text.replace(from, to)).unwrap();
        };
        let tokenizer = Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap();
        change("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
        change("preprocessor_config.json", "\"resample\": 3", "\"resample\": 2");
        std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let cpu = candle_core::Device::Cpu;
        let errors = [
            checkpoint.preprocess().err(),
            checkpoint.tokenizer().err(),
            checkpoint.image_encoder(&cpu, candle_core::DType::F32).err(),
            checkpoint.image_encoder_on(&cpu, candle_core::DType::F32).err(),
            checkpoint.text_encoder(&tokenizer).err(),
            checkpoint.text_encoder_on(&cpu).err(),
        ];
        for (i, error) in errors.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("{i} should fail"));
            assert!(matches!(error.downcast_ref(), Some(Error::Checkpoint(_))), "{i}: {error:?}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_says_which_and_why() {
        let source = anyhow::anyhow!("no driver");
        let error = anyhow::Error::from(Error::Device { number: 3, source });
        assert_eq!(format!("{error:#}"), "cannot use the CUDA device 3: no driver");
    }
}
