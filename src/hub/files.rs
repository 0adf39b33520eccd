//! Which files of a repository are needed, by the hub's list of them.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::name::Name;
use crate::{picture, source::is_split};

/// What a checkpoint is read from, but for its weights.
const OF_MODELS: [&str; 12] = [
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const OPEN_CLIP_WEIGHTS: &str = "open_clip_model.safetensors";
const CARD: &str = "README.md";

/// Ends of the names of what a data set without Parquet is read from, beside pictures.
const OF_DATASETS: [&str; 8] = [".tar", ".tar.gz", ".tgz", ".csv", ".jsonl", ".json", ".txt", ".arrow"];

/// How the hub calls a split of which it converted a part only.
const PARTIAL: &str = "partial-";

/// The files of a repository at a commit, as the hub lists them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The commit.
    pub sha: String,
    pub siblings: Vec<File>,
}

/// A file of a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// Its path below the repository.
    #[serde(rename = "rfilename")]
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Git's hash of it, or of the pointer to it.
    #[serde(rename = "blobId")]
    pub(super) blob_id: String,
    /// Where it is kept beside Git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lfs: Option<Lfs>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lfs {
    pub sha256: String,
}

/// The files of a data set that are needed, and the directory that they lie in.
pub struct Chosen<'a> {
    pub files: Vec<&'a File>,
    pub below: PathBuf,
}

impl File {
    /// What names its contents in the cache.
    pub fn hash(&self) -> &str {
        self.lfs.as_ref().map_or(&self.blob_id, |lfs| &lfs.sha256)
    }

    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
    }

    /// Whether it is a shard of a data set, and no table beside pictures.
    fn is_parquet(&self) -> bool {
        self.has_extension("parquet") && Path::new(&self.path).file_stem().is_none_or(|stem| stem != "metadata")
    }
}

impl Listing {
    /// The listing, unless a name in it would lead out of the cache.
    pub fn checked(self) -> Result<Self> {
        let is_hash = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        ensure!(is_hash(&self.sha), "{:?} is no commit", self.sha);
        for file in &self.siblings {
            let mut parts = Path::new(&file.path).components();
            ensure!(parts.all(|part| matches!(part, Component::Normal(_))), "{:?} is no path of a file", file.path);
            ensure!(is_hash(file.hash()), "{:?} is no hash of {:?}", file.hash(), file.path);
        }
        Ok(self)
    }

    fn find(&self, path: &str) -> Option<&File> {
        self.siblings.iter().find(|file| file.path == path)
    }

    /// A few of the names, for a message.
    fn shown(&self) -> String {
        let names: Vec<&str> = self.siblings.iter().map(|file| file.path.as_str()).take(8).collect();
        let more = if self.siblings.len() > names.len() { ", …" } else { "" };
        format!("{}{more}", names.join(", "))
    }
}

/// The files that a checkpoint is read from: weights as safetensors, in the layout of transformers
/// where there is that, else in open_clip's. Small ones come first.
pub fn of_model<'a>(name: &Name, listing: &'a Listing) -> Result<Vec<&'a File>> {
    let is_shard = |file: &&File| file.path.starts_with("model-") && file.has_extension("safetensors");
    let has_config = listing.find("config.json").is_some();
    let mut weights: Vec<&File> = match (listing.find(WEIGHTS), listing.find(INDEX), listing.find(OPEN_CLIP_WEIGHTS)) {
        (.., Some(weights)) if !has_config => vec![weights],
        (Some(weights), ..) => vec![weights],
        (_, Some(index), _) => [index].into_iter().chain(listing.siblings.iter().filter(is_shard)).collect(),
        (.., Some(weights)) => vec![weights],
        _ => Vec::new(),
    };
    let is_open_clip = weights.iter().any(|file| file.path == OPEN_CLIP_WEIGHTS);
    let config = if is_open_clip { "open_clip_config.json" } else { "config.json" };
    if weights.is_empty() {
        let pickled = listing.siblings.iter().find(|file| file.path.ends_with("pytorch_model.bin"));
        match pickled {
            Some(pickled) => bail!(
                "{name} has its weights as {} alone, a pickle, which can run any code and is not read: take a \
                 revision with safetensors (where the hub converted it, a pull request among its discussions, \
                 {}@refs/pr/N), or convert it once, in Python: from transformers import AutoModel, AutoProcessor; \
                 [C.from_pretrained({:?}).save_pretrained(\"clip\") for C in (AutoModel, AutoProcessor)]",
                pickled.path,
                name.id,
                name.id
            ),
            None => bail!(
                "{name} has no {WEIGHTS}, no {INDEX} and no {OPEN_CLIP_WEIGHTS}: it is no CLIP checkpoint; it has {}",
                listing.shown()
            ),
        }
    }
    if listing.find(config).is_none() {
        bail!("{name} has weights but no {config}: it is no CLIP checkpoint; it has {}", listing.shown());
    }
    // of a repository with both layouts, the other's configuration would say nothing
    let other = if is_open_clip { "" } else { "open_clip_config.json" };
    let is_small = |file: &&File| OF_MODELS.contains(&file.path.as_str()) && file.path != other;
    let mut files: Vec<&File> = listing.siblings.iter().filter(is_small).collect();
    files.append(&mut weights);
    Ok(files)
}

