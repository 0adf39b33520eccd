//! Seen against unseen accuracy as a bias between the two moves.

use std::collections::BTreeMap;

use anyhow::Result;
use kuva::plot::{LinePlot, ScatterPlot};

use super::{
    chart::{Chart, SERIES, colour, marker},
    figure::Figure,
    scope::Scope,
};
use crate::{
    ausuc::{Image, Point, curve_of, seen_at},
    dense::moments::mean,
    metrics::MetricName,
    query::{numbers, texts},
    sheet::Sheet,
    summary::spread,
    words::counted,
};

/// Unseen accuracies, in %, at which curves are averaged.
fn grid() -> impl Iterator<Item = f64> {
    (0..=100).map(f64::from)
}

/// The curve of every method, and where on it the method stands.
pub fn curves(scope: &Scope) -> Result<Figure> {
    let (id, title) = ("bias", "Seen against unseen accuracy as a bias moves".to_owned());
    let has_curve = |method: &&String| !scope.summary.values(method, MetricName::Ausuc).is_empty();
    let methods: Vec<&String> = scope.summary.methods.iter().filter(has_curve).take(SERIES).collect();
    if methods.is_empty() {
        let note = "None of these methods scores classes that it has not seen, or there is one task only.".into();
        return Ok(Figure { id, title, svg: None, note, sheet: None });
    }
    let (mut plots, mut rows) = (Vec::new(), Vec::new());
    for (i, method) in methods.iter().enumerate() {
        let line = mean_curve(&curves_of(scope, method)?);
        let of = |metric| scope.summary.values(method, metric);
        let (open, transfer) = (of(MetricName::MeanOpenAccuracy), of(MetricName::CiTransfer));
        let points = || line.iter().map(|point| (point.unseen, point.seen));
        let tip = format!("{method}: open {} %, CI-Transfer {} %", spread(&open, 1), spread(&transfer, 1));
        let own = (mean(transfer.iter().copied()), mean(open.iter().copied()));
        plots.push(LinePlot::new().with_data(points()).with_color(colour(i)).into());
        let dot = ScatterPlot::new().with_data([own]).with_color(colour(i)).with_marker(marker(i)).with_size(5.0);
        plots.push(dot.with_tooltips().with_tooltip_labels([tip]).into());
        let best = line.iter().map(harmonic).fold(0.0, f64::max);
        let scores = [&open, &transfer, &of(MetricName::Harmonic), &of(MetricName::Ausuc)].map(|x| spread(x, 1));
        rows.push([(*method).clone()].into_iter().chain(scores).chain([format!("{best:.1}")]).collect::<Vec<_>>());
    }
    let header = ["method", "open", "CI-Transfer", "H", "AUSUC", "best H on the curve"].map(str::to_owned);
    let described: Vec<String> = rows.iter().map(|row| format!("{}: {} and {} %", row[0], row[1], row[2])).collect();
    let names: Vec<String> = methods.into_iter().cloned().collect();
    let chart = Chart::new(plots, "on images of unseen classes (%)", "on images of seen classes (%)");
    let description = format!(
        "Curves of seen against unseen accuracy of {}. {}.",
        counted(names.len(), "method"),
        described.join("; ")
    );
    Ok(Figure {
        id,
        title,
        svg: Some(chart.legend(&names, marker).draw(&description)),
        note: format!(
            "All classes are candidates, learned or not. A bias of unseen classes moves a method along its curve, so a higher \
             CI-Transfer may be a bias and no knowledge: what counts is how far out a curve is, AUSUC the area under it. \
             H is best where a bias that nobody knows beforehand would bring it. The mark is where the method stands, beside the curve where its bias is another after every task. Mean over \
             tasks, over the steps before the last, and over {}.",
            scope.orders_in_words()
        ),
        sheet: Some(Sheet { header: header.into(), rows }),
    })
}

/// The harmonic mean of the accuracies.
fn harmonic(point: &Point) -> f64 {
    let sum = point.seen + point.unseen;
    if sum > 0.0 { 2.0 * point.seen * point.unseen / sum } else { 0.0 }
}

/// The curves of a method after each task but the last, on every stream.
fn curves_of(scope: &Scope, method: &str) -> Result<Vec<Vec<Point>>> {
    let rows = scope.tables.sql(&format!(
        "SELECT stream, after_task, on_task, margin, CASE WHEN label = \
         (CASE WHEN on_task <= after_task THEN predicted ELSE predicted_unseen END) THEN 1.0 ELSE 0.0 END AS is_right \
         FROM predictions WHERE {} AND after_task > 0 AND after_task < {} AND margin IS NOT NULL",
        scope.rows_of(method),
        scope.tasks
    ))?;
    let [after, on, margin, right] =
        ["after_task", "on_task", "margin", "is_right"].map(|column| numbers(&rows, column));
    let (after, on, margin, right) = (after?, on?, margin?, right?);
    let mut images: BTreeMap<(String, usize), Vec<Image>> = BTreeMap::new();
    for (row, stream) in texts(&rows, "stream")?.into_iter().enumerate() {
        let is_seen = on[row] <= after[row];
        let image = Image { task: on[row] as usize, is_seen, is_right: right[row] == 1.0, margin: margin[row] as f32 };
        images.entry((stream, after[row] as usize)).or_default().push(image);
    }
    Ok(images.values().filter_map(|images| curve_of(images)).collect())
}

/// The mean of the seen accuracies at each unseen one, as far as any curve reaches.
fn mean_curve(curves: &[Vec<Point>]) -> Vec<Point> {
    let at = |unseen: f64| Point { seen: mean(curves.iter().map(|curve| seen_at(curve, unseen))), unseen };
    grid().map(at).take_while(|point| point.seen > 0.0).collect()
}
