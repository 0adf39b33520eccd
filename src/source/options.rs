//! How a source is to be read.

use std::path::PathBuf;

use super::kept::Keep;
use crate::{choice::choices, partition::Partition};

choices! {
    /// What the files of a source are.
    pub enum Format {
        Folder = "folder": "SPLIT/CLASS/…/picture",
        Classes = "classes": "CLASS/…/picture, without splits",
        Metadata = "metadata": "pictures, and a metadata.csv, .jsonl or .parquet with their file_name",
        Manifest = "manifest": "a CSV, JSONL or Parquet file of paths and labels",
        Parquet = "parquet": "Hugging Face Parquet with a column of images",
        Arrow = "arrow": "Arrow files of the datasets library's save_to_disk",
        WebDataset = "webdataset": "tar files of pictures with .cls, .txt or .json beside them",
    }
}

/// How a source is to be read.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// What the files are, where it is not what they look like.
    pub format: Option<Format>,
    /// The share of rows that are held out for the test split, where the source has none: above 0
    /// and below 1.
    pub holdout: Option<f64>,
    /// A directory that is no part of the source, wherever it lies: the run's.
    pub leave_out: Option<PathBuf>,
    /// A file that says what classes are called: CSV or JSON.
    pub class_names: Option<PathBuf>,
    /// The column of the images in a table, where it is not the only one that fits.
    pub image_column: Option<String>,
    /// The column, or the key, of the labels, where it is not the only one that fits.
    pub label_column: Option<String>,
    /// Which of the user's own columns are kept.
    pub keep: Keep,
    /// Whether damaged files are taken up to the damage, or left out, where they are refused else.
    pub skip_damaged: bool,
    /// Where it is kept what archives hold; none where they are looked through each time.
    pub listings: Option<Listings>,
}

/// Where listings of archives are kept, so that each archive is looked through once.
#[derive(Clone, Debug)]
pub struct Listings {
    /// A directory for those of this source alone, which need not be there.
    pub dir: PathBuf,
    /// Whose archives come first, of processes that share them.
    pub partition: Partition,
}