/// Whether a data set has Parquet of its own.
pub fn has_parquet(listing: &Listing) -> bool {
    listing.siblings.iter().any(File::is_parquet)
}

/// Whether the hub converted all of a data set.
pub fn is_whole(listing: &Listing) -> bool {
    has_parquet(listing)
        && !listing.siblings.iter().any(|file| file.path.split('/').any(|part| part.starts_with(PARTIAL)))
}

/// The files that a data set is read from: its card, and the Parquet of its configuration, or all
/// pictures, archives and tables.
pub fn of_dataset<'a>(name: &Name, listing: &'a Listing) -> Result<Chosen<'a>> {
    let config = name.config.as_deref();
    let card = listing.find(CARD);
    if has_parquet(listing) {
        let parquet: Vec<&File> = listing.siblings.iter().filter(|file| file.is_parquet()).collect();
        let configs: BTreeSet<PathBuf> = parquet.iter().map(|file| config_of(file)).collect();
        let below = choose(name, &configs)?;
        let files = card.into_iter().chain(parquet.into_iter().filter(|file| config_of(file) == below)).collect();
        return Ok(Chosen { files, below });
    }
    let below = PathBuf::from(config.unwrap_or_default());
    let of_config = |file: &&File| Path::new(&file.path).starts_with(&below);
    let is_data = |file: &&File| {
        let path = file.path.to_lowercase();
        picture::has_extension(Path::new(&path))
            || OF_DATASETS.iter().any(|end| path.ends_with(end))
            || file.has_extension("parquet")
    };
    let data: Vec<&File> = listing.siblings.iter().filter(of_config).filter(is_data).collect();
    let is_of_pictures = |file: &&&File| {
        let path = file.path.to_lowercase();
        picture::has_extension(Path::new(&path))
            || [".tar", ".tar.gz", ".tgz", ".arrow"].iter().any(|end| path.ends_with(end))
    };
    if data.iter().find(is_of_pictures).is_none() {
        bail!(
            "{name} has no Parquet, pictures or tar archives{}, so it cannot be read as it is: download and unpack \
             it, and give --data the directory; it has {}",
            config.map_or(String::new(), |config| format!(" below {config}")),
            listing.shown()
        );
    }
    Ok(Chosen { files: card.into_iter().chain(data).collect(), below })
}

/// The directory that names the configuration of a shard: where it lies, without a split's
/// directory.
fn config_of(file: &File) -> PathBuf {
    let path = Path::new(&file.path);
    let dir = path.parent().unwrap_or(Path::new(""));
    let is_split = dir.file_name().is_some_and(is_split);
    let is_numbered = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.parse::<u64>().is_ok());
    let dir = if is_split || is_numbered { dir.parent().unwrap_or(Path::new("")) } else { dir };
    dir.to_owned()
}

