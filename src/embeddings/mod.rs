//! The embeddings of a source: an artefact whose shards appear one by one, and which is complete
//! with the last.
//!
//! Shard k of a split holds the rows k·R to (k + 1)·R of the source's stable order, less those in
//! the quarantine shard k; so shards can be made in any order, by anyone, again, and come out the
//! same. `plan.json` says what the shards are to be, before the first; `manifest.json` seals the
//! artefact when all are there: its identity knows the rows, quarantined ones included, and what
//! was in them. Processes that share the work ([`Embeddings::join`]) put one shard at a time in place,
//! of which the first stays, and whoever finds all there seals them.

mod counts;
mod forgotten;
mod listings;
mod plan;
mod reader;
mod sealed;
mod shards;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

pub use forgotten::ForgottenRow;
pub use listings::{listings, remove_listings};
use plan::PLAN;
pub use plan::{Shard, SourcePlan};
use reader::Reader;
pub use reader::{ALL_SHARDS, LabelledRows};
use sealed::Sealed;
use shards::ShardFiles;
pub use shards::{Quarantined, ShardRows, content_line, kept_line};

use crate::{
    Error,
    artefact::{self, Input, MANIFEST, Manifest},
    atomic::{self, Lock},
    partition::Partition,
    rows::{Rows, Split, Test, Train},
    run::{Run, SOURCES},
    source::Source,
    storage,
};

/// Name of the first source of a run.
pub const FIRST_SOURCE: &str = "base";

/// The embeddings of a source of a run.
#[derive(Debug)]
pub struct Embeddings {
    run: Run,
    /// Name of the source in the run.
    pub name: String,
    /// What its shards are.
    pub plan: SourcePlan,
    /// The sealed artefact; none while shards are missing.
    sealed: Option<Sealed>,
    /// Held while shards are written.
    lock: Option<Lock>,
}

impl Embeddings {
    /// Starts or goes on with the embeddings of the source `name`. Refuses to mix: a plan that is
    /// there has to say the same, else it is an [`Error::OtherEmbeddings`]. A run that may only be
    /// read will do where all shards are there.
    pub fn create(run: &Run, name: &str, plan: SourcePlan) -> Result<Self> {
        Self::take_up(run, name, plan, Run::lock)
    }

    /// As [`Embeddings::create`], beside other processes that make other shards.
    pub fn join(run: &Run, name: &str, plan: SourcePlan) -> Result<Self> {
        Self::take_up(run, name, plan, Run::share)
    }

    fn take_up(run: &Run, name: &str, plan: SourcePlan, lock: fn(&Run, &Path) -> Result<Lock>) -> Result<Self> {
        if artefact::slug(name) != name {
            bail!("{name:?} cannot name a source: use small letters, digits, dots and dashes, 48 at most");
        }
        let (dir, plan) = (dir(run, name), plan.checked()?);
        let lock = match lock(run, &dir) {
            Ok(lock) => Some(lock),
            Err(_) if Manifest::find(&dir, &artefact::SOURCE)?.is_some() => None,
            Err(error) => return Err(error),
        };
        if !storage::is_file(&dir.join(PLAN)) {
            // asked again: another process may have begun the source meanwhile
            if let Some(shard) = shards::on_disk(&dir, shards::EMBEDDINGS).keys().next()
                && !storage::is_file(&dir.join(PLAN))
            {
                bail!(
                    "{} has lost its {PLAN}, so nobody knows what it holds: remove {}",
                    shard.display(),
                    dir.display()
                );
            }
            atomic::stage_json(&dir.join(PLAN), &plan)?.put_first()?;
        }
        let there = SourcePlan::read(&dir)?;
        if let Some(difference) = there.difference(&plan) {
            return Err(Error::OtherEmbeddings { run: run.dir().to_owned(), dir, difference }.into());
        }
        for (split, words) in [(Train::NAME, "training"), (Test::NAME, "test")] {
            if forgotten::is_forgotten(&dir, split) {
                return Err(Error::Forgotten { dir, split: words }.into());
            }
        }
        Ok(Embeddings { lock, ..Self::open(run, name)? })
    }

    /// The embeddings of the source `name`, complete or not; where there are none, an
    /// [`Error::NoEmbeddings`].
    pub fn open(run: &Run, name: &str) -> Result<Self> {
        let dir = dir(run, name);
        if !storage::is_file(&dir.join(PLAN)) {
            return Err(Error::NoEmbeddings { run: run.dir().to_owned(), name: name.to_owned() }.into());
        }
        let plan = SourcePlan::read(&dir)?;
        let sealed = Manifest::find(&dir, &artefact::SOURCE)?;
        let sealed = sealed.map(|manifest| Sealed::new(&dir, &plan, manifest)).transpose()?;
        Ok(Embeddings { run: run.clone(), name: name.to_owned(), plan, sealed, lock: None })
    }

