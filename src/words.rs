//! Counts in sentences.

/// A number of things that a noun with a regular plural names: `1 class`, `2 classes`.
pub fn counted(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n if noun.ends_with('s') => format!("{n} {noun}es"),
        n => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let of = |n| [counted(n, "class"), counted(n, "file")];
        assert_eq!(of(1), ["1 class", "1 file"]);
        assert_eq!(of(0), ["0 classes", "0 files"]);
    }
}
