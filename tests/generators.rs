//! The kinds of generators: what scikit-learn fits, moments of draws, and every kind through the
//! program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Tensor;
use cgil::{
    dense::adam::Adam,
    generator::{ClassRows, DiffusionConfig, Gaussian, Generator, GeneratorConfig, Mixture, VaeConfig, fit},
    rng::{Draw, Rng},
    rows,
};
use serde_json::Value;
use tempfile::tempdir;

use crate::support::{
    self, Rows, assert_same_tables, command, fails, golden, golden_tensors, number, path, query, run, text, values,
};

const KINDS: [&str; 4] = ["vae", "gaussian", "mog", "diffusion"];

/// Options that make a fit of a kind quick.
fn quick(kind: &str) -> &'static [&'static str] {
    match kind {
        "vae" => &["--epochs", "8", "--hidden", "32", "--latent", "8"],
        "diffusion" => &["--epochs", "8", "--hidden", "32", "--batch-size", "7"],
        _ => &[],
    }
}

/// Rows of a class, to be fitted.
fn class(key: u64, dim: usize, rows: &[f32]) -> ClassRows {
    ClassRows { key, rows: rows::Rows::new(dim, rows.to_vec()) }
}

fn facts() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("generators.json")).unwrap()).unwrap()
}

/// A golden set: its rows, flat, their dimension, and scikit-learn's log-likelihood of a kind.
fn golden_set(name: &str, kind: &str) -> (Vec<f32>, usize, f64) {
    let rows: &Tensor = &golden_tensors("generators.safetensors")[&format!("{name}.rows")];
    (values(rows), rows.dims()[1], facts()[name][kind].as_f64().unwrap())
}

fn assert_within_a_percent(what: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() <= 0.01 * expected.abs(), "{what}: {found}, not {expected}");
}

#[test]
fn likelihoods_are_scikit_learns() {
    for name in ["apart", "overlapping", "correlated"] {
        for (kind, config) in [("gaussian", GeneratorConfig::Gaussian), ("mog", GeneratorConfig::Mog)] {
            let (rows, dim, expected) = golden_set(name, kind);
            for seed in 0..5 {
                let found = fit(&class(0, dim, &rows), seed, &config, || ()).measures.log_likelihood.unwrap();
                assert_within_a_percent(&format!("{kind} of {name}, seed {seed}"), found, expected);
            }
        }
    }
}

#[test]
fn the_density_of_a_mixture_is_scikit_learns() {
    let tensors = golden_tensors("generators.safetensors");
    for name in ["apart", "overlapping", "correlated"] {
        let (rows, _, expected) = golden_set(name, "mog");
        let flat = |what: &str| values(&tensors[&format!("{name}.{what}")]);
        let mixture = Mixture { weights: flat("weights"), means: flat("means"), stds: flat("stds") };
        let found = mixture.log_likelihood(&rows);
        assert!((found - expected).abs() < 1e-4 * expected.abs(), "{name}: {found}, not {expected}");
    }
}

