//! Data that is damaged: refused, or taken as far as it is whole.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use parquet::file::reader::{FileReader, SerializedFileReader};
use tempfile::tempdir;

use crate::{
    formats_odd::{arrow_stream, tar},
    listings::set_modified,
    sources::{args, assert_holds, extract, png, refused, write},
    support::{assert_same_tables, fails, golden, hugging_face_shard, number, path, query, run},
};

const SKIP: [&str; 5] = ["--holdout", "0.3", "--shard-rows", "4", "--skip-damaged"];

/// An archive of so many samples of two classes, each a picture and, after it, its label; made an hour
/// ago, since what is new is not listed.
fn samples(file: &Path, count: usize) -> Vec<u8> {
    let stem = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let of = |i: usize| {
        [(format!("{stem}-{i}.png"), png(i % 2, i)), (format!("{stem}-{i}.cls"), format!("{}", i % 2).into())]
    };
    let members: Vec<(String, Vec<u8>)> = (0..count).flat_map(of).collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let bytes = tar(file, &members);
    set_modified(file, SystemTime::now() - Duration::from_secs(3600));
    bytes
}

/// Where in an archive the header of a member begins.
fn header(archive: &[u8], member: &str) -> usize {
    archive.windows(member.len()).position(|window| window == member.as_bytes()).unwrap()
}

/// Three archives of eight samples, the second of which holds `damaged` instead of what it should.
fn three(dir: &Path, damaged: impl FnOnce(Vec<u8>) -> Vec<u8>) -> PathBuf {
    let data = dir.join("tars");
    for archive in ["a.tar", "b.tar", "c.tar"] {
        samples(&data.join(archive), 8);
    }
    let second = data.join("b.tar");
    fs::write(&second, damaged(fs::read(&second).unwrap())).unwrap();
    data
}

#[test]
fn of_a_cut_archive_is_taken_what_lies_before() {
    let dir = tempdir().unwrap();
    let data = three(dir.path(), |whole| whole[..header(&whole, "b-5.png") + 600].to_vec());
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    let model = golden("checkpoint");
    refused(
        &data,
        &SKIP[..4],
        &["tars/b.tar is cut in b-5.png", "fetch it again", "what lies before by --skip-damaged"],
    );

    let said = extract(&data, &whole, &SKIP);
    assert_holds(&said, &["note: b.tar is cut in b-5.png: the 5 samples before are taken, what follows is lost"]);
    let ids = query(&whole, "SELECT sample_id FROM embeddings WHERE sample_id LIKE 'b.tar%' ORDER BY sample_id");
    assert_eq!(ids, [0, 1, 2, 3, 4].map(|i| format!("b.tar/b-{i}.png")));
    assert_eq!(number(&whole, "SELECT COUNT(*) FROM embeddings"), 21.0);
    assert_eq!(
        fs::read_dir(whole.join("listings/base"))
            .unwrap()
            .filter(|e| { e.as_ref().unwrap().path().extension().is_some_and(|end| end == "parquet") })
            .count(),
        2
    );
    for partition in ["2/3", "0/3", "1/3"] {
        let of_part = [&args(&data, &parts, &model, &SKIP)[..], &["--partition", partition]].concat();
        run(&of_part);
    }
    assert_same_tables(&whole, &parts);

    // without the option it is refused, also by a run that has done without what is lost
    fails(&args(&data, &whole, &model, &SKIP[..4]), &["b.tar is cut in b-5.png"]);
    // and once it is fetched again it is other data
    samples(&data.join("b.tar"), 8);
    for more in [&SKIP[..], &SKIP[..4]] {
        fails(&args(&data, &whole, &model, more), &["holds other embeddings"]);
    }
    let of_data = ["plan", "--partitions", "2", "--model", path(&model), "--data", path(&data), "--run", path(&parts)];
    let plan = run(&[&of_data[..], &SKIP].concat());
    assert_holds(&plan, &["\"--skip-damaged\""]);
}

#[test]
fn whatever_is_damaged_no_sample_is_taken_in_part() {
    let all = |n: usize| (0..n).map(|i| format!("b.tar/b-{i}.png,{}", i % 2)).collect::<Vec<_>>();
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let cases: [(&str, usize, Damage); 8] = [
        ("is cut in b-5.cls: the 5 samples", 5, |whole| whole[..header(&whole, "b-5.cls") + 512].to_vec()),
        ("is damaged behind b-5.cls: the 5 samples", 5, |mut whole| {
            let at = header(&whole, "b-6.png");
            whole[at] = b'x';
            whole
        }),
        ("is cut, as it has no end: the 7 samples", 7, |whole| whole[..whole.len() - 1024].to_vec()),
        ("is damaged behind b-1.png: the sample before", 1, |mut whole| {
            let at = header(&whole, "b-1.cls");
            whole[at..at + 100].fill(0xff);
            whole
        }),
        ("is damaged at its beginning, or no tar file: nothing of it", 0, |whole| vec![0x55; whole.len()]),
        ("is cut, as it has no end: nothing of it", 0, |_| Vec::new()),
        ("is damaged behind b-7.cls: the 7 samples", 7, |whole| {
            // a compressed one, whose checksum is another
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&whole).unwrap();
            let mut bytes = encoder.finish().unwrap();
            let end = bytes.len();
            bytes[end - 8] ^= 1;
            bytes
        }),
        ("is damaged ", usize::MAX, |whole| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&whole).unwrap();
            let bytes = encoder.finish().unwrap();
            bytes[..bytes.len() / 2].to_vec()
        }),
    ];
    for (i, (said, taken, damage)) in cases.into_iter().enumerate() {
        let dir = tempdir().unwrap();
        let data = three(dir.path(), damage);
        refused(&data, &SKIP[..4], &["b.tar is ", "--skip-damaged"]);
        let run_dir = dir.path().join("run");
        assert_holds(&extract(&data, &run_dir, &SKIP), &[&format!("note: b.tar {said}")]);
        let found =
            query(&run_dir, "SELECT sample_id, label FROM embeddings WHERE sample_id LIKE 'b.tar%' ORDER BY sample_id");
        let taken = if taken == usize::MAX { found.len() } else { taken };
        assert!(taken < 8 && found == all(taken), "{i}: {found:?}");
        assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM quarantine"), 0.0, "{i}");
    }
}

