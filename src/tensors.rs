//! Named tensors of one number type in a safetensors file, with one JSON value beside them.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{atomic::Staged, storage};

/// Key of the JSON value in the file's metadata.
const KEY: &str = "cgil";

/// Shapes and values, row-major, by name.
pub type Named<T> = BTreeMap<String, (Vec<usize>, Vec<T>)>;

/// Those of float32.
pub type Tensors = Named<f32>;

/// Names, shapes and values of tensors that are to be stored.
pub type Fields<'a> = Vec<(String, Vec<usize>, &'a [f32])>;

/// A number type that tensors are stored in.
pub trait Scalar: Copy {
    /// Its name in safetensors.
    const DTYPE: Dtype;

    /// The values, little-endian.
    fn to_bytes(values: &[Self]) -> Vec<u8>;

    /// What [`Scalar::to_bytes`] made; bytes that are no whole value are left out.
    fn from_bytes(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! scalar {
    ($number:ty, $dtype:expr) => {
        impl Scalar for $number {
            const DTYPE: Dtype = $dtype;

            fn to_bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|x| x.to_le_bytes()).collect()
            }

            fn from_bytes(bytes: &[u8]) -> Vec<Self> {
                bytes.as_chunks().0.iter().map(|bytes| Self::from_le_bytes(*bytes)).collect()
            }
        }
    };
}

scalar!(f32, Dtype::F32);
scalar!(f64, Dtype::F64);

/// Values in bytes that are in hand at a time.
const CHUNK: usize = 1 << 16;

/// Writes tensors and `about`, without a copy of them in memory: a state may be as large as what it
/// is the state of.
pub fn write<T: Scalar>(path: &Path, tensors: &Named<T>, about: &impl Serialize) -> Result<()> {
    stage(path, tensors, about)?.put()
}

/// As [`write()`], not yet in its place.
pub(crate) fn stage<T: Scalar>(path: &Path, tensors: &Named<T>, about: &impl Serialize) -> Result<Staged> {
    let mut end = 0;
    let mut infos = Vec::new();
    for (name, (shape, values)) in tensors {
        require_values(name, shape, values.len())?;
        let start = end;
        end += size_of_val(&values[..]);
        infos.push((name.clone(), TensorInfo { dtype: T::DTYPE, shape: shape.clone(), data_offsets: (start, end) }));
    }
    let about = HashMap::from([(KEY.to_owned(), serde_json::to_string(about)?)]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(about), infos)?)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    Staged::write(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for values in tensors.values().flat_map(|(_, values)| values.chunks(CHUNK)) {
            file.write_all(&T::to_bytes(values))?;
        }
        Ok(file.flush()?)
    })
}

/// Reads what [`write()`] wrote.
pub fn read<T: Scalar, A: DeserializeOwned>(path: &Path) -> Result<(Named<T>, A)> {
    let bytes = storage::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes)
        .with_context(|| format!("{} is damaged: remove its directory, and run the stage that made it", path.display()))
}

fn parse<T: Scalar, A: DeserializeOwned>(bytes: &[u8]) -> Result<(Named<T>, A)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let about = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).context("no `cgil` metadata")?;
    let about = serde_json::from_str(about)?;
    let mut tensors = Named::new();
    for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
        ensure!(view.dtype() == T::DTYPE, "tensor {name:?} should be {}, but is {}", T::DTYPE, view.dtype());
        let values = T::from_bytes(view.data());
        require_values(name, view.shape(), values.len())?;
        tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    Ok((tensors, about))
}

/// Takes the tensor `name` out of `tensors`.
pub fn take<T>(tensors: &mut Named<T>, name: &str) -> Result<(Vec<usize>, Vec<T>)> {
    let (shape, values) = tensors.remove(name).with_context(|| format!("tensor {name:?} is missing"))?;
    require_values(name, &shape, values.len())?;
    Ok((shape, values))
}

/// Takes the values of the tensor `name`, which has to have this `shape`, out of `tensors`.
pub(crate) fn take_shaped<T>(tensors: &mut Named<T>, name: &str, shape: &[usize]) -> Result<Vec<T>> {
    let (found, values) = take(tensors, name)?;
    ensure!(found == shape, "tensor {name:?} should have the shape {shape:?}, but has {found:?}");
    Ok(values)
}

/// An error unless a tensor of this shape has as many values.
fn require_values(name: &str, shape: &[usize], values: usize) -> Result<()> {
    let size = shape.iter().try_fold(1, |size: usize, &n| size.checked_mul(n));
    ensure!(size == Some(values), "tensor {name:?} has the shape {shape:?}, but {values} values");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tensors<T: From<f32>>() -> Named<T> {
        let values = |n: usize| (0..n).map(|i| T::from(i as f32 - 1.5)).collect();
        [("a", vec![2, 3]), ("empty", vec![0, 4]), ("one", vec![])]
            .map(|(name, shape)| (name.to_owned(), (shape.clone(), values(shape.iter().product()))))
            .into()
    }

    #[test]
    fn tensors_of_either_type_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        write(&path, &tensors::<f32>(), &7).unwrap();
        assert_eq!(read::<f32, i32>(&path).unwrap(), (tensors(), 7));
        let mut doubles = tensors::<f64>();
        doubles.get_mut("a").unwrap().1[0] = 1.0 + f64::EPSILON;
        write(&path, &doubles, &"about").unwrap();
        assert_eq!(read::<f64, String>(&path).unwrap(), (doubles.clone(), "about".to_owned()));
        // byte for byte what the library writes, which holds it in memory
        let bytes: Vec<Vec<u8>> = doubles.values().map(|(_, values)| f64::to_bytes(values)).collect();
        let views = doubles.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
            (name, safetensors::tensor::TensorView::new(Dtype::F64, shape.clone(), bytes).unwrap())
        });
        let about = HashMap::from([(KEY.to_owned(), "\"about\"".to_owned())]);
        assert_eq!(fs::read(&path).unwrap(), safetensors::serialize(views, Some(about)).unwrap());
    }

    #[test]
    fn another_type_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        write(&path, &tensors::<f64>(), &()).unwrap();
        let error = format!("{:#}", read::<f32, ()>(&path).unwrap_err());
        assert!(error.contains("should be F32, but is F64") && error.contains("tensor \""), "{error}");
        assert!(error.contains("t.safetensors is damaged"), "{error}");
    }

    #[test]
    fn a_shape_without_its_values_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for shape in [vec![2, 2], vec![usize::MAX, 2]] {
            let mut tensors = Named::from([("a".to_owned(), (shape, vec![1.0, 2.0, 3.0]))]);
            let error = write(&dir.path().join("t"), &tensors, &()).unwrap_err().to_string();
            assert!(error.contains("tensor \"a\"") && error.contains("3 values"), "{error}");
            assert!(take(&mut tensors, "a").is_err());
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        write(&path, &tensors::<f64>(), &7).unwrap();
        let bytes = fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            assert!(parse::<f64, i32>(&bytes[..end]).is_err(), "cut at {end}");
        }
        let header = bytes.len() - 7 * 8;
        for place in 0..header {
            for flip in [1, 2, 4, 16, 128] {
                let mut damaged = bytes.clone();
                damaged[place] ^= flip;
                // a name or the metadata may read as another one; what is read fits its shape
                if let Ok((tensors, _)) = parse::<f64, i32>(&damaged) {
                    assert_eq!(tensors.values().map(|(_, values)| values.len()).sum::<usize>(), 7, "{place}");
                }
            }
        }
    }
}
