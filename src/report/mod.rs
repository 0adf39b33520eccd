//! The report: one HTML page about a run, made of its tables alone. It needs no network and no script, and its figures follow
//! the reader's light or dark theme.

mod chart;
mod classes;
mod embeddings;
mod losses;
mod page;
mod plane;
mod quality;
mod scores;

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, bail};
use serde_json::Value;

pub use plane::Plane;

use crate::{
    metrics::mean,
    query::{Tables, numbers, quoted, texts},
    results,
    sheet::Sheet,
    summary::Summary,
    table::embeddings::Embeddings,
};

/// The method that others are compared with where none is named.
const OWN: &str = "cgil";

/// What a report is asked for.
pub struct Request<'a> {
    pub run: &'a Path,
    /// Number of tasks; needed where the run has results in several.
    pub tasks: Option<usize>,
    /// Class orders; all where none is named.
    pub orders: &'a [String],
    /// Methods, the first is what the others are compared with; all where none is named.
    pub methods: &'a [String],
    /// Score whose differences between methods are taken.
    pub metric: &'a str,
    /// Names of the classes whose embeddings are drawn; those that are confused most where none is named.
    pub classes: &'a [String],
}

/// What the report is about.
struct Scope<'a> {
    run: &'a Path,
    tables: Tables,
    embeddings: Embeddings,
    /// Methods and scores; the first method is what the figures of a single one show.
    summary: Summary,
    orders: Vec<String>,
    tasks: usize,
    metric: &'a str,
}

/// A figure, and what stands around it.
struct Figure {
    /// Anchor in the page.
    id: &'static str,
    title: String,
    /// None where there is nothing to draw; then the note says why.
    svg: Option<String>,
    /// What is shown, and how.
    note: String,
    /// The same as a table.
    sheet: Option<Sheet>,
}

/// The report, as an HTML page.
pub fn render(request: &Request) -> Result<String> {
    let mut scope = Scope::new(request)?;
    let differences = scores::differences(&mut scope)?;
    let figures = [
        scores::curves(&mut scope)?,
        scores::transfer(&scope),
        scores::matrix(&mut scope)?,
        classes::gains(&mut scope)?,
        classes::forgetting(&mut scope)?,
        embeddings::plane(&mut scope, request.classes)?,
        quality::likeness(&mut scope)?,
        losses::prompts(&mut scope)?,
        losses::generators(&mut scope)?,
    ];
    Ok(page::render(&scope, &differences, &figures, &scope.configuration()?))
}

impl<'a> Scope<'a> {
    fn new(request: &Request<'a>) -> Result<Self> {
        let embeddings = Embeddings::open_complete(request.run)?;
        let mut tables = Tables::open(request.run)?;
        let mut finished = Finished::all(&mut tables)?;
        if finished.is_empty() {
            bail!("{} has no finished results: run `cgil prompt-tune` or `cgil sweep` first", request.run.display());
        }
        require("class order", request.orders, finished.iter().map(|f| &f.order))?;
        require("method", request.methods, finished.iter().map(|f| &f.method))?;
        let asked = |names: &[String], name: &String| names.is_empty() || names.contains(name);
        finished.retain(|f| asked(request.orders, &f.order) && asked(request.methods, &f.method));
        let tasks = number_of_tasks(request.tasks, finished.iter().map(|f| f.tasks).collect())?;
        finished.retain(|f| f.tasks == tasks);

        let distinct = |names: BTreeSet<&String>| names.into_iter().cloned().collect::<Vec<_>>();
        let orders = distinct(finished.iter().map(|f| &f.order).collect());
        let mut methods = distinct(finished.iter().map(|f| &f.method).collect());
        let faa = |method: &str| mean(finished.iter().filter(|f| f.method == method).map(|f| f.faa));
        methods.sort_by(|a, b| (b == OWN).cmp(&(a == OWN)).then(faa(b).total_cmp(&faa(a))));
        let methods = if request.methods.is_empty() { &methods } else { request.methods };
        let results = finished.iter().map(|f| (f.method.clone(), f.order.clone())).collect();
        let summary = Summary::new(&mut tables, methods, &results, tasks)?;
        Ok(Scope { run: request.run, tables, embeddings, summary, orders, tasks, metric: request.metric })
    }

    /// The method that the figures of a single one show.
    fn first(&self) -> &str {
        &self.summary.methods[0]
    }

    /// The condition of a query for a method's rows in the report's orders.
    fn rows_of(&self, method: &str) -> String {
        condition(method, &self.orders)
    }

    fn orders_in_words(&self) -> String {
        match &self.orders[..] {
            [order] => format!("one class order ({order})"),
            orders => format!("{} class orders", orders.len()),
        }
    }

    /// What each method was made with, under the first of the orders that it has.
    fn configuration(&self) -> Result<Vec<(String, Value)>> {
        let of = |method: &String| {
            let order = self.summary.of(method, "faa").and_then(|scores| scores.keys().next());
            let order = order.map_or("", String::as_str);
            Ok((format!("{method}, {order}"), results::manifest(self.run, order, method)?))
        };
        self.summary.methods.iter().map(of).collect()
    }
}

/// The condition of a query for a method's rows in some class orders.
fn condition(method: &str, orders: &[String]) -> String {
    format!("method = {} AND class_order IN ({})", quoted(&[method.to_owned()]), quoted(orders))
}

/// A method's finished results under a class order.
struct Finished {
    order: String,
    method: String,
    tasks: usize,
    faa: f64,
}

impl Finished {
    fn all(tables: &mut Tables) -> Result<Vec<Finished>> {
        let rows = tables.sql("SELECT class_order, method, after_task, value FROM metrics WHERE metric = 'faa'")?;
        let (orders, methods) = (texts(&rows, "class_order")?, texts(&rows, "method")?);
        let (tasks, faa) = (numbers(&rows, "after_task")?, numbers(&rows, "value")?);
        let rows = orders.into_iter().zip(methods).zip(tasks).zip(faa);
        Ok(rows.map(|(((order, method), tasks), faa)| Finished { order, method, tasks: tasks as usize, faa }).collect())
    }
}

/// An error unless every one of the `asked` names is `there`.
fn require<'n>(what: &str, asked: &[String], there: impl Iterator<Item = &'n String>) -> Result<()> {
    let there: BTreeSet<&String> = there.collect();
    if let Some(name) = asked.iter().find(|name| !there.contains(name)) {
        let there: Vec<&str> = there.into_iter().map(String::as_str).collect();
        bail!("the run has no finished results of the {what} {name:?}; it has {}", there.join(", "));
    }
    Ok(())
}

/// The number of tasks of the results that are reported.
fn number_of_tasks(asked: Option<usize>, there: BTreeSet<usize>) -> Result<usize> {
    let numbers = there.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match (asked, there.iter().next(), there.len()) {
        (Some(tasks), ..) if there.contains(&tasks) => Ok(tasks),
        (Some(tasks), ..) => bail!("the run has no such results in {tasks} tasks; it has some in {numbers}"),
        (None, Some(&tasks), 1) => Ok(tasks),
        (None, None, _) => bail!("no method has finished in any of these class orders"),
        _ => bail!("the run has results in different numbers of tasks ({numbers}): choose one by --tasks"),
    }
}
