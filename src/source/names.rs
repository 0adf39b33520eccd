//! How paths and lists are written in tables, notes and messages.

use std::path::Path;

/// The first of many names, and how many more there are.
pub fn some_of(names: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = names.into_iter().collect();
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// A path below a source as text. Different paths have different texts: where one is not UTF-8 its
/// other bytes are written as `\xff`, its backslashes double, and `./`, which no path below a
/// source begins with, stands before it.
pub fn id_of(path: &Path) -> String {
    let Some(text) = path.to_str() else {
        let mut id = "./".to_owned();
        for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
            id += &chunk.valid().replace('\\', "\\\\");
            chunk.invalid().iter().for_each(|byte| id += &format!("\\x{byte:02x}"));
        }
        return id;
    };
    text.to_owned()
}

pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;

    #[test]
    fn paths_that_are_not_utf_8_have_ids_of_their_own() {
        let id = |bytes: &[u8]| id_of(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(id("a/é\\xff.png".as_bytes()), "a/é\\xff.png");
        assert_eq!(id(b"a/\xff.png"), "./a/\\xff.png");
        assert_eq!(id(b"a/\xfe\\xff.png"), "./a/\\xfe\\\\xff.png");
    }
}
