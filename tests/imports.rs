//! Embeddings made elsewhere, in the formats that people have them in.

use std::{collections::HashMap, fs, io::Write, path::Path, sync::Arc};

use arrow::array::{ArrayRef, Int64Array, StringArray};
use safetensors::{Dtype, tensor::TensorView};
use tempfile::tempdir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::support::{Rows, command, fails, number, path, query, run, text, write_parquet};

/// Rows whose values float16 holds.
fn rows() -> Rows {
    let mut rows = Rows::clouds(3, 5, 2);
    rows.embedding.iter_mut().flatten().for_each(|x| *x = (*x * 256.0).round() / 256.0);
    rows
}

/// The bytes of an array, as numpy's `save` writes them.
fn npy(descr: &str, fortran: bool, shape: &[usize], values: Vec<u8>) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let shape: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({shape}), }}");
    header += &" ".repeat(63 - (10 + header.len()) % 64);
    header.push('\n');
    [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), &values].concat()
}

/// float32 vectors.
fn vectors<'a>(of: impl Iterator<Item = &'a Vec<f32>>) -> Vec<u8> {
    let of: Vec<&Vec<f32>> = of.collect();
    npy("<f4", false, &[of.len(), 48], of.into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect())
}

fn labels<'a>(of: impl Iterator<Item = &'a i64>) -> Vec<u8> {
    let of: Vec<&i64> = of.collect();
    npy("<i8", false, &[of.len()], of.into_iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// Texts as numpy has them: four bytes a letter, all of the same length.
fn texts<'a>(of: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let of: Vec<Vec<u32>> = of.map(|text| text.chars().map(u32::from).collect()).collect();
    let longest = of.iter().map(Vec::len).max().unwrap();
    let letters = of.iter().flat_map(|text| text.iter().copied().chain([0].repeat(longest - text.len())));
    npy(&format!("<U{longest}"), false, &[of.len()], letters.flat_map(u32::to_le_bytes).collect())
}

fn write(file: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

fn npz(file: &Path, arrays: &[(&str, Vec<u8>)], method: CompressionMethod) {
    let mut zip = ZipWriter::new(fs::File::create(file).unwrap());
    for (name, bytes) in arrays {
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// What `cgil import` says of what it found.
fn import(data: &Path, run_dir: &Path, more: &[&str]) -> String {
    let output = command(&[&["import", path(data), "--run", path(run_dir)], more].concat()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

const ROWS: &str = "SELECT split, label, class_name, embedding FROM embeddings ORDER BY split, label, norm";

/// All rows of a run, in one order.
fn all(run_dir: &Path) -> String {
    run(&["query", "--run", path(run_dir), "--format", "json", ROWS])
}

#[test]
fn the_same_rows_come_out_of_every_format() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows = rows();
    rows.write(&at("table.parquet"));
    import(&at("table.parquet"), &at("runs/parquet"), &[]);
    let expected = all(&at("runs/parquet"));

    let of = |split: &'static str| (0..rows.label.len()).filter(move |&i| rows_split(i) == split);
    fn rows_split(i: usize) -> &'static str {
        if i % 7 < 5 { "train" } else { "test" }
    }
    let class_names = ["forest 0", "river 1", "red_fox 2"];
    let split_of = |split| (vectors(of(split).map(|i| &rows.embedding[i])), labels(of(split).map(|i| &rows.label[i])));
    let ((x_train, y_train), (x_test, y_test)) = (split_of("train"), split_of("test"));

    // pairs of arrays, names in a text file
    for (name, bytes) in [
        ("train_features.npy", &x_train),
        ("train_labels.npy", &y_train),
        ("test_features.npy", &x_test),
        ("test_labels.npy", &y_test),
    ] {
        write(&at("pairs").join(name), bytes);
    }
    write(&at("pairs/classes.txt"), class_names.join("\n"));

    // the same in an archive, plain and compressed
    let arrays = [
        ("X_train", x_train),
        ("y_train", y_train),
        ("X_test", x_test),
        ("y_test", y_test),
        ("class_names", texts(class_names.into_iter())),
    ];
    npz(&at("plain.npz"), &arrays, CompressionMethod::Stored);
    npz(&at("compressed.npz"), &arrays, CompressionMethod::Deflated);

    // an array and a table of its name
    write(&at("beside/clip.npy"), vectors(rows.embedding.iter()));
    write(&at("beside/other.csv"), "label\n1\n");
    let lines = (0..rows.label.len()).map(|i| format!("{},{},{}\n", rows.split[i], rows.label[i], rows.class_name[i]));
    write(&at("beside/clip.csv"), "split,label,class_name\n".to_owned() + &lines.collect::<String>());

    // clip-retrieval's folder, in two parts and with vectors of captions
    for (part, rows_of_part) in [(0, 0..9), (1, 9..21)] {
        let of_part = &rows.embedding[rows_of_part.clone()];
        write(&at(&format!("folder/img_emb/img_emb_{part}.npy")), vectors(of_part.iter()));
        write(&at(&format!("folder/text_emb/text_emb_{part}.npy")), vectors(of_part.iter().rev()));
        let texts = |of: &dyn Fn(usize) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows_of_part.clone().map(of)))
        };
        write_parquet(
            &at(&format!("folder/metadata/metadata_{part}.parquet")),
            vec![
                ("image_path", texts(&|i| format!("{i:05}"))),
                ("caption", texts(&|i| format!("a photo, number {i}"))),
                ("cls", Arc::new(Int64Array::from_iter_values(rows_of_part.clone().map(|i| rows.label[i])))),
                ("class_name", texts(&|i| rows.class_name[i].clone())),
                ("split", texts(&|i| rows.split[i].to_owned())),
            ],
            &[],
        );
    }

    // safetensors with names in its metadata
    let flat =
        |split| -> Vec<u8> { of(split).flat_map(|i| &rows.embedding[i]).flat_map(|x| x.to_le_bytes()).collect() };
    let small = |split| -> Vec<u8> { of(split).map(|i| rows.label[i] as u8).collect() };
    let tensors = [
        ("train.embeddings", Dtype::F32, vec![15, 48], flat("train")),
        ("train.labels", Dtype::U8, vec![15], small("train")),
        ("test.embeddings", Dtype::F32, vec![6, 48], flat("test")),
        ("test.labels", Dtype::U8, vec![6], small("test")),
    ];
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata = HashMap::from([("class_names".to_owned(), serde_json::to_string(&class_names).unwrap())]);
    write(&at("set.safetensors"), safetensors::serialize(views, Some(metadata)).unwrap());

    for (data, found) in [
        ("pairs", "train_features.npy, (15, 48) float32 with train_labels.npy"),
        ("plain.npz", "plain.npz:X_test, (6, 48) float32 with plain.npz:y_test"),
        ("compressed.npz", "their names from compressed.npz:class_names"),
        ("beside/clip.npy", "found clip.npy, (21, 48) float32 with clip.csv"),
        ("folder", "left out: text_emb/text_emb_0.npy (of texts), text_emb/text_emb_1.npy (of texts)"),
        ("set.safetensors", "set.safetensors:train.embeddings, (15, 48) float32 with set.safetensors:train.labels"),
    ] {
        let run_dir = at("runs").join(data);
        let notes = import(&at(data), &run_dir, &[]);
        assert!(notes.contains(found), "{data}: {notes}");
        assert_eq!(all(&run_dir), expected, "{data}");
    }
    let ids =
        |data: &str| query(&at("runs").join(data), "SELECT MIN(sample_id) AS a, MAX(sample_id) AS z FROM embeddings");
    assert_eq!(ids("folder"), ["00000,00020"]);
    assert_eq!(ids("plain.npz"), ["plain.npz:X_test#0,plain.npz:X_train#9"]);
}

#[test]
fn numbers_of_every_kind_and_order_are_read() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows = rows();
    write(&at("labels.npy"), labels(rows.label.iter()));
    let flat: Vec<f32> = rows.embedding.iter().flatten().copied().collect();
    let columns: Vec<f32> = (0..48).flat_map(|j| rows.embedding.iter().map(move |row| row[j])).collect();
    let half = |x: &f32| half::f16::from_f32(*x).to_bits();
    let mut expected = None;
    for (descr, fortran, values) in [
        ("<f4", false, flat.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()),
        (">f4", false, flat.iter().flat_map(|x| x.to_be_bytes()).collect()),
        ("<f8", false, flat.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect()),
        ("<f2", false, flat.iter().flat_map(|x| half(x).to_le_bytes()).collect()),
        (">f2", true, columns.iter().flat_map(|x| half(x).to_be_bytes()).collect()),
        ("<f8", true, columns.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect()),
    ] {
        let name = format!("run{}{fortran}", &descr[1..]) + &descr[..1].replace('<', "le").replace('>', "be");
        let array = npy(descr, fortran, &[21, 1, 48], values);
        write(&at("features.npy"), &array);
        import(&at("features.npy"), &at(&name), &[]);
        let found = all(&at(&name));
        assert_eq!(*expected.get_or_insert(found.clone()), found, "{descr} {fortran}");
        npz(
            &at("both.npz"),
            &[
                ("features", array),
                ("y", npy(">i2", false, &[21, 1], rows.label.iter().flat_map(|x| [0, *x as u8]).collect())),
            ],
            CompressionMethod::Deflated,
        );
        import(&at("both.npz"), &at(&format!("{name}.npz")), &[]);
        assert_eq!(all(&at(&format!("{name}.npz"))), found, "{descr} {fortran} in an archive");
    }
    assert_eq!(number(&at("runf4falsele"), "SELECT COUNT(*) FROM embeddings WHERE class_name = '2'"), 7.0);
}

