//! The files that a checkpoint's tokenizer is made of: tokenizer.json, or what older checkpoints
//! have in its place.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::format::read_json;

const TOKENIZER: &str = "tokenizer.json";

/// CLIP's byte-pair encoding as its first tokenizers were saved: ids, and merges in their order.
const PAIRS: [&str; 2] = ["vocab.json", "merges.txt"];

/// CLIP's special tokens.
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// A tokenizer on disk.
pub enum TokenizerFiles {
    /// tokenizer.json.
    Whole(PathBuf),
    /// vocab.json and merges.txt.
    Pairs([PathBuf; 2]),
}

impl TokenizerFiles {
    /// The tokenizer in a checkpoint's directory, which was made with the one that the hub has under
    /// `name`.
    pub fn find(dir: &Path, name: &str) -> Result<Self> {
        let whole = dir.join(TOKENIZER);
        let pairs = PAIRS.map(|name| dir.join(name));
        if whole.is_file() {
            return Ok(TokenizerFiles::Whole(whole));
        }
        if pairs.iter().all(|path| path.is_file()) {
            return Ok(TokenizerFiles::Pairs(pairs));
        }
        bail!(
            "the checkpoint {dir} has no {TOKENIZER}, and not both {} and {}; with its own tokenizer, \
             python -c \"from transformers import AutoTokenizer; \
             AutoTokenizer.from_pretrained('{name}').save_pretrained('{dir}')\" writes it",
            PAIRS[0],
            PAIRS[1],
            dir = dir.display()
        )
    }

    /// SHA-256 of the files.
    pub fn sha256(&self) -> Result<String> {
        match self {
            TokenizerFiles::Whole(path) => crate::hash::hash_file(path),
            TokenizerFiles::Pairs(paths) => crate::hash::hash_files(paths),
        }
    }

    /// The file that errors name.
    pub fn name(&self) -> &'static str {
        match self {
            TokenizerFiles::Whole(_) => TOKENIZER,
            TokenizerFiles::Pairs(_) => PAIRS[0],
        }
    }

    /// Reads it.
    pub fn open(&self) -> Result<Tokenizer> {
        match self {
            TokenizerFiles::Whole(path) => {
                Tokenizer::from_file(path).map_err(|error| anyhow!("{}: {error}", path.display()))
            }
            TokenizerFiles::Pairs([vocab, merges]) => {
                let dir = vocab.parent().context("a file lies in a directory")?;
                let ids: BTreeMap<String, u32> = read_json(dir, PAIRS[0])?;
                let text = fs::read_to_string(merges).with_context(|| format!("cannot read {}", merges.display()))?;
                let whole = clips_pairs(&ids, &text).with_context(|| vocab.display().to_string())?;
                Tokenizer::from_bytes(whole.to_string())
                    .map_err(|error| anyhow!("{} and {}: {error}", vocab.display(), PAIRS[1]))
            }
        }
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
