//! What the tests share: the program, data made on the spot, and the golden vectors.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, BinaryArray, Float32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Schema},
};
use candle_core::{Device, Tensor};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
use parquet::{arrow::ArrowWriter, file::metadata::KeyValue, file::properties::WriterProperties};
use tiff::encoder::{TiffEncoder, colortype::RGB8};

/// The directory of the golden vectors.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The tensors of a golden file.
pub fn golden_tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap()
}

/// The values of a tensor, flat.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Copies the golden checkpoint.
pub fn copy_checkpoint(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"] {
        fs::copy(golden("checkpoint").join(file), to.join(file)).unwrap();
    }
}

/// Asserts that two lists differ by at most `tolerance`, relative to the largest value.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= tolerance * largest, "{what}: off by {worst:e}, largest value {largest:e}");
}

/// `cgil` with arguments, to be run.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgil"));
    command.args(args);
    command
}

/// Lets every user write into a directory.
pub fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
}

/// Runs `cgil` as a user who may read and write only what everyone may. None, and a line that says
/// so, where there is no other user to be had.
pub fn as_another(args: &[&str]) -> Option<Output> {
    let other = |args: &[&str]| {
        // whoever is not root is such a user already, and may not become another
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_cgil")];
        let own = tempfile::tempfile().and_then(|file| file.metadata()).unwrap().uid();
        if own == 0 { Command::new("setpriv").args(user).args(args).output() } else { command(args).output() }
    };
    match other(&["--version"]) {
        Ok(output) if output.status.success() => Some(other(args).unwrap()),
        failed => {
            eprintln!("skipped: cgil cannot be run as another user: {failed:?}");
            None
        }
    }
}

/// What `cgil` ends with, which it has to within a minute.
pub fn ended(args: &[&str]) -> Output {
    let mut child = command(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().ok();
            panic!("cgil {args:?} does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Runs `cgil` and returns what it printed; fails the test unless it succeeds.
pub fn run(args: &[&str]) -> String {
    let output = command(args).output().unwrap();
    assert!(output.status.success(), "cgil {args:?} failed:\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs `cgil`, which must fail without a panic and print an error that holds all of `parts`.
pub fn fails(args: &[&str], parts: &[&str]) -> String {
    let output = command(args).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "cgil {args:?} should fail with 1:\n{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in:\n{message}");
    }
    message
}

/// Runs `args` and kills it without warning once `ready` holds; panics if it ended before.
pub fn kill_once(args: &[&str], ready: impl Fn() -> bool) {
    let mut child = command(args).spawn().unwrap();
    let start = Instant::now();
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "cgil {args:?} ended before it could be killed");
        assert!(start.elapsed() < Duration::from_secs(120), "cgil {args:?} did not get far enough");
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

/// Bytes that a program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The answer of `cgil query`, a line per row, without the header.
pub fn query(run_dir: &Path, sql: &str) -> Vec<String> {
    let output = run(&["query", "--run", path(run_dir), "--format", "csv", sql]);
    output.lines().skip(1).map(str::to_owned).collect()
}

/// A number that `cgil query` answers.
pub fn number(run_dir: &Path, sql: &str) -> f64 {
    query(run_dir, sql)[0].parse().unwrap()
}

/// A path as text.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What stands beside the tensors of a file of the project's.
pub fn about(file: &Path) -> serde_json::Value {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..][..length]).unwrap();
    serde_json::from_str(header["__metadata__"]["cgil"].as_str().unwrap()).unwrap()
}

/// Every file below a directory with its bytes.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Copies every file below a directory.
pub fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let file = to.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

/// Asserts that two runs hold the same files, byte for byte, but for the latents' recorded seconds.
/// What processes that share the work say of themselves, hold locks on, and list of archives, does not
/// count.
pub fn assert_same_tables(a: &Path, b: &Path) {
    let is_shown = |name: &PathBuf| {
        let is_beside = ["jobs", "listings"].iter().any(|dir| name.starts_with(dir));
        !is_beside && !name.ends_with(".commit") && !name.ends_with(".lock")
    };
    let [mut files_a, mut files_b] = [files(a), files(b)];
    files_a.retain(|name, _| is_shown(name));
    files_b.retain(|name, _| is_shown(name));
    assert_eq!(files_a.keys().collect::<Vec<_>>(), files_b.keys().collect::<Vec<_>>());
    let manifest = |bytes: &[u8]| -> serde_json::Value {
        let mut manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        manifest["files"]["index.parquet"] = serde_json::Value::Null;
        manifest
    };
    for (name, bytes) in &files_a {
        if name.ends_with("index.parquet") {
            continue; // has the column `seconds`
        }
        let same = match name.starts_with("latents") && name.ends_with("manifest.json") {
            true => manifest(bytes) == manifest(&files_b[name]),
            false => *bytes == files_b[name],
        };
        assert!(same, "{} differs", name.display());
    }
    let latents = "SELECT seed, task, label, class_name, generator, slot, rows, reconstruction, kl, log_likelihood, \
                   denoising, bytes FROM latents";
    assert_eq!(query(a, latents), query(b, latents));
}

/// The directory of the only method whose name begins with `name` among the results of a stream, or
/// of the only prompts among the prompts: `kind` is `results` or `prompts`.
pub fn only(run_dir: &Path, kind: &str, stream: &str, name: &str) -> PathBuf {
    let dir = run_dir.join(kind).join(stream);
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(name)).collect();
    assert!(found.len() <= 1, "{found:?}");
    found.pop().unwrap_or(dir.join("none"))
}

