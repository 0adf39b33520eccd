//! Which classes are confused.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{figure::Figure, scope::Scope};
use crate::{query::numbers, sheet::Sheet};

/// Confusions that are shown.
const MOST: usize = 20;

/// What images of a class are taken for most often by the first method, after the last task.
pub fn most_frequent(scope: &Scope) -> Result<Figure> {
    let (id, title) = ("confusions", format!("Classes that are confused most: {}", scope.first()));
    let rows = scope.tables.sql(&format!(
        "SELECT label, predicted, SUM(images) AS images FROM confusion WHERE {} AND after_task = {} GROUP BY label, predicted \
         ORDER BY images DESC, label, predicted",
        scope.rows_of(scope.first()),
        scope.tasks
    ))?;
    let [of, taken_for, images] = ["label", "predicted", "images"].map(|column| numbers(&rows, column));
    let (of, taken_for, images) = (of?, taken_for?, images?);
    let mut totals: BTreeMap<i64, f64> = BTreeMap::new();
    of.iter().zip(&images).for_each(|(&label, images)| *totals.entry(label as i64).or_default() += images);
    let classes = scope.streams.iter().flat_map(|stream| &stream.classes);
    let names: BTreeMap<i64, &str> = classes.map(|class| (class.label, class.name.as_str())).collect();
    let name = |label: f64| names.get(&(label as i64)).copied().unwrap_or_default().to_owned();
    let is_wrong = |row: &usize| of[*row] != taken_for[*row];
    let row = |row: usize| {
        let share = 100.0 * images[row] / totals[&(of[row] as i64)];
        vec![name(of[row]), name(taken_for[row]), format!("{:.0}", images[row]), format!("{share:.1}")]
    };
    let rows: Vec<Vec<String>> = (0..of.len()).filter(is_wrong).take(MOST).map(row).collect();
    if rows.is_empty() {
        let note = "No image is taken for one of another class.".into();
        return Ok(Figure { id, title, svg: None, note, sheet: None });
    }
    let note = format!(
        "Images of a class and what they are taken for among all classes, after the last task; % of the class's images. Over {}.",
        scope.orders_in_words()
    );
    let header = ["class", "taken for", "images", "%"].map(str::to_owned).into();
    Ok(Figure { id, title, svg: None, note, sheet: Some(Sheet { header, rows }) })
}
