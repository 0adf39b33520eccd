//! Stage 2: a generator of embeddings for every class, task by task, into the latent store.

use std::{
    mem::take,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Result, bail};
use candle_core::Device;
use cgil::{
    device::{DeviceChoice, class_of},
    embeddings::{Embeddings, FIRST_SOURCE},
    generator::{ClassRows, Fitted, GeneratorConfig, Kind, LatentStore, fit_all, store},
    partition::Partition,
    profile::{Phase, time},
    rng::{Draw, Rng},
    rows::{Rows, Train},
    run::Run,
    stop::{self, Stopped},
    stream::{ByClass, Stream, parts_of},
    task::{Class, Order},
    words::counted,
};
use clap::Args;

use crate::{
    jobs,
    options::{GeneratorOptions, OrderOptions, TaskOptions},
    terminal::{self, Progress},
};

/// Classes of the tasks that are fitted together, at least, per thread.
const CLASSES_PER_THREAD: usize = 8;

/// Training rows that are held at a time, in bytes, for each thread of the CPU and for VAEs on a CUDA
/// device; those of one class always are.
const ROWS_PER_THREAD: usize = 16 << 20;
const ROWS_ON_A_DEVICE: usize = 256 << 20;

/// Rows of mixed classes that are held while they are sorted, in bytes.
const SORTED_AT_ONCE: usize = 32 << 20;

/// From how many bytes on it is said that rows are sorted, which then takes some time.
const SAID_FROM: usize = 1_000_000_000;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    fit: FitOptions,
    /// auto (CUDA if there), cpu, cuda, or cuda:1; for VAEs alone
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Fit every N-th class alone, from class I on
    ///
    /// Partition I of N, from 0/N to N-1/N, has the classes k of the order with k mod N = I.
    /// Partitions may run anywhere that the run's directory is, at once, in any order and again;
    /// whoever finds all classes of a task there completes it.
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    partition: Option<Partition>,
    /// Print where the time went
    #[arg(long, hide_short_help = true)]
    profile: bool,
}

/// What is fitted: the classes of a stream.
#[derive(Args)]
pub struct FitOptions {
    #[command(flatten)]
    pub tasks: TaskOptions,
    #[command(flatten)]
    pub order: OrderOptions,
    #[command(flatten)]
    pub generator: GeneratorOptions,
}

pub fn run(options: &Options) -> Result<()> {
    let FitOptions { tasks, order, generator } = &options.fit;
    let start = Instant::now();
    let config = generator.config()?;
    let run = Run::open(&options.run, terminal::note)?;
    let source = Embeddings::open_complete(&run, FIRST_SOURCE)?;
    config.check_size(source.plan.dim)?;
    let stream = Stream::new(&source, &order.order(), tasks.required()?, tasks.shots)?;
    let device = options.device.open_one()?;
    terminal::note_device(&options.device, &device);
    // what cannot be fitted is refused before anything is written
    missing_tasks(&run, &LatentStore::new(&run, &stream, config.clone(), class_of(&device)))?;
    let stream = stream.create(&run)?;
    let place = run.place(&store::dir(&run, &stream, config.kind()));
    jobs::recorded(&run, &place, options.partition, || fit_part(&run, &stream, config, &device, options.partition))?;
    terminal::profile(options.profile, start)
}

impl Options {
    /// What is fitted, and on what.
    pub fn generators(&self) -> Result<(GeneratorConfig, Device)> {
        Ok((self.fit.generator.config()?, self.device.open_one()?))
    }

    /// Of what stream, and of what kind the generators are.
    pub fn stream(&self) -> (Order, TaskOptions, Kind) {
        let FitOptions { tasks, order, generator } = &self.fit;
        (order.order(), tasks.clone(), generator.kind)
    }
}

/// Fits what is missing of the generators of a stream.
pub fn fit(run: &Run, stream: &Stream, config: GeneratorConfig, device: &Device) -> Result<()> {
    fit_part(run, stream, config, device, None)
}

