//! The three stages through the program, as a person runs them: with real files.

use std::{fs, path::Path, process::Stdio, thread, time::Duration};

use crate::support::{
    self, CLASSES, Rows, assert_same_tables, command, encoded, files, golden, hugging_face_shard, image_folder,
    kill_once, number, only, path, picture, query, run, text,
};
use cgil::dense::bfloat16::Unit;
use image::ImageFormat;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::tempdir;

/// Options that make the last two stages quick.
const FIT: [&str; 6] = ["--epochs", "8", "--hidden", "32", "--latent", "8"];
const TUNE: [&str; 4] = ["--epochs", "3", "--samples", "32"];

fn extract(data: &Path, run_dir: &Path) -> String {
    run(&[
        "extract",
        "--model",
        path(&golden("checkpoint")),
        "--data",
        path(data),
        "--run",
        path(run_dir),
        "--shard-rows",
        "8",
    ])
}

fn fit_vae(run_dir: &Path, more: &[&str]) -> String {
    run(&[&["fit-vae", "--run", path(run_dir)], &FIT[..], more].concat())
}

fn prompt_tune(run_dir: &Path, more: &[&str]) -> String {
    run(&[&["prompt-tune", "--run", path(run_dir)], &TUNE[..], more].concat())
}

#[test]
fn an_image_folder_goes_through_the_three_stages() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("images"), dir.path().join("run"));
    image_folder(&data, 6, 3);
    fs::write(data.join("train/forest/notes.txt"), "not an image").unwrap();
    let printed = extract(&data, &run_dir);
    assert!(
        printed.contains("36 images") && printed.contains("36 embeddings of 48 values, 0 quarantined"),
        "{printed}"
    );

    // the table is what the contract says, and what the dataset says
    assert_eq!(
        query(&run_dir, "SELECT split, COUNT(*) AS n FROM embeddings GROUP BY split ORDER BY split"),
        ["test,12", "train,24"]
    );
    let first =
        query(&run_dir, "SELECT sample_id, label, class_name FROM embeddings ORDER BY label, sample_id LIMIT 1");
    assert_eq!(first, ["test/forest/000.jpg,0,forest"]);
    let names = query(&run_dir, "SELECT DISTINCT class_name FROM embeddings ORDER BY class_name");
    assert_eq!(names, ["forest", "red_fox", "river", "tabby cat"]);
    assert!(number(&run_dir, "SELECT MIN(norm) FROM embeddings") > 0.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine"), 0.0);

    // the datasets library finds its features in the Arrow schema, and a ClassLabel only in a
    // nullable field
    let shard = fs::File::open(run_dir.join("sources/base/embeddings/train/part-00000.parquet")).unwrap();
    let schema = ParquetRecordBatchReaderBuilder::try_new(shard).unwrap().schema().clone();
    assert!(schema.metadata()["huggingface"].contains(r#""names":["forest","red_fox","river","tabby cat"]"#));
    assert!(schema.field_with_name("label").unwrap().is_nullable());

    fit_vae(&run_dir, &["--tasks", "2"]);
    assert_eq!(
        query(&run_dir, "SELECT task, label, rows, generator FROM latents ORDER BY label"),
        ["1,0,6,vae", "1,1,6,vae", "2,2,6,vae", "2,3,6,vae"]
    );
    assert_eq!(query(&run_dir, "SELECT COUNT(*) FROM latents WHERE seed IS NULL"), ["4"]);

    let printed = prompt_tune(&run_dir, &[]);
    for part in ["zero-shot", "once learned", "in the end", "FAA", "CAA", "forgetting", "CI-Transfer", "red_fox"] {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM predictions"), 36.0); // before, after one, after two tasks
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM text_features WHERE origin = 'prompt'"), 6.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM metrics WHERE metric = 'h'"), 1.0);

    // the metrics follow from the predictions
    let faa = number(&run_dir, "SELECT value FROM metrics WHERE metric = 'faa'");
    let recomputed = number(
        &run_dir,
        "SELECT AVG(accuracy) FROM (SELECT on_task, 100.0 * AVG(CASE WHEN predicted = label THEN 1.0 ELSE 0.0 END) AS accuracy \
         FROM predictions WHERE after_task = 2 GROUP BY on_task)",
    );
    assert!((faa - recomputed).abs() < 1e-9, "{faa} {recomputed}");

    // again: nothing is left to do, nothing changes, and the table is printed again
    assert!(extract(&data, &run_dir).contains("0 encoded now"));
    assert!(fit_vae(&run_dir, &["--tasks", "2"]).contains("0 fitted now"));
    assert_eq!(prompt_tune(&run_dir, &[]), printed);
}

#[test]
fn the_embedded_demo_is_learned_without_forgetting() {
    let dir = tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo");
    run(&[
        "extract",
        "--model",
        path(&demo.join("clip")),
        "--data",
        path(&demo.join("pictures")),
        "--run",
        path(&run_dir),
    ]);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "5", "--epochs", "100"]);
    run(&["prompt-tune", "--run", path(&run_dir), "--epochs", "10"]);
    let value = |metric: &str| {
        number(&run_dir, &format!("SELECT value FROM metrics WHERE on_task IS NULL AND metric = '{metric}'"))
    };
    let (zero_shot, faa, forgetting) = (value("zero_shot_accuracy"), value("faa"), value("forgetting"));
    assert!((25.0..=70.0).contains(&zero_shot), "zero-shot {zero_shot}");
    assert!(faa >= zero_shot + 25.0, "zero-shot {zero_shot}, FAA {faa}");
    assert!(forgetting <= 8.0, "forgetting {forgetting}");
}

