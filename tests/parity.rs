//! Parity with PyTorch, by golden vectors.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{Device, Module, Tensor};
use candle_nn::{Optimizer, VarBuilder};
use candle_transformers::models::clip::{text_model::Activation, vision_model};
use cgil::{
    clip::Checkpoint,
    generator::{Generator, Scaler, Vae, VaeConfig},
    metrics::Scores,
    prompt::{PromptLearner, align::optimiser},
    task::{Class, class_order},
    tensors::Tensors,
};
use image::{ImageEncoder, ImageFormat};
use serde_json::Value;

use crate::support::{encoded, golden, golden_tensors, picture, values};

const IMAGES: [&str; 5] = ["image_0_RGB.png", "image_1_RGB.png", "image_2_L.png", "image_3_RGBA.png", "image_4_P.png"];

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&golden("checkpoint")).unwrap()
}

fn facts() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("facts.json")).unwrap()).unwrap()
}

fn names(key: &str) -> Vec<String> {
    serde_json::from_value(facts()[key].clone()).unwrap()
}

/// The smallest cosine of two lists of rows.
fn least_cosine(a: &[f32], b: &[f32], dim: usize) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let rows = a.chunks(dim).zip(b.chunks(dim));
    rows.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).fold(1.0, f64::min)
}

/// Asserts that two lists differ by at most `tolerance`, relative to the largest value.
fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance * largest, "{what}: off by {worst:e}, largest value {largest:e}");
}

#[test]
fn tokens_are_equal() {
    let tokenizer = checkpoint().tokenizer().unwrap();
    let expected = golden_tensors("clip.safetensors")["input_ids"].to_vec2::<i64>().unwrap();
    for (text, expected) in names("prompts").iter().zip(expected) {
        let mut ids: Vec<i64> = tokenizer.encode(text, 0).unwrap().into_iter().map(i64::from).collect();
        assert_eq!(tokenizer.end_of_text(&tokenizer.encode(text, 0).unwrap()), ids.len() - 1, "{text}");
        ids.resize(expected.len(), 0);
        assert_eq!(ids, expected, "{text}");
    }
    // the prompts' own tokens: start, two places, the name with a full stop, end
    let expected = golden_tensors("prompt.safetensors")["prompt_ids"].to_vec2::<i64>().unwrap();
    for (name, expected) in names("names").iter().zip(expected) {
        let ids = tokenizer.encode(&format!("{name}."), 2).unwrap();
        let tail: Vec<i64> = ids[1..].iter().copied().map(i64::from).collect();
        assert_eq!(tail, expected[3..3 + tail.len()], "{name}");
        assert_eq!(i64::from(ids[0]), expected[0]);
    }
}

#[test]
fn pixels_are_pillows() {
    let preprocess = checkpoint().preprocess().unwrap();
    let expected = golden_tensors("clip.safetensors")["pixel_values"].clone();
    for (i, name) in IMAGES.iter().enumerate() {
        let pixels = preprocess.pixels(&fs::read(golden(name)).unwrap()).unwrap();
        let expected = values(&expected.get(i).unwrap());
        assert_eq!(pixels.len(), expected.len());
        let worst = pixels.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst <= 0.016, "{name}: off by {worst}");
    }
}

#[test]
fn image_embeddings_are_pytorchs() {
    let expected = golden_tensors("clip.safetensors");
    let encoder = checkpoint().image_encoder(&Device::Cpu).unwrap();
    let found = values(&encoder.encode(values(&expected["pixel_values"])).unwrap());
    let expected = values(&expected["image_features"]);
    let cosine = least_cosine(&found, &expected, 48);
    assert!(cosine >= 0.99999, "cosine {cosine}");
    assert_close("image embeddings", &found, &expected, 1e-4);
}

#[test]
fn image_embeddings_are_candle_transformers() {
    let config = vision_model::ClipVisionConfig {
        embed_dim: 64,
        activation: Activation::QuickGelu,
        intermediate_size: 256,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        projection_dim: 48,
        num_channels: 3,
        image_size: 64,
        patch_size: 16,
    };
    let weights = golden_tensors("checkpoint/model.safetensors");
    let projection = weights["visual_projection.weight"].clone();
    let builder = VarBuilder::from_tensors(weights, candle_core::DType::F32, &Device::Cpu);
    let theirs = vision_model::ClipVisionTransformer::new(builder.pp("vision_model"), &config).unwrap();
    let pixels = golden_tensors("clip.safetensors")["pixel_values"].clone();
    let expected = theirs.forward(&pixels).unwrap().matmul(&projection.t().unwrap()).unwrap();
    let found = checkpoint().image_encoder(&Device::Cpu).unwrap().encode(values(&pixels)).unwrap();
    assert_close("image embeddings", &values(&found), &values(&expected), 1e-4);
}

