//! All tests of the program, in one binary: linking is what takes time.

mod bad_input;
mod baselines;
mod checkpoints;
mod contract;
mod generators;
mod methods;
mod parity;
mod pipeline;
mod quality;
mod report;
mod sources;
mod support;
mod variants;
