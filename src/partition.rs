//! A part of work whose items are numbered, that can be done anywhere, beside the others.

use std::{fmt, str::FromStr};

/// The items k of a list with k mod N = I.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    index: usize,
    of: usize,
}

impl Partition {
    /// All items.
    pub const WHOLE: Partition = Partition { index: 0, of: 1 };

    /// Whether an item, from 0, is one of these.
    pub fn has(self, item: usize) -> bool {
        item % self.of == self.index
    }

    /// Its own number, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many partitions there are.
    pub fn of(self) -> usize {
        self.of
    }
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((index, of)) if index < of => Ok(Partition { index, of }),
            Some((_, 0)) => Err(format!("{text:?} is of no partitions")),
            Some((_, of)) => Err(format!("partitions count from 0: of {of} the last is {}/{of}", of - 1)),
            None => Err(format!("expected I/N, partition I of N from 0 to N - 1, such as 0/8, not {text:?}")),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_belongs_to_one_partition() {
        for of in [1, 2, 7] {
            for item in 0..20 {
                let all = (0..of).map(|index| Partition { index, of });
                let having: Vec<usize> = all.filter(|p| p.has(item)).map(Partition::index).collect();
                assert_eq!(having, [item % of]);
            }
        }
        let parse = |text: &str| text.parse::<Partition>();
        assert_eq!(parse("2/3").unwrap().to_string(), "2/3");
        assert_eq!(parse("0/1").unwrap(), Partition::WHOLE);
        for (text, part) in
            [("3/3", "the last is 2/3"), ("0/0", "of no"), ("1", "I/N"), ("-1/2", "I/N"), ("a/b", "I/N")]
        {
            assert!(parse(text).unwrap_err().contains(part), "{text}");
        }
    }
}
