//! Models and data sets by name, from a server on loopback that speaks the hub's protocol.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::{TempDir, tempdir};

use crate::{
    hub_server::{Repository, Server, Trouble, commit},
    support::{CLASSES, copy, encoded, files, golden, hugging_face_shard, image_folder, path, picture, text},
};

const MODEL: &str = "acme/clip";

/// A hub with the golden checkpoint, an image folder to extract, and room for a cache.
struct Setting {
    dir: TempDir,
    server: Server,
}

impl Setting {
    fn new() -> Self {
        let setting = Setting { dir: tempdir().unwrap(), server: Server::new() };
        setting.server.add("models/acme/clip", clip());
        image_folder(&setting.at("data"), 1, 1);
        setting
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.at("home")
    }

    /// What is kept of the model.
    fn repo(&self) -> PathBuf {
        self.home().join("hub/models--acme--clip")
    }

    /// `extract`, with variables of its own.
    fn extract(&self, model: &str, data: &str, env: &[(&str, &str)]) -> Output {
        let run_dir = self.at("run");
        fs::remove_dir_all(&run_dir).ok();
        let args = ["extract", "--model", model, "--data", data, "--run", path(&run_dir)];
        self.server.command(&self.home(), &args).envs(env.iter().copied()).output().unwrap()
    }

    /// As [`Self::extract`] of the folder, which has to succeed; what was said.
    fn succeeds(&self, model: &str, env: &[(&str, &str)]) -> String {
        let output = self.extract(model, path(&self.at("data")), env);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    }

    /// As [`Self::extract`] of the folder, which has to fail and say all of `parts`.
    fn fails(&self, model: &str, env: &[(&str, &str)], parts: &[&str]) -> String {
        failed(&self.extract(model, path(&self.at("data")), env), parts)
    }
}

fn failed(output: &Output, parts: &[&str]) -> String {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in:\n{message}");
    }
    message
}

/// The golden checkpoint, beside weights for others.
fn clip() -> Repository {
    let mut files: std::collections::BTreeMap<String, Vec<u8>> =
        files(&golden("checkpoint")).into_iter().map(|(path, bytes)| (path.to_str().unwrap().into(), bytes)).collect();
    for other in ["pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "onnx/model.onnx", "README.md"] {
        files.insert(other.into(), vec![7; 9000]);
    }
    Repository { files, ..Repository::default() }
}

fn weights() -> usize {
    fs::metadata(golden("checkpoint/model.safetensors")).unwrap().len() as usize
}

/// Bytes of the large files of the model that are needed.
fn needed() -> usize {
    let sizes = files(&golden("checkpoint")).into_values().map(|bytes| bytes.len());
    sizes.filter(|&size| size >= 5000).sum()
}

