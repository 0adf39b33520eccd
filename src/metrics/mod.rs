//! Scores of continual learning, from what was predicted for every test image.

mod detection;
mod name;
mod reliability;

pub use detection::{Detection, detection};
pub use name::{Better, MetricName, Unit};
pub use reliability::{BINS, Bin, bins, calibration_error, error_if_calibrated};

use crate::{
    ausuc::{area, curve},
    dense::moments::mean,
    evaluate::{Prediction, TestSet},
    stream::Stream,
};

/// `matrix[t][k]`: accuracy in percent on the test images of task k after task t (both from 0). For
/// k > t the classes are unseen and scored zero-shot, among all classes.
pub type AccuracyMatrix = [Vec<f64>];

/// The scores of a finished run, in percent. Those that need a past or a future task are None with
/// one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Final average accuracy: mean over tasks after the last one.
    pub faa: f64,
    /// Cumulative average accuracy: mean over t of the mean over the tasks seen after t; what
    /// others call average incremental accuracy (Rebuffi et al., 2017), there over images, as
    /// `mean_sample_accuracy`.
    pub caa: f64,
    /// Mean over the tasks but the last of (best accuracy before the last task was learned − final
    /// accuracy) (Chaudhry, Dokania, Ajanthan and Torr, 2018, equation 3), below 0 where the last
    /// step is the best. Some libraries take the best of all steps, which is never below the final
    /// one. The published maximum begins with the first step; here it begins with the task's own,
    /// since accuracies before are zero-shot, of classes among all.
    pub forgetting: Option<f64>,
    /// Backward transfer: mean over the tasks but the last of (final accuracy − accuracy right
    /// after the task was learned) (Lopez-Paz and Ranzato, 2017).
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
        let over_past = |score: &dyn Fn(usize) -> f64| (tasks > 1).then(|| mean(known((0..tasks - 1).map(score))));
        Scores {
            faa: average_accuracy(matrix, tasks - 1),
            caa: mean(known((0..tasks).map(|t| average_accuracy(matrix, t)))),
            forgetting: over_past(&|k| (k..tasks - 1).map(|t| matrix[t][k]).fold(f64::NAN, f64::max) - last[k]),
            bwt: over_past(&|k| last[k] - matrix[k][k]),
        }
    }
}

/// Class-incremental transfer (CI-Transfer, arXiv 2407.15793): mean over t of the mean accuracy on
/// tasks not seen yet; None with one task.
///
/// ```
/// assert_eq!(cgil::metrics::transfer(&[vec![90.0, 40.0], vec![80.0, 70.0]]), Some(40.0));
/// ```
pub fn transfer(matrix: &AccuracyMatrix) -> Option<f64> {
    let unseen = |t: usize| mean(known(matrix[t][t + 1..].iter().copied()));
    (matrix.len() > 1).then(|| mean(known((0..matrix.len() - 1).map(unseen))))
}

/// Forward transfer: mean over the tasks but the first of (accuracy right before it is learned −
/// zero-shot accuracy) (Lopez-Paz and Ranzato, 2017, with zero-shot in place of a random start);
/// None with one task.
///
/// ```
/// assert_eq!(cgil::metrics::forward_transfer(&[vec![90.0, 40.0], vec![80.0, 70.0]], &[50.0, 45.0]), Some(-5.0));
/// ```
pub fn forward_transfer(matrix: &AccuracyMatrix, zero_shot: &[f64]) -> Option<f64> {
    (matrix.len() > 1).then(|| mean(known((1..matrix.len()).map(|k| matrix[k - 1][k] - zero_shot[k]))))
}

/// Transfer as X-TAIL has it (Xu et al., 2024): mean over the tasks but the first of the mean
/// accuracy over the steps before they are learned; None with one task. CI-Transfer takes the means
/// the other way round, so that the last tasks count for more in it.
///
/// ```
/// let matrix = [vec![90.0, 40.0, 10.0], vec![80.0, 70.0, 30.0], vec![50.0, 75.0, 60.0]];
/// assert_eq!(cgil::metrics::x_tail_transfer(&matrix), Some((40.0 + (10.0 + 30.0) / 2.0) / 2.0));
/// ```
pub fn x_tail_transfer(matrix: &AccuracyMatrix) -> Option<f64> {
    let before = |k: usize| mean(known((0..k).map(|t| matrix[t][k])));
    (matrix.len() > 1).then(|| mean(known((1..matrix.len()).map(before))))
}

