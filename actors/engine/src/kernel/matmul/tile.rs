//! The inner loop over a strip of quantised weights.
//!
//! No loads of outputs and no threads: a strip and some rows in, sums out.

use std::marker::PhantomData;

use super::ahead::{Ahead, Pace};
use crate::kernel::rows::Block;
use crate::kernel::simd::{Simd, unrolled};
use crate::kernel::weights::Weights;

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
        pace: Option<Pace>,
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
        pace: Option<Pace>,
    ) -> [S::F; M] {
        // SAFETY: the caller's contract: `len` blocks in the strip and in each
        // row, `len` a multiple of the unit.
        unsafe {
            let mut sums = [S::splat(0.0); M];
            let mut rows = [inputs; M];
            unrolled!(M, m => rows[m] = inputs.wrapping_add(m.wrapping_mul(len)));
            let end = inputs.add(len);
            let mut ahead = Ahead::of(scales, pace);
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
