//! What the machine has that the program can use.

use std::{env, fmt, path::Path};

use anyhow::{Context, Result, bail};
#[cfg(target_arch = "x86_64")]
use cgil::dense::bfloat16::Unit;
use cgil::{device::DeviceChoice, hub::Hub, storage, words::counted};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::VERSION;

/// CUDA devices that are looked for.
const MOST_DEVICES: usize = 16;

/// Memory in bytes, within the limits of a container.
pub struct Memory {
    pub available: u64,
    total: u64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} available of {}", size(self.available), size(self.total))
    }
}

pub fn memory() -> Memory {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let (mut available, mut total) = (system.available_memory(), system.total_memory());
    if let Some(limits) = system.cgroup_limits() {
        (available, total) = (available.min(limits.free_memory), total.min(limits.total_memory));
    }
    Memory { available, total }
}

/// Bytes in words: `1.5 GB`.
pub fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        1_000_000_000.. => (1e9, "GB"),
        1_000_000.. => (1e6, "MB"),
        _ => (1e3, "kB"),
    };
    format!("{:.1} {name}", bytes as f64 / unit)
}

pub fn program() -> String {
    let place = env::current_exe().map_or("somewhere".into(), |path| path.display().to_string());
    format!("cgil {}, {place}", *VERSION)
}

pub fn threads() -> String {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    format!("{} on {}; RAYON_NUM_THREADS sets another number", rayon::current_num_threads(), counted(cores, "core"))
}

/// The vector instructions that products and elementwise passes choose from, and those that they use
/// in bfloat16.
#[cfg(target_arch = "x86_64")]
pub fn instructions() -> String {
    use std::arch::is_x86_feature_detected as has;

    let found = [("avx2", has!("avx2")), ("fma", has!("fma")), ("avx512f", has!("avx512f"))];
    let found: Vec<&str> = found.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect();
    let or_none = |names: &[&str]| if names.is_empty() { "none".into() } else { names.join(", ") };
    let rounded = Unit::all().first().map(|unit| unit.name());
    format!("{}; for --dtype bfloat16: {}", or_none(&found), or_none(rounded.as_slice()))
}

#[cfg(not(target_arch = "x86_64"))]
pub fn instructions() -> String {
    format!("those of {}", env::consts::ARCH)
}

pub fn devices() -> String {
    if !cfg!(feature = "cuda") {
        let unused = if Path::new("/dev/nvidia0").exists() { "; there is an NVIDIA GPU here" } else { "" };
        return format!(
            "the CPU; built without CUDA{unused}: `cargo build --release --features cuda`, with the CUDA toolkit, \
             builds a program with it"
        );
    }
    let mut found = Vec::new();
    let mut why = String::new();
    for number in 0..MOST_DEVICES {
        match DeviceChoice::Cuda(vec![number]).open_one() {
            Ok(_) => found.push(format!("cuda:{number}")),
            Err(error) => {
                why = format!("{error:#}");
                break;
            }
        }
    }
    match found.is_empty() {
        true => format!("the CPU; no CUDA device: {why}"),
        false => format!("{}, the CPU", found.join(", ")),
    }
}

/// How much fits where a run is to lie, or whether its object store answers.
pub fn disk(run: &Path) -> Result<String> {
    if storage::is_remote(run) {
        let found = storage::read_dir(run).with_context(|| format!("cannot list {}", run.display()))?;
        let is_there = if found.is_empty() { ", where nothing is yet" } else { "" };
        return Ok(format!("{} can be listed{is_there}", run.display()));
    }
    let run = std::path::absolute(run).with_context(|| format!("cannot resolve {}", run.display()))?;
    let there = run.ancestors().find(|dir| dir.exists()).context("there is no file system")?;
    if !there.is_dir() {
        bail!("{} is not a directory: give --run another", there.display());
    }
    let is_there = if there == run { "" } else { ", which is not there yet" };
    Ok(format!("{} in {}{is_there}", free(there)?, run.display()))
}

#[cfg(unix)]
fn free(dir: &Path) -> Result<String> {
    let found = rustix::fs::statvfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    Ok(format!("{} free", size(found.f_bavail * found.f_frsize)))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Result<String> {
    Ok("an unknown size".into())
}

/// Where what was fetched from the Hugging Face hub lies, as `huggingface_hub` has it.
pub fn hub_cache() -> String {
    let hub = match Hub::from_env() {
        Ok(hub) => hub,
        Err(error) => return error.to_string(),
    };
    let is_there = if hub.cache_dir().is_dir() { "" } else { ", which is not there yet" };
    format!("{}{is_there}; HF_HOME or HF_HUB_CACHE set another", hub.cache_dir().display())
}