#[test]
fn adam_with_decay_takes_pytorchs_steps() {
    let list = |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
    let facts = &facts()["adamw"];
    let (mut found, expected) = (list(&facts["before"]), list(&facts["after"]));
    let mut adam = Adam::decaying(found.len(), 0.01);
    for gradients in facts["gradients"].as_array().unwrap() {
        let rate = adam.begin(0.1);
        adam.update(rate, 0, &mut found, &list(gradients));
    }
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

/// Asserts that means and variances of `n` draws (n, D) are within 3 standard errors; of each
/// dimension the mean, the variance, and the fourth central moment are given.
fn assert_moments(what: &str, drawn: &[f32], expected: &[(f64, f64, f64)]) {
    let (dim, n) = (expected.len(), (drawn.len() / expected.len()) as f64);
    for (j, &(mean, variance, fourth)) in expected.iter().enumerate() {
        let column = || drawn.iter().skip(j).step_by(dim).map(|&x| f64::from(x));
        let found = column().sum::<f64>() / n;
        assert!((found - mean).abs() <= 3.0 * (variance / n).sqrt(), "{what}, mean {j}: {found}, not {mean}");
        let found = column().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let error = ((fourth - variance * variance) / n).sqrt();
        assert!((found - variance).abs() <= 3.0 * error, "{what}, variance {j}: {found}, not {variance}");
    }
}

#[test]
fn draws_have_the_moments_of_what_was_fitted() {
    let gaussian = Gaussian { mean: vec![-3.0, 0.0, 20.0], std: vec![0.1, 1.0, 5.0] };
    let expected = gaussian.mean.iter().zip(&gaussian.std).map(|(&mean, &std)| {
        let variance = f64::from(std).powi(2);
        (f64::from(mean), variance, 3.0 * variance * variance)
    });
    let expected: Vec<_> = expected.collect();
    let mut rng = Rng::new(5, Draw::Embeddings, &[]);
    assert_moments("gaussian", &gaussian.sample(20_000, &mut rng), &expected);

    let mixture = Mixture {
        weights: vec![0.2, 0.0, 0.5, 0.3],
        means: [[-4.0, 1.0], [1e6, 1e6], [0.0, 1.0], [3.0, -2.0]].concat(),
        stds: [[0.5, 2.0], [1.0, 1.0], [1.0, 0.1], [0.2, 1.0]].concat(),
    };
    let part = |k: usize, j: usize| {
        let at = |values: &[f32]| f64::from(values[2 * k + j]);
        (f64::from(mixture.weights[k]), at(&mixture.means), at(&mixture.stds))
    };
    let expected = (0..2).map(|j| {
        let over = |f: &dyn Fn(f64, f64) -> f64| (0..4).map(|k| part(k, j)).map(|(w, m, s)| w * f(m, s)).sum::<f64>();
        let mean = over(&|m, _| m);
        let variance = over(&|m, s| s * s + (m - mean).powi(2));
        let fourth = over(&|m, s| 3.0 * s.powi(4) + 6.0 * (s * (m - mean)).powi(2) + (m - mean).powi(4));
        (mean, variance, fourth)
    });
    let expected: Vec<_> = expected.collect();
    assert_moments("mog", &mixture.sample(20_000, &mut rng), &expected);
}

/// Two clouds of 60 rows in 4 dimensions, 8 deviations apart in the first one.
fn two_clouds() -> Vec<f32> {
    let mut rows = Rng::new(2, Draw::Embeddings, &[]).normals(120 * 4);
    for (i, row) in rows.chunks_mut(4).enumerate() {
        row[0] += if i % 2 == 0 { 4.0 } else { -4.0 };
        row.iter_mut().for_each(|x| *x = 0.1 * *x + 0.5);
    }
    rows
}

#[test]
fn a_diffusion_model_learns_two_clouds() {
    let config = GeneratorConfig::Diffusion(DiffusionConfig { epochs: 1000, hidden: 128, ..DiffusionConfig::DEFAULT });
    let fitted = fit(&class(0, 4, &two_clouds()), 0, &config, || ());
    assert!(fitted.measures.denoising.unwrap() < 0.6, "{:?}", fitted.measures);
    let drawn = fitted.generator.sample(400, &mut Rng::new(0, Draw::Embeddings, &[1]));
    // the first dimension has two peaks, at 0.1 and 0.9, and little between
    let share =
        |low: f32, high: f32| drawn.chunks(4).filter(|row| (low..high).contains(&row[0])).count() as f64 / 400.0;
    assert!(share(-0.2, 0.4) > 0.4 && share(0.6, 1.2) > 0.4, "{} {}", share(-0.2, 0.4), share(0.6, 1.2));
    assert!(share(0.4, 0.6) < 0.1, "{}", share(0.4, 0.6));
}

#[test]
fn a_class_depends_on_nothing_fitted_beside_it_and_no_draws_are_none() {
    let rows = two_clouds();
    for config in [
        GeneratorConfig::Vae(VaeConfig { epochs: 2, hidden: 8, latent: 3, ..VaeConfig::DEFAULT }),
        GeneratorConfig::Gaussian,
        GeneratorConfig::Mog,
        GeneratorConfig::Diffusion(DiffusionConfig { epochs: 2, hidden: 8, ..DiffusionConfig::DEFAULT }),
    ] {
        let generator =
            |key: u64, seed: u64| -> Generator { fit(&class(key, 4, &rows), seed, &config, || ()).generator };
        let alone = generator(4, 1);
        generator(5, 1);
        assert!(alone == generator(4, 1) && alone.is_finite());
        assert!(alone.sample(0, &mut Rng::new(0, Draw::Embeddings, &[])).is_empty());
        assert_eq!(alone.sample(3, &mut Rng::new(0, Draw::Embeddings, &[])).len(), 3 * 4);
    }
}

/// Embeddings of four classes, imported into a run that `name` calls.
fn imported(dir: &Path, name: &str) -> PathBuf {
    support::imported(dir, name, &Rows::clouds(4, 20, 10))
}

#[test]
fn kinds_stand_side_by_side_and_are_the_same_with_one_and_two_threads() {
    let dir = tempdir().unwrap();
    let [one, two] = ["1", "2"].map(|threads| {
        let run_dir = imported(dir.path(), threads);
        for kind in KINDS {
            let args =
                [&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--generator", kind], quick(kind)].concat();
            let output = command(&args).env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        run_dir
    });
    assert_same_tables(&one, &two);
    assert_eq!(
        query(&one, "SELECT generator, COUNT(*), SUM(rows) FROM latents GROUP BY generator ORDER BY generator"),
        ["diffusion,4,80", "gaussian,4,80", "mog,4,80", "vae,4,80"]
    );
    // what a kind does not measure is null, and what it measures is not
    for (column, kinds) in [
        ("reconstruction", "('vae')"),
        ("kl", "('vae')"),
        ("log_likelihood", "('gaussian', 'mog')"),
        ("denoising", "('diffusion')"),
    ] {
        let sql = format!("SELECT COUNT(*) FROM latents WHERE ({column} IS NOT NULL) <> (generator IN {kinds})");
        assert_eq!(number(&one, &sql), 0.0, "{column}");
    }
    // 48 dimensions: a mean and a deviation each, of a mixture five with their weights
    let bytes = |kind: &str| number(&one, &format!("SELECT MAX(bytes) FROM latents WHERE generator = '{kind}'"));
    assert_eq!((bytes("gaussian"), bytes("mog")), (2.0 * 48.0 * 4.0, 5.0 * 97.0 * 4.0));
    assert!(number(&one, "SELECT MIN(log_likelihood) FROM latents WHERE generator = 'mog'").is_finite());
}

#[test]
fn every_kind_is_resumed_and_learned_from() {
    let dir = tempdir().unwrap();
    let checkpoint = golden("checkpoint");
    for kind in KINDS {
        let (whole, stopped) = (imported(dir.path(), &format!("{kind}-a")), imported(dir.path(), &format!("{kind}-b")));
        let fit = |run_dir: &Path, tasks: &str| {
            run(&[&["fit-vae", "--run", path(run_dir), "--tasks", tasks, "--generator", kind], quick(kind)].concat())
        };
        fit(&whole, "2");
        fit(&stopped, "2");
        let task = stopped.join("latents/dataset-order-tasks-2").join(kind).join("task-02");
        fs::remove_dir_all(&task).unwrap();
        assert!(fit(&stopped, "2").contains("2 fitted now"));
        // what a process that was killed left of a task that is there goes
        let left = task.with_file_name("task-02.partial");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("class-2.safetensors"), "").unwrap();
        assert!(fit(&stopped, "2").contains(" 0 fitted now"));
        assert!(!left.exists());
        for run_dir in [&whole, &stopped] {
            run(&[
                "prompt-tune",
                "--run",
                path(run_dir),
                "--model",
                path(&checkpoint),
                "--epochs",
                "3",
                "--samples",
                "16",
                "--generator",
                kind,
            ]);
        }
        assert_same_tables(&whole, &stopped);
        assert_eq!(number(&whole, "SELECT COUNT(*) FROM metrics WHERE metric = 'faa'"), 1.0);

        // a kind that was not fitted is named, with what there is
        let other = if kind == "mog" { "gaussian" } else { "mog" };
        fails(
            &["prompt-tune", "--run", path(&whole), "--model", path(&checkpoint), "--generator", other],
            &["no generators", other, &format!("dataset-order-tasks-2/{kind}"), "cgil fit-vae"],
        );
    }
}

#[test]
fn a_damaged_store_is_named() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run");
    for kind in ["gaussian", "mog"] {
        run(&["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--generator", kind]);
    }
    // a mixture's tensors in the place of a Gaussian's
    let latents = run_dir.join("latents/dataset-order-tasks-1");
    let file = "task-01/generators.safetensors";
    fs::copy(latents.join("mog").join(file), latents.join("gaussian").join(file)).unwrap();
    fails(
        &["prompt-tune", "--run", path(&run_dir), "--model", path(&golden("checkpoint")), "--generator", "gaussian"],
        &["gaussian/task-01 is damaged", "generators.safetensors should have"],
    );
}

#[test]
fn options_that_a_kind_does_not_have_are_refused() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run");
    for (kind, options) in [
        ("gaussian", &["--epochs=3", "--lr=0.1", "--hidden=8", "--latent=8", "--batch-size=8", "--legacy-reparam"][..]),
        ("mog", &["--epochs=3", "--lr=0.1", "--hidden=8", "--latent=8", "--batch-size=8", "--legacy-reparam"]),
        ("diffusion", &["--latent=8", "--legacy-reparam"]),
    ] {
        for option in options {
            let name = option.split('=').next().unwrap();
            fails(
                &["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--generator", kind, option],
                &[&format!("the generator {kind} has no {name},")],
            );
        }
    }
    assert!(!run_dir.join("latents").exists());
    // the defaults are told
    let help = run(&["fit-vae", "--help"]);
    let (vae, diffusion) = (VaeConfig::DEFAULT.epochs, DiffusionConfig::DEFAULT.epochs);
    assert!(help.contains(&format!("[default: {vae} of vae, the paper's; {diffusion} of diffusion]")), "{help}");
}

