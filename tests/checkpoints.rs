//! Checkpoints as people have them: saved by today's transformers or by early ones, and relatives
//! of CLIP, which are refused by name.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use candle_core::{Device, Tensor, safetensors};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::{Rows, copy_checkpoint, fails, golden, image_folder, path, query, run};

/// A copy of the golden checkpoint, some pictures, and places for runs.
struct Place {
    dir: TempDir,
    model: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        let model = dir.path().join("clip");
        copy_checkpoint(&model);
        image_folder(&dir.path().join("data"), 2, 1);
        Place { dir, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes a JSON file of the checkpoint.
    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let file = self.model.join(file);
        let mut json = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut json);
        fs::write(file, json.to_string()).unwrap();
    }

    /// Adds tensors to the weights.
    fn add(&self, tensors: &[&str]) {
        let file = self.model.join("model.safetensors");
        let mut weights = safetensors::load(&file, &Device::Cpu).unwrap();
        for name in tensors {
            weights.insert((*name).to_owned(), Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap());
        }
        safetensors::save(&weights, &file).unwrap();
    }

    /// `extract` into the run `name` has to work.
    fn extract(&self, name: &str) -> BTreeMap<String, String> {
        let (data, run_dir) = (self.path("data"), self.path(name));
        run(&["extract", "--model", path(&self.model), "--data", path(&data), "--run", path(&run_dir)]);
        let rows = query(&run_dir, "SELECT sample_id, norm FROM embeddings");
        rows.iter().map(|row| row.split_once(',').unwrap()).map(|(id, norm)| (id.to_owned(), norm.to_owned())).collect()
    }

    /// `extract` has to fail with `parts`, and to write nothing.
    fn refused(&self, parts: &[&str]) {
        let (data, run_dir) = (self.path("data"), self.path("refused"));
        fails(&["extract", "--model", path(&self.model), "--data", path(&data), "--run", path(&run_dir)], parts);
        assert!(!run_dir.exists());
    }
}

#[test]
fn relatives_of_clip_are_refused_by_name() {
    for (key, value, expected) in [
        ("/model_type", "siglip2", ["model_type", "\"siglip2\"", "\"clip\""]),
        ("/model_type", "chinese_clip", ["model_type", "\"chinese_clip\"", "\"clip\""]),
        ("/model_type", "metaclip_2", ["model_type", "\"metaclip_2\"", "\"clip\""]),
        ("/text_config/model_type", "bert", ["text_config", "\"bert\"", "\"clip_text_model\""]),
        ("/vision_config/model_type", "siglip_vision_model", ["vision_config", "siglip", "\"clip_vision_model\""]),
        ("/vision_config/hidden_act", "gelu_new", ["vision_config", "\"gelu_new\"", "\"quick_gelu\", \"gelu\""]),
    ] {
        let place = Place::new();
        place.edit("config.json", |json| *json.pointer_mut(key).unwrap() = value.into());
        place.refused(&expected);
        place.refused(&["config.json"]);
    }
}

#[test]
fn a_configuration_that_does_not_say_its_model_is_clips_if_the_weights_are() {
    let place = Place::new();
    let unnamed = |json: &mut Value| {
        json.as_object_mut().unwrap().remove("model_type");
        json["text_config"].as_object_mut().unwrap().remove("model_type");
    };
    place.edit("config.json", unnamed);
    place.extract("run");

    let file = place.model.join("model.safetensors");
    let mut weights = safetensors::load(&file, &Device::Cpu).unwrap();
    weights.remove("text_projection.weight");
    safetensors::save(&weights, &file).unwrap();
    place.refused(&["model_type", "text_projection.weight"]);
}

#[test]
fn a_tensor_that_no_encoder_reads_is_an_error_that_names_it() {
    for extra in ["vision_model.head.probe", "vision_model.encoder.layers.0.ls1.gamma", "visual_projection.bias"] {
        let place = Place::new();
        place.add(&[extra]);
        place.refused(&[extra, path(&place.model)]);
    }
    // buffers that early checkpoints have are no weights
    let place = Place::new();
    let before = place.extract("before");
    place.add(&["vision_model.embeddings.position_ids", "text_model.embeddings.position_ids", "other.weight"]);
    assert_eq!(place.extract("after"), before);

    // those of the text encoder when texts are encoded
    place.add(&["text_model.head.weight", "text_model.head.bias"]);
    Rows::clouds(2, 3, 1).write(&place.path("table.parquet"));
    run(&["import", path(&place.path("table.parquet")), "--run", path(&place.path("imported"))]);
    fails(
        &[
            "baseline",
            "zero-shot",
            "--run",
            path(&place.path("imported")),
            "--tasks",
            "1",
            "--model",
            path(&place.model),
        ],
        &["text_model.head.bias", "1 more"],
    );
}