/// The directory of the configuration that is asked for, or of the only one.
fn choose(name: &Name, configs: &BTreeSet<PathBuf>) -> Result<PathBuf> {
    let fits = |dir: &&PathBuf| match &name.config {
        Some(config) => dir.ends_with(config),
        None => true,
    };
    let found: Vec<&PathBuf> = configs.iter().filter(fits).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        _ => {
            let shown = |dir: &PathBuf| format!("hf://datasets/{name}/{}", dir.display());
            let there: Vec<String> = configs.iter().take(8).map(shown).collect();
            let (what, more) = (name.config.as_deref(), if configs.len() > 8 { ", …" } else { "" });
            match what {
                Some(config) => {
                    bail!("{name} has no configuration {config:?}: give --data {}{more}", there.join(" or "))
                }
                None => bail!("{name} has several configurations: give --data {}{more}", there.join(" or ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let file = |path: &&str| File { path: (*path).into(), size: 1, blob_id: "ab".into(), lfs: None };
        Listing { sha: "cd".into(), siblings: paths.iter().map(file).collect() }
    }

    fn paths<'a>(files: &[&'a File]) -> Vec<&'a str> {
        files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn of_a_model_one_set_of_weights_is_needed_and_no_pickle() {
        let name = Name::of_model("o/m").unwrap();
        let of = |files: &[&str]| {
            of_model(&name, &listing(files)).map(|files| paths(&files).join(" ")).map_err(|e| e.to_string())
        };
        let all = ["config.json", "flax_model.msgpack", "model.safetensors", "open_clip_config.json"];
        let all =
            [&all[..], &["open_clip_model.safetensors", "pytorch_model.bin", "tokenizer.json", "onnx/model.onnx"]]
                .concat();
        assert_eq!(of(&all).unwrap(), "config.json tokenizer.json model.safetensors");
        let sharded = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let sharded = [&sharded[..], &["model.safetensors.index.json", "pytorch_model-00001-of-00002.bin"]].concat();
        assert_eq!(
            of(&sharded).unwrap(),
            "config.json model.safetensors.index.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors"
        );
        let open_clip =
            ["config.json", "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"];
        assert_eq!(of(&open_clip).unwrap(), "config.json open_clip_config.json open_clip_model.safetensors");
        assert!(
            of(&["config.json", "pytorch_model.bin", "tf_model.h5"]).unwrap_err().contains("pytorch_model.bin alone")
        );
        assert!(of(&["model.gguf"]).unwrap_err().contains("it has model.gguf"));
        assert!(of(&["open_clip_model.safetensors"]).unwrap_err().contains("no open_clip_config.json"));
    }

    #[test]
    fn of_a_data_set_the_parquet_of_one_configuration_is_needed_else_pictures() {
        let of = |config: Option<&str>, files: &[&str]| {
            let name = Name { config: config.map(str::to_owned), ..Name::of_dataset("hf://datasets/o/d").unwrap() };
            let listing = listing(files);
            let chosen = of_dataset(&name, &listing).map_err(|error| error.to_string())?;
            Ok::<_, String>(format!("{}: {}", chosen.below.display(), paths(&chosen.files).join(" ")))
        };
        let data = ["README.md", "data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet", "x.py"];
        assert_eq!(of(None, &data).unwrap(), format!("data: {}", data[..3].join(" ")));
        let two = ["a/test/0000.parquet", "a/train/0000.parquet", "b/c/train-00000-of-00001.parquet"];
        assert_eq!(of(Some("a"), &two).unwrap(), "a: a/test/0000.parquet a/train/0000.parquet");
        assert_eq!(of(Some("c"), &two).unwrap(), "b/c: b/c/train-00000-of-00001.parquet");
        let several = of(None, &two).unwrap_err();
        assert!(
            several.contains("several") && several.contains("--data hf://datasets/o/d/a or hf://datasets/o/d/b/c"),
            "{several}"
        );
        assert!(of(Some("e"), &two).unwrap_err().contains("no configuration \"e\""));
        let pictures = ["README.md", "metadata.parquet", "run.py", "train/cat/1.JPG", "data.zip"];
        assert_eq!(of(None, &pictures).unwrap(), ": README.md metadata.parquet train/cat/1.JPG");
        assert_eq!(of(Some("train"), &pictures).unwrap(), "train: README.md train/cat/1.JPG");
        assert!(of(None, &["README.md", "data.zip", "a.csv"]).unwrap_err().contains("it has README.md, data.zip"));
        assert!(is_whole(&listing(&two)) && !is_whole(&listing(&["d/partial-train/0000.parquet"])));
    }

    #[test]
    fn names_that_lead_out_of_the_cache_are_refused() {
        for path in ["../x", "/etc/x", "a/../../x"] {
            assert!(listing(&[path]).checked().unwrap_err().to_string().contains("no path"), "{path}");
        }
        let mut hash = listing(&["a"]);
        hash.siblings[0].blob_id = "../../x".into();
        assert!(hash.checked().unwrap_err().to_string().contains("no hash"));
        listing(&["a/b c.json"]).checked().unwrap();
    }
}
