//! What classes are called: names from a file, and notes about names that look wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde::de::{Deserializer, MapAccess, Visitor};
use tokenizers::NormalizedString;

use super::names::{has_extension, some_of};
use crate::{storage, task::Class, words::counted};

/// The keys and names of a file, in its order.
type Pairs = Vec<(String, String)>;

/// Calls classes by the names that `file` has for them. Its keys are what the classes are called
/// now, or all of them their labels; each class has to have one.
pub fn rename(classes: &mut [Class], file: &Path) -> Result<()> {
    let by_name: BTreeSet<String> = classes.iter().map(|class| class.name.clone()).collect();
    let by_label: BTreeSet<String> = classes.iter().map(|class| class.label.to_string()).collect();
    let pairs = read(file, &by_name).with_context(|| format!("class names of {}", file.display()))?;
    let (mut names, mut twice) = (BTreeMap::new(), BTreeSet::new());
    for (key, name) in pairs {
        if is_blank(&name) {
            bail!("{}: the name of {key:?} is empty", file.display());
        }
        if names.insert(key.clone(), name).is_some() {
            twice.insert(key);
        }
    }
    if !twice.is_empty() {
        bail!("{} has more than one name for {}", file.display(), some_of(twice.iter().map(|key| format!("{key:?}"))));
    }
    let labels = !names.keys().all(|key| by_name.contains(key)) && names.keys().all(|key| by_label.contains(key));
    let known = if labels { &by_label } else { &by_name };
    let unknown = some_of(names.keys().filter(|key| !known.contains(*key)).map(|key| format!("{key:?}")));
    if !unknown.is_empty() {
        bail!(
            "{} names what is no class: {unknown}; expected the classes' directories (of Parquet shards, their names \
             there), such as {}, or their labels, 0 to {}",
            file.display(),
            some_of(by_name.iter().take(2).map(|name| format!("{name:?}"))),
            classes.len().saturating_sub(1)
        );
    }
    let missing = some_of(known.iter().filter(|key| !names.contains_key(*key)).map(|key| format!("{key:?}")));
    if !missing.is_empty() {
        bail!("{} has no name for {missing}: every class needs one", file.display());
    }
    for class in classes {
        let key = if labels { class.label.to_string() } else { class.name.clone() };
        class.name = names.remove(&key).unwrap_or_default();
    }
    Ok(())
}

/// `known` are the classes' names, which tell a first record from a header.
fn read(file: &Path, known: &BTreeSet<String>) -> Result<Pairs> {
    let text = storage::read_to_string(file).context("cannot be read")?;
    let text = text.trim_start_matches('\u{feff}');
    if has_extension(file, "json") {
        let mut json = serde_json::Deserializer::from_str(text);
        let pairs = json.deserialize_map(Object).and_then(|pairs| json.end().map(|()| pairs));
        return pairs.context("expected an object of texts, such as {\"n01440764\": \"tench\"}, and nothing else");
    }
    let mut pairs = Pairs::new();
    for (i, record) in records(text).into_iter().enumerate() {
        match <[String; 2]>::try_from(record) {
            Ok([key, _]) if i == 0 && ["directory", "label"].contains(&key.as_str()) && !known.contains(&key) => {}
            Ok([key, name]) => pairs.push((key, name)),
            Err(record) => bail!(
                "record {} has {}, expected 2, such as n01440764,tench; a name with a comma stands in double quotes",
                i + 1,
                counted(record.len(), "value")
            ),
        }
    }
    Ok(pairs)
}

/// The pairs of a JSON object, also of one that has a key twice.
struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs, A::Error> {
        let mut pairs = Pairs::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// The records of a CSV text, without empty lines, and without the blanks around values that stand
/// in no quotes.
pub(super) fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut value) = (Vec::new(), Vec::new(), String::new());
    // inside quotes; and whether the value has some
    let (mut inside, mut quoted) = (false, false);
    let mut letters = text.chars().chain(['\n']).peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if inside && letters.peek() == Some(&'"') => {
                value.push('"');
                letters.next();
            }
            '"' if inside => inside = false,
            '"' if !quoted && value.trim().is_empty() => {
                value.clear();
                (inside, quoted) = (true, true);
            }
            ',' | '\n' if !inside => {
                let whole = std::mem::take(&mut value);
                record.push(if quoted { whole } else { whole.trim().to_owned() });
                quoted = false;
                if letter == '\n' {
                    let record = std::mem::take(&mut record);
                    if record != [""] {
                        records.push(record);
                    }
                }
            }
            letter if quoted && !inside && letter.is_whitespace() => {} // behind the second quote
            letter => value.push(letter),
        }
    }
    if inside {
        records.push(vec![value]); // a quote that does not end: one value where two are expected
    }
    records
}

