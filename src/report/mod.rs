//! The report: one HTML page about a run, made of its tables alone. It needs no network and no
//! script, and its figures follow the reader's light or dark theme.

mod bias;
mod chart;
mod classes;
mod confusions;
mod deliveries;
mod embeddings;
mod figure;
mod losses;
mod page;
mod plane;
mod quality;
mod reliability;
mod scope;
mod scores;

use anyhow::Result;

pub use plane::Plane;
pub use scope::Request;
use scope::Scope;

/// The report, as an HTML page.
pub fn render(request: &Request) -> Result<String> {
    let scope = Scope::new(request)?;
    let differences = scores::differences(&scope)?;
    let mut figures = deliveries::figures(&scope)?;
    figures.extend([
        scores::curves(&scope)?,
        scores::transfer(&scope),
        bias::curves(&scope)?,
        scores::matrix(&scope)?,
        classes::gains(&scope)?,
        classes::forgetting(&scope)?,
        confusions::most_frequent(&scope)?,
        reliability::diagram(&scope)?,
        embeddings::plane(&scope, request.classes)?,
        quality::likeness(&scope)?,
        losses::prompts(&scope)?,
        losses::generators(&scope)?,
    ]);
    page::render(&scope, &differences, &figures, &scope.configuration()?)
}
