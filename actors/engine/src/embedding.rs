//! The embedding: from token ids to hidden rows.
//!
//! The table stays in the file's mapping; only the rows that are looked up are
//! touched and dequantised, never the whole table.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;

use crate::error::{ComputeContext, EngineError};
use crate::file::ModelFile;
use crate::gguf::TensorInfo;
use crate::weights::MappedTensors;

/// A mapped table of one row per token.
#[derive(Debug)]
pub(crate) struct Embedding {
    tensor: TensorInfo,
    map: MappedTensors,
    kind: GgmlDType,
    width: usize,
    row_bytes: usize,
}

impl Embedding {
    pub(crate) fn load(file: &ModelFile) -> Result<Embedding, EngineError> {
        let tensor = file.layout().embedding.clone();
        let spec = file.spec();
        let (Some(kind), Some(bytes)) = (tensor.kind.candle(), tensor.bytes) else {
            return Err(EngineError::UnsupportedQuantisation {
                tensor: tensor.name,
                quantisation: tensor.kind.to_string(),
            });
        };
        Ok(Embedding {
            map: MappedTensors::map(file, &[&tensor])?,
            kind,
            width: spec.width,
            row_bytes: bytes as usize / spec.vocabulary,
            tensor,
        })
    }

    /// Writes the rows of `tokens`, which the caller has checked, into `rows` (tokens, width).
    pub(crate) fn look_up(&self, tokens: &[u32], rows: &mut [f32]) -> Result<(), EngineError> {
        let table = self.map.bytes(&self.tensor);
        for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(self.width)) {
            let start = token as usize * self.row_bytes;
            let block = self
                .kind
                .from_data(Cow::Borrowed(&table[start..start + self.row_bytes]));
            match block.dequantize(self.width).during("embedding")? {
                CpuStorage::F32(values) => row.copy_from_slice(&values),
                other => unreachable!("candle dequantises to f32, not {:?}", storage_type(&other)),
            }
        }
        Ok(())
    }

    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        self.map.ranges()
    }
}

fn storage_type(storage: &CpuStorage) -> candle_core::DType {
    candle_core::backend::BackendStorage::dtype(storage)
}
