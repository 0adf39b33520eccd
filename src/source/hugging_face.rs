//! Parquet shards as the `datasets` library writes them: a column of images, `struct<bytes, path>`,
//! and a ClassLabel column, whose names stand in the footer under the key `huggingface`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type, Schema, UInt64Type},
};
use parquet::arrow::ProjectionMask;
use serde_json::Value;

use super::{
    class_names,
    data_set::{Images, Record, Records, Source, SourceOptions, note_on_empty_classes, require_both_splits},
    id::SourceId,
    listing::Listing,
    names::{has_extension, id_of, some_of},
};
use crate::{rows::SPLITS, table::file, task::Class, words::counted};

/// Images decoded from Parquet at a time.
const BATCH_ROWS: usize = 32;

/// What the columns are usually called.
const IMAGE: &str = "image";
const LABEL: &str = "label";

/// Other names that label columns have.
const LABELS: [&str; 5] = ["labels", "fine_label", "coarse_label", "target", "class"];

/// The shards of each split: path below the directory, rows.
struct Shards {
    root: PathBuf,
    files: BTreeMap<String, Vec<(PathBuf, usize)>>,
    columns: Columns,
    classes: usize,
}

/// The names of the columns that are read.
#[derive(Clone, Debug, PartialEq)]
struct Columns {
    image: String,
    label: String,
}

/// A shard, and its number and the total where its name has them.
type Numbered<'a> = (&'a PathBuf, Option<(usize, usize)>);

/// What a file's place says of it: the directory that the data set lies in, the split, and its
/// group. The files of one group make a split together.
struct Place {
    dir: PathBuf,
    split: &'static str,
    group: PathBuf,
    /// Number and total, of `SPLIT-NNNNN-of-NNNNN`.
    number: Option<(usize, usize)>,
}

/// Whether a path below the directory is a shard of train or test.
pub fn is_shard(path: &Path) -> bool {
    place_of(path).is_some()
}

pub fn open(root: &Path, listing: &Listing, options: &SourceOptions) -> Result<Source> {
    let (shards, left_out): (Vec<&PathBuf>, Vec<&PathBuf>) = listing.files.iter().partition(|file| is_shard(file));
    let splits = splits(root, &shards, &left_out)?;

    let mut first: Option<(Columns, Vec<String>)> = None;
    let (mut lines, mut files, mut counts) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut wrong = WrongLabels::default();
    for (split, of_split) in splits {
        let shards: &mut Vec<(PathBuf, usize)> = files.entry(split.to_owned()).or_default();
        for relative in of_split {
            let path = root.join(&relative);
            let (columns, names) = contents(&path, options)?;
            if let Some((before, known)) = &first {
                if *before != columns {
                    bail!(
                        "{} has the columns {:?} and {:?}, the shards before it {:?} and {:?}",
                        path.display(),
                        columns.image,
                        columns.label,
                        before.image,
                        before.label
                    );
                }
                if *known != names {
                    bail!("{} names other classes than the shards before it", path.display());
                }
            }
            let counts: &mut Vec<usize> = counts.entry(split.to_owned()).or_insert_with(|| vec![0; names.len()]);
            let rows = count_labels(&path, &id_of(&relative), &columns.label, counts, &mut wrong)?;
            let bytes = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
            lines.push(format!("{split} {} {bytes} {rows}", id_of(&relative)));
            first.get_or_insert((columns, names));
            shards.push((relative, rows));
        }
    }
    let (columns, names) = first.with_context(|| format!("{} has no shards", root.display()))?;
    wrong.refuse(&columns.label, names.len())?;
    require_both_splits(root, &counts, "expected rows in the shards of both splits")?;

    let mut classes: Vec<Class> =
        names.into_iter().enumerate().map(|(i, name)| Class { label: i as i64, name }).collect();
    lines.push(format!("columns {:?} {:?}", columns.image, columns.label));
    lines.extend(classes.iter().map(|class| format!("class {:?}", class.name)));
    if let Some(file) = &options.class_names {
        class_names::rename(&mut classes, file)?;
        lines.extend(classes.iter().map(|class| format!("called {:?}", class.name)));
    }
    let mut notes = Vec::new();
    if let Some((first, others)) = left_out.split_first() {
        let more = match others.len() {
            0 => String::new(),
            n => format!(" and {}", counted(n, "more file")),
        };
        notes.push(format!("left out, as no shard of train or test: {}{more}", first.display()));
    }
    let taken = [(&columns.image, IMAGE, &options.image_column), (&columns.label, LABEL, &options.label_column)];
    if taken.iter().any(|(found, usual, asked)| found != usual && asked.is_none()) {
        notes.push(format!("the images are the column {:?}, the labels {:?}", columns.image, columns.label));
    }
    notes.extend(note_on_empty_classes(&classes, &counts, |_, _| String::new()));
    Ok(Source {
        id: SourceId {
            origin: format!("Parquet shards {}", root.display()),
            fingerprint: crate::hash::hash_lines(lines),
        },
        rows: files.iter().map(|(split, files)| (split.clone(), files.iter().map(|f| f.1).sum())).collect(),
        counts,
        notes,
        images: Box::new(Shards { root: root.to_owned(), files, columns, classes: classes.len() }),
        classes,
    })
}

