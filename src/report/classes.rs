//! What single classes gain and lose.

use std::collections::BTreeMap;

use anyhow::Result;
use kuva::plot::BarPlot;

use super::{
    chart::{Chart, GAIN, LOSS},
    figure::Figure,
    scope::Scope,
};
use crate::{query::numbers, sheet::Sheet, stream::Stream, words::counted};

/// Bars of a chart; of more classes the outermost are drawn.
const BARS: usize = 24;

/// Height of a bar, and of what stands around the bars.
const BAR: f64 = 19.0;
const AROUND: f64 = 80.0;

/// A class's accuracy, in %, before and after.
struct Change {
    class: String,
    before: f64,
    after: f64,
}

impl Change {
    fn difference(&self) -> f64 {
        self.after - self.before
    }
}

/// Each class in the end, against zero-shot.
pub fn gains(scope: &Scope) -> Result<Figure> {
    let figure = Comparison {
        id: "gains",
        title: "Gains and losses of classes over zero-shot",
        before: "zero-shot",
        before_is: "after_task = 0",
        note: "Accuracy of each class among all classes: after the last task less zero-shot, before the first.",
        missing: "This method knows nothing of a class before it is learned, so there is no zero-shot accuracy to compare with.",
    };
    figure.draw(scope)
}

/// Each class in the end, against right after it was learned.
pub fn forgetting(scope: &Scope) -> Result<Figure> {
    let figure = Comparison {
        id: "forgetting",
        title: "Gains and losses of classes since they were learned",
        before: "once learned",
        before_is: "after_task = on_task",
        note: "Accuracy of each class after the last task less that right after its own task, when fewer classes were candidates. \
               Classes of the last task have had no time to change.",
        missing: "There is one task only.",
    };
    figure.draw(scope)
}

/// Accuracies of classes after the last task, against those of another step.
struct Comparison {
    id: &'static str,
    title: &'static str,
    /// What the other step is called, and which it is in a query.
    before: &'static str,
    before_is: &'static str,
    note: &'static str,
    /// Why there may be nothing to compare.
    missing: &'static str,
}

impl Comparison {
    fn draw(&self, scope: &Scope) -> Result<Figure> {
        let method = scope.first().to_owned();
        let mut changes = self.changes(scope, &method)?;
        let (id, title) = (self.id, format!("{}: {method}", self.title));
        if changes.is_empty() || scope.tasks == 1 && self.before_is.contains("on_task") {
            return Ok(Figure { id, title, svg: None, note: self.missing.into(), sheet: None });
        }
        changes.sort_by(|a, b| b.difference().total_cmp(&a.difference()).then(a.class.cmp(&b.class)));
        let count = changes.len();
        let is_outermost = |i: &usize| *i < BARS / 2 || i + BARS / 2 >= count;
        let drawn: Vec<&Change> = (0..count).filter(is_outermost).map(|i| &changes[i]).collect();

        // the chart has its first bar at the bottom
        let bars = drawn.iter().rev().map(|change| {
            let colour = if change.difference() < 0.0 { LOSS } else { GAIN };
            (shorten(&change.class), change.difference(), colour)
        });
        let tips = drawn.iter().rev().map(|c| format!("{}: {:.1} % → {:.1} %", c.class, c.before, c.after));
        let plot =
            BarPlot::new().with_colored_bars(bars).with_horizontal(true).with_tooltips().with_tooltip_labels(tips);
        let (best, worst) = (&changes[0], &changes[count - 1]);
        let ahead = changes.iter().filter(|change| change.difference() > 0.0).count();
        let behind = changes.iter().filter(|change| change.difference() < 0.0).count();
        let balance = format!("Of {} {ahead} gain and {behind} lose.", counted(count, "class"));
        let description = format!(
            "Bars of the difference in accuracy of classes. {balance} Most for {}: {:+.1} points; least for {}: {:+.1} points.",
            best.class,
            best.difference(),
            worst.class,
            worst.difference()
        );
        let outermost = match count - drawn.len() {
            0 => String::new(),
            n => format!(" In the table only: {} between these.", counted(n, "class")),
        };
        let row = |c: &Change| {
            let [before, after] = [c.before, c.after].map(|x| format!("{x:.1}"));
            vec![c.class.clone(), before, after, format!("{:+.1}", c.difference())]
        };
        let sheet = Sheet {
            header: ["class", self.before, "in the end", "difference"].map(str::to_owned).into(),
            rows: changes.iter().map(row).collect(),
        };
        Ok(Figure {
            id,
            title,
            svg: Some(
                Chart::new(vec![plot.into()], "difference (percentage points)", "class")
                    .height(AROUND + BAR * drawn.len() as f64)
                    .draw(&description),
            ),
            note: format!("{balance} {}{outermost} Mean over {}.", self.note, scope.orders_in_words()),
            sheet: Some(sheet),
        })
    }

    /// The accuracies of the classes that have both, means over class orders.
    fn changes(&self, scope: &Scope, method: &str) -> Result<Vec<Change>> {
        let (rows_of, tasks) = (scope.rows_of(method), scope.tasks);
        let of = |step: &str| -> Result<BTreeMap<i64, (String, f64)>> {
            let rows = scope.tables.sql(&format!(
                "SELECT label, AVG(accuracy) AS accuracy FROM class_accuracy WHERE {rows_of} AND {step} GROUP BY label"
            ))?;
            let labels = numbers(&rows, "label")?.into_iter().map(|label| label as i64);
            // as it is called now
            let name = |label: i64| {
                let of = |stream: &Stream| Some(stream.classes[stream.position(label).ok()?].name.clone());
                scope.streams.iter().find_map(of).unwrap_or_default()
            };
            Ok(labels
                .zip(numbers(&rows, "accuracy")?)
                .map(|(label, accuracy)| (label, (name(label), accuracy)))
                .collect())
        };
        let (mut before, after) = (of(self.before_is)?, of(&format!("after_task = {tasks} AND on_task <= {tasks}"))?);
        let change = |(label, (class, after))| before.remove(&label).map(|(_, before)| Change { class, before, after });
        Ok(after.into_iter().filter_map(change).collect())
    }
}

/// A class's name, short enough for an axis.
fn shorten(name: &str) -> String {
    match name.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
