//! What a decoder is made of, read from the model's own metadata.
//!
//! No defaults for anything that changes an answer: what the family needs and
//! the file lacks is an error that names the key.

use crate::error::EngineError;
use crate::gguf::{Gguf, Value};

/// The families that the engine can run, by their `general.architecture`.
pub const FAMILIES: &[&str] = &["llama"];

/// A decoder's shape and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// `general.architecture`.
    pub family: Family,
    /// `general.name`, for people.
    pub name: Option<String>,
    /// Number of decoder layers.
    pub layers: u32,
    /// Width of a hidden row, in elements.
    pub width: usize,
    /// Width inside the gated MLP, in elements.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; queries share them in groups of `heads / kv_heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Added to the mean square in RMSNorm.
    pub norm_epsilon: f32,
    /// Number of tokens that the embedding and the head know.
    pub vocabulary: usize,
    /// Rows that the model was trained to attend over.
    pub context_max: usize,
    /// Rows that a row sees, itself included (Beltagy et al., arXiv:2004.05150); all before it
    /// where there is no window.
    pub window: Option<usize>,
    /// Whether the head projects with the embedding's table.
    pub tied_embeddings: Tied,
    /// Beginning-of-sequence id.
    pub bos: Option<u32>,
    /// Ids that end an answer.
    pub eos: Vec<u32>,
}

/// A model family: which decoder the tensors belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama and what shares its decoder: SmolLM, TinyLlama, Vicuna, …
    Llama,
}

/// Whether embedding and head share one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tied {
    /// One table, `token_embd`, serves both.
    Shared,
    /// The head has its own `output` matrix.
    Separate,
}

/// Rotary position embedding over adjacent pairs of elements (ggml's "norm"
/// type; GGUF stores the query and key rows permuted to fit it).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are divided by this (linear scaling); 1 for none.
    pub scale: f32,
}

impl Spec {
    /// Reads the spec of the family that the file names.
    pub(crate) fn read(gguf: &Gguf) -> Result<Spec, EngineError> {
        let architecture = required(
            gguf.string("general.architecture")?,
            gguf,
            "general.architecture",
        )?;
        let family = match architecture {
            "llama" => Family::Llama,
            other => {
                return Err(EngineError::UnsupportedFamily {
                    name: other.to_string(),
                    supported: FAMILIES,
                });
            }
        };
        let keys = Keys {
            gguf,
            prefix: architecture,
        };
        let width = keys.size("embedding_length")?;
        let heads = keys.size("attention.head_count")?;
        let kv_heads = keys.size_or("attention.head_count_kv", heads)?;
        let head_dim = keys.size_or("attention.key_length", width / heads)?;
        refuse_unknown_features(&keys, width, heads, kv_heads, head_dim)?;
        let vocabulary = match gguf.tensor("token_embd.weight") {
            Some(table) if table.dimensions.len() == 2 => table.dimensions[1] as usize,
            Some(_) | None => return Err(missing_table(gguf)),
        };
        Ok(Spec {
            family,
            name: gguf.string("general.name")?.map(str::to_string),
            layers: keys.size("block_count")? as u32,
            width,
            feed_forward: keys.size("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            rope: Rope::read(&keys)?,
            norm_epsilon: keys.number("attention.layer_norm_rms_epsilon")? as f32,
            vocabulary,
            window: match gguf.unsigned(&keys.full("attention.sliding_window"))? {
                None | Some(0) => None,
                Some(_) => Some(keys.size("attention.sliding_window")?),
            },
            context_max: keys.size("context_length")?,
            tied_embeddings: match gguf.tensor("output.weight") {
                Some(_) => Tied::Separate,
                None => Tied::Shared,
            },
            bos: token(gguf, "tokenizer.ggml.bos_token_id", vocabulary)?,
            eos: ends(gguf, vocabulary)?,
        })
    }

    /// Width of one key or value row of one layer, in elements.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of one query row of one layer, in elements.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }
}

impl Rope {
    fn read(keys: &Keys<'_>) -> Result<Rope, EngineError> {
        let base = keys.number_or("rope.freq_base", 10_000.0)? as f32;
        let scaling = keys.full("rope.scaling.type");
        let scale = match keys.gguf.string(&scaling)? {
            None | Some("none") => 1.0,
            Some("linear") => keys.number("rope.scaling.factor")? as f32,
            Some(other) => {
                return Err(EngineError::UnsupportedFeature {
                    path: keys.gguf.path().to_path_buf(),
                    what: format!("RoPE scaling `{other}`"),
                });
            }
        };
        if base > 0.0 && scale > 0.0 {
            Ok(Rope { base, scale })
        } else {
            Err(keys
                .gguf
                .bad(&scaling, format!("base {base}, factor {scale}")))
        }
    }
}

/// Metadata under the family's prefix.
struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'a str,
}

