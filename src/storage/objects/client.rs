//! Clients of buckets: with the credentials that the cloud's own tools take, and requests that are
//! sent again.

use std::{
    collections::BTreeMap,
    env,
    error::Error as _,
    io,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use object_store::{
    BackoffConfig, ClientConfigKey, Error, ObjectStore, Result, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path,
};
use tokio::runtime::{Builder, Runtime};

use super::{
    super::address::{Address, Scheme},
    profile,
};

/// How often a request is sent again, and for how long.
const RETRIES: usize = 8;
const RETRIED_FOR: Duration = Duration::from_secs(180);

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
        let open = |time| client(address, time).map_err(|error| failure(address, error));
        clients.insert(bucket.clone(), [open(SHORT)?, open(LONG)?]);
    }
    let [reading, writing] = clients[&bucket].clone();
    Ok(Object { address: address.clone(), path, reading, writing })
}

/// A client of a bucket whose requests may take so long. What stands in the environment comes before
/// what the cloud's tools have in files, and both before what is usual here.
fn client(address: &Address, time: Duration) -> Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRIED_FOR };
    let bucket = &address.bucket;
    Ok(match address.scheme {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            for (key, value) in profile::settings() {
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
    let is_free = |key: &ClientConfigKey| env::var_os(format!("{prefix}_{}", key.as_ref().to_uppercase())).is_none();
    options.into_iter().filter(|(key, _)| is_free(key)).collect()
}

/// What requests run on.
pub fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: LazyLock<io::Result<Runtime>> =
        LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build());
    RUNTIME.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// Waits for a request about an object.
pub fn wait<T, F>(address: &Address, request: impl FnOnce(Object) -> F) -> io::Result<T>
where
    F: Future<Output = Result<T>>,
{
    let object = object(address)?;
    runtime()?.block_on(request(object)).map_err(|error| failure(address, error))
}

/// What went wrong last, of all that was tried, as an error of files.
pub fn failure(address: &Address, error: Error) -> io::Error {
    use io::ErrorKind as Kind;
    let kind = match &error {
        Error::NotFound { .. } => return Kind::NotFound.into(),
        Error::AlreadyExists { .. } => Kind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Kind::PermissionDenied,
        Error::Precondition { .. } => {
            return io::Error::new(Kind::InvalidData, format!("{address} was changed while it was read"));
        }
        Error::NotImplemented { .. } | Error::NotSupported { .. } => Kind::Unsupported,
        _ => Kind::Other,
    };
    let source = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    io::Error::new(kind, format!("{address}: {source}"))
}
