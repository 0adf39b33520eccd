//! Parity of what learns with PyTorch, by golden vectors: VAEs and prompts step by step, class
//! orders and metrics.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use cgil::{
    generator::{ClassRows, Fitted, Generator, GeneratorConfig, Scaler, Vae, VaeConfig, fit, fit_together},
    metrics::{Scores, transfer},
    prompt::{Batch, Learner, Learning, PromptConfig, cpu, tensor},
    rows::Rows,
    task::{Class, class_order},
    tensors::Tensors,
};

use crate::{
    parity::{checkpoint, facts, names},
    support::{assert_close, golden_tensors, values},
};

fn vae_steps(file: &str, legacy_reparam: bool) {
    let expected = golden_tensors(file);
    let flat = |name: &str| values(&expected[name]);
    let config = VaeConfig { epochs: 6, lr: 2e-4, hidden: 32, latent: 16, batch_size: 64, legacy_reparam };
    let raw = flat("raw");
    let scaler = Scaler::fit(&raw, 48);
    for (name, found) in [("low", &scaler.low), ("span", &scaler.span), ("mean", &scaler.mean), ("std", &scaler.std)] {
        assert_close(name, found, &flat(name), 1e-5);
    }
    let mut standard = raw;
    scaler.standardise(&mut standard);
    assert_close("standardised", &standard, &flat("standardised"), 1e-4);

    let mut vae = Vae::new(48, &config, 0, 0);
    let names: Vec<&String> = expected.keys().filter(|k| k.starts_with("before.") && !k.contains("running")).collect();
    assert_eq!(names.len(), 16);
    for name in &names {
        vae.parameter(name.trim_start_matches("before.")).copy_from_slice(&flat(name));
    }
    let (losses, rates) = (flat("losses"), flat("learning_rates"));
    assert_eq!(losses.len(), 12);
    for step in 0..losses.len() {
        let rows = expected[&format!("step_{step}.rows")].to_vec1::<i64>().unwrap();
        let x: Vec<f32> = rows.iter().flat_map(|&i| &standard[48 * i as usize..][..48]).copied().collect();
        let lr = config.lr * cgil::generator::annealing(step / 2, 20); // the golden cycle begins at 2 of 6 epochs
        assert_close("learning rate", &[lr as f32], &rates[step..=step], 1e-5);
        let found = vae.step(&x, &flat(&format!("step_{step}.eps")), lr);
        assert_close(&format!("loss {step}"), &[(found.reconstruction + found.kl) as f32], &losses[step..=step], 1e-4);
    }
    for name in names {
        let name = name.trim_start_matches("before.");
        let before = flat(&format!("before.{name}"));
        let change = |after: &[f32]| -> Vec<f32> { after.iter().zip(&before).map(|(a, b)| a - b).collect() };
        let (found, expected) = (vae.parameter(name).to_vec(), flat(&format!("after.{name}")));
        if matches!(name, "enc.0.bias" | "enc.3.bias") {
            // The batch norm after them takes these biases out again. Their gradient is rounding
            // noise, which Adam turns into steps of the learning rate's size, in any direction.
            let farthest = change(&found).into_iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(farthest <= 12.0 * 2e-4, "{name} moved by {farthest}");
            continue;
        }
        assert_close(name, &found, &expected, 1e-4);
        assert_close(&format!("change of {name}"), &change(&found), &change(&expected), 2e-2);
    }
    let scaler = Scaler { low: flat("low"), span: flat("span"), mean: flat("mean"), std: flat("std") };
    let mut decoded = vae.decoder().decode(&flat("z"));
    scaler.restore(&mut decoded);
    assert_close("decoded", &decoded, &flat("decoded"), 1e-4);
}

#[test]
fn the_vae_takes_pytorchs_steps() {
    vae_steps("vae.safetensors", false);
}

#[test]
fn the_vae_takes_the_authors_steps() {
    vae_steps("vae_legacy.safetensors", true);
}