#[test]
fn a_profile_says_where_the_time_went() {
    let dir = tempdir().unwrap();
    image_folder(dir.path(), 2, 2);
    let run_dir = dir.path().join("run");
    let phases = |args: &[&str], expected: &[&str]| {
        let printed = run(&[args, &["--run", path(&run_dir), "--profile"]].concat());
        let report = printed.split("seconds, added up over threads").nth(1).expect("a report");
        for phase in [expected, &["write", "wall"]].concat() {
            assert!(report.lines().any(|line| line.trim_start().starts_with(phase)), "no {phase} in:\n{report}");
        }
    };
    let model = golden("checkpoint");
    phases(
        &["extract", "--model", path(&model), "--data", path(dir.path())],
        &["load the model", "read", "decode", "resize", "encode"],
    );
    phases(&["fit-vae", "--tasks", "1", "--epochs", "1"], &["sample", "forward", "backward", "optimise"]);
    phases(
        &["prompt-tune", "--epochs", "1", "--model", path(&model)],
        &["sample", "forward", "backward", "optimise", "evaluate"],
    );
    // without being asked, none
    assert!(!run(&["prompt-tune", "--epochs", "1", "--run", path(&run_dir)]).contains("seconds"));
}

#[test]
fn hugging_face_shards_give_the_folders_embeddings() {
    let dir = tempdir().unwrap();
    let (folder, shards) = (dir.path().join("folder"), dir.path().join("shards"));
    let mut train = Vec::new();
    for class in 0..CLASSES.len() {
        for i in 0..5 {
            let png = encoded(picture(class, i, 70), ImageFormat::Png);
            for split in ["train", "test"] {
                let class_dir = folder.join(split).join(format!("{class}"));
                fs::create_dir_all(&class_dir).unwrap();
                fs::write(class_dir.join(format!("{i}.png")), &png).unwrap();
            }
            train.push((class as i64, Some(png)));
        }
    }
    hugging_face_shard(&shards.join("data/train-00000-of-00002.parquet"), &train[..7]);
    hugging_face_shard(&shards.join("data/train-00001-of-00002.parquet"), &train[7..]);
    hugging_face_shard(&shards.join("data/test-00000-of-00001.parquet"), &train);
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    extract(&folder, &a);
    extract(&shards, &b);
    let norms = "SELECT label, norm FROM embeddings WHERE split = 'train' ORDER BY label, norm";
    assert_eq!(query(&a, norms), query(&b, norms));
    assert_eq!(query(&b, "SELECT DISTINCT class_name FROM embeddings WHERE label = 2"), [CLASSES[2]]);
    // sample 7 stands in the second file
    assert_eq!(
        number(&b, "SELECT COUNT(*) FROM embeddings WHERE sample_id = 'data/train-00001-of-00002.parquet#0'"),
        1.0
    );
}

