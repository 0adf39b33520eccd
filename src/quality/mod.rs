//! How good generators are: what they give, beside embeddings that nothing was fitted to.

mod frechet;
mod measures;
mod neighbours;
mod table;

pub use frechet::frechet;
pub use measures::{Accuracy, Likeness, Quality, Sets, accuracies};
pub use neighbours::recognised;
pub use table::{plan, write};
