//! What the AWS tools keep in their files: keys, region and endpoint of a profile.

use std::{env, path::PathBuf};

use configparser::ini::Ini;
use object_store::aws::AmazonS3ConfigKey;

/// The settings of the profile that `AWS_PROFILE` names, from `~/.aws/credentials` and
/// `~/.aws/config`; nothing where it has none.
pub fn settings() -> Vec<(AmazonS3ConfigKey, String)> {
    let profile = env::var("AWS_PROFILE").unwrap_or_else(|_| "default".into());
    let in_config = if profile == "default" { profile.clone() } else { format!("profile {profile}") };
    let files = [("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile), ("AWS_CONFIG_FILE", "config", in_config)];
    let found = files.into_iter().filter_map(|(variable, name, section)| {
        let home = || env::home_dir().map(|home| home.join(".aws").join(name));
        let file = env::var_os(variable).map(PathBuf::from).or_else(home)?;
        let mut ini = Ini::new_cs();
        ini.load(file).ok()?; // as where there is none: the environment may say all
        let keys = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region", "endpoint_url"];
        let value = |key: &str| Some((key.parse().ok()?, ini.get(&section, key)?));
        Some(keys.into_iter().filter_map(value).collect::<Vec<_>>())
    });
    found.flatten().collect()
}
