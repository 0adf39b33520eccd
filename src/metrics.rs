//! Scores of continual learning, from what was predicted for every test image.

use crate::{
    evaluate::{Prediction, TestSet},
    task::Curriculum,
};

/// `matrix[t][k]`: accuracy in percent on the test images of task k after task t (both from 0). For k > t the classes are
/// unseen and scored zero-shot, among all classes.
pub type AccuracyMatrix = [Vec<f64>];

/// The scores of a finished run, in percent. Those that need a past or a future task are None with one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Final average accuracy: mean over tasks after the last one.
    pub faa: f64,
    /// Cumulative average accuracy: mean over t of the mean over the tasks seen after t.
    pub caa: f64,
    /// Mean over tasks of (best accuracy ever − final accuracy) (Chaudhry et al., 2018).
    pub forgetting: Option<f64>,
    /// Backward transfer: mean over tasks of (final − accuracy right after learning) (Lopez-Paz, 2017).
    pub bwt: Option<f64>,
}

impl Scores {
    /// Scores of a matrix (T, T); only k ≤ t is looked at.
    ///
    /// ```
    /// let s = cgil::metrics::Scores::new(&[vec![90.0, 40.0], vec![80.0, 70.0]]);
    /// assert_eq!((s.faa, s.caa), (75.0, 82.5));
    /// assert_eq!((s.forgetting, s.bwt), (Some(10.0), Some(-10.0)));
    /// ```
    pub fn new(matrix: &AccuracyMatrix) -> Self {
        let tasks = matrix.len();
        let last = &matrix[tasks - 1];
        let over_past = |score: &dyn Fn(usize) -> f64| (tasks > 1).then(|| mean((0..tasks - 1).map(score)));
        Scores {
            faa: average_accuracy(matrix, tasks - 1),
            caa: mean((0..tasks).map(|t| average_accuracy(matrix, t))),
            forgetting: over_past(&|k| (k..tasks).map(|t| matrix[t][k]).fold(f64::MIN, f64::max) - last[k]),
            bwt: over_past(&|k| last[k] - matrix[k][k]),
        }
    }
}

/// Class-incremental transfer: mean over t of the mean accuracy on tasks not seen yet; None with one task.
///
/// ```
/// assert_eq!(cgil::metrics::transfer(&[vec![90.0, 40.0], vec![80.0, 70.0]]), Some(40.0));
/// ```
pub fn transfer(matrix: &AccuracyMatrix) -> Option<f64> {
    let unseen = |t: usize| mean(matrix[t][t + 1..].iter().copied());
    (matrix.len() > 1).then(|| mean((0..matrix.len() - 1).map(unseen)))
}

/// Forward transfer: mean over the tasks but the first of (accuracy right before it is learned − zero-shot accuracy)
/// (Lopez-Paz, 2017, with zero-shot in place of a random start); None with one task.
///
/// ```
/// assert_eq!(cgil::metrics::forward_transfer(&[vec![90.0, 40.0], vec![80.0, 70.0]], &[50.0, 45.0]), Some(-5.0));
/// ```
pub fn forward_transfer(matrix: &AccuracyMatrix, zero_shot: &[f64]) -> Option<f64> {
    (matrix.len() > 1).then(|| mean((1..matrix.len()).map(|k| matrix[k - 1][k] - zero_shot[k])))
}

/// Mean accuracy over the tasks seen after task `t` (from 0).
pub fn average_accuracy(matrix: &AccuracyMatrix, t: usize) -> f64 {
    mean(matrix[t][..=t].iter().copied())
}

/// The arithmetic mean; NaN of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(s, n), v| (s + v, n + 1));
    sum / count as f64
}

/// One row of the metrics table, for one step of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Task that is scored (from 0); none for a score over several tasks.
    pub on_task: Option<usize>,
    pub name: &'static str,
    pub value: f64,
}

/// Accuracies on each task's test images after a number of tasks, in percent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accuracies {
    /// Among the seen classes; on tasks that are not seen, among all.
    pub class_il: Vec<f64>,
    /// Among the classes of the image's own task.
    pub task_il: Vec<f64>,
    /// As `class_il`, but text features of unseen classes keep their length; NaN for a task of which that is not known.
    pub raw: Vec<f64>,
}

