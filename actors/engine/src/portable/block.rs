//! One decoder layer.

use std::ops::Range;

use candle_core::quantized::QMatMul;
use candle_core::{Device, Module, Result as CandleResult, Tensor};

use super::load::{Loader, held_bytes};
use super::ops::{rms_norm, rotate};
use super::rows::Rows;
use crate::error::EngineError;
use crate::file::ModelFile;
use crate::weights::MappedTensors;

/// One decoder layer's weights.
#[derive(Debug)]
pub(crate) struct Block {
    attention_norm: Tensor,
    query: QMatMul,
    key: QMatMul,
    value: QMatMul,
    attention_output: QMatMul,
    mlp_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
    mapped: Vec<Range<u64>>,
    file_bytes: u64,
    held_bytes: u64,
}

impl Block {
    pub(super) fn load(
        file: &ModelFile,
        layer: u32,
        device: &Device,
    ) -> Result<Block, EngineError> {
        let tensors = &file.layout().layers[layer as usize];
        let map = MappedTensors::map(file, &tensors.all())?;
        let loader = Loader { map: &map, device };
        Ok(Block {
            attention_norm: loader.vector(&tensors.attention_norm)?,
            query: loader.matrix(&tensors.query)?,
            key: loader.matrix(&tensors.key)?,
            value: loader.matrix(&tensors.value)?,
            attention_output: loader.matrix(&tensors.attention_output)?,
            mlp_norm: loader.vector(&tensors.mlp_norm)?,
            gate: loader.matrix(&tensors.gate)?,
            up: loader.matrix(&tensors.up)?,
            down: loader.matrix(&tensors.down)?,
            mapped: map.ranges(),
            file_bytes: tensors.all().iter().map(|t| t.bytes.unwrap_or(0)).sum(),
            held_bytes: tensors.all().iter().map(|t| held_bytes(t)).sum(),
        })
    }

    /// Bytes that it takes where it was loaded to.
    pub(crate) fn bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Bytes that it takes in the file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    pub(crate) fn mapped(&self) -> &[Range<u64>] {
        &self.mapped
    }

    /// (rows, width) -> the same; `layer` counts within the shard, for the caches.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rows: &Rows<'_>,
        layer: usize,
    ) -> CandleResult<Tensor> {
        let epsilon = f64::from(rows.spec.norm_epsilon);
        let normed = rms_norm(x, &self.attention_norm, epsilon)?;
        let x = (x + self.attention(&normed, rows, layer)?)?;
        let normed = rms_norm(&x, &self.mlp_norm, epsilon)?;
        let gate = self.gate.forward(&normed)?;
        let up = self.up.forward(&normed)?;
        x + self.down.forward(&(gate.silu()? * up)?)?
    }

    fn attention(&self, x: &Tensor, rows: &Rows<'_>, layer: usize) -> CandleResult<Tensor> {
        let spec = rows.spec;
        let (count, dim) = (x.dim(0)?, spec.head_dim);
        let query = self.query.forward(x)?.reshape((count, spec.heads, dim))?;
        let key = self.key.forward(x)?.reshape((count, spec.kv_heads, dim))?;
        let value = self.value.forward(x)?;
        let value = value.reshape((count, spec.kv_heads, dim))?;
        let query = rotate(&query, &rows.cos, &rows.sin)?;
        let key = rotate(&key, &rows.cos, &rows.sin)?;
        let attend = |span: &super::rows::Span<'_>| {
            let mine = |rows: &Tensor| rows.narrow(0, span.first, span.count);
            span.attend(spec, layer, [mine(&query)?, mine(&key)?, mine(&value)?])
        };
        let mixed: CandleResult<Vec<Tensor>> = rows.spans.iter().map(attend).collect();
        let mixed = match &mixed?[..] {
            [one] => one.clone(),
            several => Tensor::cat(several, 0)?,
        };
        self.attention_output.forward(&mixed)
    }
}
