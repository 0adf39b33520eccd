//! Methods side by side: means and deviations over class orders, and differences paired by order.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::{
    dense::moments::{deviation, mean},
    metrics::{MetricName, Unit},
    query::{Tables, numbers, texts},
    sheet::Sheet,
};

/// The scores of the table of methods. X-TAIL's are other means of the same accuracies, for who
/// compares with its tables; FPR95, and ECE if calibrated and uncalibrated, are to AUROC and ECE what
/// details are: the table `metrics` has them.
fn scores() -> impl Iterator<Item = MetricName> {
    let is_left_out = |metric: &MetricName| {
        matches!(
            metric,
            MetricName::XTailTransfer
                | MetricName::XTailAverage
                | MetricName::MeanFpr95
                | MetricName::ErrorIfCalibrated
                | MetricName::UncalibratedError
        )
    };
    MetricName::ALL.into_iter().filter(move |metric| metric.is_final() && !is_left_out(metric))
}

/// The decimals that a score is shown with.
pub fn decimals(score: MetricName) -> usize {
    if score.unit() == Unit::Bytes { 0 } else { 1 }
}

/// Scores after the last task, by method, metric and stream.
pub struct Summary {
    /// The methods that have results; the first is what the others are compared with.
    pub methods: Vec<String>,
    scores: BTreeMap<(String, MetricName), BTreeMap<String, f64>>,
}

impl Summary {
    /// Of the finished `results`, methods on streams with the streams' numbers of tasks. The first
    /// of the `methods` that has some is what the others are compared with.
    pub fn new(tables: &Tables, methods: &[String], results: &BTreeMap<(String, String), usize>) -> Result<Self> {
        let rows = tables.sql("SELECT stream, method, after_task, metric, value FROM metrics WHERE on_task IS NULL")?;
        let after = numbers(&rows, "after_task")?;
        let (stream, method, metric) = (texts(&rows, "stream")?, texts(&rows, "method")?, texts(&rows, "metric")?);
        let mut scores: BTreeMap<(String, MetricName), BTreeMap<String, f64>> = BTreeMap::new();
        for (row, value) in numbers(&rows, "value")?.into_iter().enumerate() {
            let Some(metric) = MetricName::of(&metric[row]) else { continue };
            let tasks = results.get(&(method[row].clone(), stream[row].clone()));
            if tasks.is_some_and(|&tasks| after[row] == tasks as f64) {
                scores.entry((method[row].clone(), metric)).or_default().insert(stream[row].clone(), value);
            }
        }
        // without test images there is no other score
        let there = |method: &&String| scores.contains_key(&((*method).clone(), MetricName::StoredBytes));
        let methods: Vec<String> = methods.iter().filter(there).cloned().collect();
        if methods.is_empty() {
            bail!("there are no finished results of these methods");
        }
        Ok(Summary { methods, scores })
    }

    /// A method's score on every stream that it has.
    pub fn of(&self, method: &str, metric: MetricName) -> Option<&BTreeMap<String, f64>> {
        self.scores.get(&(method.to_owned(), metric))
    }

    /// A method's scores, one for every stream that it has.
    pub fn values(&self, method: &str, metric: MetricName) -> Vec<f64> {
        self.of(method, metric).into_iter().flat_map(|scores| scores.values().copied()).collect()
    }

    /// The streams that a method has results on.
    pub fn streams(&self, method: &str) -> Vec<String> {
        self.of(method, MetricName::Faa).into_iter().flat_map(|scores| scores.keys().cloned()).collect()
    }

    /// Differences of a method's score from the first method's, one for every stream that both
    /// have; none of the first itself.
    pub fn differences(&self, method: &str, metric: MetricName) -> Vec<f64> {
        let first = &self.methods[0];
        match (self.of(method, metric), self.of(first, metric)) {
            (Some(own), Some(others)) if method != first => {
                own.iter().filter_map(|(stream, x)| Some(x - others.get(stream)?)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A row per method: its scores, and how its `metric` differs from the first method's.
    pub fn sheet(&self, metric: MetricName) -> Sheet {
        let is_shown = |score: &MetricName| self.methods.iter().any(|method| self.of(method, *score).is_some());
        let shown: Vec<MetricName> = scores().filter(is_shown).collect();
        let mut header = vec!["method".to_owned(), "orders".into()];
        header.extend(shown.iter().map(|score| score.title().to_owned()));
        header.push(format!("{} − {}", metric.title(), self.methods[0]));
        let row = |method: &String| {
            let mut row = vec![method.clone(), self.streams(method).len().to_string()];
            row.extend(shown.iter().map(|score| spread(&self.values(method, *score), decimals(*score))));
            row.push(spread(&self.differences(method, metric), decimals(metric)));
            row
        };
        Sheet { rows: self.methods.iter().map(row).collect(), header }
    }
}

/// Mean ± standard deviation (n − 1); the mean alone where there is one value, a dash where there
/// is none.
pub fn spread(values: &[f64], decimals: usize) -> String {
    let centre = mean(values.iter().copied());
    match values.len() {
        0 => "–".into(),
        1 => format!("{centre:.decimals$}"),
        _ if decimals == 0 => format!("{centre:.0}"),
        _ => format!("{centre:.decimals$} ± {:.decimals$}", deviation(values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sheet::Format;

    #[test]
    fn differences_are_paired_by_order() {
        let faa = |values: &[(&str, f64)]| values.iter().map(|(stream, x)| ((*stream).to_owned(), *x)).collect();
        let summary = Summary {
            methods: vec!["a".into(), "b".into()],
            scores: [
                (("a".to_owned(), MetricName::Faa), faa(&[("seed-1", 50.0), ("seed-2", 70.0), ("seed-3", 10.0)])),
                (("b".to_owned(), MetricName::Faa), faa(&[("seed-1", 51.0), ("seed-2", 73.0)])),
            ]
            .into(),
        };
        // b: mean 62, deviation √242; b − a: 1 and 3
        let lines: Vec<String> =
            summary.sheet(MetricName::Faa).render(Format::Csv).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], r#""method","orders","FAA","FAA − a""#);
        assert_eq!(lines[1], r#""a","3","43.3 ± 30.6","–""#); // from itself it does not differ
        assert_eq!(lines[2], r#""b","2","62.0 ± 15.6","2.0 ± 1.4""#);
    }

    #[test]
    fn a_single_score_has_no_deviation_and_bytes_have_no_decimals() {
        assert_eq!(spread(&[], 1), "–");
        assert_eq!(spread(&[62.04], decimals(MetricName::Faa)), "62.0");
        assert_eq!(spread(&[62.0], decimals(MetricName::StoredBytes)), "62");
        assert_eq!(spread(&[100.0, 103.0], decimals(MetricName::StoredBytes)), "102");
    }
}
