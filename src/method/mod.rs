//! Methods: how what was learned is scored. Training makes artefacts, generators, statistics and
//! prompts, task by task; a method is a recipe that asks them about the test images after each
//! task. So nothing is trained twice, however many ways it is scored.

mod classifier;
mod open_set;
mod prompted;
mod recipe;
mod zero_shot;

pub use classifier::Learned;
pub use open_set::WithText;
pub use prompted::{Beside, Prompted, Statistics};
pub use recipe::{Recipe, score};
pub use zero_shot::ZeroShotTexts;
