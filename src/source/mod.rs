//! Where images come from: a folder of files, or Hugging Face Parquet shards.

mod class_names;
mod data_set;
mod folder;
pub mod foreign;
mod hugging_face;
mod id;
mod listing;
mod names;

use std::path::Path;

use anyhow::{Result, bail};

pub use class_names::{notes as notes_on_names, require_names};
pub use data_set::{Record, Source, SourceOptions};
pub use id::SourceId;
use listing::Listing;
use names::has_extension;

/// What gives the classes of images other names.
const CLASS_NAMES: &str = "--class-names FILE gives others";

impl Source {
    /// Opens `path`: an image folder, or Parquet shards where there are no images.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        if !path.is_dir() {
            bail!(
                "{} is not a directory; --data takes an image folder or a directory of Parquet shards",
                path.display()
            );
        }
        let listing = Listing::of(path, options.leave_out.as_deref())?;
        let pictures = folder::pictures(path, &listing)?;
        let shard = listing.files.iter().find(|file| hugging_face::is_shard(file));
        let mut source = match (pictures.first(), shard) {
            (Some(picture), Some(shard)) => bail!(
                "{} holds an image folder ({}) and Parquet shards ({}): give the directory of the one, or move the \
                 other away",
                path.display(),
                picture.display(),
                shard.display()
            ),
            (None, _) if listing.files.iter().any(|file| has_extension(file, "parquet")) => {
                hugging_face::open(path, &listing, options)?
            }
            _ if options.image_column.is_some() || options.label_column.is_some() => {
                bail!("{} holds no Parquet shards: --image-column and --label-column are for these", path.display())
            }
            _ => folder::open(path, &listing, pictures, options)?,
        };
        source.notes.extend(listing.notes());
        class_names::require_names(path, &source.classes, CLASS_NAMES)?;
        let advice = options.class_names.is_none().then_some(CLASS_NAMES);
        source.notes.extend(class_names::notes(&source.classes, &source.counts, advice));
        Ok(source)
    }
}
