//! Named float32 tensors in a safetensors file, with one JSON value beside them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};

use crate::atomic;

/// Key of the JSON value in the file's metadata.
const KEY: &str = "cgil";

/// Shapes and values, row-major, by name.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes tensors and `about`.
pub fn write(path: &Path, tensors: &Tensors, about: &impl Serialize) -> Result<()> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(KEY.to_owned(), serde_json::to_string(about)?)]);
    let file_bytes = safetensors::serialize(views, Some(metadata))?;
    atomic::write_file(path, |file| Ok(file.write_all(&file_bytes)?))
}

/// Reads what [`write`] wrote.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(Tensors, T)> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes)
        .with_context(|| format!("{} is damaged: remove its directory, and run the stage that made it", path.display()))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<(Tensors, T)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let about = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).context("no `cgil` metadata")?;
    let about = serde_json::from_str(about)?;
    let mut tensors = Tensors::new();
    for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
        if view.dtype() != Dtype::F32 {
            bail!("tensor {name:?} should be float32, but is {:?}", view.dtype());
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        tensors.insert(name, (view.shape().to_vec(), values));
    }
    Ok((tensors, about))
}

/// Takes the tensor `name` out of `tensors`.
pub fn take(tensors: &mut Tensors, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    tensors.remove(name).with_context(|| format!("tensor {name:?} is missing"))
}

/// Takes the values of the tensor `name`, which has to have this `shape`, out of `tensors`.
pub fn take_shaped(tensors: &mut Tensors, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let (found, values) = take(tensors, name)?;
    ensure!(found == shape, "tensor {name:?} should have the shape {shape:?}, but has {found:?}");
    Ok(values)
}
