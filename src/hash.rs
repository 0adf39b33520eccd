//! What identities are made of: SHA-256 as lower-case hexadecimal, and JSON that depends on nothing
//! but its value.

use std::{
    fmt::Write,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::storage;

/// Of the bytes of a file.
pub fn hash_file(path: &Path) -> Result<String> {
    hash_files(std::slice::from_ref(&path.to_owned()))
}

/// Of the bytes of all `files`, one after another.
pub(crate) fn hash_files(files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = storage::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        loop {
            match file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Of bytes.
pub fn hash_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Of lines, each with its end.
pub(crate) fn hash_lines(lines: impl IntoIterator<Item = String>) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    hex(&hash.finalize())
}

/// The first 64 bits of the hash of a text: what draws for something with a name are keyed by.
pub fn key(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
}

/// A JSON value as text that depends on nothing but the value: keys sorted by their bytes, no
/// blanks.
///
/// ```
/// let value = serde_json::json!({"b": [1, 0.5, null], "a": {"y": "é", "x": true}});
/// assert_eq!(cgil::hash::canonical(&value), r#"{"a":{"x":true,"y":"é"},"b":[1,0.5,null]}"#);
/// ```
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            text.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                let comma = if i > 0 { "," } else { "" };
                write!(text, "{comma}{}:", Value::String(key.clone())).expect("a string takes text");
                write_canonical(&map[key], text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                write_canonical(value, text);
            }
            text.push(']');
        }
        plain => write!(text, "{plain}").expect("a string takes text"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