/// What a file's name and directory say: `SPLIT.parquet`, `SPLIT-N.parquet`,
/// `SPLIT-NNNNN-of-NNNNN.parquet`, where a hash may follow, or any file in a directory called
/// SPLIT.
fn place_of(path: &Path) -> Option<Place> {
    if !has_extension(path, "parquet") {
        return None;
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    let of_dir = SPLITS.into_iter().find(|split| parent.file_name().is_some_and(|name| name == *split));
    let dir = if of_dir.is_some() { parent.parent().unwrap_or(Path::new("")) } else { parent }.to_owned();
    let number = |text: &str| text.parse::<usize>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let stem = path.file_stem()?.to_str().unwrap_or_default();
    let parts: Vec<&str> = stem.split('-').collect();
    if let Some(split) = SPLITS.into_iter().find(|split| parts[0] == *split) {
        let place = |group: String, number| Some(Place { dir: dir.clone(), split, group: parent.join(group), number });
        match parts[1..] {
            [] => return place(format!("{split}.parquet"), None),
            [n] if number(n).is_some() => return place(format!("{split}-N.parquet"), None),
            [n, "of", total] | [n, "of", total, _] => {
                if let (Some(n), Some(total)) = (number(n), number(total)) {
                    return place(format!("{split}-NNNNN-of-{}.parquet", parts[3]), Some((n, total)));
                }
            }
            _ => {}
        }
    }
    of_dir.map(|split| Place { dir, split, group: parent.join("*.parquet"), number: None })
}

/// The shards of each split, in the order of their names. An error where they are not those of one
/// data set, or not all.
fn splits(root: &Path, shards: &[&PathBuf], left_out: &[&PathBuf]) -> Result<Vec<(&'static str, Vec<PathBuf>)>> {
    let mut splits = Vec::new();
    let mut dirs: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for split in SPLITS {
        let mut groups: BTreeMap<PathBuf, Vec<Numbered>> = BTreeMap::new();
        for shard in shards {
            if let Some(place) = place_of(shard).filter(|place| place.split == split) {
                dirs.entry(place.dir).or_insert_with(|| place.group.clone());
                groups.entry(place.group).or_default().push((shard, place.number));
            }
        }
        let mut groups = groups.into_iter();
        match (groups.next(), groups.next()) {
            (Some((group, files)), None) => {
                require_whole(root, &group, &files)?;
                splits.push((split, files.into_iter().map(|(file, _)| file.clone()).collect()));
            }
            (Some((first, _)), Some((second, _))) => bail!(
                "{}: {split} would be both {} and {}: give --data the directory of the one, or move the other away",
                root.display(),
                first.display(),
                second.display()
            ),
            (None, _) => bail!(
                "{} has no {split} images: no Parquet file is called {split}.parquet, {split}-N.parquet or \
                 {split}-NNNNN-of-NNNNN.parquet, nor lies in a directory {split}{}",
                root.display(),
                match some_of(left_out.iter().map(|path| path.display().to_string())) {
                    names if names.is_empty() => names,
                    names => format!("; it has {names}"),
                }
            ),
        }
    }
    if dirs.len() > 1 {
        bail!(
            "{}: train and test would come from different directories, {}: give --data the directory of one data set",
            root.display(),
            some_of(dirs.values().map(|group| group.display().to_string()))
        );
    }
    Ok(splits)
}

/// An error if numbered shards are missing, or are there twice.
fn require_whole(root: &Path, group: &Path, files: &[Numbered]) -> Result<()> {
    let numbers: Vec<(usize, usize)> = files.iter().filter_map(|(_, number)| *number).collect();
    let Some(&(_, total)) = numbers.first() else { return Ok(()) };
    let present: BTreeSet<usize> = numbers.iter().map(|(number, _)| *number).collect();
    let lacking = (0..total).filter(|number| !present.contains(number));
    let missing: Vec<usize> = lacking.take(1000).collect(); // a name may claim any total
    if !missing.is_empty() {
        bail!(
            "{}: of {} the shards {} are missing: fetch them again",
            root.display(),
            group.display(),
            some_of(missing.iter().map(|number| format!("{number:05}")))
        );
    }
    if present.len() != files.len() || present.iter().any(|&number| number >= total) {
        bail!(
            "{}: {} has {}, not {total}: remove those of another copy",
            root.display(),
            group.display(),
            counted(files.len(), "file")
        );
    }
    Ok(())
}

/// The columns of a shard that are read, and the names of its classes.
fn contents(path: &Path, options: &SourceOptions) -> Result<(Columns, Vec<String>)> {
    let builder = file::builder(path)?;
    let schema = builder.schema();
    let features = match file::footer_value(&builder, file::HUGGING_FACE_KEY) {
        Some(text) => serde_json::from_str(&text)
            .with_context(|| format!("{}: the `huggingface` key of the footer is not JSON", path.display()))?,
        None => Value::Null,
    };
    let columns = Columns {
        image: image_column(path, schema, options.image_column.as_deref())?,
        label: label_column(path, schema, &features, options.label_column.as_deref())?,
    };
    let names = class_names_of(&features, &columns.label).map_or(&[][..], Vec::as_slice);
    let names: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    let names =
        names.with_context(|| format!("{}: a class name of {:?} is not text", path.display(), columns.label))?;
    if names.is_empty() {
        bail!("{}: the ClassLabel of column {:?} has no names", path.display(), columns.label);
    }
    Ok((columns, names))
}

fn image_column(path: &Path, schema: &Schema, asked: Option<&str>) -> Result<String> {
    let fits = |t: &DataType| match t {
        DataType::Struct(fields) => fields.iter().any(|f| {
            f.name() == "bytes"
                && matches!(f.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
        }),
        _ => false,
    };
    let images: Vec<&str> = schema.fields().iter().filter(|f| fits(f.data_type())).map(|f| f.name().as_str()).collect();
    if let Some(asked) = asked.or(schema.field_with_name(IMAGE).is_ok().then_some(IMAGE)) {
        let found = column(path, schema, asked)?;
        if !fits(found) {
            bail!("{}: column {asked:?} should be struct<bytes: binary, path: string>, but is {found}", path.display());
        }
        return Ok(asked.to_owned());
    }
    match images[..] {
        [one] => Ok(one.to_owned()),
        [] => bail!(
            "{} has no column \"image\", nor another of struct<bytes: binary, path: string> (it has: {})",
            path.display(),
            names(schema)
        ),
        _ => {
            bail!("{} has several columns of images: {}; --image-column says which", path.display(), images.join(", "))
        }
    }
}

fn label_column(path: &Path, schema: &Schema, features: &Value, asked: Option<&str>) -> Result<String> {
    let integer = |name: &str| schema.field_with_name(name).is_ok_and(|f| f.data_type().is_integer());
    let class_labels: Vec<&str> = schema
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .filter(|name| integer(name) && class_names_of(features, name).is_some())
        .collect();
    if let Some(asked) = asked.or(class_labels.contains(&LABEL).then_some(LABEL)) {
        let found = column(path, schema, asked)?;
        if !class_labels.contains(&asked) {
            bail!("{}: column {asked:?}, {found}, {}", path.display(), NO_CLASS_LABEL);
        }
        return Ok(asked.to_owned());
    }
    let plain = [LABEL].into_iter().chain(LABELS).find_map(|name| schema.field_with_name(name).ok());
    match (&class_labels[..], plain) {
        ([one], Some(plain)) if plain.name() != one => bail!(
            "{}: the labels could be {one:?}, the only ClassLabel, or column {:?}, {}, which names no classes: \
             --label-column says which; the datasets library's class_encode_column makes a ClassLabel of the other",
            path.display(),
            plain.name(),
            plain.data_type()
        ),
        ([one], _) => Ok((*one).to_owned()),
        ([], None) => {
            bail!(
                "{} has no column \"label\", nor another that is a ClassLabel (it has: {})",
                path.display(),
                names(schema)
            )
        }
        ([], Some(_)) if features.is_null() => bail!(
            "{} has no `huggingface` key in its footer, which names the classes (it has the columns {}): \
             write it with the datasets library's to_parquet",
            path.display(),
            names(schema)
        ),
        ([], Some(plain)) => {
            bail!("{}: column {:?}, {}, {}", path.display(), plain.name(), plain.data_type(), NO_CLASS_LABEL)
        }
        _ => bail!(
            "{} has several ClassLabel columns: {}; --label-column says which",
            path.display(),
            class_labels.join(", ")
        ),
    }
}

/// What is wrong with labels without names, and what to do.
const NO_CLASS_LABEL: &str = "is not a ClassLabel of integers, which names the classes: the datasets library's \
                              class_encode_column makes one of it";

fn column<'a>(path: &Path, schema: &'a Schema, name: &str) -> Result<&'a DataType> {
    let field = schema.field_with_name(name);
    let field = field.map_err(|_| anyhow!("{} has no column {name:?} (it has: {})", path.display(), names(schema)))?;
    Ok(field.data_type())
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// The names of a ClassLabel column, by the features in a shard's footer.
fn class_names_of<'a>(features: &'a Value, column: &str) -> Option<&'a Vec<Value>> {
    let feature = features.get("info")?.get("features")?.get(column)?;
    feature.get("names")?.as_array()
}

