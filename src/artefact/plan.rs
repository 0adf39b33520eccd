//! What an artefact is to be, how it is made, and whether what is there is it.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use serde_json::Value;

use super::{
    error::Error,
    identity::{Identity, Input, Kind, identity},
    manifest::{MANIFEST, Manifest, files_of},
};
use crate::atomic;

/// What an artefact is to be: everything that decides its values.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What kind of artefact it is.
    pub kind: &'static Kind,
    /// Class of the device that computes, where values depend on it: `cpu` or `cuda`.
    pub device: Option<String>,
    /// Everything that was asked for and decides the values.
    pub options: Value,
    /// The artefacts that it is made from, by what they are to it.
    pub inputs: BTreeMap<String, Input>,
}

impl Plan {
    /// Of this kind, with these options, from nothing yet.
    pub fn new(kind: &'static Kind, options: Value) -> Self {
        Plan { kind, device: None, options, inputs: BTreeMap::new() }
    }

    /// With one more input.
    pub fn with(mut self, name: &str, input: Input) -> Self {
        self.inputs.insert(name.to_owned(), input);
        self
    }

    /// Computed on this class of device.
    pub fn on(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    /// What the artefact will be.
    pub fn identity(&self) -> Identity {
        let Kind { name, format, algorithm } = self.kind;
        identity(name, *format, *algorithm, self.device.as_deref(), &self.options, &self.inputs)
    }

    /// Makes the artefact in `dir`, instead of what may be there: `fill` writes its files. `place`
    /// is where it will be, below the run's directory. Returns its manifest.
    pub fn make(
        &self,
        dir: &Path,
        place: String,
        about: Value,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Manifest> {
        let mut manifest = self.manifest(place, about);
        atomic::replace_dir(dir, |temporary| {
            fill(temporary)?;
            manifest.files = files_of(temporary)?;
            atomic::write_json(&temporary.join(MANIFEST), &manifest)
        })?;
        Ok(manifest)
    }

    /// The manifest of an artefact without files yet.
    pub fn manifest(&self, place: String, about: Value) -> Manifest {
        Manifest {
            kind: self.kind.name.to_owned(),
            format: self.kind.format,
            algorithm: self.kind.algorithm,
            program: concat!("cgil ", env!("CARGO_PKG_VERSION")).to_owned(),
            device: self.device.clone(),
            options: self.options.clone(),
            inputs: self.inputs.clone(),
            identity: self.identity(),
            place,
            files: BTreeMap::new(),
            about,
        }
    }

    /// The artefact in `dir` if it is there and is what is planned, whatever device it was computed
    /// on; none if it is not there; an error with what differs and the `advice` if it is another
    /// one.
    pub fn find(&self, dir: &Path, advice: &str) -> Result<Option<Manifest>> {
        let Some(there) = Manifest::find(dir, self.kind)? else { return Ok(None) };
        let planned = Plan { device: there.device.clone(), ..self.clone() };
        if planned.identity() == there.identity {
            return Ok(Some(there));
        }
        let mut differences = self.differences(&there);
        if differences.is_empty() {
            differences.push("by what its manifest.json says".into());
        }
        Err(Error::Other { dir: dir.to_owned(), differences, advice: advice.to_owned() }.into())
    }

    /// What makes an artefact that is there another one than is planned, in words.
    fn differences(&self, there: &Manifest) -> Vec<String> {
        let mut differences = Vec::new();
        compare("", &there.options, &self.options, &mut differences);
        let mut names: Vec<&String> = there.inputs.keys().chain(self.inputs.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            match (there.inputs.get(name), self.inputs.get(name)) {
                (Some(was), Some(is)) if was.identity == is.identity => {}
                (Some(_), Some(is)) => differences.push(format!("from another {} than is there now", shown(name, is))),
                (Some(was), None) => {
                    differences.push(format!("from {} too, which does not count now", shown(name, was)))
                }
                (None, Some(is)) => differences.push(format!("without {}, which counts now", shown(name, is))),
                (None, None) => {}
            }
        }
        differences
    }
}

/// An input as messages call it.
fn shown<'a>(name: &'a str, input: &'a Input) -> &'a str {
    if input.path.is_empty() { name } else { &input.path }
}

/// Adds what differs between options that are `there` and those `asked` for.
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
        _ if there != asked => differences.push(format!("{path} is {} there, {} now", short(there), short(asked))),
        _ => {}
    }
}

