//! What a query reads of the tables' files, and how its answer is written.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::{Rows, path, run};

/// A run of 3 classes with 8 training and 4 test rows each, in shards of 5 rows.
fn sharded(dir: &Path) -> PathBuf {
    let (table, run_dir) = (dir.join("table.parquet"), dir.join("run"));
    Rows::clouds(3, 8, 4).write(&table);
    run(&["import", path(&table), "--run", path(&run_dir), "--shard-rows", "5"]);
    run_dir
}

fn rows(run_dir: &Path, sql: &str) -> Vec<Value> {
    let answer = run(&["query", "--run", path(run_dir), "--format", "json", sql]);
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn a_query_reads_every_shard_whichever_columns_and_however_many_rows_it_asks_for() {
    let dir = tempdir().unwrap();
    let run_dir = sharded(dir.path());
    assert_eq!(rows(&run_dir, "SELECT COUNT(*) AS n FROM embeddings"), [json!({"n": 36})]);
    assert_eq!(rows(&run_dir, "SELECT sample_id FROM embeddings LIMIT 7").len(), 7);
    assert_eq!(rows(&run_dir, "SELECT sample_id FROM embeddings").len(), 36);
    // a limit counts what passes the condition, in whichever shard
    let last = rows(&run_dir, "SELECT label FROM embeddings WHERE label = 2 AND split = 'train' LIMIT 6");
    assert_eq!(last, vec![json!({"label": 2}); 6]);
    let by_class = "SELECT label, COUNT(*) AS n FROM embeddings WHERE split = 'test' GROUP BY label ORDER BY label";
    let expected: Vec<Value> = (0..3).map(|label| json!({"label": label, "n": 4})).collect();
    assert_eq!(rows(&run_dir, by_class), expected);
}

#[test]
fn an_answer_in_json_has_every_kind_of_value() {
    let dir = tempdir().unwrap();
    let run_dir = sharded(dir.path());
    let answer = rows(
        &run_dir,
        "SELECT label, norm, embedding, class_name, label > 1 AS high, norm / 0 AS infinite,
         CASE WHEN label > 1 THEN label END AS nothing, CAST(label AS DOUBLE) / 4 AS quarter
         FROM embeddings WHERE label = 1 LIMIT 1",
    );
    let row = answer[0].as_object().unwrap();
    let vector = row["embedding"].as_array().unwrap();
    let length = vector.iter().map(|x| x.as_f64().unwrap().powi(2)).sum::<f64>().sqrt();
    assert_eq!(vector.len(), 48);
    assert!((length - row["norm"].as_f64().unwrap()).abs() < 1e-5 * length);
    assert_eq!((&row["label"], &row["high"], &row["quarter"]), (&json!(1), &json!(false), &json!(0.25)));
    assert_eq!((&row["infinite"], &row["nothing"]), (&Value::Null, &Value::Null));
    assert!(row["class_name"].is_string());
    assert_eq!(row.len(), 8);
    let text = run(&["query", "--run", path(&run_dir), "--format", "json", "SELECT norm FROM embeddings LIMIT 1"]);
    assert!(text.len() < 40, "as few digits as tell the float32 apart: {text}");
}
