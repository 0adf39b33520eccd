//! The weights of a checkpoint: safetensors files, mapped, of which encoders take what lies below a
//! prefix.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::{DType, Device, Tensor, safetensors::MmapedSafetensors};
use serde::Deserialize;

use super::files::{read_json, require};
use crate::{Error, words::counted};

/// Buffers that some checkpoints store beside their weights: the numbers of the positions.
const POSITION_IDS: &str = ".embeddings.position_ids";

/// The weights on disk: model.safetensors, or the files that its index names.
pub struct WeightFiles {
    dir: PathBuf,
    paths: Vec<PathBuf>,
    mapped: MmapedSafetensors,
}

impl WeightFiles {
    /// Maps the weights of the checkpoint in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let paths = paths(dir)?;
        // Safety: the mapping is only read; a file changed under a running program is not defended
        // against.
        let mapped = unsafe { MmapedSafetensors::multi(&paths) }.with_context(|| {
            format!("the weights in {} are not safetensors, or are cut short: fetch them again", dir.display())
        })?;
        Ok(WeightFiles { dir: dir.to_owned(), paths, mapped })
    }

    /// SHA-256 of all files. Reads them once.
    pub fn sha256(&self) -> Result<String> {
        crate::hash::hash_files(&self.paths)
    }

    /// Numbers in the tensors of the image encoder, and in all others. Looks at the headers alone.
    pub fn parameters(&self) -> [usize; 2] {
        self.mapped.tensors().iter().fold([0; 2], |mut sums, (name, tensor)| {
            // vision_model and visual_projection, visual in the checkpoints of OpenCLIP
            sums[usize::from(!name.starts_with("vis"))] += tensor.shape().iter().product::<usize>();
            sums
        })
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.mapped.get(name).is_ok()
    }

    /// An error unless there is a tensor of this name, of this shape, and of a number type that is
    /// computed with. Looks at the headers alone.
    fn require(&self, name: &str, shape: &[usize]) -> Result<()> {
        let dir = self.dir.display();
        let Ok(found) = self.mapped.get(name) else {
            bail!("the weights in {dir} lack {name:?}, of shape {shape:?} by config.json; is this a whole CLIP?")
        };
        if found.shape() != shape {
            bail!(
                "the weights in {dir}: {name:?} should have shape {shape:?} by config.json, but has {:?}",
                found.shape()
            );
        }
        if !matches!(DType::try_from(found.dtype()), Ok(DType::F16 | DType::BF16 | DType::F32 | DType::F64)) {
            bail!(
                "the weights in {dir}: {name:?} is {:?}, as quantised checkpoints have it; expected F16, BF16, F32 or F64",
                found.dtype()
            );
        }
        Ok(())
    }

    /// All weights, for a device and in a number type.
    pub(in crate::clip) fn on<'a>(&'a self, device: &'a Device, dtype: DType) -> Weights<'a> {
        Weights { files: self, device, dtype, prefix: String::new(), read: Rc::default() }
    }
}

/// The weights below a prefix.
pub(in crate::clip) struct Weights<'a> {
    files: &'a WeightFiles,
    device: &'a Device,
    dtype: DType,
    prefix: String,
    /// The names of all that were read, below whatever prefix.
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl Weights<'_> {
    /// The weights below `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Weights { prefix: format!("{}{name}.", self.prefix), read: self.read.clone(), ..*self }
    }

    /// An error if there are more than the `layers` layers of the configuration.
    pub fn require_no_more(&self, layers: usize) -> Result<()> {
        let prefix = format!("{}{layers}.", self.prefix);
        if self.files.mapped.tensors().iter().any(|(name, _)| name.starts_with(&prefix)) {
            return Err(refused(anyhow!(
                "the weights in {} have {prefix}…, but config.json says {}",
                self.files.dir.display(),
                counted(layers, "layer")
            )));
        }
        Ok(())
    }

    /// As [`Weights::get`], flat, in float32.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.get(name, shape)?.flatten_all()?.to_vec1()?)
    }

    /// A weight, which must have the shape that the configuration gives it.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        self.files.require(&name, shape).map_err(refused)?;
        let tensor = self.files.mapped.load(&name, self.device);
        let tensor =
            tensor.with_context(|| format!("cannot load {name:?} of the weights in {}", self.files.dir.display()))?;
        self.read.borrow_mut().insert(name);
        Ok(tensor.to_dtype(self.dtype)?)
    }

    /// An error that names a tensor whose name begins with one of `prefixes` and that has not been
    /// read: a model that has it is not computed as it should be.
    pub fn require_all_read(&self, prefixes: &[&str]) -> Result<()> {
        let read = self.read.borrow();
        let tensors = self.files.mapped.tensors();
        let unread = |name: &&String| {
            prefixes.iter().any(|prefix| name.starts_with(prefix))
                && !name.ends_with(POSITION_IDS)
                && !read.contains(*name)
        };
        let unread: BTreeSet<&String> = tensors.iter().map(|(name, _)| name).filter(unread).collect();
        match unread.first() {
            None => Ok(()),
            Some(first) => Err(refused(anyhow!(
                "the weights in {} have {first:?}{}, which CLIP's encoders by this config.json do not: \
                 this is another model, or config.json is another checkpoint's",
                self.files.dir.display(),
                match unread.len() {
                    1 => String::new(),
                    more => format!(" and {}", counted(more - 1, "more tensor")),
                }
            ))),
        }
    }
}

/// The files of the weights: as in transformers model.safetensors, even where there is an index.
fn paths(dir: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    if dir.join(SINGLE).exists() || !dir.join(INDEX).exists() {
        return Ok(vec![require(dir, SINGLE)?]);
    }
    let index: Index = read_json(dir, INDEX)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    names.iter().map(|name| require(dir, name)).collect()
}

/// A failure of the checkpoint's, told from one of the device.
fn refused(error: anyhow::Error) -> anyhow::Error {
    Error::Checkpoint(error).into()
}
