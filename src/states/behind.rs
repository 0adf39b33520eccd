//! What has begun to learn a stream and has not come to a task of it.

use anyhow::Result;
use serde_json::Value;

use super::{Learner, dir, earlier::is_forgotten};
use crate::{
    artefact::{self, MANIFEST, Manifest},
    run::{RESULTS, Run, names, step_name, step_number},
    storage,
    stream::Stream,
};

/// What has begun to learn a stream and has not learned its task of this number, from 1, as a path below
/// the run; where nothing has learned it, the stream's results. `learner` is who goes on from states, by
/// the options in their manifests; nobody where they cannot go on, as those cannot that would need rows
/// that are forgotten.
pub fn behind(
    run: &Run,
    stream: &Stream,
    number: usize,
    learner: impl Fn(&Value) -> Option<Learner>,
) -> Result<Option<String>> {
    let (statistics, results) = (dir(run, stream), run.dir().join(RESULTS).join(&stream.name));
    for name in names(&statistics) {
        let own = statistics.join(&name);
        let mut steps: Vec<usize> = names(&own).iter().filter_map(|step| step_number(step)).collect();
        steps.sort_unstable();
        let found =
            steps.into_iter().rev().map(|step| Manifest::find(&own.join(step_name(step)), &artefact::STATISTICS));
        let learned = match found.filter_map(Result::transpose).next().transpose()? {
            None => 0,
            Some(made) => match learner(&made.options) {
                Some(learner) => learner.learned(run, stream)?,
                None => continue,
            },
        };
        if learned < number && !is_forgotten(run, stream, learned..number)? {
            return Ok(Some(run.place(&own)));
        }
    }
    let is_scored = |name: &String| storage::is_file(&results.join(name).join(step_name(number)).join(MANIFEST));
    Ok(if names(&results).iter().any(is_scored) { None } else { Some(run.place(&results)) })
}
