//! The vector operations on NEON, which every 64-bit ARM has, two registers to a
//! vector; with the dot product of ARMv8.4 where the CPU has it (Apple's all,
//! Cortex since A76) and without.
//!
//! Without, products are summed in 16 bits as far as they fit. A product of a
//! weight of 4 or 5 bits is at most 31 * 127, so eight fit; of 6 bits, four; of
//! 8 signed bits, two.

use std::arch::aarch64::{
    float32x4_t, float32x4x2_t, int8x16_t, int32x4_t, int32x4x2_t, uint8x16_t, uint8x16x2_t,
    uint16x8_t, vaddq_f32, vaddq_s32, vaddvq_s32, vand_u8, vandq_u8, vandq_u32, vbslq_f32,
    vcgtq_f32, vcltq_f32, vcombine_s8, vcombine_s16, vcvtnq_s32_f32, vcvtq_f32_s32, vcvtq_f32_u32,
    vcvtq_s32_f32, vdivq_f32, vdup_n_u8, vdupq_n_f32, vdupq_n_s8, vdupq_n_s16, vdupq_n_s32,
    vdupq_n_u8, vdupq_n_u32, vfmaq_f32, vget_high_s16, vget_high_u16, vget_low_s8, vget_low_s16,
    vget_low_u16, vld1_s8, vld1_u8, vld1q_f32, vld1q_s32, vld1q_u8, vld1q_u16, vmaxq_u32,
    vmaxvq_u32, vmlal_high_s8, vmlal_s8, vmovl_s8, vmovl_s16, vmovl_u8, vmovl_u16, vmull_high_s16,
    vmull_s16, vmulq_f32, vorrq_u8, vpadalq_s16, vpaddq_s32, vqmovn_s16, vqmovn_s32,
    vreinterpretq_f32_s32, vreinterpretq_f32_u32, vreinterpretq_s8_s32, vreinterpretq_s8_u8,
    vreinterpretq_s16_s32, vreinterpretq_u32_f32, vshll_n_u16, vshlq_n_s32, vshlq_u8, vshr_n_u8,
    vst1q_f32, vst1q_s8, vst1q_s16, vsubq_f32,
};

use super::{Kernel, Simd, unrolled};

/// `DOT`: with the instructions of `dotprod`.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Neon<const DOT: bool>;

/// # Safety
/// What `K` demands holds.
#[target_feature(enable = "neon")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own contract.
    unsafe { kernel.run::<Neon<false>>() }
}

/// # Safety
/// The CPU has `dotprod`; what `K` demands holds.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn enter_dotprod<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own contract.
    unsafe { kernel.run::<Neon<true>>() }
}

/// Four consecutive inputs, for every lane.
#[inline(always)]
unsafe fn four(inputs: *const i8, group: usize) -> int8x16_t {
    // SAFETY: the caller's pointer is valid for the 32 inputs of a block.
    unsafe {
        let four = inputs.add(4 * group).cast::<i32>().read_unaligned();
        vreinterpretq_s8_s32(vdupq_n_s32(four))
    }
}

