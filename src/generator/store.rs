//! The latent store: per task an artefact with a table with a row per class, and beside it the
//! tensors of the classes' generators, stacked in one safetensors file. Kinds of generators stand
//! side by side in a run.
//!
//! A class that is fitted is written at once, so that an interrupted task goes on with the classes
//! that are missing; a task's artefact appears when all its classes are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Fitted, Generator, GeneratorConfig, Kind, Measures};
use crate::{
    artefact::{self, Identity, Input, MANIFEST, Manifest, Plan},
    atomic::{self, Lock},
    run::{LATENTS, Run, names, step_name},
    storage,
    stream::Stream,
    table::{contract, file},
    task::Class,
    tensors::{self, Tensors},
};

/// File of the stacked tensors, beside the index.
const GENERATORS: &str = "generators.safetensors";
const INDEX: &str = "index.parquet";
const LOSSES: &str = "losses.parquet";

/// File that says which artefact the fitted classes of a task that is not complete are of.
const PARTIAL: &str = "identity.json";

/// What can be done about generators that were made otherwise.
const ADVICE: &str = "use the same options, another --seed or another --run, or, if no images are forgotten, remove it \
                      and the tasks after it";

/// The generators of one kind of a stream.
#[derive(Debug)]
pub struct LatentStore<'a> {
    run: &'a Run,
    stream: &'a Stream,
    dir: PathBuf,
    /// How the generators are fitted.
    pub config: GeneratorConfig,
    /// Class of the device that computes.
    device: &'static str,
    /// Held while classes are written.
    lock: Option<Lock>,
}

/// What a task's artefact is made with.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    config: GeneratorConfig,
    /// What draws are keyed by.
    seed: u64,
}

/// What stands beside the tensors of one class while its task is not complete.
#[derive(Serialize, Deserialize)]
struct Fit {
    rows: usize,
    measures: Measures,
    losses: Vec<f64>,
    bytes: usize,
    seconds: f64,
}

impl<'a> LatentStore<'a> {
    /// The store of a stream for generators of this configuration, computed on a class of device.
    pub fn new(run: &'a Run, stream: &'a Stream, config: GeneratorConfig, device: &'static str) -> Self {
        let dir = dir(run, stream, config.kind());
        let device = if config.kind() == Kind::Vae { device } else { "cpu" }; // the others compute nowhere else
        LatentStore { run, stream, dir, config, device, lock: None }
    }

    /// The store of a stream for a kind of generator, finished or not.
    pub fn open(run: &'a Run, stream: &'a Stream, kind: Kind) -> Result<Self> {
        let first = dir(run, stream, kind).join(step_name(1));
        let Some(manifest) = Manifest::find(&first, &artefact::GENERATORS)? else {
            let of_stream = |stream: String| {
                names(&run.dir().join(LATENTS).join(&stream)).into_iter().map(move |kind| format!("{stream}/{kind}"))
            };
            let there: Vec<String> = names(&run.dir().join(LATENTS)).into_iter().flat_map(of_stream).collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            bail!(
                "{} has no generators {}/{kind} (it has: {there}); run `cgil fit-vae` with the same --seed, --order and \
                 --generator first",
                run.dir().display(),
                stream.name
            );
        };
        let options: Options = manifest.options(&first)?;
        Ok(LatentStore::new(run, stream, options.config, "cpu"))
    }

    /// Waits until nobody else writes into the store, and clears what is left of finished tasks.
    pub fn lock(&mut self) -> Result<()> {
        self.lock = Some(self.run.lock(&self.dir)?);
        self.clear_finished()
    }

    /// Fits classes beside other processes that fit others. Where there is none yet, clears what is
    /// left of tasks that are finished or were begun otherwise.
    pub fn share(&mut self) -> Result<()> {
        if let Some(_alone) = Lock::alone(&self.dir)? {
            self.clear_finished()?;
            for task in 0..self.stream.tasks() {
                if self.begun(task)?.is_some_and(|of| of != self.plan(task).identity()) {
                    self.clear_partial(task)?;
                }
            }
        }
        self.lock = Some(self.run.share(&self.dir)?);
        Ok(())
    }

    /// Ends [`LatentStore::share`]: the last process clears what is left of tasks that are finished.
    pub fn leave(&mut self) -> Result<()> {
        if self.lock.take_if(|lock| lock.is_shared()).is_some()
            && let Some(_alone) = Lock::alone(&self.dir)?
        {
            self.clear_finished()?;
        }
        Ok(())
    }

