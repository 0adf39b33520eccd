//! Names of directories.

use crate::hash::hash_lines;

/// A name that a directory may have: `name` as far as it is readable, of small letters, digits,
/// dots and dashes, and where that loses something, a short hash of it. Never longer than 60 bytes,
/// and without `=`, which readers of tables would take for a column.
///
/// ```
/// use cgil::artefact::slug;
/// assert_eq!(slug("cgil"), "cgil");
/// assert_eq!(slug("cgil,lr=0.01"), "cgil-lr-0.01-d6b02183");
/// assert!(slug(&"x".repeat(300)).len() <= 60);
/// ```
pub fn slug(name: &str) -> String {
    const READABLE: usize = 48;
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let mut readable = String::new();
    for c in name.chars().map(plain).take(READABLE) {
        if c != '-' || !(readable.is_empty() || readable.ends_with('-')) {
            readable.push(c);
        }
    }
    let readable = readable.trim_matches(['-', '.']);
    let hash = hash_lines([name.to_owned()]);
    match readable {
        "" => format!("{hash:.8}"),
        readable if readable == name => name.to_owned(),
        readable => format!("{readable}-{hash:.8}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_are_readable_short_and_their_own() {
        for name in ["cgil,template=一张关于{}的照片", "a=b", "..", "x/../y", "A", "a ", "a", "", "a,b", "a;b"] {
            let slug = slug(name);
            assert!(slug.len() <= 60 && !slug.is_empty() && !slug.starts_with('.'), "{slug:?}");
            assert!(slug.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'), "{slug:?}");
        }
        assert_ne!(slug("a,b"), slug("a;b"));
        assert!(slug(",a, =b").starts_with("a-b-"), "{}", slug(",a, =b"));
        assert_ne!(slug("A"), slug("a"));
    }
}