/// `sum` and, for each lane, the products of its four weights and inputs.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, weights: int8x16_t, inputs: int8x16_t) -> int32x4_t {
    // SAFETY: the CPU has `dotprod`, as for all of `Neon<true>`; registers only.
    unsafe {
        // The standard library's name for it is not stable.
        std::arch::asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {inputs:v}.16b",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            inputs = in(vreg) inputs,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// The sums over the groups `FROM..FROM + COUNT`, added to `init`. At most `RUN`
/// products of one weight and one input each fit into 16 bits.
#[inline(always)]
unsafe fn dots<const DOT: bool, const RUN: usize, const FROM: usize, const COUNT: usize>(
    weights: &[uint8x16x2_t; 8],
    inputs: *const i8,
    init: i32,
) -> int32x4x2_t {
    // SAFETY: the caller's pointer and CPU.
    unsafe {
        let mut total = int32x4x2_t(vdupq_n_s32(init), vdupq_n_s32(init));
        if DOT {
            unrolled!(8, group => if group >= FROM && group < FROM + COUNT {
                let inputs = four(inputs, group);
                total.0 = sdot(total.0, vreinterpretq_s8_u8(weights[group].0), inputs);
                total.1 = sdot(total.1, vreinterpretq_s8_u8(weights[group].1), inputs);
            });
            return total;
        }
        // Pairs of lanes: low half of a register, high half.
        let mut wide = [vdupq_n_s32(0); 4];
        let mut group = FROM;
        while group < FROM + COUNT {
            let mut narrow = [vdupq_n_s16(0); 4];
            let mut next = group;
            while next < group + RUN && next < FROM + COUNT {
                let inputs = four(inputs, next);
                let (a, b) = (
                    vreinterpretq_s8_u8(weights[next].0),
                    vreinterpretq_s8_u8(weights[next].1),
                );
                narrow[0] = vmlal_s8(narrow[0], vget_low_s8(a), vget_low_s8(inputs));
                narrow[1] = vmlal_high_s8(narrow[1], a, inputs);
                narrow[2] = vmlal_s8(narrow[2], vget_low_s8(b), vget_low_s8(inputs));
                narrow[3] = vmlal_high_s8(narrow[3], b, inputs);
                next += 1;
            }
            unrolled!(4, i => wide[i] = vpadalq_s16(wide[i], narrow[i]));
            group = next;
        }
        total.0 = vaddq_s32(total.0, vpaddq_s32(wide[0], wide[1]));
        total.1 = vaddq_s32(total.1, vpaddq_s32(wide[2], wide[3]));
        total
    }
}

/// Bytes, each as a float.
#[inline(always)]
unsafe fn floats(bytes: uint16x8_t) -> float32x4x2_t {
    // SAFETY: NEON, as for all of this file.
    unsafe {
        float32x4x2_t(
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(bytes))),
            vcvtq_f32_u32(vmovl_u16(vget_high_u16(bytes))),
        )
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<const DOT: bool> Simd for Neon<DOT> {
    const LANES: usize = 8;
    const TILE: usize = 4;
    type F = float32x4x2_t;
    type I = int32x4x2_t;
    type B = uint8x16x2_t;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        float32x4x2_t(vdupq_n_f32(value), vdupq_n_f32(value))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        float32x4x2_t(vld1q_f32(from), vld1q_f32(from.add(4)))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::F) {
        vst1q_f32(to, value.0);
        vst1q_f32(to.add(4), value.1);
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        float32x4x2_t(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        float32x4x2_t(vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        float32x4x2_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1))
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        float32x4x2_t(vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1))
    }
    // The instructions of that name give what is not a number when one side is; these choose.
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        let min = |a: float32x4_t, b: float32x4_t| vbslq_f32(vcltq_f32(a, b), a, b);
        float32x4x2_t(min(a.0, b.0), min(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        let max = |a: float32x4_t, b: float32x4_t| vbslq_f32(vcgtq_f32(a, b), a, b);
        float32x4x2_t(max(a.0, b.0), max(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn exp2_integral(value: Self::F) -> Self::F {
        let exp2 = |value: float32x4_t| {
            let biased = vaddq_s32(vcvtq_s32_f32(value), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        };
        float32x4x2_t(exp2(value.0), exp2(value.1))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        let halves = vld1q_u16(from);
        let (low, high): (float32x4_t, float32x4_t);
        // The standard library's names for these are not stable.
        std::arch::asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
        float32x4x2_t(low, high)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        let bits = vld1q_u16(from);
        float32x4x2_t(
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(bits))),
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(bits))),
        )
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::F {
        floats(vmovl_u8(vld1_u8(from)))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::F {
        let values = vmovl_s8(vld1_s8(from));
        float32x4x2_t(
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(values))),
            vcvtq_f32_s32(vmovl_s16(vget_high_s16(values))),
        )
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> [Self::F; 2] {
        let bytes = vld1_u8(from);
        [
            floats(vmovl_u8(vand_u8(bytes, vdup_n_u8(0x0f)))),
            floats(vmovl_u8(vshr_n_u8::<4>(bytes))),
        ]
    }
    #[inline(always)]
    unsafe fn to_f32(value: Self::I) -> Self::F {
        float32x4x2_t(vcvtq_f32_s32(value.0), vcvtq_f32_s32(value.1))
    }
    #[inline(always)]
    unsafe fn from_bits(bits: Self::I) -> Self::F {
        float32x4x2_t(vreinterpretq_f32_s32(bits.0), vreinterpretq_f32_s32(bits.1))
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Self::I {
        int32x4x2_t(vld1q_s32(from), vld1q_s32(from.add(4)))
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> Self::I {
        int32x4x2_t(vdupq_n_s32(value), vdupq_n_s32(value))
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let dot = |sum, a, b| {
            let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        };
        int32x4x2_t(dot(sum.0, a.0, b.0), dot(sum.1, a.1, b.1))
    }
    #[inline(always)]
    unsafe fn store_i16(to: *mut i16, value: Self::F) {
        let narrow = |value| vqmovn_s32(vcvtnq_s32_f32(value));
        vst1q_s16(to, vcombine_s16(narrow(value.0), narrow(value.1)));
    }

    #[inline(always)]
    unsafe fn magnitude(from: *const f32) -> f32 {
        let mut most = vdupq_n_u32(0);
        for at in (0..32).step_by(4) {
            let bits = vreinterpretq_u32_f32(vld1q_f32(from.add(at)));
            most = vmaxq_u32(most, vandq_u32(bits, vdupq_n_u32(0x7fff_ffff)));
        }
        f32::from_bits(vmaxvq_u32(most))
    }
    #[inline(always)]
    unsafe fn to_bytes(from: *const f32, factor: f32, to: *mut i8) -> [i32; 2] {
        let factor = vdupq_n_f32(factor);
        let mut sums = [0; 2];
        for (half, half_sum) in sums.iter_mut().enumerate() {
            let mut fours = [vdupq_n_s32(0); 4];
            for (i, four) in fours.iter_mut().enumerate() {
                let floats = vld1q_f32(from.add(16 * half + 4 * i));
                *four = vcvtnq_s32_f32(vmulq_f32(floats, factor));
            }
            let [a, b, c, d] = fours;
            let low = vqmovn_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)));
            let high = vqmovn_s16(vcombine_s16(vqmovn_s32(c), vqmovn_s32(d)));
            vst1q_s8(to.add(16 * half), vcombine_s8(low, high));
            *half_sum = vaddvq_s32(vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
        }
        sums
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        std::arch::asm!(
            "prfm pldl1keep, [{at}]",
            at = in(reg) at,
            options(nomem, nostack, preserves_flags),
        );
    }
    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        std::arch::asm!(
            "prfm pldl2keep, [{at}]",
            at = in(reg) at,
            options(nomem, nostack, preserves_flags),
        );
    }
    #[inline(always)]
    unsafe fn prefetch_once(at: *const u8) {
        std::arch::asm!(
            "prfm pldl1strm, [{at}]",
            at = in(reg) at,
            options(nomem, nostack, preserves_flags),
        );
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::B {
        uint8x16x2_t(vld1q_u8(from), vld1q_u8(from.add(16)))
    }
    #[inline(always)]
    unsafe fn and(a: Self::B, mask: u8) -> Self::B {
        let mask = vdupq_n_u8(mask);
        uint8x16x2_t(vandq_u8(a.0, mask), vandq_u8(a.1, mask))
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        uint8x16x2_t(vorrq_u8(a.0, b.0), vorrq_u8(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn shift<const N: i32>(a: Self::B) -> Self::B {
        // A negative count shifts right. It is a constant, so this becomes the immediate form.
        let count = vdupq_n_s8(-N as i8);
        let shift = |a: uint8x16_t| vshlq_u8(a, count);
        uint8x16x2_t(shift(a.0), shift(a.1))
    }

    #[inline(always)]
    unsafe fn dot<const BITS: u32, const FROM: usize, const COUNT: usize, const M: usize>(
        weights: &[Self::B; 8],
        inputs: [*const i8; M],
        inits: [i32; M],
    ) -> [Self::I; M] {
        let mut totals = [int32x4x2_t(vdupq_n_s32(0), vdupq_n_s32(0)); M];
        unrolled!(M, m => totals[m] = match BITS {
            0..=5 => dots::<DOT, 8, FROM, COUNT>(weights, inputs[m], inits[m]),
            _ => dots::<DOT, 4, FROM, COUNT>(weights, inputs[m], inits[m]),
        });
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
        let mut totals = [int32x4x2_t(vdupq_n_s32(0), vdupq_n_s32(0)); M];
        unrolled!(M, m => totals[m] = dots::<DOT, 2, 0, 8>(weights, inputs[m], init));
        totals
    }
}
