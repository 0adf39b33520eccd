//! Tables: the only place that knows Arrow and Parquet.
//!
//! [`contract`] holds what each table promises, [`file`] writes and reads one Parquet file under its
//! contract, [`embeddings`] is stage 1's table as a whole.

pub mod contract;
pub mod embeddings;
pub mod file;
pub mod views;

pub use contract::Contract;
