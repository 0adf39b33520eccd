//! Stage 2: a generator of embeddings for every class, task by task, into the latent store.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use candle_core::Device;
use cgil::{
    device::{DeviceChoice, class_of},
    embeddings::{Embeddings, FIRST_SOURCE},
    generator::{ClassRows, GeneratorConfig, LatentStore, fit_all},
    profile::{Phase, time},
    rng::{Draw, Rng},
    rows::{Rows, Train},
    run::Run,
    stream::Stream,
    task::Class,
    words::counted,
};
use clap::Args;

use crate::{
    options::{GeneratorOptions, OrderOptions, TaskOptions},
    terminal::{self, Progress},
};

/// Classes that are fitted together, at least, per thread.
const CLASSES_PER_THREAD: usize = 8;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    tasks: TaskOptions,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    generator: GeneratorOptions,
    /// auto (CUDA if there), cpu, cuda, or cuda:1; for VAEs alone
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Print where the time went
    #[arg(long, hide_short_help = true)]
    profile: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let config = options.generator.config()?;
    let run = Run::open(&options.run, terminal::note)?;
    let source = Embeddings::open_complete(&run, FIRST_SOURCE)?;
    config.check_size(source.plan.dim)?;
    let stream = Stream::new(&source, &options.order.order(), options.tasks.required()?, options.tasks.shots)?;
    let device = options.device.open_one()?;
    terminal::note_device(&options.device, &device);
    // what cannot be fitted is refused before anything is written
    missing_tasks(&run, &LatentStore::new(&run, &stream, config.clone(), class_of(&device)))?;
    fit(&run, &stream.create(&run)?, config, &device)?;
    terminal::profile(options.profile, start)
}

impl Options {
    /// What is fitted, and on what.
    pub fn generators(&self) -> Result<(GeneratorConfig, Device)> {
        Ok((self.generator.config()?, self.device.open_one()?))
    }
}

/// Fits what is missing of the generators of a stream.
pub fn fit(run: &Run, stream: &Stream, config: GeneratorConfig, device: &Device) -> Result<()> {
    let mut store = LatentStore::new(run, stream, config, class_of(device));
    if !missing_tasks(run, &store)?.is_empty() || store.has_leftovers() {
        store.lock()?;
    }
    let missing = missing_tasks(run, &store)?; // another process may have been faster
    let classes: usize = missing.iter().map(|&task| stream.learns(task).len()).sum();
    let progress = Progress::new("fit-vae", classes * store.config.ticks());
    let mut fitted = 0;
    for tasks in groups(&missing, stream) {
        fitted += fit_tasks(run, &tasks, &store, device, &progress)?;
    }
    progress.finish();
    terminal::print(format!(
        "{} generators in {} tasks in {}, {fitted} fitted now\n",
        stream.classes.len(),
        stream.tasks(),
        run.dir().display()
    ))
}

/// The tasks that have no generators yet. An error where a class of them has too few rows for one.
fn missing_tasks(run: &Run, store: &LatentStore) -> Result<Vec<usize>> {
    let (stream, least, mut missing) = (store.stream(), store.config.least_rows(), Vec::new());
    for task in 0..stream.tasks() {
        if store.find(task)?.is_none() {
            missing.push(task);
        }
    }
    for &task in missing.iter().filter(|&&task| stream.source(task).is_some()) {
        stream.require_rows(&stream.embeddings(run, task)?, task, least)?;
    }
    Ok(missing)
}

