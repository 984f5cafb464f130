//! The keys and values of one sequence in one layer.
//!
//! Address space for the whole capacity, memory for what was written. No
//! paging and no sharing: a block of 16 positions is the unit either would use.

use std::io;

use super::pages::Pages;

/// Positions whose keys are stored together, transposed.
pub(super) const POSITIONS: usize = 16;

/// Keys and values of one sequence in one layer, 32-bit floats. Block by block
/// of 16 positions and head by head: keys `(head_dim, 16)`, so that a vector
/// holds one component of many keys, then values `(16, head_dim)`.
#[derive(Debug)]
pub struct KvLayer {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    data: Pages<f32>,
}

impl KvLayer {
    /// Room for `capacity` positions of `kv_heads` heads.
    ///
    /// # Errors
    /// When the system has no address space for it.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> io::Result<Self> {
        let mut layer = Self {
            kv_heads,
            head_dim,
            capacity,
            data: Pages::zeroed(0)?,
        };
        layer.data = Pages::zeroed(capacity.div_ceil(POSITIONS) * layer.block_len())?;
        Ok(layer)
    }

    /// Positions it has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that `positions` positions take once written.
    #[must_use]
    pub fn bytes(&self, positions: usize) -> usize {
        positions.div_ceil(POSITIONS) * self.block_len() * size_of::<f32>()
    }

    /// Stores one position's keys and values, each `(kv_heads, head_dim)`,
    /// over whatever was there.
    ///
    /// # Panics
    /// When the position or a length is out of bounds.
    pub fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        assert!(
            position < self.capacity,
            "position {position} of {}",
            self.capacity
        );
        let width = self.kv_heads * self.head_dim;
        assert_eq!(
            (keys.len(), values.len()),
            (width, width),
            "one position's keys and values"
        );
        let (block, within) = (position / POSITIONS, position % POSITIONS);
        let (head_dim, padded) = (self.head_dim, self.padded_dim());
        let heads = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        for (head, (keys, values)) in heads.enumerate() {
            let start = self.head_start(block, head);
            let data = &mut self.data[start..start + 2 * POSITIONS * padded];
            let (key_block, value_block) = data.split_at_mut(POSITIONS * padded);
            for (column, &key) in key_block.chunks_exact_mut(POSITIONS).zip(keys) {
                column[within] = key;
            }
            value_block[within * padded..within * padded + head_dim].copy_from_slice(values);
        }
    }

    /// Takes over the first `positions` positions of another sequence. Those behind them in the
    /// last block come along; nothing looks at them before they are written.
    ///
    /// # Panics
    /// When the shapes differ, or either has fewer positions.
    pub fn copy_from(&mut self, other: &KvLayer, positions: usize) {
        let shape = |layer: &KvLayer| (layer.kv_heads, layer.head_dim);
        assert_eq!(shape(self), shape(other), "heads of the caches");
        assert!(positions <= self.capacity.min(other.capacity));
        let len = positions.div_ceil(POSITIONS) * self.block_len();
        self.data[..len].copy_from_slice(&other.data[..len]);
    }

    pub(super) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Components of a head with those that fill up the last vector; they are
    /// zero.
    pub(super) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(POSITIONS)
    }

    /// The keys `(padded_dim, 16)` and values `(16, padded_dim)` of a head in
    /// a block. Positions that were never written are zero.
    #[inline(always)]
    pub(super) fn block(&self, block: usize, head: usize) -> (&[f32], &[f32]) {
        let start = self.head_start(block, head);
        let len = POSITIONS * self.padded_dim();
        (
            &self.data[start..start + len],
            &self.data[start + len..start + 2 * len],
        )
    }

    #[inline(always)]
    fn head_start(&self, block: usize, head: usize) -> usize {
        block * self.block_len() + head * 2 * POSITIONS * self.padded_dim()
    }

    fn block_len(&self) -> usize {
        self.kv_heads * 2 * POSITIONS * self.padded_dim()
    }
}
