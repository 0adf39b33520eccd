//! Text to token ids.

use std::borrow::Cow;

use anyhow::{Context, Result, anyhow, bail};

use super::{
    config::{Pooling, TextConfig},
    tokenizer_files::{Cleaning, Padding, TokenizerFiles},
};
use crate::words::counted;

/// What early configurations have as eos_token_id, whatever the tokenizer's is.
const HISTORICAL_EOS: u32 = 2;

/// The tokenizer of a checkpoint.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    cleaning: Cleaning,
    context: usize,
    vocab_size: usize,
    ending: Ending,
    /// The files that errors name: its own, and the configuration's.
    names: [&'static str; 2],
}

/// How texts end, and with it begin.
enum Ending {
    /// With the first end of text, `eos`, or, if `highest`, with the highest token, as transformers
    /// reads the historical id 2. The token `start` begins them.
    EndOfText { start: u32, eos: u32, highest: bool },
    /// With as many of the token as all positions of the text encoder take.
    Padding(u32),
}

impl Tokenizer {
    /// `named` is the file of the configuration.
    pub(super) fn open(files: &TokenizerFiles, config: &TextConfig, named: &'static str) -> Result<Self> {
        let name = files.name();
        let mut inner = files.open()?;
        // lengths are this project's business: silent truncation would drop the end of text
        inner.with_truncation(None).map_err(|e| anyhow!("{name}: {e}"))?;
        inner.with_padding(None);
        let empty = inner.encode("", true).map_err(|e| anyhow!("{name}: {e}"))?;
        let (ending, cleaning) = match files.padding(&inner)? {
            None => {
                let (eos, first) = (config.eos_token_id, empty.get_ids().first());
                let start = *first.with_context(|| format!("{name} adds no start of text"))?;
                let highest = config.pooling == Pooling::Clip && eos == HISTORICAL_EOS;
                (Ending::EndOfText { start, eos, highest }, Cleaning::default())
            }
            Some(Padding { token, cleaning }) => (Ending::Padding(token), cleaning),
        };
        let (context, vocab_size) = (config.max_position_embeddings, config.vocab_size);
        let tokenizer = Tokenizer { inner, cleaning, context, vocab_size, ending, names: [name, named] };
        tokenizer.require_embeddings("", empty.get_ids())?;
        Ok(tokenizer)
    }

    /// The start of text: the token that every text begins with, where there is one.
    pub fn start(&self) -> Option<u32> {
        match self.ending {
            Ending::EndOfText { start, .. } => Some(start),
            Ending::Padding(_) => None,
        }
    }

    /// Token ids of `text`, from its start to its end, where `reserved` further positions will be
    /// put in after the start of text. An error if they do not all fit the context.
    pub fn encode(&self, text: &str, reserved: usize) -> Result<Vec<u32>> {
        let clean = self.cleaning.clean(text);
        let encoding =
            self.inner.encode(Cow::as_ref(&clean), true).map_err(|e| anyhow!("cannot tokenise {text:?}: {e}"))?;
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
        match self.ending {
            Ending::EndOfText { start, eos, highest } => self.end(text, &mut ids, start, eos, highest)?,
            Ending::Padding(token) => ids.resize(self.context - reserved, token),
        }
        self.require_embeddings(text, &ids)?;
        Ok(ids)
    }

    /// Cuts the ids of a text after the token whose state is the text's.
    fn end(&self, text: &str, ids: &mut Vec<u32>, start: u32, eos: u32, highest: bool) -> Result<()> {
        let [own, config] = self.names;
        let end = if highest { ids.iter().max().copied() } else { Some(eos) };
        let Some(end) = ids.iter().position(|&id| Some(id) == end) else {
            bail!("{own} ends {text:?} without the token {eos}, the end of text by the eos_token_id of {config}");
        };
        self.require_embeddings(text, ids)?;
        if ids[0] != start {
            bail!("{own} begins {text:?} with the token {}, and others with {start}", ids[0]);
        }
        ids.truncate(end + 1);
        if ids.len() < 2 {
            bail!("{own} gives {text:?} no end of text");
        }
        Ok(())
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
}
