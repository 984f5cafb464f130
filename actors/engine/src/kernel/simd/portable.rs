//! The vector operations in plain Rust: the reference for every other set and
//! the way onto CPUs that have none of them. No intrinsics.

use half::{bf16, f16};

use super::{Simd, nearest};

const LANES: usize = 8;

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Portable;

#[inline(always)]
unsafe fn array<T: Copy, const N: usize>(from: *const T) -> [T; N] {
    // SAFETY: the caller's pointer is valid for `N` values; arrays of plain
    // values may be read unaligned.
    unsafe { from.cast::<[T; N]>().read_unaligned() }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl Simd for Portable {
    const LANES: usize = LANES;
    const TILE: usize = 4;
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 4 * LANES];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        array(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::F) {
        to.cast::<Self::F>().write_unaligned(value);
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] - b[lane])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] / b[lane])
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }
    #[inline(always)]
    unsafe fn exp2_integral(value: Self::F) -> Self::F {
        value.map(|value| f32::from_bits(((value as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        array::<u16, LANES>(from).map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        array::<u16, LANES>(from).map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::F {
        array::<u8, LANES>(from).map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::F {
        array::<i8, LANES>(from).map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> [Self::F; 2] {
        let bytes: [u8; LANES] = array(from);
        [
            bytes.map(|byte| f32::from(byte & 0x0f)),
            bytes.map(|byte| f32::from(byte >> 4)),
        ]
    }
    #[inline(always)]
    unsafe fn to_f32(value: Self::I) -> Self::F {
        value.map(|value| value as f32)
    }
    #[inline(always)]
    unsafe fn from_bits(bits: Self::I) -> Self::F {
        bits.map(|bits| f32::from_bits(bits.cast_unsigned()))
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self::I {
        array(from)
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> Self::I {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let halves = |word: i32| [word as i16, (word >> 16) as i16].map(i32::from);
        std::array::from_fn(|lane| {
            let ([a0, a1], [b0, b1]) = (halves(a[lane]), halves(b[lane]));
            sum[lane].wrapping_add(a0 * b0).wrapping_add(a1 * b1)
        })
    }
    #[inline(always)]
    unsafe fn store_i16(to: *mut i16, value: Self::F) {
        let narrow = value.map(|value| nearest(value) as i16);
        to.cast::<[i16; LANES]>().write_unaligned(narrow);
    }

    #[inline(always)]
    unsafe fn magnitude(from: *const f32) -> f32 {
        let floats: [f32; 32] = array(from);
        let bits = floats.iter().map(|x| x.to_bits() & 0x7fff_ffff);
        f32::from_bits(bits.fold(0, u32::max))
    }
    #[inline(always)]
    unsafe fn to_bytes(from: *const f32, factor: f32, to: *mut i8) -> [i32; 2] {
        let floats: [f32; 32] = array(from);
        let mut sums = [0i32; 2];
        for (i, x) in floats.into_iter().enumerate() {
            let byte = nearest(x * factor) as i8;
            to.add(i).write(byte);
            sums[i / 16] += i32::from(byte);
        }
        sums
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_far(_at: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_once(_at: *const u8) {}
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::B {
        array(from)
    }
    #[inline(always)]
    unsafe fn and(a: Self::B, mask: u8) -> Self::B {
        a.map(|byte| byte & mask)
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|byte| a[byte] | b[byte])
    }
    #[inline(always)]
    unsafe fn shift<const N: i32>(a: Self::B) -> Self::B {
        a.map(|byte| if N < 0 { byte << -N } else { byte >> N })
    }

    #[inline(always)]
    unsafe fn dot<const BITS: u32, const FROM: usize, const COUNT: usize, const M: usize>(
        weights: &[Self::B; 8],
        inputs: [*const i8; M],
        inits: [i32; M],
    ) -> [Self::I; M] {
        let mut totals = [[0; LANES]; M];
        for (m, sums) in totals.iter_mut().enumerate() {
            let inputs: [i8; 32] = array(inputs[m]);
            *sums = [inits[m]; LANES];
            for group in FROM..FROM + COUNT {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    for i in 0..4 {
                        let weight = i32::from(weights[group][4 * lane + i]);
                        *sum += weight * i32::from(inputs[4 * group + i]);
                    }
                }
            }
        }
        totals
    }

    #[inline(always)]
    unsafe fn signed(weights: Self::B) -> Self::B {
        weights
    }
    #[inline(always)]
    unsafe fn dot_signed<const M: usize>(
        weights: &[Self::B; 8],
        inputs: [*const i8; M],
        _input_sums: [i32; M],
        init: i32,
    ) -> [Self::I; M] {
        let mut totals = [[init; LANES]; M];
        for (sums, inputs) in totals.iter_mut().zip(inputs) {
            let inputs: [i8; 32] = array(inputs);
            for (group, weights) in weights.iter().enumerate() {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    for i in 0..4 {
                        let weight = i32::from(weights[4 * lane + i].cast_signed());
                        *sum += weight * i32::from(inputs[4 * group + i]);
                    }
                }
            }
        }
        totals
    }
}