/// Labels that are no class's.
#[derive(Default)]
struct WrongLabels {
    count: usize,
    /// The first one's place and value.
    first: Option<(String, String)>,
}

impl WrongLabels {
    fn refuse(self, column: &str, classes: usize) -> Result<()> {
        let Some((place, value)) = self.first else { return Ok(()) };
        bail!(
            "{place}: {column} should be 0 to {}, but is {value}; {} of the data set's rows have such labels. {}",
            classes.saturating_sub(1),
            self.count,
            if value == "-1" {
                "−1 hides the labels of a test set: take another split for it, such as validation, called test here"
            } else {
                "Remove these rows, or give them their labels"
            }
        );
    }
}

/// Counts the rows of each class (C) in a shard, of which the labels alone are read. Returns its
/// rows.
fn count_labels(path: &Path, name: &str, column: &str, counts: &mut [usize], wrong: &mut WrongLabels) -> Result<usize> {
    let builder = file::builder(path)?;
    let projection = ProjectionMask::columns(builder.parquet_schema(), [column]);
    let mut rows = 0;
    for batch in builder.with_projection(projection).build()? {
        let batch = batch.with_context(|| format!("{} is damaged near row {rows}", path.display()))?;
        for label in integers(&batch[column])? {
            match label.and_then(|label| counts.get_mut(usize::try_from(label).ok()?)) {
                Some(count) => *count += 1,
                None => {
                    let value = label.map_or("null".into(), |label| label.to_string());
                    wrong.count += 1;
                    wrong.first.get_or_insert_with(|| (format!("{name}#{rows}"), value));
                }
            }
            rows += 1;
        }
    }
    Ok(rows)
}

