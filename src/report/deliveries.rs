//! What each delivery added to a classifier in use, and what its earlier classes lost.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result};

use super::{
    figure::Figure,
    scope::{Scope, condition},
};
use crate::{
    dense::moments::mean, embeddings::Embeddings, query::numbers, rows::Train, sheet::Sheet, stream::Stream,
    task::Class,
};

/// Characters of the names of a delivery's classes that are shown.
const NAMES: usize = 48;

/// Tasks whose classes came together.
struct Delivery<'a> {
    source: &'a Embeddings,
    tasks: Range<usize>,
}

/// A stream of several sources, its deliveries, and the accuracies in % of each label after each
/// number of tasks.
struct Grown<'a> {
    stream: &'a Stream,
    deliveries: Vec<Delivery<'a>>,
    accuracies: BTreeMap<(usize, i64), f64>,
}

/// The figures of the first stream of the first method whose classes came in several deliveries;
/// nothing where there is none.
pub fn figures(scope: &Scope) -> Result<Vec<Figure>> {
    let of_first = scope.summary.streams(scope.first());
    for stream in scope.streams.iter().filter(|stream| of_first.contains(&stream.name)) {
        let deliveries = deliveries(scope, stream)?;
        if deliveries.len() > 1 {
            let grown = Grown { stream, deliveries, accuracies: accuracies(scope, stream)? };
            return Ok(vec![grown.added(scope)?, grown.lost(scope)]);
        }
    }
    Ok(Vec::new())
}

/// The tasks of a stream, source by source.
fn deliveries<'a>(scope: &'a Scope, stream: &Stream) -> Result<Vec<Delivery<'a>>> {
    let mut found: Vec<Delivery> = Vec::new();
    for (t, name) in (0..stream.tasks()).filter_map(|t| Some((t, stream.source(t)?))) {
        match found.last_mut() {
            Some(last) if last.source.name == name => last.tasks.end = t + 1,
            _ => {
                let source = scope.sources.iter().find(|source| source.name == name);
                found.push(Delivery { source: source.context("a source of the stream")?, tasks: t..t + 1 });
            }
        }
    }
    Ok(found)
}

/// The accuracy of the first method on each class, among the classes learned.
fn accuracies(scope: &Scope, stream: &Stream) -> Result<BTreeMap<(usize, i64), f64>> {
    let rows = scope.tables.sql(&format!(
        "SELECT after_task, label, accuracy FROM class_accuracy WHERE {} AND on_task <= after_task",
        condition(scope.first(), std::slice::from_ref(&stream.name))
    ))?;
    let steps = numbers(&rows, "after_task")?.into_iter().map(|after| after as usize);
    let labels = numbers(&rows, "label")?.into_iter().map(|label| label as i64);
    Ok(steps.zip(labels).zip(numbers(&rows, "accuracy")?).collect())
}

impl Grown<'_> {
    /// A row for each delivery.
    fn added(&self, scope: &Scope) -> Result<Figure> {
        let mut rows = Vec::new();
        for Delivery { source, tasks } in &self.deliveries {
            let (before, after) = (tasks.start, tasks.end);
            let earlier: Vec<&Class> = self.stream.classes[..self.stream.seen(before)].iter().collect();
            let own = tasks.clone().flat_map(|t| self.stream.learns(t)); // known ones, too, of which it has more
            let own: Vec<&Class> = own.map(|class| &self.stream.classes[class]).collect();
            let images = source.plan.classes.iter().map(|class| self.stream.count_rows(source, class.label));
            let images: usize = images.sum::<Result<usize>>()?;
            rows.push(vec![
                source.name.clone(),
                names(&own),
                images.to_string(),
                if source.is_forgotten::<Train>() { "yes" } else { "no" }.into(),
                shown(self.mean(after, &own)),
                shown(self.mean(before, &earlier)),
                shown(self.mean(after, &earlier)),
            ]);
        }
        let header = ["delivery", "classes", "images learned from", "forgotten", "its classes"].map(str::to_owned);
        let header = header.into_iter().chain(["earlier ones before", "after"].map(str::to_owned)).collect();
        let note = format!(
            "{} of {}. Accuracy in %, mean over classes, among the classes learned: of the delivery's own once they were \
             learned, and of the earlier ones before and after it. Forgotten: the training embeddings are not kept.",
            scope.first(),
            self.stream.name
        );
        let title = "What each delivery added".to_owned();
        Ok(Figure { id: "deliveries", title, svg: None, note, sheet: Some(Sheet { header, rows }) })
    }

    /// A row for each class: its accuracy after each delivery.
    fn lost(&self, scope: &Scope) -> Figure {
        let steps: Vec<usize> = self.deliveries.iter().map(|delivery| delivery.tasks.end).collect();
        let mut rows = Vec::new();
        for Delivery { source, tasks } in &self.deliveries {
            for class in tasks.clone().flat_map(|t| self.stream.classes_of(t)) {
                let after = steps.iter().map(|step| shown(self.mean(*step, &[class])));
                rows.push([class.name.clone(), source.name.clone()].into_iter().chain(after).collect());
            }
        }
        let after = self.deliveries.iter().map(|delivery| format!("after {}", delivery.source.name));
        let header = ["class".to_owned(), "delivery".into()].into_iter().chain(after).collect();
        let note = format!(
            "Accuracy of {} on each class, in %, among the classes learned by then: what it loses as others come.",
            scope.first()
        );
        let title = "Each class, delivery after delivery".to_owned();
        Figure { id: "classes", title, svg: None, note, sheet: Some(Sheet { header, rows }) }
    }

    /// The mean accuracy of some classes after `learned` tasks; NaN where none was scored.
    fn mean(&self, learned: usize, classes: &[&Class]) -> f64 {
        mean(classes.iter().filter_map(|class| self.accuracies.get(&(learned, class.label)).copied()))
    }
}

/// A percentage; a dash where there is none.
fn shown(accuracy: f64) -> String {
    if accuracy.is_finite() { format!("{accuracy:.1}") } else { "–".into() }
}

/// How many classes there are, and the names of the first of them.
fn names(classes: &[&Class]) -> String {
    let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
    let names = names.join(", ");
    match names.char_indices().nth(NAMES) {
        Some((end, _)) => format!("{}: {}…", classes.len(), &names[..end]),
        None => format!("{}: {names}", classes.len()),
    }
}
