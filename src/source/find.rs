//! Which format the files of a source have: found by looking, unless it is said.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{
    folder,
    listing::Listing,
    manifest,
    names::has_extension,
    options::{Format, SourceOptions},
    shards, web_dataset,
};
use crate::{choice::Choice, storage};

/// A source's format, and what lies below its directory.
pub struct Data {
    pub format: Format,
    /// Nothing where the source is a file, or names files by braces.
    pub listing: Listing,
    /// The pictures of a folder, as paths below it.
    pub pictures: Vec<PathBuf>,
}

/// What lies at `path`.
pub fn find(path: &Path, options: &SourceOptions) -> Result<Data> {
    if !storage::is_dir(path) {
        let format = options.format.map_or_else(|| of_file(path), Ok)?;
        return Ok(Data { format, listing: Listing::default(), pictures: Vec::new() });
    }
    let listing = Listing::of(path, options.leave_out.as_deref())?;
    if let Some(format) = options.format {
        let pictures = match format {
            Format::Folder => folder::pictures(path, &listing, folder::Layout::Splits)?,
            Format::Classes => folder::pictures(path, &listing, folder::Layout::Classes)?,
            _ => Vec::new(),
        };
        return Ok(Data { format, listing, pictures });
    }
    let pictures = folder::pictures(path, &listing, folder::Layout::Splits)?;
    let first = |is: fn(&Path) -> bool| listing.files.iter().find(|file| is(file));
    let metadata = first(manifest::is_metadata);
    let tables = [
        (Format::Parquet, first(shards::is_shard)),
        (Format::Arrow, first(|file| has_extension(file, "arrow"))),
        (Format::WebDataset, first(web_dataset::is_tar)),
    ];
    let tables: Vec<(Format, &PathBuf)> =
        tables.into_iter().filter_map(|(format, file)| Some((format, file?))).collect();
    let format = match (pictures.first(), metadata, &tables[..]) {
        (_, Some(metadata), [(_, table), ..]) => bail!(
            "{} holds the metadata of an image folder ({}) and files of another format ({}): move the one away, or say \
             --format",
            path.display(),
            metadata.display(),
            table.display()
        ),
        (_, Some(_), []) => Format::Metadata,
        (Some(picture), None, [(_, table), ..]) => bail!(
            "{} holds an image folder ({}) and {} ({}): give the directory of the one, move the other away, or say \
             --format",
            path.display(),
            picture.display(),
            if has_extension(table, "parquet") { "Parquet shards" } else { "files of another format" },
            table.display()
        ),
        (None, None, [(_, one), (_, other), ..]) => bail!(
            "{} holds {} and {}, of two formats: give the directory of the one, or say --format",
            path.display(),
            one.display(),
            other.display()
        ),
        (None, None, [(format, _)]) => *format,
        (Some(_), None, []) => Format::Folder,
        (None, None, []) if first(|file| has_extension(file, "parquet")).is_some() => Format::Parquet,
        (None, None, []) => {
            let pictures = folder::pictures(path, &listing, folder::Layout::Classes)?;
            if pictures.is_empty() {
                bail!("{} holds no images that are found by their place; {}", path.display(), expected());
            }
            return Ok(Data { format: Format::Classes, listing, pictures });
        }
    };
    Ok(Data { format, listing, pictures })
}

fn of_file(path: &Path) -> Result<Format> {
    if web_dataset::is_tar(path) {
        return Ok(Format::WebDataset);
    }
    if !storage::exists(path) {
        bail!("{} is not there: --data takes an image folder, or files of another format", path.display());
    }
    match () {
        _ if has_extension(path, "arrow") => Ok(Format::Arrow),
        _ if has_extension(path, "parquet") && shards::has_images(path)? => Ok(Format::Parquet),
        _ if manifest::is_manifest(path) => Ok(Format::Manifest),
        _ => bail!("{} is no data that is known by its name; {}", path.display(), expected()),
    }
}

fn expected() -> String {
    let all: Vec<String> = Format::ALL.iter().map(|(_, name, what)| format!("{what} ({name})")).collect();
    format!("expected {}", all.join("; "))
}
