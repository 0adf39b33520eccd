//! What of an error is of a file itself, so that it comes again wherever the file is read.

use std::{error::Error, io, path::Path};

use crate::storage;

/// Whether an error that data was refused by is of what lies at `path`, and comes again: what is there
/// is not as it should be, or may not be opened. Else a disk or a store failed.
pub fn is_of_data(path: &Path, error: &(dyn Error + 'static)) -> bool {
    may_not_be_opened(path, error) || is_damage(error)
}

/// Whether an error that was met in a file that is open says that what it holds is damaged, and not
/// that a disk or a store failed, which may do better another time.
pub fn is_damage(error: &(dyn Error + 'static)) -> bool {
    // text alone is left of some errors of a store, which is lost then
    storage::failure(error).is_none() && storage::reached().is_ok()
}

/// Whether an error that a file was opened with says that it is not there, or may not be read; of files
/// of the file system alone.
pub fn may_not_be_opened(path: &Path, error: &(dyn Error + 'static)) -> bool {
    let kind = storage::failure(error);
    !storage::is_remote(path) && matches!(kind, Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_file_holds_is_told_from_what_a_disk_does() {
        let path = Path::new("a.tar");
        let wrapped = |error: io::Error| io::Error::new(error.kind(), anyhow::Error::from(error).context("header"));
        for error in [io::ErrorKind::UnexpectedEof.into(), io::Error::other("checksum")] {
            assert!(is_damage(&wrapped(error)));
        }
        for number in [5, 116] {
            let error = wrapped(io::Error::from_raw_os_error(number)); // EIO, ESTALE
            assert!(!is_damage(&error) && !is_of_data(path, &error));
        }
        let missing = fs::File::open("/nowhere").unwrap_err();
        assert!(may_not_be_opened(path, &missing) && is_of_data(path, &missing) && !is_damage(&missing));
        assert!(!may_not_be_opened(path, &io::Error::other("checksum")));
        assert!(!is_of_data(Path::new("s3://lab/a.tar"), &missing));
    }
}
