//! Artefacts whose inputs are others now: left out by what reads, refused by what makes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Device;
use serde_json::Value;
use tempfile::tempdir;

use crate::{
    middle::{STREAM, baseline, imported, tune},
    support::{Rows, command, copy, fails, files, golden, number, only, path, query, run, text},
};

/// A run with generators, prompts, scores and statistics.
fn learned(rows: &Rows, dir: &Path) -> PathBuf {
    let run_dir = imported(rows, dir);
    fit(&run_dir, "4");
    run(&tune(&run_dir, &golden("checkpoint"), &[]));
    run(&["baseline", "ncm", "--run", path(&run_dir), "--tasks", "3"]);
    run_dir
}

fn fit(run_dir: &Path, epochs: &str) {
    run(&["fit-vae", "--run", path(run_dir), "--tasks", "3", "--epochs", epochs, "--hidden", "16", "--latent", "4"]);
}

/// What `cgil query` says beside its answer.
fn notes(run_dir: &Path) -> String {
    let output = command(&["query", "--run", path(run_dir), "SELECT COUNT(*) FROM metrics"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

fn rows_in(run_dir: &Path, table: &str) -> f64 {
    number(run_dir, &format!("SELECT COUNT(*) FROM {table}"))
}

#[test]
fn prompts_of_generators_that_were_fitted_anew_are_left_out_and_refused() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = learned(&Rows::clouds(6, 12, 6), dir.path());
    assert_eq!(notes(&run_dir), "");
    let (metrics, latents) = (rows_in(&run_dir, "metrics"), rows_in(&run_dir, "latents"));
    let before = run_dir.join("latents").join(STREAM).join("vae");
    let kept = dir.path().join("kept");
    copy(&before, &kept);
    fs::remove_dir_all(&before).unwrap();
    // without generators what was made of them stays what it is
    assert_eq!(notes(&run_dir), "");
    assert_eq!(rows_in(&run_dir, "metrics"), metrics);

    fit(&run_dir, "5");
    assert_eq!(rows_in(&run_dir, "latents"), latents);
    assert_eq!(rows_in(&run_dir, "prompt_losses"), 0.0);
    // before the first task there are no prompts yet
    assert_eq!(query(&run_dir, "SELECT DISTINCT method FROM metrics WHERE after_task > 0"), ["ncm"]);
    let said = notes(&run_dir);
    let prompts = format!("prompts/{STREAM}");
    for part in ["left out", &prompts, "was made from other generators", &format!("latents/{STREAM}/vae/task-01")] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let untouched = files(&run_dir.join("prompts"));
    fails(&tune(&run_dir, &model, &[]), &["made otherwise", "from another latents/", "remove it"]);
    assert_eq!(files(&run_dir.join("prompts")), untouched);
    // the report is about what belongs
    run(&["report", "--run", path(&run_dir)]);
    let page = fs::read_to_string(run_dir.join("report.html")).unwrap();
    assert!(page.contains("<th scope=\"row\">ncm") && !page.contains("<th scope=\"row\">cgil"));

    // the first task's alone are others: what was made of it later does not belong either
    let other_first = dir.path().join("other-first");
    copy(&before.join("task-01"), &other_first);
    for (step, is_other) in [(&kept, false), (&other_first, true)] {
        let place = if is_other { before.join("task-01") } else { before.clone() };
        fs::remove_dir_all(&place).unwrap();
        copy(step, &place);
    }
    assert_eq!(rows_in(&run_dir, "latents"), latents);
    assert_eq!(rows_in(&run_dir, "prompt_losses"), 0.0);
    assert_eq!(query(&run_dir, "SELECT DISTINCT method FROM metrics WHERE after_task > 0"), ["ncm"]);
    fails(&tune(&run_dir, &model, &[]), &["made otherwise"]);

    // the last task's alone cannot be made otherwise
    fs::remove_dir_all(&before).unwrap();
    copy(&kept, &before);
    assert_eq!(rows_in(&run_dir, "metrics"), metrics);
    fs::remove_dir_all(before.join("task-03")).unwrap();
    let refit =
        ["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--epochs", "5", "--hidden", "16", "--latent", "4"];
    fails(&refit, &["made otherwise", "config.epochs is 4 there, 5 now"]);
}

#[test]
fn what_was_made_of_other_embeddings_is_left_out_and_refused() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = learned(&Rows::clouds(6, 12, 6), dir.path());
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut rows = Rows::clouds(6, 12, 6);
    rows.embedding[3][5] += 0.25; // one value of one row
    let foreign = imported(&rows, &other);
    fs::remove_dir_all(run_dir.join("sources")).unwrap();
    copy(&foreign.join("sources"), &run_dir.join("sources"));

    let said = notes(&run_dir);
    for part in ["left out", &format!("streams/{STREAM}/task-01 was made from other source than sources/base has now")]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    for table in ["metrics", "predictions", "text_features", "latents", "prompt_losses", "generator_losses"] {
        assert_eq!(rows_in(&run_dir, table), 0.0, "{table}");
    }
    assert_eq!(rows_in(&run_dir, "embeddings"), 108.0);
    fails(&["report", "--run", path(&run_dir)], &["results"]);
    let ncm = ["baseline", "ncm", "--run", path(&run_dir), "--tasks", "3"];
    let fit = ["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--generator", "gaussian"];
    let untouched = files(&run_dir);
    fails(&ncm, &["made otherwise", "from another sources/base than is there now", STREAM]);
    fails(&fit, &[STREAM]);
    fails(&tune(&run_dir, &model, &[]), &["are others now than the stream", STREAM]);
    let mut now = files(&run_dir);
    now.retain(|name, _| !name.ends_with(".lock"));
    assert!(now.keys().all(|name| untouched.contains_key(name)), "something was made");

    // a stream that is made anew: what the old one left is not taken for its own
    fs::remove_dir_all(run_dir.join("streams")).unwrap();
    for args in [
        &ncm[..],
        &["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--epochs", "4", "--hidden", "16", "--latent", "4"],
    ] {
        fails(args, &["made otherwise", "from another streams/"]);
    }
    fails(&tune(&run_dir, &model, &[]), &["made otherwise", "from another streams/"]);
    assert_eq!(rows_in(&run_dir, "metrics"), 0.0);
    assert_eq!(rows_in(&run_dir, "classes"), 6.0);
    assert!(notes(&run_dir).contains(&format!("was made from other stream than streams/{STREAM}/task-01 has now")));
    fs::remove_dir_all(run_dir.join("results")).unwrap();
    fs::remove_dir_all(run_dir.join("statistics")).unwrap();
    run(&ncm);
    assert_eq!(query(&run_dir, "SELECT DISTINCT method FROM metrics"), ["ncm"]);
}

#[test]
fn a_source_that_lost_or_changed_a_file_is_not_read_as_what_it_was() {
    let dir = tempdir().unwrap();
    let run_dir = learned(&Rows::clouds(6, 12, 6), dir.path());
    let shard = run_dir.join("sources/base/embeddings/test/part-00001.parquet");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let ncm = ["baseline", "ncm", "--run", path(&run_dir), "--tasks", "3"];
    fails(&ncm, &["part-00001.parquet", "is damaged"]);
    fs::remove_file(&shard).unwrap();
    fails(&ncm, &["part-00001.parquet", "is not there any more"]);
}

#[test]
fn damaged_models_are_refused_by_name() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = learned(&Rows::clouds(6, 12, 6), dir.path());
    let prompts = only(&run_dir, "prompts", STREAM, "cgil").join("task-02/prompts.safetensors");
    let generators = run_dir.join(format!("latents/{STREAM}/vae/task-03/generators.safetensors"));
    let state = run_dir.join(format!("statistics/{STREAM}/class-statistics/task-02/state.safetensors"));
    let predictions = only(&run_dir, "results", STREAM, "cgil").join("task-01/predictions.parquet");
    for place in [prompts, generators, state, predictions] {
        let work = dir.path().join("work");
        copy(&run_dir, &work);
        let file = work.join(place.strip_prefix(&run_dir).unwrap());
        let mut bytes = fs::read(&file).unwrap();
        let end = bytes.len();
        bytes[end - 3] ^= 1;
        fs::write(&file, bytes).unwrap();
        // the last task is to be made again
        let kinds: &[&str] =
            if place.to_string_lossy().contains("predictions") { &[] } else { &["prompts", "results"] };
        for kind in kinds {
            fs::remove_dir_all(only(&work, kind, STREAM, "cgil").join("task-03")).unwrap();
        }
        if place.to_string_lossy().contains("statistics") {
            fs::remove_dir_all(work.join(format!("statistics/{STREAM}/class-statistics/task-03"))).unwrap();
        }
        let name = file.file_name().unwrap().to_str().unwrap();
        fails(&tune(&work, &model, &[]), &["is damaged", name, "SHA-256"]);
        fs::remove_dir_all(&work).unwrap();
    }
}

