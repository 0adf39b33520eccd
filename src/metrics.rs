//! Scores of continual learning, from the accuracy matrix.

/// `matrix[t][k]`: accuracy in percent on the test images of task k after task t (both from 0). For
/// k > t the classes are unseen and scored zero-shot, among all classes.
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
    /// Class-incremental transfer: mean over t of the mean accuracy on tasks not seen yet.
    pub ci_transfer: Option<f64>,
}

impl Scores {
    /// Scores of a whole matrix (T, T).
    ///
    /// ```
    /// let s = cgil::metrics::Scores::new(&[vec![90.0, 40.0], vec![80.0, 70.0]]);
    /// assert_eq!((s.faa, s.caa), (75.0, 82.5));
    /// assert_eq!((s.forgetting, s.bwt, s.ci_transfer), (Some(10.0), Some(-10.0), Some(40.0)));
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
            ci_transfer: over_past(&|t| mean(matrix[t][t + 1..].iter().copied())),
        }
    }
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

/// Accuracies of a run so far: before the first task, and after each task that is learned.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Zero-shot accuracy on each task's images, among all classes, in percent.
    pub zero_shot: Vec<f64>,
    /// Rows of the accuracy matrix.
    pub matrix: Vec<Vec<f64>>,
    /// The same, unseen classes' features not normalised; empty unless asked for.
    pub legacy: Vec<Vec<f64>>,
    /// Test images of each task.
    pub images: Vec<usize>,
}

impl History {
    /// The metrics of the last step: zero-shot ones before the first task, else those after the last row's task.
    pub fn metrics(&self) -> Vec<Metric> {
        let per_task = |name, accuracy: &[f64], tasks: std::ops::Range<usize>| -> Vec<Metric> {
            tasks.map(|k| Metric { on_task: Some(k), name, value: accuracy[k] }).collect()
        };
        let over_tasks = |name, value| Metric { on_task: None, name, value };
        let tasks = self.images.len();
        let Some(last) = self.matrix.last() else {
            let mut rows = per_task("zero_shot_accuracy", &self.zero_shot, 0..tasks);
            rows.push(over_tasks("zero_shot_accuracy", mean(self.zero_shot.iter().copied())));
            return rows;
        };
        let t = self.matrix.len() - 1;
        let mut rows = per_task("accuracy", last, 0..t + 1);
        rows.extend(per_task("transfer_accuracy", last, t + 1..tasks));
        if let Some(legacy) = self.legacy.last() {
            rows.extend(per_task("transfer_accuracy_legacy", legacy, t + 1..tasks));
        }
        rows.push(over_tasks("average_accuracy", average_accuracy(&self.matrix, t)));
        rows.push(over_tasks("sample_accuracy", self.sample_accuracy(t)));
        if t + 1 == tasks {
            let scores = Scores::new(&self.matrix);
            rows.push(over_tasks("faa", scores.faa));
            rows.push(over_tasks("caa", scores.caa));
            let legacy = (!self.legacy.is_empty()).then(|| Scores::new(&self.legacy).ci_transfer).flatten();
            let optional = [
                ("forgetting", scores.forgetting),
                ("bwt", scores.bwt),
                ("ci_transfer", scores.ci_transfer),
                ("ci_transfer_legacy", legacy),
            ];
            rows.extend(optional.into_iter().filter_map(|(name, value)| Some(over_tasks(name, value?))));
            rows.push(over_tasks("mean_sample_accuracy", mean((0..tasks).map(|t| self.sample_accuracy(t)))));
        }
        rows
    }

    /// Accuracy over the images of all tasks seen after task `t` (from 0).
    fn sample_accuracy(&self, t: usize) -> f64 {
        let images = &self.images[..=t];
        let right: f64 = self.matrix[t].iter().zip(images).map(|(accuracy, &n)| accuracy * n as f64).sum();
        right / images.iter().sum::<usize>() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_accuracy_weighs_tasks_by_their_images() {
        let history =
            History { matrix: vec![vec![100.0, 0.0], vec![50.0, 90.0]], images: vec![30, 10], ..Default::default() };
        let value = |name| history.metrics().into_iter().find(|m| m.name == name).map(|m| m.value);
        assert_eq!(value("average_accuracy"), Some(70.0));
        assert_eq!(value("sample_accuracy"), Some(60.0));
        assert_eq!(value("mean_sample_accuracy"), Some(80.0));
        assert_eq!(value("ci_transfer_legacy"), None);
    }
}
