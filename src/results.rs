//! What a method predicts and scores: `results/STREAM/METHOD`, in it per step an artefact,
//! `task-00` before the first task, `task-NN` after NN tasks, so that an interrupted method goes on
//! with the next task.
//!
//! A step is scored among the classes that the stream has when it is made. Tasks that follow later
//! leave it as it is.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context, Result, bail, ensure};
use arrow::{
    array::{Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::{Float32Type, Float64Type, Int64Type},
};
use serde_json::{Value, json};

use crate::{
    artefact::{self, Input, MANIFEST, Manifest, Plan, slug},
    evaluate::{Prediction, TestSet, Unseen},
    metrics::{Accuracies, History, Metric, MetricName},
    run::{RESULTS, Run, step_name},
    storage,
    stream::Stream,
    table::{Contract, contract, file},
    tensors::{self, Tensors},
};

/// File of the classifier itself, in the directory of a step.
pub const CLASSIFIER: &str = "classifier.safetensors";

/// The option that names the sources whose test embeddings were forgotten.
const FORGOTTEN: &str = "forgotten";

/// What can be done about results that were made otherwise.
const ADVICE: &str = "use another --run, or, if no images are forgotten, remove it and the steps after it";

/// The results of a method on a stream.
pub struct Results<'a> {
    run: &'a Run,
    stream: &'a Stream,
    method: String,
    dir: PathBuf,
}

/// What a step's predictions are made with: options of the method, and artefacts.
pub struct Made {
    /// Options of the method.
    pub options: Value,
    /// Class of the device that computes, where the predictions depend on it.
    pub device: Option<&'static str>,
    /// The artefacts, by what they are to it.
    pub inputs: Vec<(&'static str, Input)>,
}

/// What a method says after a number of tasks.
pub struct Step {
    /// Of each test image; none where the method cannot tell.
    pub predictions: Vec<Option<Prediction>>,
    /// Bytes that are kept to go on learning, beside the CLIP.
    pub stored: usize,
    /// Rows of more tables, such as the classifier itself, after the columns that every table of
    /// results begins with.
    pub tables: Vec<StepTable>,
    /// The classifier itself, ready to be used, and what stands beside its tensors.
    pub classifier: Option<(Tensors, Value)>,
}

/// Rows of a table of a step.
pub struct StepTable {
    /// The table.
    pub contract: &'static Contract,
    /// Values per vector.
    pub dim: usize,
    /// Number of rows.
    pub rows: usize,
    /// The columns after those that every table of results begins with.
    pub columns: Vec<ArrayRef>,
}

impl<'a> Results<'a> {
    /// Of a method on a stream. Reads nothing yet.
    pub fn new(run: &'a Run, stream: &'a Stream, method: &str) -> Self {
        let dir = run.dir().join(RESULTS).join(&stream.name).join(slug(method));
        Results { run, stream, method: method.to_owned(), dir }
    }

    /// The directory of the step after `learned` tasks.
    pub fn step_dir(&self, learned: usize) -> PathBuf {
        self.dir.join(step_name(learned))
    }

    /// When the step after the last task was made; none where it is not there.
    pub fn finished(&self) -> Option<SystemTime> {
        storage::metadata(&self.step_dir(self.stream.tasks()).join(MANIFEST)).ok()?.modified()
    }

    /// Adds the step after `learned` tasks to `history` if it is there. An error where it was made
    /// otherwise.
    pub fn read(&self, learned: usize, made: &Made, test: &TestSet, history: &mut History) -> Result<bool> {
        let dir = self.step_dir(learned);
        let Some(there) = Manifest::find(&dir, &artefact::RESULTS)? else { return Ok(false) };
        // it may have been scored when the stream had fewer tasks
        let path = there.inputs.get("stream").map(|input| input.path.clone()).unwrap_or_default();
        let known = (learned.max(1)..=self.stream.tasks()).find(|&t| self.stream.input(t - 1).path == path);
        let known = known.unwrap_or(self.stream.tasks());
        // and when test embeddings were there that were forgotten since
        let forgotten = there.options.get(FORGOTTEN).cloned().unwrap_or_default();
        self.plan(learned, known, made, &forgotten)?.find(&dir, ADVICE)?;
        let predictions = self.read_predictions(&dir, &there, learned, known, test)?;
        history.push(learned, Accuracies::new(&predictions, &test.classes, learned, self.stream));
        Ok(true)
    }

