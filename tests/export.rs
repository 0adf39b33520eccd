//! What is exported is read back, by the program itself and by what it is for.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use arrow::array::{Array, AsArray};
use cgil::{
    baseline::OpenClassifier,
    clip::Checkpoint,
    hash::hash_bytes,
    table::{contract, file},
};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::{
    add::Data,
    python::{executes, python, snippets},
    support::{Rows, copy, fails, files, golden, image_folder, imported, path, query, run, text},
};

/// What holds once the snippets of docs/export.md have run.
const HOLDS: &str = "
from pathlib import Path

paths = [pq.read_table(f'birds-embeddings/metadata/metadata_{i}.parquet')['image_path'].to_pylist() for i in [0, 1]]
x = np.load('birds-embeddings/img_emb/img_emb_1.npy')

def agrees(found, names, answers):
    answers = json.loads(Path(answers).read_text())
    assert len(answers) == len(found) == 12 and set(answers) == set(paths[1])
    expected = np.array([[answers[path][name] for name in names] for path in paths[1]])
    assert abs(found - expected).max() < 1e-5 and abs(expected.sum(1) - 1).max() < 1e-5, (found, expected)

def of_graph(file, answers, classes):
    session = onnxruntime.InferenceSession(file)
    about = json.loads(session.get_modelmeta().custom_metadata_map['cgil'])
    outputs = session.run(['logits', 'probabilities'], {'embedding': np.concatenate([3 * x, 0 * x])})
    logits, likely = (rows.astype(np.float64) for rows in outputs)
    assert likely.shape == (24, classes) and np.isfinite(outputs).all()
    agrees(likely[:12], [c['name'] for c in about['classes']], answers)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    assert abs(powers / powers.sum(1, keepdims=True) - likely).max() < 1e-4
    return about

stored = dict(text=text, whitener=whitener, means=means, centre=centre[None], prompts=prompts)
known = tensors.pop('known')
assert known.shape == (1, 101) and (np.diff(known) >= 0).all(), known
assert set(stored) == set(tensors), tensors.keys()
for name in stored:
    assert tensors[name].dtype == np.float32 and (tensors[name] == stored[name]).all(), name
wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
agrees(probabilities(x.astype(np.float64), about, **wide), table['class_name'].to_pylist(), 'answers.json')
assert about == of_graph('birds.onnx', 'answers.json', 4)
of_graph('also.onnx', 'also.json', 6)
of_graph('evidence.onnx', 'evidence.json', 4)
of_graph('one.onnx', 'one.json', 2)
made = about['made_from']
assert made['clip']['name'] == 'checkpoint' and len(made['clip']['sha256']) == 64 and made['preprocessing'], made
assert [source['name'] for source in made['sources']] == ['base', 'delivery-2'], made
assert made['template'] == 'a photo of a {}' and made['method'] == 'cgil,epochs=2', made
";

/// A directory with the run `runs/birds`, of two deliveries, and what docs/export.md makes of it;
/// the training embeddings of the second are forgotten.
fn documented() -> (Data, String) {
    let data = Data::new();
    let run_dir = data.at("runs/birds");
    data.add(&run_dir, "0", &[]);
    data.add(&run_dir, "1", &["--forget"]);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/export.md")).unwrap();
    for line in snippets(&page, "Commands", "sh").lines() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cgil"));
        let output = command.args(line.split(' ').skip(1)).current_dir(&data.root).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    }
    (data, page)
}

/// Probabilities by the classes' names, by what an export calls the pictures to test on.
fn answers(data: &Data, more: &[&str]) -> Value {
    let mut found = BTreeMap::new();
    for (delivery, source) in [("0", "base"), ("1", "delivery-2")] {
        let (run_dir, pictures) = (data.at("runs/birds"), data.at(&format!("{delivery}/test")));
        let args = ["classify", "--run", &run_dir, &pictures, "--top", "99", "--format", "jsonl"];
        for line in run(&[&args[..], more].concat()).lines() {
            let answer: Value = serde_json::from_str(line).unwrap();
            let id = Path::new(answer["path"].as_str().unwrap()).strip_prefix(data.root.join(delivery)).unwrap();
            let of = |class: &Value| (class["class"].as_str().unwrap().to_owned(), class["probability"].clone());
            let classes: BTreeMap<String, Value> = answer["classes"].as_array().unwrap().iter().map(of).collect();
            found.insert(format!("{source}/{}", path(id)), classes);
        }
    }
    json!(found)
}

