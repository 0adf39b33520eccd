//! What a table promises its readers, read from the files in `schemas/`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::Deserialize;

use crate::storage;

/// A table's contract: its name, version and columns.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Name in queries and in the footer.
    pub name: String,
    /// Raised by every change that an older reader would not understand.
    pub version: u32,
    /// Where the files lie, below the run's directory.
    pub path: String,
    /// What one row is.
    pub about: String,
    /// Commands that write it.
    pub written_by: String,
    /// Commands that read it.
    pub read_by: String,
    /// The columns, in the order in which they are written.
    pub columns: Vec<Column>,
}

/// A column of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Name in the file.
    pub name: String,
    #[serde(rename = "type")]
    kind: Kind,
    /// Unit of the values, where they have one.
    #[serde(default)]
    pub unit: String,
    /// What a value is.
    pub meaning: String,
}

/// A column's type, as the schema files write it. The dimension D is known per run only.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum Kind {
    #[serde(rename = "utf8")]
    Utf8,
    #[serde(rename = "utf8?")]
    NullableUtf8,
    #[serde(rename = "int64")]
    Int64,
    #[serde(rename = "int64?")]
    NullableInt64,
    #[serde(rename = "float32")]
    Float32,
    #[serde(rename = "float32?")]
    NullableFloat32,
    #[serde(rename = "float64")]
    Float64,
    #[serde(rename = "float64?")]
    NullableFloat64,
    #[serde(rename = "bool")]
    Bool,
    #[serde(rename = "float32[D]")]
    Vector,
    #[serde(rename = "float32[D]?")]
    NullableVector,
}

/// A file that does not keep its table's contract.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "{file}: column {column:?} of table {table} should be {expected}, but is {found}; \
     this file was not written by this version of cgil, or was changed since"
)]
pub struct ContractError {
    /// The file.
    pub file: PathBuf,
    /// Name of the table.
    pub table: String,
    /// Name of the column.
    pub column: String,
    /// Its type by the contract.
    pub expected: String,
    /// Its type in the file, or that it is missing.
    pub found: String,
}

macro_rules! contracts {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("The contract in `schemas/", stringify!($name), ".toml`.")]
            pub fn $name() -> &'static Contract {
                static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
                    let text = include_str!(concat!("../../schemas/", stringify!($name), ".toml"));
                    toml::from_str(text).expect(concat!("schemas/", stringify!($name), ".toml is part of the program"))
                });
                &CONTRACT
            }
        )*
        /// Every contract, in the order of the stages.
        pub fn all() -> Vec<&'static Contract> {
            vec![$($name()),*]
        }
    };
}

contracts!(embeddings quarantine classes latents generator_losses quality embedding_stream text_features statistics_head prompt_losses predictions metrics exported_classes);

/// The contracts of tables that lie on disk.
pub fn on_disk() -> impl Iterator<Item = &'static Contract> {
    all().into_iter().filter(|contract| contract.path.ends_with(".parquet"))
}

impl Contract {
    /// The Arrow schema, with vectors of `dim` values. Every field may be null by its type, since
    /// the datasets library takes a ClassLabel from no other; only columns that say so hold nulls.
    pub fn schema(&self, dim: usize) -> SchemaRef {
        let fields = self.columns.iter().map(|c| Field::new(&c.name, c.kind.arrow(dim), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Whether a file's `schema` holds the columns of this contract, with vectors of `dim` values.
    pub fn check(&self, file: &Path, schema: &Schema, dim: usize) -> Result<(), ContractError> {
        let expected_schema = self.schema(dim);
        for expected in expected_schema.fields() {
            let found = schema.field_with_name(expected.name()).ok();
            if found.is_none_or(|f| f.data_type() != expected.data_type()) {
                return Err(ContractError {
                    file: file.to_owned(),
                    table: self.name.clone(),
                    column: expected.name().clone(),
                    expected: describe(expected.data_type()),
                    found: found.map_or("missing".into(), |f| describe(f.data_type())),
                });
            }
        }
        Ok(())
    }

    /// The files of this table that a run has, sorted.
    pub fn files(&self, run: &Path) -> Vec<PathBuf> {
        let mut found = vec![run.to_owned()];
        for part in self.path.split('/') {
            let entries = |dir: &PathBuf| {
                let names = storage::names(dir).into_iter();
                names.filter(|name| part_fits(part, name)).map(|name| dir.join(name)).collect::<Vec<_>>()
            };
            found = found.iter().flat_map(entries).collect();
        }
        found.sort();
        found
    }

    /// The contract as Markdown, for `schemas/README.md`.
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "## {} (version {})\n\n{}\n\nFiles: `{}`. Written by {}; read by {}.\n\n\
             | column | type | unit | meaning |\n|---|---|---|---|\n",
            self.name, self.version, self.about, self.path, self.written_by, self.read_by
        );
        for c in &self.columns {
            text += &format!("| `{}` | {} | {} | {} |\n", c.name, c.kind.describe(), c.unit, c.meaning);
        }
        text
    }
}

/// All contracts as one Markdown page: the text of `schemas/README.md`.
pub fn to_markdown() -> String {
    let pages: Vec<String> = all().into_iter().map(Contract::to_markdown).collect();
    format!(
        "# Tables\n\nThe contract between the stages, rendered from the files beside this page \
         (`make schemas` renders it again).\n\n{}\n{}",
        pages.join("\n"),
        super::views::to_markdown()
    )
}

/// A vector column's type: `dim` float32 values, none of them null.
pub(crate) fn vector_type(dim: usize) -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), dim as i32)
}

impl Kind {
    fn arrow(self, dim: usize) -> DataType {
        match self {
            Kind::Utf8 | Kind::NullableUtf8 => DataType::Utf8,
            Kind::Int64 | Kind::NullableInt64 => DataType::Int64,
            Kind::Float32 | Kind::NullableFloat32 => DataType::Float32,
            Kind::Float64 | Kind::NullableFloat64 => DataType::Float64,
            Kind::Bool => DataType::Boolean,
            Kind::Vector | Kind::NullableVector => vector_type(dim),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Kind::Utf8 => "utf8",
            Kind::NullableUtf8 => "utf8, nullable",
            Kind::Int64 => "int64",
            Kind::NullableInt64 => "int64, nullable",
            Kind::Float32 => "float32",
            Kind::NullableFloat32 => "float32, nullable",
            Kind::Float64 => "float64",
            Kind::NullableFloat64 => "float64, nullable",
            Kind::Bool => "bool",
            Kind::Vector => "fixed-size list of D float32",
            Kind::NullableVector => "fixed-size list of D float32, nullable",
        }
    }
}

/// Whether a file's or directory's name fits a part of a contract's path: `{…}` stands for any
/// name, `NN` for a number.
fn part_fits(part: &str, name: &str) -> bool {
    if part.starts_with('{') {
        return !name.starts_with('.');
    }
    match part.split_once('N') {
        None => part == name,
        Some((start, rest)) => {
            let number = name.strip_prefix(start).and_then(|name| name.strip_suffix(rest.trim_start_matches('N')));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        }
    }
}

fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::FixedSizeList(item, n) => format!("a fixed-size list of {n} {}", describe(item.data_type())),
        other => other.to_string().to_lowercase(),
    }
}
