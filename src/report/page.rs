//! The page around the figures.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::{Figure, Scope};
use crate::{
    sheet::{Format, Sheet},
    summary::{spread, title},
    table::contract,
};

const STYLE: &str = include_str!("page.css");

/// The whole page. `differences` are those from the first method, `configuration` what each method was made with.
pub fn render(scope: &Scope, differences: &Sheet, figures: &[Figure], configuration: &[(String, Value)]) -> String {
    let name = scope.run.file_name().unwrap_or_default().to_string_lossy();
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
                    (data(scope))
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
                             tasks to come; raw: where text features of unseen classes keep their length. bytes/class: kept beside the \
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
    page.into_string()
}

/// What was learned.
fn data(scope: &Scope) -> Markup {
    let manifest = &scope.embeddings.manifest;
    let rows = |split: &str| manifest.rows.get(split).copied().unwrap_or(0);
    let model = manifest.model.as_ref().map_or("imported embeddings", |model| model.name.as_str());
    html! {
        p {
            (manifest.classes.len()) " classes in " (scope.tasks) " tasks, " (rows("train")) " training and " (rows("test"))
            " test embeddings of " (manifest.dim) " values (" (model) "), " (scope.orders_in_words()) "."
        }
    }
}

/// The result in a few sentences.
fn lead(scope: &Scope, differences: &Sheet) -> Markup {
    let summary = &scope.summary;
    let metric = title(scope.metric);
    let of = |method: &str| -> Vec<f64> {
        summary.of(method, scope.metric).into_iter().flat_map(|scores| scores.values().copied()).collect()
    };
    let centre = |method: &str| crate::metrics::mean(of(method));
    let others = summary.methods[1..].iter().filter(|method| centre(method).is_finite());
    let best = others.max_by(|a, b| centre(a).total_cmp(&centre(b)));
    let compared = best.and_then(|best| Some((best, differences.rows.iter().find(|row| row[0] == *best)?)));
    html! {
        p.lead {
            strong { (scope.first()) } " has " (metric) " " (spread(&of(scope.first()), 1)) "."
            @if let Some((best, row)) = compared {
                " Of the other methods " strong { (best) } " has the highest, " (spread(&of(best), 1)) ": a difference of " (row[1])
                " points, more in " (row[2]) " class orders; over images A_B differs by " (row[3]) " points (95 % interval)."
            }
        }
    }
}

fn figure(figure: &Figure) -> Markup {
    html! {
        section id=(figure.id) {
            h2 { (figure.title) }
            @if let Some(svg) = &figure.svg {
                figure { (PreEscaped(svg)) }
            }
            p.note { (figure.note) }
            @if let Some(of) = &figure.sheet {
                details { summary { "As a table" } (sheet(of)) }
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
    let manifest = &scope.embeddings.manifest;
    let tables: Vec<String> = contract::on_disk().map(|table| format!("{} {}", table.name, table.version)).collect();
    html! {
        dl {
            dt { "Program" } dd { "cgil " (env!("CARGO_PKG_VERSION")) }
            dt { "Tables" } dd { (tables.join(", ")) }
            dt { "Source" } dd { (manifest.source.origin) ", fingerprint " code { (manifest.source.fingerprint) } }
            @if let Some(model) = &manifest.model {
                dt { "CLIP" } dd { (model.name) ", sha256 " code { (model.sha256) } }
            }
            @if let Some(preprocessing) = &manifest.preprocessing {
                dt { "Preprocessing" } dd { code { (preprocessing) } }
            }
            dt { "Computed in" } dd { (manifest.compute_dtype) }
            dt { "Class orders" } dd { (scope.orders.join(", ")) }
        }
    }
}
