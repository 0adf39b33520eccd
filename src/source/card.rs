//! A data set's card on the hub: the YAML at the head of its README.md names the classes of
//! ClassLabel columns.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use yaml_rust2::{Yaml, YamlLoader};

use crate::storage;

/// The class names of each ClassLabel column that the card nearest above the file `path` has, at most
/// two directories above `root`, as a configuration lies below its repository. Of several configurations, that which a
/// directory of the file's is called by, else the first that has a column.
pub fn class_names(path: &Path, root: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let top = root.ancestors().nth(2).or(root.parent()).unwrap_or(root);
    let dirs = path.ancestors().skip(1).take_while(|dir| dir.starts_with(top));
    let Some(card) = dirs.map(|dir| dir.join("README.md")).find(|card| storage::is_file(card)) else {
        return Ok(BTreeMap::new());
    };
    let text = storage::read_to_string(&card).with_context(|| format!("cannot read {}", card.display()))?;
    let Some(head) = text.strip_prefix("---").and_then(|rest| rest.split("\n---").next()) else {
        return Ok(BTreeMap::new());
    };
    let head = YamlLoader::load_from_str(head)
        .with_context(|| format!("the head of {}, the data set's card, is not YAML", card.display()))?;
    let infos = match head.first().map_or(&Yaml::BadValue, |head| &head["dataset_info"]) {
        Yaml::Array(infos) => infos.clone(),
        one => vec![one.clone()],
    };
    let is_called = |info: &&Yaml| {
        let config = info["config_name"].as_str().unwrap_or_default();
        path.iter().any(|part| part == config)
    };
    let mut names = BTreeMap::new();
    for info in infos.iter().filter(is_called).chain(&infos) {
        for feature in info["features"].as_vec().into_iter().flatten() {
            if let Some((column, of_column)) = names_of(feature) {
                names.entry(column).or_insert(of_column);
            }
        }
    }
    Ok(names)
}

/// `{name: label, dtype: {class_label: {names: {'0': cat, '1': dog}}}}`.
fn names_of(feature: &Yaml) -> Option<(String, Vec<String>)> {
    let column = feature["name"].as_str()?.to_owned();
    let text = |value: &Yaml| match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(value) => Some(value.to_string()),
        _ => None,
    };
    let names = match &feature["dtype"]["class_label"]["names"] {
        Yaml::Array(names) => names.iter().map(text).collect::<Option<Vec<_>>>()?,
        Yaml::Hash(names) => {
            let numbered = names.iter().map(|(key, name)| Some((text(key)?.parse::<usize>().ok()?, text(name)?)));
            let numbered = numbered.collect::<Option<BTreeMap<usize, String>>>()?;
            let is_whole = numbered.keys().copied().eq(0..numbered.len());
            is_whole.then(|| numbered.into_values().collect())?
        }
        _ => return None,
    };
    Some((column, names))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_are_taken_from_the_card_above_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let card = "---\nlicense: mit\ndataset_info:\n- config_name: small\n  features:\n  - name: image\n    dtype: \
                    image\n  - name: label\n    dtype:\n      class_label:\n        names:\n          '1': dog\n          \
                    '0': cat\n- config_name: large\n  features:\n  - name: label\n    dtype:\n      class_label:\n        \
                    names:\n        - true\n        - 7\n---\n# Pets\n";
        fs::write(dir.path().join("README.md"), card).unwrap();
        let names = |file: &str| class_names(&dir.path().join("data").join(file), &dir.path().join("data")).unwrap();
        assert_eq!(names("train.parquet")["label"], ["cat", "dog"]);
        assert_eq!(names("large/train.parquet")["label"], ["true", "7"]);
        fs::write(dir.path().join("README.md"), "# Pets\n").unwrap();
        assert!(names("train.parquet").is_empty());
    }
}