#[test]
fn classes_fitted_together_become_what_each_becomes_alone() {
    let config = VaeConfig { epochs: 12, lr: 1e-3, hidden: 24, latent: 8, batch_size: 16, legacy_reparam: false };
    // of different sizes: 2 batches and 1 row left over, 1 batch, 3 batches
    let classes: Vec<ClassRows> = [(7, 33), (3, 10), (5, 41)]
        .into_iter()
        .map(|(key, n)| {
            let value = |i| (0.37 * (i * (key as usize + 1)) as f32).sin() + key as f32;
            ClassRows { key, rows: Rows::new(6, (0..n * 6).map(value).collect()) }
        })
        .collect();
    let together = fit_together(&classes, 6, 1, &config, &Device::Cpu, || ()).unwrap();
    for (class, together) in classes.iter().zip(together) {
        let alone = fit(class, 1, &GeneratorConfig::Vae(config.clone()), || ());
        assert_eq!(alone.rows, together.rows);
        let losses = |f: &Fitted| [f.measures.reconstruction, f.measures.kl].map(|loss| loss.unwrap() as f32);
        assert_close("losses", &losses(&together), &losses(&alone), 1e-4);
        let [alone, together] = [alone, together].map(|fitted| match fitted.generator {
            Generator::Vae { decoder, scaler } => (decoder.layers, scaler),
            other => panic!("not a VAE: {other:?}"),
        });
        assert_eq!(alone.1, together.1);
        for (a, b) in alone.0.iter().zip(&together.0) {
            assert_close("weight", &b.0, &a.0, 1e-3);
            assert_close("bias", &b.1, &a.1, 1e-3);
        }
    }
}

/// The golden names of the prompts' parameters and their values, under this project's names.
fn prompt_parameters(golden: &HashMap<String, Tensor>, prefix: &str) -> Tensors {
    let context = |c: usize| golden[&format!("{prefix}.ctx.{c}")].clone();
    let contexts = Tensor::stack(&(0..6).map(context).collect::<Vec<_>>(), 0).unwrap();
    let generator = golden.iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(&format!("{prefix}."))?;
        name.starts_with("generator.").then(|| (name.to_owned(), tensor.clone()))
    });
    generator
        .chain([("contexts".to_owned(), contexts)])
        .map(|(name, tensor)| (name, (tensor.dims().to_vec(), values(&tensor))))
        .collect()
}

/// The golden prompts' first loss and gradients, then all steps and what they lead to.
fn prompts_take_pytorchs_steps<L: Learner>(
    mut learner: L,
    loss: impl Fn(&mut L, &Tensor, &[u32]) -> (f32, Vec<Vec<f32>>),
) {
    let expected = golden_tensors("prompt.safetensors");
    let mut parameters = learner.parameters().unwrap();
    parameters.load(prompt_parameters(&expected, "before"), 6).unwrap();
    learner.set_parameters(parameters.clone()).unwrap();
    assert_close("zero-shot", learner.zero_shot(), &values(&expected["zero_shot"]), 1e-4);
    assert_close("keys before", &learner.keys(6).unwrap(), &values(&expected["keys_before"]), 1e-4);

    let losses = values(&expected["losses"]);
    assert_eq!(losses.len(), 5);
    let labels = |step: usize| -> Vec<u32> {
        expected[&format!("step_{step}.labels")].to_vec1::<i64>().unwrap().into_iter().map(|l| l as u32).collect()
    };
    let features = |step: usize| &expected[&format!("step_{step}.features")];
    let (first, gradients) = loss(&mut learner, features(0), &labels(0));
    assert_close("first loss", &[first], &losses[..1], 1e-4);
    let golden_grads = prompt_parameters(&expected, "grad");
    assert_eq!(golden_grads.len(), gradients.len());
    for ((name, ..), gradient) in parameters.fields().zip(gradients) {
        assert_close(&format!("gradient of {name}"), &gradient, &golden_grads[name].1, 1e-3);
    }

    learner.begin(&Learning::after(0)).unwrap();
    for step in 0..losses.len() {
        let rows: Vec<usize> = (0..labels(step).len()).collect();
        let found = learner.steps(6, &values(features(step)), &labels(step), &[Batch::of(&rows)]).unwrap();
        assert_close(&format!("loss {step}"), &found, &losses[step..=step], 1e-4);
    }
    let after = prompt_parameters(&expected, "after");
    for (name, (_, found)) in learner.parameters().unwrap().tensors(6) {
        assert_close(&name, &found, &after[&name].1, 1e-3);
    }
    assert_close("keys after", &learner.keys(6).unwrap(), &values(&expected["keys_after"]), 1e-3);
}

