//! What a person sees: the progress of long work, and what a command answers.

use std::{
    io::{self, Write},
    time::Instant,
};

use anyhow::Result;
use candle_core::Device;
use cgil::device::Choice;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `length` units, called `what`. Draws nothing where standard error is not a terminal.
pub fn bar(what: &'static str, length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
        .expect("the template is part of the program");
    ProgressBar::new(length as u64).with_style(style).with_prefix(what)
}

/// Writes a line to standard error; a closed one is no reason to panic.
pub fn note(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}

/// Says so where a program built for CUDA found none, unless it was told what to compute on.
pub fn note_device(choice: &Choice, device: &Device) {
    if cfg!(feature = "cuda") && *choice == Choice::Auto && device.is_cpu() {
        note("note: no CUDA device, computing on the CPU");
    }
}

/// Prints where the time since `start` went, if that was asked for.
pub fn profile(asked: bool, start: Instant) -> Result<()> {
    if asked { print(cgil::profile::report(start.elapsed())) } else { Ok(()) }
}

/// Prints to standard output; a reader that stops early, such as `head`, is no error.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    match io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
