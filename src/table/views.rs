//! Views: queries over the tables that are there under a name, read from `schemas/views.toml`.

use std::sync::LazyLock;

use serde::Deserialize;

/// A named query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Name in queries.
    pub name: String,
    /// What one row is.
    pub about: String,
    /// The query that gives its rows.
    pub sql: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    views: Vec<View>,
}

/// Every view; each may use those before it.
pub fn all() -> &'static [View] {
    static VIEWS: LazyLock<Vec<View>> = LazyLock::new(|| {
        let page: Page = toml::from_str(include_str!("../../schemas/views.toml"))
            .expect("schemas/views.toml is part of the program");
        page.views
    });
    &VIEWS
}

/// The views as Markdown, for `schemas/README.md`.
pub fn to_markdown() -> String {
    let views =
        all().iter().map(|view| format!("### {}\n\n{}\n\n```sql\n{}\n```\n", view.name, view.about, view.sql.trim()));
    format!(
        "## Views\n\nTables that `cgil query` makes of others when they are asked for.\n\n{}",
        views.collect::<Vec<_>>().join("\n")
    )
}
