//! `cgil doctor`: what the machine has, and whether what was asked for can be used.

use std::fs;

use tempfile::tempdir;

use crate::support::{command, copy_checkpoint, golden, image_folder, path, text};

/// What `cgil doctor` printed, what it said, and its exit code.
fn doctor(args: &[&str]) -> (String, String, Option<i32>) {
    let output =
        command(&[&["doctor"], args].concat()).env("HF_HOME", "/nowhere/hf").env("RAYON_NUM_THREADS", "3").output();
    let output = output.unwrap();
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(!said.contains("panicked"), "{said}");
    (printed, said, output.status.code())
}

#[test]
fn the_machine_alone() {
    let dir = tempdir().unwrap();
    let (printed, said, code) = doctor(&["--run", path(&dir.path().join("runs/mine"))]);
    assert_eq!((code, &said[..]), (Some(0), ""), "{printed}");
    for part in [
        "cgil 0.",
        "3 on ",
        " available of ",
        "free in ",
        "runs/mine, which is not there yet",
        "/nowhere/hf/hub, which is not there yet",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    if !cfg!(feature = "cuda") {
        assert!(printed.contains("built without CUDA") && printed.contains("--features cuda"), "{printed}");
    }
    if cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("avx2") {
        assert!(printed.contains("avx2, fma"), "{printed}");
    }
    assert!(!dir.path().join("runs").exists());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (_, said, code) = doctor(&["--run", path(&file.join("run"))]);
    assert!(code == Some(1) && said.contains("this machine"), "{said}");
}

#[test]
fn a_checkpoint_and_images_that_can_be_used() {
    let dir = tempdir().unwrap();
    image_folder(dir.path(), 3, 2);
    fs::create_dir(dir.path().join("train/no pictures")).unwrap();
    let (printed, said, code) = doctor(&["--model", path(&golden("checkpoint")), "--data", path(dir.path())]);
    assert_eq!((code, &said[..]), (Some(0), ""), "{printed}");
    for part in [
        "the image encoder loads",
        "the text encoder loads",
        "to 48 values",
        "million for images",
        "bicubic",
        "image folder, 4 classes, 12 train and 8 test images",
        "forest, red",
        "no pictures",
        "train: ",
        "×68 pixels",
        "3.8 kB of disk", // 20 rows of 48 values of 4 bytes
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
}

#[test]
fn what_cannot_be_used_is_told_with_what_to_do_and_fails() {
    let dir = tempdir().unwrap();
    let model = dir.path().join("clip");
    copy_checkpoint(&model);
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    let (printed, said, code) = doctor(&["--model", path(&model)]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("the image encoder loads") && printed.contains("tokenizer.json"), "{printed}");
    assert!(said.contains(&format!("checkpoint {}", path(&model))), "{said}");

    fs::remove_file(model.join("model.safetensors")).unwrap();
    let data = dir.path().join("data");
    image_folder(&data, 2, 1);
    fs::write(data.join("train/forest/000.jpg"), "no picture").unwrap();
    let (printed, said, code) = doctor(&["--model", path(&model), "--data", path(&data)]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("model.safetensors") && printed.contains("forest/000.jpg"), "{printed}");
    assert!(said.contains("checkpoint") && said.contains("images"), "{said}");

    let (printed, _, code) = doctor(&["--data", path(&dir.path().join("nowhere"))]);
    assert!(code == Some(1) && printed.contains("nowhere is not there"), "{printed}");
}
