//! The table `quality`: an artefact in the directory of the generators that it is about.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use serde_json::{Value, json};

use super::measures::{Accuracy, Quality};
use crate::{
    artefact::{self, Input, Plan},
    generator::LatentStore,
    table::{contract, file},
};

/// Name of the artefact's directory, and of its table.
const NAME: &str = "quality";

/// The artefact that measures the generators of a store with so many rows per class. The noise is
/// made of `statistics`, those after the last task.
pub fn plan(store: &LatentStore, statistics: Input, samples: usize) -> Result<Plan> {
    let stream = store.stream();
    let mut plan = Plan::new(&artefact::QUALITY, json!({"samples": samples, "seed": stream.draws()}));
    plan = plan.with("stream", stream.input(stream.tasks() - 1)).with("statistics", statistics);
    for task in 0..stream.tasks() {
        plan = plan.with(&format!("generators {}", task + 1), store.input(task)?);
    }
    Ok(plan)
}

/// Makes the artefact, or replaces it: a row for each class, in learning order.
pub fn write(plan: &Plan, store: &LatentStore, qualities: &[Quality], accuracies: &[Accuracy]) -> Result<()> {
    let stream = store.stream();
    let (classes, n) = (&stream.classes, stream.classes.len());
    let tasks = (0..n).map(|class| stream.task_of(class) as i64 + 1);
    let count = |f: fn(&Quality) -> usize| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(qualities.iter().map(|quality| f(quality) as i64)))
    };
    let measure =
        |f: fn(&Quality) -> Option<f64>| -> ArrayRef { Arc::new(qualities.iter().map(f).collect::<Float64Array>()) };
    let accuracy =
        |f: fn(&Accuracy) -> Option<f64>| -> ArrayRef { Arc::new(accuracies.iter().map(f).collect::<Float64Array>()) };
    let mut columns = stream.keys(n);
    columns.extend([
        Arc::new(StringArray::from(vec![store.config.kind().to_string(); n])) as ArrayRef,
        Arc::new(Int64Array::from_iter_values(tasks)),
        Arc::new(Int64Array::from_iter_values(classes.iter().map(|class| class.label))),
        Arc::new(StringArray::from_iter_values(classes.iter().map(|class| &class.name))),
        count(|q| q.train_rows),
        count(|q| q.test_rows),
        count(|q| q.samples),
        measure(|q| q.generated.frechet),
        measure(|q| q.replayed.frechet),
        measure(|q| q.real.frechet),
        measure(|q| q.generated.precision),
        measure(|q| q.replayed.precision),
        measure(|q| q.real.precision),
        measure(|q| q.generated.recall),
        measure(|q| q.replayed.recall),
        measure(|q| q.real.recall),
        accuracy(|a| a.generated_to_real),
        accuracy(|a| a.real_to_real),
        accuracy(|a| a.real_to_generated),
        measure(|q| q.neighbour_distance),
    ]);
    let rows = file::rows(contract::quality(), 0, columns)?;
    let dir = store.dir().join(NAME);
    plan.make(&dir, store.place(&dir), Value::Null, |dir| {
        file::write(&dir.join(format!("{NAME}.parquet")), contract::quality(), &rows, &vec![])
    })?;
    Ok(())
}
