//! SentencePiece vocabularies: merges come from scores, unknown bytes from byte tokens.
//!
//! The file has no merge list. Merging the pair whose union scores highest is
//! the same as byte-pair merging with the pairs ranked by that score.

use std::collections::HashMap;

use tokenizers::Tokenizer as Model;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence;

use super::LeadingSpace;
use super::build::BYTE;

/// Stands for a space in a token's text.
const SPACE: &str = "\u{2581}";

pub(super) fn model(
    tokens: &[String],
    scores: &[f64],
    unknown: u64,
    leading_space: LeadingSpace,
) -> Result<Model, String> {
    let mut builder = BPE::builder()
        .vocab_and_merges(
            (0u32..)
                .zip(tokens)
                .map(|(id, text)| (text.clone(), id))
                .collect::<Vocab>(),
            merges(tokens, scores),
        )
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(unknown) = tokens.get(unknown as usize) {
        builder = builder.unk_token(unknown.clone());
    }
    let bpe = builder.build().map_err(|error| error.to_string())?;
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    match leading_space {
        LeadingSpace::Added => steps.push(Prepend::new(SPACE.to_string()).into()),
        LeadingSpace::Absent => {}
    }
    let replace = Replace::new(" ", SPACE).map_err(|error| error.to_string())?;
    steps.push(replace.into());
    let mut model = Model::new(bpe);
    model
        .with_normalizer(Some(Sequence::new(steps)))
        .map_err(|error| error.to_string())?;
    Ok(model)
}

/// The bytes that a token of type number `kind` stands for.
pub(super) fn bytes(text: &str, kind: u32) -> Vec<u8> {
    if kind == BYTE
        && let Some(digits) = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'))
        && let Ok(byte) = u8::from_str_radix(digits, 16)
    {
        return vec![byte];
    }
    text.replace(SPACE, " ").into_bytes()
}

/// Every way to make a token of two others, the highest score of the union first.
fn merges(tokens: &[String], scores: &[f64]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, text)| (text.as_str(), id))
        .collect();
    let mut found = Vec::new();
    for (id, text) in tokens.iter().enumerate() {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                found.push((id, l, r));
            }
        }
    }
    found.sort_by(|&(a, la, ra), &(b, lb, rb)| {
        scores[b]
            .total_cmp(&scores[a])
            .then((la, ra).cmp(&(lb, rb)))
    });
    found
        .into_iter()
        .map(|(_, l, r)| (tokens[l].clone(), tokens[r].clone()))
        .collect()
}
