//! The tables keep their contracts, and the contracts' page says what they are.

use std::{fs, path::Path};

use arrow::datatypes::{DataType, Field, Schema};
use cgil::table::contract;

#[test]
fn the_page_is_rendered_from_the_contracts() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/README.md");
    let rendered = contract::to_markdown();
    if std::env::var_os("RENDER_SCHEMAS").is_some() {
        fs::write(&page, &rendered).unwrap();
    }
    assert_eq!(fs::read_to_string(page).unwrap(), rendered, "run `make schemas`");
}

#[test]
fn every_contract_names_what_it_promises() {
    for contract in contract::all() {
        assert!(contract.version >= 1 && !contract.columns.is_empty(), "{}", contract.name);
        assert!(contract.columns.iter().all(|c| !c.meaning.is_empty()), "{}", contract.name);
        assert_eq!(contract.schema(7).fields().len(), contract.columns.len());
    }
}

#[test]
fn a_file_that_breaks_its_contract_is_named_with_the_column() {
    let embeddings = contract::embeddings();
    let file = Path::new("part-00000.parquet");
    assert_eq!(embeddings.check(file, &embeddings.schema(48), 48), Ok(()));

    let other = embeddings.check(file, &embeddings.schema(32), 48).unwrap_err();
    assert_eq!((other.column.as_str(), other.file.as_path()), ("embedding", file));
    assert!(other.expected.contains("48") && other.found.contains("32"), "{other}");

    let missing = Schema::new(["source", "sample_id"].map(|name| Field::new(name, DataType::Utf8, false)).to_vec());
    let error = embeddings.check(file, &missing, 48).unwrap_err();
    assert_eq!((error.column.as_str(), error.found.as_str()), ("label", "missing"));
}
