//! Parity of CLIP with PyTorch, by golden vectors: tokens, pixels and the two encoders.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::{text_model::Activation, vision_model};
use cgil::{
    clip::{Checkpoint, image::Workspace},
    dense::bfloat16::Unit,
    source::{Source, SourceOptions},
};
use image::{ImageEncoder, ImageFormat};
use serde_json::Value;

use crate::support::{assert_close, encoded, golden, golden_tensors, picture, values};

const IMAGES: [&str; 5] = ["image_0_RGB.png", "image_1_RGB.png", "image_2_L.png", "image_3_RGBA.png", "image_4_P.png"];

pub fn checkpoint() -> Checkpoint {
    Checkpoint::open(&golden("checkpoint")).unwrap()
}

pub fn facts() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("facts.json")).unwrap()).unwrap()
}

pub fn names(key: &str) -> Vec<String> {
    serde_json::from_value(facts()[key].clone()).unwrap()
}

/// The smallest cosine of two lists of rows.
pub fn least_cosine(a: &[f32], b: &[f32], dim: usize) -> f64 {
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
        let normalisation = preprocess.normalisation();
        let pixels: Vec<f32> =
            pixels.iter().enumerate().map(|(j, &byte)| normalisation.values()[j % 3][usize::from(byte)]).collect();
        let expected = values(&expected.get(i).unwrap().permute((1, 2, 0)).unwrap());
        assert_eq!(pixels.len(), expected.len());
        let worst = pixels.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst <= 0.016, "{name}: off by {worst}");
    }
}

#[test]
fn jpegs_are_pillows() {
    // the most that a level of 255 may be off: decoding is exact, resizing rounds
    const JPEGS: [(&str, f64); 5] = [
        ("jpeg_444.jpg", 0.0),
        ("jpeg_420.jpg", 0.0),
        ("jpeg_grey.jpg", 0.0),
        ("jpeg_progressive.jpg", 0.0),
        ("jpeg_resized.jpg", 1.0),
    ];
    let checkpoint = checkpoint();
    let preprocess = checkpoint.preprocess().unwrap();
    let expected = golden_tensors("jpeg.safetensors");
    for (i, (name, most)) in JPEGS.iter().enumerate() {
        let pixels = preprocess.pixels(&fs::read(golden(name)).unwrap()).unwrap();
        let levels = values(&expected["levels"].get(i).unwrap().to_dtype(DType::F32).unwrap()); // (3, S, S)
        assert_eq!(pixels.len(), levels.len());
        let plane = pixels.len() / 3;
        let off = |(j, level): (usize, &f32)| (f64::from(pixels[j % plane * 3 + j / plane]) - f64::from(*level)).abs();
        let worst = levels.iter().enumerate().map(off).fold(0.0, f64::max);
        let features = values(&expected["image_features"].get(i).unwrap());
        for found in image_embeddings(&checkpoint, &pixels) {
            let cosine = least_cosine(&found, &features, 48);
            assert!(cosine >= 0.99999, "{name}: cosine {cosine}");
        }
        assert!(worst <= *most, "{name}: off by {worst} levels");
    }
}

/// Embeddings by the CPU's encoder, and by the one on tensors.
pub fn image_embeddings(checkpoint: &Checkpoint, pixels: &[u8]) -> [Vec<f32>; 2] {
    let normalisation = checkpoint.preprocess().unwrap().normalisation();
    let cpu = checkpoint.image_encoder(&Device::Cpu, DType::F32).unwrap();
    let tensors = checkpoint.image_encoder_on(&Device::Cpu, DType::F32).unwrap();
    [
        cpu.encode(pixels, &normalisation, &mut Workspace::default()).unwrap(),
        tensors.encode(pixels, &normalisation).unwrap(),
    ]
}

