//! What a report is about: what is asked for, and what the run has of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{
    artefact::{self, Manifest, slug},
    dense::moments::mean,
    embeddings::Embeddings,
    generator::Kind,
    metrics::MetricName,
    query::{Tables, numbers, quoted, texts},
    run::{RESULTS, Run, step_name},
    stream::Stream,
    summary::Summary,
    task::Cut,
    words::counted,
};

/// The method that others are compared with where none is named.
const OWN: &str = "cgil";

/// What results are told apart by, in messages.
const METHOD: &str = "method";
const ORDER: &str = "class order";

/// What a report is asked for.
pub struct Request<'a> {
    /// The run.
    pub run: &'a Run,
    /// How classes are cut into tasks; needed where the run has results of several cuts.
    pub cut: Option<Cut>,
    /// Training rows of each class that are learned from; none is all, or the only number there is.
    pub shots: Option<usize>,
    /// Class orders; all where none is named.
    pub orders: &'a [String],
    /// Methods, the first is what the others are compared with; all where none is named.
    pub methods: &'a [String],
    /// Score whose differences between methods are taken.
    pub metric: MetricName,
    /// Names of the classes whose embeddings are drawn; those that are confused most where none is
    /// named.
    pub classes: &'a [String],
}

/// What the report is about: methods on streams that are finished, all cut alike.
pub struct Scope<'a> {
    /// The run.
    pub run: &'a Run,
    /// Its tables.
    pub tables: Tables,
    /// The streams, sorted by their names.
    pub streams: Vec<Stream>,
    /// Their sources.
    pub sources: Vec<Embeddings>,
    /// Methods and scores; the first method is what the figures of a single one show.
    pub summary: Summary,
    /// Tasks of each stream.
    pub tasks: usize,
    /// Methods that are left out, since they have not learned all tasks, in words.
    pub unfinished: Vec<String>,
    /// Score whose differences between methods are taken.
    pub metric: MetricName,
}

