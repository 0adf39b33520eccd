#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod artefact;
pub mod atomic;
pub mod ausuc;
pub mod baseline;
#[cfg(feature = "program")]
pub mod benchmark;
pub mod calibration;
pub mod choice;
pub mod clip;
#[cfg(feature = "cuda")]
mod cuda;
pub mod dense;
pub mod device;
pub mod embed;
pub mod embeddings;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod generator;
pub mod hash;
#[cfg(feature = "hub")]
pub mod hub;
pub mod method;
pub mod metrics;
pub mod partition;
pub mod picture;
pub mod profile;
pub mod prompt;
pub mod quality;
#[cfg(feature = "query")]
pub mod query;
#[cfg(feature = "report")]
pub mod report;
pub mod results;
pub mod rng;
pub mod rows;
pub mod run;
#[cfg(feature = "report")]
pub mod sheet;
pub mod source;
pub mod states;
pub mod stop;
pub mod storage;
pub mod stream;
#[cfg(feature = "report")]
pub mod summary;
pub mod sums;
pub mod table;
pub mod task;
pub mod tensors;
pub mod texts;
pub mod words;

pub use error::Error;

/// Sets up candle and the products for this machine.
///
/// Writes the number of threads down where candle looks for it, `RAYON_NUM_THREADS`, unless it
/// stands there: candle would read /proc/cpuinfo for every product, which took two fifths of the
/// time of `prompt-tune` on small models. And has products that are shared among threads pack their
/// left side however few rows the right one has: with 65 rows they are a third faster for it.
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