    /// Writes the step after `learned` tasks, and adds it to `history`.
    pub fn write(&self, learned: usize, made: &Made, test: &TestSet, step: &Step, history: &mut History) -> Result<()> {
        let _lock = self.run.lock(&self.dir)?;
        if self.read(learned, made, test, history)? {
            return Ok(()); // another process was faster
        }
        history.push(learned, Accuracies::new(&step.predictions, &test.classes, learned, self.stream));
        let predictions = self.predictions(learned, test, &step.predictions)?;
        let mut metrics = history.metrics();
        if learned > 0 {
            let per_class = step.stored as f64 / self.stream.seen(learned) as f64;
            metrics.push(Metric { on_task: None, name: MetricName::StoredBytes, value: per_class });
        }
        let metrics = self.metrics(learned, &metrics)?;
        let tables = step.tables.iter().map(|table| {
            let columns = [self.keys(learned, table.rows), table.columns.clone()].concat();
            Ok((table.contract, file::rows(table.contract, table.dim, columns)?))
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let plan = self.plan(learned, self.stream.tasks(), made, &json!(test.forgotten))?;
        let dir = self.step_dir(learned);
        plan.make(&dir, self.run.place(&dir), Value::Null, |dir| {
            write_table(dir, contract::predictions(), &predictions)?;
            write_table(dir, contract::metrics(), &metrics)?;
            if let Some((classifier, about)) = &step.classifier {
                tensors::write(&dir.join(CLASSIFIER), classifier, about)?;
            }
            tables.iter().try_for_each(|(contract, rows)| write_table(dir, contract, rows))
        })?;
        Ok(())
    }

    /// The step after `learned` tasks, scored when the stream had the first `known` tasks, and the test
    /// embeddings of some sources were forgotten.
    fn plan(&self, learned: usize, known: usize, made: &Made, forgotten: &Value) -> Result<Plan> {
        let mut options = json!({"method": self.method, "made": made.options, "learned": learned});
        if forgotten.as_array().is_some_and(|sources| !sources.is_empty()) {
            options[FORGOTTEN] = forgotten.clone();
        }
        let mut plan = Plan::new(&artefact::RESULTS, options);
        plan = plan.with("stream", self.stream.input(known - 1));
        plan.device = made.device.map(str::to_owned);
        for (name, input) in &made.inputs {
            plan = plan.with(name, input.clone());
        }
        if let Some(before) = learned.checked_sub(1) {
            // scores over tasks need those of the steps before
            let before = self.step_dir(before);
            if let Some(manifest) = Manifest::find(&before, &artefact::RESULTS)? {
                plan = plan.with("step_before", self.run.input(&before, &manifest));
            }
        }
        Ok(plan)
    }

    /// The columns that say what the `n` rows of a table belong to: stream, class_order, seed,
    /// method, after_task.
    fn keys(&self, learned: usize, n: usize) -> Vec<ArrayRef> {
        let mut keys = self.stream.keys(n);
        keys.extend([
            Arc::new(StringArray::from(vec![self.method.as_str(); n])) as ArrayRef,
            Arc::new(Int64Array::from(vec![learned as i64; n])),
        ]);
        keys
    }

    fn predictions(&self, learned: usize, test: &TestSet, predictions: &[Option<Prediction>]) -> Result<RecordBatch> {
        let rows: Vec<(usize, usize, Prediction)> = predictions
            .iter()
            .enumerate()
            .filter_map(|(i, prediction)| Some((i, self.stream.task_of(test.classes[i]), (*prediction)?)))
            .collect();
        let label = |class: usize| self.stream.classes[class].label;
        let label_of = |f: &dyn Fn(&Prediction) -> Option<usize>| -> ArrayRef {
            Arc::new(Int64Array::from_iter(rows.iter().map(|(_, _, p)| f(p).map(label))))
        };
        let number_of = |f: &dyn Fn(&Prediction) -> Option<f32>| -> ArrayRef {
            Arc::new(Float32Array::from_iter(rows.iter().map(|(_, _, p)| f(p))))
        };
        let candidates = |(_, task, p): &(usize, usize, Prediction)| match p.class {
            None => "none",
            Some(_) if *task < learned => "seen",
            Some(_) => "all",
        };
        let mut columns = self.keys(learned, rows.len());
        columns.extend([
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, task, _)| *task as i64 + 1))) as ArrayRef,
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(i, _, _)| &test.sources[*i]))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(i, _, _)| &test.sample_ids[*i]))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(i, _, _)| label(test.classes[*i])))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(candidates))),
            label_of(&|p| p.class),
            number_of(&|p| p.score),
            label_of(&|p| p.in_task),
            label_of(&|p| p.raw),
            label_of(&|p| p.open),
            label_of(&|p| p.unseen.map(|unseen| unseen.class)),
            number_of(&|p| p.unseen.and_then(|unseen| unseen.margin)),
            number_of(&|p| p.confidence),
            number_of(&|p| p.probability),
            number_of(&|p| p.uncalibrated),
        ]);
        file::rows(contract::predictions(), 0, columns)
    }

    /// The predictions of a step, in the order of the test images. Those of seen tasks must cover
    /// the test set, and so must those of the other tasks that were `known` where there are any.
    fn read_predictions(
        &self,
        dir: &Path,
        manifest: &Manifest,
        learned: usize,
        known: usize,
        test: &TestSet,
    ) -> Result<Vec<Option<Prediction>>> {
        let name = file_name(contract::predictions());
        manifest.check_file(dir, &name)?;
        let path = dir.join(&name);
        let rows = file::read(&path, contract::predictions(), 0)?;
        let position = |label: i64| self.stream.position(label);
        let keys = test.sources.iter().map(String::as_str).zip(test.sample_ids.iter().map(String::as_str));
        let images: HashMap<(&str, &str), usize> = keys.zip(0..).collect();
        let optional = |column: &str, row: usize| {
            let labels = rows[column].as_primitive::<Int64Type>();
            (!labels.is_null(row)).then(|| position(labels.value(row))).transpose()
        };
        let number = |column: &str, row: usize| {
            let values = rows[column].as_primitive::<Float32Type>();
            (!values.is_null(row)).then(|| values.value(row))
        };
        let mut predictions = vec![None; test.classes.len()];
        for (row, key) in file::text(&rows, "source").zip(file::text(&rows, "sample_id")).enumerate() {
            let image = images.get(&key).with_context(|| {
                format!(
                    "{} has the image {:?}, which the test set has not; remove {}",
                    path.display(),
                    key.1,
                    dir.display()
                )
            })?;
            let prediction = Prediction {
                class: optional("predicted", row)?,
                score: number("score", row),
                in_task: optional("predicted_in_task", row)?,
                raw: optional("predicted_raw", row)?,
                open: optional("predicted_open", row)?,
                unseen: optional("predicted_unseen", row)?.map(|class| Unseen { class, margin: number("margin", row) }),
                confidence: number("confidence", row),
                probability: number("probability", row),
                uncalibrated: number("probability_uncalibrated", row),
            };
            ensure!(predictions[*image].is_none(), "{} has the image {:?} twice", path.display(), key.1);
            predictions[*image] = Some(prediction);
        }
        let others = predictions
            .iter()
            .zip(&test.classes)
            .any(|(p, &class)| p.is_some() && self.stream.task_of(class) >= learned);
        let wanted = if others { known } else { learned };
        for (i, prediction) in predictions.iter().enumerate() {
            let is_wanted =
                self.stream.task_of(test.classes[i]) < wanted && test.is_scored(i, learned, known, self.stream);
            if prediction.is_none() && is_wanted {
                bail!("{} lacks the test image {:?}; remove {}", path.display(), test.sample_ids[i], dir.display());
            }
        }
        Ok(predictions)
    }

    fn metrics(&self, learned: usize, metrics: &[Metric]) -> Result<RecordBatch> {
        let mut columns = self.keys(learned, metrics.len());
        columns.extend([
            Arc::new(Int64Array::from_iter(metrics.iter().map(|m| m.on_task.map(|k| k as i64 + 1)))) as ArrayRef,
            Arc::new(StringArray::from_iter_values(metrics.iter().map(|m| m.name.name()))),
            Arc::new(Float64Array::from_iter_values(metrics.iter().map(|m| m.value))),
        ]);
        file::rows(contract::metrics(), 0, columns)
    }
}

