//! Real and generated embeddings of some classes, in the plane in which the real ones vary most.

use anyhow::{Result, bail};
use kuva::plot::{ScatterPlot, scatter::MarkerShape};

use super::{
    Figure, Plane, Scope,
    chart::{Chart, colour},
};
use crate::{
    generator::{Generator, Kind, LatentStore},
    prompt::cpu::normalise,
    query::texts,
    rng::{Draw, Rng},
    sheet::Sheet,
    task::Class,
};

/// Classes that are drawn unless some are named, and rows of each, real and generated.
const CLASSES: usize = 4;
const ROWS: usize = 80;

/// Embeddings of a class, (N, D) each, of length 1.
struct Rows {
    real: Vec<f32>,
    generated: Vec<f32>,
}

pub fn plane(scope: &mut Scope, named: &[String]) -> Result<Figure> {
    let (id, title) = ("plane", "Real and generated embeddings".to_owned());
    let classes = if named.is_empty() { confused(scope)? } else { by_name(scope, named)? };
    let Some(store) = store(scope)? else {
        let note = "None of these methods learns from a generator.".into();
        return Ok(Figure { id, title, svg: None, note, sheet: None });
    };
    let (dim, kind) = (scope.embeddings.manifest.dim, store.manifest.config.kind());
    let rows = classes.iter().map(|class| rows_of(scope, &store, class)).collect::<Result<Vec<_>>>()?;
    let real: Vec<f32> = rows.iter().flat_map(|rows| &rows.real).copied().collect(); // (N, D)
    let plane = Plane::of(&real, dim)?;

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
        "Points of real and generated embeddings of {} classes in a plane that shows {:.0} % of the real ones' variance. How far \
         generated ones spread, real ones being 1: {}.",
        classes.len(),
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
            store.manifest.curriculum.order,
            first + second,
            if named.is_empty() { "These classes are confused most; name others by --class." } else { "" }
        ),
        sheet: Some(sheet),
    })
}

/// The classes that the first method confuses most, pair by pair.
fn confused(scope: &mut Scope) -> Result<Vec<Class>> {
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
    let all = &scope.embeddings.manifest.classes;
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
        let found = scope.embeddings.manifest.classes.iter().find(|class| class.name == *name);
        let Some(class) = found else {
            bail!(
                "the run has no class {name:?}: `cgil query --run {} \"SELECT DISTINCT class_name FROM embeddings\"` lists them",
                scope.run.display()
            );
        };
        Ok(class.clone())
    };
    names.iter().map(class).collect()
}

/// The generators that the first of the methods with some learns from, in the first order that has them.
fn store(scope: &mut Scope) -> Result<Option<LatentStore>> {
    let rows = scope.tables.sql(&format!(
        "SELECT DISTINCT class_order, generator FROM latents WHERE class_order IN ({}) ORDER BY class_order",
        crate::query::quoted(&scope.orders)
    ))?;
    let there: Vec<(String, String)> =
        texts(&rows, "class_order")?.into_iter().zip(texts(&rows, "generator")?).collect();
    for (_, manifest) in scope.configuration()? {
        let Some(kind) = manifest["latents"]["generator"].as_str() else { continue };
        if let Some((order, _)) = there.iter().find(|(_, generator)| generator == kind) {
            let kind: Kind = serde_json::from_value(kind.into())?;
            let store = LatentStore::open(scope.run, order, kind)?;
            store.require_embeddings(&scope.embeddings.manifest)?;
            return Ok(Some(store));
        }
    }
    Ok(None)
}

/// A class's rows: the first training embeddings, and as many generated ones.
fn rows_of(scope: &Scope, store: &LatentStore, class: &Class) -> Result<Rows> {
    let (dim, curriculum) = (scope.embeddings.manifest.dim, &store.manifest.curriculum);
    let position = curriculum.position(class.label)?;
    let task = curriculum.task_of(position);
    let generator: Generator = store.read_task(task)?.swap_remove(position - curriculum.task(task).start);
    let mut real = scope.embeddings.by_class("train", &[class])?.remove(&class.label).unwrap_or_default();
    real.truncate(ROWS * dim);
    let mut rng = Rng::new(curriculum.draws(), Draw::QualityGenerated, &[class.label as u64]);
    let mut generated = generator.sample(real.len() / dim, &mut rng);
    normalise(&mut real, dim);
    normalise(&mut generated, dim);
    Ok(Rows { real, generated })
}
