//! Where a command's time goes: seconds per kind of work, added up over the threads that did it.

use std::{
    cell::Cell,
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A kind of work.
#[derive(Clone, Copy)]
pub enum Phase {
    /// Opening a checkpoint.
    Load,
    /// Reading images or artefacts.
    Read,
    /// Decoding images.
    Decode,
    /// Resizing images.
    Resize,
    /// The image encoder.
    Encode,
    /// Drawing from generators.
    Sample,
    /// Forward passes of training.
    Forward,
    /// Backward passes.
    Backward,
    /// Steps of an optimiser.
    Optimise,
    /// Scoring test images.
    Evaluate,
    /// Writing files.
    Write,
}

const NAMES: [&str; 11] = [
    "load the model",
    "read",
    "decode",
    "resize",
    "encode",
    "sample",
    "forward",
    "backward",
    "optimise",
    "evaluate",
    "write",
];

static NANOSECONDS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

thread_local! {
    /// Nanoseconds of what was timed inside the work in hand.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

/// Does `work`, and adds the time it took to `phase`, less what is timed inside it.
pub fn time<R>(phase: Phase, work: impl FnOnce() -> R) -> R {
    let (start, before) = (Instant::now(), INSIDE.replace(0));
    let done = work();
    let elapsed = start.elapsed().as_nanos() as u64;
    let inside = INSIDE.replace(before + elapsed);
    NANOSECONDS[phase as usize].fetch_add(elapsed.saturating_sub(inside), Ordering::Relaxed);
    done
}

/// A line for each kind of work that was done, and one for the `wall` time.
pub fn report(wall: Duration) -> String {
    let seconds: Vec<f64> = NANOSECONDS.iter().map(|n| n.load(Ordering::Relaxed) as f64 * 1e-9).collect();
    let total: f64 = seconds.iter().sum();
    let mut text = String::from("seconds, added up over threads\n");
    for (name, seconds) in NAMES.iter().zip(seconds).filter(|(_, seconds)| *seconds > 0.0) {
        writeln!(text, "{name:>15} {seconds:>9.2} {:>5.1} %", 100.0 * seconds / total).expect("a string takes text");
    }
    text + &format!("{:>15} {:>9.2}, with {} threads\n", "wall", wall.as_secs_f64(), rayon::current_num_threads())
}
