//! All tests of the program, in one binary: linking is what takes time.

mod answers;
mod bad_checkpoints;
mod bad_images;
mod bad_options;
mod bad_runs;
mod bad_tables;
mod baselines;
mod baselines_learning;
mod baselines_states;
mod checkpoints;
mod contract;
mod example;
mod generators;
mod methods;
mod middle;
mod middle_belonging;
mod middle_growth;
mod parity;
mod pipeline;
mod quality;
mod queries;
mod report;
mod sources;
mod support;
mod sweep;
mod variants;
