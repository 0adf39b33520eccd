//! The weights of a checkpoint: safetensors files, mapped, of which encoders take what lies below a
//! prefix, wherever the checkpoint's layout has it.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::{
    DType, Device, Tensor,
    safetensors::{Load, MmapedSafetensors},
};
use safetensors::tensor::TensorView;
use serde::Deserialize;

use super::{
    format::{Format, index, read_json, require},
    layout::{Layout, Place, Tower},
};
use crate::{Error, words::counted};

/// What the names of pickled weights end with.
const PICKLES: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

/// The weights on disk: a file, or the files that its index names.
pub struct WeightFiles {
    dir: PathBuf,
    paths: Vec<PathBuf>,
    mapped: MmapedSafetensors,
    /// What they are called there.
    layout: Layout,
    /// The file that says their shapes.
    config: &'static str,
}

impl WeightFiles {
    /// Maps the weights of the checkpoint in `dir`. `layer_scale` says of the image and of the text
    /// encoder whether they have LayerScale.
    pub fn open(dir: &Path, format: Format, layer_scale: [bool; 2]) -> Result<Self> {
        let paths = paths(dir, format)?;
        // Safety: the mapping is only read; a file changed under a running program is not defended
        // against.
        let mapped = unsafe { MmapedSafetensors::multi(&paths) }.with_context(|| {
            format!("the weights in {} are not safetensors, or are cut short: fetch them again", dir.display())
        })?;
        let layout = match format {
            Format::Transformers => Layout::Transformers,
            Format::OpenClip => {
                let text = if mapped.get("text.token_embedding.weight").is_ok() { "text." } else { "" };
                Layout::OpenClip { text, layer_scale }
            }
        };
        Ok(WeightFiles { dir: dir.to_owned(), paths, mapped, layout, config: format.config() })
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

    /// The tensor of this name; an error unless it has this shape and a number type that is
    /// computed with. Looks at the headers alone.
    fn require(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let (dir, config) = (self.dir.display(), self.config);
        let Ok(found) = self.mapped.get(name) else {
            bail!("the weights in {dir} lack {name:?}, of shape {shape:?} by {config}; is this a whole CLIP?")
        };
        if found.shape() != shape {
            bail!(
                "the weights in {dir}: {name:?} should have shape {shape:?} by {config}, but has {:?}",
                found.shape()
            );
        }
        if !matches!(DType::try_from(found.dtype()), Ok(DType::F16 | DType::BF16 | DType::F32 | DType::F64)) {
            bail!(
                "the weights in {dir}: {name:?} is {:?}, as quantised checkpoints have it; expected F16, BF16, F32 or F64",
                found.dtype()
            );
        }
        Ok(found)
    }

    /// The weight at a place, of a shape, as it is stored but for its layout.
    fn load(&self, place: &Place, shape: &[usize], device: &Device) -> Result<Tensor> {
        let mut own = shape.to_vec();
        if place.transposed {
            own.reverse();
        }
        let mut stored = own.clone();
        if place.third.is_some() {
            stored[0] *= 3;
        }
        let found = self.require(&place.name, &stored).map_err(refused)?;
        let data = match place.third {
            None => found.data(),
            Some(i) => &found.data()[i * found.data().len() / 3..(i + 1) * found.data().len() / 3],
        };
        let part = TensorView::new(found.dtype(), own, data).map_err(|error| anyhow!("{error}"));
        let tensor = part
            .and_then(|part| Ok(part.load(device)?))
            .with_context(|| format!("cannot load {:?} of the weights in {}", place.name, self.dir.display()))?;
        Ok(if place.transposed { tensor.t()?.contiguous()? } else { tensor })
    }

    /// All weights, for a device and in a number type.
    pub(in crate::clip) fn on<'a>(&'a self, device: &'a Device, dtype: DType) -> Weights<'a> {
        Weights { files: self, device, dtype, prefix: String::new(), read: Rc::default() }
    }
}

/// The weights below a prefix.
pub(crate) struct Weights<'a> {
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

    /// What a weight is asked for by.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// An error if there are more than the `layers` layers of the configuration.
    pub fn require_no_more(&self, layers: usize) -> Result<()> {
        let prefix = self.files.layout.stored(&format!("{}{layers}.", self.prefix));
        if self.files.mapped.tensors().iter().any(|(name, _)| name.starts_with(&prefix)) {
            return Err(refused(anyhow!(
                "the weights in {} have {prefix}…, but {} says {}",
                self.files.dir.display(),
                self.files.config,
                counted(layers, "layer")
            )));
        }
        Ok(())
    }

