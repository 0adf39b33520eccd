//! Manifests: the configuration that a directory of results was made with.

use std::{fs, io::Write, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::atomic;

/// Name of the file in a directory of results.
const FILE: &str = "manifest.json";

/// Whether a directory has a manifest.
pub fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// Reads the manifest of a directory.
pub fn read<T: DeserializeOwned>(dir: &Path) -> Result<T> {
    let path = dir.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged, or of another version of cgil", path.display()))
}

/// Writes the manifest of a directory.
pub fn write(dir: &Path, manifest: &impl Serialize) -> Result<()> {
    atomic::write_file(&dir.join(FILE), |file| {
        serde_json::to_writer_pretty(&mut *file, manifest)?;
        Ok(file.write_all(b"\n")?)
    })
}

/// Writes the manifest, or, where one is there, makes sure that it says the same: results made with
/// different options are never mixed.
pub fn write_or_match(dir: &Path, manifest: &impl Serialize) -> Result<()> {
    if !exists(dir) {
        let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
        if entries.any(|entry| entry.file_name().to_string_lossy().starts_with("task-")) {
            bail!("{} has lost its manifest.json, so nobody knows its options: remove it", dir.display());
        }
        return write(dir, manifest);
    }
    let mut differences = Vec::new();
    compare("", &read::<Value>(dir)?, &serde_json::to_value(manifest)?, &mut differences);
    if !differences.is_empty() {
        bail!(
            "{} was made with other options ({}); use the same, another --seed or another --run, or remove it",
            dir.display(),
            differences.join("; ")
        );
    }
    Ok(())
}

fn compare(path: &str, there: &Value, asked: &Value, differences: &mut Vec<String>) {
    match (there, asked) {
        (Value::Object(there), Value::Object(asked)) => {
            let mut keys: Vec<&String> = there.keys().chain(asked.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&path, &value(there), &value(asked), differences);
            }
        }
        _ if there != asked => differences.push(format!("{path} is {there} there, {asked} now")),
        _ => {}
    }
}
