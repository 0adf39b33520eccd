#![doc = include_str!("../README.md")]

pub mod artefact;
pub mod atomic;
pub mod baseline;
pub mod clip;
pub mod dense;
pub mod device;
pub mod embed;
pub mod evaluate;
pub mod generator;
pub mod manifest;
pub mod metrics;
pub mod picture;
pub mod profile;
pub mod prompt;
pub mod quality;
pub mod query;
pub mod report;
pub mod results;
pub mod rng;
pub mod sheet;
pub mod source;
pub mod summary;
pub mod table;
pub mod task;
pub mod tensors;

use std::{fs::File, io::Read, path::PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Sets up candle and the products for this machine.
///
/// Writes the number of threads down where candle looks for it, `RAYON_NUM_THREADS`, unless it stands there: candle
/// would read /proc/cpuinfo for every product, which took two fifths of the time of `prompt-tune` on small models. And
/// has products that are shared among threads pack their left side however few rows the right one has: with 65 rows they are a
/// third faster for it.
///
/// # Safety
///
/// Changes the environment, so no other thread may run yet: the first thing that a program does.
pub unsafe fn prepare() {
    const THREADS: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        unsafe { std::env::set_var(THREADS, threads.to_string()) };
    }
    gemm::set_lhs_packing_threshold_multi_thread(0);
}

/// SHA-256 of the bytes of all `files`, one after another, as lower-case hexadecimal.
pub(crate) fn hash_files(files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        loop {
            match file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of lines, as lower-case hexadecimal.
pub(crate) fn hash_lines(lines: impl IntoIterator<Item = String>) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    hex(&hash.finalize())
}

/// Bytes as lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Parses a whole number from `MIN` to a million, for command lines.
pub fn at_least<const MIN: usize>(text: &str) -> std::result::Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (MIN..=1_000_000).contains(n))
        .ok_or(format!("expected a whole number from {MIN} to 1000000"))
}

/// Parses a number from 0 to 1, for command lines.
pub fn share(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or("expected a number from 0 to 1".into())
}

/// Parses a number above 0, for command lines.
pub fn positive(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x > 0.0 && x.is_finite()).ok_or("expected a number above 0".into())
}

/// Parses a number that is not below 0, for command lines.
pub fn not_negative(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x >= 0.0 && x.is_finite()).ok_or("expected 0 or a number above it".into())
}