    fn clear_finished(&self) -> Result<()> {
        for task in 0..self.stream.tasks() {
            if self.find(task)?.is_some() {
                self.clear_partial(task)?; // a process may have been killed before it could
            }
        }
        Ok(())
    }

    /// Keeps those who share the store from beginning or finishing a task.
    fn commit(&self) -> Result<Option<fs::File>> {
        self.lock.as_ref().map_or(Ok(None), Lock::commit)
    }

    /// Whether something is left of tasks that were begun.
    pub fn has_leftovers(&self) -> bool {
        (0..self.stream.tasks()).any(|task| storage::exists(&self.partial_dir(task)))
    }

    /// The directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a directory is below the run's.
    pub fn place(&self, dir: &Path) -> String {
        self.run.place(dir)
    }

    /// The stream whose classes it is of.
    pub fn stream(&self) -> &Stream {
        self.stream
    }

    fn plan(&self, task: usize) -> Plan {
        let options = Options { config: self.config.clone(), seed: self.stream.draws() };
        let options = serde_json::to_value(options).expect("options are plain values");
        let plan = Plan::new(&artefact::GENERATORS, options).on(self.device).with("stream", self.stream.input(task));
        self.fitted_before(task).fold(plan, |plan, before| {
            let (dir, planned) = (self.task_dir(before), || self.plan(before).identity());
            // it may have been computed on another device
            let there = Manifest::find(&dir, &artefact::GENERATORS).ok().flatten();
            let input = Input::new(self.run.dir(), &dir, there.map_or_else(planned, |manifest| manifest.identity));
            plan.with(&format!("generators {}", before + 1), input)
        })
    }

    /// The tasks that fitted generators of classes of which a task (from 0) has more embeddings.
    fn fitted_before(&self, task: usize) -> impl Iterator<Item = usize> {
        let before: BTreeSet<usize> =
            self.stream.more(task).filter_map(|class| self.stream.learned_before(task, class)).collect();
        before.into_iter()
    }

    /// The artefact of a task (from 0), where it is complete. An error where it was made otherwise.
    pub fn find(&self, task: usize) -> Result<Option<Manifest>> {
        self.plan(task).find(&self.task_dir(task), ADVICE)
    }

    /// The artefact of a task (from 0) as the input of another.
    pub fn input(&self, task: usize) -> Result<Input> {
        let dir = self.task_dir(task);
        match self.find(task)? {
            Some(manifest) => Ok(self.run.input(&dir, &manifest)),
            None => bail!(
                "{} has no generators for task {}: run `cgil fit-vae` again, it goes on where it stopped",
                self.dir.display(),
                task + 1
            ),
        }
    }

    /// Whether a class of a task that is not complete has been fitted.
    pub fn has_class(&self, task: usize, class: &Class) -> bool {
        storage::is_file(&self.class_file(task, class))
    }

    /// Takes up a task that is not complete: classes of it that were fitted as another artefact are
    /// removed; an error where another process may be fitting them.
    pub fn begin(&self, task: usize) -> Result<()> {
        let _commit = self.commit()?;
        let (mut there, identity) = (self.begun(task)?, self.plan(task).identity());
        let is_shared = self.lock.as_ref().is_some_and(Lock::is_shared);
        if there.is_none() && is_shared {
            atomic::stage_json(&self.partial_dir(task).join(PARTIAL), &identity)?.put_first()?;
            there = self.begun(task)?; // without locks it may be another process's
        }
        if there.as_ref() != Some(&identity) {
            ensure!(
                !is_shared,
                "{} has classes that are being fitted with other options: wait until that is done, or stop it; \
                 where nothing is, remove it",
                self.partial_dir(task).display()
            );
            self.clear_partial(task)?;
            atomic::write_json(&self.partial_dir(task).join(PARTIAL), &identity)?;
        }
        Ok(())
    }