/// No dimension of a model that fits in a computer is larger.
const SIZE_MAX: u64 = 1 << 28;

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn size(&self, key: &str) -> Result<usize, EngineError> {
        let full = self.full(key);
        // A few families store one number per layer; none that the engine runs does so with different ones.
        let value = required(self.gguf.unsigned(&full)?, self.gguf, &full)?;
        if value == 0 || value > SIZE_MAX {
            return Err(self.gguf.bad(&full, format!("{value} is out of range")));
        }
        Ok(value as usize)
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, EngineError> {
        match self.gguf.value(&self.full(key)) {
            None => Ok(default),
            Some(_) => self.size(key),
        }
    }

    fn number(&self, key: &str) -> Result<f64, EngineError> {
        let full = self.full(key);
        let value = required(self.gguf.float(&full)?, self.gguf, &full)?;
        if value.is_finite() {
            Ok(value)
        } else {
            Err(self.gguf.bad(&full, format!("{value} is not finite")))
        }
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64, EngineError> {
        match self.gguf.value(&self.full(key)) {
            None => Ok(default),
            Some(_) => self.number(key),
        }
    }
}

fn required<T>(value: Option<T>, gguf: &Gguf, key: &str) -> Result<T, EngineError> {
    value.ok_or_else(|| gguf.bad(key, "missing".into()))
}

/// Refuses what would silently give other answers.
fn refuse_unknown_features(
    keys: &Keys<'_>,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Result<(), EngineError> {
    let refuse = |what: String| {
        Err(EngineError::UnsupportedFeature {
            path: keys.gguf.path().to_path_buf(),
            what,
        })
    };
    if !heads.is_multiple_of(kv_heads) {
        return refuse(format!("{heads} heads over {kv_heads} key heads"));
    }
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return refuse(format!("a head of {head_dim} elements (width {width})"));
    }
    let value_dim = keys.size_or("attention.value_length", head_dim)?;
    if value_dim != head_dim {
        return refuse(format!(
            "values of {value_dim} beside keys of {head_dim} elements"
        ));
    }
    let rope_dim = keys.size_or("rope.dimension_count", head_dim)?;
    if rope_dim != head_dim {
        return refuse(format!("RoPE over {rope_dim} of {head_dim} elements"));
    }
    match keys.gguf.value(&keys.full("expert_count")) {
        None | Some(Value::Unsigned(0)) => Ok(()),
        Some(_) => refuse("a mixture of experts".into()),
    }
}

fn missing_table(gguf: &Gguf) -> EngineError {
    EngineError::Tensor {
        path: gguf.path().to_path_buf(),
        tensor: "token_embd.weight".into(),
        reason: "missing, or not a matrix".into(),
    }
}

fn token(gguf: &Gguf, key: &str, vocabulary: usize) -> Result<Option<u32>, EngineError> {
    match gguf.unsigned(key)? {
        None => Ok(None),
        Some(id) if id < vocabulary as u64 => Ok(Some(id as u32)),
        Some(id) => Err(gguf.bad(
            key,
            format!("{id} is outside the vocabulary of {vocabulary}"),
        )),
    }
}

/// End of sequence, of turn, and of message: whichever the file names.
fn ends(gguf: &Gguf, vocabulary: usize) -> Result<Vec<u32>, EngineError> {
    let mut ends = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        if let Some(id) = token(gguf, &format!("tokenizer.ggml.{key}"), vocabulary)?
            && !ends.contains(&id)
        {
            ends.push(id);
        }
    }
    Ok(ends)
}
