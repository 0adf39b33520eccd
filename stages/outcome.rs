//! How a command ends: what its exit code says to a scheduler, and what signals do.

use std::{
    io,
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Error, Result};
use cgil::{
    device::is_out_of_memory,
    stop::{self, Stopped},
    storage,
};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGTERM, SIGUSR1},
    iterator::Signals,
    low_level,
};

use crate::terminal;

/// The exit code of what may go well when it is tried again; sysexits' EX_TEMPFAIL.
pub const TRANSIENT: u8 = 75;

/// The exit code of what fails again: options, or data.
const PERMANENT: u8 = 1;

/// What to do where a CUDA device has no room.
const MEMORY_IS_FULL: &str = "the CUDA device's memory is full: end what else takes it, let prompt-tune take less by \
                              --classes-per-step, or use --device cpu";

/// A failure that may go well when it is tried again, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Transient(pub String);

/// The process that this one waits for.
static CHILD: Mutex<Option<Pid>> = Mutex::new(None);

/// Heeds signals: SIGTERM ends the process at once, and leaves nothing half made; SIGUSR1 does so
/// when what it has in hand is done, if it says by [`stop::watch`] that it looks. `ending` is called
/// with the reason before it ends. A process that this one waits for is sent the same.
pub fn heed_signals(ending: fn(&str)) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGUSR1])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGTERM {
                stop::ask(); // so that what waits for a process takes its end for no failure
            }
            if let Some(child) = *child() {
                let _ = kill_process(child, if signal == SIGTERM { Signal::TERM } else { Signal::USR1 });
            }
            if signal == SIGUSR1 && stop::is_watched() {
                terminal::note("note: stopping when what is in hand is done");
                stop::ask();
            } else {
                let name = if signal == SIGTERM { "SIGTERM" } else { "SIGUSR1" };
                let reason = format!("stopped by {name}: the same command goes on from here");
                ending(&reason);
                terminal::error(&reason);
                low_level::exit(TRANSIENT.into());
            }
        }
    });
    Ok(())
}

/// What a command ends with; where a store did not answer, that it did not, since what seemed to be
/// missing may be there, and where a device's memory ran out, what to do.
pub fn or_lost(done: Result<()>) -> Result<()> {
    storage::reached()?;
    done.map_err(|error| match is_out_of_memory(&error) && error.to_string() != MEMORY_IS_FULL {
        true => error.context(MEMORY_IS_FULL),
        false => error,
    })
}

fn child() -> MutexGuard<'static, Option<Pid>> {
    CHILD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a program answers; signals to this process go to it, too.
pub fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = {
        let mut child = child(); // so that no signal comes between
        let started = command.spawn()?;
        *child = Some(Pid::from_child(&started));
        started
    };
    let output = started.wait_with_output();
    *child() = None;
    output
}

/// The exit code of a failure.
pub fn code(error: &Error) -> u8 {
    if error.is::<Stopped>() || error.is::<Transient>() || error.chain().any(may_pass) { TRANSIENT } else { PERMANENT }
}

/// Whether a cause is of the network or the file system behind it, and not of what was asked.
fn may_pass(cause: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::*;
    cause.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(
            error.kind(),
            StaleNetworkFileHandle
                | TimedOut
                | ConnectionReset
                | ConnectionAborted
                | HostUnreachable
                | NetworkUnreachable
                | NetworkDown
        )
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_fails_again() {
        let io = |kind: io::ErrorKind| Err::<(), _>(io::Error::from(kind)).context("cannot read x").unwrap_err();
        assert_eq!(code(&io(io::ErrorKind::StaleNetworkFileHandle)), TRANSIENT);
        assert_eq!(code(&Stopped.into()), TRANSIENT);
        assert_eq!(code(&Error::from(Transient("x".into())).context("y")), TRANSIENT);
        for error in [io(io::ErrorKind::NotFound), io(io::ErrorKind::PermissionDenied), anyhow!("bad")] {
            assert_eq!(code(&error), PERMANENT, "{error:#}");
        }
    }
}
