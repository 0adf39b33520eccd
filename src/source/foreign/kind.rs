//! What the values of an array are, and how they lie in bytes.

use std::fmt;

use anyhow::{Result, bail};
use half::{bf16, f16};

/// The kind of an array's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    pub of: Of,
    /// Bytes per value.
    pub size: usize,
    /// Whether the first byte of a number is its highest.
    pub big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Of {
    Float,
    /// A float32 without its lower half.
    Brain,
    Signed,
    Unsigned,
    /// A text of four bytes a letter (UCS-4), filled up with zeros.
    Letters,
    /// A text of UTF-8, filled up with zeros.
    Bytes,
}

impl Kind {
    /// The kind that numpy writes as `descr`, such as `<f4`.
    pub fn of_numpy(descr: &str) -> Result<Self> {
        let plain = descr.trim_start_matches(['<', '>', '|', '=']);
        let (letter, size) = plain.split_at(plain.len().min(1));
        let size: usize = size.parse().unwrap_or(0);
        let (of, size) = match (letter, size) {
            ("f", 2 | 4 | 8) => (Of::Float, size),
            ("i", 1 | 2 | 4 | 8) => (Of::Signed, size),
            ("u", 1 | 2 | 4 | 8) => (Of::Unsigned, size),
            ("U", 1..) => (Of::Letters, 4 * size),
            ("S", 1..) => (Of::Bytes, size),
            ("O", _) => bail!(
                "it holds Python objects, which are pickled: in Python, np.save(FILE, array.astype(str)) writes texts \
                 and array.astype(np.float32) numbers"
            ),
            ("V", 2) => bail!("its values are of 2 raw bytes (bfloat16?): save them with .astype(np.float32)"),
            _ => bail!("its values are {descr:?}, which are neither floats, integers nor texts: convert them"),
        };
        Ok(Kind { of, size, big_endian: descr.starts_with('>') })
    }

    pub fn is_float(self) -> bool {
        matches!(self.of, Of::Float | Of::Brain)
    }

    pub fn is_text(self) -> bool {
        matches!(self.of, Of::Letters | Of::Bytes)
    }

    /// Appends the floats of `bytes`, whole values, as float32.
    pub fn floats(self, bytes: &mut [u8], to: &mut Vec<f32>) {
        self.turn(bytes);
        match self.size {
            2 if self.of == Of::Brain => to.extend(each(bytes).map(|b| bf16::from_le_bytes(b).to_f32())),
            2 => to.extend(each(bytes).map(|b| f16::from_le_bytes(b).to_f32())),
            4 => to.extend(each(bytes).map(f32::from_le_bytes)),
            _ => to.extend(each(bytes).map(|b| f64::from_le_bytes(b) as f32)),
        }
    }

    /// The integers of `bytes`, whole values; none in the place of one that int64 does not hold.
    /// Floats are integers where they are whole.
    pub fn integers(self, bytes: &mut [u8]) -> Vec<Option<i64>> {
        self.turn(bytes);
        let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 2f64.powi(53)).then_some(x as i64);
        let value = |value: &[u8]| {
            if self.is_float() {
                let mut float = Vec::new();
                match self.size {
                    8 => return whole(f64::from_le_bytes(value.try_into().ok()?)),
                    _ => Kind { big_endian: false, ..self }.floats(&mut value.to_owned(), &mut float),
                }
                return whole(f64::from(float[0]));
            }
            let negative = self.of == Of::Signed && value.last().is_some_and(|high| high & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 16];
            wide[..self.size].copy_from_slice(value);
            i64::try_from(i128::from_le_bytes(wide)).ok()
        };
        bytes.chunks_exact(self.size).map(value).collect()
    }

    /// The texts of `bytes`, whole values; none in the place of one that is no text.
    pub fn texts(self, bytes: &mut [u8]) -> Vec<Option<String>> {
        if self.of == Of::Letters {
            Kind { size: 4, ..self }.turn(bytes);
        }
        let text = |value: &[u8]| match self.of {
            Of::Letters => each(value).map(u32::from_le_bytes).map(char::from_u32).collect::<Option<String>>(),
            _ => String::from_utf8(value.to_owned()).ok(),
        };
        let trimmed = |text: String| text.trim_end_matches('\0').to_owned();
        bytes.chunks_exact(self.size).map(|value| text(value).map(trimmed)).collect()
    }

    /// Numbers as little-endian ones.
    fn turn(self, bytes: &mut [u8]) {
        if self.big_endian && self.size > 1 {
            bytes.chunks_exact_mut(self.size).for_each(<[u8]>::reverse);
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let bits = 8 * self.size;
        match self.of {
            Of::Float => write!(f, "float{bits}"),
            Of::Brain => write!(f, "bfloat16"),
            Of::Signed => write!(f, "int{bits}"),
            Of::Unsigned => write!(f, "uint{bits}"),
            Of::Letters | Of::Bytes => write!(f, "text"),
        }
    }
}

fn each<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}
