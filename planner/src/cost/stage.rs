//! How long a stage takes: one decode row, a turn of all streams, a chunk of a prompt.
//!
//! Hops are not in here.

use std::ops::Range;

use super::{Costs, Index, NEVER, nanos};
use crate::device::Device;
use crate::request::LayerCost;

/// One decode row through a layer, with `cached` tokens before it. Rounded up for the
/// weights and for the cache.
pub(super) fn row_nanos(device: &Device, layer: &LayerCost, cached: u64) -> u64 {
    let weights = nanos(
        layer.active_bytes.unwrap_or(layer.weight_bytes),
        device.decode_bytes_per_second,
    );
    let cache = nanos(
        layer.kv_bytes_per_token.saturating_mul(cached),
        device.cache_bytes_per_second(),
    );
    device
        .detail
        .layer_nanos
        .saturating_add(weights + cache)
        .min(NEVER)
}

impl Costs<'_> {
    fn cache_bytes(&self, layers: &Range<usize>) -> u64 {
        self.cache_read[layers.end] - self.cache_read[layers.start]
    }

    /// Multiply-accumulates of one decode row, ends included.
    fn row_macs(&self, layers: &Range<usize>) -> u64 {
        let model = &self.request.model;
        let mut macs = self.macs[layers.end] - self.macs[layers.start];
        if layers.start == 0 {
            macs = macs.saturating_add(model.embedding.macs_per_row);
        }
        if layers.end == self.layer_count {
            macs = macs.saturating_add(model.head.macs_per_row);
        }
        macs
    }

    /// One decode row of one stream through a stage.
    pub(crate) fn decode_nanos(&self, device: Index, layers: &Range<usize>) -> u64 {
        let mut time = self.layers_nanos(device, layers);
        if layers.start == 0 {
            time += self.embedding_nanos(device);
        }
        if layers.end == self.layer_count {
            time += self.head_nanos(device);
        }
        time.min(NEVER)
    }

    /// One decode row through layers, without ends.
    fn layers_nanos(&self, device: Index, layers: &Range<usize>) -> u64 {
        self.decode[device][layers.end] - self.decode[device][layers.start]
    }

    /// How long a stage is busy while every sequence advances by one token, when they
    /// travel in so many groups: each group streams the weights once, each row does its own
    /// arithmetic (the larger of the two counts, as in a roofline) and reads its own cache.
    pub(crate) fn turn_nanos(&self, device: Index, layers: &Range<usize>, groups: usize) -> u64 {
        let rows = u64::from(self.request.sequences);
        let groups = groups as u64;
        let machine = self.devices[device];
        let model = &self.request.model;
        let mut streamed = self.streamed[layers.end] - self.streamed[layers.start];
        if layers.start == 0 {
            streamed = streamed.saturating_add(model.embedding.decode_bytes);
        }
        let head = match layers.end == self.layer_count {
            true => model.head.decode_bytes,
            false => 0,
        };
        let weights = nanos(
            streamed.saturating_mul(groups),
            machine.decode_bytes_per_second,
        );
        let head = nanos(head.saturating_mul(groups), machine.head_bytes_per_second());
        let arithmetic = nanos(
            self.row_macs(layers).saturating_mul(rows),
            machine.prefill_macs_per_second,
        );
        let cache = nanos(
            self.cache_bytes(layers).saturating_mul(rows),
            machine.cache_bytes_per_second(),
        );
        (weights + head)
            .max(arithmetic)
            .saturating_add(cache)
            .saturating_add(self.overhead_nanos(device, layers).saturating_mul(groups))
            .min(NEVER)
    }

    /// Time of one pass that neither weights nor rows account for.
    fn overhead_nanos(&self, device: Index, layers: &Range<usize>) -> u64 {
        let layer = self.devices[device].detail.layer_nanos;
        layer.saturating_mul(layers.len() as u64).min(NEVER)
    }

    /// One chunk of prefill rows through a stage, with `cached` tokens before it. The
    /// head works on the last row of a prompt only, so it is not in here.
    pub(crate) fn prefill_nanos(
        &self,
        device: Index,
        layers: &Range<usize>,
        rows: u64,
        cached: u64,
    ) -> u64 {
        let machine = self.devices[device];
        let model = &self.request.model;
        let (mut streamed, mut macs, mut attention) = (0u64, 0u64, 0u64);
        // Row i of the chunk attends to the tokens before it and to itself.
        let attended = cached + rows.div_ceil(2);
        for layer in &model.layers[layers.clone()] {
            streamed = streamed.saturating_add(layer.active_bytes.unwrap_or(layer.weight_bytes));
            macs = macs.saturating_add(layer.macs_per_row);
            attention =
                attention.saturating_add(layer.attention_macs_per_token.saturating_mul(attended));
        }
        if layers.start == 0 {
            streamed = streamed.saturating_add(model.embedding.decode_bytes);
            macs = macs.saturating_add(model.embedding.macs_per_row);
        }
        let weights = nanos(streamed, machine.decode_bytes_per_second).max(nanos(
            macs.saturating_mul(rows),
            machine.prefill_macs_per_second,
        ));
        let attention = nanos(
            attention.saturating_mul(rows),
            machine.attention_macs_per_second(),
        );
        (weights + attention + self.overhead_nanos(device, layers)).min(NEVER)
    }

    /// Prefix sums over layers of one decode row's time on a device, ends left out.
    pub(crate) fn decode_sums(&self, device: Index) -> &[u64] {
        &self.decode[device]
    }

    /// One decode row through all layers: less is faster.
    pub(crate) fn whole_nanos(&self, device: Index) -> u64 {
        self.decode[device][self.layer_count]
    }

    /// Bytes per second of one decode row through all layers, cache and overhead included.
    pub(crate) fn speed(&self, device: Index) -> u64 {
        let bytes =
            self.streamed[self.layer_count].saturating_add(self.cache_read[self.layer_count]);
        let speed = u128::from(bytes) * 1_000_000_000 / u128::from(self.whole_nanos(device).max(1));
        u64::try_from(speed).unwrap_or(u64::MAX)
    }

    /// Whether a device takes no longer than another for any layer.
    pub(crate) fn is_no_slower(&self, device: Index, other: Index) -> bool {
        let (ours, theirs) = (&self.decode[device], &self.decode[other]);
        let mut pairs = ours.windows(2).zip(theirs.windows(2));
        pairs.all(|(ours, theirs)| ours[1] - ours[0] <= theirs[1] - theirs[0])
    }

    /// The embedding of one row.
    pub(crate) fn embedding_nanos(&self, device: Index) -> u64 {
        nanos(
            self.request.model.embedding.decode_bytes,
            self.devices[device].decode_bytes_per_second,
        )
    }

    /// The head on the one row of a prompt that is sampled from.
    pub(crate) fn head_nanos(&self, device: Index) -> u64 {
        nanos(
            self.request.model.head.decode_bytes,
            self.devices[device].head_bytes_per_second(),
        )
    }

    /// At least what one decode row takes in a range on any device, ends included: each
    /// part on the device that is best at it. A measure of how much work a range is.
    pub(crate) fn least_nanos(&self, layers: &Range<usize>) -> u64 {
        let mut time = self.least[layers.end] - self.least[layers.start];
        if layers.start == 0 {
            time += self.least_embedding;
        }
        if layers.end == self.layer_count {
            time += self.least_head;
        }
        time
    }

    /// Prefix sums over layers of the same, ends left out.
    pub(crate) fn least_sums(&self) -> &[u64] {
        &self.least
    }

    /// How much longer than [`Costs::least_nanos`] a device takes, at least, for any range:
    /// fixed point with so many fractional bits, rounded down.
    pub(crate) fn slowness(&self, device: Index, fraction_bits: u32) -> u64 {
        let layers = self.decode[device].windows(2).zip(self.least.windows(2));
        let layers = layers.map(|(own, least)| (own[1] - own[0], least[1] - least[0]));
        let ends = [
            (self.embedding_nanos(device), self.least_embedding),
            (self.head_nanos(device), self.least_head),
        ];
        let ratios = layers.chain(ends).filter(|(_, least)| *least > 0);
        let ratios =
            ratios.map(|(own, least)| (u128::from(own) << fraction_bits) / u128::from(least));
        // Parts that take no time anywhere say nothing.
        let least = ratios.min().unwrap_or(1 << fraction_bits);
        u64::try_from(least).unwrap_or(u64::MAX)
    }
}