#[test]
fn splits_and_classes_are_found_by_looking() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows = rows();
    let of = |from: usize, to: usize| vectors(rows.embedding[from..to].iter());
    let count =
        |run: &str| query(&at(run), "SELECT split, COUNT(*) FROM embeddings GROUP BY split ORDER BY split").join(" ");
    // those to validate on are the test rows, unless there are test rows
    for (name, from, to) in [("train", 0, 14), ("val", 14, 21)] {
        write(&at(&format!("sets/{name}/x.npy")), of(from, to));
        let classes = texts(rows.class_name[from..to].iter().map(String::as_str));
        write(&at(&format!("sets/{name}/y.npy")), classes);
    }
    let notes = import(&at("sets"), &at("val"), &[]);
    assert!(notes.contains("no test split: the 7 images of the validation split are the test images"), "{notes}");
    assert_eq!(count("val"), "test,7 train,14");
    // labels are the places of the sorted names
    assert_eq!(
        query(&at("val"), "SELECT DISTINCT label, class_name FROM embeddings ORDER BY label"),
        ["0,forest 0", "1,red_fox 2", "2,river 1"]
    );
    write(&at("sets/test/x.npy"), of(0, 3));
    write(&at("sets/test/y.csv"), "river 1\nriver 1\nforest 0\n");
    let notes = import(&at("sets"), &at("test"), &[]);
    assert!(notes.contains("left out: the 7 images of the validation split"), "{notes}");
    assert_eq!(count("test"), "test,3 train,14");

    // a class and a split in the paths, and no test rows at all
    for (data, sets) in [("paths", ["training", "testing"]), ("untested", ["all", "all"])] {
        write(&at(data).join("a.npy"), of(0, 21));
        let line = |i: usize| format!("/data/{}/{}/{i}.jpg\n", sets[usize::from(i % 7 > 4)], rows.class_name[i]);
        write(&at(data).join("list.csv"), "path\n".to_owned() + &(0..21).map(line).collect::<String>());
    }
    import(&at("paths"), &at("from-paths"), &[]);
    assert_eq!(count("from-paths"), "test,6 train,15");
    let notes = import(&at("untested"), &at("no-test"), &[]);
    assert!(notes.contains("no test images"), "{notes}");
    assert_eq!(count("no-test"), "train,21");
    assert_eq!(number(&at("no-test"), "SELECT COUNT(*) FROM embeddings WHERE class_name = 'red_fox 2'"), 7.0);
    import(&at("untested"), &at("held"), &["--holdout", "0.4"]);
    let held = |split: &str| number(&at("held"), &format!("SELECT COUNT(*) FROM embeddings WHERE split = '{split}'"));
    assert!(held("test") > 2.0 && held("train") > 6.0 && held("test") + held("train") == 21.0, "{}", held("test"));

    // names from a file, and labels under another name
    write(&at("own/f.npy"), of(0, 21));
    let line = |i: usize| format!("{},x,{}\n", rows.label[i], i % 2);
    write(&at("own/f.csv"), "species,label,z\n".to_owned() + &(0..21).map(line).collect::<String>());
    write(&at("names.csv"), "0,oak\n1,elm\n2,ash\n");
    let named = ["--label-column", "species", "--class-names", path(&at("names.csv"))].map(str::to_owned);
    import(&at("own/f.npy"), &at("named"), &named.each_ref().map(String::as_str));
    assert_eq!(
        query(&at("named"), "SELECT class_name, COUNT(*) FROM embeddings GROUP BY class_name ORDER BY class_name"),
        ["ash,7", "elm,7", "oak,7"]
    );
    fails(
        &["import", path(&at("own/f.npy")), "--run", path(&at("refused")), "--label-column", "genus"],
        &["f.npy", "no column \"genus\"", "species, label, z"],
    );
}