    /// The embeddings of the source `name`, all of whose shards have been made, else an
    /// [`Error::IncompleteEmbeddings`].
    pub fn open_complete(run: &Run, name: &str) -> Result<Self> {
        let embeddings = Self::open(run, name)?;
        if embeddings.sealed.is_none() {
            let (missing, shards) = (embeddings.missing().len(), embeddings.shards().len());
            return Err(Error::IncompleteEmbeddings { dir: embeddings.dir(), missing, shards }.into());
        }
        Ok(embeddings)
    }

    /// The directory of the artefact.
    pub fn dir(&self) -> PathBuf {
        dir(&self.run, &self.name)
    }

    /// The artefact as the input of another.
    pub fn input(&self) -> Result<Input> {
        Ok(self.run.input(&self.dir(), &self.sealed()?.manifest))
    }

    fn sealed(&self) -> Result<&Sealed> {
        self.sealed.as_ref().with_context(|| format!("the embeddings in {} are not complete", self.dir().display()))
    }

    /// Whether the embeddings of a split were taken away by [`Embeddings::forget`].
    pub fn is_forgotten<S: Split>(&self) -> bool {
        forgotten::is_forgotten(&self.dir(), S::NAME)
    }

    /// Takes the embeddings of a split away for good, overwritten first where that is asked for, and with
    /// them the listings of the source's archives; the artefact stays what it is to what was made of
    /// it. Of test embeddings keys and labels are kept. Returns how many those were. Goes on where it
    /// was interrupted.
    pub fn forget<S: Split>(&mut self, overwrite: bool) -> Result<usize> {
        let dir = self.dir();
        self.require_lock()?;
        let mut images = Vec::new();
        if S::NAME == Test::NAME && !self.is_forgotten::<Test>() {
            let labels = self.plan.classes.iter().map(|class| class.label).collect();
            let LabelledRows { sample_ids, labels, .. } = self.test_rows(&labels)?;
            images.extend(sample_ids.into_iter().zip(labels));
        }
        let rows = forgotten::forget(&dir, S::NAME, images, self.sealed()?, overwrite)?;
        listings::remove_listings(&self.run, &self.name, overwrite)?;
        Ok(rows)
    }

    /// The test rows that were forgotten, in the source's order; none where they are there.
    pub fn forgotten_test_rows(&self) -> Result<Vec<ForgottenRow>> {
        if self.is_forgotten::<Test>() { forgotten::rows(&self.dir(), Test::NAME) } else { Ok(Vec::new()) }
    }

