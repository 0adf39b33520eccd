//! Rivals of CGIL on the same cached embeddings: classifiers that learn classes task by task, and
//! keep statistics of past ones instead of images.

mod cache;
mod classifier;
mod discriminant;
pub mod ensemble;
mod evidence;
mod hybrid;
mod mean;
mod projection;
mod rail;
mod replay;
mod statistics;
pub mod text;

use anyhow::Result;

pub use cache::ClassCache;
pub use classifier::{Classifier, Examples, Incremental, OfSums, OpenSet, State, Stored, Sum};
pub use discriminant::{Discriminant, Shrinkage};
pub(crate) use evidence::EXACT;
pub use evidence::{Chosen, ClassifierAbout, Evidence, OpenClassifier};
pub use hybrid::TextAndMean;
pub use mean::NearestMean;
pub use projection::{FEATURES, Features, HeldOutError, LAMBDAS, RandomProjection, Ridge, Rows, choose_ridge};
pub use rail::Rail;
pub use replay::{Covariance, ReplayHead};
pub use statistics::ClassStatistics;

use crate::rows::TaskRows;

/// Shows a learner the training rows of a task.
pub(crate) fn learn_task(learner: &mut impl Incremental, task: &TaskRows) -> Result<()> {
    if task.classes.is_empty() {
        return Ok(()); // a class was renamed or taken out
    }
    learner.learn(&examples(task))
}

/// The classes of a task with their rows.
pub(crate) fn examples(task: &TaskRows) -> Vec<Examples<'_>> {
    task.classes.iter().zip(&task.rows).map(|(class, rows)| Examples { class, rows }).collect()
}
