//! Tables with a column of images, as the `datasets` library writes them: Parquet shards, and the
//! Arrow files of `save_to_disk`.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Error, Result, bail, ensure};
use arrow::{
    array::{Array, AsArray, BinaryArray, RecordBatch, RecordBatchOptions, new_null_array},
    compute::{cast, concat_batches},
    datatypes::{DataType, Field, Schema},
};

use super::{
    class_names,
    columns::{Columns, IMAGE, LABEL},
    damage::{is_damage, is_of_data},
    data_set::{Encoded, Found, Images},
    kept::Keep,
    labels::{self, Label, Labels, Names},
    listing::Listing,
    names::{has_extension, id_of, some_of},
    options::SourceOptions,
    read::read_regular,
    shards::Shards,
    split::Part,
    table_file,
};
use crate::storage;

/// The shards: path below the root, and the places of their rows in the source's order.
struct Tables {
    root: PathBuf,
    files: Vec<(PathBuf, Range<u32>)>,
    image: String,
    /// The others of all shards, but for the labels, where some are kept.
    others: Schema,
}

pub fn open_parquet(path: &Path, listing: &Listing, options: &SourceOptions) -> Result<Found> {
    open(path, listing, "parquet", "Parquet shards", options)
}

pub fn open_arrow(path: &Path, listing: &Listing, options: &SourceOptions) -> Result<Found> {
    open(path, listing, "arrow", "Arrow files", options)
}

fn open(path: &Path, listing: &Listing, extension: &str, what: &str, options: &SourceOptions) -> Result<Found> {
    let (root, files) = if storage::is_dir(path) {
        (path, listing.files.iter().filter(|file| has_extension(file, extension)).collect())
    } else {
        (path.parent().unwrap_or(Path::new("")), Vec::new())
    };
    let shards = match path.file_name() {
        Some(name) if !storage::is_dir(path) => {
            Shards { files: vec![(name.into(), Part::Unsplit)], left_out: Vec::new() }
        }
        _ => Shards::of(root, &files)?,
    };
    ensure!(!shards.files.is_empty(), "{} has no {what}", path.display());

    let mut first: Option<Columns> = None;
    let (mut lines, mut files, mut parts, mut damaged) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut found, mut others) = (Labels::default(), Schema::empty());
    for (relative, part) in &shards.files {
        let file = root.join(relative);
        let columns = match Columns::of(&file, root, options) {
            Ok(columns) => columns,
            Err(error) => match table_file::schema(&file) {
                Ok(_) => return Err(error), // it is what the columns are
                Err(error) => {
                    let may_go = is_of_data(&file, error.as_ref());
                    damaged.push(left_out(&file, error, may_go, options)?);
                    continue;
                }
            },
        };
        let column: Result<Vec<Result<Vec<Label>>>> = table_file::all(&file, &[&columns.label])
            .and_then(|batches| batches.map(|batch| Ok(labels::of_column(&batch?[columns.label.as_str()]))).collect());
        let column = match column {
            Ok(column) => column,
            // of what a disk or a store said the reader of Parquet leaves text
            Err(error) if !has_extension(&file, "arrow") => return Err(error),
            Err(error) => {
                let may_go = is_damage(error.as_ref());
                damaged.push(left_out(&file, error, may_go, options)?);
                continue;
            }
        };
        require_same(&file, &columns, first.as_ref())?;
        if options.keep != Keep::None {
            let (schema, _) = table_file::schema(&file)?;
            let is_other = |field: &&Arc<Field>| *field.name() != columns.image && *field.name() != columns.label;
            let own = Schema::new(schema.fields().iter().filter(is_other).cloned().collect::<Vec<_>>());
            others = Schema::try_merge([others, own]).with_context(|| {
                format!("{} has a column that the shards before it have of another type", file.display())
            })?;
        }
        let start = found.len();
        for labels in column {
            let labels = labels.with_context(|| format!("{}: column {:?}", file.display(), columns.label))?;
            labels.into_iter().for_each(|label| found.push(label));
        }
        let rows = found.len() - start;
        parts.extend(vec![*part; rows]);
        let bytes = storage::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.bytes();
        lines.push(format!("{} {} {bytes} {rows}", format!("{part:?}").to_lowercase(), id_of(relative)));
        files.push((relative.clone(), start as u32..found.len() as u32));
        first.get_or_insert(columns);
    }
    let columns = first.with_context(|| match &damaged[..] {
        [] => format!("{} has no rows", path.display()),
        damaged => format!("nothing is left of {}: {}", path.display(), some_of(damaged.iter().cloned())),
    })?;
    let tables = Tables { root: root.to_owned(), files, image: columns.image.clone(), others };
    let names = columns.names.clone().map_or(Names::Own, Names::Counted);
    let (mut classes, rows) = found.classes(path, &columns.label, names, |row| tables.id(row as u32))?;
    lines.push(format!("columns {:?} {:?}", columns.image, columns.label));
    lines.extend(classes.iter().map(|class| format!("class {:?}", class.name)));
    if let Some(file) = &options.class_names {
        class_names::rename(&mut classes, file)?;
        lines.extend(classes.iter().map(|class| format!("called {:?}", class.name)));
    }
    let mut notes = shards.notes();
    notes.extend(damaged);
    let taken = [(&columns.image, IMAGE, &options.image_column), (&columns.label, LABEL, &options.label_column)];
    if taken.iter().any(|(found, usual, asked)| found != usual && asked.is_none()) {
        notes.push(format!("the images are the column {:?}, the labels {:?}", columns.image, columns.label));
    }
    Ok(Found {
        what: what.to_owned(),
        classes,
        rows: rows.into_iter().zip(parts).collect(),
        lines,
        notes,
        why_empty: Box::new(|_, _| String::new()),
        images: Box::new(tables),
    })
}

