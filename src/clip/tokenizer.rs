//! Text to token ids.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use super::config::TextConfig;
use crate::words::counted;

/// What early configurations have as eos_token_id, whatever the tokenizer's is.
const HISTORICAL_EOS: u32 = 2;

/// The tokenizer of a checkpoint.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    context: usize,
    vocab_size: usize,
    eos: u32,
    start: u32,
}

impl Tokenizer {
    pub(super) fn open(path: &Path, config: &TextConfig) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_file(path).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        // lengths are this project's business: silent truncation would drop the end of text
        inner.with_truncation(None).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        inner.with_padding(None);
        let (context, vocab_size, eos) = (config.max_position_embeddings, config.vocab_size, config.eos_token_id);
        let empty = inner.encode("", true).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let start = *empty.get_ids().first().with_context(|| format!("{} adds no start of text", path.display()))?;
        let tokenizer = Tokenizer { inner, context, vocab_size, eos, start };
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
        if self.eos != HISTORICAL_EOS && !ids.contains(&self.eos) {
            bail!("tokenizer.json ends {text:?} without the token {}, the eos_token_id of config.json", self.eos);
        }
        self.require_embeddings(text, &ids)?;
        if ids[0] != self.start {
            bail!("tokenizer.json begins {text:?} with the token {}, and others with {}", ids[0], self.start);
        }
        ids.truncate(self.end_of_text(&ids) + 1);
        if ids.len() < 2 {
            bail!("tokenizer.json gives {text:?} no end of text");
        }
        Ok(ids)
    }

    /// An error unless every token of a text is one that the text encoder knows.
    fn require_embeddings(&self, text: &str, ids: &[u32]) -> Result<()> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            bail!(
                "tokenizer.json gives {text:?} the token {id}, but config.json has a vocabulary of {}: \
                 take both from the same checkpoint",
                self.vocab_size
            );
        }
        Ok(())
    }

    /// The position whose state is the text's: the first end-of-text token, or, where the
    /// configuration has the historical id 2, the highest id, as transformers reads it.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        if self.eos == HISTORICAL_EOS {
            let highest = ids.iter().max();
            return ids.iter().position(|id| Some(id) == highest).unwrap_or(0);
        }
        ids.iter().position(|&id| id == self.eos).unwrap_or(0)
    }
}
