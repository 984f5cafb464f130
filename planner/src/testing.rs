//! Small models and clusters for tests. Ships nothing.

use crate::{Device, DeviceId, LayerCost, Model, Part};

/// A gigabyte.
pub(crate) const GB: u64 = 1_000_000_000;

/// Layers of 1 GB each without a cache.
pub(crate) fn model(layers: usize) -> Model {
    Model {
        layers: vec![
            LayerCost {
                weight_bytes: GB,
                macs_per_row: GB,
                ..LayerCost::default()
            };
            layers
        ],
        embedding: Part {
            weight_bytes: GB / 10,
            ..Part::default()
        },
        head: Part {
            weight_bytes: GB / 10,
            decode_bytes: GB / 10,
            macs_per_row: GB / 10,
        },
        tied_bytes: GB / 10,
        hidden_bytes_per_row: 8192,
    }
}

/// Device `d{index}` with memory in GB and decode speed in GB/s.
pub(crate) fn device(index: u32, memory: u64, speed: u64) -> Device {
    Device {
        id: DeviceId::from_index(index),
        name: format!("d{index}"),
        memory_bytes: memory * GB,
        decode_bytes_per_second: speed * GB,
        prefill_macs_per_second: speed * 40 * GB,
    }
}

/// Devices from (memory, speed) pairs.
pub(crate) fn cluster(devices: &[(u64, u64)]) -> Vec<Device> {
    devices
        .iter()
        .zip(0..)
        .map(|((memory, speed), index)| device(index, *memory, *speed))
        .collect()
}
