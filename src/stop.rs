//! Whether this process has been asked to stop when what it has in hand is done.

use std::sync::atomic::{AtomicBool, Ordering};

static WATCHED: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// Says that this process looks, from now on, whether it is asked to stop.
pub fn watch() {
    WATCHED.store(true, Ordering::Relaxed);
}

/// Whether it looks.
pub fn is_watched() -> bool {
    WATCHED.load(Ordering::Relaxed)
}

/// Asks for it.
pub fn ask() {
    ASKED.store(true, Ordering::Relaxed);
}

/// Whether it was asked for: nothing more is to be begun.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Work that stopped because it was asked to, and can go on.
#[derive(Debug, thiserror::Error)]
#[error("stopped before all was done, as asked: the same command goes on from here")]
pub struct Stopped;
