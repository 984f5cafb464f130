//! How long a stage takes: one decode row, a turn of all streams, a chunk of a prompt.
//!
//! Hops are not in here.

use std::ops::Range;

use super::{Costs, Index, NEVER, nanos};

impl Costs<'_> {
    /// Weight bytes of a range that one row streams, ends included.
    fn streamed_bytes(&self, layers: &Range<usize>) -> u64 {
        let model = &self.request.model;
        let mut bytes = self.streamed[layers.end] - self.streamed[layers.start];
        if layers.start == 0 {
            bytes = bytes.saturating_add(model.embedding.decode_bytes);
        }
        if layers.end == self.layer_count {
            bytes = bytes.saturating_add(model.head.decode_bytes);
        }
        bytes
    }

    /// Weights and cache of a range in memory, without ends and buffers.
    pub(crate) fn layer_bytes(&self, layers: &Range<usize>) -> u64 {
        self.resident[layers.end] - self.resident[layers.start]
    }

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

    /// All bytes that one decode row reads in a range: weights and cache.
    pub(crate) fn row_bytes(&self, layers: &Range<usize>) -> u64 {
        self.streamed_bytes(layers)
            .saturating_add(self.cache_bytes(layers))
    }

    /// One decode row of one stream through a stage.
    pub(crate) fn decode_nanos(&self, device: Index, layers: &Range<usize>) -> u64 {
        let mut time = self.decode[device][layers.end] - self.decode[device][layers.start];
        if layers.start == 0 {
            time += self.embedding_nanos(device);
        }
        if layers.end == self.layer_count {
            time += self.head_nanos(device);
        }
        time.min(NEVER)
    }

    /// How long a stage is busy while every sequence advances by one token, when the
    /// plan has `stage_count` stages and the sequences travel in as many groups: each
    /// group streams the weights once, each row does its own arithmetic (the larger of
    /// the two counts, as in a roofline) and reads its own cache.
    pub(crate) fn turn_nanos(
        &self,
        device: Index,
        layers: &Range<usize>,
        stage_count: usize,
    ) -> u64 {
        let rows = u64::from(self.request.sequences);
        let groups = stage_count as u64;
        let machine = self.devices[device];
        let weights = nanos(
            self.streamed_bytes(layers).saturating_mul(groups),
            machine.decode_bytes_per_second,
        );
        let arithmetic = nanos(
            self.row_macs(layers).saturating_mul(rows),
            machine.prefill_macs_per_second,
        );
        let cache = nanos(
            self.cache_bytes(layers).saturating_mul(rows),
            machine.decode_bytes_per_second,
        );
        weights.max(arithmetic).saturating_add(cache).min(NEVER)
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
        let (mut streamed, mut macs) = (0u64, 0u64);
        // Row i of the chunk attends to the tokens before it and to itself.
        let attended = cached + rows.div_ceil(2);
        for layer in &model.layers[layers.clone()] {
            streamed = streamed.saturating_add(layer.active_bytes.unwrap_or(layer.weight_bytes));
            macs = macs
                .saturating_add(layer.macs_per_row)
                .saturating_add(layer.attention_macs_per_token.saturating_mul(attended));
        }
        if layers.start == 0 {
            streamed = streamed.saturating_add(model.embedding.decode_bytes);
            macs = macs.saturating_add(model.embedding.macs_per_row);
        }
        nanos(streamed, machine.decode_bytes_per_second).max(nanos(
            macs.saturating_mul(rows),
            machine.prefill_macs_per_second,
        ))
    }

    /// Prefix sums over layers of one decode row's time on a device, ends left out.
    pub(crate) fn decode_sums(&self, device: Index) -> &[u64] {
        &self.decode[device]
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
            self.devices[device].decode_bytes_per_second,
        )
    }
}
