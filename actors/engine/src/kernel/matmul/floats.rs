//! The inner loop over a strip of 16- or 32-bit float weights, times 32-bit
//! inputs. Nothing is rounded to 16 bits on the way.

use std::marker::PhantomData;

use super::tile::{Ahead, Tile};
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
        weights: *const u8,
        inputs: *const f32,
        len: usize,
    ) -> [S::F; M] {
        // SAFETY: the caller's contract: `len` inputs in the strip and in each
        // row.
        unsafe {
            // Even and odd inputs apart, or one row would wait for each sum.
            let mut even = [S::splat(0.0); M];
            let mut odd = [S::splat(0.0); M];
            let mut ahead = Ahead::of(weights);
            let mut col = 0;
            while col < len {
                ahead.advance::<S>(2 * W::BYTES * S::LANES);
                let weight = W::load::<S>(weights.add(col * W::BYTES * S::LANES));
                unrolled!(M, m => {
                    let input = S::splat(*inputs.add(m * len + col));
                    even[m] = S::fma(weight, input, even[m]);
                });
                if col + 1 < len {
                    let weight = W::load::<S>(weights.add((col + 1) * W::BYTES * S::LANES));
                    unrolled!(M, m => {
                        let input = S::splat(*inputs.add(m * len + col + 1));
                        odd[m] = S::fma(weight, input, odd[m]);
                    });
                }
                col += 2;
            }
            unrolled!(M, m => even[m] = S::add(even[m], odd[m]));
            even
        }
    }
}
