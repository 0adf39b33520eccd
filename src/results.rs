//! What a method predicts and scores: `results/{order}/{method}`, in it per step a directory that appears whole, `task-00`
//! before the first task, `task-NN` after NN tasks, so that an interrupted run goes on with the next task.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::{Float32Type, Float64Type, Int64Type},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    atomic,
    evaluate::{Prediction, TestSet},
    manifest,
    metrics::{Accuracies, History, Metric},
    table::{Contract, contract, file},
    task::Curriculum,
};

/// Directory of all results, below the run's.
const DIR: &str = "results";

/// The metric of the bytes that a method keeps per class.
const STORED: &str = "stored_bytes";

/// The results of a method under one class order.
pub struct Results<'a> {
    dir: PathBuf,
    curriculum: &'a Curriculum,
    method: String,
    /// Held while steps are written.
    _lock: File,
}

impl<'a> Results<'a> {
    /// Starts or goes on with the results of a method. Refuses to mix what was made otherwise, by `manifest`.
    pub fn create(run: &Path, curriculum: &'a Curriculum, method: &str, manifest: &impl Serialize) -> Result<Self> {
        let dir = run.join(DIR).join(&curriculum.order).join(method);
        let lock = atomic::lock(run)?;
        manifest::write_or_match(&dir, manifest)?;
        Ok(Results { dir, curriculum, method: method.to_owned(), _lock: lock })
    }

    /// Adds the steps that are there to `history`, from the step `first` on; returns the number of the next.
    pub fn resume(&self, test: &TestSet, first: usize, history: &mut History) -> Result<usize> {
        let mut next = first;
        while self.step_dir(next).exists() {
            let predictions = self.read_predictions(next, test)?;
            history.push(next, Accuracies::new(&predictions, &test.classes, self.curriculum));
            next += 1;
        }
        if let Some(later) = (next..=self.curriculum.tasks()).find(|&step| self.step_dir(step).exists()) {
            bail!("{} has task-{later:02}, but not task-{next:02}: remove the later ones", self.dir.display());
        }
        Ok(next)
    }

    /// Adds the step after `learned` tasks to `history`, and writes it: its predictions, its metrics, among them the bytes
    /// `stored` beside the CLIP, and what `more` puts into its directory.
    pub fn write(
        &self,
        learned: usize,
        test: &TestSet,
        predictions: &[Option<Prediction>],
        stored: usize,
        history: &mut History,
        more: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        history.push(learned, Accuracies::new(predictions, &test.classes, self.curriculum));
        let predictions = self.predictions(learned, test, predictions)?;
        let mut metrics = history.metrics();
        if learned > 0 {
            let per_class = stored as f64 / self.curriculum.seen(learned - 1) as f64;
            metrics.push(Metric { on_task: None, name: STORED, value: per_class });
        }
        let metrics = self.metrics(learned, &metrics)?;
        atomic::write_dir(&self.step_dir(learned), |dir| {
            write_table(dir, contract::predictions(), &predictions)?;
            write_table(dir, contract::metrics(), &metrics)?;
            more(dir)
        })
    }

    /// The columns that say what the `n` rows of a table belong to: order, seed, method, after_task.
    pub fn keys(&self, learned: usize, n: usize) -> Vec<ArrayRef> {
        vec![
            Arc::new(StringArray::from(vec![self.curriculum.order.as_str(); n])),
            Arc::new(Int64Array::from(vec![self.curriculum.seed.map(i64::from); n])),
            Arc::new(StringArray::from(vec![self.method.as_str(); n])),
            Arc::new(Int64Array::from(vec![learned as i64; n])),
        ]
    }