/// As [`fit`], of one partition of the classes alone, beside processes that fit others.
fn fit_part(
    run: &Run,
    stream: &Stream,
    config: GeneratorConfig,
    device: &Device,
    partition: Option<Partition>,
) -> Result<()> {
    let mut store = LatentStore::new(run, stream, config, class_of(device));
    match partition {
        Some(_) => store.share()?,
        None if !missing_tasks(run, &store)?.is_empty() || store.has_leftovers() => store.lock()?,
        None => {}
    }
    let own = partition.unwrap_or(Partition::WHOLE);
    let missing = missing_tasks(run, &store)?; // another process may have been faster
    let classes = missing.iter().flat_map(|&task| stream.learns(task)).filter(|&class| own.has(class)).count();
    let progress = Progress::new("fit-vae", classes * store.config.ticks());
    stop::watch();
    let mut fitting = Fitting { run, own, store: &store, device, missing: &missing, source: None, progress: &progress };
    let mut fitted = 0;
    for tasks in groups(&missing, stream) {
        fitted += fitting.tasks(&tasks)?;
        for task in tasks {
            if missing_classes(&store, task)?.is_empty() {
                time(Phase::Write, || store.finish_task(task))?;
            }
        }
        if stop::is_asked() {
            break;
        }
    }
    progress.finish();
    let mut missing = Vec::new();
    for task in 0..stream.tasks() {
        missing.extend(missing_classes(&store, task)?);
    }
    store.leave()?;
    if missing.iter().any(|&class| own.has(class)) {
        return Err(Stopped.into());
    }
    let (run, all) = (run.dir().display(), stream.classes.len());
    terminal::print(match (partition, missing.len()) {
        (Some(own), 1..) => format!(
            "partition {own} of {run}: its generators are there, {fitted} fitted now; other partitions lack {} of {all}\n",
            missing.len()
        ),
        _ => format!(
            "{} in {} in {run}, {fitted} fitted now\n",
            counted(all, "generator"),
            counted(stream.tasks(), "task")
        ),
    })
}

/// The classes of a task (from 0) that have not been fitted, as positions in the stream.
fn missing_classes(store: &LatentStore, task: usize) -> Result<Vec<usize>> {
    let stream = store.stream();
    let learned = stream.learns(task).into_iter().zip(stream.learned_classes(task));
    let missing: Vec<usize> =
        learned.filter(|(_, class)| !store.has_class(task, class)).map(|(place, _)| place).collect();
    // a task that is complete has no fitted classes beside it
    Ok(if missing.is_empty() || store.find(task)?.is_some() { Vec::new() } else { missing })
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

/// What fits the classes of a partition that are missing.
struct Fitting<'a> {
    run: &'a Run,
    own: Partition,
    store: &'a LatentStore<'a>,
    device: &'a Device,
    /// The tasks that have no generators yet.
    missing: &'a [usize],
    /// The source that was read last.
    source: Option<ByClass<'a>>,
    progress: &'a Progress,
}

/// A class that is learned, its position in the stream, and its source's label.
type Learned = (Class, usize, i64);

impl<'a> Fitting<'a> {
    /// Fits what is missing of some tasks. Returns how many classes those were.
    fn tasks(&mut self, tasks: &[usize]) -> Result<usize> {
        let Fitting { store, device, progress, .. } = *self;
        let (stream, most) = (store.stream(), self.rows_at_once());
        let (mut held, mut alone, mut more, mut fitted) = (Held::default(), Vec::new(), More::default(), 0);
        for &task in tasks {
            store.begin(task)?;
            let (there, own) = self.learned(task)?;
            progress.inc((there.len() * store.config.ticks()) as u64);
            if own.is_empty() {
                continue;
            }
            let labels: Vec<i64> = own.iter().map(|(.., label)| *label).collect();
            let mut own = own.into_iter();
            let source = self.source(task)?;
            for part in parts_of(source.embeddings(), &labels, most)? {
                if stop::is_asked() {
                    return Ok(fitted); // what is held would not be fitted
                }
                let labels = &labels[part];
                if !held.has_room(source.embeddings(), labels, most)? {
                    fitted += take(&mut held).fit(store, device, progress)?;
                }
                let rows = time(Phase::Read, || source.rows(labels))?;
                for (rows, (class, place, _)) in rows.into_iter().zip(own.by_ref()) {
                    let before = stream.learned_before(task, place).filter(|_| !stream.task(task).contains(&place));
                    if let Some(before) = before
                        && store.find(before)?.is_none()
                    {
                        continue; // other partitions have to be there first
                    }
                    let rows = match before {
                        None => rows,
                        Some(_) => with_earlier(store, task, place, &class, rows, &mut more)?,
                    };
                    if rows.len() == 1 {
                        alone.push(class.name.clone());
                    }
                    held.rows.push(ClassRows { key: class.key(), rows });
                    held.classes.push((task, class));
                }
            }
        }
        note_alone(&alone);
        note_more(&more);
        Ok(fitted + held.fit(store, device, progress)?)
    }

