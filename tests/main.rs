//! All tests of the program, in one binary: linking is what takes time.

mod bad_input;
mod contract;
mod parity;
mod pipeline;
mod support;
