//! The embedding: from token ids to hidden rows.
//!
//! The table stays in the file: each row is read where it lies when its token
//! comes. A mapping would be as quick, but the system maps sixteen pages around
//! every row that is touched, and after a long prompt the whole table would
//! count as this process's memory.

use std::borrow::Cow;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;

use crate::error::{ComputeContext, EngineError};
use crate::file::ModelFile;
use crate::gguf::TensorInfo;

/// A table of one row per token, in the model file.
#[derive(Debug)]
pub(crate) struct Embedding {
    tensor: TensorInfo,
    kind: GgmlDType,
    width: usize,
    row_bytes: usize,
}

impl Embedding {
    pub(crate) fn new(file: &ModelFile) -> Result<Embedding, EngineError> {
        let tensor = file.layout().embedding.clone();
        let spec = file.spec();
        let (Some(kind), Some(bytes)) = (tensor.kind.candle(), tensor.bytes) else {
            return Err(EngineError::UnsupportedQuantisation {
                tensor: tensor.name,
                quantisation: tensor.kind.to_string(),
            });
        };
        Ok(Embedding {
            kind,
            width: spec.width,
            row_bytes: bytes as usize / spec.vocabulary,
            tensor,
        })
    }

    /// Writes the rows of `tokens`, which the caller has checked, into `rows` (tokens, width).
    /// `file` is the one that the table is in.
    pub(crate) fn look_up(
        &self,
        file: &ModelFile,
        tokens: &[u32],
        rows: &mut [f32],
    ) -> Result<(), EngineError> {
        // candle reads a row's bytes as numbers in place, so they start where a number may.
        let mut words = vec![0u64; self.row_bytes.div_ceil(size_of::<u64>())];
        let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..self.row_bytes];
        for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(self.width)) {
            let offset = self.tensor.offset + u64::from(token) * self.row_bytes as u64;
            file.read_at(&self.tensor.name, offset, bytes)?;
            let block = self.kind.from_data(Cow::Borrowed(bytes));
            match block.dequantize(self.width).during("embedding")? {
                CpuStorage::F32(values) => row.copy_from_slice(&values),
                other => unreachable!("candle dequantises to f32, not {:?}", storage_type(&other)),
            }
        }
        Ok(())
    }
}

fn storage_type(storage: &CpuStorage) -> candle_core::DType {
    candle_core::backend::BackendStorage::dtype(storage)
}
