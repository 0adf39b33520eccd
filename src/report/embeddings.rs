//! Real and generated embeddings of some classes, in the plane in which the real ones vary most.

use anyhow::{Context, Result, bail};
use kuva::plot::{ScatterPlot, scatter::MarkerShape};

use super::{
    chart::{Chart, colour},
    figure::Figure,
    plane::Plane,
    scope::Scope,
};
use crate::{
    dense::cosine::normalise,
    generator::{Generator, Kind, LatentStore},
    rng::{Draw, Rng},
    sheet::Sheet,
    stream::Stream,
    task::Class,
    words::counted,
};

/// Classes that are drawn unless some are named, and rows of each, real and generated.
const CLASSES: usize = 4;
const ROWS: usize = 80;

/// Embeddings of a class, (N, D) each, of length 1.
struct Rows {
    real: Vec<f32>,
    generated: Vec<f32>,
}

pub fn plane(scope: &Scope, named: &[String]) -> Result<Figure> {
    let (id, title) = ("plane", "Real and generated embeddings".to_owned());
    let classes = if named.is_empty() { confused(scope)? } else { by_name(scope, named)? };
    let none = |note: String| Ok(Figure { id, title: title.clone(), svg: None, note, sheet: None });
    let Some((stream, kind)) = scope.generators()? else {
        return none("None of these methods learns from a generator.".into());
    };
    let dim = scope.sources[0].plan.dim;
    let rows = classes.iter().map(|class| rows_of(scope, stream, kind, class)).collect::<Result<Vec<_>>>();
    let plane = rows.and_then(|rows| {
        let real: Vec<f32> = rows.iter().flat_map(|rows| &rows.real).copied().collect(); // (N, D)
        Ok((Plane::of(&real, dim)?, rows))
    });
    let (plane, rows) = match plane {
        Ok(found) => found,
        Err(error) => return none(format!("There is nothing to draw: {error:#}.")),
    };

    let mut plots = Vec::new();
    for (i, rows) in rows.iter().enumerate() {
        let cloud = |rows: &[f32], marker, opacity| {
            let points = ScatterPlot::new().with_data(plane.project(rows)).with_color(colour(i)).with_size(3.5);
            points.with_marker(marker).with_marker_opacity(opacity)
        };
        plots.push(cloud(&rows.real, MarkerShape::Circle, 0.35).into());
        plots.push(cloud(&rows.generated, MarkerShape::Cross, 1.0).into());
    }
    let [first, second] = plane.shares.map(|share| 100.0 * share);
    let spread = |rows: &[f32]| {
        let places = plane.project(rows);
        let n = places.len() as f64;
        let centre = |f: fn(&(f64, f64)) -> f64| places.iter().map(f).sum::<f64>() / n;
        let (x, y) = (centre(|p| p.0), centre(|p| p.1));
        (places.iter().map(|p| (p.0 - x).powi(2) + (p.1 - y).powi(2)).sum::<f64>() / n).sqrt()
    };
    let row = |(class, rows): (&Class, &Rows)| {
        let (real, generated) = (spread(&rows.real), spread(&rows.generated));
        vec![
            class.name.clone(),
            format!("{real:.3}"),
            format!("{generated:.3}"),
            if real > 0.0 { format!("{:.2}", generated / real) } else { "–".into() },
        ]
    };
    let sheet = Sheet {
        header: ["class", "spread of real", "spread of generated", "ratio"].map(str::to_owned).into(),
        rows: classes.iter().zip(&rows).map(row).collect(),
    };
    let names: Vec<String> = classes.iter().map(|class| class.name.clone()).collect();
    let described: Vec<String> = sheet.rows.iter().map(|row| format!("{} {}", row[0], row[3])).collect();
    let description = format!(
        "Points of real and generated embeddings of {} in a plane that shows {:.0} % of the real ones' variance. How far \
         generated ones spread, real ones being 1: {}.",
        counted(classes.len(), "class"),
        first + second,
        described.join(", ")
    );
    Ok(Figure {
        id,
        title,
        svg: Some(
            Chart::new(
                plots,
                &format!("first component: {first:.1} % of the variance"),
                &format!("second: {second:.1} %"),
            )
            .legend(&names, |_| MarkerShape::Circle)
            .draw(&description),
        ),
        note: format!(
            "Dots are training embeddings, crosses come from the generator ({kind}, {}); both brought to length 1, the unit of \
             both axes, as the classifier sees them. The plane is that in which these training embeddings vary most (PCA), and shows {:.1} % of their \
             variance. Spread is the root mean square distance from the centre in the plane. {}",
            stream.order,
            first + second,
            if named.is_empty() { "These classes are confused most; name others by --class." } else { "" }
        ),
        sheet: Some(sheet),
    })
}

/// The classes that the first method confuses most, pair by pair.
fn confused(scope: &Scope) -> Result<Vec<Class>> {
    let sql = format!(
        "SELECT label, predicted, SUM(images) AS images FROM confusion WHERE {} AND after_task = {} AND label <> predicted \
         GROUP BY label, predicted ORDER BY images DESC, label, predicted LIMIT {}",
        scope.rows_of(scope.first()),
        scope.tasks,
        CLASSES * CLASSES
    );
    let pairs = scope.tables.sql(&sql)?;
    let labels = |column: &str| crate::query::numbers(&pairs, column);
    let pairs = labels("label")?.into_iter().zip(labels("predicted")?);
    let all = &scope.streams[0].classes;
    let mut classes: Vec<Class> = Vec::new();
    let confused = pairs.flat_map(|(a, b)| [a as i64, b as i64]);
    for label in confused.chain(all.iter().map(|class| class.label)) {
        if classes.len() < CLASSES && classes.iter().all(|class| class.label != label) {
            classes.extend(all.iter().find(|class| class.label == label).cloned());
        }
    }
    Ok(classes)
}

fn by_name(scope: &Scope, names: &[String]) -> Result<Vec<Class>> {
    let class = |name: &String| {
        let found = scope.streams[0].classes.iter().find(|class| class.name == *name);
        let Some(class) = found else {
            bail!(
                "the run has no class {name:?}: `cgil query --run {} \"SELECT DISTINCT class_name FROM embeddings\"` lists them",
                scope.run.dir().display()
            );
        };
        Ok(class.clone())
    };
    names.iter().map(class).collect()
}

/// A class's rows: the first training embeddings, and as many generated ones.
fn rows_of(scope: &Scope, stream: &Stream, kind: Kind, class: &Class) -> Result<Rows> {
    let position = stream.position(class.label)?;
    let task = stream.learned_before(stream.tasks(), position).with_context(|| format!("{class} was not learned"))?;
    let learns = stream.learns(task);
    let place = learns.iter().position(|&learned| learned == position).unwrap_or_default();
    let generator: Generator = LatentStore::open(scope.run, stream, kind)?.read_task(task)?.swap_remove(place);
    let (embeddings, label) = (stream.embeddings(scope.run, task)?, stream.source_labels(task)[place]);
    let dim = embeddings.plan.dim;
    let mut real = stream.train_rows(&embeddings, &[label])?.swap_remove(0).into_values();
    real.truncate(ROWS * dim);
    let mut rng = Rng::new(stream.draws(), Draw::QualityGenerated, &[class.key()]);
    let mut generated = generator.sample(real.len() / dim, &mut rng);
    normalise(&mut real, dim);
    normalise(&mut generated, dim);
    Ok(Rows { real, generated })
}
