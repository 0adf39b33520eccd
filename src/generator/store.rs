//! The latent store: per task a table with a row per class, and beside it the classes' decoders and
//! scalings, stacked in one safetensors file.
//!
//! A class that is fitted is written at once, so that an interrupted task goes on with the classes that
//! are missing; a task's directory appears when all its classes are there.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use serde::{Deserialize, Serialize};

use super::{
    Fitted, Generator, Scaler, VaeConfig,
    vae::{Decoder, Losses},
};
use crate::{
    atomic, manifest, order_name,
    table::{contract, embeddings::Manifest, file},
    task::{Class, Curriculum},
    tensors::{self, Tensors},
};

/// File of the stacked weights and scalings, beside the index.
const GENERATORS: &str = "generators.safetensors";

/// Names of the tensors of a generator.
const LAYERS: [&str; 3] = ["decoder.0", "decoder.2", "decoder.4"];

/// What a store holds: written before the first class, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreManifest {
    /// Seed of the class order and of every draw; none is the dataset's order, drawn from seed 0.
    pub seed: Option<u32>,
    pub tasks: usize,
    pub generator: String,
    pub config: VaeConfig,
    /// What the embeddings are: [`Manifest::identity`].
    pub embeddings: String,
}

/// The generators of a run under one class order.
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
    reconstruction: f64,
    kl: f64,
    seconds: f64,
}

impl StoreManifest {
    pub fn new(embeddings: &Manifest, seed: Option<u32>, tasks: usize, config: VaeConfig) -> Self {
        StoreManifest { seed, tasks, generator: "vae".into(), config, embeddings: embeddings.identity() }
    }
}

impl LatentStore {
    /// Starts or goes on with a store. Refuses to mix configurations.
    pub fn create(run: &Path, manifest: StoreManifest) -> Result<Self> {
        let dir = dir(run, manifest.seed);
        let lock = Some(atomic::lock(run)?);
        manifest::write_or_match(&dir, &manifest)?;
        let store = LatentStore { dir, manifest, _lock: lock };
        for task in 0..store.manifest.tasks {
            if store.has_task(task) {
                store.clear_partial(task)?; // a process may have been killed before it could
            }
        }
        Ok(store)
    }

    /// The store of a run for a class order, finished or not.
    pub fn open(run: &Path, seed: Option<u32>) -> Result<Self> {
        let dir = dir(run, seed);
        if !manifest::exists(&dir) {
            let flag = seed.map_or("no --seed".into(), |s| format!("--seed {s}"));
            let there = fs::read_dir(run.join("latents")).into_iter().flatten().flatten();
            let mut there: Vec<String> = there.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            there.sort();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            bail!(
                "{} has no generators for {flag} (it has: {there}); run `cgil fit-vae` with {flag} first",
                run.display()
            );
        }
        Ok(LatentStore { manifest: manifest::read(&dir)?, dir, _lock: None })
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
        let Fitted { generator, rows, losses, seconds } = fitted.clone();
        let Losses { reconstruction, kl } = losses;
        let dim = generator.scaler.low.len();
        let mut all = Tensors::new();
        for (name, (weight, bias)) in LAYERS.iter().zip(generator.decoder.layers) {
            all.insert(format!("{name}.weight"), (vec![bias.len(), weight.len() / bias.len()], weight));
            all.insert(format!("{name}.bias"), (vec![bias.len()], bias));
        }
        let Scaler { low, span, mean, std } = generator.scaler;
        for (name, values) in [("low", low), ("span", span), ("mean", mean), ("std", std)] {
            all.insert(name.into(), (vec![dim], values));
        }
        tensors::write(&self.class_file(task, class), &all, &Fit { rows, reconstruction, kl, seconds })
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
        let float = |f: fn(&Fit) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(fits.iter().map(f))) };
        let index = file::rows(
            contract::latents(),
            0,
            vec![
                Arc::new(Int64Array::from(vec![self.manifest.seed.map(i64::from); n])),
                Arc::new(Int64Array::from(vec![task as i64 + 1; n])),
                Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
                Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
                Arc::new(StringArray::from(vec![self.manifest.generator.as_str(); n])),
                Arc::new(Int64Array::from_iter_values(0..n as i64)),
                Arc::new(Int64Array::from_iter_values(fits.iter().map(|f| f.rows as i64))),
                float(|f| f.reconstruction),
                float(|f| f.kl),
                float(|f| f.seconds),
            ],
        )?;
        atomic::write_dir(&self.task_dir(task), |dir| {
            tensors::write(&dir.join(GENERATORS), &stacked, &self.manifest)?;
            file::write(&dir.join("index.parquet"), contract::latents(), &index, &vec![])
        })?;
        self.clear_partial(task)
    }

    fn clear_partial(&self, task: usize) -> Result<()> {
        let dir = self.partial_dir(task);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        Ok(())
    }

    /// The generators of the classes that a task learns, in learning order.
    pub fn read_task(&self, task: usize, curriculum: &Curriculum) -> Result<Vec<Generator>> {
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
        let (mut stacked, _) = tensors::read::<StoreManifest>(&path)?;
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
        unstack(&mut stacked, labels.len()).with_context(|| format!("{} is damaged; fit again", path.display()))
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

fn dir(run: &Path, seed: Option<u32>) -> PathBuf {
    run.join("latents").join(order_name(seed))
}

/// Cuts tensors stacked over `n` classes into `n` generators.
fn unstack(stacked: &mut Tensors, n: usize) -> Result<Vec<Generator>> {
    let mut part = |name: &str| -> Result<Vec<Vec<f32>>> {
        let (shape, values) = tensors::take(stacked, name)?;
        if shape[0] != n || values.is_empty() {
            bail!("tensor {name:?} has shape {shape:?}, but the index has {n} classes");
        }
        Ok(values.chunks_exact(values.len() / n).map(<[f32]>::to_vec).collect())
    };
    let scalings = [part("low")?, part("span")?, part("mean")?, part("std")?];
    let mut layers = Vec::new();
    for name in LAYERS {
        layers.push((part(&format!("{name}.weight"))?, part(&format!("{name}.bias"))?));
    }
    Ok((0..n)
        .map(|i| {
            let layers: [_; 3] = std::array::from_fn(|j| (layers[j].0[i].clone(), layers[j].1[i].clone()));
            let [low, span, mean, std] = std::array::from_fn(|j| scalings[j][i].clone());
            let latent = layers[0].0.len() / layers[0].1.len();
            Generator { decoder: Decoder { latent, layers }, scaler: Scaler { low, span, mean, std } }
        })
        .collect())
}
