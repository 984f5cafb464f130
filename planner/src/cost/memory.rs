//! What a range of layers takes in memory, and how far a device's memory reaches.

use std::ops::Range;

use super::{Costs, Index};

impl Costs<'_> {
    /// Memory that a device needs for these layers, buffers included, headroom not.
    pub(crate) fn memory_bytes(&self, device: Index, layers: &Range<usize>) -> u64 {
        let cache = self.devices[device].kv_bytes(self.held_bytes(layers));
        self.bytes_beside(cache, layers)
    }

    /// Memory for the whole model on the device that keeps least of the cache.
    pub(crate) fn whole_bytes(&self) -> u64 {
        let whole = 0..self.layer_count;
        let held = self.held_bytes(&whole);
        let caches = self.devices.iter().map(|device| device.kv_bytes(held));
        self.bytes_beside(caches.min().unwrap_or(held), &whole)
    }

    /// Weights and cache of a range as the model tells them, without ends and buffers.
    pub(crate) fn layer_bytes(&self, layers: &Range<usize>) -> u64 {
        self.weight_bytes(layers) + self.held_bytes(layers)
    }

    fn weight_bytes(&self, layers: &Range<usize>) -> u64 {
        self.weights[layers.end] - self.weights[layers.start]
    }

    fn held_bytes(&self, layers: &Range<usize>) -> u64 {
        self.held[layers.end] - self.held[layers.start]
    }

    fn bytes_beside(&self, cache: u64, layers: &Range<usize>) -> u64 {
        let model = &self.request.model;
        let mut bytes = self.weight_bytes(layers).saturating_add(cache);
        let first = layers.start == 0;
        let last = layers.end == self.layer_count;
        if first {
            bytes = bytes.saturating_add(model.embedding.weight_bytes);
        }
        if last {
            bytes = bytes.saturating_add(model.head.weight_bytes);
        }
        if first && last {
            bytes = bytes.saturating_sub(self.tied_bytes());
        }
        bytes.saturating_add(self.request.buffer_bytes)
    }

    /// What embedding and head really share; never more than either of them.
    fn tied_bytes(&self) -> u64 {
        let model = &self.request.model;
        model
            .tied_bytes
            .min(model.embedding.weight_bytes)
            .min(model.head.weight_bytes)
    }

    /// Memory of a device that a plan may fill.
    pub(crate) fn usable_bytes(&self, device: Index) -> u64 {
        self.devices[device]
            .memory_bytes
            .saturating_sub(self.request.headroom_bytes)
    }

    pub(crate) fn fits(&self, device: Index, layers: &Range<usize>) -> bool {
        self.memory_bytes(device, layers) <= self.usable_bytes(device)
    }

    /// The furthest end of a range from `start` that fits; `start` when none does.
    pub(crate) fn reach(&self, device: Index, start: usize) -> usize {
        self.reach[device][start]
    }

    /// Ends never move back as starts move on, so one pass over the layers finds all.
    pub(super) fn reaches(&self, device: Index) -> Vec<usize> {
        let mut end = 0;
        (0..self.layer_count)
            .map(|start| {
                end = end.max(start);
                while end < self.layer_count && self.fits(device, &(start..end + 1)) {
                    end += 1;
                }
                end
            })
            .collect()
    }
}
