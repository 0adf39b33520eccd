//! Names of several files in one, as WebDataset and shells write them: `{000..099}` counts, `{a,b}`
//! lists, and both may nest.

use std::ops::RangeInclusive;

/// Most names that a pattern may stand for.
const MOST: usize = 1 << 20;

/// The names that a pattern stands for, in its order; the pattern alone where it has no braces. None
/// where they are too many.
pub fn expand(pattern: &str) -> Option<Vec<String>> {
    let Some((before, inside, after)) = first(pattern) else { return Some(vec![pattern.to_owned()]) };
    let after = expand(after)?;
    let choices = match count(inside) {
        Some(numbers) => {
            let width = inside.find("..").unwrap_or(0);
            let many = numbers.end().saturating_sub(*numbers.start()) as usize;
            (many < MOST).then(|| numbers.map(|n| format!("{n:0width$}")).collect())?
        }
        None => commas(inside).into_iter().map(expand).collect::<Option<Vec<_>>>()?.concat(),
    };
    let names = choices.iter().flat_map(|choice| after.iter().map(move |after| format!("{before}{choice}{after}")));
    (choices.len().saturating_mul(after.len()) <= MOST).then(|| names.collect())
}

/// Whether a pattern stands for anything but itself.
pub fn has_some(pattern: &str) -> bool {
    first(pattern).is_some()
}

/// What stands before, in and behind the first braces that count or list.
fn first(pattern: &str) -> Option<(&str, &str, &str)> {
    let open = pattern.find('{')?;
    let mut depth = 0;
    let close = pattern[open..].char_indices().find_map(|(at, letter)| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        (depth == 0).then_some(open + at)
    })?;
    let inside = &pattern[open + 1..close];
    (commas(inside).len() > 1 || count(inside).is_some()).then_some((&pattern[..open], inside, &pattern[close + 1..]))
}

/// The parts between commas that stand in no further braces.
fn commas(inside: &str) -> Vec<&str> {
    let mut depth = 0;
    inside
        .split(|letter| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            letter == ',' && depth == 0
        })
        .collect()
}

/// The numbers of `000..099`.
fn count(inside: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = inside.split_once("..")?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    (digits(first) && digits(last)).then_some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_names_than_there_could_be_files_are_none() {
        for pattern in ["{0..4000000000}", "{0..9999}{0..9999}"] {
            assert_eq!(expand(pattern), None);
        }
    }

    #[test]
    fn braces_count_list_and_nest() {
        let expand = |pattern| expand(pattern).unwrap();
        assert_eq!(expand("a/{08..10}.tar"), ["a/08.tar", "a/09.tar", "a/10.tar"]);
        assert_eq!(expand("{b,a}-{0..1}"), ["b-0", "b-1", "a-0", "a-1"]);
        assert_eq!(expand("{x-{0..1},y}.tar"), ["x-0.tar", "x-1.tar", "y.tar"]);
        for plain in ["a.tar", "{a}.tar", "{..}.tar", "{a.tar", "}{"] {
            assert_eq!(expand(plain), [plain]);
            assert!(!has_some(plain));
        }
    }
}