#[test]
fn a_column_may_have_a_dot_in_its_name() {
    let dir = tempdir().unwrap();
    let mut columns = rows().columns();
    for column in &mut columns {
        column.0 = match column.0 {
            "label" => "meta.label",
            "embedding" => "meta.embedding",
            other => other,
        };
    }
    let table = dir.path().join("table.parquet");
    write_parquet(&table, columns, &[]);
    let run_dir = dir.path().join("run");
    import(&table, &run_dir, &["--label-column", "meta.label"]);
    let labels = query(&run_dir, "SELECT DISTINCT label FROM embeddings ORDER BY label");
    assert_eq!(labels, ["0", "1", "2"]);
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let rows = rows();
    let (x, y) = (vectors(rows.embedding.iter()), labels(rows.label.iter()));
    write(&at("whole.npy"), &x);
    let objects = npy("|O", false, &[21], y.clone());
    let vast = npy("<f4", false, &[1 << 40, 1 << 40], Vec::new());
    let fewer = labels(rows.label[1..].iter());
    let [header_less, ragged, empty] = [("", "0,a\n"), ("label,a\n", "0\n"), ("label,a\n", ",0\n")]
        .map(|(header, row)| header.to_owned() + &row.repeat(21));
    let with_labels = |x| vec![("x.npy", x), ("y.npy", &y[..])];
    let with_table = |table| vec![("x.npy", &x[..]), ("x.csv", str::as_bytes(table))];
    type Case<'a> = (&'a str, Vec<(&'a str, &'a [u8])>, &'a [&'a str]);
    let cases: [Case; 13] = [
        ("cut", with_labels(&x[..x.len() - 1]), &["x.npy", "cut short: (21, 48) float32"]),
        ("header", with_labels(&x[..40]), &["x.npy", "cut short"]),
        ("no-npy", with_labels(b"1.0,2.0\n"), &["x.npy", "no .npy file"]),
        ("vast", with_labels(&vast), &["x.npy", "cut short"]),
        ("objects", vec![("x.npy", &x), ("y.npy", &objects)], &["y.npy", "pickled", "astype(str)"]),
        ("fewer", vec![("x.npy", &x), ("y.npy", &fewer)], &["y.npy has 20 rows, but x.npy has 21"]),
        ("none", vec![("x.npy", &x)], &["none", "which class the rows of x.npy are of", "--label-column"]),
        ("two", vec![("x.npy", &x), ("features.npy", &x), ("y.npy", &y)], &["several sets of vectors", "features.npy"]),
        ("header-less", with_table(&header_less), &["x.csv", "no header", "0,a"]),
        ("ragged", with_table(&ragged), &["x.csv row 0 has 1 value"]),
        ("empty", with_table(&empty), &["x.csv row 0: label is null"]),
        ("no-archive", vec![("x.npz", &x)], &["x.npz"]),
        ("no-tensors", vec![("x.safetensors", &x)], &["x.safetensors", "header"]),
    ];
    for (name, files, expected) in cases {
        files.iter().for_each(|(file, bytes)| write(&at(name).join(file), bytes));
        fails(&["import", path(&at(name)), "--run", path(&at("run"))], expected);
    }
    npz(&at("names.npz"), &[("x", x), ("y", y), ("classes", texts(["a", "b"].into_iter()))], CompressionMethod::Stored);
    fails(
        &["import", path(&at("names.npz")), "--run", path(&at("run"))],
        &["names.npz:y row 14", "label is 2", "names.npz:classes has 2 names"],
    );
    for (file, expected) in [("f.pt", "torch.load('"), ("f.pkl", "pickle.load(open('")] {
        write(&at("pickles").join(file), "pickle");
        fails(
            &["import", path(&at("pickles").join(file)), "--run", path(&at("run"))],
            &[file, expected, "numpy.savez('"],
        );
    }
    assert!(!at("run").exists());
}
