//! All tests of the program, in one binary: linking is what takes time.

mod answers;
mod bad_input;
mod baselines;
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