    /// What the fitted classes of a task that is not complete are to become.
    fn begun(&self, task: usize) -> Result<Option<Identity>> {
        let path = self.partial_dir(task).join(PARTIAL);
        match storage::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => {
                let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                Ok(serde_json::from_slice(&text).ok())
            }
        }
    }

    /// Keeps a fitted class of a task that is not complete, unless another process has by now.
    pub fn put_class(&self, task: usize, class: &Class, fitted: &Fitted) -> Result<()> {
        if self.has_class(task, class) || self.find(task)?.is_some() {
            return Ok(());
        }
        let Fitted { generator, rows, measures, losses, seconds } = fitted;
        let fields = generator.fields().into_iter();
        let all: Tensors = fields.map(|(name, shape, values)| (name, (shape, values.to_vec()))).collect();
        let losses = losses.clone();
        let fit = Fit { rows: *rows, measures: *measures, losses, bytes: generator.bytes(), seconds: *seconds };
        tensors::stage(&self.class_file(task, class), &all, &fit)?.put_first().map(|_| ())
    }

    /// Makes a task of its classes, all of which have been put; where another process has, it is left
    /// as it is.
    pub fn finish_task(&self, task: usize) -> Result<()> {
        let _commit = self.commit()?;
        if self.find(task)?.is_some() {
            return Ok(());
        }
        let classes = &self.stream.learned_classes(task)[..];
        let mut stacked = Tensors::new();
        let mut fits: Vec<Fit> = Vec::new();
        for class in classes {
            let (tensors, fit): (Tensors, Fit) = match tensors::read(&self.class_file(task, class)) {
                // without locks another process may have finished it by now, and cleared this
                Err(_) if self.find(task)?.is_some() => return Ok(()),
                read => read?,
            };
            for (name, (shape, values)) in tensors {
                let entry = stacked.entry(name).or_insert_with(|| ([&[0], &shape[..]].concat(), Vec::new()));
                entry.0[0] += 1;
                entry.1.extend(values);
            }
            fits.push(fit);
        }
        let (index, losses) = (self.index(task, classes, &fits)?, self.losses(task, classes, &fits)?);
        let dir = self.task_dir(task);
        self.plan(task).make(&dir, self.run.place(&dir), Value::Null, |dir| {
            tensors::write(&dir.join(GENERATORS), &stacked, &json!({}))?;
            file::write(&dir.join(INDEX), contract::latents(), &index, &vec![])?;
            file::write(&dir.join(LOSSES), contract::generator_losses(), &losses, &vec![])
        })?;
        self.clear_partial(task)
    }

    fn index(&self, task: usize, classes: &[Class], fits: &[Fit]) -> Result<RecordBatch> {
        let n = classes.len();
        let measure = |f: fn(&Measures) -> Option<f64>| -> ArrayRef {
            Arc::new(Float64Array::from_iter(fits.iter().map(|fit| f(&fit.measures))))
        };
        let mut columns = self.stream.keys(n);
        columns.extend([
            Arc::new(Int64Array::from(vec![task as i64 + 1; n])) as ArrayRef,
            Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
            Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
            Arc::new(StringArray::from(vec![self.config.kind().to_string(); n])),
            Arc::new(Int64Array::from_iter_values(0..n as i64)),
            Arc::new(Int64Array::from_iter_values(fits.iter().map(|f| f.rows as i64))),
            measure(|m| m.reconstruction),
            measure(|m| m.kl),
            measure(|m| m.log_likelihood),
            measure(|m| m.denoising),
            Arc::new(Int64Array::from_iter_values(fits.iter().map(|f| f.bytes as i64))),
            Arc::new(Float64Array::from_iter_values(fits.iter().map(|f| f.seconds))),
        ]);
        file::rows(contract::latents(), 0, columns)
    }

    /// The losses of a task's classes, a row per class and epoch.
    fn losses(&self, task: usize, classes: &[Class], fits: &[Fit]) -> Result<RecordBatch> {
        let rows =
            || classes.iter().zip(fits).flat_map(|(class, fit)| (1..).zip(&fit.losses).map(move |row| (class, row)));
        let n = rows().count();
        let mut columns = self.stream.keys(n);
        columns.extend([
            Arc::new(StringArray::from(vec![self.config.kind().to_string(); n])) as ArrayRef,
            Arc::new(Int64Array::from(vec![task as i64 + 1; n])),
            Arc::new(Int64Array::from_iter_values(rows().map(|(class, _)| class.label))),
            Arc::new(Int64Array::from_iter_values(rows().map(|(_, (epoch, _))| epoch))),
            Arc::new(Float64Array::from_iter_values(rows().map(|(_, (_, loss))| *loss))),
        ]);
        file::rows(contract::generator_losses(), 0, columns)
    }

    fn clear_partial(&self, task: usize) -> Result<()> {
        let dir = self.partial_dir(task);
        if storage::exists(&dir) { atomic::remove_dir(&dir) } else { Ok(()) }
    }

    /// The generators of all classes of the first `learned` tasks, in learning order: of each the one
    /// that was fitted last.
    pub fn generators(&self, learned: usize) -> Result<Vec<Generator>> {
        let mut all: Vec<Generator> = Vec::new();
        for task in 0..learned {
            for (class, generator) in self.stream.learns(task).into_iter().zip(self.read_task(task)?) {
                match all.get_mut(class) {
                    Some(known) => *known = generator,
                    None => all.push(generator),
                }
            }
        }
        Ok(all)
    }

    /// The generator of a known class, at a position in learning order, as it was before task `task`
    /// (from 0), and the number of embeddings that it was fitted to.
    pub fn generator_before(&self, task: usize, class: usize) -> Result<(Generator, usize)> {
        let before = self.stream.learned_before(task, class).context("the class was not learned before")?;
        let learns = self.stream.learns(before);
        let place = learns.iter().position(|&learned| learned == class).context("the class was not learned before")?;
        let rows = file::int64s(&self.read_index(before)?, "rows")[place];
        Ok((self.read_task(before)?.swap_remove(place), rows as usize))
    }

    /// The generators of the classes that a task (from 0) learns, in the order of
    /// [`Stream::learns`].
    pub fn read_task(&self, task: usize) -> Result<Vec<Generator>> {
        self.input(task)?;
        let dir = self.task_dir(task);
        let manifest = Manifest::read(&dir, &artefact::GENERATORS)?;
        manifest.check_file(&dir, GENERATORS)?;
        let index = self.read_index(task)?;
        let path = dir.join(GENERATORS);
        let (stacked, _) = tensors::read::<f32, Value>(&path)?;
        let labels = file::int64s(&index, "label");
        ensure!(
            labels.iter().eq(self.stream.learned_classes(task).iter().map(|class| &class.label)),
            "{} holds other classes than task {} learns; remove it and fit again",
            dir.display(),
            task + 1
        );
        let generators = unstack(stacked, labels.len()).and_then(|classes| {
            let kind = self.config.kind();
            classes.into_iter().map(|mut tensors| Generator::from_tensors(kind, &mut tensors)).collect()
        });
        generators.with_context(|| format!("{} is damaged; fit again", path.display()))
    }

    /// Bytes of the generators of a task (from 0).
    pub fn stored(&self, task: usize) -> Result<usize> {
        Ok(file::int64s(&self.read_index(task)?, "bytes").iter().sum::<i64>() as usize)
    }

    fn read_index(&self, task: usize) -> Result<RecordBatch> {
        let dir = self.task_dir(task);
        Manifest::read(&dir, &artefact::GENERATORS)?.check_file(&dir, INDEX)?;
        file::read(&dir.join(INDEX), contract::latents(), 0)
    }

    /// The directory of the artefact of a task (from 0).
    pub fn task_dir(&self, task: usize) -> PathBuf {
        task_dir(&self.dir, task)
    }

    fn partial_dir(&self, task: usize) -> PathBuf {
        partial_dir(&self.dir, task)
    }

    fn class_file(&self, task: usize, class: &Class) -> PathBuf {
        self.partial_dir(task).join(class_file(class))
    }
}

