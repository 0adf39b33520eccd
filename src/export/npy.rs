//! Arrays of numpy's: the tensors of a classifier, each a file, and labels.json.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};

use super::head::Head;
use crate::atomic;

/// What a header's end is a multiple of, in bytes, as `numpy.lib.format` asks for.
const ALIGNED: usize = 64;

pub(super) fn write(head: &Head, path: &Path) -> Result<()> {
    atomic::write_dir(path, |dir| {
        for (name, (shape, values)) in &head.tensors {
            write_array(&dir.join(format!("{name}.npy")), shape[shape.len() - 1], values)?;
        }
        atomic::write_json(&dir.join("labels.json"), &head.about)
    })
}

/// Writes rows of `dim` values.
pub(super) fn write_array(path: &Path, dim: usize, values: &[f32]) -> Result<()> {
    let shape = format!("({}, {dim})", values.len() / dim);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    const START: usize = 10; // of the magic string, the version and the header's length
    let end = (START + header.len() + 1).next_multiple_of(ALIGNED);
    header += &" ".repeat(end - START - header.len() - 1);
    header.push('\n');
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))?;
        file.into_inner()?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