#[test]
fn a_diffusion_model_that_diverges_is_named() {
    let dir = tempdir().unwrap();
    let run_dir = imported(dir.path(), "run");
    let fit =
        ["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--generator", "diffusion", "--epochs", "30", "--lr"];
    fails(&[&fit[..], &["1e9"]].concat(), &["diverged", "\"forest 0\"", "smaller --lr"]);
}

/// A quick configuration of each kind.
fn quick_configs() -> [GeneratorConfig; 4] {
    [
        GeneratorConfig::Vae(VaeConfig { epochs: 20, hidden: 16, latent: 4, ..VaeConfig::DEFAULT }),
        GeneratorConfig::Gaussian,
        GeneratorConfig::Mog,
        GeneratorConfig::Diffusion(DiffusionConfig { epochs: 20, hidden: 16, ..DiffusionConfig::DEFAULT }),
    ]
}

#[test]
fn rows_that_hardly_vary_are_fitted_and_given_back() {
    let row = [0.5f32, -3.0, 2e4, 0.0, 1e-6];
    let other = [0.25f32, -3.0, 2e4, 0.0, 2e-6]; // where it is other, a draw may be anywhere near the two
    let dim = row.len();
    for (what, rows) in [
        ("equal rows", row.repeat(20)),
        ("two equal rows", row.repeat(2)),
        ("two rows", [row, other].concat()),
        ("two rows, many times", [row, other].concat().repeat(10)),
    ] {
        for config in quick_configs() {
            let fitted = fit(&class(0, dim, &rows), 1, &config, || ());
            let what = format!("{:?} of {what}", config.kind());
            assert!(fitted.generator.is_finite() && fitted.losses.iter().all(|loss| loss.is_finite()), "{what}");
            let measures = fitted.measures;
            let all = [measures.reconstruction, measures.kl, measures.log_likelihood, measures.denoising];
            assert!(all.into_iter().flatten().all(f64::is_finite), "{what}: {measures:?}");
            for drawn in fitted.generator.sample(50, &mut Rng::new(0, Draw::Embeddings, &[])).chunks(dim) {
                for (j, (&found, (a, b))) in drawn.iter().zip(row.into_iter().zip(other)).enumerate() {
                    let (center, spread) =
                        if rows[..dim] == rows[rows.len() - dim..] { (a, 0.0) } else { (a, 10.0 * (a - b).abs()) };
                    let tolerance = spread + 1e-6 * a.abs() + 1e-11;
                    assert!((found - center).abs() <= tolerance, "{what}, dimension {j}: {found}, not {center}");
                }
            }
        }
    }
}