/// The directory of the store of a stream for a kind of generator.
pub fn dir(run: &Run, stream: &Stream, kind: Kind) -> PathBuf {
    run.dir().join(LATENTS).join(&stream.name).join(kind.to_string())
}

/// When each class of a stream was fitted by a kind of generator, or its task was complete, however
/// it was set; none where neither has been. And whether all tasks are complete.
pub fn fitted(run: &Run, stream: &Stream, kind: Kind) -> (Vec<Option<SystemTime>>, bool) {
    let dir = dir(run, stream, kind);
    let when = |path: PathBuf| storage::metadata(&path).ok()?.modified();
    let (mut times, mut is_complete) = (Vec::new(), true);
    for task in 0..stream.tasks() {
        let complete = when(task_dir(&dir, task).join(MANIFEST));
        is_complete &= complete.is_some();
        let of_classes = if complete.is_some() { BTreeMap::new() } else { storage::times(&partial_dir(&dir, task)) };
        let of_class = |class: &Class| complete.or_else(|| of_classes.get(&class_file(class)).copied());
        times.extend(stream.classes_of(task).iter().map(of_class));
    }
    (times, is_complete)
}

fn task_dir(dir: &Path, task: usize) -> PathBuf {
    dir.join(step_name(task + 1))
}

fn partial_dir(dir: &Path, task: usize) -> PathBuf {
    dir.join(format!("{}.partial", step_name(task + 1)))
}

/// The file of a class of a task that is not complete, in [`partial_dir`].
fn class_file(class: &Class) -> String {
    format!("class-{}.safetensors", class.label)
}