#[test]
fn configurations_of_a_method_stand_side_by_side_under_names_that_readers_leave_alone() {
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let run_dir = learned(&Rows::clouds(6, 12, 6), dir.path());
    let long = "an unusually long template that shows what a {} = looks like, in more words than a directory's name has room for";
    for template in [long, "一张关于{}的照片", "a {} = b"] {
        run(&tune(&run_dir, &model, &["--template", template]));
    }
    run(&["baseline", "lda", "--run", path(&run_dir), "--tasks", "3", "--shrinkage", "none"]);
    run(&["baseline", "lda", "--run", path(&run_dir), "--tasks", "3"]);
    let methods = query(&run_dir, "SELECT DISTINCT method FROM metrics ORDER BY method");
    assert_eq!(methods.len(), 7, "{methods:?}");
    assert!(methods.iter().any(|name| name.contains("一张关于{}的照片")), "{methods:?}");
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM metrics WHERE metric = 'faa'"), 7.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT prompts) FROM prompt_losses"), 4.0);
    for name in files(&run_dir).keys() {
        for part in name {
            let part = part.to_str().unwrap();
            assert!(part.len() <= 60 && !part.contains('='), "{}", name.display());
        }
    }
}

/// The golden checkpoint in two shards.
fn sharded_checkpoint(dir: &Path) -> PathBuf {
    let (model, from) = (dir.join("sharded"), golden("checkpoint"));
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "preprocessor_config.json", "tokenizer.json"] {
        fs::copy(from.join(file), model.join(file)).unwrap();
    }
    let weights = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut names: Vec<&String> = weights.keys().collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for (i, names) in [&names[..names.len() / 2], &names[names.len() / 2..]].into_iter().enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", i + 1);
        let own = names.iter().map(|&name| (name.clone(), weights[name].clone())).collect();
        candle_core::safetensors::save(&own, model.join(&file)).unwrap();
        map.extend(names.iter().map(|name| ((*name).clone(), Value::from(file.as_str()))));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    model
}