/// The values of an integer column, whatever its width.
fn integers(column: &ArrayRef) -> Result<Vec<Option<i128>>> {
    if column.data_type() == &DataType::UInt64 {
        return Ok(column.as_primitive::<UInt64Type>().iter().map(|value| value.map(i128::from)).collect());
    }
    let column = cast(column, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().iter().map(|value| value.map(i128::from)).collect())
}

impl Images for Shards {
    fn read(&self, split: &str, range: Range<usize>) -> Result<Records<'_>> {
        Ok(Box::new(self.parts(split, range).into_iter().flat_map(|(relative, rows)| {
            // an error of the whole file is one item, so that the caller stops there
            self.read_file(relative, rows).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        })))
    }

    fn paths(&self, split: &str, range: Range<usize>) -> Vec<PathBuf> {
        self.parts(split, range).into_iter().map(|(file, _)| self.root.join(file)).collect()
    }

    fn ids(&self, split: &str, range: Range<usize>) -> Vec<String> {
        let ids = |(file, rows): (&Path, Range<usize>)| {
            let file = id_of(file);
            rows.map(move |row| sample_id(&file, row))
        };
        self.parts(split, range).into_iter().flat_map(ids).collect()
    }
}

impl Shards {
    /// The shards that the rows `range` of a split lie in, and their rows there.
    fn parts(&self, split: &str, range: Range<usize>) -> Vec<(&Path, Range<usize>)> {
        let mut parts = Vec::new();
        let mut start = 0;
        for (relative, rows) in &self.files[split] {
            let overlap = range.start.max(start)..range.end.min(start + rows);
            if !overlap.is_empty() {
                parts.push((relative.as_path(), overlap.start - start..overlap.end - start));
            }
            start += rows;
        }
        parts
    }

