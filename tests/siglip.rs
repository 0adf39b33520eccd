//! SigLIP and SigLIP 2, as transformers saves them, against transformers by golden vectors.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors};
use cgil::{
    clip::{Checkpoint, image::Workspace},
    prompt::{Context, Learner, PromptConfig, cpu, tensor},
    task::Class,
};
use image::ImageFormat;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{
    export::answers_from_pixels,
    parity::{dtypes, half_precision_embeddings, image_embeddings, least_cosine, text_features},
    support::{
        assert_close, encoded, fails, golden, golden_tensors, image_folder, imported, path, picture, query, run, values,
    },
};

const MODELS: [&str; 2] = ["siglip", "siglip2"];
const DIM: usize = 24;

fn facts() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("siglip.json")).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The directory of a golden model.
fn directory(name: &str) -> TempDir {
    let dir = tempdir().unwrap();
    for (file, content) in facts()["models"][name].as_object().unwrap() {
        fs::write(dir.path().join(file), content.to_string()).unwrap();
    }
    let (weights, other) = (format!("{name}/"), format!("{name}."));
    let mut saved = HashMap::new();
    for (key, tensor) in golden_tensors("siglip.safetensors") {
        if let Some(key) = key.strip_prefix(&weights) {
            saved.insert(key.to_owned(), tensor);
        } else if let Some(file) = key.strip_prefix(&other).filter(|key| key.ends_with(".model")) {
            fs::write(dir.path().join(file), tensor.to_vec1::<u8>().unwrap()).unwrap();
        }
    }
    safetensors::save(&saved, dir.path().join("model.safetensors")).unwrap();
    dir
}

/// Changes a JSON file of a directory.
fn edit(dir: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let file = dir.join(file);
    let mut json = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    change(&mut json);
    fs::write(file, json.to_string()).unwrap();
}

#[test]
fn tokens_and_features_are_transformers() {
    let (facts, expected) = (facts(), golden_tensors("siglip.safetensors"));
    for name in MODELS {
        let dir = directory(name);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let golden_values = |what: &str| values(&expected[&format!("{name}.{what}")]);
        let (tokenizer, texts) = (checkpoint.tokenizer().unwrap(), strings(&facts["texts"]));
        let ids = texts.iter().flat_map(|text| tokenizer.encode(text, 0).unwrap());
        assert_eq!(ids.map(|id| id as f32).collect::<Vec<_>>(), golden_values("ids"), "{name}");
        for found in text_features(&checkpoint, &texts) {
            assert_close(name, &found, &golden_values("text_features"), 1e-4);
        }
        let preprocess = checkpoint.preprocess().unwrap();
        let pixels: Vec<u8> = strings(&facts["pictures"])
            .iter()
            .flat_map(|name| preprocess.pixels(&fs::read(golden(name)).unwrap()).unwrap())
            .collect();
        for found in image_embeddings(&checkpoint, &pixels) {
            let cosine = least_cosine(&found, &golden_values("image_features"), DIM);
            assert!(cosine >= 0.9999, "{name}: cosine {cosine}");
        }
    }
}

#[test]
fn graphs_from_pixels_answer_as_classify_does() {
    MODELS.map(directory).iter().for_each(|dir| answers_from_pixels(dir.path()));
}

/// Whatever other images are encoded with one, its embedding is the same to the last bit: a source's
/// embeddings do not depend on how it is cut into shards, nor on what else is delivered with it.
#[test]
fn an_image_has_one_embedding_alone_or_among_others() {
    let siglip = MODELS.map(directory);
    // of products of 64 rows and columns at most, gemm cuts sums otherwise: no CLIP is as narrow
    let demo = PathBuf::from("data/demo/clip");
    let checkpoints: Vec<PathBuf> = siglip.iter().map(|dir| dir.path().to_owned()).chain([demo]).collect();
    for path in checkpoints {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let preprocess = checkpoint.preprocess().unwrap();
        let normalisation = preprocess.normalisation();
        let pictures = (0..11).map(|i| encoded(picture(i % 4, i, 90), ImageFormat::Png));
        let pixels: Vec<u8> = pictures.flat_map(|bytes| preprocess.pixels(&bytes).unwrap()).collect();
        for dtype in dtypes() {
            let encoder = checkpoint.image_encoder(&Device::Cpu, dtype).unwrap();
            let (each, mut workspace) = (pixels.len() / 11, Workspace::default());
            let mut encode = |images: usize| -> Vec<f32> {
                let encode = |some| encoder.encode(some, &normalisation, &mut workspace).unwrap();
                pixels.chunks(images * each).flat_map(encode).collect()
            };
            let together = encode(11);
            assert_eq!(together.len(), 11 * encoder.dim());
            for images in [1, 2, 3, 5, 10] {
                assert!(encode(images) == together, "{}: {images} at a time in {dtype:?}", path.display());
            }
        }
    }
}