#[test]
fn a_model_is_fetched_once_into_the_usual_cache_and_only_what_is_needed() {
    let setting = Setting::new();
    let said = setting.succeeds(MODEL, &[]);
    let commit = commit("models/acme/clip", "main");
    assert!(said.contains("fetching acme/clip at ") && said.contains(&commit[..12]), "{said}");
    let (asked, sent) = setting.server.take();
    assert_eq!(sent, needed());
    assert!(
        !asked.iter().any(|path| path.contains("pytorch") || path.contains("flax") || path.contains("README")),
        "{asked:?}"
    );

    // as huggingface_hub lays it out
    let repo = setting.repo();
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), commit);
    let snapshot = repo.join("snapshots").join(&commit);
    let link = fs::read_link(snapshot.join("model.safetensors")).unwrap();
    let sha256 = cgil::hash::hash_file(&golden("checkpoint/model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256));
    for (name, bytes) in files(&golden("checkpoint")) {
        assert_eq!(fs::read(snapshot.join(&name)).ok().as_ref(), Some(&bytes), "{}", name.display());
    }
    assert!(!files(&repo).keys().any(|name| name.to_string_lossy().contains("incomplete")));

    // what was made with it says so, and finds it when nobody answers
    let plan = fs::read_to_string(setting.at("run/sources/base/plan.json")).unwrap();
    assert!(plan.contains(&format!("\"acme/clip@{commit}\"")), "{plan}");
    assert!(!setting.succeeds(MODEL, &[]).contains("fetching"));
    assert_eq!(setting.server.take(), (vec!["api/models/acme/clip/revision/main".to_owned()], 0));
    setting.server.stop();
    let run_dir = setting.at("run");
    let args = ["baseline", "zero-shot", "--run", path(&run_dir), "--tasks", "2"];
    let output = setting.server.command(&setting.home(), &args).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));

    // nor is it needed for what is in the cache
    let said = setting.succeeds(MODEL, &[]);
    assert!(said.contains("cannot reach") && said.contains("taken from the cache"), "{said}");
    for name in [MODEL.to_owned(), format!("hf-hub:{MODEL}"), format!("{MODEL}@{commit}")] {
        assert_eq!(setting.succeeds(&name, &[("HF_HUB_OFFLINE", "1")]).lines().count(), 1);
    }
    setting.fails("acme/other", &[], &["cannot fetch acme/other, which is not in the cache", "cannot reach"]);
}

