//! How many rows a shard has of each label, as a manifest says it. There are as many counts as rows
//! where classes are many and come in no order, so they stay the text that they are.

use std::{collections::BTreeMap, iter};

use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// Rows of each label, by ascending label, such as `0:3 2 7:1`: three of the label 0, two of 1, one of 7.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct LabelCounts(String);

impl LabelCounts {
    pub fn new(counts: &BTreeMap<i64, usize>) -> Self {
        let (mut text, mut next) = (String::new(), None);
        for (&label, count) in counts {
            let space = if text.is_empty() { "" } else { " " };
            text += &if next == Some(label) { format!("{space}{count}") } else { format!("{space}{label}:{count}") };
            next = label.checked_add(1);
        }
        LabelCounts(text)
    }

    /// Labels with their rows.
    pub fn iter(&self) -> impl Iterator<Item = (i64, usize)> {
        self.parse().map_while(|count| count)
    }

    /// Rows of all labels; none where they are too many to be true.
    pub fn total(&self) -> Option<usize> {
        self.iter().try_fold(0usize, |rows, (_, more)| rows.checked_add(more))
    }

    /// As [`LabelCounts::iter`]; none where the text says nothing of the kind.
    fn parse(&self) -> impl Iterator<Item = Option<(i64, usize)>> {
        let mut words = self.0.split_ascii_whitespace();
        let mut next: Option<i64> = None;
        iter::from_fn(move || {
            let word = words.next()?;
            let (label, count) = match word.split_once(':') {
                Some((label, count)) => (label.parse().ok(), count),
                None => (next, word),
            };
            next = label.and_then(|label: i64| label.checked_add(1));
            Some(label.zip(count.parse().ok()))
        })
    }
}

impl<'de> Deserialize<'de> for LabelCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Map(BTreeMap<String, usize>), // of earlier manifests
        }
        let counts = match Either::deserialize(deserializer)? {
            Either::Text(text) => LabelCounts(text),
            Either::Map(map) => {
                let labels = map.iter().map(|(label, rows)| Ok((label.parse().map_err(D::Error::custom)?, *rows)));
                LabelCounts::new(&labels.collect::<Result<_, D::Error>>()?)
            }
        };
        let is_whole = counts.parse().all(|count| count.is_some());
        if !is_whole || !counts.iter().is_sorted_by(|a, b| a.0 < b.0) {
            return Err(D::Error::custom(format!("{:.40?} is no list of labels and their rows", counts.0)));
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_what_they_were_and_what_is_none_is_told() {
        let map = BTreeMap::from([(-2, 5), (-1, 1), (3, 2), (4, 9), (i64::MAX, 7)]);
        let counts = LabelCounts::new(&map);
        assert_eq!(json!(counts), json!("-2:5 1 3:2 9 9223372036854775807:7"));
        assert_eq!(counts.iter().collect::<BTreeMap<_, _>>(), map);
        assert_eq!(counts.total(), Some(24));
        let read = |value| serde_json::from_value::<LabelCounts>(value);
        assert_eq!(read(json!(counts)).unwrap(), counts);
        assert_eq!(read(json!({"-2": 5, "-1": 1, "3": 2, "4": 9, "9223372036854775807": 7})).unwrap(), counts);
        assert_eq!(read(json!("")).unwrap().total(), Some(0));
        for none in ["3", "0:1 x", "0:-1", "5:1 5:2", "5:1 4:2", "9223372036854775807:1 2"] {
            assert!(read(json!(none)).unwrap_err().to_string().contains("no list of labels"), "{none}");
        }
    }
}
