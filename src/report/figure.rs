//! A figure of the page.

use crate::sheet::Sheet;

/// A figure, and what stands around it.
pub struct Figure {
    /// Anchor in the page.
    pub id: &'static str,
    pub title: String,
    /// None where there is nothing to draw; then the note says why.
    pub svg: Option<String>,
    /// What is shown, and how.
    pub note: String,
    /// The same as a table.
    pub sheet: Option<Sheet>,
}
