//! Clients of buckets, with the credentials that the cloud's own tools take.

use std::{
    collections::BTreeMap,
    env, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, Result, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path,
};

use super::{
    super::address::{Address, Scheme},
    profile,
};

/// For how long a request is sent again, and how far apart at most.
pub const RETRIED_FOR: Duration = Duration::from_secs(60);
const APART: Duration = Duration::from_secs(10);

/// How long a request may take that moves a few megabytes, and one that uploads more.
const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(600);

/// An object, and what reaches it.
#[derive(Clone, Debug)]
pub struct Object {
    pub address: Address,
    pub path: path::Path,
    /// For requests of a few megabytes.
    pub reading: Arc<dyn ObjectStore>,
    /// For uploads of more.
    pub writing: Arc<dyn ObjectStore>,
}

impl Object {
    /// What names of objects below begin with; nothing where that is all of the bucket.
    pub fn prefix(&self) -> Option<&path::Path> {
        Some(&self.path).filter(|path| !path.as_ref().is_empty())
    }
}

/// The object at an address, which need not be there.
pub fn object(address: &Address) -> io::Result<Object> {
    type Clients = BTreeMap<(Scheme, String), [Arc<dyn ObjectStore>; 2]>;
    static CLIENTS: Mutex<Clients> = Mutex::new(BTreeMap::new());
    let path = path::Path::parse(&address.key)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: {error}")))?;
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let bucket = (address.scheme, address.bucket.clone());
    if !clients.contains_key(&bucket) {
        let open = |time| {
            let opened = profile::settings().and_then(|settings| Ok(client(address, time, settings)?));
            opened.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: {error}")))
        };
        clients.insert(bucket.clone(), [open(SHORT)?, open(LONG)?]);
    }
    let [reading, writing] = clients[&bucket].clone();
    Ok(Object { address: address.clone(), path, reading, writing })
}

/// A client of a bucket whose requests may take so long. What stands in the environment comes before
/// what the cloud's tools have in files, and both before what is usual here.
fn client(
    address: &Address,
    time: Duration,
    settings: Vec<(AmazonS3ConfigKey, String)>,
) -> Result<Arc<dyn ObjectStore>> {
    let backoff = BackoffConfig { max_backoff: APART, ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: 1000, retry_timeout: RETRIED_FOR };
    let bucket = &address.bucket;
    Ok(match address.scheme {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            for (key, value) in settings {
                if builder.get_config_value(&key).is_none() {
                    builder = builder.with_config(key, value);
                }
            }
            let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
            let endpoint = endpoints.iter().find_map(|key| builder.get_config_value(key));
            for (key, value) in usual("AWS", time, endpoint) {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
        Scheme::Google => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry);
            for (key, value) in usual("GOOGLE", time, None) {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
        Scheme::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry);
            let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
            for (key, value) in usual("AZURE", time, endpoint) {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
    })
}

/// The options of a client that no variable of the environment gives, such as `AWS_TIMEOUT`. A server
/// without TLS is one that somebody has named.
fn usual(prefix: &str, time: Duration, endpoint: Option<String>) -> Vec<(ClientConfigKey, String)> {
    let seconds = |time: Duration| format!("{} seconds", time.as_secs());
    let is_plain = endpoint.is_some_and(|url| url.starts_with("http://"));
    let options = [
        (ClientConfigKey::Timeout, seconds(time)),
        (ClientConfigKey::ConnectTimeout, seconds(SHORT / 4)),
        (ClientConfigKey::AllowHttp, is_plain.to_string()),
    ];
    let is_set = |key: &ClientConfigKey| env::var_os(format!("{prefix}_{}", key.as_ref().to_uppercase())).is_some();
    // a time that somebody sets is for usual requests, not for large uploads
    let is_given = |key: &ClientConfigKey| is_set(key) && (*key != ClientConfigKey::Timeout || time == SHORT);
    options.into_iter().filter(|(key, _)| !is_given(key)).collect()
}