#[test]
fn prompts_have_pytorchs_features_and_gradients() {
    let (facts, expected) = (facts(), golden_tensors("siglip.safetensors"));
    let classes: Vec<Class> = (0..).zip(strings(&facts["names"])).map(|(label, name)| Class { label, name }).collect();
    let config = PromptConfig { context: Context::Class, n_ctx: 3, ..PromptConfig::default() };
    for name in MODELS {
        let dir = directory(name);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        let golden = |what: &str| values(&expected[&format!("{name}.prompts.{what}")]);
        let labels: Vec<u32> = golden("labels").into_iter().map(|label| label as u32).collect();
        let (embeddings, shape) = (golden("embeddings"), vec![classes.len(), 3, 16]);
        let contexts = || [("contexts".to_owned(), (shape.clone(), golden("contexts")))].into_iter().collect();
        let check = |learner: &mut dyn Learner, loss: f32, gradient: &[f32]| {
            assert_close(&format!("{name}: keys"), &learner.keys(3).unwrap(), &golden("keys"), 1e-4);
            assert_close(&format!("{name}: loss"), &[loss], &golden("loss"), 1e-4);
            assert_close(&format!("{name}: gradient"), gradient, &golden("gradient"), 1e-3);
        };

        let encoder = checkpoint.text_encoder(&tokenizer).unwrap();
        let mut prompts = cpu::Prompts::new(encoder, &tokenizer, &classes, &config, 0).unwrap();
        let mut parameters = prompts.parameters().unwrap();
        parameters.load(contexts(), 3).unwrap();
        prompts.set_parameters(parameters.clone()).unwrap();
        let loss = prompts.loss(3, &embeddings, &labels);
        let gradient = prompts.gradient(parameters.contexts()).to_vec();
        check(&mut prompts, loss, &gradient);

        let encoder = checkpoint.text_encoder_on(&Device::Cpu).unwrap();
        let mut prompts = tensor::Prompts::new(encoder, &tokenizer, &classes, &config, 0).unwrap();
        prompts.set_parameters(parameters).unwrap();
        let rows = Tensor::from_vec(embeddings, (labels.len(), DIM), &Device::Cpu).unwrap();
        let (loss, gradients) = prompts.loss(3, &rows, &Tensor::new(labels, &Device::Cpu).unwrap()).unwrap();
        let gradient = values(gradients.get(&prompts.vars()[0]).unwrap());
        check(&mut prompts, loss.to_scalar().unwrap(), &gradient);
    }
}

#[test]
fn all_stages_run_with_siglip() {
    for (name, more) in MODELS.into_iter().zip([&["--context", "combined"][..], &["--context", "image"]]) {
        let (dir, model) = (tempdir().unwrap(), directory(name));
        let run_dir = dir.path().join("run");
        let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo/pictures");
        run(&["extract", "--model", path(model.path()), "--data", path(&pictures), "--run", path(&run_dir)]);
        run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "1"]);
        let tune = ["prompt-tune", "--run", path(&run_dir), "--epochs", "1", "--samples", "1"];
        run(&[&tune[..], more].concat());
        assert_eq!(query(&run_dir, "SELECT count(*) FROM metrics WHERE metric = 'faa'"), ["1"], "{name}");
        // the tokenizer's settings decide what is learned
        edit(model.path(), "tokenizer_config.json", |json| json["pad_token"] = "<unk>".into());
        fails(&[&tune[..], more].concat(), &["tokenizer"]);
    }
}

