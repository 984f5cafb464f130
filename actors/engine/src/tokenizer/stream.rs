//! Decoding tokens that come one by one.
//!
//! Shows a character only when all its bytes are there.

use std::sync::Arc;

use super::{Inner, LeadingSpace};

/// An incremental decoder. Owns what it needs, so it may live in a task.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    inner: Arc<Inner>,
    /// At most three bytes: the start of a character.
    pending: Vec<u8>,
    leading_space: LeadingSpace,
}

impl DecodeStream {
    pub(super) fn new(inner: Arc<Inner>) -> DecodeStream {
        DecodeStream {
            leading_space: inner.leading_space,
            inner,
            pending: Vec::new(),
        }
    }

    /// The text that token `id` completes, which may be none.
    pub fn push(&mut self, id: u32) -> String {
        if self.inner.pieces.is_control(id) {
            return String::new();
        }
        let mut piece = self.inner.pieces.get(id);
        if self.leading_space == LeadingSpace::Added {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
            self.leading_space = LeadingSpace::Absent;
        }
        self.pending.extend_from_slice(piece);
        let mut text = String::new();
        while let Some(valid) = self.take_valid(&mut text) {
            self.pending.drain(..valid);
        }
        text
    }

    /// What is left: U+FFFD if the tokens ended within a character.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    /// Moves what can be shown to `text`; returns how many pending bytes that used, if any.
    fn take_valid(&self, text: &mut String) -> Option<usize> {
        if self.pending.is_empty() {
            return None;
        }
        match std::str::from_utf8(&self.pending) {
            Ok(valid) => {
                text.push_str(valid);
                Some(valid.len())
            }
            Err(error) => {
                let valid = error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                match error.error_len() {
                    Some(length) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        Some(valid + length)
                    }
                    None if valid > 0 => Some(valid),
                    None => None,
                }
            }
        }
    }
}
