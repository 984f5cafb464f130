//! Builds a tokenizer from a file's metadata.

use std::collections::HashMap;
use std::fs::File;

use tokenizers::Tokenizer as Model;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::{Inner, LeadingSpace, Pieces, Specials, TokenKind, sentencepiece};
use crate::error::EngineError;
use crate::gguf::Gguf;

const DIGIT: &str = r"\p{N}";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut before merging, by the file's `tokenizer.ggml.pre`.
struct Splitting {
    /// Applied one after the other, each cutting what the one before left.
    patterns: &'static [&'static str],
    /// A piece that is a token as a whole is taken as it is, merges or not.
    whole_pieces: bool,
    normalizer: Option<NormalizerWrapper>,
}

impl Splitting {
    fn named(name: &str) -> Option<Splitting> {
        let (patterns, whole_pieces): (&[&str], bool) = match name {
            "gpt-2" | "gpt2" | "mpt" | "olmo" => (&[GPT2], false),
            "smollm" | "starcoder" | "refact" | "command-r" => (&[DIGIT, GPT2], false),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => (&[LLAMA3], true),
            "smaug-bpe" | "dbrx" => (&[LLAMA3], false),
            "qwen2" => (&[QWEN2], false),
            "tekken" => (&[TEKKEN], true),
            _ => return None,
        };
        Some(Splitting {
            patterns,
            whole_pieces,
            normalizer: (name == "qwen2").then(|| NFC.into()),
        })
    }
}

pub(super) fn read(gguf: &Gguf, file: &File) -> Result<Inner, EngineError> {
    let bad = |reason: String| EngineError::Tokenizer {
        path: gguf.path().to_path_buf(),
        reason,
    };
    let tokens = gguf
        .strings(file, "tokenizer.ggml.tokens")?
        .ok_or_else(|| bad("`tokenizer.ggml.tokens` is missing".into()))?;
    let kinds = gguf.numbers(file, "tokenizer.ggml.token_type")?;
    let kinds = Kinds(kinds.unwrap_or_default());
    let adds_bos = |default| -> Result<bool, EngineError> {
        Ok(gguf
            .flag("tokenizer.ggml.add_bos_token")?
            .unwrap_or(default))
    };
    let bos = gguf.unsigned("tokenizer.ggml.bos_token_id")?;
    let bos = bos
        .filter(|&id| id < tokens.len() as u64)
        .map(|id| id as u32);
    match gguf.string("tokenizer.ggml.model")? {
        Some("gpt2") => {
            let pre = gguf.string("tokenizer.ggml.pre")?.unwrap_or("(none)");
            let splitting = Splitting::named(pre)
                .ok_or_else(|| bad(format!("splitting rule `{pre}` is not supported")))?;
            let merges = gguf
                .strings(file, "tokenizer.ggml.merges")?
                .ok_or_else(|| bad("`tokenizer.ggml.merges` is missing".into()))?;
            let decoded = ByteAlphabet::new();
            Ok(Inner {
                specials: specials(&tokens, &kinds),
                pieces: pieces(&tokens, &kinds, |text, _| decoded.bytes(text)),
                model: byte_level(&tokens, &merges, splitting).map_err(bad)?,
                leading_space: LeadingSpace::Absent,
                bos: bos.filter(|_| adds_bos(false).unwrap_or(false)),
            })
        }
        Some("llama") => {
            let scores = gguf
                .numbers(file, "tokenizer.ggml.scores")?
                .filter(|scores| scores.len() == tokens.len())
                .ok_or_else(|| bad("`tokenizer.ggml.scores` is missing or too short".into()))?;
            let leading_space = match gguf.flag("tokenizer.ggml.add_space_prefix")? {
                None | Some(true) => LeadingSpace::Added,
                Some(false) => LeadingSpace::Absent,
            };
            let unknown = gguf
                .unsigned("tokenizer.ggml.unknown_token_id")?
                .unwrap_or(0);
            Ok(Inner {
                specials: specials(&tokens, &kinds),
                pieces: pieces(&tokens, &kinds, sentencepiece::bytes),
                model: sentencepiece::model(&tokens, &scores, unknown, leading_space)
                    .map_err(bad)?,
                leading_space,
                bos: bos.filter(|_| adds_bos(true).unwrap_or(true)),
            })
        }
        Some(other) => Err(bad(format!("kind `{other}` is not supported"))),
        None => Err(bad("`tokenizer.ggml.model` is missing".into())),
    }
}

