//! Runs and data in an object store: a real server of S3's protocol on loopback, moto's.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::{TempDir, tempdir};

use crate::{
    python::python,
    support::{
        CLASSES, Rows, assert_same_tables, encoded, files, golden, hugging_face_shard, image_folder, path, picture,
        run, text,
    },
};

/// Exit code of what may go well when it is tried again.
const TRANSIENT: i32 = 75;

const BUCKET: &str = "lab";

/// How old an archive has to be for a listing of it to be kept, and a little more.
const LISTED_AFTER: Duration = Duration::from_millis(2500);

/// What a server does not do as it should.
struct Faults {
    /// Shares of requests that are refused, and that hang.
    fail: f64,
    hang: f64,
    /// Seconds that it takes for a shard.
    stall: f64,
    /// Requests after which all are refused.
    last: f64,
    /// Seconds that a request may take to arrive.
    wander: f64,
}

const NONE: Faults = Faults { fail: 0.0, hang: 0.0, stall: 0.0, last: f64::INFINITY, wander: 0.0 };

/// A server that runs until it is dropped, with a bucket.
struct Store {
    server: Child,
    url: String,
    python: PathBuf,
    dir: TempDir,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// A script beside the tests.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects").join(name)
}

impl Store {
    /// A server that is as it should be. None, and a line that says so, where there is none to be had.
    fn start() -> Option<Store> {
        Store::with(NONE)
    }