    fn predictions(&self, learned: usize, test: &TestSet, predictions: &[Option<Prediction>]) -> Result<RecordBatch> {
        let rows: Vec<(usize, usize, Prediction)> = predictions
            .iter()
            .enumerate()
            .filter_map(|(i, prediction)| Some((i, self.curriculum.task_of(test.classes[i]), (*prediction)?)))
            .collect();
        let label = |class: usize| self.curriculum.classes[class].label;
        let label_of = |f: &dyn Fn(&Prediction) -> usize| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, _, p)| label(f(p)))))
        };
        let mut columns = self.keys(learned, rows.len());
        columns.extend([
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, task, _)| *task as i64 + 1))) as ArrayRef,
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(i, _, _)| &test.sample_ids[*i]))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(i, _, _)| label(test.classes[*i])))),
            Arc::new(StringArray::from_iter_values(
                rows.iter().map(|(_, task, _)| if *task < learned { "seen" } else { "all" }),
            )),
            label_of(&|p| p.class),
            Arc::new(Float32Array::from_iter_values(rows.iter().map(|(_, _, p)| p.score))),
            label_of(&|p| p.in_task),
            Arc::new(Int64Array::from_iter(rows.iter().map(|(_, _, p)| p.raw.map(label)))),
        ]);
        file::rows(contract::predictions(), 0, columns)
    }

    /// The predictions of the step after `learned` tasks, in the order of the test images.
    fn read_predictions(&self, learned: usize, test: &TestSet) -> Result<Vec<Option<Prediction>>> {
        let path = self.step_dir(learned).join(file_name(contract::predictions()));
        let rows = file::read(&path, contract::predictions(), 0)?;
        let position = |label: i64| self.curriculum.position(label);
        let images: HashMap<&str, usize> = test.sample_ids.iter().map(String::as_str).zip(0..).collect();
        let labels = |column: &str| file::int64s(&rows, column);
        let (classes, in_task) = (labels("predicted"), labels("predicted_in_task"));
        let raw = rows["predicted_raw"].as_primitive::<Int64Type>();
        let scores = rows["score"].as_primitive::<Float32Type>().values();
        let mut predictions = vec![None; test.classes.len()];
        for (row, id) in file::text(&rows, "sample_id").enumerate() {
            let image = images.get(id).with_context(|| {
                format!(
                    "{} has the image {id:?}, which the test set has not; remove {}",
                    path.display(),
                    self.dir.display()
                )
            })?;
            predictions[*image] = Some(Prediction {
                class: position(classes[row])?,
                score: scores[row],
                in_task: position(in_task[row])?,
                raw: (!raw.is_null(row)).then(|| position(raw.value(row))).transpose()?,
            });
        }
        Ok(predictions)
    }

    fn metrics(&self, learned: usize, metrics: &[Metric]) -> Result<RecordBatch> {
        let mut columns = self.keys(learned, metrics.len());
        columns.extend([
            Arc::new(Int64Array::from_iter(metrics.iter().map(|m| m.on_task.map(|k| k as i64 + 1)))) as ArrayRef,
            Arc::new(StringArray::from_iter_values(metrics.iter().map(|m| m.name))),
            Arc::new(Float64Array::from_iter_values(metrics.iter().map(|m| m.value))),
        ]);
        file::rows(contract::metrics(), 0, columns)
    }

    /// The directory of these results.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the step after `learned` tasks.
    pub fn step_dir(&self, learned: usize) -> PathBuf {
        self.dir.join(step_name(learned))
    }
}

/// The directory of a method's step after `learned` tasks.
pub fn step_dir(run: &Path, curriculum: &Curriculum, method: &str, learned: usize) -> PathBuf {
    run.join(DIR).join(&curriculum.order).join(method).join(step_name(learned))
}

/// What a method's results under a class order were made with.
pub fn manifest(run: &Path, order: &str, method: &str) -> Result<Value> {
    manifest::read(&run.join(DIR).join(order).join(method))
}

/// Bytes that a method keeps after `learned` tasks, as its metrics say.
pub fn stored_bytes(run: &Path, curriculum: &Curriculum, method: &str, learned: usize) -> Result<usize> {
    let path = step_dir(run, curriculum, method, learned).join(file_name(contract::metrics()));
    let rows = file::read(&path, contract::metrics(), 0)?;
    let values = rows["value"].as_primitive::<Float64Type>().values();
    let stored = file::text(&rows, "metric").zip(values).find(|(metric, _)| *metric == STORED);
    let per_class = *stored.with_context(|| format!("{} has no {STORED}: make it again", path.display()))?.1;
    Ok((per_class * curriculum.seen(learned - 1) as f64).round() as usize)
}

fn step_name(learned: usize) -> String {
    format!("task-{learned:02}")
}

/// The name of a method with options: `base`, and each option that is not its default, such as `cgil,lr=0.01`. In a value `;`
/// stands for a comma.
pub fn method_name(base: &str, options: &Value, defaults: &Value) -> String {
    let mut name = base.to_owned();
    for (key, value) in options.as_object().into_iter().flatten() {
        if value != &defaults[key] {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            name += &format!(",{}={}", key.replace('_', "-"), in_a_path(&text.replace(',', ";")));
        }
    }
    name
}

/// A value as a directory may be called.
fn in_a_path(value: &str) -> String {
    let text: String = value.chars().take(40).map(|c| if c == '/' { '_' } else { c }).collect();
    if text == value { text } else { format!("{text}…{:.8}", crate::hash_lines([value.to_owned()])) }
}

/// Writes a table of a step into its directory.
pub fn write_table(dir: &Path, contract: &Contract, rows: &RecordBatch) -> Result<()> {
    file::write(&dir.join(file_name(contract)), contract, rows, &vec![])
}

fn file_name(contract: &Contract) -> String {
    format!("{}.parquet", contract.name)
}