/// What is said of a shard that cannot be read, by the error that says why; that error where the shard
/// is not to be left out, or may not go.
fn left_out(file: &Path, error: Error, may_go: bool, options: &SourceOptions) -> Result<String> {
    match may_go {
        true if options.skip_damaged => Ok(format!("left out: {error:#}")),
        true => Err(error.context(format!("fetch {} again, or leave it out by --skip-damaged", file.display()))),
        false => Err(error),
    }
}

/// An error if a shard has other columns or classes than those before it.
fn require_same(file: &Path, columns: &Columns, before: Option<&Columns>) -> Result<()> {
    let Some(before) = before.filter(|before| *before != columns) else { return Ok(()) };
    if (&before.image, &before.label) != (&columns.image, &columns.label) {
        bail!(
            "{} has the columns {:?} and {:?}, the shards before it {:?} and {:?}",
            file.display(),
            columns.image,
            columns.label,
            before.image,
            before.label
        );
    }
    bail!("{} names other classes than the shards before it", file.display());
}

impl Images for Tables {
    fn read<'a>(&'a self, rows: &'a [u32]) -> Result<Encoded<'a>> {
        Ok(Box::new(self.parts(rows).flat_map(|(relative, rows)| {
            // an error of the whole file is one item, so that the caller stops there
            self.read_file(relative, rows).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        })))
    }

    fn paths(&self, rows: &[u32]) -> Vec<PathBuf> {
        self.parts(rows).map(|(file, _)| self.root.join(file)).collect()
    }

    fn id(&self, row: u32) -> String {
        let (file, rows) = &self.files[self.files.partition_point(|(_, rows)| rows.end <= row)];
        format!("{}#{}", id_of(file), row - rows.start)
    }

    fn columns(&self) -> Vec<Field> {
        self.others.fields().iter().map(|field| field.as_ref().clone()).collect()
    }

    fn values(&self, columns: &[&str], rows: &[u32]) -> Result<RecordBatch> {
        let fields = columns.iter().map(|name| Ok(self.others.field_with_name(name)?.clone()));
        let schema = Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?));
        let mut all = Vec::new();
        for (file, rows) in self.parts(rows) {
            let path = self.root.join(file);
            let (of_file, _) = table_file::schema(&path)?;
            let there: Vec<&str> = columns.iter().copied().filter(|name| of_file.index_of(name).is_ok()).collect();
            for batch in table_file::rows(&path, &there, rows)? {
                let batch = batch?;
                let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
                    Some(column) => column.clone(),
                    None => new_null_array(field.data_type(), batch.num_rows()),
                };
                let columns = schema.fields().iter().map(column).collect();
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                all.push(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?);
            }
        }
        Ok(concat_batches(&schema, &all)?)
    }
}

impl Tables {
    /// The shards that rows lie in, and their rows there.
    fn parts<'a>(&'a self, rows: &'a [u32]) -> impl Iterator<Item = (&'a Path, Vec<Range<usize>>)> {
        self.files.iter().filter_map(move |(file, all)| {
            let here = &rows[rows.partition_point(|&row| row < all.start)..rows.partition_point(|&row| row < all.end)];
            let run = |run: &[u32]| (run[0] - all.start) as usize..(run[run.len() - 1] - all.start) as usize + 1;
            let runs: Vec<Range<usize>> = here.chunk_by(|a, b| a + 1 == *b).map(run).collect();
            (!runs.is_empty()).then_some((file.as_path(), runs))
        })
    }

    fn read_file(&self, relative: &Path, rows: Vec<Range<usize>>) -> Result<Encoded<'_>> {
        let path = self.root.join(relative);
        let batches = table_file::rows(&path, &[&self.image], rows)?;
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Box::new(batches.flat_map(move |batch| match batch.and_then(|batch| self.images(&batch, &dir)) {
            Ok(images) => images.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })))
    }

    /// The images of a batch, or why there are none. Those that have no bytes may have the path of a
    /// file, from `dir`.
    fn images(&self, batch: &RecordBatch, dir: &Path) -> Result<Vec<Result<Vec<u8>, String>>> {
        let column = &batch[self.image.as_str()];
        let (bytes, paths) = match column.as_struct_opt() {
            Some(images) => (&images["bytes"], images.column_by_name("path")),
            None => (column, None),
        };
        let bytes = cast(bytes, &DataType::Binary)?;
        let bytes: &BinaryArray = bytes.as_binary();
        let paths = paths.map(|paths| cast(paths, &DataType::Utf8)).transpose()?;
        let path = |i: usize| paths.as_ref().filter(|p| p.is_valid(i)).map(|p| p.as_string::<i32>().value(i));
        let image = |i: usize| {
            if column.is_valid(i) && bytes.is_valid(i) {
                return Ok(bytes.value(i).to_vec());
            }
            let path = path(i).filter(|_| column.is_valid(i)).ok_or("the row holds no image bytes")?;
            let path = dir.join(path);
            read_regular(&path).map_err(|e| format!("the row holds no image bytes, and {}: {e}", path.display()))
        };
        Ok((0..batch.num_rows()).map(image).collect())
    }
}
