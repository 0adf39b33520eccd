//! Recipes: each of the program's runs from end to end on a miniature of its layout, and refuses
//! data that are not what it says.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use tempfile::tempdir;

use crate::{
    hub_server::{Repository, Server},
    support::{Rows, encoded, fails, files, golden, imported, path, picture, query, run, text, write_parquet},
};

/// Images of each class in the miniatures.
const IMAGES: [(&str, usize); 2] = [("train", 3), ("test", 1)];

/// A copy of a recipe for a cut of its classes: the same splits, layout, tasks and methods, other
/// counts, and hardly any training.
fn miniature(name: &str, classes: usize, file: &Path) -> toml::Table {
    let whole: toml::Table = toml::from_str(&run(&["run", name, "--show"])).unwrap();
    let all = whole["data"]["classes"].as_integer().unwrap() as usize;
    let mut lines: Vec<String> = Vec::new();
    let (mut block, mut kept) = (String::new(), 0);
    for line in run(&["run", name, "--show"]).lines() {
        if line.starts_with('[') || line == "names = [" {
            (block, kept) = (line.trim_matches(['[', ']']).to_owned(), 0);
        }
        let is_entry = ["data.names_of", "data.images_of"].contains(&block.as_str()) && line.contains(" = ");
        kept += usize::from(is_entry);
        if is_entry && kept > classes {
            continue;
        }
        lines.push(match line.split(" = ").next().unwrap() {
            "classes" => line.replace(&all.to_string(), &classes.to_string()),
            "images" => format!("images = {{ train = {}, test = {} }}", 3 * classes, classes),
            "images_per_class" => "images_per_class = { train = 3, test = 1 }".into(),
            "names = [" => String::new(),
            _ if block == "names = " => String::new(),
            class if block == "data.images_of" && is_entry => format!("{class} = {{ train = 3, test = 1 }}"),
            "seeds" => {
                let seed = whole["seeds"][0].as_integer().unwrap();
                format!("seeds = [{seed}]\nfit_vae = \"epochs=2,hidden=16,latent=4\"")
            }
            "fit_vae" => String::new(),
            "methods" => {
                let short = |method: &toml::Value| {
                    let method =
                        method.as_str().unwrap().replace("epochs=60", "epochs=1").replace("epochs=150", "epochs=1");
                    match method.starts_with("cgil") {
                        true if method.contains("epochs") => format!("{:?}", method + ",samples=4"),
                        true => format!("{:?}", method + ",epochs=1,samples=4"),
                        false => format!("{method:?}"),
                    }
                };
                let methods: Vec<String> = whole["methods"].as_array().unwrap().iter().map(short).collect();
                format!("methods = [{}]", methods.join(", "))
            }
            _ => line.to_owned(),
        });
        if block == "names = " && line == "]" {
            block.clear();
            let names: Vec<String> = whole["data"]["names"]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| format!("{:?}", name.as_str().unwrap()))
                .collect();
            lines.push(format!("names = [{}]", names[..classes].join(", ")));
        }
    }
    fs::write(file, lines.join("\n") + "\n").unwrap();
    toml::from_str(&lines.join("\n")).unwrap()
}

/// An image folder of classes in these directories.
fn folder(dir: &Path, directories: &[String]) {
    for (split, n) in IMAGES {
        for (class, directory) in directories.iter().enumerate() {
            let dir = dir.join(split).join(directory);
            fs::create_dir_all(&dir).unwrap();
            for i in 0..n {
                let bytes = encoded(picture(class % 7, 5 * i + n + class, 60), image::ImageFormat::Png);
                fs::write(dir.join(format!("{i}.png")), bytes).unwrap();
            }
        }
    }
}

/// CIFAR-100 as the hub has it, of some of its classes.
fn cifar(dir: &Path, classes: usize) {
    let names: Vec<String> = (0..classes).map(|class| format!("\"thing_{class}\"")).collect();
    let features = format!(
        r#"{{"info":{{"features":{{"img":{{"_type":"Image"}},"fine_label":{{"names":[{}],"_type":"ClassLabel"}},"coarse_label":{{"names":["a","b"],"_type":"ClassLabel"}}}}}}}}"#,
        names.join(",")
    );
    for (split, n) in IMAGES {
        let labels: Vec<i64> = (0..classes * n).map(|i| (i / n) as i64).collect();
        let png = |i: usize| encoded(picture(i % 7, 3 * i + n, 60), image::ImageFormat::Png);
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..classes * n).map(png)));
        let paths: ArrayRef = Arc::new(StringArray::from_iter(labels.iter().map(|_| None::<&str>)));
        let image = StructArray::from(vec![
            (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
            (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
        ]);
        let coarse = Int64Array::from_iter_values(labels.iter().map(|label| label % 2));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("img", Arc::new(image)),
            ("fine_label", Arc::new(Int64Array::from(labels))),
            ("coarse_label", Arc::new(coarse)),
        ];
        let file = dir.join(format!("cifar100/{split}-00000-of-00001.parquet"));
        write_parquet(&file, columns, &[("huggingface", &features)]);
    }
}

