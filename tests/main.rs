//! All tests of the program, in one binary: linking is what takes time.

mod bad_input;
mod baselines;
mod contract;
mod generators;
mod methods;
mod parity;
mod pipeline;
mod quality;
mod report;
mod support;
mod variants;
