//! What files, arrays and columns are called, and what that says of them.

use crate::source::split::Part;

/// What an array of one value a row is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    Labels,
    Splits,
    Ids,
    /// What classes are called, by their labels.
    ClassNames,
}

/// Columns that say of each row which class it is of, what that is called, which split it is in,
/// and what it is known by; the first that is there counts.
pub const LABEL: [&str; 12] = [
    "label",
    "labels",
    "class_id",
    "class_label",
    "class",
    "cls",
    "target",
    "targets",
    "category",
    "category_id",
    "y",
    "class_index",
];
pub const CLASS_NAME: [&str; 5] = ["class_name", "classname", "label_name", "label_text", "category_name"];
pub const SPLIT: [&str; 3] = ["split", "splits", "subset"];
pub const ID: [&str; 11] =
    ["sample_id", "image_path", "file_name", "filename", "file_path", "filepath", "path", "image", "file", "key", "id"];

/// Words of names that say what kind of array it is, and not which.
const KINDS: [&str; 38] = [
    "array",
    "arrays",
    "class",
    "classes",
    "classnames",
    "data",
    "emb",
    "embed",
    "embedding",
    "embeddings",
    "embeds",
    "embs",
    "feat",
    "feats",
    "feature",
    "features",
    "filenames",
    "files",
    "ids",
    "image",
    "images",
    "img",
    "keys",
    "label",
    "labels",
    "meta",
    "metadata",
    "name",
    "names",
    "path",
    "paths",
    "split",
    "splits",
    "target",
    "targets",
    "vectors",
    "x",
    "y",
];

/// The words of a place, in lower case, without extensions.
pub fn words(place: &str) -> Vec<String> {
    const EXTENSIONS: [&str; 5] = ["csv", "npy", "npz", "parquet", "safetensors"];
    let lower = place.to_lowercase();
    let words = lower.split(|letter: char| !letter.is_alphanumeric());
    words.filter(|word| !word.is_empty() && !EXTENSIONS.contains(word)).map(str::to_owned).collect()
}

/// What the arrays of the same rows have in common: the words of their places that say which rows.
pub fn key(place: &str) -> Vec<String> {
    words(place).into_iter().filter(|word| !KINDS.contains(&word.as_str())).collect()
}

/// The split that a place names; none where it names none, or two.
pub fn split_of(place: &str) -> Option<Part> {
    let mut splits: Vec<Part> = words(place).iter().filter_map(|word| Part::of(word)).collect();
    splits.dedup();
    match splits[..] {
        [split] => Some(split),
        _ => None,
    }
}

/// Whether a place says that it holds vectors of texts.
pub fn is_of_texts(place: &str) -> bool {
    words(place).iter().any(|word| ["text", "texts", "txt", "caption", "captions"].contains(&word.as_str()))
}

/// What an array of one value a row is by its own name; `text` where the values are texts.
pub fn role(place: &str, text: bool) -> Option<Role> {
    let own = words(place.rsplit(['/', ':']).next().unwrap_or(place));
    let any = |of: &[&str]| own.iter().any(|word| of.contains(&word.as_str()));
    let of_a_row =
        any(&["file", "files", "filename", "filenames", "id", "ids", "image", "images", "img", "key", "keys"])
            || any(&["path", "paths", "sample", "samples"]);
    Some(match () {
        _ if any(&["split", "splits", "subset"]) => Role::Splits,
        _ if of_a_row => Role::Ids,
        _ if text && any(&["categories", "classes", "classnames", "name", "names"]) => Role::ClassNames,
        _ if any(&["class", "classes", "cls", "gt", "label", "labels", "target", "targets", "y"]) => Role::Labels,
        _ => return None,
    })
}

/// What sorts names as people count: `part-2` before `part-10`.
pub fn natural(name: &str) -> Vec<(String, usize, String)> {
    let mut chunks = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits_at = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(digits_at);
        let (digits, after) = after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        let number = digits.trim_start_matches('0');
        chunks.push((text.to_owned(), number.len(), number.to_owned()));
        rest = after;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_the_same_rows_have_the_same_key() {
        for (vectors, columns) in [
            ("img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"),
            ("train_features.npy", "train_labels.npy"),
            ("set.npz:X_test", "set.npz:y_test"),
            ("train/features.npy", "train/labels.csv"),
            ("birds.npy", "birds.csv"),
            ("Features.npy", "targets.npy"),
        ] {
            assert_eq!(key(vectors), key(columns), "{vectors}");
        }
        assert_ne!(key("img_emb_0.npy"), key("metadata_1.parquet"));
        assert_ne!(key("X_train"), key("y_test"));
    }

    #[test]
    fn a_name_says_the_split_and_what_an_array_is() {
        assert_eq!(split_of("a/train_features.npy"), Some(Part::Train));
        assert_eq!(split_of("a.npz:X_val"), Some(Part::Validation));
        assert_eq!(split_of("train_or_test.npy"), None);
        assert_eq!(split_of("latest_features.npy"), None);
        let of = |place| (role(place, false), role(place, true));
        assert_eq!(of("a/labels.npy"), (Some(Role::Labels), Some(Role::Labels)));
        assert_eq!(of("labels/names.npy"), (None, Some(Role::ClassNames)));
        assert_eq!(of("classes"), (Some(Role::Labels), Some(Role::ClassNames)));
        assert_eq!(of("file_names"), (Some(Role::Ids), Some(Role::Ids)));
        assert_eq!(of("noise"), (None, None));
    }

    #[test]
    fn numbers_in_names_sort_as_numbers() {
        let mut names = ["p10", "p2", "p02a", "p", "p1"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["p", "p1", "p2", "p02a", "p10"]);
    }
}
