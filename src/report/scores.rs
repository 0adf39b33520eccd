//! Accuracies: after each task, of seen against unseen classes, task by task.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use anyhow::Result;
use kuva::plot::{Heatmap, LinePlot, ScatterPlot, colormap::ColorMap};

use super::{
    chart::{Chart, SERIES, colour, marker},
    figure::Figure,
    scope::{Scope, condition},
};
use crate::{
    dense::moments::{deviation, mean},
    metrics::MetricName,
    query::{numbers, texts},
    sheet::Sheet,
    summary::{decimals, spread},
    words::counted,
};

/// How far the other methods are from the first, and how sure that is: over class orders, and over
/// images.
pub fn differences(scope: &Scope) -> Result<Sheet> {
    let (methods, metric) = (&scope.summary.methods, scope.metric.title());
    let header = vec![
        format!("method, less {}", methods[0]),
        metric.to_owned(),
        format!("orders with more {metric}"),
        "A_B, with 95 % interval over images".into(),
    ];
    let mut rows = Vec::new();
    for method in &methods[1..] {
        let by_order = scope.summary.differences(method, scope.metric);
        let more = by_order.iter().filter(|difference| **difference > 0.0).count();
        let by_image = by_image(scope, method)?;
        let half = 1.96 * deviation(&by_image) / (by_image.len() as f64).sqrt();
        rows.push(vec![
            method.clone(),
            spread(&by_order, decimals(scope.metric)),
            format!("{more} of {}", by_order.len()),
            match by_image.len() {
                0 => "–".into(),
                _ => format!("{:.1} ± {half:.1}", mean(by_image)),
            },
        ]);
    }
    Ok(Sheet { header, rows })
}

/// By how many percentage points more often than the first method another is right after the last
/// task, for each test image, over the streams that both have; nothing where they share none.
fn by_image(scope: &Scope, method: &str) -> Result<Vec<f64>> {
    let first = scope.summary.streams(scope.first());
    let both: Vec<String> = scope.summary.streams(method).into_iter().filter(|stream| first.contains(stream)).collect();
    if both.is_empty() {
        return Ok(Vec::new());
    }
    let of = |method: &str| -> Result<BTreeMap<(String, String), f64>> {
        let rows = scope.tables.sql(&format!(
            "SELECT source, sample_id, AVG(CASE WHEN predicted = label THEN 100.0 ELSE 0.0 END) AS accuracy FROM predictions \
             WHERE {} AND after_task = {} GROUP BY source, sample_id",
            condition(method, &both),
            scope.tasks
        ))?;
        let keys = texts(&rows, "source")?.into_iter().zip(texts(&rows, "sample_id")?);
        Ok(keys.zip(numbers(&rows, "accuracy")?).collect())
    };
    let first = of(scope.first())?;
    Ok(of(method)?.into_iter().filter_map(|(image, accuracy)| Some(accuracy - first.get(&image)?)).collect())
}

/// Accuracy on the tasks seen, after each task.
pub fn curves(scope: &Scope) -> Result<Figure> {
    let mut values: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    for method in &scope.summary.methods {
        let rows = scope.tables.sql(&format!(
            "SELECT after_task, value FROM metrics WHERE metric = 'average_accuracy' AND {} AND after_task <= {}",
            scope.rows_of(method),
            scope.tasks
        ))?;
        for (task, value) in numbers(&rows, "after_task")?.into_iter().zip(numbers(&rows, "value")?) {
            values.entry((method.clone(), task as usize)).or_default().push(value);
        }
    }
    let of = |method: &str, task: usize| values.get(&(method.to_owned(), task)).map_or(&[][..], Vec::as_slice);
    let tasks = 1..=scope.tasks;

    let drawn = drawn(scope);
    let mut plots = Vec::new();
    for (i, method) in drawn.iter().enumerate() {
        let (x, y): (Vec<f64>, Vec<&[f64]>) =
            tasks.clone().filter(|&t| !of(method, t).is_empty()).map(|t| (t as f64, of(method, t))).unzip();
        let means: Vec<f64> = y.iter().map(|y| mean(y.iter().copied())).collect();
        let band = |sign: f64| {
            means
                .iter()
                .zip(&y)
                .map(move |(mean, y)| (mean + sign * deviation(y)).clamp(0.0, 100.0))
                .collect::<Vec<_>>()
        };
        let points = || x.iter().copied().zip(means.iter().copied());
        plots.push(LinePlot::new().with_data(points()).with_color(colour(i)).with_band(band(-1.0), band(1.0)).into());
        let tips =
            tasks.clone().map(|t| format!("{method}, after {}: {} %", counted(t, "task"), spread(of(method, t), 1)));
        let dots = ScatterPlot::new().with_data(points()).with_color(colour(i)).with_marker(marker(i)).with_size(4.0);
        plots.push(dots.with_tooltips().with_tooltip_labels(tips).into());
    }
    let row = |method: &String| {
        [method.clone()].into_iter().chain(tasks.clone().map(|t| spread(of(method, t), 1))).collect::<Vec<_>>()
    };
    let header = ["method".to_owned()].into_iter().chain(tasks.clone().map(|t| format!("after task {t}"))).collect();
    let sheet = Sheet { header, rows: scope.summary.methods.iter().map(row).collect() };
    let first = scope.first();
    let description = format!(
        "Lines of the accuracy on the tasks seen after each of {}, for {}. {first} goes from {} to {} %.",
        counted(scope.tasks, "task"),
        counted(drawn.len(), "method"),
        spread(of(first, 1), 1),
        spread(of(first, scope.tasks), 1)
    );
    let hidden = scope.summary.methods.len() - drawn.len();
    let others = match hidden {
        0 => String::new(),
        n => format!(" In the table only: {}; choose by --method.", counted(n, "more method")),
    };
    Ok(Figure {
        id: "curves",
        title: "Accuracy after each task".into(),
        svg: Some(
            Chart::new(plots, "tasks learned", "accuracy on the tasks seen (%)")
                .layout(|layout| layout.with_x_tick_step((scope.tasks as f64 / 10.0).ceil()).with_y_axis_max(100.0))
                .legend(&drawn, marker)
                .draw(&description),
        ),
        note: format!(
            "Class-incremental: all classes seen so far are candidates. Mean over tasks; the band is one standard deviation to \
             either side over {}.{others}",
            scope.orders_in_words()
        ),
        sheet: Some(sheet),
    })
}

