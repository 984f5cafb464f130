//! Which tensors a layer, the embedding and the head are made of.
//!
//! Knows names and shapes, holds no bytes. A tensor in a layer that the family
//! does not define is an error: leaving it out would change the answers.

use crate::error::EngineError;
use crate::gguf::{Gguf, TensorInfo};
use crate::spec::{Spec, Tied};

/// The tensors of one decoder layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerTensors {
    pub(crate) attention_norm: TensorInfo,
    pub(crate) query: TensorInfo,
    pub(crate) key: TensorInfo,
    pub(crate) value: TensorInfo,
    pub(crate) attention_output: TensorInfo,
    pub(crate) mlp_norm: TensorInfo,
    pub(crate) gate: TensorInfo,
    pub(crate) up: TensorInfo,
    pub(crate) down: TensorInfo,
}

/// The tensors of a whole model.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) layers: Vec<LayerTensors>,
    pub(crate) embedding: TensorInfo,
    pub(crate) output_norm: TensorInfo,
    /// The head's matrix: the embedding itself when tied.
    pub(crate) output: TensorInfo,
    /// Divisors of the rotary frequencies (Llama 3.1 and later).
    pub(crate) rope_factors: Option<TensorInfo>,
}

impl LayerTensors {
    pub(crate) fn all(&self) -> [&TensorInfo; 9] {
        [
            &self.attention_norm,
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.mlp_norm,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }

    /// The matrices, without the norms.
    pub(crate) fn matrices(&self) -> [&TensorInfo; 7] {
        [
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }
}

impl Layout {
    /// Finds every tensor of the model that `spec` describes.
    pub(crate) fn read(gguf: &Gguf, spec: &Spec) -> Result<Layout, EngineError> {
        let finder = Finder { gguf };
        let (width, vocabulary) = (spec.width, spec.vocabulary);
        let embedding = finder.matrix("token_embd.weight", width, vocabulary)?;
        let output = match spec.tied_embeddings {
            Tied::Shared => embedding.clone(),
            Tied::Separate => finder.matrix("output.weight", width, vocabulary)?,
        };
        let rope_factors = match gguf.tensor("rope_freqs.weight") {
            None => None,
            Some(_) => Some(finder.vector("rope_freqs.weight", spec.head_dim / 2)?),
        };
        let mut layers = Vec::new();
        for layer in 0..spec.layers {
            layers.push(finder.layer(layer, spec)?);
        }
        refuse_unknown_tensors(gguf, spec)?;
        Ok(Layout {
            layers,
            embedding,
            output_norm: finder.vector("output_norm.weight", width)?,
            output,
            rope_factors,
        })
    }
}

const LAYER_TENSORS: [&str; 9] = [
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
];

fn refuse_unknown_tensors(gguf: &Gguf, spec: &Spec) -> Result<(), EngineError> {
    for tensor in gguf.tensors() {
        let Some(rest) = tensor.name.strip_prefix("blk.") else {
            continue;
        };
        let known = rest.split_once('.').is_some_and(|(layer, part)| {
            layer.parse::<u32>().is_ok_and(|layer| layer < spec.layers)
                && LAYER_TENSORS.contains(&part)
        });
        if !known {
            return Err(EngineError::UnsupportedFeature {
                path: gguf.path().to_path_buf(),
                what: format!("tensor `{}` in a layer of this family", tensor.name),
            });
        }
    }
    Ok(())
}

struct Finder<'a> {
    gguf: &'a Gguf,
}

impl Finder<'_> {
    fn layer(&self, layer: u32, spec: &Spec) -> Result<LayerTensors, EngineError> {
        let name = |index: usize| format!("blk.{layer}.{}", LAYER_TENSORS[index]);
        let (width, inner) = (spec.width, spec.feed_forward);
        let (queries, keys) = (spec.query_width(), spec.kv_width());
        Ok(LayerTensors {
            attention_norm: self.vector(&name(0), width)?,
            query: self.matrix(&name(1), width, queries)?,
            key: self.matrix(&name(2), width, keys)?,
            value: self.matrix(&name(3), width, keys)?,
            attention_output: self.matrix(&name(4), queries, width)?,
            mlp_norm: self.vector(&name(5), width)?,
            gate: self.matrix(&name(6), width, inner)?,
            up: self.matrix(&name(7), width, inner)?,
            down: self.matrix(&name(8), inner, width)?,
        })
    }

    fn matrix(&self, name: &str, columns: usize, rows: usize) -> Result<TensorInfo, EngineError> {
        self.shaped(name, &[columns as u64, rows as u64])
    }

    fn vector(&self, name: &str, length: usize) -> Result<TensorInfo, EngineError> {
        self.shaped(name, &[length as u64])
    }

    fn shaped(&self, name: &str, dimensions: &[u64]) -> Result<TensorInfo, EngineError> {
        let bad = |reason: String| EngineError::Tensor {
            path: self.gguf.path().to_path_buf(),
            tensor: name.to_string(),
            reason,
        };
        let tensor = self
            .gguf
            .tensor(name)
            .ok_or_else(|| bad("missing".into()))?;
        if tensor.dimensions != dimensions {
            return Err(bad(format!(
                "has dimensions {:?}, the metadata says {dimensions:?}",
                tensor.dimensions
            )));
        }
        Ok(tensor.clone())
    }
}
