//! Text to token ids and back, as the model file describes it.
//!
//! The merging is the `tokenizers` crate's; special tokens and decoding are
//! done here, so that a user's text can be kept from forging special tokens
//! and a stream never shows half a character. No defaults: a splitting rule
//! that the file does not name, or that is unknown here, is refused.

mod build;
mod sentencepiece;
mod stream;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use crate::error::EngineError;
use crate::gguf::Gguf;
pub use stream::DecodeStream;

/// A model's tokenizer. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

/// Breaks the text of a control token, and is no part of any text: Unicode gives this code point
/// to programs for their own ends.
const SHIELD: char = '\u{fdd0}';

/// What to do with the text of special tokens, such as `<|im_end|>`, in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They become their ids: for text that a chat template made.
    Parse,
    /// They are text like any other: for text that somebody typed.
    Text,
}

#[derive(Debug)]
struct Inner {
    model: tokenizers::Tokenizer,
    specials: Specials,
    pieces: Pieces,
    /// Whether the first piece of a text carries a space that the text lacked.
    leading_space: LeadingSpace,
    bos: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeadingSpace {
    Added,
    Absent,
}

/// What kind of token an id is, for decoding and matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    /// Plain text, made by merging.
    Normal,
    /// Structure: never shown, matched only in trusted text.
    Control,
    /// Text that is matched whole before any merging.
    Defined,
}

/// The bytes of every token, end to end.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    /// End of each token's bytes.
    ends: Vec<u32>,
    control: Vec<bool>,
}

/// Tokens that are matched as a whole, by their first byte, the longest first.
#[derive(Debug, Default)]
struct Specials {
    by_first_byte: BTreeMap<u8, Vec<(String, u32, TokenKind)>>,
}

impl Tokenizer {
    pub(crate) fn read(gguf: &Gguf, file: &File) -> Result<Tokenizer, EngineError> {
        build::read(gguf, file).map(|inner| Tokenizer {
            inner: Arc::new(inner),
        })
    }

    /// Token ids of `text`. No beginning-of-sequence token is put before them: see [`Tokenizer::bos`].
    ///
    /// # Errors
    /// [`EngineError::Encode`] when the splitting rule gives up on the text.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        let mut rest = text;
        let matched = |kind| match special {
            SpecialTokens::Parse => true,
            SpecialTokens::Text => kind == TokenKind::Defined,
        };
        while !rest.is_empty() {
            let (plain, found) = self.inner.specials.next(rest, matched);
            if !plain.is_empty() {
                let encoding = match plain.contains(SHIELD) {
                    true => self
                        .inner
                        .model
                        .encode_fast(plain.replace(SHIELD, ""), false),
                    false => self.inner.model.encode_fast(plain, false),
                };
                let encoding = encoding.map_err(|error| EngineError::Encode {
                    reason: error.to_string(),
                })?;
                ids.extend_from_slice(encoding.get_ids());
            }
            rest = &rest[plain.len()..];
            if let Some((length, id)) = found {
                ids.push(id);
                rest = &rest[length..];
            }
        }
        Ok(ids)
    }

    /// `text` made safe to stand in a prompt that is encoded with [`SpecialTokens::Parse`]: control
    /// tokens that somebody typed stay text there.
    pub fn shield<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let control = |kind| kind == TokenKind::Control;
        let mut shielded = String::new();
        let mut rest = text;
        while let (plain, Some((length, _))) = self.inner.specials.next(rest, control) {
            let mut token = rest[plain.len()..][..length].chars();
            shielded.push_str(plain);
            shielded.extend(token.next());
            shielded.push(SHIELD);
            shielded.push_str(token.as_str());
            rest = &rest[plain.len() + length..];
        }
        if shielded.is_empty() {
            return Cow::Borrowed(text);
        }
        shielded.push_str(rest);
        Cow::Owned(shielded)
    }

    /// The text of `ids`. Control tokens are left out, bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.inner))
    }

    /// The beginning-of-sequence token, if the model wants one before text that no chat template made.
    pub fn bos(&self) -> Option<u32> {
        self.inner.bos
    }

    /// Number of tokens that have a text.
    pub fn vocabulary(&self) -> usize {
        self.inner.pieces.ends.len()
    }

    /// Whether `id` is a control token, which is never shown.
    pub fn is_control(&self, id: u32) -> bool {
        self.inner.pieces.is_control(id)
    }
}

impl Pieces {
    fn push(&mut self, bytes: &[u8], kind: TokenKind) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
        self.control.push(kind == TokenKind::Control);
    }

    /// The bytes of token `id`; none for an id without a text.
    fn get(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else {
            return &[];
        };
        let start = match id.checked_sub(1) {
            None => 0,
            Some(before) => self.ends[before as usize],
        };
        &self.bytes[start as usize..end as usize]
    }

    fn is_control(&self, id: u32) -> bool {
        self.control.get(id as usize).copied().unwrap_or(false)
    }
}

impl Specials {
    fn insert(&mut self, text: &str, id: u32, kind: TokenKind) {
        let Some(&first) = text.as_bytes().first() else {
            return;
        };
        let group = self.by_first_byte.entry(first).or_default();
        group.push((text.to_string(), id, kind));
        group.sort_by_key(|(text, id, _)| (std::cmp::Reverse(text.len()), *id));
    }

    /// The text before the next token of a kind that `matched` names, and that token's length and id.
    fn next<'a>(
        &self,
        text: &'a str,
        matched: impl Fn(TokenKind) -> bool,
    ) -> (&'a str, Option<(usize, u32)>) {
        for (at, byte) in text.bytes().enumerate() {
            let Some(group) = self.by_first_byte.get(&byte) else {
                continue;
            };
            let found = group.iter().find(|(token, _, kind)| {
                text.as_bytes()[at..].starts_with(token.as_bytes()) && matched(*kind)
            });
            if let Some((token, id, _)) = found {
                return (&text[..at], Some((token.len(), *id)));
            }
        }
        (text, None)
    }
}

#[cfg(test)]
mod tests;
