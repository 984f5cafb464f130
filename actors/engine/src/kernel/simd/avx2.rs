//! The vector operations on AVX2 with FMA and F16C: every x86 CPU since 2013
//! (Intel) or 2015 (AMD); with the VEX form of VNNI where the CPU has it (Intel's
//! since Alder Lake, which lack AVX-512) and without.
//!
//! Without, `maddubs` multiplies unsigned by signed bytes and adds pairs into 16 bits,
//! saturating. Weights of 4 bits leave room for eight such sums (8 * 2 * 15 *
//! 127 = 30,480), 5 bits for four, 6 bits for two; 8-bit weights for one, and
//! only after their sign has moved to the input.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_HINT_NTA, _MM_HINT_T0, _MM_HINT_T1, _mm_add_epi32,
    _mm_cvtsi128_si32, _mm_loadl_epi64, _mm_loadu_si128, _mm_max_epi32, _mm_packs_epi32,
    _mm_prefetch, _mm_shuffle_epi32, _mm_storeu_si128, _mm256_abs_epi8, _mm256_add_epi16,
    _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32,
    _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_div_ps, _mm256_dpbusd_avx_epi32,
    _mm256_dpwssd_avx_epi32, _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_epi32, _mm256_max_ps,
    _mm256_min_ps, _mm256_mul_ps, _mm256_or_si256, _mm256_packs_epi16, _mm256_packs_epi32,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_sign_epi8, _mm256_sll_epi16,
    _mm256_slli_epi32, _mm256_srl_epi16, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_ps, _mm256_xor_si256,
};

use super::{Kernel, Simd, unrolled};

/// `VNNI`: with the instructions of AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx2<const VNNI: bool>;

/// # Safety
/// The CPU has AVX2, FMA and F16C; what `K` demands holds.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own contract.
    unsafe { kernel.run::<Avx2<false>>() }
}

/// # Safety
/// As [`enter`], and the CPU has AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own contract.
    unsafe { kernel.run::<Avx2<true>>() }
}

/// Four consecutive inputs, for every lane.
#[inline(always)]
unsafe fn four(inputs: *const i8, group: usize) -> __m256i {
    // SAFETY: the caller's pointer is valid for the 32 inputs of a block.
    unsafe { _mm256_set1_epi32(inputs.add(4 * group).cast::<i32>().read_unaligned()) }
}

/// [`Simd::dot`] by `dpbusd`, the rows in step: one by one, each step would wait for the one before.
#[inline(always)]
unsafe fn dots<const FROM: usize, const COUNT: usize, const M: usize>(
    weights: &[__m256i; 8],
    inputs: [*const i8; M],
    inits: [i32; M],
) -> [__m256i; M] {
    // SAFETY: the caller's pointers are valid; the CPU has AVX-VNNI, as for all of `Avx2<true>`.
    unsafe {
        let mut totals = [_mm256_setzero_si256(); M];
        unrolled!(M, m => totals[m] = _mm256_set1_epi32(inits[m]));
        let mut group = FROM;
        while group < FROM + COUNT {
            let weights = weights[group];
            unrolled!(M, m => {
                totals[m] = _mm256_dpbusd_avx_epi32(totals[m], weights, four(inputs[m], group));
            });
            group += 1;
        }
        totals
    }
}