/// Whether nothing of a name is left in a prompt, where `_` is a blank.
fn is_blank(name: &str) -> bool {
    name.chars().all(|letter| letter == '_' || letter.is_whitespace())
}

/// An error if a class of the data at `place` has an empty name. `advice` says what gives it
/// another.
pub fn require_names(place: &Path, classes: &[Class], advice: &str) -> Result<()> {
    let blank = classes.iter().filter(|class| is_blank(&class.name));
    let blank = some_of(blank.map(|class| format!("{} {:?}", class.label, class.name)));
    if !blank.is_empty() {
        bail!(
            "{}: prompts are made of class names, and those of these labels are empty: {blank}; {advice}",
            place.display()
        );
    }
    Ok(())
}

/// What looks wrong about the names: ids instead of words, where `advice` says what gives others,
/// and several spellings of one. `counts` are the rows of each class in each split.
pub fn notes(classes: &[Class], counts: &BTreeMap<String, Vec<usize>>, advice: Option<&str>) -> Vec<String> {
    let mut notes = Vec::new();
    let ids: Vec<&Class> = classes.iter().filter(|class| looks_like_an_id(&class.name)).collect();
    if let Some(advice) = advice.filter(|_| 2 * ids.len() > classes.len()) {
        notes.push(format!(
            "{} of {} class names look like ids, such as {:?}, and prompts are made of them: {advice}",
            ids.len(),
            classes.len(),
            ids[0].name
        ));
    }
    let mut spellings: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, class) in classes.iter().enumerate() {
        spellings.entry(folded(&class.name)).or_default().push(i);
    }
    for same in spellings.into_values().filter(|same| same.len() > 1) {
        let one = |&i: &usize| {
            let of = |split: &str| counts.get(split).map_or(0, |counts| counts[i]);
            let Class { label, name } = &classes[i];
            // escapes tell apart what looks the same
            let escaped: String = name.chars().flat_map(char::escape_default).collect();
            let name = if name.is_ascii() { format!("{name:?}") } else { format!("\"{name}\" ({escaped})") };
            format!("{label} {name} ({} train, {} test images)", of("train"), of("test"))
        };
        notes.push(format!("these classes are spelled nearly the same: {}", some_of(same.iter().map(one))));
    }
    notes
}

/// Whether a name is a WordNet id (n01440764), a number, or begins with one
/// (001.Black_footed_Albatross).
fn looks_like_an_id(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(name)
        || name.strip_prefix('n').is_some_and(|rest| rest.len() == 8 && digits(rest))
        || name.split_once('.').is_some_and(|(number, _)| digits(number))
}

/// A name without what people do not see: case, blanks around and between its words, the way
/// accents are composed.
pub fn folded(name: &str) -> String {
    let mut folded = NormalizedString::from(name);
    folded.nfc().lowercase();
    folded.get().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_has_quotes_commas_and_either_line_end() {
        let text = "a,\"tench, Tinca \"\"tinca\"\"\"\r\n\n b ,c d\n\" e \" , \"f, g\" \n5\" pipe,\n";
        assert_eq!(records(text), [["a", "tench, Tinca \"tinca\""], ["b", "c d"], [" e ", "f, g"], ["5\" pipe", ""]]);
        assert_eq!(records("a,\"b\nc").last().unwrap().len(), 1);
    }

    #[test]
    fn ids_are_told_from_names() {
        for id in ["n01440764", "17", "001.Black_footed_Albatross"] {
            assert!(looks_like_an_id(id), "{id}");
        }
        for name in ["n0144076", "U.S. Army", "7 up", "net", "", "tench"] {
            assert!(!looks_like_an_id(name), "{name}");
        }
    }
}