/// Bytes per class that a method keeps after `learned` tasks, as its metrics say.
pub fn stored_bytes(results: &Results, learned: usize) -> Result<f64> {
    let dir = results.step_dir(learned);
    let name = file_name(contract::metrics());
    Manifest::read(&dir, &artefact::RESULTS)?.check_file(&dir, &name)?;
    let path = dir.join(name);
    let rows = file::read(&path, contract::metrics(), 0)?;
    let values = rows["value"].as_primitive::<Float64Type>().values();
    let stored = file::text(&rows, "metric").zip(values).find(|(metric, _)| *metric == MetricName::StoredBytes.name());
    Ok(*stored.with_context(|| format!("{} has no stored bytes: remove {}", path.display(), dir.display()))?.1)
}

/// The name of a method with options: `base`, and each option that is not its default, such as
/// `cgil,lr=0.01`. In a value `;` stands for a comma.
pub fn method_name(base: &str, options: &Value, defaults: &Value) -> String {
    let mut name = base.to_owned();
    let mut keys: Vec<&String> = options.as_object().into_iter().flat_map(|options| options.keys()).collect();
    keys.sort();
    for key in keys.into_iter().filter(|&key| options[key] != defaults[key]) {
        let value = &options[key];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        name += &format!(",{}={}", key.replace('_', "-"), text.replace(',', ";"));
    }
    name
}

