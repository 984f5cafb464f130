//! The layouts of packed weights, and how one block of each is multiplied.
//!
//! No loops over a matrix: [`super::matmul`] walks strips, [`super::pack`]
//! fills them, and both take sizes from here.
//!
//! A strip is as many output rows as a vector has lanes. Per block of 32
//! inputs it stores, for all its rows together, the scales and then the
//! quants, four consecutive inputs at a time, in planes of 4, 2 and 1 bits (or
//! whole bytes): a plane's vector read once gives 8, 4 or 2 groups of inputs
//! by shifts and masks. A lane's partial sum is then one output's, so nothing
//! is ever added across lanes. The bytes are the file's own, except that the
//! 6-bit scales of K-quants take 8 bits (at most 3.7 % more).

use std::marker::PhantomData;

use super::rows::Block;
use super::simd::{Simd, unrolled};

/// How the quants of a block lie in planes.
pub(super) trait Planes {
    /// Bits of a value, at most 6; 8 for whole signed bytes.
    const BITS: u32;
    /// Bytes per lane of a block.
    const BYTES: usize = 4 * Self::BITS as usize;

    /// # Safety
    /// As for [`Simd`]; `quants` points to a block.
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8];
}

macro_rules! groups {
    ($f:ident) => {
        [
            $f!(0),
            $f!(1),
            $f!(2),
            $f!(3),
            $f!(4),
            $f!(5),
            $f!(6),
            $f!(7),
        ]
    };
}

/// Group `g` of the 4-bit plane: the low half of vector `g`, or the high half
/// of vector `g - 4`.
#[inline(always)]
unsafe fn nibbles<S: Simd, const G: usize>(plane: *const u8) -> S::B {
    // SAFETY: the caller's contract.
    unsafe {
        let vector = S::bytes(plane.add(G % 4 * 4 * S::LANES));
        S::and(if G < 4 { vector } else { S::shift::<4>(vector) }, 0x0f)
    }
}

/// 4 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nibbles;
/// 4 bits and 1 above them.
#[derive(Clone, Copy, Debug)]
pub(super) struct NibblesBit;
/// 4 bits and 2 above them.
#[derive(Clone, Copy, Debug)]
pub(super) struct NibblesPair;
/// 2 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairs;
/// 2 bits and 1 above them.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairsBit;

impl Planes for Nibbles {
    const BITS: u32 = 4;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        macro_rules! group {
            ($g:literal) => {
                // SAFETY: the caller's contract.
                unsafe { nibbles::<S, $g>(quants) }
            };
        }
        groups!(group)
    }
}

impl Planes for NibblesBit {
    const BITS: u32 = 5;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        // SAFETY: the caller's contract.
        let bits = unsafe { S::bytes(quants.add(16 * S::LANES)) };
        macro_rules! group {
            ($g:literal) => {
                // SAFETY: the caller's contract.
                unsafe {
                    let bit = S::and(S::shift::<{ $g - 4 }>(bits), 0x10);
                    S::or(nibbles::<S, $g>(quants), bit)
                }
            };
        }
        groups!(group)
    }
}

impl Planes for NibblesPair {
    const BITS: u32 = 6;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        macro_rules! group {
            ($g:literal) => {
                // SAFETY: the caller's contract.
                unsafe {
                    let pairs = S::bytes(quants.add((16 + $g / 4 * 4) * S::LANES));
                    let pair = S::and(S::shift::<{ $g % 4 * 2 - 4 }>(pairs), 0x30);
                    S::or(nibbles::<S, $g>(quants), pair)
                }
            };
        }
        groups!(group)
    }
}

impl Planes for Pairs {
    const BITS: u32 = 2;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        macro_rules! group {
            ($g:literal) => {
                // SAFETY: the caller's contract.
                unsafe {
                    let pairs = S::bytes(quants.add($g / 4 * 4 * S::LANES));
                    S::and(S::shift::<{ $g % 4 * 2 }>(pairs), 0x03)
                }
            };
        }
        groups!(group)
    }
}

