//! The progress bar of long work: what is done, what is left, how long it will take.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `length` units, called `what`. Draws nothing where standard error is not a terminal.
pub fn bar(what: &'static str, length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
        .expect("the template is part of the program");
    ProgressBar::new(length as u64).with_style(style).with_prefix(what)
}