/// The harmonic mean of two accuracies; 0 of two that are 0.
fn harmonic((a, b): (f64, f64)) -> f64 {
    if a + b > 0.0 { 2.0 * a * b / (a + b) } else { 0.0 }
}

/// The values that there are: a task that a stream got later has none, NaN, in the steps before, and
/// one without classes or test images in none.
fn known(values: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
    values.filter(|value| value.is_finite())
}

/// Mean accuracy over the tasks seen after task `t` (from 0).
pub fn average_accuracy(matrix: &AccuracyMatrix, t: usize) -> f64 {
    mean(known(matrix[t][..=t].iter().copied()))
}

/// One row of the metrics table, for one step of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Task that is scored (from 0); none for a score over several tasks.
    pub on_task: Option<usize>,
    /// What score it is.
    pub name: MetricName,
    /// In the score's unit.
    pub value: f64,
}

/// Accuracies on each task's test images after a number of tasks, in percent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accuracies {
    /// Among the seen classes; on tasks that are not seen, among all.
    pub class_il: Vec<f64>,
    /// Among the classes of the image's own task.
    pub task_il: Vec<f64>,
    /// As `class_il`, but text features of unseen classes keep their length; NaN for a task of
    /// which that is not known.
    pub raw: Vec<f64>,
    /// Among all classes, learned or not; NaN for a task of which that is not known.
    pub open: Vec<f64>,
    /// The area under the curve of seen against unseen accuracy; none where there is no curve.
    pub ausuc: Option<f64>,
    /// Test images of each task that were scored.
    pub images: Vec<usize>,
    /// How well images of seen classes are told from those of classes to come; none where there are
    /// none of either.
    pub detection: Option<Detection>,
    /// The expected calibration error on images of seen classes; none where scores are no logits.
    pub calibration_error: Option<f64>,
    /// What it would be in the mean, were probabilities what they say.
    pub error_if_calibrated: Option<f64>,
    /// The error by the softmax alone, where the method is calibrated.
    pub uncalibrated_error: Option<f64>,
}

impl Accuracies {
    /// Of the predictions after `learned` tasks for images of the classes `truth`. A task without
    /// predictions has NaN.
    pub fn new(predictions: &[Option<Prediction>], truth: &[usize], learned: usize, stream: &Stream) -> Self {
        let tasks = stream.tasks();
        let (mut right, mut known) = (vec![[0usize; 4]; tasks], vec![[0usize; 4]; tasks]);
        for (prediction, &class) in predictions.iter().zip(truth) {
            let Some(p) = prediction else { continue };
            let task = stream.task_of(class);
            for (i, predicted) in [p.class, p.in_task, p.raw, p.open].into_iter().enumerate() {
                known[task][i] += usize::from(predicted.is_some());
                right[task][i] += usize::from(predicted == Some(class));
            }
        }
        let there = || predictions.iter().zip(truth).filter_map(|(prediction, &class)| Some(((*prediction)?, class)));
        let sure = |is_seen: bool| {
            let group = there().filter(|(_, class)| (stream.task_of(*class) < learned) == is_seen);
            group.filter_map(|(p, _)| p.confidence).collect()
        };
        let binned = |probability: &dyn Fn(&Prediction) -> Option<f32>| {
            let answer = |(p, class): (Prediction, usize)| Some((probability(&p)?.into(), p.class == Some(class)));
            bins(there().filter_map(answer))
        };
        let calibrated = binned(&|p| p.probability);
        let percent = |i: usize| (0..tasks).map(|k| 100.0 * right[k][i] as f64 / known[k][i] as f64).collect();
        Accuracies {
            class_il: percent(0),
            task_il: percent(1),
            raw: percent(2),
            open: percent(3),
            ausuc: curve(predictions, truth, learned, stream).map(|curve| area(&curve)),
            images: known.iter().map(|of_task| of_task[0]).collect(),
            detection: detection(sure(true), sure(false)),
            calibration_error: calibration_error(&calibrated),
            error_if_calibrated: error_if_calibrated(&calibrated),
            uncalibrated_error: calibration_error(&binned(&|p| p.uncalibrated)),
        }
    }
}

