//! Whether probabilities are what they say.

use anyhow::Result;
use kuva::plot::{LinePlot, ScatterPlot};

use super::{
    chart::{Chart, INK, SERIES, colour, marker},
    figure::Figure,
    scope::Scope,
};
use crate::{
    metrics::{BINS, Bin, MetricName, bins},
    query::numbers,
    sheet::Sheet,
    summary::spread,
    words::counted,
};

/// Size of the marker of a bin without images, and how much larger that of all images is.
const LEAST: f64 = 2.0;
const MORE: f64 = 7.0;

/// Accuracy against confidence after the last task, of every method that has probabilities.
pub fn diagram(scope: &Scope) -> Result<Figure> {
    let (id, title) = ("reliability", "Are probabilities what they say?".to_owned());
    let of = |method: &str, metric| spread(&scope.summary.values(method, metric), 1);
    let has_some = |method: &&String| !scope.summary.values(method, MetricName::CalibrationError).is_empty();
    let methods: Vec<&String> = scope.summary.methods.iter().filter(has_some).take(SERIES).collect();
    if methods.is_empty() {
        let note = "None of these methods has scores that can be read as probabilities.".into();
        return Ok(Figure { id, title, svg: None, note, sheet: None });
    }
    let diagonal = LinePlot::new().with_data([(0.0, 0.0), (100.0, 100.0)]).with_color(INK).with_dashed();
    let (mut plots, mut rows) = (vec![diagonal.into()], Vec::new());
    for (i, method) in methods.iter().enumerate() {
        let bins: Vec<Bin> = bins_of(scope, method)?.into_iter().filter(|bin| bin.images > 0).collect();
        let points: Vec<(f64, f64)> =
            bins.iter().map(|bin| (mean(bin.confidence, bin), mean(bin.right as f64, bin))).collect();
        let all = bins.iter().fold(Bin::default(), |all, bin| Bin {
            images: all.images + bin.images,
            confidence: all.confidence + bin.confidence,
            right: all.right + bin.right,
            variance: all.variance + bin.variance,
        });
        let sizes = bins.iter().map(|bin| LEAST + MORE * (bin.images as f64 / all.images as f64).sqrt());
        let tips = bins.iter().zip(&points).map(|(bin, (confidence, accuracy))| {
            format!("{method}: {accuracy:.1} % right at {confidence:.1} %, {}", counted(bin.images, "image"))
        });
        let dots = ScatterPlot::new().with_data(points.iter().copied()).with_color(colour(i));
        plots.push(dots.with_marker(marker(i)).with_sizes(sizes).with_tooltips().with_tooltip_labels(tips).into());
        let errors = [MetricName::CalibrationError, MetricName::ErrorIfCalibrated, MetricName::UncalibratedError];
        let errors = errors.map(|metric| of(method, metric));
        let means = [all.confidence, all.right as f64].map(|sum| format!("{:.1}", mean(sum, &all)));
        rows.push([(*method).clone()].into_iter().chain(errors).chain(means).collect::<Vec<_>>());
    }
    let named = |row: &Vec<String>| format!("{}: ECE {}", row[0], row[1]);
    let names: Vec<String> = rows.iter().map(named).collect();
    let description = format!(
        "Marks of accuracy against probability, of {}; probabilities that are what they say lie on the diagonal. {}.",
        counted(names.len(), "method"),
        names.join("; ")
    );
    let header = ["method", "ECE", "if calibrated", "uncalibrated", "mean probability", "accuracy"].map(str::to_owned);
    Ok(Figure {
        id,
        title,
        svg: Some(
            Chart::new(plots, "probability of the answer (%)", "right answers (%)")
                .layout(|layout| {
                    let layout = layout.with_x_axis_min(0.0).with_x_axis_max(100.0);
                    layout.with_y_axis_min(0.0).with_y_axis_max(100.0)
                })
                .legend(&names, marker)
                .draw(&description),
        ),
        note: format!(
            "Images of all tasks after the last one, by the probability of their answer in {BINS} bins. Larger marks are \
             more images; below the diagonal a method is too sure. ECE, the expected calibration error, is the mean distance from the diagonal over images, in \
             percentage points. If calibrated: what it is in the mean of as many images where probabilities are what they \
             say. Uncalibrated: by the softmax alone, of methods that are calibrated. Over {}.",
            scope.orders_in_words()
        ),
        sheet: Some(Sheet { header: header.into(), rows }),
    })
}

/// A sum over the images of a bin as their mean, in %.
fn mean(sum: f64, bin: &Bin) -> f64 {
    100.0 * sum / bin.images as f64
}

/// The images of a method on all its streams, by the probability of their answer.
fn bins_of(scope: &Scope, method: &str) -> Result<[Bin; BINS]> {
    let rows = scope.tables.sql(&format!(
        "SELECT probability, CASE WHEN predicted = label THEN 1.0 ELSE 0.0 END AS is_right FROM predictions WHERE {} \
         AND after_task = {} AND probability IS NOT NULL",
        scope.rows_of(method),
        scope.tasks
    ))?;
    let right = numbers(&rows, "is_right")?.into_iter().map(|is_right| is_right == 1.0);
    Ok(bins(numbers(&rows, "probability")?.into_iter().zip(right)))
}
