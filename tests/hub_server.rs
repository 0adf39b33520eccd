//! A server on loopback that speaks the Hugging Face hub's protocol, and counts what it sends.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use cgil::hash::hash_bytes;
use serde_json::{Value, json};

use crate::support::command;

/// Files from so many bytes on lie beside Git, behind a redirection to another host.
const LARGE: usize = 5000;

/// A repository at one commit.
#[derive(Clone, Default)]
pub struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Another revision than `main` that it is.
    pub revision: Option<&'static str>,
    /// Tokens that may know of it; empty if all may.
    pub private_to: Vec<&'static str>,
    /// Tokens that may read it, where its list is known to all.
    pub gated_to: Option<Vec<&'static str>>,
}

/// What goes wrong with large files.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Trouble {
    #[default]
    None,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// Nothing comes after so many bytes.
    Stall(usize),
    /// Range is not understood.
    NoRange(usize),
    /// Other bytes are sent.
    Damage,
    /// The first answers are 503.
    Busy(usize),
}

#[derive(Default)]
struct State {
    /// By `models/OWNER/NAME` or `datasets/OWNER/NAME`.
    repositories: BTreeMap<String, Vec<Repository>>,
    trouble: Trouble,
    /// Paths that were asked for.
    asked: Vec<String>,
    /// Bytes of large files that were sent.
    sent: usize,
    /// Whether a token reached the other host.
    leaked: bool,
}

pub struct Server {
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
    port: u16,
}

impl Server {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, stopped) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (serving, until) = (state.clone(), stopped.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if until.load(Ordering::SeqCst) {
                    break; // which closes the port
                }
                let (state, stream) = (serving.clone(), stream.unwrap());
                thread::spawn(move || answer(&state, stream, port).ok());
            }
        });
        Server { state, stopped, port }
    }

    /// Adds a revision of a repository.
    pub fn add(&self, place: &str, repository: Repository) {
        self.state.lock().unwrap().repositories.entry(place.into()).or_default().push(repository);
    }

    pub fn set_trouble(&self, trouble: Trouble) {
        self.state.lock().unwrap().trouble = trouble;
    }

    /// The paths asked for since the last call, and the bytes of large files sent.
    pub fn take(&self) -> (Vec<String>, usize) {
        let mut state = self.state.lock().unwrap();
        assert!(!state.leaked, "the token was told to another host");
        (std::mem::take(&mut state.asked), std::mem::take(&mut state.sent))
    }

    /// Bytes of large files sent since the last [`Self::take`].
    pub fn sent(&self) -> usize {
        self.state.lock().unwrap().sent
    }

    /// Nobody answers any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// `cgil`, which takes this for the hub and keeps what it fetches in `home`.
    pub fn command(&self, home: &Path, args: &[&str]) -> Command {
        let mut command = command(args);
        let others =
            ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "ALL_PROXY"];
        others.iter().for_each(|name| _ = command.env_remove(name));
        command.env("HF_ENDPOINT", format!("http://127.0.0.1:{}/", self.port)).env("HF_HOME", home);
        command
    }
}

/// The commit of a revision of a repository.
pub fn commit(place: &str, revision: &str) -> String {
    hash_bytes(format!("{place} {revision}").as_bytes())[..40].to_owned()
}

fn answer(state: &Mutex<State>, mut stream: TcpStream, port: u16) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let line = lines.next().transpose()?.unwrap_or_default();
    let (mut token, mut from) = (None, 0);
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "authorization" => token = Some(value.trim_start_matches("Bearer ").to_owned()),
            "range" => from = value.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap(),
            _ => {}
        }
    }
    let target = line.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().trim_start_matches('/').to_owned();
    let mut state = state.lock().unwrap();
    if let Some(hash) = path.strip_prefix("large/") {
        state.leaked |= token.is_some();
        let large = state.repositories.values().flatten().flat_map(|repository| repository.files.values());
        let bytes = large.into_iter().find(|bytes| hash_bytes(bytes) == hash).unwrap().clone();
        let trouble = state.trouble;
        drop_into(&mut stream, state, &bytes, from, trouble)
    } else {
        state.asked.push(path.clone());
        if token.as_deref() == Some("wrong") {
            return say(&mut stream, "401 Unauthorized", &[], b"Invalid credentials in Authorization header");
        }
        let (status, headers, body) = route(&state, &path, target.contains("blobs=true"), token.as_deref(), port);
        drop(state);
        let from = if status.starts_with("200") && !path.starts_with("api/") { from } else { 0 };
        match from {
            0 => say(&mut stream, status, &headers, &body),
            _ => say(&mut stream, "206 Partial Content", &headers, &body[from..]),
        }
    }
}

