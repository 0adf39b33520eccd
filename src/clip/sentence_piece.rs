//! SentencePiece's own file, spiece.model, of which transformers' SigLIP tokenizer consists: pieces
//! with their scores, and how texts are normalised. A protocol buffer, of which little is read.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;
use tokenizers::{
    Tokenizer,
    normalizers::{NormalizerWrapper, Precompiled, Sequence},
};

/// The piece that ends a text.
const END: &str = "</s>";

/// What a piece may be.
const UNKNOWN: u64 = 2;

/// The only kind of model that is read.
const UNIGRAM: u64 = 1;

/// What of a model is read.
#[derive(Default)]
struct Model {
    pieces: Vec<(String, f64)>,
    unknown: Option<usize>,
    byte_fallback: bool,
    charsmap: Vec<u8>,
}

/// The tokenizer that spiece.model describes: "▁" before every word, the end of text after them.
pub fn open(path: &Path) -> Result<Tokenizer> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    tokenizer(&bytes).with_context(|| format!("{} is no SentencePiece unigram model", path.display()))
}

fn tokenizer(bytes: &[u8]) -> Result<Tokenizer> {
    let Model { pieces, unknown, byte_fallback, charsmap } = read(bytes)?;
    let end = pieces.iter().position(|(piece, _)| piece == END).with_context(|| format!("it has no {END}"))?;
    let whole = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": true, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
        ]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {END: {"id": END, "ids": [end], "tokens": [END]}}
        },
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": byte_fallback}
    });
    let mut tokenizer = Tokenizer::from_bytes(whole.to_string()).map_err(|error| anyhow!("{error}"))?;
    if !charsmap.is_empty() {
        let precompiled = Precompiled::from(&charsmap).map_err(|error| anyhow!("its normaliser: {error}"))?;
        let rest = tokenizer.get_normalizer().cloned();
        let both = [Some(NormalizerWrapper::Precompiled(precompiled)), rest].into_iter().flatten().collect();
        tokenizer.with_normalizer(Some(Sequence::new(both))).map_err(|error| anyhow!("{error}"))?;
    }
    Ok(tokenizer)
}

/// ModelProto: pieces (1), trainer_spec (2), normalizer_spec (3).
fn read(bytes: &[u8]) -> Result<Model> {
    let mut model = Model::default();
    for field in fields(bytes)? {
        match field {
            (1, Value::Bytes(piece)) => {
                let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
                for field in fields(piece)? {
                    match field {
                        (1, Value::Bytes(bytes)) => text = String::from_utf8(bytes.to_vec())?,
                        (2, Value::Four(bytes)) => score = f64::from(f32::from_le_bytes(bytes)),
                        (3, Value::Number(number)) => kind = number,
                        _ => {}
                    }
                }
                if kind == UNKNOWN {
                    model.unknown = Some(model.pieces.len());
                }
                model.pieces.push((text, score));
            }
            (2, Value::Bytes(trainer)) => {
                for field in fields(trainer)? {
                    match field {
                        (3, Value::Number(kind)) => ensure!(kind == UNIGRAM, "its model_type is {kind}"),
                        (35, Value::Number(fallback)) => model.byte_fallback = fallback != 0,
                        _ => {}
                    }
                }
            }
            (3, Value::Bytes(normalizer)) => {
                for field in fields(normalizer)? {
                    if let (2, Value::Bytes(charsmap)) = field {
                        model.charsmap = charsmap.to_vec();
                    }
                }
            }
            _ => {}
        }
    }
    Ok(model)
}

/// A field of a protocol buffer.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

/// Numbers and values of the fields of a message.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(number(&mut bytes)?),
            1 => Value::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = number(&mut bytes)?;
                Value::Bytes(take(&mut bytes, usize::try_from(length)?)?)
            }
            5 => Value::Four(take(&mut bytes, 4)?.try_into()?),
            kind => bail!("a field of kind {kind}"),
        };
        fields.push((key >> 3, value));
    }
    Ok(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length).context("it is cut short")?;
    *bytes = rest;
    Ok(taken)
}

/// A number in base 128, the lowest digits first.
fn number(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number of more than 64 bits")
}
