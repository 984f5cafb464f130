//! The inner loop over a strip of quantised weights.
//!
//! No loads of outputs and no threads: a strip and some rows in, sums out.

use std::marker::PhantomData;

use crate::kernel::rows::Block;
use crate::kernel::simd::{Simd, unrolled};
use crate::kernel::weights::Weights;

/// How far ahead of their use weights are asked for, into the first-level cache and into the
/// second. In two steps, because the first has a dozen lines under way at most and the second
/// several times as many. What is near comes from the second-level cache, which is soon, so that
/// little of the first waits for its use. The CPU's own prefetcher stops at each page. A batch of a
/// few rows waits for memory like a single one, and for many rows the asking costs little.
const NEAR_BYTES: usize = 1024;
const FAR_BYTES: usize = 8192;

/// Asks for a strip's bytes, scales and quants alike, at the pace of their use.
pub(super) struct Ahead {
    next: *const u8,
    end: *const u8,
}

impl Ahead {
    #[inline(always)]
    pub(super) fn of(strip: *const u8) -> Self {
        Self {
            next: strip,
            end: strip,
        }
    }

    /// While the strip's next `bytes` are used.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn advance<S: Simd>(&mut self, bytes: usize) {
        self.end = self.end.wrapping_add(bytes);
        while self.next < self.end {
            // SAFETY: any address may be asked for.
            unsafe {
                S::prefetch(self.next.wrapping_add(NEAR_BYTES));
                S::prefetch_far(self.next.wrapping_add(FAR_BYTES));
            }
            self.next = self.next.wrapping_add(64);
        }
    }
}

/// A strip times `M` rows.
pub(super) trait Tile {
    /// What a row of inputs is made of.
    type Input;

    /// The lanes' sums for each of `M` rows, `len` inputs apart.
    ///
    /// # Safety
    /// As for [`Simd`]; the pointers lead to a whole strip and to `M` rows.
    unsafe fn tile<S: Simd, const M: usize>(
        scales: *const u8,
        quants: *const u8,
        inputs: *const Self::Input,
        len: usize,
    ) -> [S::F; M];
}

/// The tile of a quantised format.
pub(super) struct QuantTile<W>(PhantomData<W>);

impl<W: Weights> Tile for QuantTile<W> {
    type Input = Block;

    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(
        mut scales: *const u8,
        mut quants: *const u8,
        inputs: *const Block,
        len: usize,
    ) -> [S::F; M] {
        // SAFETY: the caller's contract: `len` blocks in the strip and in each
        // row, `len` a multiple of the unit.
        unsafe {
            let mut sums = [S::splat(0.0); M];
            let mut rows = [inputs; M];
            unrolled!(M, m => rows[m] = inputs.wrapping_add(m.wrapping_mul(len)));
            let end = inputs.add(len);
            let mut ahead = Ahead::of(scales);
            while rows[0] < end {
                for within in 0..W::UNIT {
                    let scale_bytes = W::SCALE_BYTES * S::LANES / W::UNIT;
                    ahead.advance::<S>(W::QUANT_BYTES * S::LANES + scale_bytes);
                    let weights = W::unpack::<S>(quants);
                    let scale = W::scale::<S>(scales, within);
                    W::add::<S, M>(&mut sums, &weights, scale, rows);
                    unrolled!(M, m => rows[m] = rows[m].wrapping_add(1));
                    quants = quants.add(W::QUANT_BYTES * S::LANES);
                }
                scales = scales.add(W::SCALE_BYTES * S::LANES);
            }
            sums
        }
    }
}
