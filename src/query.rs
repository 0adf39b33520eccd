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
    storage,
    table::{Contract, contract, views},
};

/// The tables and views of a run.
pub struct Tables {
    run: Run,
    /// The files of each table that are shown.
    shown: BTreeMap<String, Vec<PathBuf>>,
    /// The rows of the tables that were asked for so far: of others no file is opened.
    opened: RefCell<BTreeMap<String, LazyFrame>>,
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
        let (mut all_shown, mut files) = (BTreeMap::new(), BTreeMap::new());
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
            all_shown.insert(table.name.clone(), shown);
            files.insert(table.name.clone(), known);
        }
        Ok(Tables {
            run: run.clone(),
            shown: all_shown,
            opened: RefCell::default(),
            files,
            manifests,
            checked: RefCell::default(),
            left_out: left_out.into_values().collect::<BTreeSet<String>>().into_iter().collect(),
        })
    }

    /// All tables and views by their names, of which those of the tables `asked` for have rows.
    fn context(&self, asked: &[&Contract]) -> Result<SQLContext> {
        let mut frames = BTreeMap::new();
        for table in contract::on_disk() {
            let is_asked = asked.iter().any(|asked| asked.name == table.name);
            frames
                .insert(&table.name, if is_asked { self.rows(table)? } else { Scan::new(table, Vec::new())?.frame()? });
        }
        let context = |frames: &BTreeMap<&String, LazyFrame>| {
            let context = SQLContext::new();
            frames.iter().for_each(|(name, frame)| context.register(name, frame.clone()));
            context
        };
        for view in views::all() {
            // in a context of its own, so that its aliases stay its own
            let frame = context(&frames).execute(&view.sql).with_context(|| format!("view {}", view.name))?;
            frames.insert(&view.name, frame);
        }
        Ok(context(&frames))
    }

    /// The rows of a table, whose files are opened the first time.
    fn rows(&self, table: &'static Contract) -> Result<LazyFrame> {
        if let Some(frame) = self.opened.borrow().get(&table.name) {
            return Ok(frame.clone());
        }
        let files = self.shown.get(&table.name).cloned().unwrap_or_default();
        let frame = Scan::new(table, files)?.frame()?;
        self.opened.borrow_mut().insert(table.name.clone(), frame.clone());
        Ok(frame)
    }

    /// The answer to a query. An error where a file of a table that it names is not what it was
    /// when it was written; other tables' files are not looked at.
    pub fn sql(&self, sql: &str) -> Result<DataFrame> {
        let mut asked = sql.to_ascii_lowercase();
        // a view may use those before it
        for view in views::all().iter().rev() {
            if asked.contains(&view.name) {
                asked += &view.sql.to_ascii_lowercase();
            }
        }
        // names may be parts of others: then a table is looked at for nothing
        let asked: Vec<&Contract> = contract::on_disk().filter(|table| asked.contains(&table.name)).collect();
        let mut context = self.context(&asked)?;
        for table in asked {
            self.check(&table.name)?;
        }
        context.execute(sql).and_then(LazyFrame::collect).context("the query failed")
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
    let is_complete = depth > 2 || storage::is_file(&run.dir().join(&artefact).join(MANIFEST));
    is_complete.then(|| (artefact, below.iter().skip(depth).collect()))
}