#[test]
fn text_features_are_pytorchs() {
    let expected = golden_tensors("clip.safetensors");
    let (checkpoint, device) = (checkpoint(), Device::Cpu);
    let encoder = checkpoint.text_encoder(&device).unwrap();
    let found = encoder.features(&checkpoint.tokenizer().unwrap(), &names("prompts")).unwrap();
    let (found, expected_features) = (values(&found), values(&expected["text_features"]));
    let cosine = least_cosine(&found, &expected_features, 48);
    assert!(cosine >= 0.99999, "cosine {cosine}");
    assert_close("text features", &found, &expected_features, 1e-4);
    assert_close("logit scale", &[encoder.logit_scale as f32], &values(&expected["logit_scale_exp"]), 1e-6);
}

/// The golden checkpoint with `edit` done to its config.json and its weights as `weights` lays them out.
fn changed_checkpoint(edit: impl Fn(String) -> String, weights: impl Fn(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "preprocessor_config.json"] {
        fs::copy(golden("checkpoint").join(file), dir.path().join(file)).unwrap();
    }
    fs::write(dir.path().join("config.json"), edit(fs::read_to_string(golden("checkpoint/config.json")).unwrap()))
        .unwrap();
    weights(dir.path());
    dir
}

fn whole_weights(dir: &Path) {
    fs::copy(golden("checkpoint/model.safetensors"), dir.join("model.safetensors")).unwrap();
}

#[test]
fn a_sharded_half_precision_checkpoint_with_the_historical_end_of_text_is_read() {
    let shards = |dir: &Path| {
        let (mut parts, mut map) = ([HashMap::new(), HashMap::new()], serde_json::Map::new());
        for (i, (name, tensor)) in golden_tensors("checkpoint/model.safetensors").into_iter().enumerate() {
            map.insert(name.clone(), format!("model-{}.safetensors", i % 2).into());
            parts[i % 2].insert(name, tensor.to_dtype(candle_core::DType::F16).unwrap());
        }
        for (i, part) in parts.iter().enumerate() {
            candle_core::safetensors::save(part, dir.join(format!("model-{i}.safetensors"))).unwrap();
        }
        fs::write(dir.join("model.safetensors.index.json"), serde_json::json!({"weight_map": map}).to_string())
            .unwrap();
    };
    let dir = changed_checkpoint(|config| config.replace("\"eos_token_id\": 49407", "\"eos_token_id\": 2"), shards);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let expected = golden_tensors("clip.safetensors");
    let encoder = checkpoint.text_encoder(&Device::Cpu).unwrap();
    let found = values(&encoder.features(&checkpoint.tokenizer().unwrap(), &names("prompts")).unwrap());
    let cosine = least_cosine(&found, &values(&expected["text_features"]), 48);
    assert!(cosine >= 0.9999, "text: cosine {cosine}");
    let encoder = checkpoint.image_encoder(&Device::Cpu).unwrap();
    let found = values(&encoder.encode(values(&expected["pixel_values"])).unwrap());
    let cosine = least_cosine(&found, &values(&expected["image_features"]), 48);
    assert!(cosine >= 0.9999, "image: cosine {cosine}");
}

#[test]
fn exif_orientation_is_followed_when_asked_for() {
    let upright = picture(0, 3, 96);
    let png = encoded(upright.clone(), ImageFormat::Png);
    // the picture turned by a quarter, and an EXIF block whose one entry, the orientation, says so
    let turned = image::imageops::rotate270(&upright);
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    let exif = [b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".as_slice()].concat();
    encoder.set_exif_metadata(exif).unwrap();
    encoder.write_image(turned.as_raw(), turned.width(), turned.height(), image::ExtendedColorType::Rgb8).unwrap();

    let mut preprocess = checkpoint().preprocess().unwrap();
    let (as_stored, expected) = (preprocess.pixels(&bytes).unwrap(), preprocess.pixels(&png).unwrap());
    preprocess.exif = true;
    assert_ne!(as_stored, expected);
    assert_eq!(preprocess.pixels(&bytes).unwrap(), expected);
}

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
            // The batch norm after them takes these biases out again. Their gradient is rounding noise, which Adam
            // turns into steps of the learning rate's size, in any direction.
            let farthest = change(&found).into_iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(farthest <= 12.0 * 2e-4, "{name} moved by {farthest}");
            continue;
        }
        assert_close(name, &found, &expected, 1e-4);
        assert_close(&format!("change of {name}"), &change(&found), &change(&expected), 2e-2);
    }
    let scaler = Scaler { low: flat("low"), span: flat("span"), mean: flat("mean"), std: flat("std") };
    let generator = Generator { decoder: vae.decoder(), scaler };
    let mut decoded = generator.decoder.decode(&flat("z"));
    generator.scaler.restore(&mut decoded);
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