/// The directories that a recipe's classes lie in.
fn directories(name: &str, recipe: &toml::Table, classes: usize) -> Vec<String> {
    let data = &recipe["data"];
    if let Some(names) = data.get("names_of") {
        return names.as_table().unwrap().keys().cloned().collect();
    }
    (0..classes)
        .map(|i| match name {
            "isic" => i.to_string(),
            "cars-196" => format!("Maker Model {i} 2012"),
            _ => format!("{:03}.{}", i + 1, data["names"][i].as_str().unwrap().replace(' ', "_")),
        })
        .collect()
}

/// A miniature of a recipe, its data beside it, run from end to end: the run's directory, and what
/// was printed.
fn whole(dir: &Path, name: &str, classes: usize) -> (PathBuf, String) {
    let (file, data, run_dir) = (dir.join("mine.toml"), dir.join("data"), dir.join("run"));
    let recipe = miniature(name, classes, &file);
    match recipe["data"].get("hub") {
        Some(_) => cifar(&data, classes),
        None => folder(&data, &directories(name, &recipe, classes)),
    }
    let model = golden("checkpoint");
    let args = ["run", path(&file), "--data", path(&data), "--model", path(&model), "--run", path(&run_dir)];
    (run_dir.clone(), run(&args))
}

/// What every run of a recipe leaves: a table of its methods, and the report.
fn assert_whole(name: &str, run_dir: &Path, printed: &str, sizes: &[usize]) {
    let methods = query(run_dir, "SELECT DISTINCT method FROM metrics");
    let recipe: toml::Table = toml::from_str(&run(&["run", name, "--show"])).unwrap();
    assert_eq!(methods.len(), recipe["methods"].as_array().unwrap().len(), "{name}: {methods:?}");
    for part in ["as expected", "images to encode", "zero-shot", "evidence", "report.html"] {
        assert!(printed.contains(part), "{name}: {part} in:\n{printed}");
    }
    for figure in recipe.get("published").and_then(|all| all.as_array()).into_iter().flatten() {
        assert!(printed.contains(figure["source"].as_str().unwrap()), "{name}: {printed}");
    }
    let tasks = "SELECT task, COUNT(*) FROM classes GROUP BY task ORDER BY task";
    let found: Vec<usize> =
        query(run_dir, tasks).iter().map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(found, sizes, "{name}");
    assert!(fs::metadata(run_dir.join("report.html")).unwrap().len() > 10_000);
}

#[test]
fn the_authors_recipes_run_from_end_to_end_on_miniatures() {
    for (name, classes, sizes) in [
        ("imagenet-r", 20, vec![2; 10]),
        ("cars-196", 19, [vec![2; 9], vec![1]].concat()),
        ("cub-200", 20, vec![2; 10]),
        ("eurosat", 10, vec![2; 5]),
        ("isic", 6, vec![2; 3]),
        ("cifar-100", 20, vec![2; 10]),
    ] {
        let dir = tempdir().unwrap();
        let (run_dir, printed) = whole(dir.path(), name, classes);
        assert_whole(name, &run_dir, &printed, &sizes);
        let order = query(&run_dir, "SELECT DISTINCT class_order FROM metrics");
        assert_eq!(order, ["seed-1992"], "{name}");
    }
}

#[test]
fn the_other_camps_recipes_run_in_their_own_class_order() {
    for name in ["b0-inc10-cifar-100", "b0-inc20-cub-200", "b0-inc20-imagenet-r"] {
        let dir = tempdir().unwrap();
        let (run_dir, printed) = whole(dir.path(), name, 20);
        assert_whole(name, &run_dir, &printed, &[2; 10]);
        assert!(printed.contains("A_B") && printed.contains("PROOF"), "{printed}");
        // np.random.seed(1993); np.random.permutation(20), as a list of classes
        let order = [14, 6, 5, 8, 12, 11, 18, 2, 4, 16, 10, 15, 9, 13, 7, 0, 3, 19, 17, 1];
        let mut expected: Vec<(usize, i64)> = order.iter().enumerate().map(|(i, class)| (i / 2 + 1, *class)).collect();
        expected.sort();
        let expected: Vec<String> = expected.into_iter().map(|(task, class)| format!("{task},{class}")).collect();
        assert_eq!(query(&run_dir, "SELECT task, label FROM classes ORDER BY task, label"), expected, "{name}");
    }
}

