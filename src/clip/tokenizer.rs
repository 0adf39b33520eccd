//! Text to token ids.

use anyhow::{Context, Result, anyhow, bail};

use super::{
    config::{Pooling, TextConfig},
    tokenizer_files::TokenizerFiles,
};
use crate::words::counted;

/// What early configurations have as eos_token_id, whatever the tokenizer's is.
const HISTORICAL_EOS: u32 = 2;

/// The tokenizer of a checkpoint.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    context: usize,
    vocab_size: usize,
    eos: u32,
    /// Whether the end of text is the highest token, whichever that is.
    highest_ends: bool,
    start: u32,
    /// The files that errors name: its own, and the configuration's.
    names: [&'static str; 2],
}

impl Tokenizer {
    /// `named` is the file of the configuration.
    pub(super) fn open(files: &TokenizerFiles, config: &TextConfig, named: &'static str) -> Result<Self> {
        let name = files.name();
        let mut inner = files.open()?;
        // lengths are this project's business: silent truncation would drop the end of text
        inner.with_truncation(None).map_err(|e| anyhow!("{name}: {e}"))?;
        inner.with_padding(None);
        let (context, vocab_size, eos) = (config.max_position_embeddings, config.vocab_size, config.eos_token_id);
        let highest_ends = config.pooling == Pooling::Clip && eos == HISTORICAL_EOS;
        let empty = inner.encode("", true).map_err(|e| anyhow!("{name}: {e}"))?;
        let start = *empty.get_ids().first().with_context(|| format!("{name} adds no start of text"))?;
        let tokenizer = Tokenizer { inner, context, vocab_size, eos, highest_ends, start, names: [name, named] };
        tokenizer.require_embeddings("", empty.get_ids())?;
        Ok(tokenizer)
    }

    /// The start of text: the token that every text begins with.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Token ids of `text`, from start to end of text, where `reserved` further positions will be
    /// put in between. An error if they do not all fit the context.
    pub fn encode(&self, text: &str, reserved: usize) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, true).map_err(|e| anyhow!("cannot tokenise {text:?}: {e}"))?;
        let mut ids = encoding.get_ids().to_vec();
        let needed = ids.len() + reserved;
        if needed > self.context {
            bail!(
                "the text {text:?} needs {needed} positions ({}, {}), \
                 but the text encoder has {}: use a shorter class name or template, or fewer context vectors",
                counted(ids.len(), "token"),
                counted(reserved, "context vector"),
                self.context
            );
        }
        let [own, config] = self.names;
        if !self.highest_ends && !ids.contains(&self.eos) {
            bail!(
                "{own} ends {text:?} without the token {}, the end of text by the eos_token_id of {config}",
                self.eos
            );
        }
        self.require_embeddings(text, &ids)?;
        if ids[0] != self.start {
            bail!("{own} begins {text:?} with the token {}, and others with {}", ids[0], self.start);
        }
        ids.truncate(self.end_of_text(&ids) + 1);
        if ids.len() < 2 {
            bail!("{own} gives {text:?} no end of text");
        }
        Ok(ids)
    }

    /// An error unless every token of a text is one that the text encoder knows.
    fn require_embeddings(&self, text: &str, ids: &[u32]) -> Result<()> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let [own, config] = self.names;
            bail!(
                "{own} gives {text:?} the token {id}, but {config} has a vocabulary of {}: \
                 take both from the same checkpoint",
                self.vocab_size
            );
        }
        Ok(())
    }

    /// The position whose state is the text's: the first end-of-text token, or, where the
    /// configuration has the historical id 2, the highest id, as transformers reads it.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        if self.highest_ends {
            let highest = ids.iter().max();
            return ids.iter().position(|id| Some(id) == highest).unwrap_or(0);
        }
        ids.iter().position(|&id| id == self.eos).unwrap_or(0)
    }
}
