//! The latent store: per task a table with a row per class, and beside it the tensors of the classes' generators,
//! stacked in one safetensors file. Kinds of generators stand side by side in a run.
//!
//! A class that is fitted is written at once, so that an interrupted task goes on with the classes that
//! are missing; a task's directory appears when all its classes are there.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use serde::{Deserialize, Serialize};

use super::{Fitted, Generator, GeneratorConfig, Kind, Measures};
use crate::{
    atomic, manifest,
    table::{contract, embeddings::Manifest, file},
    task::{Class, Curriculum},
    tensors::{self, Tensors},
};

/// The directory of all stores, below the run's.
const DIR: &str = "latents";

/// File of the stacked tensors, beside the index.
const GENERATORS: &str = "generators.safetensors";

/// What a store holds: written before the first class, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreManifest {
    pub curriculum: Curriculum,
    #[serde(flatten)]
    pub config: GeneratorConfig,
    /// What the embeddings are: [`Manifest::identity`].
    pub embeddings: String,
}

/// The generators of one kind of a run under one class order.
pub struct LatentStore {
    dir: PathBuf,
    pub manifest: StoreManifest,
    /// Held while classes are written.
    _lock: Option<File>,
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

impl StoreManifest {
    pub fn new(embeddings: &Manifest, curriculum: Curriculum, config: GeneratorConfig) -> Self {
        StoreManifest { curriculum, config, embeddings: embeddings.identity() }
    }
}

impl LatentStore {
    /// Starts or goes on with a store. Refuses to mix configurations.
    pub fn create(run: &Path, manifest: StoreManifest) -> Result<Self> {
        let dir = dir(run, &manifest.curriculum.order, manifest.config.kind());
        let lock = Some(atomic::lock(run)?);
        manifest::write_or_match(&dir, &manifest)?;
        let store = LatentStore { dir, manifest, _lock: lock };
        for task in 0..store.manifest.curriculum.tasks() {
            if store.has_task(task) {
                store.clear_partial(task)?; // a process may have been killed before it could
            }
        }
        Ok(store)
    }

    /// The store of a run for a class order and a kind of generator, finished or not.
    pub fn open(run: &Path, order: &str, kind: Kind) -> Result<Self> {
        let dir = dir(run, order, kind);
        if !manifest::exists(&dir) {
            let there = names(&run.join(DIR)).into_iter().flat_map(|order| {
                names(&run.join(DIR).join(&order)).into_iter().map(move |kind| format!("{order}/{kind}"))
            });
            let there: Vec<String> = there.collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            bail!(
                "{} has no generators {order}/{kind} (it has: {there}); run `cgil fit-vae` with the same --seed, --order and \
                 --generator first",
                run.display()
            );
        }
        Ok(LatentStore { manifest: manifest::read(&dir)?, dir, _lock: None })
    }

    /// The directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An error unless the generators were fitted to these embeddings.
    pub fn require_embeddings(&self, embeddings: &Manifest) -> Result<()> {
        if self.manifest.embeddings != embeddings.identity() {
            bail!(
                "{} was fitted to other embeddings than the run has now: remove it and run `cgil fit-vae` again",
                self.dir.display()
            );
        }
        Ok(())
    }

    /// Whether a task (from 0) is complete.
    pub fn has_task(&self, task: usize) -> bool {
        self.task_dir(task).exists()
    }

    /// Whether a class of a task that is not complete has been fitted.
    pub fn has_class(&self, task: usize, class: &Class) -> bool {
        self.class_file(task, class).exists()
    }

    /// Keeps a fitted class of a task that is not complete.
    pub fn put_class(&self, task: usize, class: &Class, fitted: &Fitted) -> Result<()> {
        let Fitted { generator, rows, measures, losses, seconds } = fitted;
        let fields = generator.fields().into_iter();
        let all: Tensors = fields.map(|(name, shape, values)| (name, (shape, values.to_vec()))).collect();
        let losses = losses.clone();
        let fit = Fit { rows: *rows, measures: *measures, losses, bytes: generator.bytes(), seconds: *seconds };
        tensors::write(&self.class_file(task, class), &all, &fit)
    }

