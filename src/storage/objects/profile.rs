//! What the AWS tools keep in their files: keys, region and endpoint of a profile.

use std::{env, path::PathBuf};

use anyhow::{Result, anyhow};
use configparser::ini::Ini;
use object_store::aws::AmazonS3ConfigKey;

/// What belongs together, and is taken from a file only where the environment has none of it.
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];
const OTHERS: [&str; 2] = ["region", "endpoint_url"];

/// The settings of the profile that `AWS_PROFILE` names, from `~/.aws/credentials` and
/// `~/.aws/config`; nothing where it has none. An error where a file cannot be read as one.
pub fn settings() -> Result<Vec<(AmazonS3ConfigKey, String)>> {
    let profile = env::var("AWS_PROFILE").unwrap_or_else(|_| "default".into());
    let in_config = if profile == "default" { profile.clone() } else { format!("profile {profile}") };
    let keys = if env::var_os("AWS_ACCESS_KEY_ID").is_some() { &[][..] } else { &KEYS[..] };
    let mut found = Vec::new();
    for (variable, name, section) in
        [("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile), ("AWS_CONFIG_FILE", "config", in_config)]
    {
        let home = || env::home_dir().map(|home| home.join(".aws").join(name));
        let Some(file) = env::var_os(variable).map(PathBuf::from).or_else(home).filter(|file| file.exists()) else {
            continue;
        };
        let mut ini = Ini::new_cs();
        ini.load(&file).map_err(|error| anyhow!("{}: {error}", file.display()))?;
        for key in keys.iter().chain(&OTHERS) {
            if let (Ok(known), Some(value)) = (key.parse(), ini.get(&section, key)) {
                found.push((known, value));
            }
        }
    }
    Ok(found)
}
