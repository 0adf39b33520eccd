//! Where images come from: a folder, a table or archives, found by looking at what is there.

mod braces;
mod card;
mod class_names;
mod columns;
mod damage;
mod data_set;
mod find;
mod folder;
pub mod foreign;
mod hugging_face;
mod id;
mod kept;
mod labels;
mod listing;
pub mod loose;
mod manifest;
mod names;
mod options;
mod read;
mod records;
mod shards;
mod split;
mod table_file;
mod web_dataset;

use std::path::Path;

use anyhow::{Result, bail};

pub use class_names::{folded, notes as notes_on_names, require_names};
pub use damage::is_of_data;
pub use data_set::{Record, Source};
pub use id::SourceId;
pub use kept::{Keep, KeptColumn};
pub use options::{Format, Listings, SourceOptions};
pub use split::is_split;

use crate::storage;

/// What gives the classes of images other names.
const CLASS_NAMES: &str = "--class-names FILE gives others";

impl Source {
    /// Opens what lies at `path`: a directory, a file, or tar files named with braces.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        let find::Data { format, listing, pictures } = find::find(path, options)?;
        let is_table = !matches!(format, Format::Folder | Format::Classes);
        if !is_table && (options.image_column.is_some() || options.label_column.is_some()) {
            bail!(
                "{} holds no table: --image-column and --label-column are for Parquet, manifests and tars",
                path.display()
            );
        }
        let found = match format {
            Format::Folder => folder::open(path, &listing, folder::Layout::Splits, pictures, options)?,
            Format::Classes => folder::open(path, &listing, folder::Layout::Classes, pictures, options)?,
            Format::Metadata => manifest::open_metadata(path, &listing, options)?,
            Format::Manifest => manifest::open(path, options)?,
            Format::Parquet => hugging_face::open_parquet(path, &listing, options)?,
            Format::Arrow => hugging_face::open_arrow(path, &listing, options)?,
            Format::WebDataset => web_dataset::open(path, &listing, options)?,
        };
        storage::reached()?; // else something may have been taken for missing
        let mut source = Source::new(path, found, options)?;
        source.notes.extend(listing.notes());
        class_names::require_names(path, &source.classes, CLASS_NAMES)?;
        let advice = options.class_names.is_none().then_some(CLASS_NAMES);
        source.notes.extend(class_names::notes(&source.classes, &source.counts, advice));
        Ok(source)
    }
}
