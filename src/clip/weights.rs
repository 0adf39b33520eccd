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

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.mapped.get(name).is_ok()
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
            bail!("the weights in {} have {prefix}…, but config.json says {layers} layers", self.files.dir.display());
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
        let dir = self.files.dir.display();
        let tensor = self.files.mapped.load(&name, self.device).map_err(|_| {
            anyhow!("the weights in {dir} lack {name:?}, of shape {shape:?} by config.json; is this a whole CLIP?")
        })?;
        if tensor.dims() != shape {
            bail!(
                "the weights in {dir}: {name:?} should have shape {shape:?} by config.json, but has {:?}",
                tensor.dims()
            );
        }
        if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            bail!(
                "the weights in {dir}: {name:?} is {}, as quantised checkpoints have it; \
                 expected float16, bfloat16, float32 or float64",
                tensor.dtype().as_str()
            );
        }
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
            Some(first) => bail!(
                "the weights in {} have {first:?}{}, which CLIP's encoders by this config.json do not: \
                 this is another model, or config.json is another checkpoint's",
                self.files.dir.display(),
                match unread.len() {
                    1 => String::new(),
                    more => format!(" and {} more tensors", more - 1),
                }
            ),
        }
    }
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    if dir.join("model.safetensors.index.json").exists() {
        let index: Index = read_json(dir, "model.safetensors.index.json")?;
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        return names.iter().map(|name| require(dir, name)).collect();
    }
    Ok(vec![require(dir, "model.safetensors")?])
}
