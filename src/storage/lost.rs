//! Whether a store answers. One that does not, however often it is asked, is lost to the process.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

/// Why a store is lost to this process; none while it answers.
static LOST: Mutex<Option<(io::ErrorKind, String)>> = Mutex::new(None);

/// Asks a store nothing more that did not answer a question: that there is nothing is an answer.
pub fn lose(error: &io::Error) {
    if error.kind() != io::ErrorKind::NotFound {
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert_with(|| (error.kind(), error.to_string()));
    }
}

/// An error where a store did not answer, so that something may have been taken for missing.
pub fn reached() -> io::Result<()> {
    match &*LOST.lock().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
    }
}