    /// The partition's classes of a task (from 0): those that are fitted, and those that are not.
    fn learned(&self, task: usize) -> Result<(Vec<Learned>, Vec<Learned>)> {
        let (stream, is_complete) = (self.store.stream(), self.store.find(task)?.is_some());
        let learned = stream.learned_classes(task).into_iter().zip(stream.learns(task)).zip(stream.source_labels(task));
        let own = learned.filter(|((_, place), _)| self.own.has(*place));
        let own = own.map(|((class, place), label)| (class, place, label));
        Ok(own.partition(|(class, ..)| is_complete || self.store.has_class(task, class)))
    }

    /// The source of a task (from 0), for it and what else is missing.
    fn source(&mut self, task: usize) -> Result<&ByClass<'a>> {
        let stream = self.store.stream();
        let name = stream.source(task);
        let source = match self.source.take().filter(|source| name == Some(&source.embeddings().name)) {
            Some(source) => source,
            None => {
                let (embeddings, mut parts) = (stream.embeddings(self.run, task)?, Vec::new());
                for &task in self.missing.iter().filter(|&&task| stream.source(task) == name) {
                    let labels: Vec<i64> = self.learned(task)?.1.into_iter().map(|(.., label)| label).collect();
                    let of_task = parts_of(&embeddings, &labels, self.rows_at_once())?;
                    parts.extend(of_task.into_iter().map(|part| labels[part].to_vec()));
                }
                let (scratch, note) = (self.run.scratch(), |bytes| note_sorted(bytes, &self.run.scratch()));
                time(Phase::Read, || ByClass::new(stream, embeddings, &parts, &scratch, SORTED_AT_ONCE, note))?
            }
        };
        Ok(self.source.insert(source))
    }

    /// Training rows that are held at a time, in bytes.
    fn rows_at_once(&self) -> usize {
        match self.store.config.kind() {
            Kind::Vae if !self.device.is_cpu() => ROWS_ON_A_DEVICE,
            _ => ROWS_PER_THREAD * rayon::current_num_threads(),
        }
    }
}

/// Classes whose rows are held.
#[derive(Default)]
struct Held {
    /// The task (from 0) of each, and the class.
    classes: Vec<(usize, Class)>,
    rows: Vec<ClassRows>,
}

impl Held {
    /// Whether more classes of a source may be held at the same time, in so many bytes.
    fn has_room(&self, embeddings: &Embeddings, labels: &[i64], most: usize) -> Result<bool> {
        let mut rows: usize = self.rows.iter().map(|class| class.rows.len()).sum();
        for &label in labels {
            rows += embeddings.count::<Train>(label)?;
        }
        Ok(self.rows.is_empty() || rows * embeddings.plan.dim * size_of::<f32>() <= most)
    }

    /// Fits them. Returns how many were, before the process was asked to stop.
    fn fit(self, store: &LatentStore, device: &Device, progress: &Progress) -> Result<usize> {
        let dim = self.rows.first().map_or(1, |class| class.rows.dim());
        let (fitted, tick) = (AtomicUsize::new(0), || progress.inc(1));
        let put = |i: usize, fit: Fitted| {
            let (task, class) = &self.classes[i];
            if !fit.generator.is_finite() {
                let advice = match store.config.lr() {
                    Some(lr) => format!("use a smaller --lr than {lr}"),
                    None => "its embeddings are not finite numbers".into(),
                };
                bail!("the generator of {class} diverged: {advice}");
            }
            fitted.fetch_add(1, Ordering::Relaxed);
            time(Phase::Write, || store.put_class(*task, class, &fit))
        };
        fit_all(&self.rows, dim, store.stream().draws(), &store.config, device, tick, put)?;
        Ok(fitted.into_inner())
    }
}

/// Tells that rows are sorted first, and where.
fn note_sorted(bytes: usize, scratch: &Path) {
    if bytes >= SAID_FROM {
        let (gigabytes, scratch) = (bytes as f64 / 1e9, scratch.display());
        terminal::note(&format!(
            "note: training rows come in no order of classes, and are sorted first: {gigabytes:.1} GB, in {scratch}"
        ));
    }
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
