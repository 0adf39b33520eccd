//! Methods side by side: means and deviations over class orders, and differences paired by order.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};

use crate::{metrics::mean, query::Tables};

/// The scores that are shown: metric, title, decimals.
const SCORES: [(&str, &str, usize); 11] = [
    ("faa", "FAA", 1),
    ("caa", "CAA", 1),
    ("sample_accuracy", "A_B", 1),
    ("mean_sample_accuracy", "Ā", 1),
    ("average_task_accuracy", "task-IL", 1),
    ("forgetting", "forgetting", 1),
    ("bwt", "BWT", 1),
    ("fwt", "FWT", 1),
    ("ci_transfer", "CI-Transfer", 1),
    ("ci_transfer_raw", "CI-Transfer raw", 1),
    ("stored_bytes", "bytes/class", 0),
];

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Markdown,
    Csv,
    Latex,
}

/// Scores after the last task, by method, metric and class order.
pub struct Summary {
    methods: Vec<String>,
    scores: BTreeMap<(String, String), BTreeMap<String, f64>>,
}

impl Summary {
    /// Of the `methods` of a run that have results in `tasks` tasks in any of the `orders`; the first is what the others are compared
    /// with.
    pub fn new(run: &Path, methods: &[String], orders: &[String], tasks: usize) -> Result<Self> {
        let rows = Tables::open(run)?.sql(&format!(
            "SELECT class_order, method, metric, value FROM metrics WHERE on_task IS NULL AND after_task = {tasks}"
        ))?;
        let text = |name: &str| -> Result<Vec<String>> {
            let column = rows.column(name)?.str().context("a text column")?;
            Ok(column.iter().map(|value| value.unwrap_or_default().to_owned()).collect())
        };
        let (order, method, metric) = (text("class_order")?, text("method")?, text("metric")?);
        let mut scores: BTreeMap<(String, String), BTreeMap<String, f64>> = BTreeMap::new();
        for (row, value) in rows.column("value")?.f64()?.iter().enumerate() {
            let (Some(value), true) = (value, orders.contains(&order[row])) else { continue };
            scores.entry((method[row].clone(), metric[row].clone())).or_default().insert(order[row].clone(), value);
        }
        let there = |method: &&String| scores.contains_key(&((*method).clone(), "faa".into()));
        let methods: Vec<String> = methods.iter().filter(there).cloned().collect();
        if methods.is_empty() {
            bail!("{} has no finished results of these methods in these orders", run.display());
        }
        Ok(Summary { methods, scores })
    }

    fn of(&self, method: &str, metric: &str) -> Option<&BTreeMap<String, f64>> {
        self.scores.get(&(method.to_owned(), metric.to_owned()))
    }

    /// The table: a row per method.
    pub fn render(&self, format: Format) -> String {
        let shown: Vec<_> = SCORES
            .into_iter()
            .filter(|(metric, ..)| self.methods.iter().any(|m| self.of(m, metric).is_some()))
            .collect();
        let first = &self.methods[0];
        let mut header = vec!["method".to_owned(), "orders".into()];
        header.extend(shown.iter().map(|(_, title, _)| (*title).to_owned()));
        header.push(format!("FAA − {first}"));
        let body: Vec<Vec<String>> = self
            .methods
            .iter()
            .map(|method| {
                let orders = self.of(method, "faa").map_or(0, BTreeMap::len);
                let mut row = vec![method.clone(), orders.to_string()];
                row.extend(shown.iter().map(|(metric, _, decimals)| {
                    self.of(method, metric).map_or("–".into(), |v| spread(v.values().copied(), *decimals))
                }));
                row.push(self.difference(method, first));
                row
            })
            .collect();
        write(format, &header, &body)
    }

    /// Of a method's FAA from another's, paired by order.
    fn difference(&self, method: &str, other: &str) -> String {
        let (Some(own), Some(others)) = (self.of(method, "faa"), self.of(other, "faa")) else { return "–".into() };
        let pairs: Vec<f64> = own.iter().filter_map(|(order, x)| Some(x - others.get(order)?)).collect();
        if method == other || pairs.is_empty() { "–".into() } else { spread(pairs.into_iter(), 1) }
    }
}

/// Mean ± standard deviation (n − 1); the mean alone where there is one value.
fn spread(values: impl ExactSizeIterator<Item = f64> + Clone, decimals: usize) -> String {
    let (n, centre) = (values.len(), mean(values.clone()));
    let squares: f64 = values.map(|x| (x - centre).powi(2)).sum();
    let deviation = (squares / (n.max(2) - 1) as f64).sqrt();
    if n < 2 || decimals == 0 {
        format!("{centre:.decimals$}")
    } else {
        format!("{centre:.decimals$} ± {deviation:.decimals$}")
    }
}

/// A table in any of the formats.
fn write(format: Format, header: &[String], body: &[Vec<String>]) -> String {
    let lines = |row: &dyn Fn(&[String]) -> String| body.iter().map(|cells| row(cells)).collect::<String>();
    match format {
        Format::Text => {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(header);
            body.iter().for_each(|cells| _ = table.add_row(cells));
            table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
            table.trim_fmt() + "\n"
        }
        Format::Markdown => {
            let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
            let rule = header.iter().enumerate().map(|(i, _)| if i == 0 { "---".into() } else { "---:".to_owned() });
            row(header) + &row(&rule.collect::<Vec<_>>()) + &lines(&row)
        }
        Format::Csv => {
            let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
            let row = |cells: &[String]| cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
            row(header) + &lines(&row)
        }
        Format::Latex => {
            let escaped = |cell: &String| {
                cell.replace('_', "\\_")
                    .replace('%', "\\%")
                    .replace(" ± ", " $\\pm$ ")
                    .replace('−', "$-$")
                    .replace('Ā', "$\\bar{A}$")
            };
            let row = |cells: &[String]| cells.iter().map(escaped).collect::<Vec<_>>().join(" & ") + " \\\\\n";
            let columns = format!("l{}", "r".repeat(header.len() - 1));
            format!(
                "\\begin{{tabular}}{{{columns}}}\n\\hline\n{}\\hline\n{}\\hline\n\\end{{tabular}}\n",
                row(header),
                lines(&row)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let lines: Vec<String> = summary.render(Format::Csv).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], r#""method","orders","FAA","FAA − a""#);
        assert_eq!(lines[2], r#""b","2","62.0 ± 15.6","2.0 ± 1.4""#);
    }
}