/// Cuts tensors stacked over `n` classes into those of each class.
fn unstack(stacked: Tensors, n: usize) -> Result<Vec<Tensors>> {
    let mut classes = vec![Tensors::new(); n];
    for (name, (shape, values)) in stacked {
        if shape.first() != Some(&n) || values.is_empty() {
            bail!("tensor {name:?} has shape {shape:?}, but the index has {n} classes");
        }
        for (class, values) in classes.iter_mut().zip(values.chunks_exact(values.len() / n)) {
            class.insert(name.clone(), (shape[1..].to_vec(), values.to_vec()));
        }
    }
    Ok(classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        generator::{ClassRows, VaeConfig, fit},
        rows::Rows,
    };

    fn stream() -> Stream {
        let classes: Vec<Class> = (0..3).map(|i| Class { label: 7 + i, name: format!("c{i}") }).collect();
        Stream::of_sizes(&classes, &[2, 1]).unwrap()
    }

    fn fitted(config: &GeneratorConfig, key: u64) -> Fitted {
        let rows = (0..40).map(|i| (i as f32 * (0.37 + key as f32)).sin()).collect(); // (10, 4)
        fit(&ClassRows { key, rows: Rows::new(4, rows) }, 0, config, || ())
    }

    #[test]
    fn a_task_is_complete_with_its_last_class_and_reads_as_it_was_fitted() {
        let dir = tempfile::tempdir().unwrap();
        let (run, stream) = (Run::open(dir.path(), |_| ()).unwrap(), stream());
        let vae = |epochs| VaeConfig { epochs, hidden: 8, latent: 3, batch_size: 4, ..VaeConfig::DEFAULT };
        let configs = [1, 2].map(|epochs| GeneratorConfig::Vae(vae(epochs)));
        let store = |config: &GeneratorConfig| LatentStore::new(&run, &stream, config.clone(), "cpu");
        let (first, other) = (store(&configs[0]), store(&configs[1]));
        let [c0, c1] = [0, 1].map(|i| &stream.classes_of(0)[i]);
        assert!(LatentStore::open(&run, &stream, Kind::Vae).unwrap_err().to_string().contains("it has: none"));

        // a class that was fitted otherwise is not taken for one of the same options
        other.begin(0).unwrap();
        other.put_class(0, c0, &fitted(&configs[1], 0)).unwrap();
        other.begin(0).unwrap();
        assert!(other.has_class(0, c0) && !other.has_class(0, c1));
        first.begin(0).unwrap();
        assert!(!first.has_class(0, c0));
        let fits = [0, 1].map(|key| fitted(&configs[0], key));
        for (class, fit) in [c0, c1].into_iter().zip(&fits) {
            first.put_class(0, class, fit).unwrap();
        }
        assert!(first.find(0).unwrap().is_none());
        assert!(first.input(0).unwrap_err().to_string().contains("no generators for task 1"));
        first.finish_task(0).unwrap();
        assert!(!first.partial_dir(0).exists() && first.find(0).unwrap().is_some() && first.find(1).unwrap().is_none());

        let opened = LatentStore::open(&run, &stream, Kind::Vae).unwrap();
        assert_eq!(opened.config, configs[0]);
        let read = opened.read_task(0).unwrap();
        assert_eq!(read.len(), 2);
        for (read, fitted) in read.iter().zip(&fits) {
            assert_eq!(read.fields(), fitted.generator.fields());
        }
        assert_eq!(opened.stored(0).unwrap(), fits.iter().map(|fit| fit.generator.bytes()).sum::<usize>());
        assert!(other.find(0).unwrap_err().to_string().contains("config.epochs is 1 there, 2 now"));
        // what a process that was killed left of a finished task goes
        first.begin(0).unwrap();
        let mut locked = store(&configs[0]);
        locked.lock().unwrap();
        assert!(!first.partial_dir(0).exists());
    }

    #[test]
    fn stacked_tensors_of_other_classes_are_refused() {
        let stacked = |shape: Vec<usize>, values: Vec<f32>| Tensors::from([("mean".into(), (shape, values))]);
        let classes = unstack(stacked(vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 2).unwrap();
        assert_eq!(classes[1]["mean"], (vec![3], vec![4.0, 5.0, 6.0]));
        for (shape, values) in [(vec![3, 2], vec![0.0; 6]), (vec![2, 0], vec![]), (vec![], vec![1.0])] {
            let error = unstack(stacked(shape.clone(), values), 2).unwrap_err().to_string();
            assert!(error.contains(&format!("shape {shape:?}, but the index has 2 classes")), "{error}");
        }
    }
}