impl<'a> Scope<'a> {
    pub fn new(request: &Request<'a>) -> Result<Self> {
        let run = request.run;
        let tables = Tables::open(run)?;
        let (all, unfinished) = Finished::all(&tables)?;
        if all.is_empty() {
            let there = if unfinished.is_empty() { String::new() } else { format!(" ({})", unfinished.join("; ")) };
            bail!(
                "{} has no finished results{there}: run `cgil prompt-tune` or `cgil sweep` first",
                run.dir().display()
            );
        }
        require(ORDER, request.orders, all.iter().map(|f| &f.order))?;
        require(METHOD, request.methods, all.iter().map(|f| &f.method))?;
        let mut finished = all.clone();
        let asked = |names: &[String], name: &String| names.is_empty() || names.contains(name);
        finished.retain(|f| asked(request.orders, &f.order) && asked(request.methods, &f.method));
        require_together(request, &all, &finished)?;
        let names: BTreeSet<&String> = finished.iter().map(|f| &f.stream).collect();
        let streams = names.into_iter().map(|name| Stream::open(run, name)).collect::<Result<Vec<_>>>()?;
        let streams = with_shots(request.shots, streams)?;
        let sizes = sizes(request.cut, streams.iter().map(Stream::sizes).collect())?;
        let streams: Vec<Stream> = streams.into_iter().filter(|stream| stream.sizes() == sizes).collect();
        finished.retain(|f| streams.iter().any(|stream| stream.name == f.stream));
        require_together(request, &all, &finished)?;

        let methods: BTreeSet<&String> = finished.iter().map(|f| &f.method).collect();
        let mut methods: Vec<String> = methods.into_iter().cloned().collect();
        let faa = |method: &str| mean(finished.iter().filter(|f| f.method == method).map(|f| f.faa));
        let place = |method: &String| request.methods.iter().position(|asked| asked == method);
        let order = |a: &String, b: &String| (b == OWN).cmp(&(a == OWN)).then(faa(b).total_cmp(&faa(a)));
        methods.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| order(a, b)));
        let results = finished.iter().map(|f| ((f.method.clone(), f.stream.clone()), sizes.len())).collect();
        let summary = Summary::new(&tables, &methods, &results)?;
        let sources: BTreeSet<&str> = streams.iter().flat_map(Stream::sources).collect();
        let sources = sources.into_iter().map(|name| Embeddings::open_complete(run, name)).collect::<Result<_>>()?;
        let (tasks, metric) = (sizes.len(), request.metric);
        Ok(Scope { run, tables, streams, sources, summary, tasks, unfinished, metric })
    }

    /// The method that the figures of a single one show.
    pub fn first(&self) -> &str {
        &self.summary.methods[0]
    }

    /// The condition of a query for a method's rows on the report's streams that it has finished.
    pub fn rows_of(&self, method: &str) -> String {
        condition(method, &self.summary.streams(method))
    }

    /// The streams of the first method, in words.
    pub fn orders_in_words(&self) -> String {
        match &self.summary.streams(self.first())[..] {
            [stream] => format!("one class order ({stream})"),
            streams => counted(streams.len(), "class order"),
        }
    }

    /// What each method was made with, on the first of the streams that it has: its results, and
    /// the prompts and generators that these are of.
    pub fn configuration(&self) -> Result<Vec<(String, Value)>> {
        let of = |method: &String| {
            let stream = self.summary.streams(method).first().cloned().unwrap_or_default();
            let made = self.made(method, &stream)?;
            let options = |manifest: &Option<Manifest>| {
                manifest.as_ref().map(|m| json!({"options": m.options, "device": m.device}))
            };
            let [results, prompts, generators] = &made;
            let all =
                json!({"results": options(results), "prompts": options(prompts), "generators": options(generators)});
            Ok((format!("{method}, {stream}"), all))
        };
        self.summary.methods.iter().map(of).collect()
    }

    /// The manifests of a method's last step on a stream, and of the prompts and generators that it
    /// was made from, where there are some.
    pub fn made(&self, method: &str, stream: &str) -> Result<[Option<Manifest>; 3]> {
        let dir = self.run.dir().join(RESULTS).join(stream).join(slug(method)).join(step_name(self.tasks));
        let results = Manifest::find(&dir, &artefact::RESULTS)?;
        let input = |manifest: &Option<Manifest>, name: &str, kind| -> Result<Option<Manifest>> {
            let input = manifest.as_ref().and_then(|manifest| manifest.inputs.get(name));
            Ok(input.map(|input| Manifest::find(&self.run.dir().join(&input.path), kind)).transpose()?.flatten())
        };
        let prompts = input(&results, "prompts", &artefact::PROMPTS)?;
        let generators = input(&prompts, "generators", &artefact::GENERATORS)?;
        Ok([results, prompts, generators])
    }

    /// The stream and the kind of the generators that the first of the methods with some learns
    /// from.
    pub fn generators(&self) -> Result<Option<(&Stream, Kind)>> {
        for method in &self.summary.methods {
            for name in self.summary.streams(method) {
                let [_, prompts, _] = self.made(method, &name)?;
                let input = prompts.as_ref().and_then(|prompts| prompts.inputs.get("generators"));
                let kind = input.and_then(|input| input.path.split('/').nth(2)?.parse().ok());
                let stream = self.streams.iter().find(|stream| stream.name == name);
                if let Some(found) = stream.zip(kind) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The names of the streams, as a list in a query.
    pub fn quoted_streams(&self) -> String {
        quoted(&self.streams.iter().map(|stream| stream.name.clone()).collect::<Vec<_>>())
    }
}

/// The condition of a query for a method's rows on some streams, at least one.
pub fn condition(method: &str, streams: &[String]) -> String {
    format!("method = {} AND stream IN ({})", quoted(&[method.to_owned()]), quoted(streams))
}

/// A method's finished results on a stream: those after the last task that the stream has.
#[derive(Clone)]
struct Finished {
    stream: String,
    order: String,
    method: String,
    faa: f64,
}

impl Finished {
    /// All that the run has, and in words the methods that have not learned all tasks of a stream.
    fn all(tables: &Tables) -> Result<(Vec<Finished>, Vec<String>)> {
        let rows = tables.sql("SELECT stream, MAX(task) AS tasks FROM classes GROUP BY stream")?;
        let tasks: BTreeMap<String, f64> = texts(&rows, "stream")?.into_iter().zip(numbers(&rows, "tasks")?).collect();
        let rows = tables.sql(
            "SELECT stream, class_order, method, after_task, MAX(CASE WHEN metric = 'faa' THEN value ELSE NULL END) AS faa, \
             MAX(CASE WHEN metric = 'stored_bytes' THEN value ELSE NULL END) AS stored FROM metrics GROUP BY stream, class_order, method, after_task ORDER BY stream, method, after_task",
        )?;
        let (streams, orders, methods) =
            (texts(&rows, "stream")?, texts(&rows, "class_order")?, texts(&rows, "method")?);
        let steps = streams.into_iter().zip(orders).zip(methods).zip(numbers(&rows, "after_task")?);
        let (mut finished, mut furthest) = (Vec::new(), BTreeMap::new());
        let values = numbers(&rows, "faa")?.into_iter().zip(numbers(&rows, "stored")?);
        for ((((stream, order), method), after), (faa, stored)) in steps.zip(values) {
            let Some(&tasks) = tasks.get(&stream) else { continue };
            furthest.insert((method.clone(), stream.clone()), (after, tasks));
            // without test images there is no accuracy
            if after == tasks && stored.is_finite() {
                finished.push(Finished { stream, order, method, faa });
            }
        }
        let unfinished = furthest.into_iter().filter(|(_, (after, tasks))| after < tasks);
        let words = |((method, stream), (after, tasks))| format!("{method} on {stream}: {after} of {tasks} tasks");
        Ok((finished, unfinished.map(words).collect()))
    }
}

/// An error unless every one of the `asked` names is `there`.
fn require<'n>(what: &str, asked: &[String], there: impl Iterator<Item = &'n String>) -> Result<()> {
    let there: BTreeSet<&String> = there.collect();
    if let Some(name) = asked.iter().find(|name| !there.contains(name)) {
        let there: Vec<&str> = there.into_iter().map(String::as_str).collect();
        bail!("the run has no finished results of the {what} {name:?}; it has {}", there.join(", "));
    }
    Ok(())
}

/// An error unless every method and class order that is asked for is among those `shown`, which are
/// what is left of `all` when everything that is asked for is looked at together.
fn require_together(request: &Request, all: &[Finished], shown: &[Finished]) -> Result<()> {
    let name_of = |what: &str, f: &Finished| if what == METHOD { f.method.clone() } else { f.order.clone() };
    for (what, asked) in [(METHOD, request.methods), (ORDER, request.orders)] {
        let is_shown = |name: &&String| shown.iter().any(|f| name_of(what, f) == **name);
        let Some(name) = asked.iter().find(|name| !is_shown(name)) else { continue };
        let there = all.iter().filter(|f| name_of(what, f) == *name).map(|f| format!("{} on {}", f.method, f.stream));
        bail!(
            "the {what} {name:?} has no finished results among the methods, class orders and tasks that are asked \
             for; the run has {}: make those that are missing, or leave it out",
            there.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// The streams with so many shots, or with all training rows; with the only number of shots that
/// there is, where nothing is asked.
fn with_shots(asked: Option<usize>, streams: Vec<Stream>) -> Result<Vec<Stream>> {
    let there: BTreeSet<Option<usize>> = streams.iter().map(|stream| stream.shots).collect();
    let asked = match there.first() {
        Some(&only) if asked.is_none() && there.len() == 1 => only,
        _ => asked,
    };
    if !there.contains(&asked) {
        let said = |shots: &Option<usize>| match shots {
            Some(shots) => format!("with --shots {shots}"),
            None => "with all training embeddings (no --shots)".to_owned(),
        };
        let there: Vec<String> = there.iter().map(said).collect();
        bail!("the run has no such results {}; it has some {}", said(&asked), there.join(", "));
    }
    Ok(streams.into_iter().filter(|stream| stream.shots == asked).collect())
}

/// The sizes of the tasks of the results that are reported: of those that are there the only ones
/// that a cut gives, if one is `asked` for. Tasks that followed later do not keep a stream from
/// being told by its number of tasks.
fn sizes(asked: Option<Cut>, there: BTreeSet<Vec<usize>>) -> Result<Vec<usize>> {
    let is_cut = |sizes: &Vec<usize>, cut: Cut| cut.sizes(sizes.iter().sum()).is_ok_and(|cut| cut == *sizes);
    let of = |fits: &dyn Fn(&Vec<usize>) -> bool| there.iter().filter(|sizes| fits(sizes)).collect::<Vec<_>>();
    let mut fitting = of(&|sizes| asked.is_none_or(|cut| is_cut(sizes, cut)));
    if let (true, Some(Cut::Tasks(tasks))) = (fitting.is_empty(), asked) {
        fitting = of(&|sizes| sizes.len() == tasks);
    }
    let numbers = |all: &[&Vec<usize>]| {
        let numbers: BTreeSet<usize> = all.iter().map(|sizes| sizes.len()).collect();
        (numbers.len() == all.len(), numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
    };
    match (&fitting[..], asked) {
        ([sizes], _) => Ok(sizes.to_vec()),
        ([], Some(cut)) => {
            let cut = match cut {
                Cut::Tasks(tasks) => counted(tasks, "task"),
                Cut::Sizes { first, next } => format!("a task of {first} and then tasks of {next} classes"),
            };
            bail!("the run has no such results in {cut}; it has some in {}", numbers(&of(&|_| true)).1)
        }
        ([], None) => bail!("there are no finished results"),
        (several, _) => match numbers(several) {
            (true, numbers) => {
                bail!("the run has results in different numbers of tasks ({numbers}): choose one by --tasks")
            }
            (false, _) => {
                let sizes: Vec<String> = several.iter().map(|sizes| format!("{sizes:?}")).collect();
                bail!(
                    "the run has results in tasks of different sizes ({}): choose one by --tasks, or --per-task and --first-task",
                    sizes.join(", ")
                )
            }
        },
    }
}
