//! Requests: waited for, sent again, and what went wrong with them as errors of files.

use std::{
    error::Error as _,
    io::{self, ErrorKind},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use object_store::{Error, Result};
use tokio::runtime::{Builder, Runtime};

use super::{
    super::{
        address::{Address, Scheme},
        lost::{Answer, lose, reached},
    },
    client::{Object, RETRIED_FOR, object},
};

/// Where a machine of a cloud is asked for the credentials of its role, after everything else.
const METADATA: &str = "169.254.169.254";

/// What requests run on.
pub fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: LazyLock<io::Result<Runtime>> =
        LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build());
    RUNTIME.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// Waits for a request about an object, which may be sent again as a whole.
pub fn wait<T, F>(address: &Address, request: impl Fn(Object) -> F) -> io::Result<T>
where
    F: Future<Output = Result<T>>,
{
    reached()?;
    persist(|| attempt(address, &request))
}

/// Waits for a request about an object, which the library sends again where it may.
pub fn attempt<T, F>(address: &Address, request: impl FnOnce(Object) -> F) -> io::Result<T>
where
    F: Future<Output = Result<T>>,
{
    let object = object(address)?;
    runtime()?.block_on(request(object)).map_err(|error| failure(address, &error))
}

/// Tries for as long as requests are sent again: the library does so with most of them, and not with
/// such as delete or may be put once. Then the store is lost.
pub fn persist<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::TimedOut && began.elapsed() < RETRIED_FOR => {
                thread::sleep(Duration::from_millis(500));
            }
            done => return done.inspect_err(lose_slow),
        }
    }
}

/// The error of a request that was sent again; where that did not help, the store is lost.
pub fn failed(address: &Address, error: &Error) -> io::Error {
    let failure = failure(address, error);
    lose_slow(&failure);
    failure
}

/// Other failures are of one object.
fn lose_slow(error: &io::Error) {
    if error.kind() == ErrorKind::TimedOut {
        lose(error);
    }
}

/// What went wrong last, of all that was tried, as an error of files. [`ErrorKind::TimedOut`] is what may
/// go well another time.
fn failure(address: &Address, error: &Error) -> io::Error {
    let (reason, all) = (reason(error), format!("{error:?}"));
    let status = all.split_once("status: ").and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    let (kind, reason) = match error {
        _ if all.contains("NoSuchBucket") || all.contains("ContainerNotFound") => {
            (ErrorKind::InvalidInput, format!("there is no bucket {:?}", address.bucket))
        }
        Error::NotFound { .. } => return ErrorKind::NotFound.into(),
        _ if all.contains(METADATA) => (ErrorKind::PermissionDenied, no_credentials(address.scheme)),
        Error::AlreadyExists { .. } => (ErrorKind::AlreadyExists, reason),
        Error::Precondition { .. } => (ErrorKind::InvalidData, "it was changed while it was read".into()),
        Error::InvalidPath { .. } => {
            (ErrorKind::InvalidData, format!("{reason}: rename the object, or give another directory"))
        }
        Error::NotImplemented { .. } | Error::NotSupported { .. } => (ErrorKind::Unsupported, reason),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => (ErrorKind::PermissionDenied, reason),
        _ => match status {
            Some(401 | 403) => (ErrorKind::PermissionDenied, reason),
            Some(408 | 409 | 429) => (ErrorKind::TimedOut, reason),
            Some(300..500) => (ErrorKind::InvalidInput, reason),
            _ => (ErrorKind::TimedOut, reason),
        },
    };
    io::Error::new(kind, Answer(format!("{address}: {reason}")))
}

fn no_credentials(scheme: Scheme) -> String {
    let set = match scheme {
        Scheme::S3 => {
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to one of ~/.aws/credentials, or \
             AWS_SKIP_SIGNATURE=true for a public bucket"
        }
        Scheme::Google => "GOOGLE_APPLICATION_CREDENTIALS, or call gcloud auth application-default login",
        Scheme::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    };
    format!("no credentials: set {set}")
}

/// What a store says itself, or the library, in a line: of an answer in XML its message.
fn reason(error: &Error) -> String {
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let Some((before, answer)) = text.split_once('<') else { return text };
    let message = answer.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
    format!("{}{}", before.trim_end(), message.map_or(String::new(), |(message, _)| format!(" {message}")))
}