impl Planes for PairsBit {
    const BITS: u32 = 3;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        // SAFETY: the caller's contract.
        let (pairs, bits) = unsafe {
            (
                Pairs::unpack::<S>(quants),
                S::bytes(quants.add(8 * S::LANES)),
            )
        };
        macro_rules! group {
            ($g:literal) => {
                // SAFETY: the caller's contract.
                unsafe { S::or(pairs[$g], S::and(S::shift::<{ $g - 2 }>(bits), 0x04)) }
            };
        }
        groups!(group)
    }
}

/// A packed format: its sizes, and a block's product.
///
/// # Safety
/// Every method needs what [`Simd`] needs, and pointers to whole records.
pub(super) trait Weights {
    /// Blocks that share one scale record: 1, or the 8 of a superblock.
    const UNIT: usize;
    /// Bytes per lane of a scale record.
    const SCALE_BYTES: usize;
    /// Bytes per lane of a block's quants.
    const QUANT_BYTES: usize;

    /// A block's scales, as floats.
    type Scale<S: Simd>: Copy;

    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8];
    /// Of block `within` of the unit whose record `scales` points to.
    unsafe fn scale<S: Simd>(scales: *const u8, within: usize) -> Self::Scale<S>;
    /// `sums` plus the products of the block with 32 inputs of each of `M` rows.
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        weights: &[S::B; 8],
        scale: Self::Scale<S>,
        x: [*const Block; M],
    );
}

/// `scale * (q - OFFSET)`. The offset is taken off the exact integer sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offset<P, const OFFSET: i32>(PhantomData<P>);
/// `scale * q + min`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Min<P>(PhantomData<P>);
/// `scale * q` with signed bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed;
/// A superblock with `d * s * q + dmin * m`, `s` and `m` per 32.
#[derive(Clone, Copy, Debug)]
pub(super) struct SuperMin<P>(PhantomData<P>);
/// A superblock with `d * s * (q - OFFSET)`, `s` per 16.
#[derive(Clone, Copy, Debug)]
pub(super) struct SuperHalfOffset<P, const OFFSET: i32>(PhantomData<P>);
/// A superblock with `d * s * q + dmin * m`, `s` and `m` per 16, 4 bits each.
#[derive(Clone, Copy, Debug)]
pub(super) struct SuperHalfMin<P>(PhantomData<P>);

pub(super) type Q4_0 = Offset<Nibbles, 8>;
pub(super) type Q4_1 = Min<Nibbles>;
pub(super) type Q5_0 = Offset<NibblesBit, 16>;
pub(super) type Q5_1 = Min<NibblesBit>;
pub(super) type Q8_0 = Signed;
pub(super) type Q2K = SuperHalfMin<Pairs>;
pub(super) type Q3K = SuperHalfOffset<PairsBit, 4>;
pub(super) type Q4K = SuperMin<Nibbles>;
pub(super) type Q5K = SuperMin<NibblesBit>;
pub(super) type Q6K = SuperHalfOffset<NibblesPair, 32>;

/// The bits of [`BIAS`]. An integer of less than 22 bits on top of them makes the float
/// `BIAS` plus that integer, so a sum that begins here needs no conversion.
const BIAS_BITS: i32 = 0x4b40_0000;
/// 1.5 * 2^23
const BIAS: f32 = 12_582_912.0;

/// What takes the bias off again: `fma(biased, scale, unbias)` is `scale` times the plain
/// integer, rounded once. Exact, as a scale is a half float (11 bits) times 8 bits at most.
#[inline(always)]
unsafe fn unbias<S: Simd>(scale: S::F) -> S::F {
    // SAFETY: the caller's contract.
    unsafe { S::mul(scale, S::splat(-BIAS)) }
}

/// The quants of `M` rows' blocks.
#[inline(always)]
unsafe fn quants<const M: usize>(x: [*const Block; M]) -> [*const i8; M] {
    // SAFETY: the caller's contract.
    x.map(|x| unsafe { (&raw const (*x).quants).cast() })
}

/// All groups of a block, of values that `P` holds.
#[inline(always)]
unsafe fn dot<S: Simd, P: Planes, const M: usize>(
    weights: &[S::B; 8],
    x: [*const Block; M],
    inits: [i32; M],
) -> [S::I; M] {
    // SAFETY: the caller's contract. The bits are constants; three cases cover
    // them because a constant parameter cannot be another's expression.
    unsafe {
        match P::BITS {
            0..=4 => S::dot::<4, 0, 8, M>(weights, quants(x), inits),
            5 => S::dot::<5, 0, 8, M>(weights, quants(x), inits),
            _ => S::dot::<6, 0, 8, M>(weights, quants(x), inits),
        }
    }
}