#[test]
fn weights_that_are_quantised_are_refused() {
    let place = Place::new();
    let file = place.model.join("model.safetensors");
    let mut weights = safetensors::load(&file, &Device::Cpu).unwrap();
    let name = "vision_model.encoder.layers.1.mlp.fc2.weight";
    let bytes = weights[name].to_dtype(candle_core::DType::U8).unwrap();
    weights.insert(name.to_owned(), bytes);
    safetensors::save(&weights, &file).unwrap();
    place.refused(&[name, "U8", "F32"]);
    // and number types that are not computed with at all
    let saved = fs::read(&file).unwrap();
    let at = saved.windows(4).position(|part| part == b"\"U8\"").unwrap();
    fs::write(&file, [&saved[..at], b"\"I8\"", &saved[at + 4..]].concat()).unwrap();
    place.refused(&[name, "is I8", "F32"]);
}

#[test]
fn one_file_of_weights_is_taken_before_an_index() {
    let place = Place::new();
    let before = place.extract("before");
    let index = place.model.join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"logit_scale": "model-00001-of-00001.safetensors"}}"#).unwrap();
    assert_eq!(place.extract("after"), before);
    fs::remove_file(place.model.join("model.safetensors")).unwrap();
    place.refused(&["has no model-00001-of-00001.safetensors"]);
}

/// Python, if it has what a conversion needs.
fn python() -> Option<&'static str> {
    let found = Command::new("python3").args(["-c", "import torch, safetensors"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some("python3");
    }
    eprintln!("skipped: python3 has no torch and safetensors");
    None
}

#[test]
fn weights_that_are_pickled_are_refused_with_what_converts_them() {
    let place = Place::new();
    let file = place.model.join("model.safetensors");
    for name in ["pytorch_model.bin", "open_clip_pytorch_model.bin", "ViT-B-32.pt"] {
        fs::remove_file(&file).ok();
        fs::write(place.model.join(name), "pickled").unwrap();
        place.refused(&[name, "python -c", "weights_only=True", path(&file)]);
        fs::remove_file(place.model.join(name)).unwrap();
    }

    // what is another program's does not hide the weights, and all parts of them are said
    for name in ["open_clip_pytorch_model.bin", "optimizer.pt", "pytorch_model-1.bin", "pytorch_model-2.bin"] {
        fs::write(place.model.join(name), "pickled").unwrap();
    }
    place.refused(&["pytorch_model-1.bin is a pickle", "pytorch_model-1.bin', '", "pytorch_model-2.bin']"]);
    for name in ["open_clip_pytorch_model.bin", "optimizer.pt", "pytorch_model-1.bin", "pytorch_model-2.bin"] {
        fs::remove_file(place.model.join(name)).unwrap();
    }

    // the line does what it says
    let Some(python) = python() else { return };
    let pickle = place.model.join("pytorch_model.bin");
    let whole = golden("checkpoint/model.safetensors");
    let make = format!(
        "import torch, safetensors.torch as s; d = s.load_file('{}'); \
         torch.save({{'epoch': 3, 'state_dict': {{'module.' + k: v for k, v in d.items()}}}}, '{}')",
        path(&whole),
        path(&pickle)
    );
    assert!(Command::new(python).args(["-c", &make]).status().unwrap().success());
    let (data, run_dir) = (place.path("data"), place.path("converted"));
    let extract = ["extract", "--model", path(&place.model), "--data", path(&data), "--run", path(&run_dir)];
    let message = fails(&extract, &["pytorch_model.bin"]);
    let (_, line) = message.split_once("python -c \"").unwrap();
    let (program, _) = line.rsplit_once('"').unwrap();
    assert!(Command::new(python).args(["-c", program]).status().unwrap().success(), "{program}");
    run(&extract);
}

#[test]
fn a_setting_that_cannot_be_is_named() {
    for (key, value, expected) in [
        ("/text_config/eos_token_id", Value::Null, "eos_token_id is null"),
        ("/text_config/eos_token_id", json!([49407]), "eos_token_id is [49407]"),
        ("/vision_config/num_attention_heads", json!(0), "0 heads"),
        ("/vision_config/num_hidden_layers", json!(0), "num_hidden_layers"),
        ("/vision_config/layer_norm_eps", json!(-1.0), "layer_norm_eps"),
        ("/vision_config/image_size", json!(0), "images of 0x0"),
        ("/projection_dim", json!("48"), "projection_dim"),
        ("/projection_dim", json!(64), "[64, 64]"),
    ] {
        let place = Place::new();
        place.edit("config.json", |json| *json.pointer_mut(key).unwrap() = value);
        place.refused(&[expected]);
    }
}

