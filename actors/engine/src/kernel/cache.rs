//! The keys and values of one sequence in one layer.
//!
//! Address space for the whole capacity, memory for what was written. No
//! paging and no sharing: a block of 16 positions is the unit either would use.

use std::io;

use half::f16;

use super::pages::{Pages, Zeroable};
use super::share::Disjoint;
use super::simd::Simd;

/// Positions whose keys are stored together, transposed.
pub(super) const POSITIONS: usize = 16;

/// The numbers that keys and values are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// 32-bit floats: what was computed.
    #[default]
    F32,
    /// Half precision, rounded half to even: half the memory, and half the
    /// bytes to read per token at long contexts. Not the same bits as F32.
    F16,
}

impl CacheFormat {
    /// Bytes of one number.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Keys and values of one sequence in one layer. Block by block of 16 positions
/// and head by head: keys `(head_dim, 16)`, so that a vector holds one component
/// of many keys, then values `(16, head_dim)`.
#[derive(Debug)]
pub struct KvLayer {
    shape: Shape,
    data: Data,
}

/// Where things lie in a cache.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
}

#[derive(Debug)]
enum Data {
    F32(Pages<f32>),
    F16(Pages<u16>),
}

/// A number of a cache.
pub(super) trait Element: Zeroable {
    fn of(value: f32) -> Self;
    /// # Safety
    /// As for [`Simd`]: a vector's width of numbers.
    unsafe fn load<S: Simd>(from: *const Self) -> S::F;
    /// # Panics
    /// When the cache keeps other numbers.
    fn all(layer: &KvLayer) -> &[Self];
}

impl Element for f32 {
    #[inline(always)]
    fn of(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    fn all(layer: &KvLayer) -> &[f32] {
        match &layer.data {
            Data::F32(data) => data,
            Data::F16(_) => unreachable!("the caller asked for the format"),
        }
    }
}

/// Half precision, as bits.
impl Element for u16 {
    #[inline(always)]
    fn of(value: f32) -> u16 {
        f16::from_f32(value).to_bits()
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_f16(from) }
    }
    #[inline(always)]
    fn all(layer: &KvLayer) -> &[u16] {
        match &layer.data {
            Data::F16(data) => data,
            Data::F32(_) => unreachable!("the caller asked for the format"),
        }
    }
}

impl KvLayer {
    /// Room for `capacity` positions of `kv_heads` heads, in 32-bit floats.
    ///
    /// # Errors
    /// When the system has no address space for it.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> io::Result<Self> {
        Self::with_format(CacheFormat::F32, kv_heads, head_dim, capacity)
    }

    /// Room for `capacity` positions of `kv_heads` heads.
    ///
    /// # Errors
    /// When the system has no address space for it.
    pub fn with_format(
        format: CacheFormat,
        kv_heads: usize,
        head_dim: usize,
        capacity: usize,
    ) -> io::Result<Self> {
        let shape = Shape {
            kv_heads,
            head_dim,
            capacity,
        };
        let len = capacity.div_ceil(POSITIONS) * shape.block_len();
        let data = match format {
            CacheFormat::F32 => Data::F32(Pages::zeroed(len)?),
            CacheFormat::F16 => Data::F16(Pages::zeroed(len)?),
        };
        Ok(Self { shape, data })
    }

    /// What its numbers are kept as.
    #[must_use]
    pub fn format(&self) -> CacheFormat {
        match self.data {
            Data::F32(_) => CacheFormat::F32,
            Data::F16(_) => CacheFormat::F16,
        }
    }

    /// Positions it has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shape.capacity
    }

    /// Bytes that `positions` positions take once written.
    #[must_use]
    pub fn bytes(&self, positions: usize) -> usize {
        positions.div_ceil(POSITIONS) * self.shape.block_len() * self.format().bytes()
    }

    /// Stores one position's keys and values, each `(kv_heads, head_dim)`,
    /// over whatever was there.
    ///
    /// # Panics
    /// When the position or a length is out of bounds.
    pub fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        // SAFETY: one call at a time, as it has the only writer.
        unsafe { self.writer().write(position, keys, values) };
    }

    /// For threads that each write their own blocks.
    pub(super) fn writer(&mut self) -> Writer<'_> {
        Writer {
            shape: self.shape,
            data: match &mut self.data {
                Data::F32(data) => WriterData::F32(Disjoint::new(data)),
                Data::F16(data) => WriterData::F16(Disjoint::new(data)),
            },
        }
    }

    /// Takes over the first `positions` positions of another sequence. Those behind them in the
    /// last block come along; nothing looks at them before they are written.
    ///
    /// # Panics
    /// When shape or format differ, or either has fewer positions.
    pub fn copy_from(&mut self, other: &KvLayer, positions: usize) {
        let heads = |layer: &KvLayer| (layer.shape.kv_heads, layer.shape.head_dim);
        assert_eq!(heads(self), heads(other), "heads of the caches");
        assert!(positions <= self.capacity().min(other.capacity()));
        let len = positions.div_ceil(POSITIONS) * self.shape.block_len();
        match (&mut self.data, &other.data) {
            (Data::F32(mine), Data::F32(theirs)) => mine[..len].copy_from_slice(&theirs[..len]),
            (Data::F16(mine), Data::F16(theirs)) => mine[..len].copy_from_slice(&theirs[..len]),
            (Data::F32(_), Data::F16(_)) | (Data::F16(_), Data::F32(_)) => {
                panic!("caches of two formats")
            }
        }
    }

    pub(super) fn kv_heads(&self) -> usize {
        self.shape.kv_heads
    }

    pub(super) fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// Components of a head with those that fill up the last vector; they are
    /// zero.
    pub(super) fn padded_dim(&self) -> usize {
        self.shape.padded_dim()
    }

    /// Numbers from a head's keys in one block to its keys in the next.
    pub(super) fn block_stride(&self) -> usize {
        self.shape.block_len()
    }

    /// The keys `(padded_dim, 16)` and values `(16, padded_dim)` of a head in
    /// a block. Positions that were never written are zero.
    ///
    /// # Panics
    /// When `E` is not what [`KvLayer::format`] says.
    #[inline(always)]
    pub(super) fn block<E: Element>(&self, block: usize, head: usize) -> (&[E], &[E]) {
        let len = POSITIONS * self.padded_dim();
        let both = &E::all(self)[self.shape.head_start(block, head)..][..2 * len];
        both.split_at(len)
    }
}

