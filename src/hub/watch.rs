//! Who is told what happens.

use super::files::File;

/// Who is told what happens.
pub trait Watch {
    /// Something that a person should know.
    fn note(&self, line: &str);

    /// `there` bytes of a file of those that are fetched are there.
    fn fetched(&self, file: &File, there: u64);
}
