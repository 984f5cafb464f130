//! Activation rows in two forms: 32-bit floats, and the 8-bit blocks that
//! quantised weights are multiplied with.
//!
//! A row is quantised once, however many matrices read it. Blocks of 32 serve
//! every weight format: ggml gives K-quants blocks of 256 instead, which is
//! coarser and saves nothing here.

use super::bands::STEP;
use super::format::BLOCK;
use super::pool::Pool;
use super::share::Disjoint;
use super::simd::{Isa, Kernel, Simd, dispatch, unrolled};

/// 32 consecutive inputs of one row, one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Block {
    /// `round(x / scale)`, within -127..=127.
    pub(super) quants: [i8; BLOCK],
    /// The largest magnitude over 127, as precise as half a word holds it.
    pub(super) scale: f32,
    /// The largest magnitude over 127 times `sum`, as precise, for formats with a minimum per 32.
    pub(super) scaled_sum: f32,
    /// Sum of `quants`, for formats with an offset.
    pub(super) sum: i32,
    /// Sums of the two halves, for formats with a scale per 16.
    pub(super) half_sums: [i32; 2],
    /// `scale * half_sums`, for formats with a minimum per 16.
    pub(super) scaled_half_sums: [f32; 2],
}

/// A reusable buffer of activation rows. It grows to the largest batch that it
/// has seen and never shrinks; a decode step allocates nothing.
#[derive(Debug)]
pub struct QuantizedRows {
    cols: usize,
    rows: usize,
    /// `(rows_max, cols)`
    floats: Vec<f32>,
    /// `(rows_max, cols / 32)`; empty when `cols` is no multiple of 32.
    blocks: Vec<Block>,
    is_quantized: bool,
}

impl QuantizedRows {
    /// An empty buffer with room for `rows_max` rows of `cols` inputs.
    #[must_use]
    pub fn new(rows_max: usize, cols: usize) -> Self {
        let mut rows = Self {
            cols,
            rows: 0,
            floats: Vec::new(),
            blocks: Vec::new(),
            is_quantized: false,
        };
        rows.begin(rows_max);
        rows.rows = 0;
        rows
    }

    /// Rows it holds now.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs per row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The rows as floats, `(rows, cols)`.
    #[must_use]
    pub fn floats(&self) -> &[f32] {
        &self.floats[..self.rows * self.cols]
    }

    /// Makes it hold `rows` rows and returns them, `(rows, cols)`, for the
    /// caller to fill; what they held before is unspecified. The 8-bit form is
    /// stale until [`QuantizedRows::quantize`].
    pub fn begin(&mut self, rows: usize) -> &mut [f32] {
        let len = rows * self.cols;
        if self.floats.len() < len {
            self.floats.resize(len, 0.0);
        }
        if self.cols.is_multiple_of(BLOCK) && self.blocks.len() < len / BLOCK {
            self.blocks.resize(len / BLOCK, Block::default());
        }
        self.rows = rows;
        self.is_quantized = false;
        &mut self.floats[..len]
    }

    /// Makes the 8-bit form from the floats. Only quantised weights need it.
    ///
    /// # Panics
    /// When the columns are no multiple of 32.
    pub fn quantize(&mut self, pool: &Pool) {
        assert!(
            self.cols.is_multiple_of(BLOCK),
            "{} columns are not whole blocks",
            self.cols
        );
        let (cols, rows) = (self.cols, self.rows);
        let floats = &self.floats[..rows * cols];
        let blocks = Disjoint::new(&mut self.blocks[..rows * cols / BLOCK]);
        let isa = Isa::detect();
        pool.for_each(rows.div_ceil(STEP), &|_, item| {
            let rows = item * STEP..rows.min((item + 1) * STEP);
            let floats = &floats[rows.start * cols..rows.end * cols];
            // SAFETY: items are disjoint ranges of rows; the set is available.
            unsafe {
                let blocks = blocks.slice(rows.start * cols / BLOCK, floats.len() / BLOCK);
                dispatch(isa, Quantize { floats, blocks });
            }
        });
        self.is_quantized = true;
    }

