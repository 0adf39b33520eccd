//! What scores are called, and how they are to be read.

use std::fmt;

/// What a score is called, and how it is to be read. [`MetricName::ALL`] lists them as the table of
/// methods shows them, those of single tasks last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricName {
    /// Final average accuracy: mean accuracy over all tasks after the last.
    Faa,
    /// Cumulative average accuracy: mean of the average accuracies after each task.
    Caa,
    /// Accuracy over the images of seen tasks; after the last task A_B.
    SampleAccuracy,
    /// Ā: mean of the sample accuracies after each task.
    MeanSampleAccuracy,
    /// Mean of the task accuracies over seen tasks.
    AverageTaskAccuracy,
    /// Mean loss of accuracy of a task from its best.
    Forgetting,
    /// Backward transfer: what later tasks changed of a task's accuracy.
    Bwt,
    /// Forward transfer: accuracy of a task before it is learned, less zero-shot.
    Fwt,
    /// Mean accuracy of tasks that are not learned yet, in class-incremental evaluation.
    CiTransfer,
    /// The same with text features of the length that the encoder gives them, as in the authors'
    /// code.
    CiTransferRaw,
    /// Mean open accuracy over the steps with tasks to come.
    MeanOpenAccuracy,
    /// H: harmonic mean of that and CI-Transfer.
    Harmonic,
    /// Mean area under the curve of seen against unseen accuracy, over the steps with tasks to come.
    Ausuc,
    /// Area under the receiver operating characteristic of confidence, images of seen classes against
    /// those of classes to come: mean over the steps with some.
    MeanAuroc,
    /// Images of classes to come that are taken for known where 95 % of those of seen ones are: mean
    /// over the same steps.
    MeanFpr95,
    /// Expected calibration error on images of seen classes.
    CalibrationError,
    /// What it would be in the mean, were probabilities what they say.
    ErrorIfCalibrated,
    /// Expected calibration error by the softmax alone, of a method that is calibrated.
    UncalibratedError,
    /// Transfer as X-TAIL has it: mean over the tasks but the first of the accuracy before they are
    /// learned.
    XTailTransfer,
    /// Average as X-TAIL has it: mean over all steps and tasks, learned or not.
    XTailAverage,
    /// Bytes kept beside the CLIP to go on learning, per class seen.
    StoredBytes,
    /// Mean accuracy over seen tasks.
    AverageAccuracy,
    /// As the mean, of a step.
    Auroc,
    /// As the mean, of a step.
    Fpr95,
    /// Accuracy of a seen task among the seen classes.
    Accuracy,
    /// Accuracy of a seen task, or the mean over them, where all classes are candidates, learned or
    /// not.
    OpenAccuracy,
    /// Accuracy of a task among its own classes.
    TaskAccuracy,
    /// Accuracy of an unseen task among all classes.
    TransferAccuracy,
    /// The same with text features of the length that the encoder gives them.
    TransferAccuracyRaw,
    /// Accuracy of a task among all classes with nothing learned.
    ZeroShotAccuracy,
}

/// What a score is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Of images, in %.
    Percent,
    /// Differences of scores in percent.
    PercentagePoints,
    /// Bytes.
    Bytes,
}

/// Which of two values of a score is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// The higher one.
    Higher,
    /// The lower one.
    Lower,
}

impl MetricName {
    /// Every score.
    pub const ALL: [MetricName; 30] = [
        MetricName::Faa,
        MetricName::Caa,
        MetricName::SampleAccuracy,
        MetricName::MeanSampleAccuracy,
        MetricName::AverageTaskAccuracy,
        MetricName::Forgetting,
        MetricName::Bwt,
        MetricName::Fwt,
        MetricName::CiTransfer,
        MetricName::CiTransferRaw,
        MetricName::MeanOpenAccuracy,
        MetricName::Harmonic,
        MetricName::Ausuc,
        MetricName::MeanAuroc,
        MetricName::MeanFpr95,
        MetricName::CalibrationError,
        MetricName::ErrorIfCalibrated,
        MetricName::UncalibratedError,
        MetricName::XTailTransfer,
        MetricName::XTailAverage,
        MetricName::StoredBytes,
        MetricName::AverageAccuracy,
        MetricName::Auroc,
        MetricName::Fpr95,
        MetricName::Accuracy,
        MetricName::OpenAccuracy,
        MetricName::TaskAccuracy,
        MetricName::TransferAccuracy,
        MetricName::TransferAccuracyRaw,
        MetricName::ZeroShotAccuracy,
    ];

