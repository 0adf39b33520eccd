//! Methods side by side: means and deviations over class orders, and differences paired by order.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser},
};

use crate::{
    metrics::mean,
    query::{Tables, numbers, texts},
    sheet::Sheet,
};

/// A score of the table: its name in the table `metrics`, its title, and the decimals it is shown with.
struct Score {
    metric: &'static str,
    title: &'static str,
    decimals: usize,
}

const SCORES: [Score; 11] = [
    Score { metric: "faa", title: "FAA", decimals: 1 },
    Score { metric: "caa", title: "CAA", decimals: 1 },
    Score { metric: "sample_accuracy", title: "A_B", decimals: 1 },
    Score { metric: "mean_sample_accuracy", title: "Ā", decimals: 1 },
    Score { metric: "average_task_accuracy", title: "task-IL", decimals: 1 },
    Score { metric: "forgetting", title: "forgetting", decimals: 1 },
    Score { metric: "bwt", title: "BWT", decimals: 1 },
    Score { metric: "fwt", title: "FWT", decimals: 1 },
    Score { metric: "ci_transfer", title: "CI-Transfer", decimals: 1 },
    Score { metric: "ci_transfer_raw", title: "CI-Transfer raw", decimals: 1 },
    Score { metric: "stored_bytes", title: "bytes/class", decimals: 0 },
];

/// What methods are compared by: command-line options.
#[derive(Args, Clone, Debug)]
pub struct MetricOption {
    /// Score whose differences between methods are taken, paired by class order
    #[arg(long, default_value = "faa", value_parser = metrics())]
    pub metric: String,
}

fn metrics() -> PossibleValuesParser {
    PossibleValuesParser::new(SCORES.map(|score| PossibleValue::new(score.metric).help(score.title)))
}

/// Scores after the last task, by method, metric and class order.
pub struct Summary {
    /// The methods that have results; the first is what the others are compared with.
    pub methods: Vec<String>,
    scores: BTreeMap<(String, String), BTreeMap<String, f64>>,
}

impl Summary {
    /// Of the `results` in `tasks` tasks, methods in class orders. The first of the `methods` that has some is what the others
    /// are compared with.
    pub fn new(
        tables: &mut Tables,
        methods: &[String],
        results: &BTreeSet<(String, String)>,
        tasks: usize,
    ) -> Result<Self> {
        let rows = tables.sql(&format!(
            "SELECT class_order, method, metric, value FROM metrics WHERE on_task IS NULL AND after_task = {tasks}"
        ))?;
        let (order, method, metric) = (texts(&rows, "class_order")?, texts(&rows, "method")?, texts(&rows, "metric")?);
        let mut scores: BTreeMap<(String, String), BTreeMap<String, f64>> = BTreeMap::new();
        for (row, value) in numbers(&rows, "value")?.into_iter().enumerate() {
            if results.contains(&(method[row].clone(), order[row].clone())) {
                scores.entry((method[row].clone(), metric[row].clone())).or_default().insert(order[row].clone(), value);
            }
        }
        let there = |method: &&String| scores.contains_key(&((*method).clone(), "faa".into()));
        let methods: Vec<String> = methods.iter().filter(there).cloned().collect();
        if methods.is_empty() {
            bail!("there are no finished results of these methods in {tasks} tasks");
        }
        Ok(Summary { methods, scores })
    }

    /// A method's score in every order.
    pub fn of(&self, method: &str, metric: &str) -> Option<&BTreeMap<String, f64>> {
        self.scores.get(&(method.to_owned(), metric.to_owned()))
    }

    /// Differences of a method's score from the first method's, one for every order that both have; none of the first itself.
    pub fn differences(&self, method: &str, metric: &str) -> Vec<f64> {
        let first = &self.methods[0];
        match (self.of(method, metric), self.of(first, metric)) {
            (Some(own), Some(others)) if method != first => {
                own.iter().filter_map(|(order, x)| Some(x - others.get(order)?)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A row per method: its scores, and how its `metric` differs from the first method's.
    pub fn sheet(&self, metric: &str) -> Sheet {
        let is_shown = |score: &&Score| self.methods.iter().any(|method| self.of(method, score.metric).is_some());
        let shown: Vec<&Score> = SCORES.iter().filter(is_shown).collect();
        let mut header = vec!["method".to_owned(), "orders".into()];
        header.extend(shown.iter().map(|score| score.title.to_owned()));
        header.push(format!("{} − {}", title(metric), self.methods[0]));
        let decimals = SCORES.iter().find(|score| score.metric == metric).map_or(1, |score| score.decimals);
        let row = |method: &String| {
            let orders = self.of(method, "faa").map_or(0, BTreeMap::len);
            let mut row = vec![method.clone(), orders.to_string()];
            row.extend(shown.iter().map(|score| {
                let values = self.of(method, score.metric).into_iter().flat_map(BTreeMap::values);
                spread(&values.copied().collect::<Vec<_>>(), score.decimals)
            }));
            row.push(spread(&self.differences(method, metric), decimals));
            row
        };
        Sheet { rows: self.methods.iter().map(row).collect(), header }
    }
}

/// What tables call a metric.
pub fn title(metric: &str) -> &str {
    SCORES.iter().find(|score| score.metric == metric).map_or(metric, |score| score.title)
}

/// Mean ± standard deviation (n − 1); the mean alone where there is one value, a dash where there is none.
pub fn spread(values: &[f64], decimals: usize) -> String {
    let centre = mean(values.iter().copied());
    match values.len() {
        0 => "–".into(),
        1 => format!("{centre:.decimals$}"),
        _ if decimals == 0 => format!("{centre:.0}"),
        _ => format!("{centre:.decimals$} ± {:.decimals$}", deviation(values)),
    }
}

/// The standard deviation (n − 1); 0 of fewer than two values.
pub fn deviation(values: &[f64]) -> f64 {
    let centre = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sheet::Format;

    #[test]
    fn differences_are_paired_by_order() {
        let faa = |values: &[(&str, f64)]| values.iter().map(|(order, x)| ((*order).to_owned(), *x)).collect();
        let summary = Summary {
            methods: vec!["a".into(), "b".into()],
            scores: [
                (("a".to_owned(), "faa".to_owned()), faa(&[("seed-1", 50.0), ("seed-2", 70.0), ("seed-3", 10.0)])),
                (("b".to_owned(), "faa".to_owned()), faa(&[("seed-1", 51.0), ("seed-2", 73.0)])),
            ]
            .into(),
        };
        // b: mean 62, deviation √242; b − a: 1 and 3
        let lines: Vec<String> = summary.sheet("faa").render(Format::Csv).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], r#""method","orders","FAA","FAA − a""#);
        assert_eq!(lines[2], r#""b","2","62.0 ± 15.6","2.0 ± 1.4""#);
    }
}
