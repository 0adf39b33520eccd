//! Checkpoints as OpenCLIP lays them out, against OpenCLIP by golden vectors; and those that are
//! refused by name.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};
use cgil::clip::Checkpoint;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{
    export::answers_from_pixels,
    parity::{image_embeddings, least_cosine, text_features},
    support::{copy_checkpoint, fails, golden, golden_tensors, image_folder, path, query, run, values},
};

const MODELS: [&str; 3] = ["gelu", "quick", "scaled"];
const DIM: usize = 24;

fn facts() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("open_clip.json")).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The directory of a golden model.
fn directory(name: &str) -> TempDir {
    let dir = tempdir().unwrap();
    let prefix = format!("{name}/");
    let weights: HashMap<String, Tensor> = golden_tensors("open_clip.safetensors")
        .into_iter()
        .filter_map(|(key, tensor)| Some((key.strip_prefix(&prefix)?.to_owned(), tensor)))
        .collect();
    safetensors::save(&weights, dir.path().join("open_clip_model.safetensors")).unwrap();
    fs::write(dir.path().join("open_clip_config.json"), facts()["models"][name].to_string()).unwrap();
    fs::copy(demo("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    dir
}

/// A file of the embedded CLIP.
fn demo(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo/clip").join(file)
}

/// Changes the settings of a directory.
fn edit(dir: &Path, change: impl FnOnce(&mut Value)) {
    let file = dir.join("open_clip_config.json");
    let mut json = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    change(&mut json);
    fs::write(file, json.to_string()).unwrap();
}

/// The golden pictures' pixels, as a checkpoint prepares them.
fn pixels(checkpoint: &Checkpoint, pictures: &Value) -> Vec<u8> {
    let preprocess = checkpoint.preprocess().unwrap();
    strings(pictures).iter().flat_map(|name| preprocess.pixels(&fs::read(golden(name)).unwrap()).unwrap()).collect()
}

#[test]
fn graphs_from_pixels_answer_as_classify_does() {
    MODELS.map(directory).iter().for_each(|dir| answers_from_pixels(dir.path()));
}

#[test]
fn features_are_open_clips() {
    let (facts, expected) = (facts(), golden_tensors("open_clip.safetensors"));
    for name in MODELS {
        let dir = directory(name);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let features = |what: &str| values(&expected[&format!("{name}.{what}_features")]);
        for found in image_embeddings(&checkpoint, &pixels(&checkpoint, &facts["pictures"])) {
            let cosine = least_cosine(&found, &features("image"), DIM);
            assert!(cosine >= 0.9999, "{name}, images: cosine {cosine}");
        }
        for found in text_features(&checkpoint, &strings(&facts["texts"])) {
            let cosine = least_cosine(&found, &features("text"), DIM);
            assert!(cosine >= 0.99999, "{name}, texts: cosine {cosine}");
        }
    }
}

#[test]
fn all_stages_run_with_a_checkpoint_of_open_clips() {
    let (dir, model) = (tempdir().unwrap(), directory("scaled"));
    let (data, run_dir) = (dir.path().join("data"), dir.path().join("run"));
    image_folder(&data, 5, 2);
    run(&["extract", "--model", path(model.path()), "--data", path(&data), "--run", path(&run_dir)]);
    run(&["fit-vae", "--run", path(&run_dir), "--tasks", "2", "--epochs", "2"]);
    run(&["prompt-tune", "--run", path(&run_dir), "--epochs", "1"]);
    let accuracy = query(&run_dir, "SELECT count(*) FROM metrics WHERE metric = 'faa'");
    assert_eq!(accuracy, ["1"]);
    // another reading of the same weights is not the model of this run
    edit(model.path(), |json| json["model_cfg"]["quick_gelu"] = true.into());
    edit(model.path(), |json| json["model_cfg"]["vision_cfg"]["act_kwargs"] = Value::Null);
    fails(&["prompt-tune", "--run", path(&run_dir), "--epochs", "2"], &["open_clip_config.json", "restore"]);
}

#[test]
fn what_is_no_plain_open_clip_is_refused_by_name() {
    for (key, value, parts) in [
        ("vision_cfg/timm_model_name", json!("eva02_base_patch16_clip_224"), ["eva02_base_patch16_clip_224", "timm"]),
        ("vision_cfg/timm_model_name", json!("convnext_base"), ["convnext_base", "timm"]),
        ("vision_cfg/layers", json!([3, 4, 6, 3]), ["[3,4,6,3]", "ResNet"]),
        ("vision_cfg/attentional_pool", json!(true), ["attentional_pool", "CoCa"]),
        ("vision_cfg/no_ln_pre", json!(true), ["no_ln_pre is true", "not known"]),
        ("vision_cfg/pool_type", json!("avg"), ["pool_type is \"avg\"", "another way"]),
        ("vision_cfg/head_width", json!(0), ["head_width is 0", "above 0"]),
        ("vision_cfg/image_size", json!([32, 64]), ["image_size", "squares"]),
        ("vision_cfg/act_kwargs", json!({"approximate": "none"}), ["act_kwargs", "tanh"]),
        ("text_cfg/hf_model_name", json!("roberta-base"), ["roberta-base", "text encoder"]),
        ("text_cfg/embed_cls", json!(true), ["embed_cls", "CoCa"]),
        ("text_cfg/no_causal_mask", json!(true), ["no_causal_mask is true", "causal"]),
        ("text_cfg/pool_type", json!("last"), ["pool_type is \"last\"", "text_cfg"]),
        ("text_cfg/proj_bias", json!(true), ["proj_bias is true", "text_cfg"]),
        ("multimodal_cfg", json!({"width": 512}), ["multimodal_cfg", "CoCa"]),
        ("embed_dim", json!("24"), ["embed_dim is \"24\"", "above 0"]),
    ] {
        let dir = directory("gelu");
        edit(dir.path(), |json| {
            let (part, key) = key.split_once('/').map_or(("", key), |(part, key)| (part, key));
            let model = &mut json["model_cfg"];
            *(if part.is_empty() { &mut model[key] } else { &mut model[part][key] }) = value;
        });
        let error = format!("{:#}", Checkpoint::open(dir.path()).err().expect(key));
        for part in parts.into_iter().chain(["open_clip_config.json: model_cfg"]) {
            assert!(error.contains(part), "{key}: {part:?} in {error}");
        }
    }
    let dir = directory("gelu");
    edit(dir.path(), |json| json["preprocess_cfg"] = json!({"resize_mode": "longest"}));
    let error = format!("{:#}", Checkpoint::open(dir.path()).unwrap().preprocess().err().unwrap());
    assert!(error.contains("open_clip_config.json: preprocess_cfg: resize_mode is \"longest\""), "{error}");
}

#[test]
fn layer_scale_that_is_not_there_or_not_said_is_named() {
    let data = tempdir().unwrap();
    image_folder(data.path(), 1, 1);
    for (name, value, part) in [
        ("gelu", json!(1e-4), "lack \"visual.transformer.resblocks.0.ls_1.gamma\""),
        ("scaled", Value::Null, "ls_1.gamma"),
    ] {
        let dir = directory(name);
        edit(dir.path(), |json| json["model_cfg"]["vision_cfg"]["ls_init_value"] = value);
        let run_dir = dir.path().join("run");
        fails(
            &["extract", "--model", path(dir.path()), "--data", path(data.path()), "--run", path(&run_dir)],
            &[part, "open_clip_config.json"],
        );
    }
}

#[test]
fn weights_in_several_files_and_of_any_precision_are_read() {
    let dir = directory("quick");
    let opened = || Checkpoint::open(dir.path()).unwrap();
    let (facts, expected) = (facts(), values(&golden_tensors("open_clip.safetensors")["quick.text_features"]));
    let whole = dir.path().join("open_clip_model.safetensors");
    let weights = safetensors::load(&whole, &Device::Cpu).unwrap();
    fs::remove_file(&whole).unwrap();
    for name in ["open_clip_model.safetensors", "model.safetensors"] {
        let (mut parts, mut map) = ([HashMap::new(), HashMap::new()], serde_json::Map::new());
        for (i, (weight, tensor)) in weights.iter().enumerate() {
            let dtype = [DType::BF16, DType::F32, DType::F16, DType::F64][i % 4];
            parts[i % 2].insert(weight.clone(), tensor.to_dtype(dtype).unwrap());
            map.insert(weight.clone(), format!("{}-{name}", i % 2).into());
        }
        for (i, part) in parts.iter().enumerate() {
            safetensors::save(part, dir.path().join(format!("{i}-{name}"))).unwrap();
        }
        let index = dir.path().join(format!("{name}.index.json"));
        fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
        for found in text_features(&opened(), &strings(&facts["texts"])) {
            let cosine = least_cosine(&found, &expected, DIM);
            assert!(cosine >= 0.9999, "{name}: cosine {cosine}"); // a quarter is rounded to bfloat16
        }
        fs::remove_file(index).unwrap();
    }
}

#[test]
fn a_directory_with_both_layouts_is_transformers_where_that_is_whole() {
    let dir = tempdir().unwrap();
    let model = dir.path().join("clip");
    copy_checkpoint(&model);
    let alone = Checkpoint::open(&model).unwrap().id().unwrap();
    let other = directory("gelu");
    for file in ["open_clip_config.json", "open_clip_model.safetensors"] {
        fs::copy(other.path().join(file), model.join(file)).unwrap();
    }
    assert_eq!(Checkpoint::open(&model).unwrap().id().unwrap(), alone);
    // a config.json of timm's is none of transformers'
    fs::write(model.join("config.json"), r#"{"architecture": "vit_base_patch32_clip_224"}"#).unwrap();
    assert_eq!(Checkpoint::open(&model).unwrap().config.projection_dim, DIM);
    fs::copy(golden("checkpoint/config.json"), model.join("config.json")).unwrap();
    fs::remove_file(model.join("model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(&model).unwrap().config.projection_dim, DIM);
}

#[test]
fn a_tokenizer_of_ids_and_merges_is_read_and_none_is_said_how_to_get() {
    let dir = directory("gelu");
    let tokens = |text: &str| Checkpoint::open(dir.path()).unwrap().tokenizer().unwrap().encode(text, 0).unwrap();
    let texts = ["a photo of a red circle", "Blue  STAR, isn't it?", "3 moons"];
    let expected: Vec<Vec<u32>> = texts.iter().map(|text| tokens(text)).collect();
    let whole: Value = serde_json::from_str(&fs::read_to_string(demo("tokenizer.json")).unwrap()).unwrap();
    let merges: Vec<Vec<String>> = serde_json::from_value(whole["model"]["merges"].clone()).unwrap();
    let lines: Vec<String> = merges.iter().map(|pair| pair.join(" ")).collect();
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    fs::write(dir.path().join("vocab.json"), whole["model"]["vocab"].to_string()).unwrap();
    fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{}\n", lines.join("\n"))).unwrap();
    assert_eq!(texts.iter().map(|text| tokens(text)).collect::<Vec<_>>(), expected);

    fs::remove_file(dir.path().join("merges.txt")).unwrap();
    edit(dir.path(), |json| json["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "facebook/xlm-v-base".into());
    let error = format!("{:#}", Checkpoint::open(dir.path()).unwrap().tokenizer().err().unwrap());
    for part in ["no tokenizer.json", "merges.txt", "from_pretrained('facebook/xlm-v-base').save_pretrained"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
}
