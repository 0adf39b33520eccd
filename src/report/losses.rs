//! Loss curves: of the prompts, and of the generators.

use std::collections::BTreeMap;

use anyhow::Result;
use kuva::{
    plot::{LinePlot, annotations::ReferenceLine},
    render::plots::Plot,
};

use super::{
    chart::{Chart, GAIN, colour, marker},
    figure::Figure,
    scope::Scope,
};
use crate::{
    dense::moments::mean,
    query::{numbers, quoted, texts},
    sheet::Sheet,
    summary::spread,
};

/// Points of a curve; of longer ones every second, third … epoch is drawn.
const POINTS: usize = 400;

/// The first method's prompts, task after task.
pub fn prompts(scope: &Scope) -> Result<Figure> {
    let method = scope.first().to_owned();
    let (id, title) = ("prompt-losses", format!("Loss of the prompts: {method}"));
    let mut curve: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for stream in scope.summary.streams(&method) {
        let [_, prompts, _] = scope.made(&method, &stream)?;
        let Some(name) = prompts.as_ref().and_then(|prompts| prompts.about["prompts"].as_str()) else { continue };
        let rows = scope.tables.sql(&format!(
            "SELECT after_task, epoch, loss FROM prompt_losses WHERE prompts = {} AND stream = {} AND after_task <= {} \
             ORDER BY after_task, epoch",
            quoted(&[name.to_owned()]),
            quoted(&[stream]),
            scope.tasks
        ))?;
        let places = numbers(&rows, "after_task")?.into_iter().zip(numbers(&rows, "epoch")?);
        for ((task, epoch), loss) in places.zip(numbers(&rows, "loss")?) {
            curve.entry((task as usize, epoch as usize)).or_default().push(loss);
        }
    }
    if curve.is_empty() {
        let note = "This method has no training by epochs.".into();
        return Ok(Figure { id, title, svg: None, note, sheet: None });
    }
    let epochs = curve.keys().map(|(_, epoch)| *epoch).max().unwrap_or(1);
    let x = |&(task, epoch): &(usize, usize)| ((task - 1) * epochs + epoch) as f64;
    let plot = banded(curve.iter().map(|(place, losses)| (x(place), &losses[..])), GAIN);
    let row = |task: usize| {
        let at = |epoch| curve.get(&(task, epoch)).map_or(&[][..], Vec::as_slice);
        vec![task.to_string(), spread(at(1), 3), spread(at(epochs), 3)]
    };
    let sheet = Sheet {
        header: ["task", "first epoch", "last epoch"].map(str::to_owned).into(),
        rows: (1..=scope.tasks).map(row).collect(),
    };
    let last = sheet.rows.last().map_or("", |row| &row[2]);
    let description = format!(
        "Line of the mean loss of each of {epochs} epochs, over {} tasks. In the last epoch of the last task it is {last}.",
        scope.tasks
    );
    let starts = (1..scope.tasks).map(|task| {
        ReferenceLine::vertical((task * epochs) as f64)
            .with_color("var(--grid)")
            .with_label(format!("task {}", task + 1))
    });
    let chart = Chart::new(vec![plot], "epochs, task after task", "cross-entropy (nats)");
    let has_logarithm = curve.values().flatten().all(|loss| *loss > 0.0); // where there is one class, it is 0
    Ok(Figure {
        id,
        title,
        svg: Some(
            chart
                .layout(|layout| {
                    let layout = if has_logarithm { layout.with_log_y() } else { layout };
                    starts.fold(layout, |layout, line| layout.with_reference_line(line))
                })
                .draw(&description),
        ),
        note: format!(
            "Each task begins with classes whose prompts have not learned yet, and has more classes to tell apart. Mean, least and \
             highest over {}.",
            scope.orders_in_words()
        ),
        sheet: Some(sheet),
    })
}

/// The generators', means over their classes.
pub fn generators(scope: &Scope) -> Result<Figure> {
    let (id, title) = ("generator-losses", "Loss of the generators".to_owned());
    let rows = scope.tables.sql(&format!(
        "SELECT generator, epoch, AVG(loss) AS loss, MIN(loss) AS least, MAX(loss) AS most FROM generator_losses \
         WHERE stream IN ({}) GROUP BY generator, epoch ORDER BY generator, epoch",
        scope.quoted_streams()
    ))?;
    let kinds_of_rows = texts(&rows, "generator")?;
    if kinds_of_rows.is_empty() {
        let note = "No generators that are trained by epochs: Gaussians and mixtures are not.".into();
        return Ok(Figure { id, title, svg: None, note, sheet: None });
    }
    let mut kinds = kinds_of_rows.clone();
    kinds.dedup();
    let column = |name: &str| numbers(&rows, name);
    let (epochs, losses, least, most) = (column("epoch")?, column("loss")?, column("least")?, column("most")?);
    let (mut plots, mut sheet) = (Vec::new(), Sheet::default());
    sheet.header =
        ["generator", "epochs", "first epoch", "last epoch", "best class", "worst class"].map(str::to_owned).into();
    for (i, kind) in kinds.iter().enumerate() {
        let here: Vec<usize> = (0..losses.len()).filter(|&row| kinds_of_rows[row] == *kind).collect();
        let Some((&first, &last)) = here.first().zip(here.last()) else { continue };
        let step = here.len().div_ceil(POINTS);
        let start = losses[first];
        let shown: Vec<usize> = here.iter().copied().step_by(step).collect();
        let share = |values: &[f64]| shown.iter().map(|&row| values[row] / start).collect::<Vec<_>>();
        let points = shown.iter().map(|&row| epochs[row]).zip(share(&losses)).collect::<Vec<_>>();
        let line = LinePlot::new().with_data(points).with_color(colour(i)).with_band(share(&least), share(&most));
        plots.push(Plot::from(line));
        let figures = [losses[first], losses[last], least[last], most[last]].map(|x| format!("{x:.3}"));
        sheet.rows.push([vec![kind.clone(), here.len().to_string()], figures.into()].concat());
    }
    let described: Vec<String> =
        sheet.rows.iter().map(|row| format!("{} from {} to {}", row[0], row[2], row[3])).collect();
    let description = format!("Lines of the mean loss of each epoch. {}.", described.join("; "));
    Ok(Figure {
        id,
        title,
        svg: Some(Chart::new(plots, "epoch", "loss (first epoch's mean = 1)").legend(&kinds, marker).draw(&description)),
        note: "Mean over classes and class orders, from the best to the worst of them as a band, as shares of the first epoch's mean, \
               since kinds differ in unit: the VAE's is its negative ELBO in nats, the diffusion model's a mean squared error."
            .into(),
        sheet: Some(sheet),
    })
}

/// A line through means, with a band from the least to the highest value.
fn banded<'v>(points: impl ExactSizeIterator<Item = (f64, &'v [f64])>, colour: &str) -> Plot {
    let step = points.len().div_ceil(POINTS);
    let points: Vec<(f64, &[f64])> = points.step_by(step).collect();
    let means = points.iter().map(|(x, y)| (*x, mean(y.iter().copied()))).collect::<Vec<_>>();
    let edge =
        |of: fn(f64, f64) -> f64| points.iter().filter_map(|(_, y)| y.iter().copied().reduce(of)).collect::<Vec<_>>();
    LinePlot::new()
        .with_data(means)
        .with_color(colour)
        .with_stroke_width(1.5)
        .with_band(edge(f64::min), edge(f64::max))
        .into()
}
