//! Tables: [`contract`] holds what each promises, [`mod@file`] writes and reads one Parquet file under
//! its contract.

pub mod contract;
pub mod file;
pub mod views;

pub use contract::Contract;
