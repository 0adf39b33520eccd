//! What methods have in common: they are scored task by task.

use anyhow::Result;

use crate::{
    evaluate::TestSet,
    metrics::History,
    profile::{Phase, time},
    results::{Made, Results, Step},
    stream::Stream,
};

/// How a method predicts after a number of tasks.
pub trait Recipe {
    /// The first number of tasks that it can be asked after: 0 where it knows something before the
    /// first.
    fn first(&self) -> usize;

    /// What its predictions after `learned` tasks are made with. Trains nothing.
    fn made(&self, learned: usize) -> Result<Made>;

    /// Its predictions after `learned` tasks. Trains what is missing for them.
    fn step(&mut self, learned: usize, test: &TestSet) -> Result<Step>;
}

/// Scores a method after every task: reads the steps that are there, and makes the others.
pub fn score(recipe: &mut dyn Recipe, results: &Results, test: &TestSet, stream: &Stream) -> Result<History> {
    let mut history = History::new(test, stream);
    for learned in recipe.first()..=stream.tasks() {
        let made = recipe.made(learned)?;
        if !time(Phase::Read, || results.read(learned, &made, test, &mut history))? {
            let step = recipe.step(learned, test)?;
            let made = recipe.made(learned)?; // what was planned is there now
            time(Phase::Write, || results.write(learned, &made, test, &step, &mut history))?;
        }
    }
    Ok(history)
}
