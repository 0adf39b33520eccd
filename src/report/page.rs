//! The page around the figures.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::{figure::Figure, scope::Scope};
use crate::{
    embeddings::Embeddings,
    metrics::Unit,
    rows::{Split, Test, Train},
    sheet::{Format, Sheet},
    summary::{decimals, spread},
    table::contract,
    words::counted,
};

/// Columns of a table that has room beside a figure.
const NARROW: usize = 5;

const STYLE: &str = include_str!("page.css");

/// The whole page. `differences` are those from the first method, `configuration` what each method
/// was made with.
pub fn render(
    scope: &Scope,
    differences: &Sheet,
    figures: &[Figure],
    configuration: &[(String, Value)],
) -> Result<String> {
    let name = scope.run.dir().file_name().unwrap_or_default().to_string_lossy();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(concat!("cgil ", env!("CARGO_PKG_VERSION")));
                link rel="icon" href="data:,";
                title { "cgil: " (name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (name) }
                    (data(scope)?)
                }
                main {
                    section.wide #results {
                        h2 { "Results" }
                        (lead(scope, differences))
                        (sheet(&scope.summary.sheet(scope.metric)))
                        p.note {
                            "Percentages, mean ± standard deviation over class orders. FAA: accuracy after the last task, mean over tasks; \
                             CAA: the mean of that after every task. A_B and Ā: the same over images instead of tasks. task-IL: after the last \
                             task, where the task of an image is known. Forgetting, BWT, FWT: percentage points. CI-Transfer: accuracy on \
                             tasks to come; raw: where text features of unseen classes keep their length. AUROC: how well confidence tells \
                             images of tasks learned from those of tasks to come; ECE: how far probabilities are from what they say, in \
                             percentage points. bytes/class: kept beside the \
                             CLIP to go on learning."
                        }
                        @if !differences.rows.is_empty() {
                            h3 { "Differences" }
                            (sheet(differences))
                            p.note {
                                "Paired: under the same class order, on the same images. The standard deviation is what another order changes, \
                                 the interval what other test images would."
                            }
                        }
                    }
                    @for figure in figures { (self::figure(figure)) }
                    section.wide #configuration {
                        h2 { "Configuration" }
                        (versions(scope))
                        @for (of, manifest) in configuration {
                            details {
                                summary { (of) }
                                pre { (serde_json::to_string_pretty(manifest).unwrap_or_default()) }
                            }
                        }
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

/// What was learned.
fn data(scope: &Scope) -> Result<Markup> {
    let (plan, classes) = (&scope.sources[0].plan, scope.streams[0].classes.len());
    let model = plan.model.as_ref().map_or("imported embeddings", |model| model.name.as_str());
    Ok(html! {
        p {
            (counted(classes, "class")) " in " (counted(scope.tasks, "task")) ", " (rows::<Train>(scope)?) " training and "
            (counted(rows::<Test>(scope)?, "test embedding")) " of " (plan.dim) " values (" (model) "), "
            (scope.orders_in_words()) "."
        }
    })
}

/// The embeddings of a split in all sources: without what is in the quarantine.
fn rows<S: Split>(scope: &Scope) -> Result<usize> {
    let of = |source: &Embeddings| -> Result<usize> {
        source.plan.classes.iter().map(|class| source.count::<S>(class.label)).sum()
    };
    scope.sources.iter().map(of).sum()
}

/// The result in a few sentences.
fn lead(scope: &Scope, differences: &Sheet) -> Markup {
    let (summary, metric) = (&scope.summary, scope.metric);
    let centre = |method: &str| crate::dense::moments::mean(summary.values(method, metric));
    let others = summary.methods[1..].iter().filter(|method| centre(method).is_finite());
    let best = others.max_by(|a, b| centre(a).total_cmp(&centre(b)));
    let compared = best.and_then(|best| Some((best, differences.rows.iter().find(|row| row[0] == *best)?)));
    let shown = |method: &str| spread(&summary.values(method, metric), decimals(metric));
    let unit = if metric.unit() == Unit::Bytes { "bytes" } else { "points" };
    html! {
        p.lead {
            strong { (scope.first()) } " has " (metric.title()) " " (shown(scope.first())) "."
            @if let Some((best, row)) = compared {
                " Of the other methods " strong { (best) } " has the highest, " (shown(best))
                ": a difference of " (row[1]) " " (unit) ", more in " (row[2]) " class orders; over images A_B differs by " (row[3])
                " points (95 % interval)."
            }
        }
    }
}

fn figure(figure: &Figure) -> Markup {
    let is_wide = figure.svg.is_none() && figure.sheet.as_ref().is_some_and(|sheet| sheet.header.len() > NARROW);
    html! {
        section id=(figure.id) class=[is_wide.then_some("wide")] {
            h2 { (figure.title) }
            @if let Some(svg) = &figure.svg {
                figure { (PreEscaped(svg)) }
            }
            p.note { (figure.note) }
            @if let Some(of) = &figure.sheet {
                @if figure.svg.is_none() { (sheet(of)) } @else { details { summary { "As a table" } (sheet(of)) } }
            }
        }
    }
}

/// A table, and the same as Markdown, CSV and LaTeX.
fn sheet(sheet: &Sheet) -> Markup {
    let formats = [("Markdown", Format::Markdown), ("CSV", Format::Csv), ("LaTeX", Format::Latex)];
    html! {
        div.table tabindex="0" role="region" aria-label="Table" {
            table {
                thead { tr { @for cell in &sheet.header { th scope="col" { (cell) } } } }
                tbody {
                    @for row in &sheet.rows {
                        tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
        div.formats {
            @for (name, format) in formats {
                details { summary { (name) } pre { (sheet.render(format)) } }
            }
        }
    }
}

/// The program and the tables that the page is made of.
fn versions(scope: &Scope) -> Markup {
    let tables: Vec<String> = contract::on_disk().map(|table| format!("{} {}", table.name, table.version)).collect();
    let streams: Vec<&str> = scope.streams.iter().map(|stream| stream.name.as_str()).collect();
    html! {
        dl {
            dt { "Program" } dd { "cgil " (env!("CARGO_PKG_VERSION")) }
            dt { "Tables" } dd { (tables.join(", ")) }
            @for source in &scope.sources {
                @let plan = &source.plan;
                dt { "Source " (source.name) }
                dd { (plan.source.origin) ", fingerprint " code { (plan.source.fingerprint) } ", computed in " (plan.compute_dtype) }
                @if let Some(model) = &plan.model {
                    dt { "CLIP" } dd { (model.name) ", sha256 " code { (model.sha256) } }
                }
                @if let Some(preprocessing) = &plan.preprocessing {
                    dt { "Preprocessing" } dd { code { (preprocessing) } }
                }
            }
            dt { "Streams" } dd { (streams.join(", ")) }
            @if !scope.unfinished.is_empty() {
                dt { "Not finished" } dd { (scope.unfinished.join("; ")) }
            }
            @if !scope.tables.left_out.is_empty() {
                dt { "Left out" } dd { (scope.tables.left_out.join("; ")) }
            }
        }
    }
}
