//! The files that a checkpoint's tokenizer is made of: tokenizer.json, or what older checkpoints
//! have in its place.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{config::Family, format::read_json, sentence_piece};

const TOKENIZER: &str = "tokenizer.json";

/// CLIP's byte-pair encoding as its first tokenizers were saved: ids, and merges in their order.
const PAIRS: [&str; 2] = ["vocab.json", "merges.txt"];

/// What SigLIP's tokenizer is saved as.
const PIECES: &str = "spiece.model";

/// What transformers does beside it: what it cleans texts of, and pads them with.
const SETTINGS: &str = "tokenizer_config.json";

/// CLIP's special tokens.
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// A tokenizer on disk.
pub struct TokenizerFiles {
    dir: PathBuf,
    kind: Kind,
    /// Whether tokenizer_config.json is read, too: where padding is seen.
    has_settings: bool,
}

enum Kind {
    /// tokenizer.json.
    Whole,
    /// vocab.json and merges.txt.
    Pairs,
    /// spiece.model.
    Pieces,
}

/// How a tokenizer pads.
pub struct Padding {
    /// The token that stands after a text's own.
    pub token: u32,
    /// What is done to a text before.
    pub cleaning: Cleaning,
}

/// What is done to texts before they are cut into tokens.
#[derive(Clone, Copy, Default)]
pub struct Cleaning {
    /// Letters become small ones.
    lowers: bool,
    /// ASCII punctuation is left out, and blanks are single.
    strips: bool,
}

impl Cleaning {
    /// A text, cleaned.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        if self.lowers {
            text = text.to_lowercase().into();
        }
        if self.strips {
            let plain: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
            text = plain.split_whitespace().collect::<Vec<_>>().join(" ").into();
        }
        text
    }
}

impl TokenizerFiles {
    /// The tokenizer in the directory of a checkpoint, which was made with the one that the hub has
    /// under `name`.
    pub fn find(dir: &Path, family: Family, name: &str) -> Result<Self> {
        let is_there = |name: &str| dir.join(name).is_file();
        let kind = match family {
            _ if is_there(TOKENIZER) => Kind::Whole,
            Family::Clip if PAIRS.into_iter().all(is_there) => Kind::Pairs,
            Family::Siglip if is_there(PIECES) => Kind::Pieces,
            _ => {
                let older = match family {
                    Family::Clip => format!("not both {} and {}", PAIRS[0], PAIRS[1]),
                    Family::Siglip => format!("no {PIECES}"),
                };
                bail!(
                    "the checkpoint {dir} has no {TOKENIZER}, and {older}; python -c \"from transformers import \
                     AutoTokenizer; AutoTokenizer.from_pretrained('{name}').save_pretrained('{dir}')\" writes it \
                     if that is the tokenizer of its training",
                    dir = dir.display()
                )
            }
        };
        Ok(TokenizerFiles { dir: dir.to_owned(), kind, has_settings: family == Family::Siglip })
    }

    fn names(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Whole => &[TOKENIZER],
            Kind::Pairs => &PAIRS,
            Kind::Pieces => &[PIECES],
        }
    }

    /// SHA-256 of the files.
    pub fn sha256(&self) -> Result<String> {
        let settings = Some(SETTINGS).filter(|_| self.has_settings);
        let paths: Vec<PathBuf> =
            self.names().iter().copied().chain(settings).map(|name| self.dir.join(name)).collect();
        crate::hash::hash_files(&paths)
    }

    /// The file that errors name.
    pub fn name(&self) -> &'static str {
        self.names()[0]
    }

    /// Reads it.
    pub fn open(&self) -> Result<Tokenizer> {
        let path = self.dir.join(self.name());
        match self.kind {
            Kind::Whole => Tokenizer::from_file(&path).map_err(|error| anyhow!("{}: {error}", path.display())),
            Kind::Pieces => sentence_piece::open(&path),
            Kind::Pairs => {
                let ids: BTreeMap<String, u32> = read_json(&self.dir, PAIRS[0])?;
                let merges = self.dir.join(PAIRS[1]);
                let text = fs::read_to_string(&merges).with_context(|| format!("cannot read {}", merges.display()))?;
                let whole = clips_pairs(&ids, &text).with_context(|| path.display().to_string())?;
                Tokenizer::from_bytes(whole.to_string())
                    .map_err(|error| anyhow!("{} and {}: {error}", path.display(), PAIRS[1]))
            }
        }
    }

    /// How texts are padded, where padding is seen.
    pub fn padding(&self, tokenizer: &Tokenizer) -> Result<Option<Padding>> {
        if !self.has_settings {
            return Ok(None);
        }
        let settings: Map<String, Value> = read_json(&self.dir, SETTINGS)?;
        let padding = self.padding_by(&settings, tokenizer);
        padding.map(Some).with_context(|| self.dir.join(SETTINGS).display().to_string())
    }

    fn padding_by(&self, settings: &Map<String, Value>, tokenizer: &Tokenizer) -> Result<Padding> {
        let text = |key: &str| settings.get(key).and_then(Value::as_str);
        if let Some(side) = text("padding_side").filter(|side| *side != "right") {
            bail!("padding_side is {side:?}; expected \"right\", as SigLIP is trained");
        }
        // a token alone, or with its properties
        let special = |key: &str| {
            let token = settings.get(key).map(|token| token.get("content").unwrap_or(token))?.as_str();
            token.map(|token| (token, tokenizer.token_to_id(token)))
        };
        let (pad, token) = special("pad_token").context("it has no pad_token, and padding is seen by this model")?;
        let token = token.with_context(|| format!("{} has no {pad:?}, the pad_token", self.name()))?;
        if let Some((end, id)) = special("eos_token") {
            let empty = tokenizer.encode("", true).map_err(|error| anyhow!("{}: {error}", self.name()))?;
            if empty.get_ids().last().copied() != id {
                bail!("{} does not end texts with {end:?}, the eos_token", self.name());
            }
        }
        let strips = text("tokenizer_class").is_some_and(|class| class.starts_with("SiglipTokenizer"));
        let lowers = settings.get("do_lower_case").and_then(Value::as_bool).unwrap_or(strips);
        Ok(Padding { token, cleaning: Cleaning { lowers, strips } })
    }
}

/// CLIP's tokenizer.json, from the ids of its tokens and the lines of its merges.
fn clips_pairs(ids: &BTreeMap<String, u32>, merges: &str) -> Result<Value> {
    let id = |token: &str| ids.get(token).with_context(|| format!("{token} is missing"));
    let special = |token: &str| -> Result<Value> {
        Ok(json!({
            "id": id(token)?, "content": token, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false
        }))
    };
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty()).collect();
    let words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    Ok(json!({
        "version": "1.0",
        "added_tokens": [special(START)?, special(END)?],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"}
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, id(END)?], "cls": [START, id(START)?],
            "trim_offsets": false, "add_prefix_space": false
        },
        "model": {
            "type": "BPE", "unk_token": END, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "vocab": ids, "merges": merges
        }
    }))
}