#[test]
fn what_is_no_damage_or_leaves_nothing_stays_an_error() {
    let dir = tempdir().unwrap();
    let data = three(dir.path(), |whole| [&whole[..], &whole].concat());
    refused(&data, &SKIP, &["b.tar goes on behind its end"]);
    for archive in ["a.tar", "b.tar", "c.tar"] {
        fs::write(data.join(archive), "no tar").unwrap();
    }
    refused(&data, &SKIP, &["nothing is left of", "a.tar is damaged", "c.tar is damaged"]);
    // a link that leads nowhere
    fs::remove_file(data.join("b.tar")).unwrap();
    std::os::unix::fs::symlink("/nowhere", data.join("b.tar")).unwrap();
    samples(&data.join("a.tar"), 8);
    samples(&data.join("c.tar"), 8);
    refused(&data, &SKIP[..4], &["b.tar cannot be opened", "leave it out by --skip-damaged"]);
    let run_dir = dir.path().join("run");
    assert_holds(&extract(&data, &run_dir, &SKIP), &["note: b.tar cannot be opened: nothing of it is taken"]);
    assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings"), 16.0);
}

#[test]
fn tables_that_cannot_be_opened_are_left_out_whole() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    let images = |n: usize| -> Vec<(i64, Option<Vec<u8>>)> {
        (0..6).map(|i| ((i % 2) as i64, Some(png(i % 2, 10 * n + i)))).collect()
    };
    let shard = |n: usize| data.join(format!("train-0000{n}-of-00003.parquet"));
    (0..3).for_each(|n| hugging_face_shard(&shard(n), &images(n)));
    hugging_face_shard(&data.join("test-00000-of-00001.parquet"), &images(4));
    let whole = fs::read(shard(1)).unwrap();
    let skip = &SKIP[2..];
    for bytes in [&whole[..whole.len() - 100], &whole[..10], b"", &[7; 5000]] {
        fs::write(shard(1), bytes).unwrap();
        refused(&data, &skip[..2], &["train-00001-of-00003.parquet is not a Parquet file", "--skip-damaged"]);
        let [one, parts] = ["one", "parts"].map(|name| dir.path().join(format!("{name}-{}", bytes.len())));
        let said = extract(&data, &one, skip);
        assert_holds(&said, &["note: left out: ", "train-00001-of-00003.parquet is not a Parquet file"]);
        assert_eq!(number(&one, "SELECT COUNT(*) FROM embeddings"), 18.0);
        for partition in ["1/2", "0/2"] {
            run(&[&args(&data, &parts, &golden("checkpoint"), skip)[..], &["--partition", partition]].concat());
        }
        assert_same_tables(&one, &parts);
    }
    // a column that cannot be read may be a disk's doing
    fs::write(shard(1), &whole).unwrap();
    let reader = SerializedFileReader::new(File::open(shard(1)).unwrap()).unwrap();
    let (start, length) = reader.metadata().row_group(0).column(2).byte_range();
    let mut bytes = whole.clone();
    bytes[start as usize..(start + length) as usize].fill(0xff);
    fs::write(shard(1), bytes).unwrap();
    refused(&data, skip, &["train-00001-of-00003.parquet"]);
    // one that is not there
    fs::remove_file(shard(1)).unwrap();
    std::os::unix::fs::symlink("/nowhere", shard(1)).unwrap();
    assert_holds(&extract(&data, &dir.path().join("link"), skip), &["train-00001-of-00003.parquet"]);
    fs::remove_file(shard(1)).unwrap();
    fs::write(shard(1), &whole).unwrap();
    let run_dir = dir.path().join("one-0");
    fails(&args(&data, &run_dir, &golden("checkpoint"), skip), &["holds other embeddings"]);
    for file in fs::read_dir(&data).unwrap() {
        File::create(file.unwrap().path()).unwrap();
    }
    refused(&data, skip, &["nothing is left of", "train-00000-of-00003.parquet"]);
    // what a whole table has is no damage
    write(data.join("train-00000-of-00003.parquet"), {
        crate::support::write_parquet(
            &dir.path().join("other.parquet"),
            crate::support::Rows::clouds(2, 2, 1).columns(),
            &[],
        );
        fs::read(dir.path().join("other.parquet")).unwrap()
    });
    refused(&data, skip, &["has no column \"image\""]);
}

#[test]
fn arrow_files_that_are_cut_are_left_out_whole() {
    let dir = tempdir().unwrap();
    let whole = arrow_stream();
    let data = dir.path().join("saved");
    write(data.join("data-00000-of-00002.arrow"), &whole);
    let skip = &SKIP[2..];
    for length in [whole.len() - 8, whole.len() / 2, 10] {
        write(data.join("data-00001-of-00002.arrow"), &whole[..length]);
        refused(&data, &skip[..2], &["data-00001-of-00002.arrow", "--skip-damaged"]);
        let run_dir = dir.path().join(format!("run-{length}"));
        assert_holds(&extract(&data, &run_dir, skip), &["note: left out: ", "data-00001-of-00002.arrow"]);
        assert_eq!(number(&run_dir, "SELECT COUNT(*) FROM embeddings"), 4.0);
    }
}