/// The pixels of which the golden ones are the normalised values.
pub fn golden_pixels() -> Vec<u8> {
    let normalised = golden_tensors("clip.safetensors")["pixel_values"].clone(); // (B, 3, S, S)
    let normalisation = checkpoint().preprocess().unwrap().normalisation();
    let byte = |(i, value): (usize, f32)| {
        let near = |x: &f32| (x - value).abs() < 1e-5;
        normalisation.values()[i % 3].iter().position(near).expect("the value of a byte") as u8
    };
    values(&normalised.permute((0, 2, 3, 1)).unwrap()).into_iter().enumerate().map(byte).collect()
}

/// What the CPU's image encoder computes in here: float32, and bfloat16 where the machine can.
pub fn dtypes() -> Vec<DType> {
    match Unit::detect() {
        Ok(_) => vec![DType::F32, DType::BF16],
        Err(error) => {
            eprintln!("NOT TESTED: {error}");
            vec![DType::F32]
        }
    }
}

/// Embeddings in bfloat16: by the encoder on tensors and, where the machine can, by the CPU's.
pub fn half_precision_embeddings(checkpoint: &Checkpoint, pixels: &[u8]) -> Vec<Vec<f32>> {
    let normalisation = checkpoint.preprocess().unwrap().normalisation();
    let tensors = checkpoint.image_encoder_on(&Device::Cpu, DType::BF16).unwrap();
    let mut found = vec![tensors.encode(pixels, &normalisation).unwrap()];
    if dtypes().contains(&DType::BF16) {
        let encoder = checkpoint.image_encoder(&Device::Cpu, DType::BF16).unwrap();
        found.push(encoder.encode(pixels, &normalisation, &mut Workspace::default()).unwrap());
    }
    found
}

/// Features by the CPU's encoder, and by the one on tensors.
pub fn text_features(checkpoint: &Checkpoint, texts: &[String]) -> [Vec<f32>; 2] {
    let tokenizer = checkpoint.tokenizer().unwrap();
    let on_tensors = checkpoint.text_encoder_on(&Device::Cpu).unwrap().features(&tokenizer, texts).unwrap();
    [checkpoint.text_encoder(&tokenizer).unwrap().features(&tokenizer, texts).unwrap(), values(&on_tensors)]
}

#[test]
fn image_embeddings_are_pytorchs() {
    let expected = golden_tensors("clip.safetensors");
    let expected = values(&expected["image_features"]);
    for found in image_embeddings(&checkpoint(), &golden_pixels()) {
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
    for found in image_embeddings(&checkpoint(), &golden_pixels()) {
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
    for found in image_embeddings(&checkpoint, &golden_pixels()) {
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

#[test]
fn half_precision_embeddings_point_the_same_way() {
    let expected = golden_tensors("clip.safetensors");
    for found in half_precision_embeddings(&checkpoint(), &golden_pixels()) {
        let cosine = least_cosine(&found, &values(&expected["image_features"]), 48);
        assert!(cosine >= 0.9999, "cosine {cosine}");
    }
    let demo = Checkpoint::open(Path::new("data/demo/clip")).unwrap();
    let preprocess = demo.preprocess().unwrap();
    let source = Source::open(Path::new("data/demo/pictures"), &SourceOptions::default()).unwrap();
    let pictures =
        source.read("test", 0..source.rows["test"]).unwrap().step_by(5).map(|row| row.unwrap().image.unwrap());
    let pixels: Vec<u8> = pictures.flat_map(|picture| preprocess.pixels(&picture).unwrap()).collect();
    // the CPU's own: on tensors the softmax is rounded, too
    let encode = |dtype| {
        let encoder = demo.image_encoder(&Device::Cpu, dtype).unwrap();
        encoder.encode(&pixels, &preprocess.normalisation(), &mut Workspace::default()).unwrap()
    };
    let expected = encode(DType::F32);
    for dtype in dtypes() {
        let cosine = least_cosine(&encode(dtype), &expected, 64);
        assert!(cosine >= 0.9999, "the demo's pictures in {dtype:?}: cosine {cosine}");
    }
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
