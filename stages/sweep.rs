//! Methods and seeds, side by side: runs what is missing, then tables means, deviations and paired
//! differences.

use std::{collections::BTreeMap, env, process::Command};

use anyhow::{Context, Result, bail};
use cgil::{
    embeddings::{Embeddings, FIRST_SOURCE},
    partition::Partition,
    query::Tables,
    run::Run,
    sheet::Format,
    stop::{self, Stopped},
    stream::Stream,
    summary::Summary,
    words::counted,
};
use clap::Args;

use crate::{
    hub, jobs,
    members::{Member, MemberOptions},
    options::{MetricOption, choice},
    outcome::{self, Transient},
    terminal::{self, Progress},
    work::{Scored, begin_sweep},
};

#[derive(Args, Clone)]
pub struct Options {
    #[command(flatten)]
    pub members: MemberOptions,
    #[command(flatten)]
    metric: MetricOption,
    /// How the table is printed
    #[arg(long, value_parser = choice::<Format>(), default_value_t = Format::Text)]
    format: Format,
    /// Run every N-th member alone, from member I on, and print no table
    ///
    /// Members are the methods under the first seed, under the second, and so on; partition I of N,
    /// from 0/N to N-1/N, has the members k with k mod N = I. Partitions may run at once; the same
    /// sweep without this option then finds all done, and prints the table.
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    partition: Option<Partition>,
}

/// Methods on streams, and the numbers of tasks of these.
type Done = BTreeMap<(String, String), usize>;

/// Commands that failed, in words, and whether one of them may do better another time.
#[derive(Default)]
struct Failed {
    commands: Vec<String>,
    may_pass: bool,
}

impl Failed {
    /// What failed, and what there is all the same; fine where nothing did.
    fn or_error(self, but: &str) -> Result<()> {
        let text = format!("{} failed{but}:\n{}", counted(self.commands.len(), "command"), self.commands.join("\n"));
        match (&self.commands[..], self.may_pass) {
            ([], _) => Ok(()),
            (_, true) => Err(Transient(text).into()),
            (_, false) => bail!(text),
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.members.run, terminal::note)?;
    let classes = Embeddings::open_complete(&run, FIRST_SOURCE)?.plan.classes.len();
    // fetched once, for all commands
    let model = options.members.model.as_deref().map(hub::model).transpose()?;
    let mut members = options.members.clone();
    members.model = model;
    let members = members.members(classes)?;
    stop::watch();
    if let Some(partition) = options.partition {
        return run_part(&run, members, partition);
    }
    let (done, failed) = run_all(&run, &members)?;
    let mut names: Vec<String> = Vec::new();
    for Scored { method, .. } in members.into_iter().map(|member| member.scored) {
        if !names.contains(&method) {
            names.push(method);
        }
    }
    let summary = Tables::open(&run).and_then(|tables| {
        tables.left_out.iter().for_each(|reason| terminal::note(&format!("note: left out: {reason}")));
        Summary::new(&tables, &names, &done)
    });
    let sheet = summary.map(|summary| summary.sheet(options.metric.metric).render(options.format));
    match (sheet, failed.commands.is_empty()) {
        (Ok(sheet), true) => terminal::print(sheet),
        (Err(error), true) => Err(error),
        (Ok(sheet), false) => {
            terminal::print(sheet)?;
            failed.or_error(", the table has the others")
        }
        (Err(error), false) => failed.or_error(&format!(", there is no table: {error:#}")),
    }
}

/// Runs the members of a partition.
fn run_part(run: &Run, members: Vec<Member>, partition: Partition) -> Result<()> {
    let all = members.len();
    let place = begin_sweep(run, &members.iter().map(|member| member.scored.clone()).collect::<Vec<_>>())?;
    let own = members.into_iter().enumerate().filter(|(k, _)| partition.has(*k));
    let own: Vec<Member> = own.map(|(_, member)| member).collect();
    jobs::recorded(run, &place, Some(partition), || run_all(run, &own)?.1.or_error(""))?;
    terminal::print(format!(
        "partition {partition} of {}: {} of {all} done\n",
        run.dir().display(),
        counted(own.len(), "member")
    ))
}

/// Runs the members' commands one after another, each with all threads; one that several members
/// need runs once, and a member ends with the first that fails. Returns the methods and orders that
/// are there now, and what failed. An error where it was stopped.
fn run_all(run: &Run, members: &[Member]) -> Result<(Done, Failed)> {
    let program = env::current_exe().context("cannot find this program")?;
    let progress = Progress::new("sweep", members.len());
    let mut outcomes: BTreeMap<&[String], bool> = BTreeMap::new();
    let (mut done, mut failed) = (Done::new(), Failed::default());
    for Member { scored: Scored { stream, method }, commands } in members {
        let mut is_done = true;
        for command in commands {
            is_done = match outcomes.get(&command[..]) {
                Some(&succeeded) => succeeded,
                None if stop::is_asked() => return Err(Stopped.into()),
                None => {
                    let line = command.join(" ");
                    progress.set_message(line.clone());
                    let output = outcome::output(Command::new(&program).args(command).arg("--quiet"))
                        .context("cannot start this program again")?;
                    if stop::is_asked() && !output.status.success() {
                        return Err(Stopped.into());
                    }
                    if !output.status.success() {
                        let message = String::from_utf8_lossy(&output.stderr);
                        let message = message.trim().trim_start_matches("error: ");
                        failed.commands.push(format!("cgil {line}\n    {message}"));
                        failed.may_pass |= output.status.code() == Some(outcome::TRANSIENT.into());
                    }
                    outcomes.insert(command, output.status.success());
                    output.status.success()
                }
            };
            if !is_done {
                break;
            }
        }
        if is_done {
            // which may have grown since it was cut
            done.insert((method.clone(), stream.clone()), Stream::open(run, stream)?.tasks());
        }
        progress.inc(1);
    }
    progress.finish();
    Ok((done, failed))
}