/// The methods that charts of many show: the first, and the best of the others.
fn drawn(scope: &Scope) -> Vec<String> {
    scope.summary.methods.iter().take(SERIES).cloned().collect()
}

/// What is learned against what is kept of the CLIP's own knowledge.
pub fn transfer(scope: &Scope) -> Figure {
    let (id, title) = ("transfer", "Seen and unseen classes".to_owned());
    let all = |method: &String, metric| scope.summary.values(method, metric);
    let methods: Vec<&String> = scope
        .summary
        .methods
        .iter()
        .filter(|method| !all(method, MetricName::CiTransfer).is_empty())
        .take(SERIES)
        .collect();
    let without: Vec<&str> = scope
        .summary
        .methods
        .iter()
        .filter(|method| all(method, MetricName::CiTransfer).is_empty())
        .map(String::as_str)
        .collect();
    if methods.is_empty() {
        let note = "None of these methods can tell classes that it has not seen, or there is one task only.".into();
        return Figure { id, title, svg: None, note, sheet: None };
    }
    let plots = methods.iter().enumerate().map(|(i, method)| {
        let (faa, transfer) = (all(method, MetricName::Faa), all(method, MetricName::CiTransfer));
        let tip = format!("{method}: FAA {} %, CI-Transfer {} %", spread(&faa, 1), spread(&transfer, 1));
        let (x, y) = (mean(faa.iter().copied()), mean(transfer.iter().copied()));
        let point =
            ScatterPlot::new().with_data([(x, y)]).with_x_err([deviation(&faa)]).with_y_err([deviation(&transfer)]);
        let point = point.with_color(colour(i)).with_marker(marker(i)).with_size(5.0);
        point.with_tooltips().with_tooltip_labels([tip]).into()
    });
    let names: Vec<String> = methods.iter().map(|method| (*method).clone()).collect();
    let metrics = [
        MetricName::Faa,
        MetricName::CiTransfer,
        MetricName::CiTransferRaw,
        MetricName::MeanOpenAccuracy,
        MetricName::Harmonic,
        MetricName::Ausuc,
    ];
    let rows = methods.iter().map(|method| {
        let scores = metrics.map(|metric| spread(&all(method, metric), 1));
        [(*method).clone()].into_iter().chain(scores).collect()
    });
    let sheet = Sheet {
        header: ["method"].into_iter().chain(metrics.map(MetricName::title)).map(str::to_owned).collect(),
        rows: rows.collect(),
    };
    let described: Vec<String> =
        sheet.rows.iter().map(|row| format!("{}: {} and {} %", row[0], row[1], row[2])).collect();
    let description = format!("Points of FAA and CI-Transfer. {}.", described.join("; "));
    let without = match without.len() {
        0 => String::new(),
        _ => format!(" Without an answer for unseen classes: {}.", without.join(", ")),
    };
    Figure {
        id,
        title,
        svg: Some(
            Chart::new(plots.collect(), "FAA, seen classes (%)", "CI-Transfer, unseen classes (%)")
                .legend(&names, marker)
                .draw(&description),
        ),
        note: format!(
            "FAA: mean over tasks after the last one. CI-Transfer: accuracy on the images of tasks not learned yet, among all \
             classes. Open: accuracy on the images of tasks learned so far, among all classes too, as a classifier in use \
             answers; H is the harmonic mean of the two, AUSUC the area under the curve that a bias of unseen classes \
             draws. Bars are one standard deviation over {}.{without}",
            scope.orders_in_words()
        ),
        sheet: Some(sheet),
    }
}

