//! The inner loop over a strip of 16- or 32-bit float weights, times 32-bit
//! inputs. Nothing is rounded to 16 bits on the way.

use std::marker::PhantomData;

use super::ahead::{Ahead, Pace};
use super::tile::Tile;
use crate::kernel::simd::{Simd, unrolled};

/// How a lane's weights of one input are read.
pub(super) trait Float {
    const BYTES: usize;

    /// # Safety
    /// As for [`Simd`].
    unsafe fn load<S: Simd>(from: *const u8) -> S::F;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl Float for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load(from.cast()) }
    }
}

impl Float for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_f16(from.cast()) }
    }
}

impl Float for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_bf16(from.cast()) }
    }
}

/// The tile of a float format.
pub(super) struct FloatTile<W>(PhantomData<W>);

impl<W: Float> Tile for FloatTile<W> {
    type Input = f32;

    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(
        _scales: *const u8,
        mut weights: *const u8,
        inputs: *const f32,
        len: usize,
        pace: Option<Pace>,
    ) -> [S::F; M] {
        let step = W::BYTES * S::LANES;
        // SAFETY: the caller's contract: `len` inputs in the strip and in each
        // row.
        unsafe {
            // Even and odd inputs apart, or one row would wait for each sum.
            let mut even = [S::splat(0.0); M];
            let mut odd = [S::splat(0.0); M];
            // Pointers that move: an index would be checked for overflow at each use.
            let mut rows = [inputs; M];
            unrolled!(M, m => rows[m] = inputs.wrapping_add(m.wrapping_mul(len)));
            let end = inputs.add(len & !1);
            let mut ahead = Ahead::of(weights, pace);
            while rows[0] < end {
                ahead.advance::<S>(2 * step);
                let first = W::load::<S>(weights);
                let second = W::load::<S>(weights.wrapping_add(step));
                unrolled!(M, m => {
                    even[m] = S::fma(first, S::splat(*rows[m]), even[m]);
                    odd[m] = S::fma(second, S::splat(*rows[m].wrapping_add(1)), odd[m]);
                    rows[m] = rows[m].wrapping_add(2);
                });
                weights = weights.wrapping_add(2 * step);
            }
            if len % 2 == 1 {
                let last = W::load::<S>(weights);
                unrolled!(M, m => even[m] = S::fma(last, S::splat(*rows[m]), even[m]));
            }
            unrolled!(M, m => even[m] = S::add(even[m], odd[m]));
            even
        }
    }
}