    /// Makes a task of its classes, all of which have been put.
    pub fn finish_task(&self, task: usize, classes: &[Class]) -> Result<()> {
        let mut stacked = Tensors::new();
        let mut fits: Vec<Fit> = Vec::new();
        for class in classes {
            let (tensors, fit) = tensors::read(&self.class_file(task, class))?;
            for (name, (shape, values)) in tensors {
                let entry = stacked.entry(name).or_insert_with(|| ([&[0], &shape[..]].concat(), Vec::new()));
                entry.0[0] += 1;
                entry.1.extend(values);
            }
            fits.push(fit);
        }
        let n = classes.len();
        let measure = |f: fn(&Measures) -> Option<f64>| -> ArrayRef {
            Arc::new(Float64Array::from_iter(fits.iter().map(|fit| f(&fit.measures))))
        };
        let index = file::rows(
            contract::latents(),
            0,
            vec![
                Arc::new(StringArray::from(vec![self.manifest.curriculum.order.as_str(); n])),
                Arc::new(Int64Array::from(vec![self.manifest.curriculum.seed.map(i64::from); n])),
                Arc::new(Int64Array::from(vec![task as i64 + 1; n])),
                Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
                Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
                Arc::new(StringArray::from(vec![self.manifest.config.kind().to_string(); n])),
                Arc::new(Int64Array::from_iter_values(0..n as i64)),
                Arc::new(Int64Array::from_iter_values(fits.iter().map(|f| f.rows as i64))),
                measure(|m| m.reconstruction),
                measure(|m| m.kl),
                measure(|m| m.log_likelihood),
                measure(|m| m.denoising),
                Arc::new(Int64Array::from_iter_values(fits.iter().map(|f| f.bytes as i64))),
                Arc::new(Float64Array::from_iter_values(fits.iter().map(|f| f.seconds))),
            ],
        )?;
        let losses = self.losses(task, classes, &fits)?;
        atomic::write_dir(&self.task_dir(task), |dir| {
            tensors::write(&dir.join(GENERATORS), &stacked, &self.manifest)?;
            file::write(&dir.join("index.parquet"), contract::latents(), &index, &vec![])?;
            file::write(&dir.join("losses.parquet"), contract::generator_losses(), &losses, &vec![])
        })?;
        self.clear_partial(task)
    }

    /// The losses of a task's classes, a row per class and epoch.
    fn losses(&self, task: usize, classes: &[Class], fits: &[Fit]) -> Result<RecordBatch> {
        let curriculum = &self.manifest.curriculum;
        let rows =
            || classes.iter().zip(fits).flat_map(|(class, fit)| (1..).zip(&fit.losses).map(move |row| (class, row)));
        let n = rows().count();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![curriculum.order.as_str(); n])),
            Arc::new(Int64Array::from(vec![curriculum.seed.map(i64::from); n])),
            Arc::new(StringArray::from(vec![self.manifest.config.kind().to_string(); n])),
            Arc::new(Int64Array::from(vec![task as i64 + 1; n])),
            Arc::new(Int64Array::from_iter_values(rows().map(|(class, _)| class.label))),
            Arc::new(Int64Array::from_iter_values(rows().map(|(_, (epoch, _))| epoch))),
            Arc::new(Float64Array::from_iter_values(rows().map(|(_, (_, loss))| *loss))),
        ];
        file::rows(contract::generator_losses(), 0, columns)
    }

    fn clear_partial(&self, task: usize) -> Result<()> {
        let dir = self.partial_dir(task);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        Ok(())
    }

    /// The generators of the classes that a task learns, in learning order.
    pub fn read_task(&self, task: usize) -> Result<Vec<Generator>> {
        let curriculum = &self.manifest.curriculum;
        let dir = self.task_dir(task);
        if !dir.exists() {
            bail!(
                "{} has no generators for task {}: run `cgil fit-vae` again, it goes on where it stopped",
                self.dir.display(),
                task + 1
            );
        }
        let index = file::read(&dir.join("index.parquet"), contract::latents(), 0)?;
        let path = dir.join(GENERATORS);
        let (stacked, _) = tensors::read::<StoreManifest>(&path)?;
        let labels = file::int64s(&index, "label");
        let expected: Vec<i64> = curriculum.classes[curriculum.task(task)].iter().map(|c| c.label).collect();
        if labels != expected {
            bail!(
                "{} holds the classes {labels:?}, but task {} learns {expected:?}; remove {} and fit again",
                dir.display(),
                task + 1,
                self.dir.display()
            );
        }
        let generators = unstack(stacked, labels.len()).and_then(|classes| {
            let kind = self.manifest.config.kind();
            classes.into_iter().map(|mut tensors| Generator::from_tensors(kind, &mut tensors)).collect()
        });
        generators.with_context(|| format!("{} is damaged; fit again", path.display()))
    }

    fn task_dir(&self, task: usize) -> PathBuf {
        self.dir.join(format!("task-{:02}", task + 1))
    }

    fn partial_dir(&self, task: usize) -> PathBuf {
        self.dir.join(format!("task-{:02}.partial", task + 1))
    }

    fn class_file(&self, task: usize, class: &Class) -> PathBuf {
        self.partial_dir(task).join(format!("class-{}.safetensors", class.label))
    }
}

fn dir(run: &Path, order: &str, kind: Kind) -> PathBuf {
    run.join(DIR).join(order).join(kind.to_string())
}

/// Names of what a directory holds, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
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