#[test]
fn a_setting_of_siglips_that_cannot_be_followed_is_named() {
    for (name, file, key, value, parts) in [
        ("siglip", "config.json", "/model_type", json!("siglip2"), &["\"siglip2\"", "NaFlex", "\"siglip\""][..]),
        ("siglip", "config.json", "/vision_config/vision_use_head", json!(false), &["vision_use_head is false"]),
        ("siglip", "config.json", "/text_config/projection_size", json!(16), &["16 values", "images 24"]),
        ("siglip", "config.json", "/vision_config/patch_size", json!([8, 8]), &["vision_config: patch_size is [8,8]"]),
        ("siglip", "config.json", "/text_config/model_type", json!("bert"), &["text_config", "\"bert\""]),
        ("siglip", "tokenizer_config.json", "/pad_token", Value::Null, &["no pad_token"]),
        ("siglip2", "tokenizer_config.json", "/pad_token", json!("<none>"), &["tokenizer.json has no \"<none>\""]),
        (
            "siglip2",
            "tokenizer_config.json",
            "/padding_side",
            json!("left"),
            &["padding_side is \"left\"", "\"right\""],
        ),
        ("siglip2", "tokenizer_config.json", "/eos_token", json!("<bos>"), &["does not end texts with \"<bos>\""]),
        ("siglip", "preprocessor_config.json", "/resample", json!(0), &["resample is 0", "bilinear"]),
        ("siglip", "preprocessor_config.json", "/do_resize", json!(false), &["do_resize is false"]),
        ("siglip", "preprocessor_config.json", "/size/height", json!(31), &["height and width"]),
        (
            "siglip",
            "preprocessor_config.json",
            "/image_processor_type",
            json!("CLIPImageProcessor"),
            &["\"CLIPImageProcessor\"", "SiglipImageProcessor"],
        ),
    ] {
        let dir = directory(name);
        edit(dir.path(), file, |json| {
            let (part, key) = key.rsplit_once('/').unwrap();
            json.pointer_mut(part).unwrap()[key] = value;
        });
        let error = Checkpoint::open(dir.path()).and_then(|checkpoint| {
            checkpoint.preprocess()?;
            checkpoint.tokenizer().map(|_| ())
        });
        let error = format!("{:#}", error.expect_err(key));
        for part in [&[file], parts].concat() {
            assert!(error.contains(part), "{key}: {part:?} in {error}");
        }
    }
}

#[test]
fn siglips_tokenizer_is_the_same_as_tokenizer_json() {
    let (dir, texts) = (directory("siglip"), strings(&facts()["texts"]));
    let ids = || {
        let tokenizer = Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap();
        texts.iter().map(|text| tokenizer.encode(text, 5).unwrap()).collect::<Vec<_>>()
    };
    let expected = ids();
    assert!(expected.iter().all(|ids| ids.len() == 64 - 5));
    fs::remove_file(dir.path().join("spiece.model")).unwrap();
    fs::write(dir.path().join("tokenizer.json"), facts()["whole"].to_string()).unwrap();
    assert_eq!(ids(), expected);
}

#[test]
fn a_tokenizer_of_siglips_that_is_not_whole_is_named() {
    let dir = directory("siglip");
    let opened = || Checkpoint::open(dir.path()).unwrap().tokenizer().err().map(|error| format!("{error:#}"));
    assert_eq!(opened(), None);
    let file = dir.path().join("spiece.model");
    let whole = fs::read(&file).unwrap();
    for bytes in [&whole[..whole.len() - 1], b"\xff\xff", &whole[..100]] {
        fs::write(&file, bytes).unwrap();
        let error = opened().unwrap();
        assert!(error.contains("spiece.model is no SentencePiece unigram model"), "{error}");
    }
    fs::remove_file(&file).unwrap();
    let error = opened().unwrap();
    for part in ["no tokenizer.json, and no spiece.model", "google/siglip-base-patch16-224"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_name_and_context_vectors_that_do_not_fit_the_positions_are_refused() {
    let (dir, model) = (tempdir().unwrap(), directory("siglip2"));
    let (data, run_dir): (PathBuf, PathBuf) = (dir.path().join("data"), dir.path().join("run"));
    image_folder(&data, 3, 1);
    run(&["extract", "--model", path(model.path()), "--data", path(&data), "--run", path(&run_dir)]);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "1", "--epochs", "1"]);
    fails(&["prompt-tune", "--run", path(&run_dir), "--n-ctx", "63"], &["64", "fewer context vectors"]);
    // embeddings of another SigLIP's size
    let other = imported(dir.path(), "other", &crate::support::Rows::clouds(2, 3, 1));
    fails(
        &["baseline", "zero-shot", "--run", path(&other), "--tasks", "1", "--model", path(model.path())],
        &["48 values", "projects to 24"],
    );
}

#[test]
fn half_precision_embeddings_of_siglips_point_the_same_way() {
    let dir = directory("siglip");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let pixels: Vec<u8> = (0..2 * 3 * 32 * 32).map(|i| (128.0 + 127.0 * (0.37 * i as f32).sin()) as u8).collect();
    let [expected, _] = image_embeddings(&checkpoint, &pixels);
    for found in half_precision_embeddings(&checkpoint, &pixels) {
        let cosine = least_cosine(&found, &expected, DIM);
        assert!(cosine >= 0.999, "cosine {cosine}");
    }
}
