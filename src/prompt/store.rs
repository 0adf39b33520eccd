//! What prompt-tune writes: per step a directory that appears whole, `task-00` before the first task
//! (zero-shot), `task-NN` after NN tasks, so that an interrupted run goes on with the next task.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use serde::{Deserialize, Serialize};

use super::{Evaluation, Learner, PromptConfig, evaluate::TestSet};
use crate::{
    atomic,
    generator::store::StoreManifest,
    manifest,
    metrics::{History, Metric},
    order_name,
    table::{Contract, contract, file},
    task::Curriculum,
    tensors,
};

const PROMPTS: &str = "prompts.safetensors";

/// What a store holds: written before the first step, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptManifest {
    pub config: PromptConfig,
    /// SHA-256 of the weights of the CLIP whose text encoder is used.
    pub model_sha256: String,
    /// Hash of what its config.json says.
    pub model_config: String,
    /// SHA-256 of its tokenizer.json.
    pub tokenizer_sha256: String,
    pub latents: StoreManifest,
}

/// The prompts of a run under one class order.
pub struct PromptStore {
    dir: PathBuf,
    seed: Option<u32>,
    /// Held while steps are written.
    _lock: File,
}

impl PromptStore {
    /// Starts or goes on with a store. Refuses to mix configurations.
    pub fn create(run: &Path, manifest: &PromptManifest) -> Result<Self> {
        let seed = manifest.latents.seed;
        let dir = run.join("prompts").join(order_name(seed));
        let lock = atomic::lock(run)?;
        manifest::write_or_match(&dir, manifest)?;
        Ok(PromptStore { dir, seed, _lock: lock })
    }

    /// Sets `learner` and `history` to the last step that is there; returns the number of the next.
    pub fn resume(&self, learner: &mut dyn Learner, history: &mut History) -> Result<usize> {
        let mut next = 0;
        while self.step_dir(next).exists() {
            self.read_history(next, history)?;
            next += 1;
        }
        if let Some(later) = (next..=history.images.len()).find(|&step| self.step_dir(step).exists()) {
            bail!("{} has task-{later:02}, but not task-{next:02}: remove the later ones", self.dir.display());
        }
        if next > 0 {
            let path = self.step_dir(next - 1).join(PROMPTS);
            let (stored, _) = tensors::read::<Option<u32>>(&path)?;
            let mut parameters = learner.parameters()?;
            parameters
                .load(stored)
                .with_context(|| format!("{} does not fit this run; remove {}", path.display(), self.dir.display()))?;
            learner.set_parameters(parameters)?;
        }
        Ok(next)
    }

    /// Writes the step after `learned` tasks.
    pub fn write(
        &self,
        learned: usize,
        learner: &dyn Learner,
        curriculum: &Curriculum,
        test: &TestSet,
        evaluation: &Evaluation,
        history: &History,
    ) -> Result<()> {
        let features = self.text_features(learned, curriculum, evaluation)?;
        let predictions = self.predictions(learned, curriculum, test, evaluation)?;
        let metrics = self.metrics(learned, &history.metrics())?;
        atomic::write_dir(&self.step_dir(learned), |dir| {
            let table = |contract: &Contract, rows: &RecordBatch| {
                file::write(&dir.join(format!("{}.parquet", contract.name)), contract, rows, &vec![])
            };
            table(contract::text_features(), &features)?;
            table(contract::predictions(), &predictions)?;
            table(contract::metrics(), &metrics)?;
            tensors::write(&dir.join(PROMPTS), &learner.parameters()?.tensors(), &self.seed)
        })
    }