    fn read_file(&self, relative: &Path, rows: Range<usize>) -> Result<Records<'static>> {
        let path = self.root.join(relative);
        let builder = file::builder(&path)?;
        let Columns { image, label } = self.columns.clone();
        let projection = ProjectionMask::columns(builder.parquet_schema(), [image.as_str(), label.as_str()]);
        let batches = builder
            .with_projection(projection)
            .with_offset(rows.start)
            .with_limit(rows.len())
            .with_batch_size(BATCH_ROWS)
            .build()
            .with_context(|| format!("cannot read {}", path.display()))?;
        let (classes, name, columns) = (self.classes, id_of(relative), self.columns.clone());
        let mut row = rows.start;
        Ok(Box::new(batches.flat_map(move |batch| {
            let records = batch
                .map_err(|e| anyhow!(e).context(format!("{} is damaged near row {row}", path.display())))
                .and_then(|batch| records(&batch, &columns, &name, row, classes));
            match records {
                Ok(records) => {
                    row += records.len();
                    records.into_iter().map(Ok).collect()
                }
                Err(error) => vec![Err(error)],
            }
        })))
    }
}

fn sample_id(file: &str, row: usize) -> String {
    format!("{file}#{row}")
}

fn records(batch: &RecordBatch, columns: &Columns, file: &str, first: usize, classes: usize) -> Result<Vec<Record>> {
    let images = batch[columns.image.as_str()].as_struct();
    let bytes = cast(&images["bytes"], &DataType::Binary)?;
    let bytes: &BinaryArray = bytes.as_binary();
    let labels = integers(&batch[columns.label.as_str()])?;
    let row = |(i, label): (usize, Option<i128>)| {
        let sample_id = sample_id(file, first + i);
        // labels were looked at when the source was opened
        let label = label.and_then(|label| i64::try_from(label).ok()).filter(|l| (0..classes as i64).contains(l));
        let label = label.with_context(|| format!("{sample_id}: the label has changed since the shard was opened"))?;
        let image = if images.is_valid(i) && bytes.is_valid(i) {
            Ok(bytes.value(i).to_vec())
        } else {
            Err("the row holds no image bytes".to_owned())
        };
        Ok(Record { sample_id, label, image })
    };
    labels.into_iter().enumerate().map(row).collect()
}
