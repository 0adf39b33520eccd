//! Parity with PyTorch, by golden vectors.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::{text_model::Activation, vision_model};
use cgil::{
    clip::{Checkpoint, image::Workspace},
    generator::{ClassRows, Fitted, Generator, GeneratorConfig, Scaler, Vae, VaeConfig, fit, fit_together},
    metrics::{Scores, transfer},
    prompt::{Learner, PromptConfig, cpu, tensor},
    rows::Rows,
    task::{Class, class_order},
    tensors::Tensors,
};
use image::{ImageEncoder, ImageFormat};
use serde_json::Value;

use crate::support::{assert_close, encoded, golden, golden_tensors, picture, values};

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

#[test]
fn tokens_are_equal() {
    let tokenizer = checkpoint().tokenizer().unwrap();
    let expected = golden_tensors("clip.safetensors")["input_ids"].to_vec2::<i64>().unwrap();
    for (text, expected) in names("prompts").iter().zip(expected) {
        let mut ids: Vec<i64> = tokenizer.encode(text, 0).unwrap().into_iter().map(i64::from).collect();
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

/// The decoder is not Pillow's: it rounds, and spreads subsampled colour, in its own way.
#[test]
fn jpegs_are_nearly_pillows() {
    // the most that a pixel may be off, in levels of 255
    const JPEGS: [(&str, f64); 5] = [
        ("jpeg_444.jpg", 2.0),
        ("jpeg_420.jpg", 4.0),
        ("jpeg_grey.jpg", 1.0),
        ("jpeg_progressive.jpg", 4.0),
        ("jpeg_resized.jpg", 2.0),
    ];
    const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
    const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
    let checkpoint = checkpoint();
    let preprocess = checkpoint.preprocess().unwrap();
    let expected = golden_tensors("jpeg.safetensors");
    for (i, (name, most)) in JPEGS.iter().enumerate() {
        let pixels = preprocess.pixels(&fs::read(golden(name)).unwrap()).unwrap();
        let levels = values(&expected["levels"].get(i).unwrap().to_dtype(DType::F32).unwrap());
        assert_eq!(pixels.len(), levels.len());
        let plane = pixels.len() / 3;
        let level = |(j, x): (usize, &f32)| (f64::from(*x) * STD[j / plane] + MEAN[j / plane]) * 255.0;
        let off = pixels
            .iter()
            .enumerate()
            .map(level)
            .zip(&levels)
            .map(|(found, expected)| (found - f64::from(*expected)).abs());
        let worst = off.fold(0.0, f64::max);
        let features = values(&expected["image_features"].get(i).unwrap());
        for found in image_embeddings(&checkpoint, &pixels) {
            let cosine = least_cosine(&found, &features, 48);
            assert!(cosine >= 0.99999, "{name}: cosine {cosine}");
        }
        assert!(worst <= most + 0.01, "{name}: off by {worst} levels");
    }
}

/// Embeddings by the CPU's encoder, and by the one on tensors.
fn image_embeddings(checkpoint: &Checkpoint, pixels: &[f32]) -> [Vec<f32>; 2] {
    let cpu =
        checkpoint.image_encoder(&Device::Cpu, DType::F32).unwrap().encode(pixels, &mut Workspace::default()).unwrap();
    [cpu, checkpoint.image_encoder_on(&Device::Cpu, DType::F32).unwrap().encode(pixels).unwrap()]
}

/// Features by the CPU's encoder, and by the one on tensors.
fn text_features(checkpoint: &Checkpoint, texts: &[String]) -> [Vec<f32>; 2] {
    let tokenizer = checkpoint.tokenizer().unwrap();
    let on_tensors = checkpoint.text_encoder_on(&Device::Cpu).unwrap().features(&tokenizer, texts).unwrap();
    [checkpoint.text_encoder(&tokenizer).unwrap().features(&tokenizer, texts).unwrap(), values(&on_tensors)]
}

#[test]
fn image_embeddings_are_pytorchs() {
    let expected = golden_tensors("clip.safetensors");
    let pixels = values(&expected["pixel_values"]);
    let expected = values(&expected["image_features"]);
    for found in image_embeddings(&checkpoint(), &pixels) {
        let cosine = least_cosine(&found, &expected, 48);
        assert!(cosine >= 0.99999, "cosine {cosine}");
        assert_close("image embeddings", &found, &expected, 1e-4);
    }
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
    let builder = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let theirs = vision_model::ClipVisionTransformer::new(builder.pp("vision_model"), &config).unwrap();
    let pixels = golden_tensors("clip.safetensors")["pixel_values"].clone();
    let expected = theirs.forward(&pixels).unwrap().matmul(&projection.t().unwrap()).unwrap();
    for found in image_embeddings(&checkpoint(), &values(&pixels)) {
        assert_close("image embeddings", &found, &values(&expected), 1e-4);
    }
}

#[test]
fn text_features_are_pytorchs() {
    let expected = golden_tensors("clip.safetensors");
    for found in text_features(&checkpoint(), &names("prompts")) {
        let expected_features = values(&expected["text_features"]);
        let cosine = least_cosine(&found, &expected_features, 48);
        assert!(cosine >= 0.99999, "cosine {cosine}");
        assert_close("text features", &found, &expected_features, 1e-4);
    }
    let checkpoint = checkpoint();
    let scale = checkpoint.text_encoder(&checkpoint.tokenizer().unwrap()).unwrap().logit_scale;
    assert_close("logit scale", &[scale], &values(&expected["logit_scale_exp"]), 1e-6);
}

/// The golden checkpoint with `edit` done to its config.json and its weights as `weights` lays them
/// out.
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
            parts[i % 2].insert(name, tensor.to_dtype(DType::F16).unwrap());
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
    for found in text_features(&checkpoint, &names("prompts")) {
        let cosine = least_cosine(&found, &values(&expected["text_features"]), 48);
        assert!(cosine >= 0.9999, "text: cosine {cosine}");
    }
    for found in image_embeddings(&checkpoint, &values(&expected["pixel_values"])) {
        let cosine = least_cosine(&found, &values(&expected["image_features"]), 48);
        assert!(cosine >= 0.9999, "image: cosine {cosine}");
    }
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
        let alone = fit(class.rows.values(), 6, class.key, 1, &GeneratorConfig::Vae(config.clone()), || ());
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

#[test]
fn half_precision_embeddings_point_the_same_way() {
    let expected = golden_tensors("clip.safetensors");
    let encoder = checkpoint().image_encoder_on(&Device::Cpu, DType::BF16).unwrap();
    let found = encoder.encode(&values(&expected["pixel_values"])).unwrap();
    let cosine = least_cosine(&found, &values(&expected["image_features"]), 48);
    assert!(cosine >= 0.999, "cosine {cosine}");
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

    learner.begin(0).unwrap();
    for step in 0..losses.len() {
        let rows: Vec<usize> = (0..labels(step).len()).collect();
        let found = learner.steps(6, &values(features(step)), &labels(step), &[&rows]).unwrap();
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
fn the_text_encoders_gradient_is_right_for_both_activations() {
    let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (f * i as f32).sin()).collect() };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for activation in ["quick_gelu", "gelu"] {
        let dir = changed_checkpoint(|config| config.replace("quick_gelu", activation), whole_weights);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();

        // a scalar of the features, its gradient in one direction, against central differences
        let tokenizer = checkpoint.tokenizer().unwrap();
        let (encoder, lengths) = (checkpoint.text_encoder(&tokenizer).unwrap(), [4, 1, 2]);
        let (x, direction, weights) = (wave(7 * 32, 0.7), wave(7 * 32, 1.3), wave(3 * 48, 2.1));
        let mut state = Default::default();
        encoder.encode(&x, &lengths, &mut state);
        let along = dot(&encoder.backward(&mut state, &weights), &direction);
        let mut scalar = |h: f32| {
            let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, d)| x + h * d).collect();
            dot(&encoder.encode(&moved, &lengths, &mut state), &weights)
        };
        let numeric = (scalar(1e-2) - scalar(-1e-2)) / 2e-2;
        assert!((along - numeric).abs() <= 2e-3 * numeric.abs().max(1.0), "{activation}: {along} {numeric}");

        let encoder = checkpoint.text_encoder_on(&Device::Cpu).unwrap();
        let tensor = |x: Vec<f32>, shape: &[usize]| Tensor::from_vec(x, shape, &Device::Cpu).unwrap();
        let (x, direction) = (tensor(wave(320, 0.7), &[2, 5, 32]), tensor(wave(320, 1.3), &[2, 5, 32]));
        let weights = tensor(wave(96, 2.1), &[2, 48]);
        let scalar = |h: f64| {
            let moved = (&x + (&direction * h).unwrap()).unwrap();
            dot(&values(&encoder.encode(&moved, &[4, 2]).unwrap().0), &values(&weights))
        };
        let (_, state) = encoder.encode(&x, &[4, 2]).unwrap();
        let along = dot(&values(&encoder.backward(&state, &weights).unwrap()), &values(&direction));
        let numeric = (scalar(1e-2) - scalar(-1e-2)) / 2e-2;
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
