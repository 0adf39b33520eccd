//! The layout of clip-retrieval: `img_emb/img_emb_0.npy` and `metadata/metadata_0.parquet`, then
//! those with 1, and so on.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

use super::{
    head::KEY,
    made_from::MadeFrom,
    npy,
    rows::{Batch, Counts, Sources},
};
use crate::{
    atomic,
    rows::{Split, Test, Train},
    table::file,
};

pub(super) fn write(sources: &Sources, path: &Path, made_from: &MadeFrom) -> Result<Counts> {
    let (counts, made_from) = (sources.counts()?, serde_json::to_string(made_from)?);
    let train = sources.files(counts.train);
    let digits = (train + sources.files(counts.test) - 1).to_string().len();
    atomic::write_dir(path, |dir| {
        ["img_emb", "metadata"].iter().try_for_each(|part| atomic::create_dir(&dir.join(part)))?;
        let write = |number: usize, split: &str, batch: &Batch| {
            let number = format!("{number:0digits$}");
            npy::write_array(&dir.join(format!("img_emb/img_emb_{number}.npy")), sources.dim, &batch.embeddings)?;
            let metadata = dir.join(format!("metadata/metadata_{number}.parquet"));
            let footer = vec![(KEY.into(), made_from.clone())];
            file::write_rows(&metadata, &metadata_of(sources, split, batch)?, &footer, None)
        };
        sources.each_file::<Train>(|number, batch| write(number, Train::NAME, batch))?;
        sources.each_file::<Test>(|number, batch| write(train + number, Test::NAME, batch))
    })?;
    Ok(counts)
}

fn metadata_of(sources: &Sources, split: &str, batch: &Batch) -> Result<RecordBatch> {
    let classes = || batch.classes.iter().map(|&class| &sources.classes[class]);
    let columns: [(&str, ArrayRef); 4] = [
        ("image_path", Arc::new(StringArray::from_iter_values(&batch.ids))),
        ("label", Arc::new(Int64Array::from_iter_values(classes().map(|class| class.label)))),
        ("class_name", Arc::new(StringArray::from_iter_values(classes().map(|class| &class.name)))),
        ("split", Arc::new(StringArray::from(vec![split; batch.ids.len()]))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