#[test]
fn other_programs_read_a_classifier_and_answer_as_classify_does() {
    let Some(python) = python(&["numpy", "onnxruntime", "pyarrow", "safetensors"]) else { return };
    let (data, page) = documented();
    let run_dir = data.at("runs/birds");
    let graph = |name: &str, more: &[&str]| {
        let out = data.at(&format!("{name}.onnx"));
        run(&[&["export", "--run", &run_dir, "--to", "onnx", "--out", &out][..], more].concat());
        fs::write(data.at(&format!("{name}.json")), answers(&data, more).to_string()).unwrap();
    };
    fs::write(data.at("answers.json"), answers(&data, &[]).to_string()).unwrap();
    graph("also", &["--also", "a red fox,wolf"]);
    run(&["baseline", "evidence", "--run", &run_dir, "--tasks", "1"]); // which has no prompts
    graph("evidence", &["--method", "evidence"]);
    // scores of one learned class have no deviation
    for class in ["bee", "cat", "dog"] {
        run(&["remove-class", "--run", &run_dir, class]);
    }
    run(&["baseline", "evidence", "--run", &run_dir, "--tasks", "1"]);
    graph("one", &["--method", "evidence", "--also", "wolf"]);
    let titles = ["onnx", "safetensors", "npy", "parquet", "clip-retrieval"];
    let shown = titles.map(|title| snippets(&page, title, "python")).concat();
    executes(&python, "docs/export.md", &format!("{shown}{HOLDS}"), &data.root);
}

/// The page's own program, and all pictures to test on, answer as `classify` does.
#[test]
fn a_graph_from_pixels_answers_as_classify_does() {
    let Some(python) = python(&["numpy", "onnxruntime", "pillow"]) else { return };
    let (data, page) = documented();
    fs::write(data.at("answers.json"), answers(&data, &[]).to_string()).unwrap();
    let holds = "
from pathlib import Path

for key, expected in json.loads(Path('answers.json').read_text()).items():
    source, rest = key.split('/', 1)
    path = {'base': '0', 'delivery-2': '1'}[source] + '/' + rest
    [found] = session.run(['probabilities'], {'pixels': pixels(path, side)[None]})
    expected = np.array([expected[name] for name in names])
    assert abs(found[0] - expected).max() < 1e-5, (path, found, expected)
";
    let shown = snippets(&page, "onnx from pixels", "python");
    executes(&python, "pixels", &format!("{shown}{holds}"), &data.root);
}

/// A graph from pixels has the CLIP that its classifier was learned with, and says how pixels are made
/// even where embeddings came without.
#[test]
fn a_graph_from_pixels_is_of_the_clip_that_was_learned_with() {
    let data = Data::new();
    let model = golden("checkpoint");
    let [extracted, vectors, run_dir, out] = ["extracted", "vectors", "run", "whole.onnx"].map(|name| data.at(name));
    run(&["extract", "--model", path(&model), "--data", &data.at("0"), "--run", &extracted]);
    run(&["export", "--run", &extracted, "--to", "clip-retrieval", "--out", &vectors]);
    run(&["import", &vectors, "--run", &run_dir]);
    run(&["baseline", "evidence", "--run", &run_dir, "--tasks", "1", "--model", path(&model)]);
    let args = ["export", "--run", &run_dir, "--to", "npy", "--with-encoder", "--out", &out];
    fails(&args, &["npy has no image encoder", "--to onnx"]);
    // another CLIP of the same sizes
    let other = data.root.join("other");
    copy(&model, &other);
    let weights = other.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let export = ["export", "--run", &run_dir, "--to", "onnx", "--with-encoder", "--out", &out, "--model"];
    fails(&[&export[..], &[path(&other)]].concat(), &["evidence was learned with another CLIP", "--model"]);
    assert!(!Path::new(&out).exists());
    run(&[&export[..], &[path(&model)]].concat());
    let made = fs::read(&out).unwrap();
    let prepared = b"\"preprocessing\":\"rgb8; shortest side 64, bicubic";
    assert!(made.windows(prepared.len()).any(|window| window == prepared));
}