#[test]
fn configurations_as_early_copies_have_them_are_read() {
    let place = Place::new();
    let before = place.extract("before");
    place.edit("config.json", |json| {
        json["text_config_dict"] = json["text_config"].take();
        json["text_config"] = json!({});
        json["vision_config_dict"] = Value::Null;
    });
    assert_eq!(place.extract("after"), before);
    let config = |name: &str| {
        let manifest = fs::read_to_string(place.path(name).join("sources/base/plan.json")).unwrap();
        serde_json::from_str::<Value>(&manifest).unwrap()["model"]["config"].clone()
    };
    assert_eq!(config("before"), config("after"), "what is computed is the same");
}

#[test]
fn a_processor_saved_as_a_whole_is_read() {
    let place = Place::new();
    let before = place.extract("before");
    let alone = place.model.join("preprocessor_config.json");
    let settings: Value = serde_json::from_str(&fs::read_to_string(&alone).unwrap()).unwrap();
    let whole = place.model.join("processor_config.json");
    fs::write(&whole, json!({"image_processor": settings, "processor_class": "CLIPProcessor"}).to_string()).unwrap();
    fs::remove_file(&alone).unwrap();
    assert_eq!(place.extract("after"), before);

    place.edit("processor_config.json", |json| json["image_processor"]["resample"] = 2.into());
    place.refused(&["processor_config.json: image_processor: resample is 2"]);
    place.edit("processor_config.json", |json| json["image_processor"] = "CLIPImageProcessor".into());
    place
        .refused(&["processor_config.json: image_processor: expected an object of settings", "\"CLIPImageProcessor\""]);
    fs::write(&whole, "[1]").unwrap();
    place.refused(&["processor_config.json is not what a CLIP checkpoint has"]);
    // as older versions write it, beside the other file, or without
    fs::write(&whole, json!({"processor_class": "CLIPProcessor"}).to_string()).unwrap();
    place.refused(&["preprocessor_config.json", "processor_config.json", "image_processor"]);
    fs::write(&alone, settings.to_string()).unwrap();
    assert_eq!(place.extract("again"), before);
    fs::remove_file(&alone).unwrap();
    fs::remove_file(&whole).unwrap();
    place.refused(&["preprocessor_config.json", "processor_config.json"]);
}

#[test]
fn what_a_preprocessing_leaves_out_is_as_transformers_has_it() {
    let place = Place::new();
    let before = place.extract("before");
    place.edit("preprocessor_config.json", |json| {
        for key in ["image_mean", "image_std", "resample", "do_resize", "rescale_factor"] {
            json.as_object_mut().unwrap().remove(key);
        }
        json["do_rescale"] = Value::Null;
        json["image_processor_type"] = "CLIPImageProcessor".into();
    });
    assert_eq!(place.extract("after"), before);
    place.edit("preprocessor_config.json", |json| json["image_processor_type"] = "SiglipImageProcessor".into());
    place
        .refused(&["preprocessor_config.json: image_processor_type is \"SiglipImageProcessor\"", "CLIPImageProcessor"]);
    place.edit("preprocessor_config.json", |json| {
        json["image_processor_type"] = "CLIPImageProcessor".into();
        json["do_center_crop"] = false.into();
    });
    place.refused(&["do_center_crop is false"]);
    place.edit("preprocessor_config.json", |json| {
        json["do_center_crop"] = true.into();
        json["size"]["longest_edge"] = 80.into();
    });
    place.refused(&["preprocessor_config.json: size: longest_edge is 80"]);
}

#[test]
fn the_identity_of_a_configuration_is_what_it_says_not_how() {
    let place = Place::new();
    let config = |place: &Place| {
        let checkpoint = cgil::clip::Checkpoint::open(Path::new(&place.model)).unwrap();
        checkpoint.id().unwrap().config
    };
    let before = config(&place);
    // what artefacts have recorded stays what it is
    assert_eq!(before, "28614a3e963ce9ae459719a3f3fc1df84d6c3d831d4e2b52602c2bac87d9f262");
    place.edit("config.json", |json| {
        json["transformers_version"] = "4.0".into();
        json["vision_config"]["attention_dropout"] = 0.5.into();
        json["vision_config"].as_object_mut().unwrap().remove("num_channels"); // its default
    });
    assert_eq!(config(&place), before);
    place.edit("config.json", |json| json["vision_config"]["layer_norm_eps"] = 2e-5.into());
    assert_ne!(config(&place), before);
}
