//! A classifier as a table of its classes, with the rest in the footer.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray};

use super::head::{Head, KEY};
use crate::table::{contract, file};

pub(super) fn write(head: &Head, path: &Path) -> Result<()> {
    let (classes, dim, about) = (&head.about.classes, head.dim, head.json()?);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(classes.iter().map(|class| class.label))),
        Arc::new(StringArray::from_iter_values(classes.iter().map(|class| &class.name))),
        Arc::new(BooleanArray::from_iter((0..classes.len()).map(|class| Some(class < head.about.seen)))),
        file::vectors(head.values("text").to_vec(), dim),
        file::vectors_or_null(head.values("prompts").to_vec(), dim, classes.len()),
        file::vectors(head.values("means").to_vec(), dim),
    ];
    let whitener: Vec<&[f32]> = head.values("whitener").chunks_exact(dim).collect();
    let footer = vec![
        (KEY.into(), about.to_string()),
        (format!("{KEY}.whitener"), serde_json::to_string(&whitener)?),
        (format!("{KEY}.centre"), serde_json::to_string(head.values("centre"))?),
    ];
    let table = contract::exported_classes();
    file::write(path, table, &file::rows(table, dim, columns)?, &footer)
}