/// A value as a message has room for.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(79).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::{
        super::identity::{PROMPTS, RESULTS},
        *,
    };

    fn identity(text: &str) -> Identity {
        serde_json::from_value(json!(text)).unwrap()
    }

    fn plan() -> Plan {
        let input = Input { path: "streams/a/task-01".into(), identity: identity("ab") };
        Plan::new(&PROMPTS, json!({"epochs": 3, "lr": 0.05})).on("cpu").with("stream", input)
    }

    #[test]
    fn everything_that_decides_values_decides_the_identity_and_a_path_does_not() {
        let base = plan().identity();
        let mut others = [plan(), plan(), plan(), plan(), plan()];
        others[0].options["lr"] = json!(0.06);
        others[1].device = Some("cuda".into());
        others[2].inputs.get_mut("stream").unwrap().identity = identity("ac");
        others[3] = others[3].clone().with("clip", Input { path: String::new(), identity: identity("ab") });
        others[4].kind = &RESULTS;
        for other in &others {
            assert_ne!(other.identity(), base, "{other:?}");
        }
        let mut moved = plan();
        moved.inputs.get_mut("stream").unwrap().path = "elsewhere".into();
        assert_eq!(moved.identity(), base);
        // another order of the same options
        let mut turned = plan();
        turned.options = serde_json::from_str(r#"{"lr": 0.05, "epochs": 3}"#).unwrap();
        assert_eq!(turned.identity(), base);
    }

    #[test]
    fn an_artefact_is_found_again_and_what_is_damaged_or_of_other_options_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("task-01");
        assert!(plan().find(&place, "").unwrap().is_none());
        let made =
            plan().make(&place, "task-01".into(), Value::Null, |dir| Ok(fs::write(dir.join("a.bin"), "abc")?)).unwrap();
        let found = plan().find(&place, "").unwrap().unwrap();
        assert_eq!(found, made);
        found.check_file(&place, "a.bin").unwrap();

        let mut other = plan();
        other.options["epochs"] = json!(4);
        let error = other.find(&place, "use another --run").unwrap_err().to_string();
        assert!(error.contains("epochs is 3 there, 4 now") && error.contains("use another --run"), "{error}");
        assert!(!error.contains("lr") && !error.contains("streams/a"), "what is the same was named: {error}");
        let mut other = plan();
        other.inputs.get_mut("stream").unwrap().identity = identity("ac");
        let error = other.find(&place, "").unwrap_err().to_string();
        assert!(error.contains("(from another streams/a/task-01 than is there now)"), "{error}");
        // what was computed on another device is the same artefact, with another identity
        let elsewhere = plan().on("cuda").find(&place, "").unwrap().unwrap();
        assert_ne!(elsewhere.identity, plan().on("cuda").identity());

        // what is not there is no file that cannot be read
        assert!(found.check_file(&place.join("a.bin"), "a.bin").unwrap_err().to_string().contains("cannot read"));
        fs::remove_file(place.join("a.bin")).unwrap();
        assert!(found.check_file(&place, "a.bin").unwrap_err().to_string().contains("a.bin is missing"));
        fs::write(place.join("a.bin"), "abd").unwrap();
        assert!(found.check_file(&place, "a.bin").unwrap_err().to_string().contains("SHA-256"));
        fs::write(place.join("a.bin"), "ab").unwrap();
        assert!(found.check_file(&place, "a.bin").unwrap_err().to_string().contains("3 bytes, but has 2"));
        let text = fs::read_to_string(place.join(MANIFEST)).unwrap();
        for (from, to, expected) in [
            ("0.05", "0.06", "another identity"),
            ("\"format\": 1", "\"format\": 9", "format 9.1"),
            ("a.bin", "../a", "outside"),
            ("{", "", "no manifest"),
        ] {
            fs::write(place.join(MANIFEST), text.replacen(from, to, 1)).unwrap();
            let error = plan().find(&place, "").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