    /// [`QuantizedRows::begin`] with a copy of `floats`, then
    /// [`QuantizedRows::quantize`] where the columns allow it.
    ///
    /// # Panics
    /// When `floats` is not a whole number of rows.
    pub fn set(&mut self, pool: &Pool, floats: &[f32]) {
        assert!(
            floats.len().is_multiple_of(self.cols),
            "not a whole number of rows"
        );
        self.begin(floats.len() / self.cols).copy_from_slice(floats);
        if self.cols.is_multiple_of(BLOCK) {
            self.quantize(pool);
        }
    }

    /// `(rows, cols / 32)`, for tests that need numbers of their own.
    #[cfg(test)]
    pub(super) fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks[..self.rows * self.cols / BLOCK]
    }

    /// `(rows, cols / 32)`
    pub(super) fn blocks(&self) -> &[Block] {
        assert!(
            self.is_quantized,
            "the rows changed and were not quantised again"
        );
        &self.blocks[..self.rows * self.cols / BLOCK]
    }
}

struct Quantize<'a> {
    floats: &'a [f32],
    blocks: &'a mut [Block],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (floats, _) = self.floats.as_chunks::<BLOCK>();
        let (fours, rest) = self.blocks.as_chunks_mut::<IN_STEP>();
        let (floats_of_fours, floats_of_rest) = floats.as_chunks::<IN_STEP>();
        // SAFETY: `run`'s contract.
        unsafe {
            for (blocks, floats) in fours.iter_mut().zip(floats_of_fours) {
                quantize::<S, IN_STEP>(floats, blocks);
            }
            for (block, floats) in rest.iter_mut().zip(floats_of_rest) {
                quantize::<S, 1>(std::array::from_ref(floats), std::array::from_mut(block));
            }
        }
    }
}

/// Blocks that are quantised together: one is a chain of operations that wait for each other,
/// from the search for its largest to the sums of its bytes.
const IN_STEP: usize = 4;

/// Fills blocks from the 32 floats that each stands for.
#[inline(always)]
unsafe fn quantize<S: Simd, const N: usize>(floats: &[[f32; BLOCK]; N], blocks: &mut [Block; N]) {
    let (mut magnitudes, mut inverses) = ([0.0; N], [0.0; N]);
    let mut sums = [[0; 2]; N];
    // SAFETY: the caller's contract; 32 floats in, 32 bytes out.
    unsafe {
        unrolled!(N, i => magnitudes[i] = S::magnitude(floats[i].as_ptr()));
        unrolled!(N, i => inverses[i] = inverse(magnitudes[i]));
        unrolled!(N, i => {
            // To their place at once: a copy would wait for the halves to be stored.
            let quants = blocks[i].quants.as_mut_ptr();
            sums[i] = S::to_bytes(floats[i].as_ptr(), inverses[i], quants);
        });
    }
    for ((block, magnitude), half_sums) in blocks.iter_mut().zip(magnitudes).zip(sums) {
        let scale = magnitude * (1.0 / 127.0);
        let sum = half_sums[0].wrapping_add(half_sums[1]);
        block.scale = half_precision(scale);
        block.scaled_sum = half_precision(scale * sum as f32);
        block.sum = sum;
        block.half_sums = half_sums;
        // Without `map`, which could become a function that is compiled without the set.
        block.scaled_half_sums = [scale * half_sums[0] as f32, scale * half_sums[1] as f32];
    }
}

/// What the floats of a block are multiplied with. Below the least magnitude it
/// would overflow; such a block counts as zero.
#[inline(always)]
fn inverse(magnitude: f32) -> f32 {
    if magnitude > 1e-36 {
        127.0 / magnitude
    } else {
        0.0
    }
}

/// Rounds to the 11 significant bits of an F16, half to even, and keeps the range of an F32.
///
/// ggml keeps a block's scale and its sum (`q8_0`, `q8_1`) in F16. Rounding as it does takes the
/// largest difference between the two engines away, at a tenth of the error that 8-bit inputs
/// make anyway.
#[inline(always)]
fn half_precision(value: f32) -> f32 {
    let bits = value.to_bits();
    let to_even = (bits >> 13) & 1;
    let rounded = f32::from_bits(bits.wrapping_add(0xfff + to_even) & !0x1fff);
    // The bits of what is not a number may not be added to.
    if value.is_nan() { value } else { rounded }
}

#[cfg(test)]
mod tests;