/// A picture of class `class`: a pattern in its own colour and direction, varied by `i`.
pub fn picture(class: usize, i: usize, side: u32) -> RgbImage {
    RgbImage::from_fn(side, side + 8, |x, y| {
        let wave = match class % 3 {
            0 => x * 9,
            1 => y * 9,
            _ => (x + y) * 7,
        };
        let v = ((wave as usize + 13 * i) % 256) as u8;
        Rgb([v, (40 * class) as u8, 255 - v])
    })
}

/// A picture as the bytes of a file.
pub fn encoded(picture: RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let (width, height) = picture.dimensions();
    match format {
        ImageFormat::Jpeg => {
            let (width, height) = (width as usize, height as usize);
            return compress(&picture, width, height, PixelFormat::Rgb, 75, Subsampling::S444).unwrap();
        }
        ImageFormat::Tiff => {
            TiffEncoder::new(&mut bytes).unwrap().write_image::<RGB8>(width, height, &picture).unwrap();
        }
        _ => DynamicImage::from(picture).write_to(&mut bytes, format).unwrap(),
    }
    bytes.into_inner()
}

/// The names of the pictures' classes.
pub const CLASSES: [&str; 4] = ["forest", "river", "red_fox", "tabby cat"];

/// An image folder with `train` and `test` pictures per class, as JPEG, PNG and WebP.
pub fn image_folder(dir: &Path, train: usize, test: usize) {
    for (split, n) in [("train", train), ("test", test)] {
        for (class, name) in CLASSES.iter().enumerate() {
            let dir = dir.join(split).join(name);
            fs::create_dir_all(&dir).unwrap();
            for i in 0..n {
                let (format, extension) =
                    [(ImageFormat::Jpeg, "jpg"), (ImageFormat::Png, "png"), (ImageFormat::WebP, "webp")][i % 3];
                let bytes = encoded(picture(class, i + n, 60 + i as u32), format);
                fs::write(dir.join(format!("{i:03}.{extension}")), bytes).unwrap();
            }
        }
    }
}

/// Writes Hugging Face Parquet shards with the pictures of [`image_folder`]; `images` are (label,
/// bytes).
pub fn hugging_face_shard(file: &Path, images: &[(i64, Option<Vec<u8>>)]) {
    let names: Vec<String> = CLASSES.iter().map(|c| format!("{c:?}")).collect();
    let features = format!(
        r#"{{"info":{{"features":{{"image":{{"_type":"Image"}},"label":{{"names":[{}],"_type":"ClassLabel"}}}}}}}}"#,
        names.join(",")
    );
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter(images.iter().map(|(_, bytes)| bytes.clone())));
    let paths: ArrayRef = Arc::new(StringArray::from_iter(images.iter().map(|_| None::<&str>)));
    let image = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]);
    let labels = Int64Array::from_iter_values(images.iter().map(|(label, _)| *label));
    write_parquet(file, vec![("image", Arc::new(image)), ("label", Arc::new(labels))], &[("huggingface", &features)]);
}

/// Writes columns to a Parquet file.
pub fn write_parquet(file: &Path, columns: Vec<(&str, ArrayRef)>, footer: &[(&str, &str)]) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let fields: Vec<Field> = columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|c| c.1).collect()).unwrap();
    let pairs = footer.iter().map(|(k, v)| KeyValue::new(k.to_string(), v.to_string())).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs)).build();
    let mut writer = ArrowWriter::try_new(fs::File::create(file).unwrap(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Rows of embeddings to be imported.
#[derive(Default, Clone)]
pub struct Rows {
    pub split: Vec<&'static str>,
    pub label: Vec<i64>,
    pub class_name: Vec<String>,
    pub embedding: Vec<Vec<f32>>,
}

impl Rows {
    /// `classes` clouds in the golden checkpoint's space of 48 dimensions, each around its own
    /// axis.
    pub fn clouds(classes: usize, train: usize, test: usize) -> Self {
        let mut rows = Rows::default();
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        for class in 0..classes {
            for i in 0..train + test {
                rows.split.push(if i < train { "train" } else { "test" });
                rows.label.push(class as i64);
                rows.class_name.push(format!("{} {class}", CLASSES[class % CLASSES.len()]));
                rows.embedding
                    .push((0..48).map(|j| if j % classes == class { 1.0 + noise() } else { noise() }).collect());
            }
        }
        rows
    }

    /// Writes the rows as a table with lists of varying length.
    pub fn write(&self, file: &Path) {
        write_parquet(file, self.columns(), &[]);
    }

    /// The columns, by name.
    pub fn columns(&self) -> Vec<(&'static str, ArrayRef)> {
        let values = Float32Array::from_iter_values(self.embedding.iter().flatten().copied());
        let lengths = OffsetBuffer::from_lengths(self.embedding.iter().map(Vec::len));
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        vec![
            ("split", Arc::new(StringArray::from_iter_values(&self.split))),
            ("label", Arc::new(Int64Array::from(self.label.clone()))),
            ("class_name", Arc::new(StringArray::from_iter_values(&self.class_name))),
            ("embedding", Arc::new(ListArray::new(item, lengths, Arc::new(values), None))),
        ]
    }
}

/// Rows imported into a new run, the directory `name` in `dir`.
pub fn imported(dir: &Path, name: &str, rows: &Rows) -> PathBuf {
    let (table, run_dir) = (dir.join("table.parquet"), dir.join(name));
    rows.write(&table);
    run(&["import", path(&table), "--run", path(&run_dir)]);
    run_dir
}
