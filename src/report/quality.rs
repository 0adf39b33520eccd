//! How like real embeddings generated ones are, from the table `quality`.

use anyhow::Result;
use kuva::plot::ScatterPlot;

use super::{
    chart::{Chart, colour, marker},
    figure::Figure,
    scope::Scope,
};
use crate::{
    dense::moments::mean,
    query::{numbers, texts},
    sheet::Sheet,
};

/// Columns of the table that are shown as means over classes, with the column of real rows where
/// there is one.
const MEASURES: [(&str, &str, Option<&str>, usize); 7] = [
    ("Fréchet distance", "frechet", Some("frechet_real"), 3),
    ("precision (%)", "precision", Some("precision_real"), 1),
    ("recall (%)", "recall", Some("recall_real"), 1),
    ("recall with noise (%)", "recall_replayed", None, 1),
    ("generated to real (%)", "accuracy_generated_to_real", Some("accuracy_real_to_real"), 1),
    ("real to generated (%)", "accuracy_real_to_generated", None, 1),
    ("neighbours", "neighbour_distance", None, 2),
];

/// Precision and recall of every class's generator.
pub fn likeness(scope: &Scope) -> Result<Figure> {
    let (id, title) = ("quality", "How good the generators are".to_owned());
    let columns: Vec<&str> = MEASURES.iter().flat_map(|(_, own, real, _)| [Some(*own), *real]).flatten().collect();
    let rows = scope.tables.sql(&format!(
        "SELECT generator, class_name, {} FROM quality WHERE stream IN ({}) ORDER BY generator, stream, label",
        columns.join(", "),
        scope.quoted_streams()
    ))?;
    let kinds_of_rows = texts(&rows, "generator")?;
    if kinds_of_rows.is_empty() {
        let note = format!(
            "Not measured yet: run `cgil quality --run {}`, with the --seed and --generator of interest, and report again.",
            scope.run.dir().display()
        );
        return Ok(Figure { id, title, svg: None, note, sheet: None });
    }
    let mut kinds = kinds_of_rows.clone();
    kinds.dedup();
    let column = |name: &str| numbers(&rows, name);
    let of_kind = |values: &[f64], kind: &String| -> Vec<f64> {
        values.iter().zip(&kinds_of_rows).filter(|(x, k)| *k == kind && x.is_finite()).map(|(x, _)| *x).collect()
    };

    let (precision, recall, names) = (column("precision")?, column("recall")?, texts(&rows, "class_name")?);
    let mut plots = Vec::new();
    for (i, kind) in kinds.iter().enumerate() {
        let here: Vec<usize> = (0..names.len())
            .filter(|&row| kinds_of_rows[row] == *kind && precision[row].is_finite() && recall[row].is_finite())
            .collect();
        let points = here.iter().map(|&row| (recall[row], precision[row]));
        let tips = here.iter().map(|&row| {
            format!("{}, {kind}: precision {:.1} %, recall {:.1} %", names[row], precision[row], recall[row])
        });
        let dots =
            ScatterPlot::new().with_data(points.collect::<Vec<_>>()).with_color(colour(i)).with_marker(marker(i));
        let dots =
            dots.with_size(4.0).with_marker_opacity(0.7).with_tooltips().with_tooltip_labels(tips.collect::<Vec<_>>());
        plots.push(dots.into());
    }
    let mut sheet = Sheet {
        header: ["generator", "classes"]
            .into_iter()
            .chain(MEASURES.map(|(title, ..)| title))
            .map(str::to_owned)
            .collect(),
        rows: Vec::new(),
    };
    for kind in &kinds {
        let classes = kinds_of_rows.iter().filter(|k| *k == kind).count();
        let mut row = vec![kind.clone(), classes.to_string()];
        for (_, own, real, decimals) in MEASURES {
            let mean_of = |name: &str| -> Result<String> {
                let values = of_kind(&column(name)?, kind);
                Ok(if values.is_empty() { "–".into() } else { format!("{:.decimals$}", mean(values)) })
            };
            let beside = real.map(|real| Ok::<_, anyhow::Error>(format!(" ({})", mean_of(real)?))).transpose()?;
            row.push(mean_of(own)? + &beside.unwrap_or_default());
        }
        sheet.rows.push(row);
    }
    let described: Vec<String> =
        sheet.rows.iter().map(|row| format!("{}: precision {}, recall {}", row[0], row[3], row[4])).collect();
    let description = format!(
        "Points of recall and precision of the generators of classes. Means, training embeddings in brackets: {}.",
        described.join("; ")
    );
    let wide = |layout: kuva::render::layout::Layout| {
        layout.with_x_axis_min(0.0).with_x_axis_max(100.0).with_y_axis_min(0.0).with_y_axis_max(105.0)
    };
    let chart = Chart::new(plots, "recall (%)", "precision (%)");
    Ok(Figure {
        id,
        title,
        svg: Some(chart.layout(wide).legend(&kinds, marker).draw(&description)),
        note: "A point per class. Precision: generated embeddings that are like some real one; recall: real ones that some generated one \
               is like. Beside held-out embeddings; in the table means over classes, in brackets the same of training \
               embeddings, which is what a perfect generator would get. \"Generated to real\": accuracy on held-out embeddings of a \
               nearest-neighbour classifier that knows generated ones only. Neighbours: distance to the nearest training embedding, \
               where held-out ones are at 1 and copies would be at 0."
            .into(),
        sheet: Some(sheet),
    })
}