/// Writes positions of one cache, from several threads.
pub(super) struct Writer<'a> {
    shape: Shape,
    data: WriterData<'a>,
}

enum WriterData<'a> {
    F32(Disjoint<'a, f32>),
    F16(Disjoint<'a, u16>),
}

impl Writer<'_> {
    /// As [`KvLayer::write`].
    ///
    /// # Panics
    /// When the position or a length is out of bounds.
    ///
    /// # Safety
    /// No two calls at once are for positions of the same block of 16.
    pub(super) unsafe fn write(&self, position: usize, keys: &[f32], values: &[f32]) {
        let Shape {
            kv_heads, capacity, ..
        } = self.shape;
        assert!(position < capacity, "position {position} of {capacity}");
        let width = kv_heads * self.shape.head_dim;
        assert_eq!(
            (keys.len(), values.len()),
            (width, width),
            "one position's keys and values"
        );
        // SAFETY: the caller's promise.
        unsafe {
            match &self.data {
                WriterData::F32(data) => self.store(data, position, keys, values),
                WriterData::F16(data) => self.store(data, position, keys, values),
            }
        }
    }

    unsafe fn store<E: Element>(
        &self,
        data: &Disjoint<'_, E>,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (block, within) = (position / POSITIONS, position % POSITIONS);
        let (head_dim, padded) = (self.shape.head_dim, self.shape.padded_dim());
        let heads = keys
            .chunks_exact(head_dim)
            .zip(values.chunks_exact(head_dim));
        for (head, (keys, values)) in heads.enumerate() {
            let start = self.shape.head_start(block, head);
            // SAFETY: part of the position's block.
            let data = unsafe { data.slice(start, 2 * POSITIONS * padded) };
            let (key_block, value_block) = data.split_at_mut(POSITIONS * padded);
            for (column, &key) in key_block.chunks_exact_mut(POSITIONS).zip(keys) {
                column[within] = E::of(key);
            }
            let value_row = &mut value_block[within * padded..][..head_dim];
            for (stored, &value) in value_row.iter_mut().zip(values) {
                *stored = E::of(value);
            }
        }
    }
}

impl Shape {
    fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(POSITIONS)
    }

    #[inline(always)]
    fn head_start(&self, block: usize, head: usize) -> usize {
        block * self.block_len() + head * 2 * POSITIONS * self.padded_dim()
    }

    fn block_len(&self) -> usize {
        self.kv_heads * 2 * POSITIONS * self.padded_dim()
    }
}
