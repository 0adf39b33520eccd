//! The hub's HTTP: a repository's list of files, and files, from where a download was cut.

use std::{
    fs::{self, File as Handle, OpenOptions},
    io::{Read, Write},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::{
    Agent, Body,
    config::RedirectAuthHeaders,
    http::{Response, StatusCode, header},
};

use super::{
    files::{File, Listing},
    name::{Kind, Name},
    watch::Watch,
};
use crate::hash::hash_file;

const ENDPOINT: &str = "https://huggingface.co";

/// How long the hub may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// How often a download may be cut without a byte in between, before it is left for another time.
const ATTEMPTS: u32 = 4;

/// Largest list of files: a million of them.
const MOST_BYTES: u64 = 256 << 20;

/// The header in which the hub says what is wrong.
const CODE: &str = "X-Error-Code";

const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
const IN_REVISIONS: &AsciiSet = &IN_PATHS.add(b'/');

/// Why there is no answer.
pub enum Failure {
    /// Another time, or what is in the cache, may do.
    Unreachable(Error),
    /// The hub says no.
    Refused(Error),
}

/// What a person is known by.
pub struct Token {
    value: String,
    /// Where it comes from, in words.
    origin: String,
}

impl Token {
    /// HF_TOKEN, or the file that `hf auth login` writes.
    pub fn of(variable: Option<String>, file: Option<&Path>) -> Option<Self> {
        let of_variable = variable.map(|value| (value, "HF_TOKEN".to_owned()));
        let of_file = || Some((fs::read_to_string(file?).ok()?, file?.display().to_string()));
        let (value, origin) = of_variable.or_else(of_file)?;
        let value = value.trim().to_owned();
        (!value.is_empty()).then_some(Token { value, origin })
    }
}

pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

impl Client {
    pub fn new(endpoint: Option<&str>, token: Option<Token>) -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("cgil/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost) // others are told nothing
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        let endpoint = endpoint.unwrap_or(ENDPOINT).trim_end_matches('/').to_owned();
        Client { agent: config.build().into(), endpoint, token }
    }

    /// The files of a repository; none where it has no such revision.
    pub fn listing(&self, name: &Name) -> Result<Option<Listing>, Failure> {
        let kind = match name.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let revision = utf8_percent_encode(name.revision(), IN_REVISIONS);
        let url = format!("{}/api/{kind}/{}/revision/{revision}?blobs=true", self.endpoint, name.id);
        let mut response = self.get(&url, None)?;
        if response.status() == StatusCode::NOT_FOUND && code(&response) == "RevisionNotFound" {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(self.failure(name, &response, &url));
        }
        let text = response.body_mut().with_config().limit(MOST_BYTES).read_to_vec();
        let text = text.map_err(|error| Failure::Unreachable(anyhow!("{url}: {error}")))?;
        let listing: Result<Listing> = serde_json::from_slice(&text).map_err(Into::into).and_then(Listing::checked);
        let listing = listing.with_context(|| format!("{url} does not answer as the Hugging Face hub does"));
        listing.map(Some).map_err(Failure::Refused)
    }

    /// Fetches a file to `part`, from where that ends.
    pub fn download(&self, name: &Name, commit: &str, file: &File, part: &Path, watch: &dyn Watch) -> Result<()> {
        let below = match name.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        };
        let path = utf8_percent_encode(&file.path, IN_PATHS);
        let url = format!("{}/{below}{}/resolve/{commit}/{path}", self.endpoint, name.id);
        let mut handle = OpenOptions::new().create(true).append(true).open(part);
        let handle = handle.as_mut().map_err(|error| anyhow!("cannot write {}: {error}", part.display()))?;
        let mut attempts = 0;
        loop {
            let before = handle.metadata()?.len();
            let cut = match self.go_on(name, &url, file, handle, watch) {
                Ok(()) => break,
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Unreachable(error)) => error,
            };
            attempts = if handle.metadata()?.len() > before { 0 } else { attempts + 1 };
            if attempts == ATTEMPTS {
                let there = handle.metadata()?.len() as f64 / 1e6;
                return Err(cut.context(format!(
                    "{} of {name} was cut at {there:.1} of {:.1} MB: the same command goes on from there",
                    file.path,
                    file.size as f64 / 1e6
                )));
            }
            thread::sleep(Duration::from_secs(attempts.into()));
        }
        handle.sync_all().with_context(|| format!("cannot write {}", part.display()))?;
        if let Some(lfs) = &file.lfs
            && hash_file(part)? != lfs.sha256
        {
            fs::remove_file(part).ok();
            bail!("{} of {name} arrived damaged: its SHA-256 is not {}; fetch it again", file.path, lfs.sha256);
        }
        Ok(())
    }

    /// Fetches what a file lacks, in one request.
    fn go_on(
        &self,
        name: &Name,
        url: &str,
        file: &File,
        handle: &mut Handle,
        watch: &dyn Watch,
    ) -> Result<(), Failure> {
        let local = |error: std::io::Error| Failure::Refused(anyhow!("cannot write {} of {name}: {error}", file.path));
        let mut there = handle.metadata().map_err(local)?.len();
        if there > file.size {
            handle.set_len(0).map_err(local)?;
            there = 0;
        }
        watch.fetched(file, there);
        if there == file.size {
            return Ok(());
        }
        let mut response = self.get(url, Some(there))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            // without Range, from the beginning
            StatusCode::OK => {
                handle.set_len(0).map_err(local)?;
                there = 0;
            }
            _ => return Err(self.failure(name, &response, url)),
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        while there < file.size {
            let read = body.read(&mut buffer).map_err(|error| Failure::Unreachable(error.into()))?;
            if read == 0 {
                return Err(Failure::Unreachable(anyhow!("the connection was closed early")));
            }
            handle.write_all(&buffer[..read]).map_err(local)?;
            there += read as u64;
            watch.fetched(file, there.min(file.size));
        }
        Ok(())
    }

    fn get(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.value));
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.call().map_err(|error| {
            let what = anyhow!("{error}").context(format!("cannot reach {}", self.endpoint));
            match error {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Refused(what.context(format!("{url:?}"))),
                _ => Failure::Unreachable(what),
            }
        })
    }

    /// What an answer says that is none.
    fn failure(&self, name: &Name, response: &Response<Body>, url: &str) -> Failure {
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
        {
            return Failure::Unreachable(anyhow!("{} answers {status}", self.endpoint));
        }
        let (kind, page) = match name.kind {
            Kind::Model => ("model", format!("{}/{}", self.endpoint, name.id)),
            Kind::Dataset => ("data set", format!("{}/datasets/{}", self.endpoint, name.id)),
        };
        let is_unknown = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        Failure::Refused(match (code(response), &self.token) {
            ("GatedRepo", None) => anyhow!(
                "{name} is gated: ask for access at {page}, then give a token of yours by HF_TOKEN, or log in with \
                 `hf auth login`"
            ),
            ("GatedRepo", Some(token)) => anyhow!(
                "{name} is gated, and the owner of the token in {} has no access yet: ask for it at {page}, or give \
                 another by HF_TOKEN",
                token.origin
            ),
            ("EntryNotFound", _) => anyhow!("{url} is not there, though the hub lists it: fetch it again later"),
            (_, None) if is_unknown || status == StatusCode::NOT_FOUND => anyhow!(
                "there is no {kind} {} on {}, or it is private: mind the spelling, or give a token by HF_TOKEN \
                 ({status})",
                name.id,
                self.endpoint
            ),
            (_, Some(token)) if is_unknown => anyhow!(
                "{} refuses the token in {} ({status}), or it may not read the {kind} {}: give another by HF_TOKEN",
                self.endpoint,
                token.origin,
                name.id
            ),
            (_, Some(_)) if status == StatusCode::NOT_FOUND => anyhow!(
                "there is no {kind} {} on {} that the token may read: mind the spelling",
                name.id,
                self.endpoint
            ),
            _ => anyhow!("{url} answers {status}"),
        })
    }
}

fn code(response: &Response<Body>) -> &str {
    response.headers().get(CODE).and_then(|code| code.to_str().ok()).unwrap_or_default()
}