/// A method's name with its options in the order that [`method_name`] gives them, but for those
/// called `without`.
///
/// ```
/// assert_eq!(cgil::results::sorted_name("cgil,lr=0.1,epochs=2,statistics=off", "statistics"), "cgil,epochs=2,lr=0.1");
/// ```
pub fn sorted_name(name: &str, without: &str) -> String {
    let mut parts: Vec<&str> = name.split(',').collect();
    parts.retain(|part| part.split_once('=').is_none_or(|(key, _)| key != without));
    if let Some(options) = parts.get_mut(1..) {
        options.sort_by_key(|part| part.split('=').next().map(str::to_owned));
    }
    parts.join(",")
}

/// Writes a table of an artefact into its directory.
pub(crate) fn write_table(dir: &Path, contract: &Contract, rows: &RecordBatch) -> Result<()> {
    file::write(&dir.join(file_name(contract)), contract, rows, &vec![])
}

fn file_name(contract: &Contract) -> String {
    format!("{}.parquet", contract.name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        rows::{Rows, Test},
        task::Class,
    };

    fn stream(sizes: &[usize]) -> Stream {
        let classes: Vec<Class> =
            (0..sizes.iter().sum()).map(|i| Class { label: 10 * i as i64, name: format!("c{i}") }).collect();
        Stream::of_sizes(&classes, sizes).unwrap()
    }

    /// Test images of these classes, called by their places.
    fn test_set(classes: &[usize]) -> TestSet {
        TestSet {
            sources: vec!["base".into(); classes.len()],
            sample_ids: (0..classes.len()).map(|i| format!("image {i}")).collect(),
            classes: classes.to_vec(),
            since: vec![1; classes.len()],
            rows: Rows::<Test>::new(1, vec![1.0; classes.len()]),
            forgotten: Vec::new(),
        }
    }

    fn made(value: i64, inputs: Vec<(&'static str, Input)>) -> Made {
        Made { options: json!({"value": value}), device: None, inputs }
    }

    fn right(classes: &[Option<usize>]) -> Step {
        let of = |class: usize| Prediction {
            class: Some(class),
            score: Some(0.5),
            in_task: Some(class),
            ..Prediction::default()
        };
        Step {
            predictions: classes.iter().map(|class| class.map(of)).collect(),
            stored: 12,
            tables: Vec::new(),
            classifier: None,
        }
    }

    fn run(dir: &Path) -> Run {
        Run::open(dir, |_| ()).unwrap()
    }

    /// What is said of reading a step.
    fn refused(results: &Results, learned: usize, made: &Made, test: &TestSet) -> String {
        let error = results.read(learned, made, test, &mut History::default());
        format!("{:#}", error.expect_err("it was read"))
    }

    #[test]
    fn a_step_is_read_again_as_what_it_was_and_as_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (run, two) = (run(dir.path()), stream(&[2, 1]));
        let results = Results::new(&run, &two, "cgil,lr=0.1");
        let test = test_set(&[0, 1, 1, 2]);
        let mut history = History::new(&test, &two);
        let made = |value| made(value, vec![("prompts", two.input(0))]);
        assert!(!results.read(1, &made(1), &test, &mut history).unwrap());
        // before the task: of all; after it image 1 is wrong, and the unseen one is told
        let steps = [(0, [Some(0), Some(1), Some(1), Some(0)]), (1, [Some(0), Some(0), Some(1), Some(2)])];
        for (learned, said) in &steps {
            results.write(*learned, &made(1), &test, &right(said), &mut history).unwrap();
        }
        assert_eq!(stored_bytes(&results, 1).unwrap(), 6.0); // 12 of two classes
        let mut again = History::default();
        assert!(results.read(0, &made(1), &test, &mut again).unwrap());
        assert!(results.read(1, &made(1), &test, &mut again).unwrap());
        assert_eq!(again.zero_shot, history.zero_shot);
        assert_eq!(again.steps[0].task_il, history.steps[0].task_il);
        assert_eq!(again.steps[0].class_il, [200.0 / 3.0, 100.0]);
        assert!(results.step_dir(1).starts_with(dir.path().join("results/test")));

        assert!(refused(&results, 1, &made(2), &test).contains("made.value is 1 there, 2 now"));
        let other = Made { inputs: vec![("prompts", two.input(1))], ..made(1) };
        assert!(refused(&results, 1, &other, &test).contains("from another streams/"));
        assert!(
            refused(&results, 1, &made(1), &test_set(&[0, 1, 1, 2, 0])).contains("lacks the test image \"image 4\"")
        );
        assert!(
            refused(&results, 1, &made(1), &test_set(&[0, 1, 1, 2, 2])).contains("lacks the test image \"image 4\"")
        );
        assert!(refused(&results, 1, &made(1), &test_set(&[0, 1, 1])).contains("has the image \"image 3\", which"));
        // another step before it
        fs::remove_dir_all(results.step_dir(0)).unwrap();
        results.write(0, &made(7), &test, &right(&steps[0].1), &mut History::default()).unwrap();
        assert!(refused(&results, 1, &made(1), &test).contains("from another results/"));
    }

    #[test]
    fn steps_that_were_scored_before_a_task_came_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (run, two, three) = (run(dir.path()), stream(&[2, 1]), stream(&[2, 1, 1]));
        let (test, mut history) = (test_set(&[0, 2]), History::new(&test_set(&[0, 2]), &two));
        let results = Results::new(&run, &two, "m");
        for learned in 0..=2 {
            results.write(learned, &made(1, Vec::new()), &test, &right(&[Some(0), Some(0)]), &mut history).unwrap();
        }
        drop(results);
        // an image of the class that has come, which these steps say nothing of
        let test = test_set(&[0, 2, 3]);
        let (grown, mut history) = (Results::new(&run, &three, "m"), History::new(&test, &three));
        for learned in 0..=2 {
            assert!(grown.read(learned, &made(1, Vec::new()), &test, &mut history).unwrap(), "{learned}");
        }
        let value = |history: &History, name: MetricName| {
            history.metrics().into_iter().find(|m| m.on_task.is_none() && m.name == name).map(|m| m.value)
        };
        assert_eq!(value(&history, MetricName::Faa), None);
        grown.write(3, &made(1, Vec::new()), &test, &right(&[Some(0), Some(0), Some(3)]), &mut history).unwrap();
        assert_eq!(history.steps.len(), 3);
        // task 2 was told wrongly before and after it was learned, and in the end; task 3 never
        // before the end
        assert_eq!(value(&history, MetricName::Faa), Some(200.0 / 3.0));
        assert_eq!(value(&history, MetricName::CiTransfer), Some(0.0));
        assert_eq!(value(&history, MetricName::Fwt), Some(0.0));
        assert_eq!(value(&history, MetricName::Forgetting), Some(0.0));
        // but one of its own tasks that a step lacks is missed
        fs::remove_dir_all(grown.step_dir(3)).unwrap();
        let error = grown
            .write(3, &made(1, Vec::new()), &test, &right(&[Some(0), Some(0), None]), &mut History::new(&test, &three))
            .and_then(|()| grown.read(3, &made(1, Vec::new()), &test, &mut History::default()));
        assert!(error.unwrap_err().to_string().contains("lacks the test image \"image 2\""));
    }

    #[test]
    fn a_method_is_named_by_what_is_not_its_default() {
        let defaults = json!({"epochs": 60, "lr": 0.05, "template": "a {}", "train_prompts": "all"});
        let name = |options: Value| method_name("cgil", &options, &defaults);
        assert_eq!(name(defaults.clone()), "cgil");
        let options = json!({"train_prompts": "current", "lr": 0.05, "epochs": 3, "template": "a, {}"});
        assert_eq!(name(options), "cgil,epochs=3,template=a; {},train-prompts=current");
        assert_eq!(sorted_name("cgil,statistics=lda", "statistics"), "cgil");
        assert_eq!(sorted_name("cgil,lr=1,epochs=2,fast", "lr"), "cgil,epochs=2,fast");
    }
}