impl Accuracies {
    /// Of the predictions for images of the classes `truth`. A task without predictions has NaN.
    pub fn new(predictions: &[Option<Prediction>], truth: &[usize], curriculum: &Curriculum) -> Self {
        let tasks = curriculum.tasks();
        let (mut right, mut images, mut raws) = (vec![[0usize; 3]; tasks], vec![0usize; tasks], vec![0usize; tasks]);
        for (prediction, &class) in predictions.iter().zip(truth) {
            let Some(p) = prediction else { continue };
            let task = curriculum.task_of(class);
            images[task] += 1;
            raws[task] += usize::from(p.raw.is_some());
            for (right, predicted) in right[task].iter_mut().zip([Some(p.class), Some(p.in_task), p.raw]) {
                *right += usize::from(predicted == Some(class));
            }
        }
        let percent = |i: usize, of: &[usize]| (0..tasks).map(|k| 100.0 * right[k][i] as f64 / of[k] as f64).collect();
        Accuracies { class_il: percent(0, &images), task_il: percent(1, &images), raw: percent(2, &raws) }
    }
}

/// A run so far: the accuracies before the first task, if there were any, and after each task that is learned.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Zero-shot, before the first task; none for classifiers that know nothing then.
    pub zero_shot: Option<Vec<f64>>,
    /// After each task.
    pub steps: Vec<Accuracies>,
    /// Test images of each task.
    pub images: Vec<usize>,
}

impl History {
    /// Before the first step.
    pub fn new(test: &TestSet, curriculum: &Curriculum) -> Self {
        History { images: test.per_task(curriculum), ..History::default() }
    }

    /// Adds the accuracies after `learned` tasks.
    pub fn push(&mut self, learned: usize, accuracies: Accuracies) {
        match learned {
            0 => self.zero_shot = Some(accuracies.class_il),
            _ => self.steps.push(accuracies),
        }
    }

    /// The accuracy matrix (class-incremental).
    pub fn matrix(&self) -> Vec<Vec<f64>> {
        self.steps.iter().map(|step| step.class_il.clone()).collect()
    }

    /// The metrics of the last step: zero-shot ones before the first task, else those after the last task.
    pub fn metrics(&self) -> Vec<Metric> {
        let per_task = |name, accuracy: &[f64], tasks: std::ops::Range<usize>| -> Vec<Metric> {
            tasks.map(|k| Metric { on_task: Some(k), name, value: accuracy[k] }).collect()
        };
        let over_tasks = |name, value| Metric { on_task: None, name, value };
        let (tasks, matrix) = (self.images.len(), self.matrix());
        let Some(last) = self.steps.last() else {
            let zero_shot = self.zero_shot.as_deref().unwrap_or_default();
            let mut rows = per_task("zero_shot_accuracy", zero_shot, 0..zero_shot.len());
            rows.push(over_tasks("zero_shot_accuracy", mean(zero_shot.iter().copied())));
            return rows;
        };
        let t = self.steps.len() - 1;
        let mut rows = per_task("accuracy", &last.class_il, 0..t + 1);
        rows.extend(per_task("task_accuracy", &last.task_il, 0..t + 1));
        if self.zero_shot.is_some() {
            rows.extend(per_task("transfer_accuracy", &last.class_il, t + 1..tasks));
            let raw = per_task("transfer_accuracy_raw", &last.raw, t + 1..tasks);
            rows.extend(raw.into_iter().filter(|metric| metric.value.is_finite()));
        }
        rows.push(over_tasks("average_accuracy", average_accuracy(&matrix, t)));
        rows.push(over_tasks("average_task_accuracy", mean(last.task_il[..=t].iter().copied())));
        rows.push(over_tasks("sample_accuracy", self.sample_accuracy(t)));
        if t + 1 == tasks {
            let scores = Scores::new(&matrix);
            rows.push(over_tasks("faa", scores.faa));
            rows.push(over_tasks("caa", scores.caa));
            let raw: Vec<Vec<f64>> = self.steps.iter().map(|step| step.raw.clone()).collect();
            let zero_shot = self.zero_shot.as_deref();
            let optional = [
                ("forgetting", scores.forgetting),
                ("bwt", scores.bwt),
                ("fwt", zero_shot.and_then(|zero_shot| forward_transfer(&matrix, zero_shot))),
                ("ci_transfer", zero_shot.and_then(|_| transfer(&matrix))),
                ("ci_transfer_raw", zero_shot.and_then(|_| transfer(&raw)).filter(|value| value.is_finite())),
            ];
            rows.extend(optional.into_iter().filter_map(|(name, value)| Some(over_tasks(name, value?))));
            rows.push(over_tasks("mean_sample_accuracy", mean((0..tasks).map(|t| self.sample_accuracy(t)))));
        }
        rows
    }