#[test]
fn imported_embeddings_are_kept_whatever_the_list() {
    use arrow::{
        compute::cast,
        datatypes::{DataType, Field},
    };
    use std::sync::Arc;
    let dir = tempdir().unwrap();
    let rows = Rows::clouds(2, 4, 2);
    let item = |t: DataType| Arc::new(Field::new("item", t, true));
    for (name, list) in [
        ("list", DataType::List(item(DataType::Float64))),
        ("large", DataType::LargeList(item(DataType::Float32))),
        ("fixed", DataType::FixedSizeList(item(DataType::Float16), 48)),
    ] {
        let table = dir.path().join(format!("{name}.parquet"));
        let mut columns = rows.columns();
        columns[3].1 = cast(&columns[3].1, &list).unwrap();
        crate::support::write_parquet(&table, columns, &[]);
        let run_dir = dir.path().join(name);
        run(&["import", path(&table), "--run", path(&run_dir), "--shard-rows", "3"]);
        assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings"), 12.0, "{name}");
        let expected = rows.embedding[0].iter().map(|x| x * x).sum::<f32>().sqrt() as f64;
        let found = number(&run_dir, &format!("SELECT norm FROM embeddings WHERE sample_id = '{name}.parquet#0'"));
        assert!((found - expected).abs() < 2e-3, "{name}: {found} {expected}");
    }
    // a run's own table is a source as well
    let again = dir.path().join("again");
    run(&[
        "import",
        path(&dir.path().join("list/sources/base/embeddings")),
        "--run",
        path(&again),
        "--shard-rows",
        "3",
    ]);
    let all = "SELECT sample_id, label, class_name, norm FROM embeddings ORDER BY split, sample_id";
    assert_eq!(query(&again, all), query(&dir.path().join("list"), all));
}

/// Embeddings of six classes, imported.
fn imported(dir: &Path, name: &str) -> std::path::PathBuf {
    support::imported(dir, name, &Rows::clouds(6, 20, 10))
}

#[test]
fn learning_beats_zero_shot_on_clouds_and_seeds_change_the_order() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run");
    let checkpoint = golden("checkpoint");
    for seed in ["7", "1992"] {
        run(&[
            "fit-vae",
            "--run",
            path(&run_dir),
            "--tasks",
            "3",
            "--epochs",
            "200",
            "--hidden",
            "64",
            "--latent",
            "16",
            "--seed",
            seed,
        ]);
        run(&[
            "prompt-tune",
            "--run",
            path(&run_dir),
            "--model",
            path(&checkpoint),
            "--epochs",
            "40",
            "--lr",
            "0.03",
            "--samples",
            "64",
            "--seed",
            seed,
        ]);
        let value = |metric: &str| {
            number(
                &run_dir,
                &format!("SELECT value FROM metrics WHERE seed = {seed} AND on_task IS NULL AND metric = '{metric}'"),
            )
        };
        assert!(value("faa") > value("zero_shot_accuracy") + 20.0, "{} {}", value("faa"), value("zero_shot_accuracy"));
    }
    let order =
        |seed: &str| query(&run_dir, &format!("SELECT label FROM latents WHERE seed = {seed} ORDER BY task, slot"));
    assert_eq!(order("1992"), ["4", "5", "1", "2", "0", "3"]); // numpy's, inverted
    assert_ne!(order("7"), order("1992"));
}

