//! Names of several files in one, as WebDataset and shells write them: `{000..099}` counts, `{a,b}`
//! lists, and both may nest.

/// The names that a pattern stands for, in its order; the pattern alone where it has no braces.
pub fn expand(pattern: &str) -> Vec<String> {
    let Some((before, inside, after)) = first(pattern) else { return vec![pattern.to_owned()] };
    let after = expand(after);
    let choices = count(inside).unwrap_or_else(|| commas(inside).into_iter().flat_map(expand).collect());
    choices.iter().flat_map(|choice| after.iter().map(move |after| format!("{before}{choice}{after}"))).collect()
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

/// The numbers of `000..099`, as wide as the first.
fn count(inside: &str) -> Option<Vec<String>> {
    let (first, last) = inside.split_once("..")?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let range = (digits(first) && digits(last)).then_some(first.parse::<u32>().ok()?..=last.parse().ok()?)?;
    Some(range.map(|n| format!("{n:0width$}", width = first.len())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_count_list_and_nest() {
        assert_eq!(expand("a/{08..10}.tar"), ["a/08.tar", "a/09.tar", "a/10.tar"]);
        assert_eq!(expand("{b,a}-{0..1}"), ["b-0", "b-1", "a-0", "a-1"]);
        assert_eq!(expand("{x-{0..1},y}.tar"), ["x-0.tar", "x-1.tar", "y.tar"]);
        for plain in ["a.tar", "{a}.tar", "{..}.tar", "{a.tar", "}{"] {
            assert_eq!(expand(plain), [plain]);
            assert!(!has_some(plain));
        }
    }
}