    /// Accuracy over the images of all tasks seen after task `t` (from 0).
    fn sample_accuracy(&self, t: usize) -> f64 {
        let images = &self.images[..=t];
        let right: f64 = self.steps[t].class_il.iter().zip(images).map(|(accuracy, &n)| accuracy * n as f64).sum();
        right / images.iter().sum::<usize>() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Class, OrderOptions, TaskOptions};

    /// 3 classes in tasks of 2 and 1, whose 4 + 2 images are counted by hand.
    #[test]
    fn scores_are_those_counted_by_hand() {
        let classes: Vec<Class> = (0..3).map(|i| Class { label: i, name: format!("c{i}") }).collect();
        let tasks = TaskOptions { tasks: None, per_task: Some(1), first_task: Some(2) };
        let curriculum = Curriculum::new(&classes, &tasks, &OrderOptions::default()).unwrap();
        let truth = [0, 0, 1, 1, 2, 2];
        let say = |class: [usize; 6], in_task: [usize; 6], raw: [Option<usize>; 6]| {
            let of = |i| Some(Prediction { class: class[i], score: 0.0, in_task: in_task[i], raw: raw[i] });
            Accuracies::new(&(0..6).map(of).collect::<Vec<_>>(), &truth, &curriculum)
        };
        let none = [None; 6];
        let mut history = History { images: vec![4, 2], ..Default::default() };
        // zero-shot: 2 of 4 right, 1 of 2
        history.push(0, say([0, 1, 1, 2, 2, 0], [0, 1, 1, 0, 2, 2], none));
        // after task 1: 3 of 4; of the unseen 0 of 2, raw 2 of 2
        history.push(1, say([0, 0, 1, 0, 0, 1], [0, 0, 1, 0, 2, 2], [None, None, None, None, Some(2), Some(2)]));
        // after task 2: 2 of 4 (within the task 3 of 4), 2 of 2
        history.push(2, say([0, 2, 1, 0, 2, 2], [0, 0, 1, 0, 2, 2], none));
        let metrics = history.metrics();
        let value = |name| metrics.iter().find(|m| m.name == name && m.on_task.is_none()).map(|m| m.value);
        assert_eq!(value("faa"), Some(75.0)); // (50 + 100) / 2
        assert_eq!(value("caa"), Some(75.0)); // (75 + 75) / 2
        assert_eq!(value("average_task_accuracy"), Some(87.5)); // (75 + 100) / 2
        assert_eq!(value("sample_accuracy"), Some(400.0 / 6.0)); // 4 of 6
        assert_eq!(value("mean_sample_accuracy"), Some((75.0 + 400.0 / 6.0) / 2.0));
        assert_eq!((value("forgetting"), value("bwt")), (Some(25.0), Some(-25.0)));
        assert_eq!(value("fwt"), Some(-50.0)); // 0 before it is learned, 50 zero-shot
        assert_eq!((value("ci_transfer"), value("ci_transfer_raw")), (Some(0.0), Some(100.0)));
    }

    #[test]
    fn without_zero_shot_there_is_no_transfer() {
        let step = |class_il: [f64; 2]| Accuracies { class_il: class_il.into(), ..Default::default() };
        let steps = vec![step([100.0, f64::NAN]), step([50.0, 90.0])];
        let steps = steps.into_iter().map(|s| Accuracies { task_il: s.class_il.clone(), ..s }).collect();
        let history = History { steps, images: vec![30, 10], ..Default::default() };
        let metrics = history.metrics();
        assert!(metrics.iter().all(|m| m.value.is_finite() && !m.name.contains("transfer") && m.name != "fwt"));
        assert!(metrics.iter().any(|m| m.name == "sample_accuracy" && m.value == 60.0));
    }
}