/// Sends a large file from a place on, with what goes wrong.
fn drop_into(
    stream: &mut TcpStream,
    mut state: std::sync::MutexGuard<State>,
    bytes: &[u8],
    from: usize,
    trouble: Trouble,
) -> std::io::Result<()> {
    let mut bytes = bytes.to_vec();
    if let Trouble::Busy(times) = trouble {
        state.trouble = if times > 1 { Trouble::Busy(times - 1) } else { Trouble::None };
        return say(stream, "503 Service Unavailable", &[], b"");
    }
    let (from, status) = match trouble {
        Trouble::NoRange(_) => (0, "200 OK"),
        _ => (from, "206 Partial Content"),
    };
    if trouble == Trouble::Damage {
        bytes[0] ^= 1;
    }
    let rest = &bytes[from..];
    let most = match trouble {
        Trouble::Cut(most) | Trouble::Stall(most) => most,
        Trouble::NoRange(most) => {
            state.trouble = Trouble::NoRange(usize::MAX); // cut once
            most
        }
        _ => usize::MAX,
    };
    let now = &rest[..rest.len().min(most)];
    state.sent += now.len();
    drop(state);
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
    stream.write_all(now)?;
    stream.flush()?;
    if matches!(trouble, Trouble::Stall(_)) && now.len() < rest.len() {
        thread::sleep(Duration::from_secs(20));
    }
    Ok(())
}

fn say(stream: &mut TcpStream, status: &str, headers: &[(&str, String)], body: &[u8]) -> std::io::Result<()> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}

type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

/// What the hub says to what it is asked.
fn route(state: &State, path: &str, blobs: bool, token: Option<&str>, port: u16) -> Answer {
    let refuse = |status, code: &str| (status, vec![("X-Error-Code", code.to_owned())], Vec::new());
    let (place, request) = match path.strip_prefix("api/") {
        Some(rest) => rest.split_once("/revision/").unwrap(),
        None => path.split_once("/resolve/").unwrap(),
    };
    let place =
        if place.contains("s/") && place.matches('/').count() == 2 { place.into() } else { format!("models/{place}") };
    let Some(revisions) = state.repositories.get(&place) else {
        return refuse(if token.is_some() { "404 Not Found" } else { "401 Unauthorized" }, "RepoNotFound");
    };
    let request = percent_encoding::percent_decode_str(request).decode_utf8().unwrap().into_owned();
    let of = |repository: &&Repository| repository.revision.unwrap_or("main").to_owned();
    let hash = |repository: &&Repository| commit(&place, &of(repository));
    let (revision, file) = match path.starts_with("api/") {
        true => (request.as_str(), None),
        false => request.split_once('/').map(|(revision, file)| (revision, Some(file))).unwrap(),
    };
    let Some(repository) = revisions.iter().find(|r| of(r) == revision || hash(r) == revision) else {
        return refuse("404 Not Found", "RevisionNotFound");
    };
    let may = |tokens: &[&str]| token.is_some_and(|token| tokens.contains(&token));
    if !repository.private_to.is_empty() && !may(&repository.private_to) {
        return refuse(if token.is_some() { "404 Not Found" } else { "401 Unauthorized" }, "RepoNotFound");
    }
    let Some(file) = file else {
        let sibling = |(path, bytes): (&String, &Vec<u8>)| {
            assert!(blobs);
            let mut sibling = json!({"rfilename": path, "size": bytes.len(), "blobId": &hash_bytes(bytes)[..40]});
            if bytes.len() >= LARGE {
                sibling["lfs"] = json!({"sha256": hash_bytes(bytes), "size": bytes.len(), "pointerSize": 134});
            }
            sibling
        };
        let siblings: Vec<Value> = repository.files.iter().map(sibling).collect();
        let info = json!({"id": place, "sha": hash(&repository), "gated": false, "siblings": siblings});
        return ("200 OK", Vec::new(), info.to_string().into_bytes());
    };
    if repository.gated_to.as_deref().is_some_and(|tokens| !may(tokens)) {
        return refuse(if token.is_some() { "403 Forbidden" } else { "401 Unauthorized" }, "GatedRepo");
    }
    let Some(bytes) = repository.files.get(file) else { return refuse("404 Not Found", "EntryNotFound") };
    let headers = vec![("X-Repo-Commit", hash(&repository))];
    match bytes.len() >= LARGE {
        true => {
            let place = format!("http://localhost:{port}/large/{}", hash_bytes(bytes));
            (
                "302 Found",
                [headers, vec![("Location", place), ("X-Linked-Size", bytes.len().to_string())]].concat(),
                Vec::new(),
            )
        }
        false => ("200 OK", headers, bytes.clone()),
    }
}