/// The two halves of a block, each scaled, not yet by the inputs' scale.
#[inline(always)]
unsafe fn dot_halves<S: Simd, P: Planes, const M: usize>(
    weights: &[S::B; 8],
    scales: [S::F; 2],
    x: [*const Block; M],
    mut inits: [[i32; M]; 2],
) -> [S::F; M] {
    // SAFETY: the caller's contract.
    unsafe {
        unrolled!(M, m => inits[0][m] = inits[0][m].wrapping_add(BIAS_BITS));
        let (low, high) = if P::BITS <= 4 {
            (
                S::dot::<4, 0, 4, M>(weights, quants(x), inits[0]),
                S::dot::<4, 4, 4, M>(weights, quants(x), inits[1]),
            )
        } else {
            (
                S::dot::<6, 0, 4, M>(weights, quants(x), inits[0]),
                S::dot::<6, 4, 4, M>(weights, quants(x), inits[1]),
            )
        };
        let mut sums = [S::splat(0.0); M];
        let unbias = unbias::<S>(scales[0]);
        unrolled!(M, m => {
            let low = S::fma(S::from_bits(low[m]), scales[0], unbias);
            sums[m] = S::fma(S::to_f32(high[m]), scales[1], low);
        });
        sums
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<P: Planes, const OFFSET: i32> Weights for Offset<P, OFFSET> {
    const UNIT: usize = 1;
    const SCALE_BYTES: usize = 2;
    const QUANT_BYTES: usize = P::BYTES;
    type Scale<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        P::unpack::<S>(quants)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(scales: *const u8, _within: usize) -> S::F {
        S::load_f16(scales.cast())
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        weights: &[S::B; 8],
        scale: S::F,
        x: [*const Block; M],
    ) {
        let mut inits = [0; M];
        unrolled!(M, m => {
            let offset = (*x[m]).sum.wrapping_mul(OFFSET);
            inits[m] = BIAS_BITS.wrapping_sub(offset);
        });
        let dots = dot::<S, P, M>(weights, x, inits);
        let unbias = unbias::<S>(scale);
        unrolled!(M, m => {
            let dot = S::fma(S::from_bits(dots[m]), scale, unbias);
            sums[m] = S::fma(dot, S::splat((*x[m]).scale), sums[m]);
        });
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<P: Planes> Weights for Min<P> {
    const UNIT: usize = 1;
    const SCALE_BYTES: usize = 4;
    const QUANT_BYTES: usize = P::BYTES;
    type Scale<S: Simd> = [S::F; 2];

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        P::unpack::<S>(quants)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(scales: *const u8, _within: usize) -> [S::F; 2] {
        [
            S::load_f16(scales.cast()),
            S::load_f16(scales.add(2 * S::LANES).cast()),
        ]
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        weights: &[S::B; 8],
        [scale, min]: [S::F; 2],
        x: [*const Block; M],
    ) {
        let dots = dot::<S, P, M>(weights, x, [BIAS_BITS; M]);
        let unbias = unbias::<S>(scale);
        unrolled!(M, m => {
            let dot = S::fma(S::from_bits(dots[m]), scale, unbias);
            let sum = S::fma(dot, S::splat((*x[m]).scale), sums[m]);
            sums[m] = S::fma(min, S::splat((*x[m]).scaled_sum), sum);
        });
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl Weights for Signed {
    const UNIT: usize = 1;
    const SCALE_BYTES: usize = 2;
    const QUANT_BYTES: usize = 32;
    type Scale<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        macro_rules! group {
            ($g:literal) => {
                S::signed(S::bytes(quants.add($g * 4 * S::LANES)))
            };
        }
        groups!(group)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(scales: *const u8, _within: usize) -> S::F {
        S::load_f16(scales.cast())
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        weights: &[S::B; 8],
        scale: S::F,
        x: [*const Block; M],
    ) {
        let mut input_sums = [0; M];
        unrolled!(M, m => input_sums[m] = (*x[m]).sum);
        let dots = S::dot_signed::<M>(weights, quants(x), input_sums, BIAS_BITS);
        let unbias = unbias::<S>(scale);
        unrolled!(M, m => {
            let dot = S::fma(S::from_bits(dots[m]), scale, unbias);
            sums[m] = S::fma(dot, S::splat((*x[m]).scale), sums[m]);
        });
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<P: Planes> Weights for SuperMin<P> {
    const UNIT: usize = 8;
    const SCALE_BYTES: usize = 4 + 16;
    const QUANT_BYTES: usize = P::BYTES;
    type Scale<S: Simd> = [S::F; 2];

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        P::unpack::<S>(quants)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(scales: *const u8, within: usize) -> [S::F; 2] {
        let d = S::load_f16(scales.cast());
        let dmin = S::load_f16(scales.add(2 * S::LANES).cast());
        let fine = scales.add((4 + within) * S::LANES);
        [
            S::mul(d, S::load_u8(fine)),
            S::mul(dmin, S::load_u8(fine.add(8 * S::LANES))),
        ]
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        weights: &[S::B; 8],
        scale: [S::F; 2],
        x: [*const Block; M],
    ) {
        Min::<P>::add::<S, M>(sums, weights, scale, x);
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<P: Planes, const OFFSET: i32> Weights for SuperHalfOffset<P, OFFSET> {
    const UNIT: usize = 8;
    const SCALE_BYTES: usize = 2 + 16;
    const QUANT_BYTES: usize = P::BYTES;
    type Scale<S: Simd> = [S::F; 2];

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        P::unpack::<S>(quants)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(scales: *const u8, within: usize) -> [S::F; 2] {
        let d = S::load_f16(scales.cast());
        let fine: *const i8 = scales.add((2 + 2 * within) * S::LANES).cast();
        [
            S::mul(d, S::load_i8(fine)),
            S::mul(d, S::load_i8(fine.add(S::LANES))),
        ]
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        weights: &[S::B; 8],
        scale: [S::F; 2],
        x: [*const Block; M],
    ) {
        let mut inits = [[0; M]; 2];
        unrolled!(M, m => {
            let [low, high] = (*x[m]).half_sums;
            inits[0][m] = low.wrapping_mul(-OFFSET);
            inits[1][m] = high.wrapping_mul(-OFFSET);
        });
        let dots = dot_halves::<S, P, M>(weights, scale, x, inits);
        unrolled!(M, m => sums[m] = S::fma(dots[m], S::splat((*x[m]).scale), sums[m]));
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<P: Planes> Weights for SuperHalfMin<P> {
    const UNIT: usize = 8;
    const SCALE_BYTES: usize = 4 + 16;
    const QUANT_BYTES: usize = P::BYTES;
    type Scale<S: Simd> = [[S::F; 2]; 2];

    #[inline(always)]
    unsafe fn unpack<S: Simd>(quants: *const u8) -> [S::B; 8] {
        P::unpack::<S>(quants)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(scales: *const u8, within: usize) -> [[S::F; 2]; 2] {
        let d = S::load_f16(scales.cast());
        let dmin = S::load_f16(scales.add(2 * S::LANES).cast());
        let fine = scales.add((4 + 2 * within) * S::LANES);
        let (low, high) = (S::load_nibbles(fine), S::load_nibbles(fine.add(S::LANES)));
        [
            [S::mul(d, low[0]), S::mul(d, high[0])],
            [S::mul(dmin, low[1]), S::mul(dmin, high[1])],
        ]
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        weights: &[S::B; 8],
        [scales, mins]: [[S::F; 2]; 2],
        x: [*const Block; M],
    ) {
        let dots = dot_halves::<S, P, M>(weights, scales, x, [[0; M]; 2]);
        unrolled!(M, m => {
            let sum = S::fma(dots[m], S::splat((*x[m]).scale), sums[m]);
            let sum = S::fma(mins[0], S::splat((*x[m]).scaled_half_sums[0]), sum);
            sums[m] = S::fma(mins[1], S::splat((*x[m]).scaled_half_sums[1]), sum);
        });
    }
}