fn classes() -> Vec<Class> {
    names("names").into_iter().enumerate().map(|(i, name)| Class { label: i as i64, name }).collect()
}

#[test]
fn prompts_on_the_cpu_take_pytorchs_steps() {
    let (checkpoint, classes) = (checkpoint(), classes());
    let tokenizer = checkpoint.tokenizer().unwrap();
    let encoder = checkpoint.text_encoder(&tokenizer).unwrap();
    let learner = cpu::Prompts::new(encoder, &tokenizer, &classes, &PromptConfig::default(), 0).unwrap();
    prompts_take_pytorchs_steps(learner, |learner, features, labels| {
        let loss = learner.loss(6, &values(features), labels);
        let places: Vec<_> = learner.parameters().unwrap().fields().map(|(.., place)| place).collect();
        (loss, places.into_iter().map(|place| learner.gradient(place).to_vec()).collect())
    });
}

#[test]
fn prompts_on_tensors_take_pytorchs_steps() {
    let (checkpoint, classes) = (checkpoint(), classes());
    let encoder = checkpoint.text_encoder_on(&Device::Cpu).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let learner = tensor::Prompts::new(encoder, &tokenizer, &classes, &PromptConfig::default(), 0).unwrap();
    prompts_take_pytorchs_steps(learner, |learner, features, labels| {
        let (loss, grads) = learner.loss(6, features, &Tensor::new(labels, &Device::Cpu).unwrap()).unwrap();
        let gradient = |var: &candle_core::Var| values(grads.get(var).expect("a gradient"));
        (loss.to_scalar().unwrap(), learner.vars().iter().map(gradient).collect())
    });
}

#[test]
fn class_orders_are_numpys() {
    for (seed, orders) in facts()["class_order"].as_object().unwrap() {
        for (n, expected) in orders.as_object().unwrap() {
            let expected: Vec<usize> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(
                class_order(n.parse().unwrap(), Some(seed.parse().unwrap())),
                expected,
                "seed {seed}, {n} classes"
            );
        }
    }
}

#[test]
fn metrics_are_the_references() {
    let facts = facts();
    let matrix: Vec<Vec<f64>> = serde_json::from_value(facts["accuracy_matrix"].clone()).unwrap();
    let scores = Scores::new(&matrix);
    for (name, found) in
        [("faa", Some(scores.faa)), ("caa", Some(scores.caa)), ("bwt", scores.bwt), ("ci_transfer", transfer(&matrix))]
    {
        let (found, expected) = (found.unwrap(), facts["metrics"][name].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-9, "{name}: {found} {expected}");
    }
    // the reference takes the best of all steps, the last one too: of each task what is published,
    // but at least 0
    let past = matrix.len() - 1;
    let forgotten: Vec<f64> = (0..past)
        .map(|k| matrix[k..past].iter().map(|row| row[k]).fold(f64::MIN, f64::max) - matrix[past][k])
        .collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / past as f64;
    let expected = facts["metrics"]["forgetting"].as_f64().unwrap();
    assert!((mean(&mut forgotten.iter().map(|x| x.max(0.0))) - expected).abs() < 1e-9, "{forgotten:?}");
    assert!((mean(&mut forgotten.iter().copied()) - scores.forgetting.unwrap()).abs() < 1e-9, "{forgotten:?}");
}