/// Tasks that are fitted together: enough of them for every thread to have classes to choose from,
/// and not all, so that their rows fit the memory.
fn groups(tasks: &[usize], stream: &Stream) -> Vec<Vec<usize>> {
    let enough = CLASSES_PER_THREAD * rayon::current_num_threads();
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for &task in tasks {
        let classes = stream.learns(task).len();
        match groups.last_mut() {
            // more of a known class needs the generator that the class has
            Some((sum, group)) if *sum < enough && stream.more(task).next().is_none() => {
                (*sum += classes, group.push(task)).1
            }
            _ => groups.push((classes, vec![task])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Fits the classes of some tasks that are missing. Returns how many those were.
fn fit_tasks(run: &Run, tasks: &[usize], store: &LatentStore, device: &Device, progress: &Progress) -> Result<usize> {
    let (config, stream) = (&store.config, store.stream());
    let (mut missing, mut data, mut dim, mut alone) = (Vec::new(), Vec::new(), 1, Vec::new());
    let mut more = More::default();
    for &task in tasks {
        store.begin(task)?;
        let learned = stream.learned_classes(task).into_iter().zip(stream.learns(task)).zip(stream.source_labels(task));
        let (there, own): (Vec<_>, Vec<_>) = learned.partition(|((class, _), _)| store.has_class(task, class));
        progress.inc((there.len() * config.ticks()) as u64);
        if own.is_empty() {
            continue;
        }
        let embeddings = stream.embeddings(run, task)?;
        dim = embeddings.plan.dim;
        let labels: Vec<i64> = own.iter().map(|(_, label)| *label).collect();
        let rows = time(Phase::Read, || stream.train_rows(&embeddings, task, &labels))?;
        for (((class, place), _), rows) in own.into_iter().zip(rows) {
            let rows = match stream.task(task).contains(&place) {
                true => rows,
                false => with_earlier(store, task, place, &class, rows, &mut more)?,
            };
            if rows.len() == 1 {
                alone.push(class.name.clone());
            }
            data.push(ClassRows { key: class.key(), rows });
            missing.push((task, class));
        }
    }
    note_alone(&alone);
    note_more(&more);
    fit_all(
        &data,
        dim,
        stream.draws(),
        config,
        device,
        || progress.inc(1),
        |i, fitted| {
            let (task, class) = &missing[i];
            if !fitted.generator.is_finite() {
                let advice = match config.lr() {
                    Some(lr) => format!("use a smaller --lr than {lr}"),
                    None => "its embeddings are not finite numbers".into(),
                };
                bail!("the generator of {class} diverged: {advice}");
            }
            time(Phase::Write, || store.put_class(*task, class, &fitted))
        },
    )?;
    tasks.iter().try_for_each(|&task| time(Phase::Write, || store.finish_task(task)))?;
    Ok(missing.len())
}

/// Classes of which there are more embeddings.
#[derive(Default)]
struct More {
    classes: usize,
    new: usize,
    earlier: usize,
}

/// The training rows of a known class, at a place in learning order, before them as many as its
/// generator was fitted to, which that gives.
fn with_earlier(
    store: &LatentStore,
    task: usize,
    place: usize,
    class: &Class,
    rows: Rows<Train>,
    more: &mut More,
) -> Result<Rows<Train>> {
    let (generator, earlier) = store.generator_before(task, place)?;
    let mut rng = Rng::new(store.stream().draws(), Draw::EarlierRows, &[class.key(), task as u64]);
    *more = More { classes: more.classes + 1, new: more.new + rows.len(), earlier: more.earlier + earlier };
    Ok(Rows::new(rows.dim(), [generator.sample(earlier, &mut rng), rows.into_values()].concat()))
}

/// Tells what generators of known classes were fitted to.
fn note_more(more: &More) {
    if more.classes > 0 {
        terminal::note(&format!(
            "note: {} known: generators are fitted to {} and to {} that the earlier generators give for those before",
            counted(more.classes, "class"),
            counted(more.new, "new embedding"),
            more.earlier
        ));
    }
}

/// Tells which classes have one training embedding.
fn note_alone(names: &[String]) {
    if let [first, others @ ..] = names {
        let of = match others.len() {
            0 => format!("{first:?} has"),
            more => format!("{first:?} and {} have", counted(more, "more class")),
        };
        terminal::note(&format!(
            "note: {of} one training embedding: that is what the generator gives, and what the covariance of all classes \
             varies for prompts"
        ));
    }
}