/// A checkpoint's own graph from pixels answers as `classify` does.
pub fn answers_from_pixels(model: &Path) {
    let Some(python) = python(&["numpy", "onnxruntime"]) else { return };
    let dir = tempdir().unwrap();
    let at = |name: &str| path(&dir.path().join(name)).to_owned();
    let [pictures, run_dir, out] = ["pictures", "run", "whole.onnx"].map(at);
    image_folder(Path::new(&pictures), 4, 3);
    run(&["extract", "--model", path(model), "--data", &pictures, "--run", &run_dir]);
    run(&["baseline", "evidence", "--run", &run_dir, "--tasks", "1"]);
    run(&["export", "--run", &run_dir, "--to", "onnx", "--with-encoder", "--out", &out]);
    let preprocess = Checkpoint::open(model).unwrap().preprocess().unwrap();
    let (mut seen, mut expected) = (Vec::new(), Vec::new());
    let test = format!("{pictures}/test");
    for line in run(&["classify", "--run", &run_dir, &test, "--top", "99", "--format", "jsonl"]).lines() {
        let answer: Value = serde_json::from_str(line).unwrap();
        seen.extend(preprocess.pixels(&fs::read(answer["path"].as_str().unwrap()).unwrap()).unwrap());
        expected.push(answer["classes"].clone());
    }
    fs::write(at("pixels"), seen).unwrap();
    fs::write(at("expected.json"), json!(expected).to_string()).unwrap();
    let program = "
import json, numpy as np, onnxruntime
session = onnxruntime.InferenceSession('whole.onnx')
names = [c['name'] for c in json.loads(session.get_modelmeta().custom_metadata_map['cgil'])['classes']]
pixels = np.fromfile('pixels', np.uint8).reshape(-1, *session.get_inputs()[0].shape[1:])
[found] = session.run(['probabilities'], {'pixels': pixels})
assert session.run(['probabilities'], {'pixels': pixels[:0]})[0].shape == (0, len(names))
assert abs(session.run(['probabilities'], {'pixels': pixels[:1]})[0] - found[:1]).max() < 1e-5
expected = [{c['class']: c['probability'] for c in row} for row in json.load(open('expected.json'))]
expected = np.array([[row[name] for name in names] for row in expected])
assert found.shape == expected.shape and len(found) > 5 and np.ptp(expected, 0).max() > 0.01
assert abs(found - expected).max() < 2e-5, abs(found - expected).max()
print(abs(found - expected).max())
";
    executes(&python, &model.display().to_string(), program, dir.path());
}

#[test]
#[ignore = "installs datasets: make test-python"]
fn datasets_reads_a_data_set() {
    let Some(python) = python(&["datasets"]) else { return };
    let (data, page) = documented();
    let holds = "
names = ['ant', 'bee', 'cat', 'dog']
assert data['train'].features['label'].names == names and (len(data['train']), len(data['test'])) == (12, 12)
assert {names[row['label']] for row in data['test']} == set(names)
assert all(names[row['label']] == row['sample_id'].split('/')[2] for row in data['test'])
assert len(data['train'][0]['embedding']) == 48 and data['train'].features['embedding'].length == 48
";
    let shown = snippets(&page, "hf", "python");
    executes(&python, "hf", &format!("{shown}{holds}"), &data.root);
}

#[test]
fn the_program_reads_back_what_it_exports() {
    let (data, _) = documented();
    let run_dir = data.root.join("runs/birds");
    let last = |file: &PathBuf| file.ends_with("task-02/classifier.safetensors");
    let own = files(&run_dir).into_keys().find(last).unwrap();
    let (exported, classes) = OpenClassifier::read(&data.root.join("birds.safetensors")).unwrap();
    let (stored, known) = OpenClassifier::read(&run_dir.join(own)).unwrap();
    let row: Vec<f32> = (0..48).map(|i| (i as f32).sin()).collect();
    assert_eq!((exported.logits(&row), &classes), (stored.logits(&row), &known));

    let table = contract::exported_classes();
    let rows = file::read(&data.root.join("birds.parquet"), table, 48).unwrap();
    let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
    assert_eq!(file::text(&rows, "class_name").collect::<Vec<_>>(), names);
    assert_eq!(rows["learned"].as_boolean().true_count(), 4);
    let also = data.at("also.parquet");
    let args = ["export", "--run", path(&run_dir), "--to", "parquet", "--out", &also, "--also", "wolf"];
    assert_eq!(run(&args), format!("{also}: 5 classes, 4 of them learned\n"));
    let rows = file::read(Path::new(&also), table, 48).unwrap();
    assert_eq!((rows["prompt"].null_count(), rows["learned"].as_boolean().true_count()), (1, 4));
    assert!(rows["prompt"].is_null(4) && rows["prompt"].is_valid(3));

    // embeddings, of which one source has forgotten those to learn from
    let back = data.at("back");
    run(&["import", &data.at("birds-embeddings"), "--run", &back]);
    let rows_of = |run_dir: &str, id: &str| {
        let sql = format!("SELECT {id} AS id, class_name, split, norm, embedding FROM embeddings ORDER BY 1, 2");
        run(&["query", "--run", run_dir, &sql, "--format", "json"])
    };
    assert_eq!(rows_of(&back, "sample_id"), rows_of(path(&run_dir), "source || '/' || sample_id"));
    assert_eq!(
        query(Path::new(&back), "SELECT split, COUNT(*) FROM embeddings GROUP BY 1 ORDER BY 1"),
        ["test,12", "train,12"]
    );
    let labels = "SELECT DISTINCT label, class_name FROM embeddings ORDER BY label";
    assert_eq!(query(Path::new(&back), labels), ["0,ant", "1,bee", "2,cat", "3,dog"]);
}