    /// Its shards, as they lie.
    fn files(&self) -> ShardFiles<'_> {
        ShardFiles { dir: self.dir(), source: &self.name, plan: &self.plan }
    }

    /// Whether all shards are there, and sealed.
    pub fn is_complete(&self) -> bool {
        self.sealed.is_some()
    }

    /// Every shard, and when it was made, or found to be what the source has; none where it is not
    /// there.
    pub fn made(&self) -> Vec<(Shard, Option<SystemTime>)> {
        let (there, files) = (shards::on_disk(&self.dir(), shards::EMBEDDINGS), self.files());
        let made = |shard: &Shard| there.get(&files.path(shards::EMBEDDINGS, shard)).copied();
        self.shards().into_iter().map(|shard| (shard.clone(), made(&shard))).collect()
    }

    /// Every shard.
    pub fn shards(&self) -> Vec<Shard> {
        self.plan.shards()
    }

    /// The shards that are not there.
    pub fn missing(&self) -> Vec<Shard> {
        self.missing_of(Partition::WHOLE)
    }

    /// The shards of a partition that are not there.
    pub fn missing_of(&self, partition: Partition) -> Vec<Shard> {
        let there = shards::on_disk(&self.dir(), shards::EMBEDDINGS);
        let files = self.files();
        let is_missing = |shard: &Shard| !there.contains_key(&files.path(shards::EMBEDDINGS, shard));
        self.shards_of(partition).into_iter().filter(is_missing).collect()
    }

    /// The shards of a partition.
    fn shards_of(&self, partition: Partition) -> Vec<Shard> {
        let shards = self.shards().into_iter().enumerate().filter(|(k, _)| partition.has(*k));
        shards.map(|(_, shard)| shard).collect()
    }

    /// Makes a shard, unless another process has by then: whoever comes first is right.
    pub fn write_shard(&mut self, shard: &Shard, rows: ShardRows) -> Result<()> {
        self.require_lock()?;
        let staged = self.files().stage(shard, rows)?;
        let _commit = self.commit()?;
        if !self.files().has(shard) {
            if self.sealed.is_some() {
                self.unseal()?;
            }
            // where another process was faster after all, what it has sealed stays
            if staged.put()? {
                self.unseal()?;
            }
        }
        Ok(())
    }

    /// Takes away shards of a partition that were made from other images than the source has now, so
    /// that they are made again: those some of whose quarantined images can be read, or are others
    /// now, and those with files that are newer than the shard and not what they were.
    pub fn remove_changed(&mut self, source: &Source, partition: Partition) -> Result<()> {
        let [there, quarantined] =
            [shards::EMBEDDINGS, shards::QUARANTINE].map(|table| shards::on_disk(&self.dir(), table));
        for shard in self.shards_of(partition) {
            let files = self.files();
            let Some(&made) = there.get(&files.path(shards::EMBEDDINGS, &shard)) else { continue };
            let has_quarantine = quarantined.contains_key(&files.path(shards::QUARANTINE, &shard));
            if files.is_changed(source, &shard, made, has_quarantine)? {
                self.require_lock()?;
                let _commit = self.commit()?;
                // where it is another by now, another process has made it again
                if self.files().made(&shard) == Some(made) {
                    self.unseal()?;
                    self.files().remove(&shard)?;
                }
            }
        }
        Ok(())
    }

    /// Before anything is written: a lock, which a run that may only be read cannot have.
    fn require_lock(&mut self) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(self.run.lock(&self.dir())?);
        }
        Ok(())
    }

    /// Keeps those who share the work from putting something in place.
    fn commit(&self) -> Result<Option<File>> {
        self.lock.as_ref().map_or(Ok(None), Lock::commit)
    }

    /// Before shards change: not sealed any more.
    fn unseal(&mut self) -> Result<()> {
        self.sealed = None;
        let path = self.dir().join(MANIFEST);
        if storage::is_file(&path) {
            storage::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Seals the artefact, all of whose shards are there. Does nothing where it is sealed.
    pub fn seal(&mut self) -> Result<()> {
        if self.sealed.is_none() {
            let _commit = self.commit()?;
            self.sealed = Some(match Manifest::find(&self.dir(), &artefact::SOURCE)? {
                Some(manifest) => Sealed::new(&self.dir(), &self.plan, manifest)?, // another process was first
                None => Sealed::make(&self.files())?,
            });
        }
        if self.lock.take_if(|lock| lock.is_shared()).is_some() {
            // what others left that were killed
            Lock::alone(&self.dir())?;
        }
        Ok(())
    }

    /// What was quarantined of a shard.
    pub fn quarantine_of(&self, shard: &Shard) -> Result<Vec<Quarantined>> {
        self.files().quarantine_of(shard)
    }

    /// How many rows of a split a class has, or had, without those in the quarantine.
    pub fn count<S: Split>(&self, label: i64) -> Result<usize> {
        Ok(self.sealed()?.count::<S>(label))
    }

    /// How many rows were quarantined.
    pub fn quarantined(&self) -> Result<usize> {
        Ok(self.sealed()?.quarantined())
    }

    /// What was quarantined of a class's rows of a split.
    pub fn quarantined_of<S: Split>(&self, label: i64) -> Result<Vec<Quarantined>> {
        let mut found = Vec::new();
        for shard in self.shards().iter().filter(|shard| shard.split == S::NAME) {
            found.extend(self.quarantine_of(shard)?.into_iter().filter(|q| q.label == label));
        }
        Ok(found)
    }

    /// The test rows of some classes, in the source's order.
    pub fn test_rows(&self, labels: &BTreeSet<i64>) -> Result<LabelledRows<Test>> {
        self.reader()?.test_rows(labels)
    }

    /// Calls `each` with the rows of some classes in a split, some at a time, in the source's
    /// order.
    pub fn each<S: Split>(
        &self,
        labels: &BTreeSet<i64>,
        each: impl FnMut(LabelledRows<S>) -> Result<()>,
    ) -> Result<()> {
        self.reader()?.each(labels, each)
    }

    /// The rows of each of some classes in a split, each in the source's order.
    pub fn class_rows<S: Split>(&self, labels: &[i64]) -> Result<Vec<Rows<S>>> {
        self.class_rows_in(labels, ALL_SHARDS)
    }

    /// As [`Embeddings::class_rows`], of some shards of the split, by their numbers.
    pub fn class_rows_in<S: Split>(&self, labels: &[i64], shards: Range<usize>) -> Result<Vec<Rows<S>>> {
        self.reader()?.class_rows(labels, shards)
    }

    /// How many rows of each label some shards of a split have, by their numbers.
    pub fn counts_in<S: Split>(&self, shards: &Range<usize>) -> Result<HashMap<i64, usize>> {
        Ok(self.sealed()?.counts_in::<S>(shards))
    }

    /// The shards of a split that have rows of some classes, by their numbers, cut into runs of at most
    /// so many of these rows, or of one shard.
    pub fn runs<S: Split>(&self, labels: &HashSet<i64>, most: usize) -> Result<Vec<Range<usize>>> {
        Ok(self.sealed()?.runs::<S>(labels, most))
    }

    /// How often shards of a split are read where rows are asked for in `parts`, each of some classes, and
    /// how many shards those are.
    pub fn reads<S: Split>(&self, parts: &[Vec<i64>]) -> Result<(usize, usize)> {
        Ok(self.sealed()?.reads::<S>(parts))
    }

    fn reader(&self) -> Result<Reader<'_>> {
        Ok(Reader { dir: self.dir(), dim: self.plan.dim, sealed: self.sealed()? })
    }
}

/// The directory of the source `name`.
pub fn dir(run: &Run, name: &str) -> PathBuf {
    run.dir().join(SOURCES).join(name)
}
