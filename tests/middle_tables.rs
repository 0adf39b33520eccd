//! What tables say of what was learned, against the files that hold it.

use std::{fs, path::Path};

use candle_core::Device;
use serde_json::Value;
use tempfile::tempdir;

use crate::{
    middle::{CLASSES, STREAM, TRAIN, baseline, imported, joint, learn_all, tune},
    support::{Rows, about, golden, path, query, run, values},
};

/// Bytes of the tensors in a safetensors file, without its header.
fn payload(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    bytes.len() - 8 - u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

#[test]
fn stored_bytes_are_those_of_the_files() {
    let dir = tempdir().unwrap();
    let run_dir = imported(&Rows::clouds(CLASSES, TRAIN, 6), dir.path());
    learn_all(&run_dir, "3");
    run(&joint(&run_dir, &golden("checkpoint"), "2"));
    let tensors = |kind: &str, name: &str, file: &str, step: usize| {
        payload(&run_dir.join(kind).join(STREAM).join(name).join(format!("task-{step:02}/{file}.safetensors")))
    };
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(run_dir.join(dir).join(STREAM)).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let found = |begin: &str, parts: &[&str], without: &[&str]| {
        let names: Vec<String> = names(begin)
            .into_iter()
            .filter(|name| {
                parts.iter().all(|part| name.contains(part)) && !without.iter().any(|part| name.contains(part))
            })
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
        names[0].clone()
    };
    let stored = |condition: &str, learned: usize| {
        let classes = 2 * learned;
        let sql = format!(
            "SELECT value FROM metrics WHERE metric = 'stored_bytes' AND after_task = {learned} AND {condition}"
        );
        let per_class = query(&run_dir, &sql);
        assert_eq!(per_class.len(), 1, "{condition}: {per_class:?}");
        (per_class[0].parse::<f64>().unwrap() * classes as f64).round() as usize
    };
    let default = "cgil,epochs=2,samples=16";
    for learned in 1..=3 {
        let classes = 2 * learned;
        let labels_and_keys = 2 * classes * 2 * size_of::<f64>();
        // float32 values lie as float64 in the state of a classifier
        let state = |name: &str| tensors("statistics", name, "state", learned) - labels_and_keys;
        let ranpac = found("statistics", &["ranpac"], &[]);
        // of these the head alone is float32; of the other the means alone
        let linear = state(&found("statistics", &["linear", "shared"], &[]));
        let cache = state(&found("statistics", &["class-cache"], &[]));
        for (method, bytes) in [
            ("ncm", state("class-means") / 2),
            ("hybrid", state("class-means") / 2),
            ("lda", state("class-statistics")),
            ("linear", state("linear") / 2),
            ("linear,covariance=shared", linear - 4 * (48 + 1) * classes),
            ("tip-adapter", cache / 2 + 4 * 56),
            ("rail,features=60", state(&ranpac)),
            ("ranpac,features=60", state(&ranpac)),
            ("zero-shot", 0),
        ] {
            assert_eq!(stored(&format!("method = '{method}'"), learned), bytes, "{method} after {learned}");
        }
        let generators =
            |kind: &str| (1..=learned).map(|step| tensors("latents", kind, "generators", step)).sum::<usize>();
        let prompts = |name: &str| tensors("prompts", name, "prompts", learned);
        let own = found("prompts", &["cgil"], &["current", "generator", "noise"]);
        let papers = found("prompts", &["cgil", "noise"], &["current", "generator"]);
        let alone = generators("vae") + prompts(&papers);
        assert_eq!(stored("method = 'cgil,epochs=2,replay-noise=off,samples=16,statistics=off'", learned), alone);
        // noise is of the statistics that a discriminant is of, which are kept once
        let with_noise = generators("vae") + prompts(&own) + state("class-statistics");
        assert_eq!(stored(&format!("method = '{default},statistics=off'"), learned), with_noise);
        let evidence = state(&found("statistics", &["evidence"], &[]));
        assert_eq!(stored("method = 'evidence'", learned), evidence);
        assert_eq!(stored(&format!("method = '{default}'"), learned), with_noise + evidence);
        let both = generators("vae") + prompts(&found("prompts", &["cgil", "current", "both"], &[]));
        assert_eq!(stored("method LIKE '%current=both%statistics=lda'", learned), both + state("class-statistics"));
        let gaussian = generators("gaussian") + prompts(&found("prompts", &["cgil", "gaussian"], &[]));
        assert_eq!(stored("method LIKE 'cgil%generator=gaussian%'", learned), gaussian);
        let shared = generators("shared") + prompts(&found("prompts", &["cgil", "shared"], &[]));
        assert_eq!(generators("shared"), classes * 48 * size_of::<f32>());
        let shared = shared + state("class-statistics") + evidence;
        assert_eq!(stored("method LIKE 'cgil%generator=shared%'", learned), shared);
        assert_eq!(stored("method LIKE 'finetune%'", learned), prompts(&found("prompts", &["finetune"], &[])));
        let rows = classes * TRAIN * 48 * size_of::<f32>();
        assert_eq!(stored("method LIKE 'joint%'", learned), rows + prompts(&found("prompts", &["joint"], &[])));
    }
}

/// What `cgil query` answers as JSON, a map per row.
fn rows_of(run_dir: &Path, sql: &str) -> Vec<Value> {
    serde_json::from_str(&run(&["query", "--run", path(run_dir), "--format", "json", sql])).unwrap()
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn prompts_and_statistics_are_weighed_as_their_tables_say() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = imported(&Rows::clouds(CLASSES, TRAIN, 6), dir.path());
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--generator", "gaussian"]);
    run(&tune(&run_dir, &model, &["--generator", "gaussian", "--statistics", "off"]));
    let prompts = query(&run_dir, "SELECT DISTINCT prompts FROM prompt_losses").join("");
    let ensemble = ["--model", path(&model), "--method", prompts.trim_matches('"'), "--weight", "0.3"];
    run(&baseline(&run_dir, "3", "ensemble", &ensemble));
    let weights = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let logit_scale = f64::from(values(&weights["logit_scale"])[0]).exp();
    assert!(logit_scale > 2.0, "{logit_scale}");
    let log_softmax = |scores: Vec<f64>| -> Vec<f64> {
        let sum: f64 = scores.iter().map(|x| x.exp()).sum();
        scores.iter().map(|x| x - sum.ln()).collect()
    };
    for learned in [1, 3] {
        let texts = rows_of(
            &run_dir,
            &format!(
                "SELECT label, embedding FROM text_features WHERE after_task = {learned} AND origin = 'prompt' \
                 AND method LIKE 'ensemble%' ORDER BY label"
            ),
        );
        let heads = rows_of(
            &run_dir,
            &format!(
                "SELECT label, \"offset\", embedding FROM statistics_head WHERE after_task = {learned} ORDER BY label"
            ),
        );
        assert_eq!((texts.len(), heads.len()), (2 * learned, 2 * learned));
        let images = rows_of(
            &run_dir,
            &format!(
                "SELECT p.predicted, p.score, p.predicted_in_task, p.on_task, e.embedding FROM predictions p \
                 JOIN embeddings e ON p.sample_id = e.sample_id \
                 WHERE p.after_task = {learned} AND p.candidates = 'seen' AND method LIKE 'ensemble%'"
            ),
        );
        assert_eq!(images.len(), 12 * learned);
        for image in images {
            let x = vector(&image["embedding"]);
            let length = dot(&x, &x).sqrt();
            let prompts = texts.iter().map(|t| logit_scale * dot(&x, &vector(&t["embedding"])) / length).collect();
            let of_head = |h: &Value| dot(&x, &vector(&h["embedding"])) + h["offset"].as_f64().unwrap();
            let statistics = heads.iter().map(of_head).collect();
            let both: Vec<f64> = log_softmax(prompts)
                .iter()
                .zip(log_softmax(statistics))
                .map(|(prompts, statistics)| 0.7 * prompts + 0.3 * statistics)
                .collect();
            let best = |range: std::ops::Range<usize>| range.max_by(|&a, &b| both[a].total_cmp(&both[b])).unwrap();
            let class = best(0..2 * learned);
            let task = image["on_task"].as_u64().unwrap() as usize;
            assert_eq!(image["predicted"].as_u64().unwrap() as usize, class);
            assert_eq!(image["predicted_in_task"].as_u64().unwrap() as usize, best(2 * task - 2..2 * task));
            let score = image["score"].as_f64().unwrap();
            assert!((score - both[class]).abs() < 2e-3 * both[class].abs().max(1.0), "{score} {}", both[class]);
        }
    }
}

/// Prompts are half of what text counts beside the evidence; whether a class is seen is not theirs.
#[test]
fn prompts_beside_evidence_move_the_scores_of_seen_classes_by_half_of_what_they_learned() {
    // rows that have nothing of their texts, and rows that lean towards them
    let mut rows = Rows::clouds(CLASSES, TRAIN, 6);
    let (texts, counted) = prompts_beside_evidence(&rows);
    assert_eq!(counted, [0.0; 3]);
    let centre: Vec<f64> = (0..48).map(|j| texts.iter().map(|text| text[j]).sum::<f64>() / CLASSES as f64).collect();
    for (row, &label) in rows.embedding.iter_mut().zip(&rows.label) {
        let away = texts[label as usize].iter().zip(&centre).map(|(text, centre)| text - centre);
        row.iter_mut().zip(away).for_each(|(x, away)| *x += 50.0 * away as f32);
    }
    assert_eq!(prompts_beside_evidence(&rows).1, [1.0; 3]);
}

/// The zero-shot text features (C, D) of rows of a table, and what text counts after each task.
fn prompts_beside_evidence(rows: &Rows) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = imported(rows, dir.path());
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--generator", "gaussian"]);
    run(&tune(&run_dir, &model, &["--generator", "gaussian"]));
    run(&["baseline", "evidence", "--run", path(&run_dir), "--model", path(&model), "--tasks", "3"]);
    let weights = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let logit_scale = f64::from(values(&weights["logit_scale"])[0]).exp();
    let (mut moved, mut counted, mut zero_shot) = (0, Vec::new(), Vec::new());
    for learned in 1..=3 {
        let step = run_dir.join("results").join(STREAM).join("evidence").join(format!("task-0{learned}"));
        let text_weight = about(&step.join("classifier.safetensors"))["text_weight"].as_f64().unwrap();
        counted.push(text_weight);
        let texts = |after: usize| {
            rows_of(&run_dir, &format!("SELECT embedding FROM text_features WHERE after_task = {after} ORDER BY label"))
        };
        let prompts = texts(learned);
        zero_shot = texts(0);
        let images = rows_of(
            &run_dir,
            &format!(
                "SELECT a.predicted, a.candidates, a.score - b.score AS more, a.predicted_unseen AS own, \
                 b.predicted_unseen AS others, COALESCE(a.margin - b.margin, 0) AS margin, e.embedding FROM predictions a \
                 JOIN predictions b ON a.sample_id = b.sample_id AND a.after_task = b.after_task \
                 JOIN embeddings e ON a.sample_id = e.sample_id WHERE a.after_task = {learned} \
                 AND a.method LIKE 'cgil%' AND b.method = 'evidence' AND a.predicted = b.predicted"
            ),
        );
        assert!(images.len() > 12, "{}", images.len());
        for image in images {
            assert_eq!((&image["own"], image["margin"].as_f64()), (&image["others"], Some(0.0)));
            if image["candidates"] != "seen" {
                continue;
            }
            let (x, class) = (vector(&image["embedding"]), image["predicted"].as_u64().unwrap() as usize);
            let cosine = |texts: &[Value]| dot(&x, &vector(&texts[class]["embedding"])) / dot(&x, &x).sqrt();
            let expected = 0.5 * logit_scale * (cosine(&prompts) - text_weight * cosine(&zero_shot));
            let more = image["more"].as_f64().unwrap();
            assert!((more - expected).abs() < 1e-3, "{more}, not {expected}");
            moved += usize::from(expected.abs() > 0.01);
        }
    }
    assert!(moved > 10, "{moved}");
    (zero_shot.iter().map(|text| vector(&text["embedding"])).collect(), counted)
}