/// The file's `token_type` numbers, which may be absent.
struct Kinds(Vec<f64>);

/// A single byte, spelled `<0x0A>`.
pub(super) const BYTE: u32 = 6;

impl Kinds {
    fn number(&self, id: usize) -> u32 {
        self.0.get(id).map_or(1, |&number| number as u32)
    }

    fn kind(&self, id: usize) -> TokenKind {
        match self.number(id) {
            3 => TokenKind::Control,
            4 => TokenKind::Defined,
            _ => TokenKind::Normal,
        }
    }
}

fn specials(tokens: &[String], kinds: &Kinds) -> Specials {
    let mut specials = Specials::default();
    for (id, text) in tokens.iter().enumerate() {
        match kinds.kind(id) {
            TokenKind::Normal => {}
            kind @ (TokenKind::Control | TokenKind::Defined) => {
                specials.insert(text, id as u32, kind);
            }
        }
    }
    specials
}

/// The bytes of every token; `bytes` decodes a normal one from its text and type number.
fn pieces(tokens: &[String], kinds: &Kinds, bytes: impl Fn(&str, u32) -> Vec<u8>) -> Pieces {
    let mut pieces = Pieces::default();
    for (id, text) in tokens.iter().enumerate() {
        match kinds.kind(id) {
            TokenKind::Normal => pieces.push(&bytes(text, kinds.number(id)), TokenKind::Normal),
            kind @ (TokenKind::Control | TokenKind::Defined) => {
                pieces.push(text.as_bytes(), kind);
            }
        }
    }
    pieces
}

fn byte_level(tokens: &[String], merges: &[String], splitting: Splitting) -> Result<Model, String> {
    let vocabulary = (0u32..).zip(tokens).map(|(id, text)| (text.clone(), id));
    let merges: Option<Vec<(String, String)>> = merges
        .iter()
        .map(|merge| {
            // A token may start with a space's stand-in but never with a space.
            let (left, right) = merge.split_once(' ')?;
            Some((left.to_string(), right.to_string()))
        })
        .collect();
    let merges = merges.ok_or("a merge is not two tokens")?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.collect::<Vocab>(), merges)
        .ignore_merges(splitting.whole_pieces)
        .build()
        .map_err(|error| error.to_string())?;
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in splitting.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_string());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(split.map_err(|error| error.to_string())?.into());
    }
    // No space before the text and no splitting of its own: only the byte alphabet.
    steps.push(ByteLevel::new(false, false, false).into());
    let mut model = Model::new(bpe);
    model.with_pre_tokenizer(Some(Sequence::new(steps)));
    if let Some(normalizer) = splitting.normalizer {
        model
            .with_normalizer(Some(normalizer))
            .map_err(|error| error.to_string())?;
    }
    Ok(model)
}

/// GPT-2's alphabet: a printable character for each byte.
struct ByteAlphabet {
    byte: HashMap<char, u8>,
}

impl ByteAlphabet {
    fn new() -> ByteAlphabet {
        let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let mut stand_in = 256u32;
        let mut byte = HashMap::new();
        for value in 0..=255u8 {
            let character = if printable(value) {
                char::from(value)
            } else {
                stand_in += 1;
                char::from_u32(stand_in - 1).expect("256..=323 are characters")
            };
            byte.insert(character, value);
        }
        ByteAlphabet { byte }
    }

    /// The bytes that `text` stands for; a text outside the alphabet stands for itself.
    fn bytes(&self, text: &str) -> Vec<u8> {
        let bytes: Option<Vec<u8>> = text.chars().map(|c| self.byte.get(&c).copied()).collect();
        bytes.unwrap_or_else(|| text.as_bytes().to_vec())
    }
}