#[test]
fn a_path_that_is_there_wins_and_a_name_of_neither_kind_is_told() {
    let setting = Setting::new();
    copy(&golden("checkpoint"), &setting.at("acme/clip"));
    let (run_dir, data) = (setting.at("run"), setting.at("data"));
    let args = ["extract", "--model", MODEL, "--data", path(&data), "--run", path(&run_dir)];
    let output = setting.server.command(&setting.home(), &args).current_dir(setting.dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(setting.server.take().0, Vec::<String>::new());
    for name in ["clip", "models/clip/b32", "./clip", "acme/clip@"] {
        setting.fails(name, &[], &["is not there, and no name on the Hugging Face hub", "OWNER/NAME"]);
    }
    for data in ["hf://acme/pictures", "hf://datasets/pictures"] {
        failed(&setting.extract(MODEL, data, &[]), &["names no data set of the hub", "hf://datasets/OWNER/NAME"]);
    }
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_stopped() {
    let setting = Setting::new();
    setting.server.set_trouble(Trouble::Cut(weights() / 3));
    setting.succeeds(MODEL, &[]);
    let (asked, sent) = setting.server.take();
    assert_eq!(sent, needed(), "what had come was fetched again");
    assert!(asked.iter().filter(|path| path.ends_with("model.safetensors")).count() >= 3, "{asked:?}");

    // of a process that was killed
    fs::remove_dir_all(setting.home()).unwrap();
    setting.server.set_trouble(Trouble::Stall(weights() / 2));
    let (run_dir, data) = (setting.at("run"), setting.at("data"));
    let args = ["extract", "--model", MODEL, "--data", path(&data), "--run", path(&run_dir)];
    let mut child = setting.server.command(&setting.home(), &args).stderr(Stdio::null()).spawn().unwrap();
    let part = setting
        .repo()
        .join("blobs")
        .join(format!("{}.incomplete", cgil::hash::hash_file(&golden("checkpoint/model.safetensors")).unwrap()));
    let start = Instant::now();
    while fs::metadata(&part).map_or(0, |part| part.len()) < weights() as u64 / 2 {
        assert!(start.elapsed() < Duration::from_secs(60), "half of the weights did not come");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = setting.server.sent();
    setting.server.set_trouble(Trouble::None);
    setting.fails(
        MODEL,
        &[("HF_HUB_OFFLINE", "1")],
        &["acme/clip is not whole", "model.safetensors", "run once without"],
    );
    setting.succeeds(MODEL, &[]);
    assert_eq!(setting.server.sent() - before, weights() - weights() / 2);
}

#[test]
fn a_server_in_trouble_is_asked_again_and_never_believed_too_much() {
    for (trouble, times) in [(Trouble::Busy(2), 1), (Trouble::NoRange(weights() / 2), 2)] {
        let setting = Setting::new();
        setting.server.set_trouble(trouble);
        setting.succeeds(MODEL, &[]);
        assert!(setting.server.take().1 <= times * needed());
    }
    let setting = Setting::new();
    setting.server.set_trouble(Trouble::Damage);
    setting.fails(MODEL, &[], &["arrived damaged", "SHA-256"]);
    assert!(!files(&setting.repo().join("snapshots")).keys().any(|name| name.ends_with("model.safetensors")));
    setting.server.set_trouble(Trouble::None);
    setting.succeeds(MODEL, &[]);
}

#[test]
fn who_may_not_read_a_repository_is_told_what_to_do() {
    let setting = Setting::new();
    setting.server.add("models/acme/secret", Repository { private_to: vec!["good"], ..clip() });
    setting.server.add("models/acme/gated", Repository { gated_to: Some(vec!["good"]), ..clip() });
    let (wrong, good, other) = ([("HF_TOKEN", "wrong")], [("HF_TOKEN", "good")], [("HF_TOKEN", "other")]);
    setting.fails(MODEL, &wrong, &["refuses the token in HF_TOKEN (401", "give another by HF_TOKEN"]);
    setting.fails(
        "acme/secret",
        &[],
        &["there is no model acme/secret on http://127.0.0.1", "or it is private", "HF_TOKEN"],
    );
    setting.fails("acme/secret", &other, &["no model acme/secret", "that the token may read"]);
    setting.fails("acme/gated", &[], &["acme/gated is gated", "ask for access at http://", "HF_TOKEN"]);
    setting.fails("acme/gated", &other, &["is gated", "the token in HF_TOKEN has no access yet"]);
    setting.succeeds("acme/secret", &good);
    // as `hf auth login` leaves it
    fs::write(setting.home().join("token"), "good\n").unwrap();
    setting.succeeds("acme/gated", &[]);
    fs::write(setting.home().join("token"), "wrong\n").unwrap();
    setting.fails(MODEL, &[], &["refuses the token in", "home/token"]);
    setting.server.take();
}

#[test]
fn what_is_missing_is_named() {
    let setting = Setting::new();
    setting.fails("acme/clop", &[], &["there is no directory acme/clop", "no model acme/clop", "mind the spelling"]);
    setting.fails("acme/clip@v9", &[], &["acme/clip has no revision \"v9\""]);
    let without = |files: &[&str]| {
        let mut repository = clip();
        repository.files.retain(|name, _| !files.contains(&name.as_str()));
        repository
    };
    setting.server.add("models/acme/pickle", without(&["model.safetensors"]));
    setting.fails("acme/pickle", &[], &["pytorch_model.bin alone", "save_pretrained(\"clip\")"]);
    setting.server.add("models/acme/bare", without(&["config.json"]));
    setting.fails("acme/bare", &[], &["no config.json", "it has README.md"]);
    assert_eq!(setting.server.take().1, 0, "nothing is fetched of what cannot be used");
    setting.server.add("models/acme/plain", without(&["preprocessor_config.json"]));
    setting.fails("acme/plain", &[], &["does not say how images are prepared"]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    setting.fails(MODEL, &offline, &["acme/clip is not in the cache", "HF_HUB_OFFLINE", "run once without it"]);
}

#[test]
fn two_processes_at_once_fetch_a_file_once() {
    let setting = Setting::new();
    setting.server.set_trouble(Trouble::Cut(weights() / 20)); // it takes a while
    let start = |run: &str| {
        let (run_dir, data) = (setting.at(run), setting.at("data"));
        let args = ["extract", "--model", MODEL, "--data", path(&data), "--run", path(&run_dir)];
        setting.server.command(&setting.home(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start("a"), start("b"), start("c")] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(setting.server.take().1, needed());
}

/// A data set in Parquet: (label, picture) of each split.
fn shards(dir: &Path) {
    for split in ["train", "test"] {
        let images: Vec<(i64, Option<Vec<u8>>)> = (0..CLASSES.len())
            .map(|class| (class as i64, Some(encoded(picture(class, 3, 60), image::ImageFormat::Png))))
            .collect();
        hugging_face_shard(&dir.join(format!("{split}-00000-of-00001.parquet")), &images);
    }
}

#[test]
fn data_sets_are_taken_as_the_hub_has_them() {
    let setting = Setting::new();
    let model = golden("checkpoint");
    let extract = |data: &str, env: &[(&str, &str)]| setting.extract(path(&model), data, env);
    let rows = |data: &str, env: &[(&str, &str)]| {
        let output = extract(data, env);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let add = |place: &str, revision: Option<&'static str>, fill: &dyn Fn(&Path)| {
        let dir = tempdir().unwrap();
        fill(dir.path());
        let named = files(dir.path()).into_iter();
        let files = named.map(|(path, bytes)| (path.to_str().unwrap().to_owned(), bytes)).collect();
        setting.server.add(place, Repository { files, revision, ..Repository::default() });
    };

    // Parquet of one of several configurations
    add("datasets/acme/both", None, &|dir| {
        fs::write(dir.join("README.md"), "a card").unwrap();
        shards(&dir.join("fine"));
        shards(&dir.join("coarse"));
    });
    failed(
        &extract("hf://datasets/acme/both", &[]),
        &["several configurations", "hf://datasets/acme/both/coarse or hf://datasets/acme/both/fine"],
    );
    assert_eq!(rows("hf://datasets/acme/both/fine", &[]), 8);
    let asked = setting.server.take().0;
    assert!(!asked.iter().any(|path| path.contains("coarse")), "{asked:?}");
    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_eq!(rows("hf://datasets/acme/both/fine", &offline), 8);
    failed(&extract("hf://datasets/acme/both/coarse", &offline), &["is not whole in the cache", "2 files missing"]);

    // pictures, whose names a URL does not take as they are
    let folder = |dir: &Path| {
        image_folder(dir, 1, 1);
        fs::write(dir.join("train/tabby cat/50% #1?.png"), encoded(picture(3, 1, 60), image::ImageFormat::Png))
            .unwrap();
    };
    add("datasets/acme/pictures", None, &folder);
    assert_eq!(rows("hf://datasets/acme/pictures", &[]), 9);

    // what the hub converted, unless it is a part only, or the revision is another
    add("datasets/acme/converted", None, &folder);
    add("datasets/acme/converted", Some("refs/convert/parquet"), &|dir| shards(&dir.join("default")));
    let output = extract("hf://datasets/acme/converted", &[]);
    assert!(text(&output.stderr).contains("taken from its branch refs/convert/parquet"), "{}", text(&output.stderr));
    assert_eq!(rows("hf://datasets/acme/converted", &offline), 8);
    assert_eq!(rows("hf://datasets/acme/converted@main", &[]), 9);
    assert_eq!(rows("hf://datasets/acme/converted@refs/convert/parquet/default", &[]), 8);
    add("datasets/acme/partly", None, &folder);
    add("datasets/acme/partly", Some("refs/convert/parquet"), &|dir| shards(&dir.join("default/partial-train")));
    assert_eq!(rows("hf://datasets/acme/partly", &[]), 9);

    add("datasets/acme/zip", None, &|dir| fs::write(dir.join("data.zip"), "zip").unwrap());
    failed(&extract("hf://datasets/acme/zip", &[]), &["no Parquet, pictures or tar archives", "it has data.zip"]);
    failed(&extract("hf://datasets/acme/none", &[]), &["there is no data set acme/none"]);
}