    fn with(faults: Faults) -> Option<Store> {
        let Faults { fail, hang, stall, last, wander } = faults;
        let python = python(&["moto[server]>=5.2.5"])?;
        let dir = tempdir().unwrap();
        let mut server = Command::new(&python)
            .arg(script("server.py"))
            .arg(dir.path().join("log"))
            .args([fail, hang, stall, last, wander].map(|fault| fault.to_string()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let store = Store { server, url: format!("http://127.0.0.1:{}", port.trim()), python, dir };
        fs::create_dir(store.dir.path().join("empty")).unwrap();
        store.put(&store.dir.path().join("empty"), "nothing");
        Some(store)
    }

    /// With the settings of a user of the store, and no others of this machine.
    fn with_settings<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_DEFAULT_REGION", "us-east-1") // where a bucket may be made without a place
            .env("AWS_TIMEOUT", "2 seconds")
            .env("AWS_CONFIG_FILE", "/nowhere")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = crate::support::command(args);
        self.with_settings(&mut command);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "cgil {args:?} failed:\n{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What fails with an exit code, and says some words.
    fn fails(&self, command: &mut Command, code: i32, parts: &[&str]) {
        let Output { status, stderr, .. } = command.output().unwrap();
        let message = text(&stderr);
        assert_eq!(status.code(), Some(code), "{message}");
        assert!(!message.contains("panicked") && parts.iter().all(|part| message.contains(part)), "{message}");
    }

    fn transfer(&self, what: &str, dir: &Path, prefix: &str) {
        let mut command = Command::new(&self.python);
        command.arg(script("bucket.py")).args([what, path(dir), BUCKET, prefix]);
        let output = self.with_settings(&mut command).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn put(&self, dir: &Path, prefix: &str) {
        self.transfer("put", dir, prefix);
    }

    /// What lies below a prefix, as a directory.
    fn get(&self, prefix: &str) -> PathBuf {
        let dir = self.dir.path().join("got").join(prefix);
        fs::remove_dir_all(&dir).ok();
        fs::create_dir_all(&dir).unwrap();
        self.transfer("get", &dir, prefix);
        dir
    }

    /// Requests of the program so far: method, access key, path, condition.
    fn requests(&self) -> Vec<String> {
        fs::read_to_string(self.dir.path().join("log")).unwrap().lines().map(str::to_owned).collect()
    }

    /// How often a shard of embeddings was sent, each time on condition that none is there.
    fn sent(&self) -> usize {
        let is_sent = |line: &&String| line.starts_with("PUT") && line.contains("/embeddings/");
        let requests = self.requests();
        assert!(requests.iter().filter(is_sent).all(|line| line.ends_with(" *")), "{requests:?}");
        requests.iter().filter(is_sent).count()
    }

    /// How often files of such a name were fetched, or parts of them, after so many requests.
    fn fetched(&self, before: usize, end: &str) -> usize {
        let is_such =
            |line: &&String| line.starts_with("GET") && line.split(' ').nth(2).is_some_and(|p| p.ends_with(end));
        self.requests()[before..].iter().filter(is_such).count()
    }

    /// The tables of a run in the store, as if its data lay where they lie on disk, are those of a run
    /// on disk.
    fn assert_same(&self, prefix: &str, data: &Path, on_disk: &Path) {
        let got = self.get(prefix);
        for name in ["plan.json", "manifest.json"] {
            let file = got.join("sources/base").join(name);
            let text = fs::read_to_string(&file).unwrap();
            let own = data.file_name().unwrap().to_str().unwrap();
            fs::write(file, text.replace(&format!("s3://{BUCKET}/data/{own}"), path(data))).unwrap();
        }
        assert_same_tables(on_disk, &got);
    }
}

fn extract<'a>(model: &'a Path, data: &'a str, run_dir: &'a str) -> Vec<&'a str> {
    vec!["extract", "--model", path(model), "--data", data, "--run", run_dir, "--shard-rows", "8"]
}

fn fit(run_dir: &str) -> Vec<&str> {
    vec!["fit-vae", "--run", run_dir, "--tasks", "2", "--epochs", "5", "--hidden", "32", "--latent", "8"]
}

/// The pictures of [`image_folder`], and such in tar files and Parquet shards.
fn formats(dir: &Path) -> Vec<PathBuf> {
    let [folder, tars, shards] = ["folder", "tars", "shards"].map(|name| dir.join(name));
    image_folder(&folder, 9, 3);
    fs::create_dir_all(&tars).unwrap();
    for (split, n) in [("train", 9), ("test", 3)] {
        let mut tar = tar::Builder::new(fs::File::create(tars.join(format!("{split}-000.tar"))).unwrap());
        let mut images = Vec::new();
        for (label, class) in CLASSES.iter().enumerate() {
            for i in 0..n {
                let bytes = encoded(picture(label, i + n, 60 + i as u32), image::ImageFormat::Png);
                for (end, bytes) in [("png", &bytes[..]), ("txt", class.as_bytes())] {
                    let mut header = tar::Header::new_gnu();
                    header.set_size(bytes.len() as u64);
                    header.set_mode(0o644);
                    header.set_cksum();
                    tar.append_data(&mut header, format!("{label}-{i}.{end}"), bytes).unwrap();
                }
                images.push((label as i64, Some(bytes)));
            }
        }
        tar.finish().unwrap();
        hugging_face_shard(&shards.join(format!("{split}-00000-of-00001.parquet")), &images);
    }
    vec![folder, tars, shards]
}

#[test]
fn runs_and_data_in_a_store_are_those_of_a_disk() {
    let Some(store) = Store::start() else { return };
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    for data in formats(dir.path()) {
        let name = data.file_name().unwrap().to_str().unwrap();
        store.put(&data, &format!("data/{name}"));
        thread::sleep(LISTED_AFTER);
        let (on_disk, prefix) = (dir.path().join(format!("run-{name}")), format!("runs/{name}"));
        run(&extract(&model, path(&data), path(&on_disk)));
        let (data_in_store, run_in_store) = (format!("s3://{BUCKET}/data/{name}"), format!("s3://{BUCKET}/{prefix}"));
        for encoded in ["48 encoded now", " 0 encoded now"] {
            let before = store.requests().len();
            let printed = store.run(&extract(&model, &data_in_store, &run_in_store));
            assert!(printed.contains(encoded), "{name}: {printed}");
            let fetched = store.fetched(before, ".tar");
            assert_eq!(fetched > 0, name == "tars" && encoded != " 0 encoded now", "{name}: {fetched}");
        }
        assert_eq!(store.sent() % 7, 0, "five shards to learn from, two to test on");
        store.assert_same(&prefix, &data, &on_disk);
    }
    // what follows, in the last of these runs
    let (on_disk, in_store) = (dir.path().join("run-shards"), format!("s3://{BUCKET}/runs/shards"));
    let dirs = [path(&on_disk), &in_store];
    let printed = dirs.map(|run_dir| {
        let model = path(&model);
        store.run(&fit(run_dir));
        let tuned = store.run(&["prompt-tune", "--run", run_dir, "--model", model, "--epochs", "2"]);
        let baseline = store.run(&["baseline", "lda", "--run", run_dir, "--tasks", "2"]);
        let answer = store.run(&[
            "query",
            "--run",
            run_dir,
            "SELECT split, label, SUM(norm) FROM embeddings GROUP BY ALL ORDER BY ALL",
        ]);
        let picture = dir.path().join("folder/test/river/000.jpg");
        let classified = store.run(&["classify", "--run", run_dir, "--model", model, path(&picture)]);
        let status = store.run(&["status", "--run", run_dir]);
        let forgotten = store.run(&["forget", "--run", run_dir, "--source", "base"]);
        store.run(&["report", "--run", run_dir]);
        [tuned, baseline, answer, classified, status, forgotten].map(|text| text.replace(run_dir, "RUN"))
    });
    assert_eq!(printed[0], printed[1]);
    for run_dir in [&on_disk, &store.get("runs/shards")] {
        assert!(fs::read_to_string(run_dir.join("report.html")).unwrap().contains("</html>"));
        fs::remove_file(run_dir.join("report.html")).unwrap(); // which shows seconds
        assert!(!run_dir.join("sources/base/embeddings/train/part-00000.parquet").exists());
    }
    let mut overwrite = store.command(&["forget", "--run", &in_store, "--source", "base", "--test", "--overwrite"]);
    store.fails(&mut overwrite, 1, &["cannot be overwritten"]);
    // nothing is written over what is there
    let before = files(&store.get("runs/shards"));
    let mut export = store.command(&["export", "--run", &in_store, "--to", "npy", "--out", &in_store]);
    store.fails(&mut export, 1, &["is there already"]);
    let sorted = format!("s3://{BUCKET}/sorted");
    let picture = dir.path().join("folder/test/river/000.jpg");
    let classify = ["classify", "--run", &in_store, "--model", path(&model), path(&picture), "--sort-into", &sorted];
    store.fails(&mut store.command(&classify), 1, &["not of an object store"]);
    assert!(files(&store.get("runs/shards")) == before);
    let out = format!("s3://{BUCKET}/exported");
    store.run(&["export", "--run", &in_store, "--to", "npy", "--out", &out]);
    assert!(store.get("exported").join("labels.json").exists());
    // a stream of which an object store has some tasks alone is completed
    let stream = "runs/shards/streams/dataset-order-tasks-2/task-02";
    let whole = files(&store.get(stream));
    store.transfer("remove", dir.path(), stream);
    assert_eq!(files(&store.get(stream)).len(), 0);
    store.run(&fit(&in_store));
    assert!(whole.len() == 2 && files(&store.get(stream)) == whole);
}

#[test]
fn partitions_fetch_archives_once_to_list_them() {
    let Some(store) = Store::start() else { return };
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let (tars, on_disk) = (formats(dir.path()).swap_remove(1), dir.path().join("run"));
    run(&extract(&model, path(&tars), path(&on_disk)));
    store.put(&tars, "data/tars");
    thread::sleep(LISTED_AFTER);
    let (data, in_store) = (format!("s3://{BUCKET}/data/tars"), format!("s3://{BUCKET}/runs/parts"));
    let part = |partition: &str| {
        let before = store.requests().len();
        store.run(&[&extract(&model, &data, &in_store)[..], &["--partition", partition]].concat());
        ["train-000.tar", "test-000.tar"].map(|name| store.fetched(before, name) > 0)
    };
    // of seven shards the first five are to learn from; the first partition lists both
    assert_eq!(part("0/7"), [true, true]);
    assert_eq!(part("1/7"), [true, false]);
    assert_eq!(part("6/7"), [false, true]);
    for partition in ["2/7", "3/7", "4/7", "5/7"] {
        part(partition);
    }
    store.assert_same("runs/parts", &tars, &on_disk);
    // another archive in the place of one is listed again
    thread::sleep(Duration::from_secs(1));
    store.put(&tars, "data/tars");
    assert_eq!(part("6/7"), [true, true]);
}

#[test]
fn an_outage_is_of_no_image() {
    // the data can be listed, and some images read
    let Some(store) = Store::with(Faults { last: 60.0, ..NONE }) else { return };
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let (data, run_dir) = (dir.path().join("folder"), dir.path().join("run"));
    image_folder(&data, 40, 10);
    store.put(&data, "data/folder");
    let mut command = store.command(&extract(&model, &format!("s3://{BUCKET}/data/folder"), path(&run_dir)));
    store.fails(&mut command, TRANSIENT, &["Reduce your request rate"]);
    assert!(store.requests().len() > 60);
    let there = files(&run_dir);
    assert!(there.contains_key(Path::new("sources/base/plan.json")), "{:?}", there.keys());
    let is_bad = |name: &PathBuf| name.ends_with("manifest.json") || name.iter().any(|part| part == "quarantine");
    assert!(!there.keys().any(is_bad), "{:?}", there.keys());
}

#[test]
fn directories_of_a_store_may_be_marked() {
    let Some(store) = Store::start() else { return };
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let (data, on_disk) = (dir.path().join("folder"), dir.path().join("run"));
    image_folder(&data, 4, 2);
    run(&extract(&model, path(&data), path(&on_disk)));
    store.put(&data, "data/folder");
    for marked in ["data/folder", "data/folder/train", "data/folder/train/river", "runs/marked/sources"] {
        store.transfer("mark", dir.path(), marked);
    }
    let mut command =
        store.command(&extract(&model, &format!("s3://{BUCKET}/data/folder"), &format!("s3://{BUCKET}/runs/marked")));
    let output = command.output().unwrap();
    assert!(output.status.success() && !text(&output.stderr).contains("left out"), "{}", text(&output.stderr));
    assert!(store.run(&["status", "--run", &format!("s3://{BUCKET}/runs/marked")]).starts_with("extract base"));
    store.assert_same("runs/marked", &data, &on_disk);
}

#[test]
fn a_manifest_names_pictures_of_a_store() {
    let Some(store) = Store::start() else { return };
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    image_folder(&dir.path().join("folder"), 4, 2);
    store.put(&dir.path().join("folder"), "data/folder");
    let manifest = |root: &str| {
        let rows = files(&dir.path().join("folder")).into_keys().map(|file| {
            let mut parts = file.iter().map(|part| part.to_string_lossy());
            format!("{root}/{},{},{}\n", file.display(), parts.next().unwrap(), parts.next().unwrap())
        });
        format!("path,split,label\n{}", rows.collect::<String>())
    };
    let (listed, run_dir) = (dir.path().join("listed.csv"), dir.path().join("run"));
    for (root, name) in [("folder".to_owned(), "disk"), (format!("s3://{BUCKET}/data/folder"), "store")] {
        fs::write(&listed, manifest(&root)).unwrap();
        let run_dir = run_dir.join(name);
        store.run(&extract(&model, path(&listed), path(&run_dir)));
    }
    let sums = ["disk", "store"].map(|name| {
        let sql = "SELECT label, split, SUM(norm) FROM embeddings GROUP BY ALL ORDER BY ALL";
        store.run(&["query", "--run", path(&run_dir.join(name)), sql])
    });
    assert!(sums[0].contains("train"));
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn partitions_share_a_store_in_which_requests_fail_and_hang() {
    // a twentieth is refused, a hundredth not answered
    let Some(store) = Store::with(Faults { fail: 0.05, hang: 0.01, ..NONE }) else { return };
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let (data, on_disk) = (dir.path().join("folder"), dir.path().join("run"));
    image_folder(&data, 20, 6);
    run(&extract(&model, path(&data), path(&on_disk)));
    run(&fit(path(&on_disk)));
    store.put(&data, "data/folder");
    let (data_in_store, in_store) = (format!("s3://{BUCKET}/data/folder"), format!("s3://{BUCKET}/runs/shared"));
    for stage in [extract(&model, &data_in_store, &in_store), fit(&in_store)] {
        // each partition twice at once
        let running: Vec<Child> = ["0/2", "1/2", "1/2", "0/2"]
            .map(|partition| {
                let mut command = store.command(&[&stage[..], &["--partition", partition]].concat());
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .into();
        for child in running {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        let again = store.run(&stage);
        assert!(again.contains(" 0 encoded now") || again.contains(" 0 fitted now"), "{again}");
    }
    assert!(store.sent() >= 13);
    store.assert_same("runs/shared", &data, &on_disk);
}

#[test]
fn partitions_that_begin_at_once_find_what_others_have_made() {
    let Some(store) = Store::with(Faults { wander: 0.15, ..NONE }) else { return };
    let dir = tempdir().unwrap();
    let table = dir.path().join("table.parquet");
    Rows::clouds(4, 8, 4).write(&table);
    let in_store = format!("s3://{BUCKET}/runs/at-once");
    store.run(&["import", path(&table), "--run", &in_store]);
    // all of them make the stream, and whoever is last its tasks
    let running = [0, 1, 2, 3, 0, 1, 2, 3].map(|i| {
        let mut command = store.command(&[&fit(&in_store)[..], &["--partition", &format!("{i}/4")]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(store.run(&fit(&in_store)).contains(" 0 fitted now"));
}

#[test]
fn a_writer_that_is_killed_leaves_no_part_of_a_shard() {
    let Some(store) = Store::with(Faults { stall: 1.0, ..NONE }) else { return };
    let dir = tempdir().unwrap();
    // shards of some megabytes, which do not fit what a connection holds
    let (table, on_disk) = (dir.path().join("table.parquet"), dir.path().join("run"));
    Rows::clouds(4, 20_000, 100).write(&table);
    let import = |run_dir| vec!["import", path(&table), "--run", run_dir, "--shard-rows", "40000"];
    run(&import(path(&on_disk)));
    let in_store = format!("s3://{BUCKET}/runs/killed");
    let mut child = store.command(&import(&in_store)).spawn().unwrap();
    let began = Instant::now();
    while store.sent() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        assert!(began.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    thread::sleep(Duration::from_secs(2)); // what the server makes of it
    let whole = files(&on_disk);
    let there = files(&store.get("runs/killed"));
    let shards: Vec<_> =
        there.iter().filter(|(name, _)| name.extension().is_some_and(|end| end == "parquet")).collect();
    assert!(shards.len() < 3, "{shards:?}");
    assert!(shards.iter().all(|(name, bytes)| whole[*name] == **bytes));
    assert!(!there.contains_key(Path::new("sources/base/manifest.json")));
    store.run(&import(&in_store));
    assert_same_tables(&on_disk, &store.get("runs/killed"));
}

#[test]
fn a_store_that_does_not_answer_is_not_taken_for_an_empty_one() {
    let Some(store) = Store::start() else { return };
    let (dir, model) = (tempdir().unwrap(), golden("checkpoint"));
    let data = dir.path().join("folder");
    image_folder(&data, 4, 2);
    let in_store = format!("s3://{BUCKET}/runs/a");
    store.run(&extract(&model, path(&data), &in_store));
    let nowhere = "http://127.0.0.1:9";
    // each is tried for a minute
    thread::scope(|scope| {
        for args in [vec!["status", "--run", &in_store], extract(&model, path(&data), &in_store)] {
            let store = &store;
            scope.spawn(move || {
                let mut command = store.command(&args);
                store.fails(command.env("AWS_ENDPOINT_URL", nowhere), TRANSIENT, &["s3://lab/runs/a", "retries"]);
            });
        }
    });
    let mut unnamed = store.command(&["status", "--run", &in_store]);
    unnamed
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    unnamed.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9");
    let output = unnamed.output().unwrap();
    assert!(!output.status.success(), "{}", text(&output.stdout));

    let no_bucket = "s3://elsewhere/runs/a";
    let mut command = store.command(&extract(&model, path(&data), no_bucket));
    store.fails(&mut command, 1, &["there is no bucket \"elsewhere\""]);

    // keys and endpoint of the tools' files
    let home = dir.path().join(".aws");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("credentials"), "[lab]\naws_access_key_id = from-file\naws_secret_access_key = x\n").unwrap();
    fs::write(home.join("config"), format!("[profile lab]\nregion = eu-west-1\nendpoint_url = {}\n", store.url))
        .unwrap();
    let mut command = crate::support::command(&["status", "--run", &in_store]);
    for variable in ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
        command.env_remove(variable);
    }
    let output = command.env("HOME", dir.path()).env("AWS_PROFILE", "lab").output().unwrap();
    assert!(text(&output.stdout).contains("complete"), "{}", text(&output.stderr));
    assert!(store.requests().last().unwrap().contains(" from-file "));
}
