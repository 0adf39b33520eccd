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

/// For how long a request is sent again, and how far apart at most.
const RETRIED_FOR: Duration = Duration::from_secs(60);
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
            client(address, time)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: {}", reason(&error))))
        };
        clients.insert(bucket.clone(), [open(SHORT)?, open(LONG)?]);
    }
    let [reading, writing] = clients[&bucket].clone();
    Ok(Object { address: address.clone(), path, reading, writing })
}

/// A client of a bucket whose requests may take so long. What stands in the environment comes before
/// what the cloud's tools have in files, and both before what is usual here.
fn client(address: &Address, time: Duration) -> Result<Arc<dyn ObjectStore>> {
    let backoff = BackoffConfig { max_backoff: APART, ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: 1000, retry_timeout: RETRIED_FOR };
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
    attempt(address, request).inspect_err(lose_slow)
}

/// As [`wait`], where it will be tried again.
pub fn attempt<T, F>(address: &Address, request: impl FnOnce(Object) -> F) -> io::Result<T>
where
    F: Future<Output = Result<T>>,
{
    reached()?;
    let object = object(address)?;
    runtime()?.block_on(request(object)).map_err(|error| failure(address, error))
}

/// Why a store is lost to this process; none while it answers.
static LOST: Mutex<Option<(io::ErrorKind, String)>> = Mutex::new(None);

/// Asks a store nothing more that a question was put to and that did not answer it: that there is
/// nothing is an answer.
pub fn lose(error: &io::Error) {
    if error.kind() != io::ErrorKind::NotFound {
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert_with(|| (error.kind(), error.to_string()));
    }
}

/// The error of a store that is lost to this process.
pub fn reached() -> io::Result<()> {
    match &*LOST.lock().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
    }
}

/// As [`lose`], where it failed for as long as it was tried; other failures are of one object.
pub fn lose_slow(error: &io::Error) {
    if error.kind() == io::ErrorKind::TimedOut {
        lose(error);
    }
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
        _ => Kind::TimedOut,
    };
    let (reason, all) = (reason(&error), format!("{error:?}"));
    let (kind, reason) = match () {
        _ if all.contains("NoSuchBucket") => (Kind::InvalidInput, format!("there is no bucket {:?}", address.bucket)),
        _ if all.contains(METADATA) => (Kind::PermissionDenied, NO_CREDENTIALS.to_owned()),
        _ => (kind, reason),
    };
    io::Error::new(kind, format!("{address}: {reason}"))
}

/// Where a machine of a cloud is asked for the credentials of its role, after everything else.
const METADATA: &str = "169.254.169.254";
const NO_CREDENTIALS: &str = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to one of \
                              ~/.aws/credentials, or AWS_SKIP_SIGNATURE=true for a public bucket";

/// What a store says itself, or the library, in a line: of an answer in XML its message.
fn reason(error: &Error) -> String {
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let Some((before, answer)) = text.split_once('<') else { return text };
    let message = answer.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
    format!("{}{}", before.trim_end(), message.map_or(String::new(), |(message, _)| format!(" {message}")))
}
