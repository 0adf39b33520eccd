//! The batch script of a stage's jobs.

use std::path::Path;

use cgil::words::counted;

/// A job that has been started so often is not started again by itself.
const RESTARTS: usize = 20;

/// Seconds before the time limit at which a job is told to end.
const NOTICE: usize = 120;

/// An array of jobs, each with some partitions of a stage.
pub struct Script<'a> {
    pub name: &'a str,
    /// The program, with the stage and its options.
    pub command: &'a [String],
    /// Where relative paths begin.
    pub directory: &'a Path,
    /// Where logs go.
    pub logs: &'a Path,
    /// What partitions there are.
    pub of: usize,
    /// Those of each job.
    pub jobs: &'a [Vec<usize>],
    /// What people want of sbatch; the last of equal options counts.
    pub sbatch_args: &'a [String],
}

impl Script<'_> {
    /// The script's text.
    pub fn text(&self) -> String {
        let Script { name, of, jobs, .. } = self;
        let (directory, logs) = (self.directory.display(), self.logs.display());
        let own = [
            format!("--job-name=cgil-{name}"),
            format!("--array=0-{}", jobs.len() - 1),
            format!("--chdir={directory}"),
            format!("--output={logs}/{name}-%A_%a.log"),
            "--open-mode=append".into(),
            "--requeue".into(),
            format!("--signal=B:USR1@{NOTICE}"),
        ];
        let args: String = own.iter().chain(self.sbatch_args).map(|arg| format!("#SBATCH {arg}\n")).collect();
        let command: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        let command = command.join(" ");
        let per_job = jobs.first().map_or(1, Vec::len);
        let partitions: Vec<String> = jobs.iter().flatten().map(usize::to_string).collect();
        let partitions = partitions.join(" ");
        let (count, of_partitions) = (counted(per_job, "partition"), counted(*of, "partition"));
        format!(
            r#"#!/bin/bash
{args}
# cgil {name}: a job has {count} of these, of {of_partitions} in all
partitions=({partitions})
own=("${{partitions[@]:SLURM_ARRAY_TASK_ID * {per_job}:{per_job}}}")
restarts=${{SLURM_RESTART_COUNT:-0}}
threads=${{SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}}
[ -z "$threads" ] || export RAYON_NUM_THREADS=$threads

# shortly before the time limit: what is in hand is finished, and the job starts again
ending=
trap 'ending=yes; kill -USR1 "$child"' USR1
trap 'kill -TERM "$child"; wait "$child"; exit 75' TERM

# not all at once
[ "$restarts" -gt 0 ] || sleep "$((SLURM_ARRAY_TASK_ID % 300 / 10)).$((SLURM_ARRAY_TASK_ID % 10))"

failed=0
for i in "${{!own[@]}}"; do
    {command} --partition "${{own[i]}}/{of}" &
    child=$!
    wait "$child"
    code=$?
    # a signal ends the wait, and not the child
    while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
        wait "$child"
        code=$?
    done
    [ "$code" -le 128 ] || {{ wait "$child"; code=$?; }}
    if [ "$code" -eq 75 ] || [ -n "$ending" ]; then
        # 75: it may go well another time
        [ "$restarts" -ge {RESTARTS} ] || scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
        exit 75
    fi
    [ "$code" -eq 0 ] || failed=$code
done
exit "$failed"
"#
        )
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_they_were_to_a_shell() {
        for (word, shown) in
            [("a/b-c=1", "a/b-c=1"), ("a b", "'a b'"), ("", "''"), ("it's", r"'it'\''s'"), ("{0..9}", "'{0..9}'")]
        {
            assert_eq!(quoted(word), shown);
        }
    }
}
