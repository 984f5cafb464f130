//! Brings tensors onto a device, if it has room for them.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{Device, Tensor};

use crate::error::{ComputeContext, EngineError};
use crate::file::ModelFile;
use crate::gguf::{TensorInfo, TensorType};
use crate::weights::MappedTensors;

/// Loads tensors out of a mapping onto a device.
pub(super) struct Loader<'a> {
    pub(super) map: &'a MappedTensors,
    pub(super) device: &'a Device,
}

impl Loader<'_> {
    fn quantised(&self, tensor: &TensorInfo) -> Result<QTensor, EngineError> {
        let kind = tensor
            .kind
            .candle()
            .ok_or_else(|| EngineError::UnsupportedQuantisation {
                tensor: tensor.name.clone(),
                quantisation: tensor.kind.to_string(),
            })?;
        // The file lists the fastest-varying dimension first, candle last.
        let shape: Vec<usize> = tensor
            .dimensions
            .iter()
            .rev()
            .map(|&n| n as usize)
            .collect();
        let bytes = Cow::Borrowed(self.map.bytes(tensor));
        QStorage::from_data(bytes, self.device, kind)
            .and_then(|storage| QTensor::new(storage, shape))
            .during(&tensor.name)
    }

    pub(super) fn matrix(&self, tensor: &TensorInfo) -> Result<QMatMul, EngineError> {
        QMatMul::from_qtensor(self.quantised(tensor)?).during(&tensor.name)
    }

    pub(super) fn vector(&self, tensor: &TensorInfo) -> Result<Tensor, EngineError> {
        self.quantised(tensor)?
            .dequantize(self.device)
            .during(&tensor.name)
    }
}

/// What a tensor takes once it is loaded: halves become 32-bit floats.
pub(super) fn held_bytes(tensor: &TensorInfo) -> u64 {
    match tensor.kind {
        TensorType::F16 | TensorType::BF16 => tensor.elements() * size_of::<f32>() as u64,
        _ => tensor.bytes.unwrap_or(0),
    }
}

/// Whether a GPU has room for what of `layers` it does not hold yet. The CPU's memory is the
/// system's business: it finds room for one program by taking it from another.
pub(super) fn check_room(
    file: &ModelFile,
    layers: &Range<u32>,
    on: crate::Device,
) -> Result<(), EngineError> {
    let Some(memory) = on.accelerator()?.and_then(|gpu| gpu.memory) else {
        return Ok(());
    };
    let (layout, loaded) = (file.layout(), file.loaded());
    let absent = layers
        .clone()
        .filter(|&layer| loaded.portable_blocks.find(&(on, layer)).is_none());
    let mut needed_bytes: u64 = absent
        .flat_map(|layer| layout.layers[layer as usize].all())
        .map(held_bytes)
        .sum();
    if layers.end == file.spec().layers && loaded.portable_heads.find(&on).is_none() {
        needed_bytes += held_bytes(&layout.output_norm) + held_bytes(&layout.output);
    }
    match needed_bytes <= memory.free_bytes {
        true => Ok(()),
        false => Err(EngineError::DeviceMemory {
            device: on,
            needed_bytes,
            free_bytes: memory.free_bytes,
        }),
    }
}