/// The accuracy matrix of the first method.
pub fn matrix(scope: &Scope) -> Result<Figure> {
    let (first, n) = (scope.first().to_owned(), scope.tasks);
    let rows = scope.tables.sql(&format!(
        "SELECT after_task, on_task, AVG(value) AS value FROM metrics WHERE {} AND after_task > 0 AND after_task <= {n} \
         AND metric IN ('accuracy', 'transfer_accuracy') GROUP BY after_task, on_task",
        scope.rows_of(&first)
    ))?;
    let mut cells = vec![vec![f64::NAN; n]; n];
    let places = numbers(&rows, "after_task")?.into_iter().zip(numbers(&rows, "on_task")?);
    for ((after, on), value) in places.zip(numbers(&rows, "value")?) {
        cells[after as usize - 1][on as usize - 1] = (10.0 * value).round() / 10.0;
    }
    let shade = |share: f64| match share.is_nan() {
        true => "none".to_owned(), // a task to come, of which the method knows nothing
        false => format!("color-mix(in srgb, var(--heat) {:.0}%, transparent)", 6.0 + 64.0 * share),
    };
    let labels = || (1..=n).map(|i| i.to_string());
    let upwards: Vec<Vec<f64>> = cells.iter().rev().cloned().collect();
    let map = Heatmap::new()
        .with_data(upwards)
        .with_values()
        .with_legend("accuracy (%)")
        .with_color_map(ColorMap::Custom(Arc::new(shade)));
    let mut description = format!("Heat map of the accuracy of {first} on each of {n} tasks after each.");
    if let [first, .., last] = &cells[..]
        && first[0].is_finite()
        && last[0].is_finite()
    {
        description += &format!(" On the first task: {:.1} % at once, {:.1} % in the end.", first[0], last[0]);
    }
    let svg = Chart::new(vec![map.into()], "on the images of task", "after task")
        .layout(|layout| layout.with_x_categories(labels().collect()).with_y_categories(labels().rev().collect()))
        .draw(&description);
    let svg = with_tenths(&svg, cells.iter().flatten().copied());
    let header = ["after task".to_owned()].into_iter().chain((1..=n).map(|k| format!("on task {k}"))).collect();
    let row = |(t, cells): (usize, &Vec<f64>)| {
        let cells = cells.iter().map(|x| if x.is_nan() { "–".into() } else { format!("{x:.1}") });
        [(t + 1).to_string()].into_iter().chain(cells).collect()
    };
    let sheet = Sheet { header, rows: cells.iter().enumerate().map(row).collect() };
    Ok(Figure {
        id: "matrix",
        title: format!("Accuracy matrix of {first}"),
        svg: Some(svg),
        note: format!(
            "Below and on the diagonal: tasks that are seen, among the classes seen. Above it: tasks to come, among all classes. \
             Mean over {}; in each, a task has other classes.",
            scope.orders_in_words()
        ),
        sheet: Some(sheet),
    })
}

/// A drawing with the texts that are these values, which are rounded to tenths, written as tenths;
/// those that are none are empty.
fn with_tenths(svg: &str, values: impl Iterator<Item = f64>) -> String {
    let texts: HashSet<String> = values.map(|value| format!("{value:.2}")).collect();
    let parts = svg.split_inclusive('<').map(|part| {
        let text = part.strip_suffix('<').and_then(|part| part.rsplit_once('>')).map_or("", |(_, text)| text);
        match part.strip_suffix("0<").or(part.strip_suffix("NaN<")) {
            Some(start) if texts.contains(text) => format!("{start}<"),
            _ => part.to_owned(),
        }
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_nothing_else_are_written_as_tenths() {
        let svg = "<svg x=\"10.00\"><text>10.00</text><text>7.50</text><text>0.50</text><text>0.50 s</text><text>NaN</text></svg>";
        let shown =
            "<svg x=\"10.00\"><text>10.0</text><text>7.5</text><text>0.50</text><text>0.50 s</text><text></text></svg>";
        assert_eq!(with_tenths(svg, [10.0, 7.5, f64::NAN].into_iter()), shown);
    }
}