#[test]
fn real_embeddings_of_the_current_task_enter_the_stream() {
    use cgil::{
        generator::{ClassRows, GeneratorConfig, Noise, VaeConfig, fit},
        prompt::{Current, EmbeddingStream},
        rows::Rows,
        table::file,
        task::Class,
    };
    let rows: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37).sin()).collect(); // (10, 4)
    let config = VaeConfig { epochs: 2, lr: 1e-3, hidden: 8, latent: 3, batch_size: 4, legacy_reparam: false };
    let config = GeneratorConfig::Vae(config);
    let class = |key| ClassRows { key, rows: Rows::new(4, rows.clone()) };
    let generators: Vec<_> = (0..2).map(|key| fit(&class(key), 0, &config, || ()).generator).collect();
    let seen = [0, 1].map(|label| Class { label, name: format!("class {label}") });
    let stream = |current| EmbeddingStream {
        seen: &seen,
        drawn: &[0, 1],
        generators: &generators,
        noise: None,
        real: [(1, Rows::new(4, rows.clone()))].into(),
        task: 1,
        dim: 4,
        samples: 25,
        current,
        seed: 3,
    };
    for (current, real) in [(Current::Generated, 0), (Current::Real, 25), (Current::Both, 13)] {
        let batch = stream(current).epoch(0).unwrap();
        let origins: Vec<(i64, bool)> = file::int64s(&batch, "class")
            .iter()
            .copied()
            .zip(file::text(&batch, "origin").map(|o| o == "real"))
            .collect();
        assert_eq!(origins.len(), 50);
        assert_eq!(origins.iter().filter(|(class, is_real)| *is_real && *class == 0).count(), 0);
        assert_eq!(origins.iter().filter(|(class, is_real)| *is_real && *class == 1).count(), real, "{current:?}");
        // what is called real is, and each row comes about as often as the others
        let embeddings = file::floats(&batch, "embedding");
        let mut counts = [0; 10];
        for (row, (_, is_real)) in embeddings.chunks(4).zip(&origins) {
            let found = rows.chunks(4).position(|r| r == row);
            assert_eq!(found.is_some(), *is_real);
            found.into_iter().for_each(|i| counts[i] += 1);
        }
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }

    // noise moves what is generated, by its covariance, and nothing that is real
    let wide = [4.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]; // (4, 4)
    let noise = Noise::between(&wide, &[0.0; 16], 4).unwrap();
    let drawn = |noise: Option<&Noise>, task: usize, epoch: usize| {
        let batch = EmbeddingStream { noise, task, samples: 400, ..stream(Current::Both) }.epoch(epoch).unwrap();
        let is_real: Vec<bool> = file::text(&batch, "origin").map(|origin| origin == "real").collect();
        (file::floats(&batch, "embedding").to_vec(), is_real)
    };
    let moved = |task, epoch| -> Vec<[f32; 4]> {
        let ((plain, is_real), (noisy, _)) = (drawn(None, task, epoch), drawn(Some(&noise), task, epoch));
        let moved = noisy.chunks(4).zip(plain.chunks(4)).map(|(a, b)| std::array::from_fn(|j| a[j] - b[j]));
        let moved: Vec<[f32; 4]> = moved.collect();
        assert!(moved.iter().zip(&is_real).all(|(moved, is_real)| *is_real == (*moved == [0.0; 4])));
        moved
    };
    let first = moved(1, 0);
    let generated = || first.iter().filter(|moved| **moved != [0.0; 4]);
    assert_eq!(generated().count(), 600); // all of class 0, half of class 1
    let variance = |j: usize| generated().map(|moved| moved[j].powi(2)).sum::<f32>() / 600.0;
    assert!((variance(0) - 4.0).abs() < 0.7 && (variance(1) - 0.25).abs() < 0.05, "{} {}", variance(0), variance(1));
    assert!(variance(2) < 1e-12 && variance(3) < 1e-12);
    // that of another epoch, task or class is another
    let others = [moved(1, 1), moved(2, 0)];
    assert!(others.iter().all(|other| other[0] != first[0]) && first[0] != first[400 + 399]);
    assert_eq!(moved(1, 0), first);
}

