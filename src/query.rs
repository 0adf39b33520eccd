//! SQL over the tables of a run, through Polars. Only what belongs together is shown: files of
//! artefacts that were made from others than are there now are left out, and named.

mod scan;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use polars::{
    prelude::{DataFrame, DataType, LazyFrame},
    sql::SQLContext,
};
use rayon::prelude::*;
use scan::Scan;

use crate::{
    artefact::{MANIFEST, Manifest},
    run::{Belonging, Run},
    table::{Contract, contract, views},
};

/// The tables and views of a run.
pub struct Tables {
    run: Run,
    tables: BTreeMap<String, LazyFrame>,
    views: BTreeMap<String, LazyFrame>,
    /// The files of each table that belong to an artefact: its directory below the run, and their
    /// name in that.
    files: BTreeMap<String, Vec<(PathBuf, PathBuf)>>,
    manifests: BTreeMap<PathBuf, Manifest>,
    /// Tables whose files are what they were when they were written.
    checked: RefCell<BTreeSet<String>>,
    /// Artefacts that do not belong to what is there, and why, in words.
    pub left_out: Vec<String>,
}

impl Tables {
    /// All tables of the run; one that no file has been written of is empty.
    pub fn open(run: &Run) -> Result<Self> {
        if run.sources().is_empty() {
            bail!("{} is not a run's directory: it has no sources", run.dir().display());
        }
        let belonging = Belonging::new(run);
        let (mut tables, mut files) = (BTreeMap::new(), BTreeMap::new());
        let (mut manifests, mut left_out) = (BTreeMap::new(), BTreeMap::new());
        for table in contract::on_disk() {
            let (mut shown, mut known) = (Vec::new(), Vec::new());
            for path in table.files(run.dir()) {
                let Some((dir, name)) = artefact_of(run, table, &path) else {
                    shown.push(path);
                    continue;
                };
                if let Some(reason) = belonging.reason(&dir) {
                    left_out.insert(dir, reason);
                    continue;
                }
                if !manifests.contains_key(&dir) {
                    manifests.extend(belonging.manifest(&dir).map(|manifest| (dir.clone(), manifest)));
                }
                known.push((dir, name));
                shown.push(path);
            }
            tables.insert(table.name.clone(), Scan::new(table, shown)?.frame()?);
            files.insert(table.name.clone(), known);
        }
        let mut found = Tables {
            run: run.clone(),
            tables,
            views: BTreeMap::new(),
            files,
            manifests,
            checked: RefCell::default(),
            left_out: left_out.into_values().collect(),
        };
        for view in views::all() {
            // in a context of its own, so that its aliases stay its own
            let frame = found.context().execute(&view.sql).with_context(|| format!("view {}", view.name))?;
            found.views.insert(view.name.clone(), frame);
        }
        Ok(found)
    }

    fn context(&self) -> SQLContext {
        let context = SQLContext::new();
        for (name, frame) in self.tables.iter().chain(&self.views) {
            context.register(name, frame.clone());
        }
        context
    }

    /// The answer to a query. An error where a file of a table that it names is not what it was
    /// when it was written.
    pub fn sql(&self, sql: &str) -> Result<DataFrame> {
        let views = views::all().iter().filter(|view| names(sql, &view.name)).map(|view| view.sql.as_str());
        let asked = [sql].into_iter().chain(views).collect::<Vec<_>>().join("\n");
        for table in self.files.keys().filter(|table| names(&asked, table)) {
            self.check(table)?;
        }
        self.context().execute(sql).and_then(LazyFrame::collect).context("the query failed")
    }

    /// An error unless every file of a table has the checksum in its artefact's manifest. Reads
    /// each once.
    fn check(&self, table: &str) -> Result<()> {
        if self.checked.borrow().contains(table) {
            return Ok(());
        }
        let (run, manifests) = (&self.run, &self.manifests);
        let files = self.files.get(table).map_or(&[][..], Vec::as_slice);
        files.par_iter().try_for_each(|(artefact, name)| match manifests.get(artefact) {
            Some(manifest) => manifest.check_file(&run.dir().join(artefact), &name.to_string_lossy()),
            None => Ok(()),
        })?;
        self.checked.borrow_mut().insert(table.to_owned());
        Ok(())
    }
}

/// Whether a query has a name in it, maybe as part of another.
fn names(sql: &str, name: &str) -> bool {
    sql.to_ascii_lowercase().contains(name)
}

/// A text column of an answer; null is empty.
pub fn texts(answer: &DataFrame, column: &str) -> Result<Vec<String>> {
    let values = answer.column(column)?.str().with_context(|| format!("column {column} holds no text"))?;
    Ok(values.iter().map(|value| value.unwrap_or_default().to_owned()).collect())
}

/// A column of numbers of an answer; null is NaN.
pub fn numbers(answer: &DataFrame, column: &str) -> Result<Vec<f64>> {
    let values = answer.column(column)?.cast(&DataType::Float64)?;
    Ok(values.f64()?.iter().map(|value| value.unwrap_or(f64::NAN)).collect())
}

/// Texts as a list in a query: `'a', 'b'`. An empty list is one that nothing is in.
pub fn quoted(texts: &[String]) -> String {
    match texts {
        [] => "NULL".into(),
        texts => texts.iter().map(|text| format!("'{}'", text.replace('\'', "''"))).collect::<Vec<_>>().join(", "),
    }
}

/// The directory, below the run's, of the artefact that a table's file belongs to, and the file's
/// name in it; none where the artefact is a source that is not complete.
fn artefact_of(run: &Run, table: &Contract, file: &Path) -> Option<(PathBuf, PathBuf)> {
    let below = file.strip_prefix(run.dir()).ok()?;
    let depth = if table.path.starts_with("sources/") { 2 } else { below.iter().count() - 1 };
    let artefact: PathBuf = below.iter().take(depth).collect();
    let is_complete = depth > 2 || run.dir().join(&artefact).join(MANIFEST).exists();
    is_complete.then(|| (artefact, below.iter().skip(depth).collect()))
}
