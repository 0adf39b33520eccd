//! Stage 2: a generator of embeddings for every class, task by task, into the latent store.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use candle_core::Device;
use cgil::{
    device::Choice,
    generator::{ClassRows, GeneratorOptions, LatentStore, fit_all, store::StoreManifest},
    profile::{Phase, time},
    table::embeddings::Embeddings,
    task::{Class, Curriculum, OrderOptions, TaskOptions},
};
use clap::Args;
use indicatif::ProgressBar;

use crate::terminal;

/// Classes that are fitted together, at least, per thread.
const CLASSES_PER_THREAD: usize = 8;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    #[command(flatten)]
    tasks: TaskOptions,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    generator: GeneratorOptions,
    /// What computes VAEs: auto, cpu, cuda, or cuda:1; the other kinds are for the CPU
    #[arg(long, default_value = "auto")]
    device: Choice,
    /// Print where the time went
    #[arg(long)]
    profile: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let config = options.generator.config()?;
    let embeddings = Embeddings::open_complete(&options.run)?;
    let curriculum = Curriculum::new(&embeddings.manifest.classes, &options.tasks, &options.order)?;
    require_rows(&embeddings, &curriculum)?;
    let manifest = StoreManifest::new(&embeddings.manifest, curriculum, config);
    let store = LatentStore::create(&options.run, manifest)?;
    let curriculum = &store.manifest.curriculum;

    let missing: Vec<usize> = (0..curriculum.tasks()).filter(|&task| !store.has_task(task)).collect();
    let classes: usize = missing.iter().map(|&task| curriculum.task(task).len()).sum();
    let device = options.device.open_one()?;
    terminal::note_device(&options.device, &device);
    let progress = terminal::bar("fit-vae", classes * store.manifest.config.ticks());
    for tasks in groups(&missing, curriculum) {
        fit_tasks(&tasks, &embeddings, &store, &device, &progress)?;
    }
    progress.finish_and_clear();
    terminal::print(format!(
        "{} generators in {} tasks in {}, {classes} fitted now\n",
        curriculum.classes.len(),
        curriculum.tasks(),
        options.run.display()
    ))?;
    terminal::profile(options.profile, start)
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

/// Tasks that are fitted together: enough of them for every thread to have classes to choose from, and not all, so that
/// their rows fit the memory.
fn groups(tasks: &[usize], curriculum: &Curriculum) -> Vec<Vec<usize>> {
    let enough = CLASSES_PER_THREAD * rayon::current_num_threads();
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for &task in tasks {
        let classes = curriculum.task(task).len();
        match groups.last_mut() {
            Some((sum, group)) if *sum < enough => (*sum += classes, group.push(task)).1,
            _ => groups.push((classes, vec![task])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Fits the classes of some tasks that are missing.
fn fit_tasks(
    tasks: &[usize],
    embeddings: &Embeddings,
    store: &LatentStore,
    device: &Device,
    progress: &ProgressBar,
) -> Result<()> {
    let (config, curriculum) = (&store.manifest.config, &store.manifest.curriculum);
    let all = tasks.iter().flat_map(|&task| curriculum.classes[curriculum.task(task)].iter().map(move |c| (task, c)));
    let (there, missing): (Vec<_>, Vec<_>) = all.partition(|(task, class)| store.has_class(*task, class));
    progress.inc((there.len() * config.ticks()) as u64);

    let classes: Vec<&Class> = missing.iter().map(|(_, class)| *class).collect();
    let mut rows = time(Phase::Read, || embeddings.by_class("train", &classes))?;
    let data: Vec<ClassRows> = missing
        .iter()
        .map(|(_, class)| ClassRows { label: class.label, rows: rows.remove(&class.label).unwrap_or_default() })
        .collect();
    fit_all(
        &data,
        embeddings.manifest.dim,
        curriculum.draws(),
        config,
        device,
        || progress.inc(1),
        |i, fitted| {
            let (task, class) = missing[i];
            if !fitted.generator.is_finite() {
                let advice = match config.lr() {
                    Some(lr) => format!("use a smaller --lr than {lr}"),
                    None => "its embeddings are not finite numbers".into(),
                };
                bail!("the generator of class {:?} diverged: {advice}", class.name);
            }
            time(Phase::Write, || store.put_class(task, class, &fitted))
        },
    )?;
    for &task in tasks {
        time(Phase::Write, || store.finish_task(task, &curriculum.classes[curriculum.task(task)]))?;
    }
    Ok(())
}