/// The sum of the lanes.
#[inline(always)]
unsafe fn sum(lanes: __m256i) -> i32 {
    // SAFETY: the CPU has AVX2, as for all of this file.
    unsafe {
        let (low, high) = (
            _mm256_castsi256_si128(lanes),
            _mm256_extracti128_si256::<1>(lanes),
        );
        let four = _mm_add_epi32(low, high);
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const TILE: usize = 4;
    type F = __m256;
    type I = __m256i;
    type B = __m256i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        _mm256_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        _mm256_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        _mm256_storeu_ps(to, value);
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn exp2_integral(value: __m256) -> __m256 {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(value), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m256 {
        let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m256 {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(
            from.cast::<__m128i>(),
        )))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m256 {
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(
            from.cast::<__m128i>(),
        )))
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> [Self::F; 2] {
        let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast::<__m128i>()));
        let low = _mm256_and_si256(bytes, _mm256_set1_epi32(0x0f));
        [
            _mm256_cvtepi32_ps(low),
            _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(bytes)),
        ]
    }
    #[inline(always)]
    unsafe fn to_f32(value: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(value)
    }
    #[inline(always)]
    unsafe fn from_bits(bits: __m256i) -> __m256 {
        _mm256_castsi256_ps(bits)
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> __m256i {
        _mm256_loadu_si256(from.cast())
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> __m256i {
        _mm256_set1_epi32(value)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        if VNNI {
            _mm256_dpwssd_avx_epi32(sum, a, b)
        } else {
            _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
        }
    }
    #[inline(always)]
    unsafe fn store_i16(to: *mut i16, value: __m256) {
        let wide = _mm256_cvtps_epi32(value);
        let (low, high) = (
            _mm256_castsi256_si128(wide),
            _mm256_extracti128_si256::<1>(wide),
        );
        _mm_storeu_si128(to.cast(), _mm_packs_epi32(low, high));
    }

    #[inline(always)]
    unsafe fn magnitude(from: *const f32) -> f32 {
        let mask = _mm256_set1_epi32(0x7fff_ffff);
        let mut most = _mm256_setzero_si256();
        for at in [0, 8, 16, 24] {
            let bits = _mm256_and_si256(_mm256_loadu_si256(from.add(at).cast()), mask);
            most = _mm256_max_epi32(most, bits);
        }
        let most = _mm_max_epi32(
            _mm256_castsi256_si128(most),
            _mm256_extracti128_si256::<1>(most),
        );
        let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0b01_00_11_10>(most));
        let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0b10_11_00_01>(most));
        f32::from_bits(_mm_cvtsi128_si32(most).cast_unsigned())
    }
    #[inline(always)]
    unsafe fn to_bytes(from: *const f32, factor: f32, to: *mut i8) -> [i32; 2] {
        let factor = _mm256_set1_ps(factor);
        let mut eight = [_mm256_setzero_si256(); 4];
        for (i, eight) in eight.iter_mut().enumerate() {
            *eight = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from.add(8 * i)), factor));
        }
        let [a, b, c, d] = eight;
        // Packing works on each half of a register; the last step puts the
        // fours into order.
        let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(to.cast(), _mm256_permutevar8x32_epi32(bytes, order));
        [sum(_mm256_add_epi32(a, b)), sum(_mm256_add_epi32(c, d))]
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[inline(always)]
    unsafe fn prefetch_once(at: *const u8) {
        _mm_prefetch::<_MM_HINT_NTA>(at.cast());
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m256i {
        _mm256_loadu_si256(from.cast())
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, mask: u8) -> __m256i {
        _mm256_and_si256(a, _mm256_set1_epi8(mask.cast_signed()))
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }
    #[inline(always)]
    unsafe fn shift<const N: i32>(a: __m256i) -> __m256i {
        // The count is a constant, so these become the immediate forms.
        let count = std::arch::x86_64::_mm_cvtsi32_si128(N.abs());
        if N < 0 {
            _mm256_sll_epi16(a, count)
        } else {
            _mm256_srl_epi16(a, count)
        }
    }

    #[inline(always)]
    unsafe fn dot<const BITS: u32, const FROM: usize, const COUNT: usize, const M: usize>(
        weights: &[__m256i; 8],
        inputs: [*const i8; M],
        inits: [i32; M],
    ) -> [__m256i; M] {
        if VNNI {
            return dots::<FROM, COUNT, M>(weights, inputs, inits);
        }
        // Sums of `maddubs` that fit into 16 bits.
        let run = const {
            match BITS {
                0..=4 => 8,
                5 => 4,
                6 => 2,
                _ => panic!("wider weights saturate"),
            }
        };
        let mut totals = [_mm256_setzero_si256(); M];
        unrolled!(M, m => {
            let mut total = _mm256_set1_epi32(inits[m]);
            let mut group = FROM;
            while group < FROM + COUNT {
                let mut sum = _mm256_maddubs_epi16(weights[group], four(inputs[m], group));
                let mut next = group + 1;
                while next < group + run && next < FROM + COUNT {
                    let product = _mm256_maddubs_epi16(weights[next], four(inputs[m], next));
                    sum = _mm256_add_epi16(sum, product);
                    next += 1;
                }
                total = _mm256_add_epi32(total, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
                group = next;
            }
            totals[m] = total;
        });
        totals
    }

    /// With VNNI plus 128, because `dpbusd` takes its first operand unsigned.
    #[inline(always)]
    unsafe fn signed(weights: __m256i) -> __m256i {
        if VNNI {
            _mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN))
        } else {
            weights
        }
    }
    #[inline(always)]
    unsafe fn dot_signed<const M: usize>(
        weights: &[__m256i; 8],
        inputs: [*const i8; M],
        input_sums: [i32; M],
        init: i32,
    ) -> [__m256i; M] {
        if VNNI {
            let mut inits = [0; M];
            unrolled!(M, m => inits[m] = init.wrapping_sub(input_sums[m].wrapping_mul(128)));
            return dots::<0, 8, M>(weights, inputs, inits);
        }
        let mut totals = [_mm256_set1_epi32(init); M];
        unrolled!(M, m => {
            for (group, &weights) in weights.iter().enumerate() {
                // |weight| <= 128 and |input| <= 127: 2 * 128 * 127 = 32,512 fits.
                let inputs = _mm256_sign_epi8(four(inputs[m], group), weights);
                let sum = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), inputs);
                let sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
                totals[m] = _mm256_add_epi32(totals[m], sum);
            }
        });
        totals
    }
}
