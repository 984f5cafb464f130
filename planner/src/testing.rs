//! Small models and clusters for tests. Ships nothing.

use crate::{Detail, Device, DeviceId, LayerCost, Model, Part};

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
        detail: Detail::default(),
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

/// A small seeded generator (xorshift64*), so that a failing seed says everything.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Neighbouring seeds start out alike; a few throws part them.
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// From 0 to `count` - 1.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    /// Both ends included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One in `count`.
    pub(crate) fn chance(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for place in (1..list.len()).rev() {
            list.swap(place, self.below(place as u64 + 1) as usize);
        }
    }
}
