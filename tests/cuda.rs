//! What a CUDA device computes, held against the golden vectors and the CPU. `cargo test --release
//! --features cuda --test cuda`, on a machine with a device; without one there is nothing to test.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};
use cgil::{
    clip::{Checkpoint, Normalisation, tensor::text::TextEncoder},
    device::{DeviceChoice, Precision},
    generator::{ClassRows, Generator, GeneratorConfig, VaeConfig, fit, fit_together},
    prompt::{Batch, Candidates, Context, Learner, Learning, Optimizer, PromptConfig, TrainPrompts, tensor::Prompts},
    rng::{Draw, Rng},
    rows::Rows,
    task::Class,
};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

// Below the repository, where tests run, and where they are run that were built elsewhere.
const DEMO: &str = "data/demo/clip";

fn golden(name: &str) -> PathBuf {
    Path::new("tests/golden").join(name)
}

/// The demo's and the golden checkpoint: heads of 16 and 24, and of the golden one's.
fn checkpoints() -> [Checkpoint; 2] {
    [golden("checkpoint"), DEMO.into()].map(|dir| Checkpoint::open(&dir).unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// ‖found − expected‖ / ‖expected‖
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let off = squares(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    (off / squares(&mut expected.iter().map(|&x| x.into())).max(1e-30)).sqrt()
}

#[track_caller]
fn assert_near(what: &str, found: &[f32], expected: &[f32], most: f64) {
    let distance = distance(found, expected);
    println!("{what}: {distance:.1e}");
    assert!(distance <= most, "{what}: {distance}, at most {most}"); // NaN fails, too
}

fn least_cosine(found: &[f32], expected: &[f32], dim: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosines = found.chunks(dim).zip(expected.chunks(dim)).map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    cosines.fold(1.0, f64::min)
}

/// One test, since the precision of products is the process's.
#[test]
fn a_device_computes_what_the_cpu_does() {
    let Ok(devices) = DeviceChoice::Cuda(vec![0]).open(1) else {
        println!("no CUDA device: nothing is tested");
        return;
    };
    let device = &devices[0];
    images(device);
    Precision::Float32.prepare(&devices).unwrap();
    texts_and_prompts(device, [1e-5, 1e-4]);
    generators(device, 1e-3);
    Precision::Tf32.prepare(&devices).unwrap();
    texts_and_prompts(device, [3e-3, 2e-2]);
    generators(device, 2e-2);
}

fn images(device: &Device) {
    let expected = safetensors::load(golden("clip.safetensors"), &Device::Cpu).unwrap();
    let [checkpoint, demo] = checkpoints();
    // of 17, 50, 65 and 122 positions: what is left of 64 keys is none, some or all
    let wide = [32, 56, 64, 88].map(wide_heads);
    let normalisation = checkpoint.preprocess().unwrap().normalisation();
    let pixels = bytes(&expected["pixel_values"], &normalisation);
    let features = values(&expected["image_features"]);
    for (precision, most, least) in
        [(Precision::Float32, 1e-5, 0.999999), (Precision::Tf32, 3e-3, 0.99999), (Precision::Bfloat16, 2e-2, 0.9999)]
    {
        precision.prepare(std::slice::from_ref(device)).unwrap();
        let encoder = checkpoint.image_encoder_on(device, precision.dtype()).unwrap();
        let found = encoder.encode(&pixels, &normalisation).unwrap();
        assert_near(&format!("image embeddings in {precision}"), &found, &features, most);
        assert!(least_cosine(&found, &features, 48) >= least, "{precision}");

        for checkpoint in wide.iter().map(|(checkpoint, _)| checkpoint).chain([&demo]) {
            let side = checkpoint.config.vision_config.image_size;
            let wave = |i: usize| (128.0 + 127.0 * (0.013 * i as f32).sin()) as u8;
            let pixels: Vec<u8> = (0..5 * 3 * side * side).map(wave).collect();
            let [cpu, cuda] = [(&Device::Cpu, DType::F32), (device, precision.dtype())].map(|(device, dtype)| {
                let encoder = checkpoint.image_encoder_on(device, dtype).unwrap();
                // more, and fewer, than were uploaded before
                let image = pixels.len() / 5;
                let parts = [&pixels[..image], &pixels[image..4 * image], &pixels[4 * image..]];
                parts.map(|part| encoder.encode(part, &normalisation).unwrap()).concat()
            });
            let cosine = least_cosine(&cuda, &cpu, 64);
            println!("cosine in {precision}: {cosine}");
            assert!(cosine >= least, "{precision}: {cosine}");
        }
    }
}

/// The bytes of which normalised pixels (B, 3, S, S) are the values.
fn bytes(pixels: &Tensor, normalisation: &Normalisation) -> Vec<u8> {
    let byte = |(i, value): (usize, f32)| {
        normalisation.values()[i % 3].iter().position(|x| (x - value).abs() < 1e-5).unwrap() as u8
    };
    values(&pixels.permute((0, 2, 3, 1)).unwrap()).into_iter().enumerate().map(byte).collect()
}

/// The demo's checkpoint with an image encoder of 2 heads of 64 values, as CLIP's own have them, for
/// images of `side` pixels.
fn wide_heads(side: usize) -> (Checkpoint, TempDir) {
    let (demo, dir) = (Path::new(DEMO), tempdir().unwrap());
    fs::copy(demo.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(demo.join("config.json")).unwrap()).unwrap();
    for (key, size) in
        [("hidden_size", 128), ("intermediate_size", 512), ("num_attention_heads", 2), ("image_size", side)]
    {
        config["vision_config"][key] = size.into();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let positions = 1 + (side / 8).pow(2);
    let weights = safetensors::load(demo.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights: BTreeMap<String, Tensor> = weights.into_iter().collect();
    let wider = |(key, (name, tensor)): (u64, (String, Tensor))| {
        if !name.starts_with("vis") {
            return (name, tensor);
        }
        let wider = |&n: &usize| match n {
            96 => 128,
            384 => 512,
            65 => positions,
            n => n,
        };
        let shape: Vec<usize> = tensor.dims().iter().map(wider).collect();
        let scale = if name.contains("norm") { 1.0 } else { 0.1 };
        let values = Rng::new(0, Draw::Embeddings, &[key]).normals(shape.iter().product());
        let values = values.into_iter().map(|x| scale * x).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    let weights: HashMap<String, Tensor> = (0..).zip(weights).map(wider).collect();
    safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
    (Checkpoint::open(dir.path()).unwrap(), dir)
}

fn texts_and_prompts(device: &Device, [most, most_of_gradients]: [f64; 2]) {
    let names = ["forest", "red fox", "a small house by the river", "cat"];
    let classes: Vec<Class> =
        names.iter().zip(0..).map(|(name, label)| Class { label, name: name.to_string() }).collect();
    for checkpoint in checkpoints() {
        let tokenizer = checkpoint.tokenizer().unwrap();
        let encoder = |device: &Device| -> TextEncoder { checkpoint.text_encoder_on(device).unwrap() };
        let texts = names.map(|name| format!("a photo of a {name}"));
        let [cpu, cuda] =
            [&Device::Cpu, device].map(|device| values(&encoder(device).features(&tokenizer, &texts).unwrap()));
        assert_near("text features", &cuda, &cpu, most);

        let dim = checkpoint.config.projection_dim;
        let rows: Vec<f32> = (0..6 * dim).map(|i| (0.37 * i as f32).sin()).collect();
        let labels = [0u32, 1, 0, 3, 3, 1];
        for context in [Context::Class, Context::General, Context::Generated, Context::Combined, Context::Image] {
            let config =
                PromptConfig { context, train_prompts: TrainPrompts::Current, ortho: 0.1, ..PromptConfig::default() };
            // all classes, with one taken out; then some of them, the first of which stays
            for candidates in [None, Some(Candidates { classes: vec![0, 1, 3], more: vec![0.7, 0.0, 0.0] })] {
                if context == Context::Image && candidates.is_some() {
                    continue; // refused
                }
                let [cpu, cuda] = [&Device::Cpu, device].map(|device| {
                    let mut prompts = Prompts::new(encoder(device), &tokenizer, &classes, &config, 0).unwrap();
                    prompts.begin(&Learning { removed: vec![2], ..Learning::after(1) }).unwrap();
                    let rows = Tensor::from_slice(&rows, (6, dim), device).unwrap();
                    let (loss, gradients) = match &candidates {
                        None => prompts.loss(4, &rows, &Tensor::new(&labels, device).unwrap()),
                        Some(candidates) => prompts.loss_among(candidates, &rows, &labels),
                    }
                    .unwrap();
                    let gradient = |var: &candle_core::Var| gradients.get(var).map_or(Vec::new(), values);
                    (loss.to_scalar::<f32>().unwrap(), prompts.vars().iter().flat_map(gradient).collect::<Vec<_>>())
                });
                assert_near("loss", &[cuda.0], &[cpu.0], most);
                assert_near(&format!("gradients, {context}"), &cuda.1, &cpu.1, most_of_gradients);
            }
        }
        for optimizer in [Optimizer::Adamw, Optimizer::Adam, Optimizer::Sgd] {
            let config = PromptConfig { optimizer, lr: 1e-3, weight_decay: 0.1, ..PromptConfig::default() };
            let [cpu, cuda] = [&Device::Cpu, device].map(|device| {
                let mut prompts = Prompts::new(encoder(device), &tokenizer, &classes, &config, 0).unwrap();
                prompts.begin(&Learning::after(0)).unwrap();
                let batches = [&[0, 1, 2][..], &[3, 4, 5], &[5, 0]].map(Batch::of);
                prompts.steps(4, &rows, &labels, &batches).unwrap();
                prompts.parameters().unwrap().values
            });
            assert_near(&format!("parameters after steps of {optimizer}"), &cuda, &cpu, most_of_gradients);
        }
    }
}

fn generators(device: &Device, most: f64) {
    let config = VaeConfig { epochs: 6, lr: 1e-3, hidden: 24, latent: 8, batch_size: 16, legacy_reparam: false };
    // of different sizes: 2 batches and 1 row left over, 1 batch, 3 batches
    let class = |(key, n): (u64, usize)| {
        let value = |i| (0.37 * (i * (key as usize + 1)) as f32).sin() + key as f32;
        ClassRows { key, rows: Rows::new(6, (0..n * 6).map(value).collect()) }
    };
    let classes = [(7, 33), (3, 10), (5, 41)].map(class);
    let together = fit_together(&classes, 6, 1, &config, device, || ()).unwrap();
    for (class, together) in classes.iter().zip(together) {
        let alone = fit(class, 1, &GeneratorConfig::Vae(config.clone()), || ());
        let losses = |losses: &[f64]| losses.iter().map(|&loss| loss as f32).collect::<Vec<_>>();
        assert_near("losses", &losses(&together.losses), &losses(&alone.losses), most);
        let [alone, together] = [alone, together].map(|fitted| match fitted.generator {
            Generator::Vae { decoder, .. } => {
                decoder.layers.iter().flat_map(|(w, b)| [&w[..], b].concat()).collect::<Vec<_>>()
            }
            other => panic!("not a VAE: {other:?}"),
        });
        assert_near("decoder", &together, &alone, most);
    }
}