#[test]
fn prompts_take_pytorchs_steps() {
    let expected = golden_tensors("prompt.safetensors");
    let checkpoint = checkpoint();
    let classes: Vec<Class> =
        names("names").into_iter().enumerate().map(|(i, name)| Class { label: i as i64, name }).collect();
    let encoder = checkpoint.text_encoder(&Device::Cpu).unwrap();
    let mut learner = PromptLearner::new(encoder, &checkpoint.tokenizer().unwrap(), &classes, 1, 0).unwrap();
    learner.load(prompt_parameters(&expected, "before")).unwrap();
    assert_close("zero-shot", &values(learner.zero_shot()), &values(&expected["zero_shot"]), 1e-4);
    assert_close("keys before", &values(&learner.keys(6).unwrap()), &values(&expected["keys_before"]), 1e-4);

    let mut optimiser = optimiser(&learner, 0.05).unwrap();
    let losses = values(&expected["losses"]);
    assert_eq!(losses.len(), 5);
    for step in 0..losses.len() {
        let labels: Vec<u32> =
            expected[&format!("step_{step}.labels")].to_vec1::<i64>().unwrap().into_iter().map(|l| l as u32).collect();
        let labels = Tensor::new(labels, &Device::Cpu).unwrap();
        let (loss, grads) = learner.loss(6, &expected[&format!("step_{step}.features")], &labels).unwrap();
        assert_close(&format!("loss {step}"), &[loss], &losses[step..=step], 1e-4);
        if step == 0 {
            let golden_grads = prompt_parameters(&expected, "grad");
            assert_eq!(golden_grads.len(), learner.parameters().len());
            for (name, var) in learner.parameters() {
                let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
                assert_close(&format!("gradient of {name}"), &values(grad), &golden_grads[&name].1, 1e-3);
            }
        }
        optimiser.step(&grads).unwrap();
    }
    let after = prompt_parameters(&expected, "after");
    for (name, (_, found)) in learner.tensors().unwrap() {
        assert_close(&name, &found, &after[&name].1, 1e-3);
    }
    assert_close("keys after", &values(&learner.keys(6).unwrap()), &values(&expected["keys_after"]), 1e-3);
}

#[test]
fn the_text_encoders_gradient_is_right_for_both_activations() {
    for activation in ["quick_gelu", "gelu"] {
        let dir = changed_checkpoint(|config| config.replace("quick_gelu", activation), whole_weights);
        let encoder = Checkpoint::open(dir.path()).unwrap().text_encoder(&Device::Cpu).unwrap();

        // a scalar of the features, its gradient in one direction, against central differences
        let (shape, ends) = ((2, 5, 32), [4, 2]);
        let wave = |n: usize, f: f32| {
            Tensor::from_vec((0..n).map(|i| (f * i as f32).sin()).collect::<Vec<_>>(), n, &Device::Cpu).unwrap()
        };
        let x = wave(320, 0.7).reshape(shape).unwrap();
        let direction = wave(320, 1.3).reshape(shape).unwrap();
        let weights = wave(96, 2.1).reshape((2, 48)).unwrap();
        let scalar = |x: &Tensor| -> f64 {
            let (features, _) = encoder.encode(x, &ends).unwrap();
            values(&(features * &weights).unwrap()).into_iter().map(f64::from).sum()
        };
        let (_, state) = encoder.encode(&x, &ends).unwrap();
        let grad = encoder.backward(&state, &weights).unwrap();
        let along = values(&(grad * &direction).unwrap()).into_iter().map(f64::from).sum::<f64>();
        let h = 1e-2;
        let moved = |h: f64| (&x + (&direction * h).unwrap()).unwrap();
        let numeric = (scalar(&moved(h)) - scalar(&moved(-h))) / (2.0 * h);
        assert!((along - numeric).abs() <= 2e-3 * numeric.abs().max(1.0), "{activation}: {along} {numeric}");
    }
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
    for (name, found) in [
        ("faa", Some(scores.faa)),
        ("caa", Some(scores.caa)),
        ("forgetting", scores.forgetting),
        ("bwt", scores.bwt),
        ("ci_transfer", scores.ci_transfer),
    ] {
        let (found, expected) = (found.unwrap(), facts["metrics"][name].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-9, "{name}: {found} {expected}");
    }
}