#[test]
fn embeddings_need_no_classifier_and_their_pages_end_where_contents_say_so() {
    let dir = tempdir().unwrap();
    let mut rows = Rows::clouds(4, 3000, 1);
    let first = imported(dir.path(), "first", &rows);
    // a row more, before all others
    let (split, label, name, embedding) =
        (rows.split[0], rows.label[0], rows.class_name[0].clone(), rows.embedding[1].clone());
    rows.split.insert(0, split);
    rows.label.insert(0, label);
    rows.class_name.insert(0, name);
    rows.embedding.insert(0, embedding);
    let second = imported(dir.path(), "second", &rows);
    let pages = |run_dir: &Path| {
        let out = run_dir.join("hf");
        let said = run(&["export", "--run", path(run_dir), "--to", "hf", "--out", path(&out)]);
        assert!(said.contains(" training embeddings and 4 to test on"), "{said}");
        pages(&out.join("data/train-00000-of-00001.parquet"), 2)
    };
    let (first, second) = (pages(&first), pages(&second));
    assert!(first.len() > 2, "{first:?}");
    let shared = first.intersection(&second).count();
    assert!(2 * shared >= first.len(), "{shared} of {} pages", first.len());
}

/// Hashes of the pages of a column.
fn pages(table: &Path, column: usize) -> HashSet<String> {
    let reader = SerializedFileReader::new(fs::File::open(table).unwrap()).unwrap();
    let pages = reader.get_row_group(0).unwrap().get_column_page_reader(column).unwrap();
    pages.map(|page| hash_bytes(page.unwrap().buffer())).collect()
}

#[test]
fn what_cannot_be_exported_is_refused_by_name_and_leaves_nothing() {
    let data = Data::new();
    let [run_dir, out] = ["run", "made/out"].map(|name| data.at(name));
    let export = |to: &'static str, more: &[&'static str]| -> Vec<String> {
        let words = [&["export", "--run", &run_dir, "--to", to, "--out", &out][..], more].concat();
        words.into_iter().map(str::to_owned).collect()
    };
    let refused = |args: Vec<String>, parts: &[&str]| {
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    };
    let model = golden("checkpoint");
    run(&["extract", "--model", path(&model), "--data", &data.at("0"), "--run", &run_dir]);
    refused(export("onnx", &[]), &["learned nothing yet", "cgil add"]);
    run(&["fit-vae", "--run", &run_dir, "--tasks", "1", "--epochs", "2", "--hidden", "16", "--latent", "4"]);
    refused(export("onnx", &[]), &["no classifier", "prompt-tune"]);
    refused(export("hf", &["--method", "cgil"]), &["hf is of embeddings", "--method"]);
    refused(export("clip-retrieval", &["--also", "wolf"]), &["clip-retrieval is of embeddings", "--also"]);

    // a shard of the test rows, which go after the others, is not what it was
    let shard = Path::new(&run_dir).join("sources/base/embeddings/test/part-00000.parquet");
    let bytes = fs::read(&shard).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    fs::write(&shard, damaged).unwrap();
    for to in ["hf", "clip-retrieval"] {
        refused(export(to, &[]), &["part-00000.parquet", "is damaged"]);
    }
    assert_eq!(fs::read_dir(data.root.join("made")).unwrap().count(), 0);
    fs::write(&shard, bytes).unwrap();

    // what is there stays
    copy(&data.root.join("0"), Path::new(&out));
    let before = files(Path::new(&out));
    refused(export("hf", &[]), &[&out, "is there already", "--out"]);
    assert!(files(Path::new(&out)) == before);
}

#[test]
fn further_classes_get_the_texts_that_the_run_s_classes_have() {
    let data = Data::new();
    let [run_dir, delivery, out] = ["run", "0", "out.safetensors"].map(|name| data.at(name));
    let (model, template) = (golden("checkpoint"), "a drawing of a {}");
    let options = format!("epochs=2,template={template}");
    let args = ["add", "--run", &run_dir, "--data", &delivery, "--model", path(&model), "--forget"];
    let more = ["--fit-vae", "epochs=2,hidden=16,latent=4", "--prompt-tune", &options];
    run(&[&args[..], &more].concat());
    // with another template it would have to learn again, from what is forgotten
    run(&["export", "--run", &run_dir, "--to", "safetensors", "--out", &out, "--also", "wolf"]);
    let (_, about): (_, Value) = cgil::tensors::read::<f32, _>(Path::new(&out)).unwrap();
    assert_eq!(about["made_from"]["template"], template);
    assert_eq!((about["classes"][2]["name"].as_str(), about["seen"].as_u64()), (Some("wolf"), Some(2)));
}
