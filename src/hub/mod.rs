//! Models and data sets of the Hugging Face hub, by name, in the cache that its own tools share.
//!
//! A name is resolved to a snapshot: a directory of links to files, which stays where it is. What
//! is needed is chosen from the hub's list of files, and only that is fetched. The list is kept
//! beside the snapshot, so that what was whole once is known to be whole without the hub.

mod cache;
mod client;
mod files;
mod name;
mod watch;

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use cache::{Cache, Repo};
use client::{Client, Failure, Token};
pub use files::File;
use files::Listing;
pub use name::{Kind, Name};
pub use watch::Watch;

use crate::words::counted;

/// The branch to which the hub converts data sets that are not Parquet.
const CONVERTED: &str = "refs/convert/parquet";

/// The hub, and the cache of what was fetched of it.
pub struct Hub {
    cache: Cache,
    /// None where the hub is not to be asked.
    client: Option<Client>,
}

impl Hub {
    /// As the environment has it: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH,
    /// HF_HUB_OFFLINE, as `huggingface_hub` reads them.
    pub fn from_env() -> Result<Self> {
        let var = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let below_home = |path: &str| env::home_dir().map(|home| home.join(path));
        let caches = var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| below_home(".cache"));
        let home = var("HF_HOME").map(PathBuf::from).or_else(|| Some(caches?.join("huggingface")));
        let cache = var("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join("hub")));
        let cache = cache.context("there is no home directory to keep files of the hub in: set HF_HOME")?;
        let is_set = |value: String| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str());
        let client = match var("HF_HUB_OFFLINE").is_some_and(is_set) {
            true => None,
            false => {
                let file = var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")));
                let token = Token::of(var("HF_TOKEN"), file.as_deref());
                Some(Client::new(var("HF_ENDPOINT").as_deref(), token))
            }
        };
        Ok(Hub { cache: Cache::new(cache), client })
    }

    /// Where files are kept.
    pub fn cache_dir(&self) -> &Path {
        &self.cache.root
    }

    /// The directory of a model's files: those that a checkpoint is read from.
    pub fn model(&self, name: &Name, watch: &dyn Watch) -> Result<PathBuf> {
        let repo = self.cache.repo(name);
        let listing = self.listing(&repo, watch)?;
        let wanted = files::of_model(name, &listing)?;
        self.fetch(&repo, &listing, &wanted, watch)?;
        Ok(repo.snapshot(&listing.sha))
    }

    /// The directory of a data set's files: its Parquet, else what the hub converted to Parquet,
    /// else pictures, archives and tables of them.
    pub fn dataset(&self, name: &Name, watch: &dyn Watch) -> Result<PathBuf> {
        let repo = self.cache.repo(name);
        let listing = self.listing(&repo, watch)?;
        if name.revision.is_none() && !files::has_parquet(&listing) {
            let name = Name { revision: Some(CONVERTED.to_owned()), ..name.clone() };
            let converted = self.cache.repo(&name);
            match self.find_listing(&converted, watch)? {
                Some(listing) if files::is_whole(&listing) => {
                    watch.note(&format!("note: {} has no Parquet: taken from its branch {CONVERTED}", name.id));
                    return self.fetch_dataset(&converted, &listing, watch);
                }
                Some(_) => watch
                    .note(&format!("note: {} is converted to Parquet in part only: its own files are taken", name.id)),
                None => {}
            }
        }
        self.fetch_dataset(&repo, &listing, watch)
    }

    fn fetch_dataset(&self, repo: &Repo, listing: &Listing, watch: &dyn Watch) -> Result<PathBuf> {
        let chosen = files::of_dataset(&repo.name, listing)?;
        self.fetch(repo, listing, &chosen.files, watch)?;
        Ok(repo.snapshot(&listing.sha).join(chosen.below))
    }

    /// The files of a repository at its revision.
    fn listing(&self, repo: &Repo, watch: &dyn Watch) -> Result<Listing> {
        match self.find_listing(repo, watch)? {
            Some(listing) => Ok(listing),
            None if self.client.is_none() => bail!(
                "{} is not in the cache {}, and HF_HUB_OFFLINE keeps the hub from being asked: run once without it",
                repo.name,
                self.cache.root.display()
            ),
            None => Err(name::missing_revision(&repo.name)),
        }
    }

    /// As [`Self::listing`]; none where there is no such revision, or it is not in the cache and
    /// the hub is not to be asked.
    fn find_listing(&self, repo: &Repo, watch: &dyn Watch) -> Result<Option<Listing>> {
        let known = || repo.commit().and_then(|commit| repo.listing(&commit));
        let Some(client) = &self.client else { return Ok(known()) };
        if let (true, Some(listing)) = (repo.name.is_at_commit(), known()) {
            return Ok(Some(listing)); // which never changes
        }
        match client.listing(&repo.name) {
            Ok(listing) => {
                // a cache that may only be read will do where everything is there
                if let Some(Err(error)) = listing.as_ref().map(|listing| repo.put_listing(listing)) {
                    watch.note(&format!("note: {error:#}"));
                }
                Ok(listing)
            }
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Unreachable(error)) => match known() {
                Some(listing) => {
                    let (name, commit) = (&repo.name, &listing.sha);
                    watch.note(&format!("note: {error:#}; {name} is taken from the cache, at {commit}"));
                    Ok(Some(listing))
                }
                None => Err(error.context(format!("cannot fetch {}, which is not in the cache", repo.name))),
            },
        }
    }

    /// Fetches what of the `wanted` files is not there, and goes on where a download was cut.
    fn fetch(&self, repo: &Repo, listing: &Listing, wanted: &[&File], watch: &dyn Watch) -> Result<()> {
        let missing: Vec<&File> = wanted.iter().copied().filter(|file| !repo.has(&listing.sha, file)).collect();
        let Some(first) = missing.first() else { return Ok(()) };
        let Some(client) = &self.client else {
            bail!(
                "{} is not whole in the cache {}: {} missing, such as {}, and HF_HUB_OFFLINE keeps it from being \
                 fetched: run once without it",
                repo.name,
                self.cache.root.display(),
                counted(missing.len(), "file"),
                first.path
            );
        };
        let bytes: u64 = missing.iter().map(|file| file.size).sum();
        watch.note(&format!(
            "fetching {} at {:.12}: {}, {:.1} MB, into {}",
            repo.name.id,
            listing.sha,
            counted(missing.len(), "file"),
            bytes as f64 / 1e6,
            self.cache.root.display()
        ));
        for file in missing {
            let _lock = repo.lock(file, watch)?;
            if repo.has(&listing.sha, file) {
                continue; // another process was faster
            }
            // another revision may have it too
            if !repo.has_blob(file) {
                let part = repo.part(file)?;
                client.download(&repo.name, &listing.sha, file, &part, watch)?;
                repo.keep(file, &part)?;
            }
            repo.link(&listing.sha, file)?;
        }
        Ok(())
    }
}