/// A run so far: the accuracies before the first task, if there were any, and after each task that
/// is learned.
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
    pub fn new(test: &TestSet, stream: &Stream) -> Self {
        History { images: test.per_task(stream), ..History::default() }
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

    /// The metrics of the last step: zero-shot ones before the first task, else those after the
    /// last task.
    pub fn metrics(&self) -> Vec<Metric> {
        let per_task = |name, accuracy: &[f64], tasks: std::ops::Range<usize>| -> Vec<Metric> {
            tasks.map(|k| Metric { on_task: Some(k), name, value: accuracy[k] }).collect()
        };
        let over_tasks = |name, value| Metric { on_task: None, name, value };
        let (tasks, matrix) = (self.images.len(), self.matrix());
        let Some(last) = self.steps.last() else {
            let zero_shot = self.zero_shot.as_deref().unwrap_or_default();
            let mut rows = per_task(MetricName::ZeroShotAccuracy, zero_shot, 0..zero_shot.len());
            rows.push(over_tasks(MetricName::ZeroShotAccuracy, mean(known(zero_shot.iter().copied()))));
            rows.retain(|metric| metric.value.is_finite());
            return rows;
        };
        let t = self.steps.len() - 1;
        let mut rows = per_task(MetricName::Accuracy, &last.class_il, 0..t + 1);
        rows.extend(per_task(MetricName::TaskAccuracy, &last.task_il, 0..t + 1));
        if self.zero_shot.is_some() {
            let unseen = per_task(MetricName::TransferAccuracy, &last.class_il, t + 1..tasks);
            rows.extend(unseen.into_iter().filter(|metric| metric.value.is_finite()));
            let raw = per_task(MetricName::TransferAccuracyRaw, &last.raw, t + 1..tasks);
            rows.extend(raw.into_iter().filter(|metric| metric.value.is_finite()));
            rows.extend(per_task(MetricName::OpenAccuracy, &last.open, 0..t + 1));
            rows.push(over_tasks(MetricName::OpenAccuracy, self.open_accuracy(t)));
        }
        rows.push(over_tasks(MetricName::AverageAccuracy, average_accuracy(&matrix, t)));
        rows.push(over_tasks(MetricName::AverageTaskAccuracy, mean(known(last.task_il[..=t].iter().copied()))));
        rows.push(over_tasks(MetricName::SampleAccuracy, self.sample_accuracy(t)));
        let of_step = [
            (MetricName::Auroc, last.detection.map(|detection| detection.auroc)),
            (MetricName::Fpr95, last.detection.map(|detection| detection.fpr95)),
            (MetricName::CalibrationError, last.calibration_error),
            (MetricName::ErrorIfCalibrated, last.error_if_calibrated),
            (MetricName::UncalibratedError, last.uncalibrated_error),
        ];
        rows.extend(of_step.into_iter().filter_map(|(name, value)| Some(over_tasks(name, value?))));
        if t + 1 == tasks {
            let scores = Scores::new(&matrix);
            rows.push(over_tasks(MetricName::Faa, scores.faa));
            rows.push(over_tasks(MetricName::Caa, scores.caa));
            let raw: Vec<Vec<f64>> = self.steps.iter().map(|step| step.raw.clone()).collect();
            let zero_shot = self.zero_shot.as_deref();
            // over the steps with tasks to come
            let is_early = |t: &usize| matrix[*t][t + 1..].iter().any(|accuracy| accuracy.is_finite());
            let to_come = |score: &dyn Fn(usize) -> f64| {
                (zero_shot.is_some() && tasks > 1).then(|| mean(known((0..tasks - 1).filter(is_early).map(score))))
            };
            let open = to_come(&|t| self.open_accuracy(t)).filter(|accuracy| accuracy.is_finite());
            let optional = [
                (MetricName::Forgetting, scores.forgetting),
                (MetricName::Bwt, scores.bwt),
                (MetricName::Fwt, zero_shot.and_then(|zero_shot| forward_transfer(&matrix, zero_shot))),
                (MetricName::CiTransfer, zero_shot.and_then(|_| transfer(&matrix))),
                (MetricName::CiTransferRaw, zero_shot.and_then(|_| transfer(&raw))),
                (MetricName::MeanOpenAccuracy, open),
                (MetricName::Harmonic, open.zip(zero_shot.and_then(|_| transfer(&matrix))).map(harmonic)),
                (MetricName::Ausuc, to_come(&|t| self.steps[t].ausuc.unwrap_or(f64::NAN))),
                (MetricName::MeanAuroc, self.mean_detection(|detection| detection.auroc)),
                (MetricName::MeanFpr95, self.mean_detection(|detection| detection.fpr95)),
                (MetricName::XTailTransfer, zero_shot.and_then(|_| x_tail_transfer(&matrix))),
                (MetricName::XTailAverage, zero_shot.filter(|_| tasks > 1).map(|_| self.x_tail_average())),
            ];
            let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
            rows.extend(optional.map(|(name, value)| over_tasks(name, value)));
            let of_images = mean(known((0..tasks).map(|t| self.sample_accuracy(t))));
            rows.push(over_tasks(MetricName::MeanSampleAccuracy, of_images));
        }
        rows.retain(|metric| metric.value.is_finite()); // without test images nothing is scored
        rows
    }

    /// Mean open accuracy over the tasks seen after task `t` (from 0).
    fn open_accuracy(&self, t: usize) -> f64 {
        mean(known(self.steps[t].open[..=t].iter().copied()))
    }

    /// The mean over the steps with images of tasks to come; none where there is no such step.
    fn mean_detection(&self, of: impl Fn(Detection) -> f64) -> Option<f64> {
        let steps: Vec<f64> = self.steps.iter().filter_map(|step| step.detection.map(&of)).collect();
        (!steps.is_empty()).then(|| mean(steps))
    }

    /// Mean open accuracy over all steps and tasks, learned or not.
    fn x_tail_average(&self) -> f64 {
        mean(known(self.steps.iter().map(|step| mean(known(step.open.iter().copied())))))
    }

    /// Accuracy over the images of all tasks seen after task `t` (from 0).
    fn sample_accuracy(&self, t: usize) -> f64 {
        let Accuracies { class_il, images, .. } = &self.steps[t];
        let scored = || class_il[..=t].iter().zip(images).filter(|(accuracy, _)| accuracy.is_finite());
        let right: f64 = scored().map(|(accuracy, &n)| accuracy * n as f64).sum();
        right / scored().map(|(_, &n)| n).sum::<usize>() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evaluate::Unseen, task::Class};

    /// 3 classes in tasks of 2 and 1, whose 4 + 2 images are counted by hand.
    #[test]
    fn scores_are_those_counted_by_hand() {
        let classes: Vec<Class> = (0..3).map(|i| Class { label: i, name: format!("c{i}") }).collect();
        let stream = Stream::of_sizes(&classes, &[2, 1]).unwrap();
        let truth = [0, 0, 1, 1, 2, 2];
        let say =
            |learned: usize, class: [usize; 6], in_task: [usize; 6], raw: [Option<usize>; 6], open: [usize; 6]| {
                // what is seen and not 2 is so by a margin of 1
                let unseen = |i: usize| {
                    (learned == 1).then(|| Unseen { class: 2, margin: Some(if open[i] == 2 { 1.0 } else { -1.0 }) })
                };
                let of = |i| {
                    let (raw, open, unseen) = (raw[i], Some(open[i]), unseen(i));
                    // of the seen ones the first is sure and wrong, and not sure enough; after task 1
                    // the unseen ones are at 2 and 5 of 3, 4, 5 and 6
                    let confidence = (learned > 0).then(|| [3.0, 4.0, 5.0, 6.0, 2.0, 5.0][i]);
                    let probability = (learned == 1 && i < 4).then(|| [0.95, 0.95, 0.5, 0.25][i]);
                    let (class, in_task) = (Some(class[i]), Some(in_task[i]));
                    let prediction = Prediction { class, in_task, raw, open, unseen, ..Prediction::default() };
                    Some(Prediction { confidence, probability, ..prediction })
                };
                Accuracies::new(&(0..6).map(of).collect::<Vec<_>>(), &truth, learned, &stream)
            };
        let none = [None; 6];
        let mut history = History { images: vec![4, 2], ..Default::default() };
        // zero-shot: 2 of 4 right, 1 of 2
        history.push(0, say(0, [0, 1, 1, 2, 2, 0], [0, 1, 1, 0, 2, 2], none, [0, 1, 1, 2, 2, 0]));
        // after task 1: 3 of 4, among all classes 1 of 4; of the unseen 1 of 2, raw 2 of 2
        let raw = [None, None, None, None, Some(2), Some(2)];
        history.push(1, say(1, [0, 0, 1, 0, 2, 1], [0, 0, 1, 0, 2, 2], raw, [0, 2, 2, 2, 2, 1]));
        // after task 2: 2 of 4 (within the task 3 of 4), 2 of 2
        history.push(2, say(2, [0, 2, 1, 0, 2, 2], [0, 0, 1, 0, 2, 2], none, [0, 2, 1, 0, 2, 2]));
        // of a task that is learned there is no transfer
        let mut early = history.clone();
        early.steps.truncate(1);
        let early = early.metrics();
        let tasks = |name| -> Vec<_> { early.iter().filter(|m| m.name == name).map(|m| m.on_task).collect() };
        assert_eq!(tasks(MetricName::TransferAccuracy), [Some(1)]);
        assert_eq!(tasks(MetricName::TransferAccuracyRaw), [Some(1)]);
        assert_eq!(tasks(MetricName::Accuracy), [Some(0)]);
        assert_eq!(tasks(MetricName::TaskAccuracy), [Some(0)]);
        assert_eq!(tasks(MetricName::OpenAccuracy), [Some(0), None]);
        let of_step = |name| early.iter().find(|m| m.name == name).map(|m| m.value);
        // of 8 pairs of seen and unseen 5 are right and one is a tie; at 3 or above is one of the two
        assert_eq!((of_step(MetricName::Auroc), of_step(MetricName::Fpr95)), (Some(68.75), Some(50.0)));
        // two at 0.95, both right, one at 0.5, right, one at 0.25, wrong
        let error = of_step(MetricName::CalibrationError).unwrap();
        assert!((error - 100.0 * (0.1 + 0.5 + 0.25) / 4.0).abs() < 1e-5, "{error}");
        // two at 0.95 are 2 · 2 · 0.95 · 0.05 off, one at 0.5 and one at 0.25 as normal ones
        let normal = (2.0 / std::f64::consts::PI).sqrt() * (0.5 + (0.25 * 0.75f64).sqrt());
        let if_calibrated = of_step(MetricName::ErrorIfCalibrated).unwrap();
        assert!((if_calibrated - 25.0 * (0.19 + normal)).abs() < 1e-5, "{if_calibrated}");
        assert_eq!(of_step(MetricName::UncalibratedError), None);
        let metrics = history.metrics();
        let value = |name| metrics.iter().find(|m| m.name.name() == name && m.on_task.is_none()).map(|m| m.value);
        assert_eq!(value("faa"), Some(75.0)); // (50 + 100) / 2
        assert_eq!(value("caa"), Some(75.0)); // (75 + 75) / 2
        assert_eq!(value("average_task_accuracy"), Some(87.5)); // (75 + 100) / 2
        assert_eq!(value("sample_accuracy"), Some(400.0 / 6.0)); // 4 of 6
        assert_eq!(value("mean_sample_accuracy"), Some((75.0 + 400.0 / 6.0) / 2.0));
        assert_eq!((value("forgetting"), value("bwt")), (Some(25.0), Some(-25.0)));
        assert_eq!(value("fwt"), Some(0.0)); // 50 before it is learned, 50 zero-shot
        assert_eq!((value("ci_transfer"), value("ci_transfer_raw")), (Some(50.0), Some(100.0)));
        assert_eq!(value("open_accuracy"), Some(75.0)); // after the last task that among the seen
        assert_eq!((value("mean_open_accuracy"), value("h")), (Some(25.0), Some(100.0 / 3.0))); // 2·25·50 / 75
        // unseen answers at the bias 0: 25 of seen, 50 of unseen ones; 75 and 0, and 0 and 100 at the ends
        assert_eq!(value("ausuc"), Some((50.0 * (75.0 + 25.0) + 50.0 * 25.0) / 200.0));
        assert_eq!((value("mean_auroc"), value("mean_fpr95")), (Some(68.75), Some(50.0))); // of the only step
        assert_eq!((value("auroc"), value("ece")), (None, None));
        assert_eq!(value("x_tail_transfer"), Some(50.0));
        assert_eq!(value("x_tail_average"), Some(((25.0 + 50.0) / 2.0 + 75.0) / 2.0));
    }

    #[test]
    fn without_zero_shot_there_is_no_transfer() {
        let step =
            |class_il: [f64; 2]| Accuracies { class_il: class_il.into(), images: vec![30, 10], ..Default::default() };
        let steps = vec![step([100.0, f64::NAN]), step([50.0, 90.0])];
        let steps = steps.into_iter().map(|s| Accuracies { task_il: s.class_il.clone(), ..s }).collect();
        let history = History { steps, images: vec![30, 10], ..Default::default() };
        let metrics = history.metrics();
        assert!(
            metrics
                .iter()
                .all(|m| m.value.is_finite() && !m.name.name().contains("transfer") && m.name != MetricName::Fwt)
        );
        assert!(metrics.iter().any(|m| m.name == MetricName::SampleAccuracy && m.value == 60.0));
    }

    #[test]
    fn a_task_without_test_images_is_left_out_of_every_mean() {
        let step = |class_il: [f64; 3]| Accuracies {
            task_il: class_il.into(),
            open: class_il.into(),
            raw: class_il.into(),
            images: class_il.iter().enumerate().map(|(k, x)| if x.is_finite() { 10 + 10 * k } else { 0 }).collect(),
            class_il: class_il.into(),
            ..Default::default()
        };
        let nan = f64::NAN;
        let with = [[90.0, nan, 40.0], [80.0, nan, 50.0], [60.0, nan, 70.0]];
        let history = |steps: Vec<Accuracies>, images: &[usize]| {
            let zero_shot = Some(images.iter().map(|&n| if n > 0 { 30.0 } else { nan }).collect());
            History { zero_shot, steps, images: images.to_vec() }.metrics()
        };
        let metrics = history(with.into_iter().map(step).collect(), &[10, 0, 30]);
        let value = |name| metrics.iter().find(|m| m.name == name && m.on_task.is_none()).map(|m| m.value);
        assert_eq!((value(MetricName::Faa), value(MetricName::AverageTaskAccuracy)), (Some(65.0), Some(65.0)));
        assert_eq!(value(MetricName::Caa), Some((90.0 + 80.0 + 65.0) / 3.0));
        assert_eq!((value(MetricName::Forgetting), value(MetricName::Bwt)), (Some(30.0), Some(-30.0)));
        assert_eq!((value(MetricName::SampleAccuracy), value(MetricName::CiTransfer)), (Some(67.5), Some(45.0)));
        assert_eq!(value(MetricName::MeanSampleAccuracy), Some((90.0 + 80.0 + 67.5) / 3.0));
        assert_eq!(value(MetricName::MeanOpenAccuracy), Some(85.0));
        assert!(metrics.iter().all(|m| m.on_task != Some(1) && m.value.is_finite()));
    }

    #[test]
    fn forgetting_is_from_the_best_step_before_the_last() {
        let forgetting = |matrix: &[[f64; 3]; 3]| Scores::new(&matrix.map(Vec::from)).forgetting;
        // task 1: best 70 after task 2, 60 in the end; task 2: 50, then 80, its highest, in the
        // last step
        assert_eq!(forgetting(&[[40.0, 0.0, 0.0], [70.0, 50.0, 0.0], [60.0, 80.0, 90.0]]), Some((10.0 - 30.0) / 2.0));
        // what was right before the task was learned does not count
        assert_eq!(forgetting(&[[40.0, 99.0, 0.0], [40.0, 50.0, 0.0], [40.0, 50.0, 90.0]]), Some(0.0));
        assert_eq!(Scores::new(&[vec![30.0, 0.0], vec![45.0, 90.0]]).forgetting, Some(-15.0));
        assert_eq!(Scores::new(&[vec![30.0]]).forgetting, None);
    }

    #[test]
    fn transfers_are_those_counted_by_hand() {
        let matrix = [vec![90.0, 40.0, 10.0], vec![80.0, 70.0, 30.0], vec![50.0, 75.0, 60.0]];
        let scores = Scores::new(&matrix);
        assert_eq!(scores.bwt, Some((50.0 - 90.0 + 75.0 - 70.0) / 2.0));
        assert_eq!(scores.caa, (90.0 + 75.0 + (50.0 + 75.0 + 60.0) / 3.0) / 3.0);
        assert_eq!(transfer(&matrix), Some((25.0 + 30.0) / 2.0)); // (40 + 10) / 2, then 30
        assert_eq!(forward_transfer(&matrix, &[1.0, 45.0, 20.0]), Some((40.0 - 45.0 + 30.0 - 20.0) / 2.0));
        assert_eq!((transfer(&[vec![90.0]]), forward_transfer(&[vec![90.0]], &[10.0])), (None, None));
    }
}
