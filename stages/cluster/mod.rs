//! A run's stages on a cluster: a plan, and jobs that do what is missing of it.

mod estimate;
pub mod plan;
mod script;
pub mod slurm;