    /// The name in the table `metrics`, and the title that people see.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            MetricName::Faa => ("faa", "FAA"),
            MetricName::Caa => ("caa", "CAA"),
            MetricName::SampleAccuracy => ("sample_accuracy", "A_B"),
            MetricName::MeanSampleAccuracy => ("mean_sample_accuracy", "Ā"),
            MetricName::AverageTaskAccuracy => ("average_task_accuracy", "task-IL"),
            MetricName::Forgetting => ("forgetting", "forgetting"),
            MetricName::Bwt => ("bwt", "BWT"),
            MetricName::Fwt => ("fwt", "FWT"),
            MetricName::CiTransfer => ("ci_transfer", "CI-Transfer"),
            MetricName::CiTransferRaw => ("ci_transfer_raw", "CI-Transfer raw"),
            MetricName::MeanOpenAccuracy => ("mean_open_accuracy", "open"),
            MetricName::Harmonic => ("h", "H"),
            MetricName::Ausuc => ("ausuc", "AUSUC"),
            MetricName::MeanAuroc => ("mean_auroc", "AUROC"),
            MetricName::MeanFpr95 => ("mean_fpr95", "FPR95"),
            MetricName::CalibrationError => ("ece", "ECE"),
            MetricName::ErrorIfCalibrated => ("ece_if_calibrated", "ECE if calibrated"),
            MetricName::UncalibratedError => ("ece_uncalibrated", "ECE uncalibrated"),
            MetricName::XTailTransfer => ("x_tail_transfer", "Transfer"),
            MetricName::XTailAverage => ("x_tail_average", "Average"),
            MetricName::StoredBytes => ("stored_bytes", "bytes/class"),
            MetricName::AverageAccuracy => ("average_accuracy", "average accuracy"),
            MetricName::Auroc => ("auroc", "AUROC of a step"),
            MetricName::Fpr95 => ("fpr95", "FPR95 of a step"),
            MetricName::Accuracy => ("accuracy", "accuracy"),
            MetricName::OpenAccuracy => ("open_accuracy", "open accuracy"),
            MetricName::TaskAccuracy => ("task_accuracy", "task-IL accuracy"),
            MetricName::TransferAccuracy => ("transfer_accuracy", "transfer accuracy"),
            MetricName::TransferAccuracyRaw => ("transfer_accuracy_raw", "raw transfer accuracy"),
            MetricName::ZeroShotAccuracy => ("zero_shot_accuracy", "zero-shot accuracy"),
        }
    }

    /// The name in the table `metrics`.
    pub const fn name(self) -> &'static str {
        self.names().0
    }

    /// The title that people see.
    pub const fn title(self) -> &'static str {
        self.names().1
    }

    /// The metric of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// What it is measured in.
    pub const fn unit(self) -> Unit {
        match self {
            MetricName::Forgetting
            | MetricName::Bwt
            | MetricName::Fwt
            | MetricName::CalibrationError
            | MetricName::ErrorIfCalibrated
            | MetricName::UncalibratedError => Unit::PercentagePoints,
            MetricName::StoredBytes => Unit::Bytes,
            _ => Unit::Percent,
        }
    }

    /// Which of two values is the better one.
    pub const fn better(self) -> Better {
        match self {
            MetricName::Forgetting
            | MetricName::MeanFpr95
            | MetricName::Fpr95
            | MetricName::CalibrationError
            | MetricName::ErrorIfCalibrated
            | MetricName::UncalibratedError
            | MetricName::StoredBytes => Better::Lower,
            _ => Better::Higher,
        }
    }

    /// Whether a method has one value of it for all tasks after the last one, and so can be
    /// compared by it.
    pub const fn is_final(self) -> bool {
        !matches!(
            self,
            MetricName::AverageAccuracy
                | MetricName::Auroc
                | MetricName::Fpr95
                | MetricName::Accuracy
                | MetricName::OpenAccuracy
                | MetricName::TaskAccuracy
                | MetricName::TransferAccuracy
                | MetricName::TransferAccuracyRaw
                | MetricName::ZeroShotAccuracy
        )
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        for (i, metric) in MetricName::ALL.into_iter().enumerate() {
            assert_eq!(MetricName::of(metric.name()), Some(metric));
            assert!(MetricName::ALL[..i].iter().all(|other| other.title() != metric.title()));
            let is_difference = matches!(
                metric.name(),
                "forgetting" | "bwt" | "fwt" | "ece" | "ece_if_calibrated" | "ece_uncalibrated"
            );
            assert_eq!(metric.unit() == Unit::PercentagePoints, is_difference, "{metric}");
            assert_eq!(metric.unit() == Unit::Bytes, metric.name() == "stored_bytes", "{metric}");
            let is_cost = matches!(
                metric.name(),
                "forgetting"
                    | "mean_fpr95"
                    | "fpr95"
                    | "ece"
                    | "ece_if_calibrated"
                    | "ece_uncalibrated"
                    | "stored_bytes"
            );
            assert_eq!(metric.better() == Better::Lower, is_cost, "{metric}");
        }
        assert_eq!(MetricName::of("FAA"), None);
        // those of single tasks or steps
        let others: Vec<&str> =
            MetricName::ALL.into_iter().filter(|metric| !metric.is_final()).map(MetricName::name).collect();
        let transfer = ["transfer_accuracy", "transfer_accuracy_raw", "zero_shot_accuracy"];
        let own = ["average_accuracy", "auroc", "fpr95", "accuracy", "open_accuracy", "task_accuracy"];
        assert_eq!(others, [&own[..], &transfer].concat());
    }
}