    /// As [`Weights::get`], flat, in float32.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.get(name, shape)?.flatten_all()?.to_vec1()?)
    }

    /// What weights are computed with.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A weight, which must have the shape that the configuration gives it.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.get_in(self.dtype, name, shape)
    }

    /// As `get`, in this number type.
    pub fn get_in(&self, dtype: DType, name: &str, shape: &[usize]) -> Result<Tensor> {
        let place = self.files.layout.place(&self.name(name));
        let mut tensor = self.files.load(&place, shape, self.device)?;
        if let Some(name) = &place.scale {
            let factors = Place { name: name.clone(), third: None, transposed: false, scale: None };
            let mut rows = vec![1; shape.len()];
            rows[0] = shape[0];
            let factors = self.files.load(&factors, &shape[..1], self.device)?.to_dtype(DType::F32)?.reshape(rows)?;
            tensor = tensor.to_dtype(DType::F32)?.broadcast_mul(&factors)?;
        }
        self.read.borrow_mut().extend([place.name].into_iter().chain(place.scale));
        Ok(tensor.to_dtype(dtype)?)
    }

    /// A single number, which some checkpoints have as a list of one.
    pub fn number(&self, name: &str) -> Result<f32> {
        let stored = self.files.layout.stored(&self.name(name));
        let is_list = self.files.mapped.get(&stored).is_ok_and(|found| found.shape() == [1]);
        Ok(self.values(name, if is_list { &[1] } else { &[] })?[0])
    }

    /// An error that names a weight of an encoder that has not been read: a model that has it is
    /// not computed as it should be.
    pub fn require_all_read(&self, tower: Tower) -> Result<()> {
        let read = self.read.borrow();
        let tensors = self.files.mapped.tensors();
        let unread = |name: &&String| self.files.layout.is_weight_of(name, tower) && !read.contains(*name);
        let unread: BTreeSet<&String> = tensors.iter().map(|(name, _)| name).filter(unread).collect();
        match unread.first() {
            None => Ok(()),
            Some(first) => Err(refused(anyhow!(
                "the weights in {} have {first:?}{}, which the encoders by this {config} do not: \
                 this is another model, or {config} is another checkpoint's",
                self.files.dir.display(),
                match unread.len() {
                    1 => String::new(),
                    more => format!(" and {}", counted(more - 1, "more tensor")),
                },
                config = self.files.config
            ))),
        }
    }
}

/// The files of the weights: as in transformers one file, even where there is an index.
fn paths(dir: &Path, format: Format) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    for name in format.weights() {
        if dir.join(name).exists() {
            return Ok(vec![require(dir, name)?]);
        }
        if dir.join(index(name)).exists() {
            let index: Index = read_json(dir, &index(name))?;
            let names: BTreeSet<String> = index.weight_map.into_values().collect();
            return names.iter().map(|name| require(dir, name)).collect();
        }
    }
    let name = format.weights()[0];
    let pickles = pickles(dir, format.pickled())?;
    if let Some(first) = pickles.first() {
        bail!(
            "the checkpoint {} has no {name}, and {} is a pickle, which can run any program when it is read; this \
             writes what is read here: {}",
            dir.display(),
            first.display(),
            conversion(&pickles, &dir.join(name))
        );
    }
    Ok(vec![require(dir, name)?])
}

/// The files of pickled weights: those whose names begin with `stem`, or one that may be.
fn pickles(dir: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let is_pickle = |path: &PathBuf| path.extension().is_some_and(|end| PICKLES.iter().any(|pickle| end == *pickle));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_pickle).collect();
    paths.sort();
    let begins = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stem));
    let own: Vec<PathBuf> = paths.iter().filter(begins).cloned().collect();
    if own.is_empty() {
        paths.truncate(1)
    } else {
        paths = own
    }
    Ok(paths)
}

/// A command that writes pickled weights as safetensors.
fn conversion(pickles: &[PathBuf], out: &Path) -> String {
    let files: Vec<String> = pickles.iter().map(|path| format!("'{}'", path.display())).collect();
    format!(
        "python -c \"import torch, safetensors.torch as s; d = {{}}; \
         [d.update(torch.load(f, map_location='cpu', weights_only=True)) for f in [{}]]; d = d.get('state_dict', d); \
         s.save_file({{k.removeprefix('module.'): v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}, \
         '{}')\"",
        files.join(", "),
        out.display()
    )
}

/// A failure of the checkpoint's, told from one of the device.
fn refused(error: anyhow::Error) -> anyhow::Error {
    Error::Checkpoint(error).into()
}