    /// Adds the accuracies of the step after `learned` tasks to `history`.
    fn read_history(&self, learned: usize, history: &mut History) -> Result<()> {
        let rows = file::read(&self.step_dir(learned).join("metrics.parquet"), contract::metrics(), 0)?;
        let on_tasks = rows["on_task"].as_primitive::<Int64Type>();
        let values = rows["value"].as_primitive::<Float64Type>();
        let tasks = history.images.len();
        let (mut accuracy, mut legacy, mut has_legacy) = (vec![0.0; tasks], vec![0.0; tasks], false);
        for ((name, on_task), &value) in file::text(&rows, "metric").zip(on_tasks).zip(values.values()) {
            let Some(k) = on_task.map(|k| k as usize - 1) else { continue };
            match name {
                "accuracy" => (accuracy[k], legacy[k]) = (value, value),
                "zero_shot_accuracy" | "transfer_accuracy" => accuracy[k] = value,
                "transfer_accuracy_legacy" => (legacy[k], has_legacy) = (value, true),
                _ => {}
            }
        }
        if learned == 0 {
            history.zero_shot = accuracy;
            return Ok(());
        }
        if has_legacy || !history.legacy.is_empty() {
            history.legacy.push(legacy);
        }
        history.matrix.push(accuracy);
        Ok(())
    }

    fn text_features(&self, learned: usize, curriculum: &Curriculum, evaluation: &Evaluation) -> Result<RecordBatch> {
        let classes = &curriculum.classes;
        let tasks = || (0..classes.len()).map(|c| curriculum.task_of(c));
        let dim = evaluation.features.len() / classes.len();
        file::rows(
            contract::text_features(),
            dim,
            vec![
                self.seeds(classes.len()),
                Arc::new(Int64Array::from(vec![learned as i64; classes.len()])),
                Arc::new(Int64Array::from_iter_values(tasks().map(|t| t as i64 + 1))),
                Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
                Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
                Arc::new(StringArray::from_iter_values(
                    tasks().map(|t| if t < learned { "prompt" } else { "zero_shot" }),
                )),
                file::vectors(evaluation.features.clone(), dim),
            ],
        )
    }

    fn predictions(
        &self,
        learned: usize,
        curriculum: &Curriculum,
        test: &TestSet,
        evaluation: &Evaluation,
    ) -> Result<RecordBatch> {
        let n = test.classes.len();
        let tasks = || test.classes.iter().map(|&class| curriculum.task_of(class));
        let label = |class: usize| curriculum.classes[class].label;
        let predictions = &evaluation.predictions;
        file::rows(
            contract::predictions(),
            0,
            vec![
                self.seeds(n),
                Arc::new(Int64Array::from(vec![learned as i64; n])),
                Arc::new(Int64Array::from_iter_values(tasks().map(|t| t as i64 + 1))),
                Arc::new(StringArray::from_iter_values(&test.sample_ids)),
                Arc::new(Int64Array::from_iter_values(test.classes.iter().map(|&class| label(class)))),
                Arc::new(StringArray::from_iter_values(tasks().map(|t| if t < learned { "seen" } else { "all" }))),
                Arc::new(Int64Array::from_iter_values(predictions.iter().map(|&(class, _)| label(class)))),
                Arc::new(Float32Array::from_iter_values(predictions.iter().map(|&(_, cosine)| cosine))),
            ],
        )
    }

    fn metrics(&self, learned: usize, metrics: &[Metric]) -> Result<RecordBatch> {
        file::rows(
            contract::metrics(),
            0,
            vec![
                self.seeds(metrics.len()),
                Arc::new(Int64Array::from(vec![learned as i64; metrics.len()])),
                Arc::new(Int64Array::from_iter(metrics.iter().map(|m| m.on_task.map(|k| k as i64 + 1)))),
                Arc::new(StringArray::from_iter_values(metrics.iter().map(|m| m.name))),
                Arc::new(Float64Array::from_iter_values(metrics.iter().map(|m| m.value))),
            ],
        )
    }

    fn seeds(&self, n: usize) -> ArrayRef {
        Arc::new(Int64Array::from(vec![self.seed.map(i64::from); n]))
    }

    fn step_dir(&self, learned: usize) -> PathBuf {
        self.dir.join(format!("task-{learned:02}"))
    }
}
