//! Which arrays a file of numpy's (.npy, .npz) or safetensors holds.

use std::{
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::{Dtype, tensor::Metadata};
use zip::ZipArchive;

use super::{
    super::names::{has_extension, id_of},
    array::Array,
    kind::{Kind, Of},
    npy::Header,
};
use crate::storage;

/// Longest header of a safetensors file, in bytes: as long as the library has it.
const LONGEST_HEADER: u64 = 100_000_000;

/// What a file of arrays holds.
#[derive(Default)]
pub struct Arrays {
    pub arrays: Vec<Array>,
    /// Places of arrays that cannot be used, and why.
    pub unusable: Vec<(String, anyhow::Error)>,
    /// Texts beside the arrays, by key.
    pub texts: Vec<(String, String)>,
}

/// Whether a file holds arrays, by its name.
pub fn is_of_arrays(file: &Path) -> bool {
    ["npy", "npz", "safetensors"].iter().any(|extension| has_extension(file, extension))
}

impl Arrays {
    /// What the file `path` holds, which is `below` the data's directory.
    pub fn of(path: &Path, below: &Path) -> Result<Self> {
        let place = id_of(below);
        let found = match () {
            _ if has_extension(path, "npz") => of_npz(path, &place),
            _ if has_extension(path, "safetensors") => of_safetensors(path, &place),
            _ => of_npy(path, place),
        };
        found.with_context(|| path.display().to_string())
    }
}

fn of_npy(path: &Path, place: String) -> Result<Arrays> {
    let file = storage::open(path)?;
    let length = file.size()?;
    let array = numpys(&mut BufReader::new(file), length, place, path, None)?;
    Ok(Arrays { arrays: vec![array], ..Arrays::default() })
}

fn of_npz(path: &Path, place: &str) -> Result<Arrays> {
    let mut found = Arrays::default();
    let mut archive = ZipArchive::new(BufReader::new(storage::open(path)?))?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i)?;
        let (name, length) = (entry.name()?.into_owned(), entry.size());
        let place = format!("{place}:{}", name.trim_end_matches(".npy"));
        match numpys(&mut entry, length, place.clone(), path, Some(name)) {
            Ok(array) => found.arrays.push(array),
            Err(error) => found.unusable.push((place, error)),
        }
    }
    Ok(found)
}

fn numpys(file: &mut impl Read, length: u64, place: String, path: &Path, entry: Option<String>) -> Result<Array> {
    let Header { kind, fortran, shape, size } = Header::read(file)?;
    Array { place, file: path.to_owned(), entry, offset: size, kind, fortran, shape }.checked(length)
}

fn of_safetensors(path: &Path, place: &str) -> Result<Arrays> {
    let mut file = storage::open(path)?;
    let length = file.size()?;
    let mut size = [0; 8];
    file.read_exact(&mut size).context("it is no safetensors file: it is too short")?;
    let size = u64::from_le_bytes(size);
    ensure!(size <= LONGEST_HEADER.min(length), "it is no safetensors file: its header would have {size} bytes");
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).context("it is cut short: its header has no end")?;
    let header: Metadata = serde_json::from_slice(&header).context("its header cannot be used")?;
    let mut found = Arrays { texts: header.metadata().clone().into_iter().flatten().collect(), ..Arrays::default() };
    for (name, info) in header.tensors() {
        let place = format!("{place}:{name}");
        let Some(kind) = kind_of(info.dtype) else {
            found.unusable.push((place, anyhow!("its values are {}", info.dtype)));
            continue;
        };
        let offset = 8 + size + info.data_offsets.0 as u64;
        let shape = info.shape.clone();
        let array = Array { place, file: path.to_owned(), entry: None, offset, kind, fortran: false, shape };
        found.arrays.push(array.checked(length)?);
    }
    found.arrays.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(found)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    let (of, size) = match dtype {
        Dtype::F16 => (Of::Float, 2),
        Dtype::F32 => (Of::Float, 4),
        Dtype::F64 => (Of::Float, 8),
        Dtype::BF16 => (Of::Brain, 2),
        Dtype::I8 => (Of::Signed, 1),
        Dtype::I16 => (Of::Signed, 2),
        Dtype::I32 => (Of::Signed, 4),
        Dtype::I64 => (Of::Signed, 8),
        Dtype::U8 => (Of::Unsigned, 1),
        Dtype::U16 => (Of::Unsigned, 2),
        Dtype::U32 => (Of::Unsigned, 4),
        Dtype::U64 => (Of::Unsigned, 8),
        _ => return None,
    };
    Some(Kind { of, size, big_endian: false })
}
