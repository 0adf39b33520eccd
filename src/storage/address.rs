//! Where an object lies, as people write it.

use std::{fmt, path::Path};

/// An object of a store, or what lies below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub scheme: Scheme,
    /// The bucket, or Azure's container.
    pub bucket: String,
    /// Its name in the bucket, without slashes at its ends; empty where it is all of the bucket.
    pub key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    S3,
    Google,
    Azure,
}

impl Address {
    /// Of a path that begins with the scheme of a store; none of another path.
    pub fn of(path: &Path) -> Option<Address> {
        let (scheme, rest) = path.to_str()?.split_once("://")?;
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Google,
            "az" => Scheme::Azure,
            _ => return None,
        };
        let mut parts = rest.split('/').filter(|part| !part.is_empty() && *part != ".");
        let bucket = parts.next()?.to_owned();
        let mut key = Vec::new();
        for part in parts {
            if part == ".." {
                key.pop();
            } else {
                key.push(part);
            }
        }
        Some(Address { scheme, bucket, key: key.join("/") })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::S3 => "s3",
            Scheme::Google => "gs",
            Scheme::Azure => "az",
        };
        let slash = if self.key.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{}{slash}{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_stores_are_told_from_others() {
        let of = |path: &str| Address::of(Path::new(path)).map(|address| (address.scheme, address.to_string()));
        assert_eq!(of("s3://b/runs/x"), Some((Scheme::S3, "s3://b/runs/x".into())));
        assert_eq!(of("gs://b/"), Some((Scheme::Google, "gs://b".into())));
        assert_eq!(of("az://b//a/./d/../c/"), Some((Scheme::Azure, "az://b/a/c".into())));
        let joined = Path::new("s3://b/runs").join("sources").join("base");
        assert_eq!(Address::of(&joined).unwrap().key, "runs/sources/base");
        assert_eq!(Address::of(Path::new("s3://b").parent().unwrap()), None);
        for path in ["s3:", "s3", "s3:/b", "runs/s3://b", "/s3://b", "https://b/a", "file://a", ""] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