#[test]
fn every_shard_of_the_weights_decides_which_clip_it_is() {
    let dir = tempdir().unwrap();
    let (model, run_dir) = (sharded_checkpoint(dir.path()), imported(&Rows::clouds(6, 12, 6), dir.path()));
    let zero_shot = baseline(&run_dir, "3", "zero-shot", &["--model", path(&model)]);
    run(&zero_shot);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--generator", "gaussian"]);
    let prompts = tune(&run_dir, &model, &["--generator", "gaussian"]);
    let printed = run(&prompts);
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let place = model.join(shard);
        let bytes = fs::read(&place).unwrap();
        let mut other = bytes.clone();
        let end = other.len();
        other[end - 4..].copy_from_slice(&0.125f32.to_le_bytes());
        fs::write(&place, other).unwrap();
        fails(&zero_shot, &["made otherwise", "model_sha256"]);
        fails(&prompts, &["made otherwise", "model_sha256"]);
        fs::write(&place, bytes).unwrap();
    }
    assert_eq!(run(&prompts), printed);
}

#[test]
fn copies_are_left_out_and_said_to_be_copies() {
    let dir = tempdir().unwrap();
    let run_dir = learned(&Rows::clouds(6, 12, 6), dir.path());
    let tables = ["embeddings", "classes", "latents", "prompt_losses", "predictions", "metrics"];
    let rows = || tables.map(|table| rows_in(&run_dir, table));
    let before = rows();
    let (latents, ncm) = (run_dir.join("latents").join(STREAM), only(&run_dir, "results", STREAM, "ncm"));
    let prompts = only(&run_dir, "prompts", STREAM, "cgil");
    for (from, to) in [
        (run_dir.join("sources/base"), run_dir.join("sources/base-old")),
        (run_dir.join("streams").join(STREAM), run_dir.join("streams/old")),
        (latents.join("vae"), latents.join("vae-old")),
        (prompts.join("task-03"), prompts.join("task-13")),
        (ncm.join("task-03"), ncm.join("task-13")),
        (ncm.clone(), run_dir.join("results").join(STREAM).join("lda")),
    ] {
        copy(&from, &to);
        let said = notes(&run_dir);
        let place = from.strip_prefix(&run_dir).unwrap();
        assert!(said.contains(&format!("is a copy of {}", path(place))), "{said}");
        assert_eq!(rows(), before);
        // nor does a copy stand in the way
        run(&["baseline", "ncm", "--run", path(&run_dir), "--tasks", "3"]);
        fs::remove_dir_all(&to).unwrap();
    }
}
