//! How far long work is: a bar on a terminal, a line now and then elsewhere.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Log, options, say};

/// Where a log grows: at most a line in so much time,
const BETWEEN: Duration = Duration::from_secs(10);
/// and one where this share of the work was done since the last,
const SHARE: f64 = 0.1;
/// or where none was written for so long.
const AT_LAST: Duration = Duration::from_secs(60);
/// Programs that read JSON are told as often as they care to look.
const BETWEEN_OBJECTS: Duration = Duration::from_secs(1);

/// Long work of so many units.
pub struct Progress {
    what: &'static str,
    bar: ProgressBar,
    told: Mutex<Told>,
}

/// When progress was told last, and how much was done then.
struct Told {
    at: Instant,
    done: u64,
    ever: bool,
}

impl Progress {
    /// Work of `length` units, called `what`.
    pub fn new(what: &'static str, length: usize) -> Self {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
            .expect("the template is part of the program");
        // where standard error is no terminal, it draws nothing
        let target = match options().log {
            Log::Text if !options().quiet => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(length as u64), target).with_style(style).with_prefix(what);
        let progress = Progress { what, bar, told: Mutex::new(Told { at: Instant::now(), done: 0, ever: false }) };
        if options().log == Log::Json && length > 0 {
            progress.tell();
        }
        progress
    }

    /// So many units more are done.
    pub fn inc(&self, units: u64) {
        self.bar.inc(units);
        self.tell_if_due();
    }

    /// What is being done.
    pub fn set_message(&self, message: String) {
        self.bar.set_message(message);
    }

    /// An epoch of a task (from 0) of `epochs` is done. Tasks before it that were there already
    /// count as done.
    pub fn tick(&self, task: usize, tasks: usize, epochs: usize, loss: f64) {
        self.set_message(format!("task {} of {tasks}, loss {loss:.3}", task + 1));
        let start = (task * epochs) as u64;
        if self.bar.position() < start {
            self.bar.set_position(start);
        }
        self.inc(1);
    }

    /// The work is done.
    pub fn finish(&self) {
        let Told { done, ever, .. } = *self.told.lock().expect("no holder of the lock panics");
        if ever && self.bar.position() > done {
            self.tell();
        }
        self.bar.finish_and_clear();
    }

    fn tell_if_due(&self) {
        // whoever holds the lock tells it
        let Ok(told) = self.told.try_lock() else { return };
        let gained = (self.bar.position() - told.done) as f64 / self.bar.length().unwrap_or(0) as f64;
        let is_due = match options().log {
            Log::Text => self.bar.is_hidden() && is_due(told.at.elapsed(), gained),
            Log::Json => told.at.elapsed() >= BETWEEN_OBJECTS,
        };
        drop(told);
        if is_due {
            self.tell();
        }
    }

    fn tell(&self) {
        if options().quiet {
            return;
        }
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let message = self.bar.message();
        let percent = 100 * done / total.max(1);
        let elapsed = self.bar.elapsed().as_secs();
        let mut line = format!("{}: {done} of {total} ({percent} %), {elapsed} s", self.what);
        if done < total {
            line += &format!(", {} s left", self.bar.eta().as_secs());
        }
        if !message.is_empty() {
            line += &format!(", {message}");
        }
        let fields = json!({"stage": self.what, "done": done, "total": total, "message": message});
        say("progress", &line, fields);
        *self.told.lock().expect("no holder of the lock panics") = Told { at: Instant::now(), done, ever: true };
    }
}

/// Whether a log gets a line, `since` the last, with this share of the work done since.
fn is_due(since: Duration, gained: f64) -> bool {
    since >= AT_LAST || (since >= BETWEEN && gained >= SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_grows_slowly() {
        let due = |seconds, gained| is_due(Duration::from_secs(seconds), gained);
        assert!(!due(9, 0.9) && due(10, 0.1) && !due(10, 0.09));
        assert!(!due(59, 0.0) && due(60, 0.0));
    }
}
