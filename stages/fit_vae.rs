//! Stage 2: a generator of embeddings for every class, task by task, into the latent store.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, bail};
use cgil::{
    generator::{LatentStore, VaeConfig, fit, store::StoreManifest},
    table::embeddings::Embeddings,
    task::{Class, Curriculum},
};
use clap::Args;
use indicatif::ProgressBar;
use rayon::prelude::*;

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    /// Tasks that the classes are cut into: ceil(classes / tasks) each, the last takes what is left
    #[arg(long)]
    tasks: usize,
    /// Permute the classes, and draw everything from this seed; without it the dataset's order, and seed 0
    #[arg(long)]
    seed: Option<u32>,
    #[command(flatten)]
    config: VaeConfig,
}

pub fn run(options: &Options) -> Result<()> {
    let embeddings = Embeddings::open_complete(&options.run)?;
    let curriculum = Curriculum::new(&embeddings.manifest.classes, options.tasks, options.seed)?;
    require_rows(&embeddings, &curriculum)?;
    let manifest = StoreManifest::new(&embeddings.manifest, options.seed, options.tasks, options.config.clone());
    let store = LatentStore::create(&options.run, manifest)?;

    let missing: Vec<usize> = (0..curriculum.tasks()).filter(|&task| !store.has_task(task)).collect();
    let classes: usize = missing.iter().map(|&task| curriculum.task(task).len()).sum();
    let progress = terminal::bar("fit-vae", classes * options.config.epochs);
    for &task in &missing {
        progress.set_message(format!("task {}", task + 1));
        fit_task(task, &embeddings, &curriculum, &store, &progress)?;
    }
    progress.finish_and_clear();
    terminal::print(format!(
        "{} generators in {} tasks in {}, {classes} fitted now\n",
        curriculum.classes.len(),
        curriculum.tasks(),
        options.run.display()
    ))
}

/// A class needs two training embeddings: one has no deviation.
fn require_rows(embeddings: &Embeddings, curriculum: &Curriculum) -> Result<()> {
    let mut rows: BTreeMap<i64, usize> = BTreeMap::new();
    for label in embeddings.labels("train")? {
        *rows.entry(label).or_default() += 1;
    }
    let few = |class: &&Class| rows.get(&class.label).copied().unwrap_or(0) < 2;
    if let Some(class) = curriculum.classes.iter().find(few) {
        bail!(
            "class {:?} (label {}) has {} training embeddings, and a generator needs at least 2: \
             add images of it, or leave the class out of the source",
            class.name,
            class.label,
            rows.get(&class.label).copied().unwrap_or(0)
        );
    }
    Ok(())
}

/// Fits the classes of a task that are missing, one per thread.
fn fit_task(
    task: usize,
    embeddings: &Embeddings,
    curriculum: &Curriculum,
    store: &LatentStore,
    progress: &ProgressBar,
) -> Result<()> {
    let classes = &curriculum.classes[curriculum.task(task)];
    let missing: Vec<&Class> = classes.iter().filter(|class| !store.has_class(task, class)).collect();
    let config = &store.manifest.config;
    progress.inc(((classes.len() - missing.len()) * config.epochs) as u64);

    let dim = embeddings.manifest.dim;
    let rows = embeddings.by_class("train", &missing)?;
    let seed = u64::from(store.manifest.seed.unwrap_or(0));
    missing.par_iter().try_for_each(|class| {
        let fitted = fit(&rows[&class.label], dim, class.label, seed, config, || progress.inc(1));
        if !fitted.generator.is_finite() {
            bail!("the generator of class {:?} diverged: use a smaller --lr than {}", class.name, config.lr);
        }
        store.put_class(task, class, &fitted)
    })?;
    store.finish_task(task, classes)
}
