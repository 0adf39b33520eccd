//! Whether a store answers. One that does not, however often it is asked, is lost to the process.

use std::{
    error::Error,
    fmt, io, iter,
    sync::{Mutex, PoisonError},
};

/// What a store said, or the library, as what an error of files holds.
#[derive(Debug)]
pub struct Answer(pub String);

impl Error for Answer {}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of an error, or of the one that caused it, where it is the file system's or a store's own;
/// none where it is of what a file holds.
pub fn failure(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let is_own = |error: &&io::Error| {
        let is_answer = || error.get_ref().is_some_and(|own| own.is::<Answer>());
        error.raw_os_error().is_some() || error.kind() == io::ErrorKind::NotFound || is_answer()
    };
    let mut causes = iter::successors(Some(error), |&error| error.source());
    causes.find_map(|error| error.downcast_ref::<io::Error>().filter(is_own)).map(io::Error::kind)
}

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
        Some((kind, why)) => Err(io::Error::new(*kind, Answer(why.clone()))),
    }
}