#[test]
fn the_same_seed_gives_the_same_tables_with_one_and_two_threads() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("images");
    image_folder(&data, 6, 3);
    for threads in ["1", "2"] {
        let run_dir = dir.path().join(threads);
        let with_threads = |args: &[&str]| {
            let output = command(args).env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
        };
        with_threads(&[
            "extract",
            "--model",
            path(&golden("checkpoint")),
            "--data",
            path(&data),
            "--run",
            path(&run_dir),
            "--shard-rows",
            "8",
        ]);
        with_threads(&[&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--seed", "5"], &FIT[..]].concat());
        with_threads(&[&["prompt-tune", "--run", path(&run_dir), "--seed", "5"], &TUNE[..]].concat());
    }
    assert_same_tables(&dir.path().join("1"), &dir.path().join("2"));
}

#[test]
fn embeddings_in_bfloat16_are_told_from_others_and_the_same_with_one_and_two_threads() {
    if let Err(error) = Unit::detect() {
        eprintln!("NOT TESTED: {error}");
        return;
    }
    let dir = tempdir().unwrap();
    let (data, model) = (dir.path().join("images"), golden("checkpoint"));
    image_folder(&data, 6, 3);
    let extract = |name: &str, dtype: &str, threads: &str| {
        let (model, run_dir) = (path(&model), dir.path().join(name));
        let place = ["extract", "--model", model, "--data", path(&data), "--run", path(&run_dir)];
        let args = [&place[..], &["--shard-rows", "8", "--device", "cpu", "--dtype", dtype]].concat();
        let output = command(&args).env("RAYON_NUM_THREADS", threads).output().unwrap();
        (run_dir.clone(), text(&output.stderr), output.status.code())
    };
    let [one, two, whole] = [("one", "bfloat16", "1"), ("two", "bfloat16", "2"), ("whole", "float32", "2")].map(
        |(name, dtype, threads)| {
            let (run_dir, said, code) = extract(name, dtype, threads);
            assert_eq!(code, Some(0), "{said}");
            run_dir
        },
    );
    assert_same_tables(&one, &two);
    let manifest = fs::read_to_string(one.join("sources/base/manifest.json")).unwrap();
    assert!(manifest.replace(' ', "").contains(r#""compute_dtype":"bfloat16""#), "{manifest}");
    let sql = "SELECT embedding FROM embeddings ORDER BY sample_id";
    let [rounded, exact] = [&one, &whole].map(|dir| run(&["query", "--run", path(dir), "--format", "json", sql]));
    assert_ne!(rounded, exact);
    for (name, was, is) in [("one", "bfloat16", "float32"), ("whole", "float32", "bfloat16")] {
        let before = files(&dir.path().join(name));
        let (run_dir, said, code) = extract(name, is, "2");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("the compute dtype was {was}, now it is {is}")), "{said}");
        assert!(files(&run_dir) == before);
    }
}

#[test]
fn a_killed_extract_goes_on_to_the_tables_of_an_undisturbed_run() {
    let dir = tempdir().unwrap();
    let (data, whole, killed) = (dir.path().join("images"), dir.path().join("whole"), dir.path().join("killed"));
    image_folder(&data, 90, 60);
    fs::write(data.join("train/river/broken.png"), b"\x89PNG\r\n\x1a\nand then nothing").unwrap();
    extract(&data, &whole);
    let checkpoint = golden("checkpoint");
    let args =
        ["extract", "--model", path(&checkpoint), "--data", path(&data), "--run", path(&killed), "--shard-rows", "8"];
    for shard in ["embeddings/train/part-00002.parquet", "embeddings/test/part-00001.parquet"] {
        kill_once(&args, || killed.join("sources/base").join(shard).exists());
    }
    run(&args);
    assert_same_tables(&whole, &killed);
    assert_eq!(number(&killed, "SELECT COUNT(*) FROM quarantine"), 1.0);
}

#[test]
fn a_killed_fit_goes_on_to_the_generators_of_an_undisturbed_run() {
    let dir = tempdir().unwrap();
    let (whole, killed) = (imported(dir.path(), "whole"), imported(dir.path(), "killed"));
    let options = ["--tasks", "2", "--epochs", "400", "--hidden", "128", "--latent", "16"];
    run(&[&["fit-vae", "--run", path(&whole)], &options[..]].concat());
    let args = [&["fit-vae", "--run", path(&killed)], &options[..]].concat();
    kill_once(&args, || killed.join("latents/dataset-order-tasks-2/vae/task-01.partial/class-1.safetensors").exists());
    kill_once(&args, || killed.join("latents/dataset-order-tasks-2/vae/task-01").exists());
    run(&args);
    assert_same_tables(&whole, &killed);
}

#[test]
fn a_killed_prompt_tune_goes_on_with_the_next_task() {
    let dir = tempdir().unwrap();
    let (whole, killed) = (imported(dir.path(), "whole"), imported(dir.path(), "killed"));
    let checkpoint = golden("checkpoint");
    let tune = |run_dir: &Path| -> Vec<String> {
        let args = ["prompt-tune", "--run", path(run_dir), "--model", path(&checkpoint), "--epochs", "12"];
        args.map(str::to_owned).to_vec()
    };
    for run_dir in [&whole, &killed] {
        fit_vae(run_dir, &["--tasks", "3"]);
    }
    let args = tune(&whole);
    let printed = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let args = tune(&killed);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    for step in ["task-00", "task-01"] {
        kill_once(&args, || only(&killed, "results", "dataset-order-tasks-3", "cgil").join(step).exists());
    }
    assert_eq!(run(&args), printed);
    assert_same_tables(&whole, &killed);
}

#[test]
fn the_same_command_twice_at_once_does_its_work_once() {
    let dir = tempdir().unwrap();
    let (run_dir, alone) = (imported(dir.path(), "run"), imported(dir.path(), "alone"));
    let args = |run_dir| ["fit-vae", "--run", path(run_dir), "--tasks", "2", "--epochs", "300", "--hidden", "64"];
    run(&args(&alone));
    let mut first = command(&args(&run_dir)).stdout(Stdio::piped()).spawn().unwrap();
    while !run_dir.join("latents/dataset-order-tasks-2/vae/task-01.partial").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first ended too early");
        thread::sleep(Duration::from_millis(1));
    }
    let second = command(&args(&run_dir)).output().unwrap();
    let first = first.wait_with_output().unwrap();
    assert!(text(&first.stdout).contains("6 fitted now"), "{}", text(&first.stdout));
    assert!(text(&second.stdout).contains("0 fitted now"), "{}", text(&second.stdout));
    assert!(text(&second.stderr).contains("waiting for another process"), "{}", text(&second.stderr));
    assert_same_tables(&run_dir, &alone);
    // other numbers of tasks stand beside it
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "3", "--epochs", "1"]);
    assert_eq!(number(&run_dir, "SELECT COUNT(DISTINCT stream) FROM latents"), 2.0);
}

#[test]
fn queries_answer_in_three_formats() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run");
    let ask = |format: &str| {
        run(&[
            "query",
            "--run",
            path(&run_dir),
            "--format",
            format,
            "SELECT split, COUNT(*) AS n FROM embeddings GROUP BY split ORDER BY n",
        ])
    };
    assert_eq!(ask("csv"), "split,n\ntest,60\ntrain,120\n");
    let json: serde_json::Value = serde_json::from_str(&ask("json")).unwrap();
    assert_eq!(json, serde_json::json!([{"split": "test", "n": 60}, {"split": "train", "n": 120}]));
    assert!(ask("table").contains("train"));
    // all rows, not a sample of them
    let table = run(&["query", "--run", path(&run_dir), "SELECT sample_id FROM embeddings"]);
    assert_eq!(table.matches("table.parquet#").count(), 180);
    // tables without rows can be asked as well
    assert_eq!(query(&run_dir, "SELECT * FROM metrics").len(), 0);
    let vectors =
        run(&["query", "--run", path(&run_dir), "--format", "json", "SELECT embedding FROM embeddings LIMIT 1"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&vectors).unwrap()[0]["embedding"].as_array().unwrap().len(),
        48
    );
}
