//! One page of a cache: some positions in all layers of a stage.
//!
//! All layers in one mapping, so that a long sequence takes few of the mappings that the
//! system has for a process.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::f16;

use crate::kernel::pages::{Pages, Zeroable};
use crate::kernel::simd::Simd;

/// Positions whose keys are stored together, transposed.
pub(in crate::kernel) const POSITIONS: usize = 16;
/// Positions of a page: the unit in which sequences share what they have in common. Attention
/// looks a page up once for each of its segments, so those never cross its end.
pub const PAGE_POSITIONS: usize = 256;

/// The numbers that keys and values are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// 32-bit floats: what was computed.
    #[default]
    F32,
    /// Half precision, rounded half to even: half the memory, and half the
    /// bytes to read per token at long contexts. Not the same bits as F32.
    F16,
    /// 16-bit integers with a unit for each head of a position: little more memory than F16, and
    /// attention in exact integers, twice as many to an instruction. Not the same bits as F32.
    I16,
}

impl CacheFormat {
    /// Its name, for people and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I16 => "i16",
        }
    }

    /// Memory in thousandths of what 32-bit floats take. Of integers, that with heads of 32
    /// components; larger heads take less, as more components share a unit.
    #[must_use]
    pub const fn permille(self) -> u32 {
        match self {
            Self::F32 => 1000,
            Self::F16 => 500,
            Self::I16 => 532,
        }
    }
}

/// What the caches of one stage have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the stage.
    pub layers: usize,
    /// Key heads, and value heads.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// What the numbers are kept as.
    pub format: CacheFormat,
}

impl CacheShape {
    /// Bytes of a page, of which the system provides what is touched.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        let number = match self.format {
            CacheFormat::F32 | CacheFormat::I16 => 4,
            CacheFormat::F16 => 2,
        };
        self.layers * self.layer_len() * number
    }

    /// Components of a head with those that fill up the last vector; they are
    /// zero.
    pub(in crate::kernel) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(POSITIONS)
    }

    /// Numbers from a head's keys in one block to its keys in the next.
    pub(in crate::kernel) fn block_len(&self) -> usize {
        self.kv_heads * self.head_len()
    }

    /// Numbers of a head's keys in a block, and of its values.
    #[inline(always)]
    pub(super) fn half_len(&self) -> usize {
        let dim = self.padded_dim();
        POSITIONS
            * match self.format {
                CacheFormat::F32 | CacheFormat::F16 => dim,
                // Two to a word, and the unit.
                CacheFormat::I16 => dim / 2 + 1,
            }
    }

    /// Numbers of a head in a block, keys and values.
    #[inline(always)]
    fn head_len(&self) -> usize {
        2 * self.half_len()
    }

    /// Numbers of a layer in a page.
    fn layer_len(&self) -> usize {
        PAGE_POSITIONS / POSITIONS * self.block_len()
    }

    /// Where a head of a block of a layer begins.
    pub(super) fn start(&self, layer: usize, block: usize, head: usize) -> usize {
        layer * self.layer_len() + block * self.block_len() + head * self.head_len()
    }
}

/// The pages of a stage: counts those in use, each once however many sequences hold it, and keeps
/// some that came back. A fresh page costs a fault for each 4 KiB, whatever is written there.
#[derive(Debug, Default)]
pub struct Stock {
    bytes_in_use: AtomicU64,
    kept: Mutex<Vec<Numbers>>,
    kept_max: usize,
}

impl Stock {
    /// Keeps up to `pages` pages that came back; the default keeps none.
    #[must_use]
    pub fn keeping(pages: usize) -> Self {
        Self {
            kept_max: pages,
            ..Self::default()
        }
    }

