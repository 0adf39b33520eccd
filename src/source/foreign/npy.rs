//! The header of numpy's .npy files, as its `numpy.lib.format` describes it.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::kind::Kind;

/// Longest header that is read, in bytes; an array that has no fields needs a hundred.
const LONGEST: usize = 1 << 20;

/// What an array is.
#[derive(Debug)]
pub struct Header {
    pub kind: Kind,
    /// Whether the first index is the one that changes fastest.
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Bytes before the first value.
    pub size: u64,
}

impl Header {
    /// Reads the header that a file begins with.
    pub fn read(file: &mut impl Read) -> Result<Self> {
        let mut start = [0; 8];
        file.read_exact(&mut start).context("it is no .npy file: it is too short")?;
        ensure!(start.starts_with(b"\x93NUMPY"), "it is no .npy file: it does not begin as one");
        let mut length = vec![0; if start[6] == 1 { 2 } else { 4 }];
        file.read_exact(&mut length).context("it is cut short: its header has no end")?;
        let size = length.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        ensure!(size <= LONGEST, "its header would have {size} bytes");
        let mut text = vec![0; size];
        file.read_exact(&mut text).context("it is cut short: its header has no end")?;
        let size = (start.len() + length.len() + size) as u64;
        let text = String::from_utf8_lossy(&text);
        Self::parse(&text, size).with_context(|| format!("its header cannot be used: {}", text.trim()))
    }

    /// Reads a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str, size: u64) -> Result<Self> {
        let after = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}':")).with_context(|| format!("it has no {key}"))?;
            Ok::<_, anyhow::Error>(rest.trim_start())
        };
        let descr = after("descr")?;
        let Some((descr, _)) = descr.strip_prefix('\'').and_then(|descr| descr.split_once('\'')) else {
            bail!("its rows have fields: save each as an array of its own");
        };
        let order = after("fortran_order")?;
        let fortran = order.starts_with("True");
        ensure!(fortran || order.starts_with("False"), "fortran_order is neither True nor False");
        let shape = after("shape")?.strip_prefix('(').and_then(|shape| shape.split_once(')'));
        let (shape, _) = shape.context("its shape is none")?;
        let sides = shape.split(',').map(|side| side.trim().trim_end_matches('L')).filter(|side| !side.is_empty());
        let shape = sides.map(str::parse).collect::<Result<_, _>>().context("its shape is none")?;
        Ok(Header { kind: Kind::of_numpy(descr)?, fortran, shape, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(version: u8, dict: &str) -> Result<Header> {
        let length = (dict.len() as u32).to_le_bytes();
        let length = if version == 1 { &length[..2] } else { &length[..] };
        Header::read(&mut [b"\x93NUMPY", &[version, 0][..], length, dict.as_bytes()].concat().as_slice())
    }

    #[test]
    fn every_version_says_what_the_array_is() {
        for (version, size) in [(1, 70), (2, 72), (3, 72)] {
            let header = read(version, "{'descr': '>f8', 'fortran_order': True, 'shape': (3, 4), } \n").unwrap();
            assert_eq!((header.kind.to_string(), header.kind.big_endian), ("float64".into(), true));
            assert_eq!((header.fortran, header.shape, header.size), (true, vec![3, 4], size));
        }
        assert_eq!(read(1, "{'descr': '|S3', 'fortran_order': False, 'shape': (7,), }").unwrap().shape, [7]);
    }

    #[test]
    fn what_is_no_array_of_numbers_or_texts_is_named() {
        let with = |descr: &str| read(1, &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}"));
        for (descr, expected) in [
            ("'|O'", "Python objects"),
            ("'<c8'", "\"<c8\""),
            ("'<M8[ns]'", "\"<M8[ns]\""),
            ("'|b1'", "\"|b1\""),
            ("'|V2'", "bfloat16"),
            ("[('shape', '<f4'), ('y', '<i8')]", "fields"),
        ] {
            let error = format!("{:#}", with(descr).unwrap_err());
            assert!(error.contains(expected), "{descr}: {error}");
        }
        let whole = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        for end in 0..whole.len() - 8 {
            assert!(read(1, &whole[..end]).is_err(), "{}", &whole[..end]);
        }
    }
}
