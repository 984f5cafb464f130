//! Packs a layer's and the head's matrices for the kernels.
//!
//! Copies out of the mapping and lets it go, piece by piece: what is packed is
//! never in memory twice.

use std::ops::Range;

use crate::error::EngineError;
use crate::file::ModelFile;
use crate::gguf::{TensorInfo, TensorType};
use crate::kernel::{Format, Packed};
use crate::weights::MappedTensors;

/// One decoder layer's weights.
#[derive(Debug)]
pub(crate) struct Block {
    pub(super) attention_norm: Vec<f32>,
    /// Queries, keys and values as one matrix: they read the same rows.
    pub(super) projections: Packed,
    pub(super) attention_output: Packed,
    pub(super) mlp_norm: Vec<f32>,
    pub(super) gate: Packed,
    pub(super) up: Packed,
    pub(super) down: Packed,
    mapped: Vec<Range<u64>>,
    bytes: u64,
}

/// The final norm and the projection to the vocabulary.
#[derive(Debug)]
pub(crate) struct Head {
    pub(super) norm: Vec<f32>,
    pub(super) output: Packed,
    mapped: Vec<Range<u64>>,
    bytes: u64,
}

impl Block {
    pub(crate) fn load(file: &ModelFile, layer: u32) -> Result<Block, EngineError> {
        let tensors = &file.layout().layers[layer as usize];
        let map = MappedTensors::map(file, &tensors.all())?;
        let matrix = |tensor| matrix(&map, tensor);
        let projections = vec![
            matrix(&tensors.query)?,
            matrix(&tensors.key)?,
            matrix(&tensors.value)?,
        ];
        Ok(Block {
            attention_norm: vector(&map, &tensors.attention_norm)?,
            projections: Packed::concat(projections).map_err(|source| EngineError::Pack {
                tensor: tensors.query.name.clone(),
                source,
            })?,
            attention_output: matrix(&tensors.attention_output)?,
            mlp_norm: vector(&map, &tensors.mlp_norm)?,
            gate: matrix(&tensors.gate)?,
            up: matrix(&tensors.up)?,
            down: matrix(&tensors.down)?,
            mapped: map.ranges(),
            bytes: tensors.all().iter().map(|t| t.bytes.unwrap_or(0)).sum(),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn mapped(&self) -> &[Range<u64>] {
        &self.mapped
    }
}

impl Head {
    pub(crate) fn load(file: &ModelFile) -> Result<Head, EngineError> {
        let layout = file.layout();
        let tensors = [&layout.output_norm, &layout.output];
        let map = MappedTensors::map(file, &tensors)?;
        Ok(Head {
            norm: vector(&map, &layout.output_norm)?,
            output: matrix(&map, &layout.output)?,
            mapped: map.ranges(),
            bytes: tensors.iter().map(|t| t.bytes.unwrap_or(0)).sum(),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn mapped(&self) -> &[Range<u64>] {
        &self.mapped
    }
}

fn matrix(map: &MappedTensors, tensor: &TensorInfo) -> Result<Packed, EngineError> {
    let format = format(tensor)?;
    let (columns, rows) = (tensor.dimensions[0] as usize, tensor.dimensions[1] as usize);
    let release = |done| map.release(tensor, done);
    Packed::pack_releasing(format, map.bytes(tensor), rows, columns, release).map_err(|source| {
        EngineError::Pack {
            tensor: tensor.name.clone(),
            source,
        }
    })
}

fn vector(map: &MappedTensors, tensor: &TensorInfo) -> Result<Vec<f32>, EngineError> {
    // Norms are a few hundred numbers, and every converter writes them in F32.
    if tensor.kind != TensorType::F32 {
        return Err(unsupported(tensor));
    }
    let number = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    Ok(map.bytes(tensor).as_chunks().0.iter().map(number).collect())
}

pub(crate) fn format(tensor: &TensorInfo) -> Result<Format, EngineError> {
    Ok(match tensor.kind {
        TensorType::F32 => Format::F32,
        TensorType::F16 => Format::F16,
        TensorType::BF16 => Format::BF16,
        TensorType::Q4_0 => Format::Q4_0,
        TensorType::Q4_1 => Format::Q4_1,
        TensorType::Q5_0 => Format::Q5_0,
        TensorType::Q5_1 => Format::Q5_1,
        TensorType::Q8_0 => Format::Q8_0,
        TensorType::Q2_K => Format::Q2K,
        TensorType::Q3_K => Format::Q3K,
        TensorType::Q4_K => Format::Q4K,
        TensorType::Q5_K => Format::Q5K,
        TensorType::Q6_K => Format::Q6K,
        _ => return Err(unsupported(tensor)),
    })
}

fn unsupported(tensor: &TensorInfo) -> EngineError {
    EngineError::UnsupportedQuantisation {
        tensor: tensor.name.clone(),
        quantisation: tensor.kind.to_string(),
    }
}