    /// Bytes of the pages in use.
    #[must_use]
    pub fn bytes_in_use(&self) -> u64 {
        self.bytes_in_use.load(Ordering::Relaxed)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Numbers>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys and values of [`PAGE_POSITIONS`] positions; where nothing was written, zeros or what
/// another sequence wrote there. Layer by layer, block by block of 16 positions and head by head:
/// keys `(padded_dim, 16)`, so that a vector holds one component of many keys, then values
/// `(16, padded_dim)`. 16-bit integers lie by twos in a word: two components of a key
/// `(padded_dim / 2, 16)`, and a component of two positions `(8, padded_dim)`; behind the keys are
/// their 16 units, as bits of floats, and behind the values theirs.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) numbers: Numbers,
    bytes: u64,
    stock: Arc<Stock>,
}

#[derive(Debug)]
pub(in crate::kernel) enum Numbers {
    F32(Pages<f32>),
    F16(Pages<u16>),
    I16(Pages<i32>),
}

impl Numbers {
    /// All of them, for another page.
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::F32(Pages::default()))
    }
}

impl Page {
    /// # Errors
    /// When the system has no address space for it.
    pub(super) fn new(shape: &CacheShape, stock: &Arc<Stock>) -> io::Result<Page> {
        let len = shape.layers * shape.layer_len();
        let kept = stock.kept().pop();
        let numbers = match (kept, shape.format) {
            (Some(kept), _) => kept,
            (None, CacheFormat::F32) => Numbers::F32(Pages::zeroed(len)?),
            (None, CacheFormat::F16) => Numbers::F16(Pages::zeroed(len)?),
            (None, CacheFormat::I16) => Numbers::I16(Pages::zeroed(len)?),
        };
        let bytes = shape.page_bytes() as u64;
        stock.bytes_in_use.fetch_add(bytes, Ordering::Relaxed);
        Ok(Page {
            numbers,
            bytes,
            stock: Arc::clone(stock),
        })
    }

    /// Takes over the first `positions` positions of another page of the same shape. Those
    /// behind them in the last block come along; nothing looks at them before they are written.
    pub(super) fn copy_from(&mut self, other: &Page, positions: usize, shape: &CacheShape) {
        let len = positions.div_ceil(POSITIONS) * shape.block_len();
        for layer in 0..shape.layers {
            let start = shape.start(layer, 0, 0);
            let part = start..start + len;
            match (&mut self.numbers, &other.numbers) {
                (Numbers::F32(mine), Numbers::F32(theirs)) => {
                    mine[part.clone()].copy_from_slice(&theirs[part]);
                }
                (Numbers::F16(mine), Numbers::F16(theirs)) => {
                    mine[part.clone()].copy_from_slice(&theirs[part]);
                }
                (Numbers::I16(mine), Numbers::I16(theirs)) => {
                    mine[part.clone()].copy_from_slice(&theirs[part]);
                }
                _ => unreachable!("pages of one shape"),
            }
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let stock = &self.stock;
        stock.bytes_in_use.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut kept = stock.kept();
        if kept.len() < stock.kept_max {
            kept.push(self.numbers.take());
        }
    }
}

/// What pages of a format are made of.
pub(in crate::kernel) trait Stored: Zeroable {
    /// # Panics
    /// When the page keeps other numbers.
    fn all(numbers: &Numbers) -> &Pages<Self>;
}

macro_rules! stored {
    ($number:ty, $format:ident) => {
        impl Stored for $number {
            #[inline(always)]
            fn all(numbers: &Numbers) -> &Pages<Self> {
                match numbers {
                    Numbers::$format(numbers) => numbers,
                    _ => unreachable!("the caller asked for the format"),
                }
            }
        }
    };
}
stored!(f32, F32);
stored!(u16, F16);
stored!(i32, I16);

/// A float of a cache.
pub(in crate::kernel) trait Float: Stored {
    fn of(value: f32) -> Self;
    /// # Safety
    /// As for [`Simd`]: a vector's width of numbers.
    unsafe fn load<S: Simd>(from: *const Self) -> S::F;
}

impl Float for f32 {
    #[inline(always)]
    fn of(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load(from) }
    }
}

/// Half precision, as bits.
impl Float for u16 {
    #[inline(always)]
    fn of(value: f32) -> u16 {
        f16::from_f32(value).to_bits()
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_f16(from) }
    }
}