#[test]
fn a_wrong_count_is_refused_by_name_before_anything_is_encoded() {
    let dir = tempdir().unwrap();
    let (file, data, run_dir) = (dir.path().join("mine.toml"), dir.path().join("data"), dir.path().join("run"));
    let recipe = miniature("eurosat", 10, &file);
    folder(&data, &directories("eurosat", &recipe, 10));
    let model = golden("checkpoint");
    let args = ["run", path(&file), "--data", path(&data), "--model", path(&model), "--run", path(&run_dir)];
    fs::remove_file(data.join("train/Forest/1.png")).unwrap();
    let said = fails(
        &args,
        &["not those of the recipe mine", "train images: expected 30, found 29", "of \"Forest\": expected 3, found 2"],
    );
    assert!(!said.contains("River") && said.contains("split_zhou_EuroSAT.json"), "{said}");
    assert!(!run_dir.join("sources").exists());
    fs::write(data.join("train/Forest/1.png"), encoded(picture(1, 1, 60), image::ImageFormat::Png)).unwrap();
    fs::create_dir_all(data.join("test/Desert")).unwrap();
    fs::write(data.join("test/Desert/1.png"), encoded(picture(1, 1, 60), image::ImageFormat::Png)).unwrap();
    fails(&args, &["for the recipe mine", "has no name for \"Desert\""]);
    // the whole recipe is not content with a miniature
    fs::remove_dir_all(data.join("test/Desert")).unwrap();
    let whole = ["run", "eurosat", "--data", path(&data), "--model", path(&model), "--run", path(&run_dir)];
    fails(&whole, &["train images: expected 13500, found 30", "cgil run eurosat --show > mine.toml"]);
    fails(&["run", "euro-sat"], &["no recipe: those are", "eurosat, imagenet-r, isic"]);
    fails(&["run", "isic", "--run", path(&run_dir)], &["give --data", "dermatoscopic"]);
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"lda\"", "\"ldo\"")).unwrap();
    fails(&args, &["method \"ldo\""]);
    assert!(!run_dir.join("sources").exists());
}

#[test]
fn a_recipe_goes_on_where_it_stopped_and_takes_embeddings_that_are_there() {
    let dir = tempdir().unwrap();
    let (run_dir, printed) = whole(dir.path(), "isic", 6);
    let table = |printed: &str| {
        printed.lines().skip_while(|line| !line.starts_with(" method")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before: BTreeMap<PathBuf, Vec<u8>> = files(&run_dir);
    let (file, data, model) = (dir.path().join("mine.toml"), dir.path().join("data"), golden("checkpoint"));
    let args = ["run", path(&file), "--run", path(&run_dir)];
    let again = run(&[&args[..], &["--data", path(&data), "--model", path(&model)]].concat());
    assert_eq!(table(&again), table(&printed));
    assert_eq!(files(&run_dir).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    // without the images
    fs::remove_dir_all(&data).unwrap();
    let again = run(&[&args[..], &["--model", path(&model)]].concat());
    assert_eq!(table(&again), table(&printed));

    // embeddings made elsewhere, whose counts are looked at too
    let mut text = fs::read_to_string(&file).unwrap();
    let start = text.find("names = [").unwrap();
    text.replace_range(start..start + text[start..].find('\n').unwrap(), "images_per_class = { train = 4, test = 2 }");
    fs::write(&file, text).unwrap();
    let of = |name: &str, train: usize| imported(dir.path(), name, &Rows::clouds(6, train, 2));
    let args =
        |run_dir: &Path| ["run", path(&file), "--model", path(&model), "--run", path(run_dir)].map(str::to_owned);
    let good = args(&of("good", 4));
    run(&good.iter().map(String::as_str).collect::<Vec<_>>());
    let bad = args(&of("bad", 5));
    let bad: Vec<&str> = bad.iter().map(String::as_str).collect();
    fails(&bad, &["train images of \"forest 0\": expected 4, found 5"]);
}

#[test]
fn a_recipe_fetches_what_it_names() {
    let dir = tempdir().unwrap();
    let (file, run_dir, server) = (dir.path().join("mine.toml"), dir.path().join("run"), Server::new());
    miniature("cifar-100", 20, &file);
    let add = |place: &str, below: &Path| {
        let named = files(below).into_iter();
        let files = named.map(|(path, bytes)| (path.to_str().unwrap().to_owned(), bytes)).collect();
        server.add(place, Repository { files, ..Repository::default() });
    };
    cifar(&dir.path().join("cifar"), 20);
    add("datasets/uoft-cs/cifar100", &dir.path().join("cifar"));
    add("models/openai/clip-vit-large-patch14", &golden("checkpoint"));
    let output =
        server.command(&dir.path().join("home"), &["run", path(&file), "--run", path(&run_dir)]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_whole("cifar-100", &run_dir, &text(&output.stdout), &[2; 10]);
    let plan = fs::read_to_string(run_dir.join("sources/base/plan.json")).unwrap();
    assert!(plan.contains("openai/clip-vit-large-patch14@"), "{plan}");
}
