//! What of an error is of a file itself, so that it comes again wherever the file is read.

use std::{error::Error, io, path::Path};

use crate::storage;

/// Whether an error that was met at `path` says that what the file holds is damaged, and not that a disk
/// or a store failed, which may do better another time.
pub fn is_damage(path: &Path, error: &(dyn Error + 'static)) -> bool {
    // text alone is left of some errors of a store, which is lost then
    may_not_be_opened(path, error) || (storage::failure(error).is_none() && storage::reached().is_ok())
}

/// Whether an error says that a file of the file system is not there, or may not be read.
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
            assert!(is_damage(path, &wrapped(error)));
        }
        for number in [5, 116] {
            assert!(!is_damage(path, &wrapped(io::Error::from_raw_os_error(number)))); // EIO, ESTALE
        }
        let missing = fs::File::open("/nowhere").unwrap_err();
        assert!(may_not_be_opened(path, &missing) && is_damage(path, &missing));
        assert!(!may_not_be_opened(path, &io::Error::other("checksum")));
        assert!(!is_damage(Path::new("s3://lab/a.tar"), &missing));
    }
}
