//! The table `quality`: a file in the directory of the generators that it is about.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

use super::{Accuracy, Quality};
use crate::{
    generator::LatentStore,
    table::{contract, file},
    task::Curriculum,
};

/// Writes the table of a store, or replaces it: a row for each class, in learning order.
pub fn write(
    store: &LatentStore,
    curriculum: &Curriculum,
    qualities: &[Quality],
    accuracies: &[Accuracy],
) -> Result<()> {
    let (classes, n) = (&curriculum.classes, curriculum.classes.len());
    let tasks = (0..n).map(|class| curriculum.task_of(class) as i64 + 1);
    let count = |f: fn(&Quality) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(qualities.iter().map(|quality| f(quality) as i64)))
    };
    let measure =
        |f: fn(&Quality) -> Option<f64>| -> ArrayRef { Arc::new(qualities.iter().map(f).collect::<Float64Array>()) };
    let accuracy =
        |f: fn(&Accuracy) -> Option<f64>| -> ArrayRef { Arc::new(accuracies.iter().map(f).collect::<Float64Array>()) };
    let rows = file::rows(
        contract::quality(),
        0,
        vec![
            Arc::new(StringArray::from(vec![curriculum.order.as_str(); n])),
            Arc::new(Int64Array::from(vec![curriculum.seed.map(i64::from); n])),
            Arc::new(StringArray::from(vec![store.manifest.config.kind().to_string(); n])),
            Arc::new(Int64Array::from_iter_values(tasks)),
            Arc::new(Int64Array::from_iter_values(classes.iter().map(|class| class.label))),
            Arc::new(StringArray::from_iter_values(classes.iter().map(|class| &class.name))),
            count(|q| q.train_rows),
            count(|q| q.test_rows),
            count(|q| q.samples),
            measure(|q| q.generated.frechet),
            measure(|q| q.real.frechet),
            measure(|q| q.generated.precision),
            measure(|q| q.real.precision),
            measure(|q| q.generated.recall),
            measure(|q| q.real.recall),
            accuracy(|a| a.generated_to_real),
            accuracy(|a| a.real_to_real),
            accuracy(|a| a.real_to_generated),
            measure(|q| q.neighbour_distance),
        ],
    )?;
    file::write(&store.dir().join("quality.parquet"), contract::quality(), &rows, &vec![])
}
