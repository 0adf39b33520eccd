//! Images that cannot be used, one or all: they go to the quarantine, and what needs them says so.

use std::fs;

use image::{ImageFormat, RgbImage};
use tempfile::tempdir;

use crate::support::{encoded, ended, fails, golden, image_folder, number, path, picture, query, run, text};

#[test]
fn images_that_cannot_be_used_go_to_the_quarantine() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 6, 3);
    let jpeg = encoded(picture(0, 0, 200), ImageFormat::Jpeg);
    let png = encoded(picture(0, 0, 200), ImageFormat::Png);
    // a header that claims 60000x60000 pixels, with the checksum that belongs to it
    let mut vast = png.clone();
    vast[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    vast[29..33].copy_from_slice(&[0x0f, 0xb0, 0xe2, 0x15]);
    // a frame without pixels in a picture without
    let gif = [b"GIF89a\0\0\0\0\x80\0\0\0\0\0\xff\xff\xff,".to_vec(), vec![0; 9], b"\x02\x01\x44\0;".to_vec()].concat();
    for (name, bytes) in [
        ("train/forest/half.jpg", &jpeg[..jpeg.len() / 2]),
        ("train/forest/tail.jpg", &jpeg[..jpeg.len() - 40]),
        ("train/river/half.png", &png[..png.len() / 2]),
        ("test/river/empty.jpg", &[]),
        ("test/forest/text.webp", b"this is text"),
        ("test/forest/thread.png", &encoded(RgbImage::new(1, 60_000), ImageFormat::Png)),
        ("test/forest/vast.png", &vast),
        ("test/forest/flat.ppm", b"P6\n5 0\n255\n"),
        ("test/forest/narrow.ppm", b"P6\n0 5\n255\n"),
        ("test/forest/nothing.gif", &gif),
    ] {
        fs::write(data.join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("/nowhere", data.join("train/river/link.jpg")).unwrap();
    run(&["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir), "--shard-rows", "8"]);
    let quarantined = query(&run_dir, "SELECT sample_id, stage FROM quarantine ORDER BY sample_id");
    assert_eq!(
        quarantined,
        [
            "test/forest/flat.ppm,decode",
            "test/forest/narrow.ppm,decode",
            "test/forest/nothing.gif,decode",
            "test/forest/text.webp,decode",
            "test/forest/thread.png,decode",
            "test/forest/vast.png,decode",
            "test/river/empty.jpg,decode",
            "train/forest/half.jpg,decode",
            "train/forest/tail.jpg,decode",
            "train/river/half.png,decode",
            "train/river/link.jpg,read"
        ]
    );
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine WHERE error = ''"), 0.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine WHERE error LIKE 'the picture is empty%'"), 3.0);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine WHERE error LIKE '60000x60000 pixels%'"), 1.0);
    assert_eq!(
        number(
            &run_dir,
            "SELECT COUNT(*) FROM quarantine WHERE error LIKE '1x60000 pixels would become 64x3840000, more than 512 MiB'"
        ),
        1.0
    );
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings"), 36.0);
}

#[test]
fn a_source_of_which_nothing_can_be_used() {
    let dir = tempdir().unwrap();
    let (data, run_dir) = (dir.path().join("images"), dir.path().join("run"));
    for split in ["train", "test"] {
        fs::create_dir_all(data.join(split).join("fox")).unwrap();
        fs::write(data.join(split).join("fox/a.jpg"), "text").unwrap();
    }
    fails(
        &["extract", "--model", path(&golden("checkpoint")), "--data", path(&data), "--run", path(&run_dir)],
        &["none of the 2 images", "quarantine"],
    );
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine"), 2.0);
    fails(
        &[
            "extract",
            "--model",
            path(&golden("checkpoint")),
            "--data",
            path(&dir.path().join("nowhere")),
            "--run",
            path(&run_dir),
        ],
        &["nowhere", "is not there"],
    );
    fails(
        &[
            "extract",
            "--model",
            path(&golden("checkpoint")),
            "--data",
            path(&data.join("train/fox")),
            "--run",
            path(&run_dir),
        ],
        &["holds no images", "SPLIT/CLASS"],
    );
}

#[test]
fn embeddings_removed_to_be_made_anew_leave_no_quarantine_behind() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 2, 1);
    fs::write(data.join("train/river/broken.jpg"), "text").unwrap();
    let args = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
    run(&args);
    fs::remove_file(run_dir.join("sources/base/plan.json")).unwrap();
    fails(&args, &["lost its plan.json", "part-00000.parquet", "remove"]);
    fs::remove_dir_all(run_dir.join("sources")).unwrap();
    fs::remove_file(data.join("train/river/broken.jpg")).unwrap();
    run(&args);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine"), 0.0);
}

#[test]
fn a_shard_made_again_takes_its_quarantine_along() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 2, 1);
    let (image, shard) =
        (data.join("train/river/001.png"), run_dir.join("sources/base/embeddings/train/part-00000.parquet"));
    let good = fs::read(&image).unwrap();
    fs::write(&image, vec![0; good.len()]).unwrap();
    let args = ["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)];
    assert!(run(&args).contains("1 quarantined"));
    fs::write(&image, good).unwrap();
    fs::remove_file(shard).unwrap();
    assert!(run(&args).contains("12 embeddings of 48 values, 0 quarantined"));
}

#[test]
fn odd_sources_lose_and_double_nothing() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 1, 1);
    std::os::unix::fs::symlink(".", data.join("train/river/self")).unwrap();
    fs::write(data.join("notes.parquet"), "not a shard").unwrap();
    // the standard allows fill bytes before a marker
    let jpeg = encoded(picture(0, 0, 64), ImageFormat::Jpeg);
    fs::write(data.join("train/river/fill.jpg"), [&jpeg[..2], &[0xff, 0xff], &jpeg[2..]].concat()).unwrap();
    let printed = run(&["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)]);
    assert!(printed.contains("9 images") && printed.contains("0 quarantined"), "{printed}");
}

#[test]
fn a_class_without_rows_is_named_and_why_its_images_could_not_be_used() {
    let dir = tempdir().unwrap();
    let (data, run_dir, model) = (dir.path().join("images"), dir.path().join("run"), golden("checkpoint"));
    image_folder(&data, 2, 1);
    for file in ["000.jpg", "001.png"] {
        fs::write(data.join("train/river").join(file), "text").unwrap();
    }
    run(&["extract", "--model", path(&model), "--data", path(&data), "--run", path(&run_dir)]);
    let tasks = ["--run", path(&run_dir), "--tasks", "2"];
    let parts = [
        "class \"river\" (label 2)",
        "0 training embeddings",
        "2 of its images could not be used (the first, train/river/000.jpg: ",
    ];
    for (needed, stage) in [
        ("at least 1 is needed", &["fit-vae"][..]),
        ("at least 2 are needed", &["fit-vae", "--generator", "gaussian"]),
        ("at least 1 is needed", &["baseline", "ncm"]),
        ("at least 1 is needed", &["baseline", "lda"]),
        ("at least 1 is needed", &["baseline", "linear"]),
        ("at least 1 is needed", &["baseline", "joint", "--epochs", "1", "--samples", "4"]),
        ("at least 1 is needed", &["baseline", "finetune", "--epochs", "1", "--samples", "4"]),
    ] {
        let args = [stage, &tasks].concat();
        let output = ended(&args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?} does not end:\n{message}");
        for part in parts.iter().chain([&needed]) {
            assert!(message.contains(part), "{args:?}: expected {part:?} in:\n{message}");
        }
    }
}
