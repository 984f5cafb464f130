//! The vector operations on AVX-512 with VNNI: Intel since 2019, AMD since
//! Zen 4. No BF16 or AMX instruction: they would round differently.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_NTA, _MM_HINT_T0, _MM_HINT_T1, _mm_add_epi32, _mm_dpbusd_epi32,
    _mm_extract_epi32, _mm_loadu_si128, _mm_prefetch, _mm_set1_epi8, _mm_setzero_si128,
    _mm_shuffle_epi32, _mm_storeu_si128, _mm_unpackhi_epi64, _mm_unpacklo_epi64,
    _mm256_loadu_si256, _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi8, _mm512_cvtepi32_epi16,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
    _mm512_cvtps_epi32, _mm512_div_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_max_epi32, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_or_si512, _mm512_reduce_max_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_si512, _mm512_sll_epi16, _mm512_slli_epi32, _mm512_srl_epi16, _mm512_srli_epi32,
    _mm512_storeu_ps, _mm512_sub_ps, _mm512_xor_si512,
};

use super::{Kernel, Simd, unrolled};

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx512Vnni;

/// # Safety
/// The CPU has AVX-512 F, BW, VL and VNNI, and AVX2, FMA and F16C; what `K`
/// demands holds.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own contract.
    unsafe { kernel.run::<Avx512Vnni>() }
}

/// Four consecutive inputs, for every lane.
#[inline(always)]
unsafe fn four(inputs: *const i8, group: usize) -> __m512i {
    // SAFETY: the caller's pointer is valid for the 32 inputs of a block.
    unsafe { _mm512_set1_epi32(inputs.add(4 * group).cast::<i32>().read_unaligned()) }
}

/// `_mm512_dpwssd_epi32`, of which the compiler would make a product and a sum.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpwssd(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: registers only, and the CPU has the instruction.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl Simd for Avx512Vnni {
    const LANES: usize = 16;
    const TILE: usize = 8;
    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        _mm512_storeu_ps(to, value);
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn exp2_integral(value: __m512) -> __m512 {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> [Self::F; 2] {
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
        let low = _mm512_and_si512(bytes, _mm512_set1_epi32(0x0f));
        [
            _mm512_cvtepi32_ps(low),
            _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(bytes)),
        ]
    }
    #[inline(always)]
    unsafe fn to_f32(value: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(value)
    }
    #[inline(always)]
    unsafe fn from_bits(bits: __m512i) -> __m512 {
        _mm512_castsi512_ps(bits)
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> __m512i {
        _mm512_set1_epi32(value)
    }
    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        dpwssd(sum, a, b)
    }
    #[inline(always)]
    unsafe fn store_i16(to: *mut i16, value: __m512) {
        let narrow = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(value));
        _mm256_storeu_si256(to.cast(), narrow);
    }

    #[inline(always)]
    unsafe fn magnitude(from: *const f32) -> f32 {
        let mask = _mm512_set1_epi32(0x7fff_ffff);
        let low = _mm512_and_si512(_mm512_loadu_si512(from.cast()), mask);
        let high = _mm512_and_si512(_mm512_loadu_si512(from.add(16).cast()), mask);
        f32::from_bits(_mm512_reduce_max_epi32(_mm512_max_epi32(low, high)).cast_unsigned())
    }
    #[inline(always)]
    unsafe fn to_bytes(from: *const f32, factor: f32, to: *mut i8) -> [i32; 2] {
        let factor = _mm512_set1_ps(factor);
        let low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from), factor));
        let high = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from.add(16)), factor));
        let (low, high) = (_mm512_cvtepi32_epi8(low), _mm512_cvtepi32_epi8(high));
        _mm_storeu_si128(to.cast(), low);
        _mm_storeu_si128(to.add(16).cast(), high);
        // Four bytes at a time by the dot product with ones, then both halves in step.
        let fours = |bytes| _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), bytes);
        let (low, high) = (fours(low), fours(high));
        let twos = _mm_add_epi32(_mm_unpacklo_epi64(low, high), _mm_unpackhi_epi64(low, high));
        let sums = _mm_add_epi32(twos, _mm_shuffle_epi32::<0b10_11_00_01>(twos));
        [_mm_extract_epi32::<0>(sums), _mm_extract_epi32::<2>(sums)]
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
    unsafe fn bytes(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, mask: u8) -> __m512i {
        _mm512_and_si512(a, _mm512_set1_epi8(mask.cast_signed()))
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }
    #[inline(always)]
    unsafe fn shift<const N: i32>(a: __m512i) -> __m512i {
        // The count is a constant, so these become the immediate forms.
        let count = std::arch::x86_64::_mm_cvtsi32_si128(N.abs());
        if N < 0 {
            _mm512_sll_epi16(a, count)
        } else {
            _mm512_srl_epi16(a, count)
        }
    }

    #[inline(always)]
    unsafe fn dot<const BITS: u32, const FROM: usize, const COUNT: usize, const M: usize>(
        weights: &[__m512i; 8],
        inputs: [*const i8; M],
        inits: [i32; M],
    ) -> [__m512i; M] {
        let mut totals = [_mm512_setzero_si512(); M];
        unrolled!(M, m => totals[m] = _mm512_set1_epi32(inits[m]));
        // Row by row, each step would wait five cycles for the one before.
        let mut group = FROM;
        while group < FROM + COUNT {
            let weights = weights[group];
            unrolled!(M, m => {
                totals[m] = _mm512_dpbusd_epi32(totals[m], weights, four(inputs[m], group));
            });
            group += 1;
        }
        totals
    }

    /// Plus 128, because `dpbusd` takes its first operand unsigned.
    #[inline(always)]
    unsafe fn signed(weights: __m512i) -> __m512i {
        _mm512_xor_si512(weights, _mm512_set1_epi8(i8::MIN))
    }
    #[inline(always)]
    unsafe fn dot_signed<const M: usize>(
        weights: &[__m512i; 8],
        inputs: [*const i8; M],
        input_sums: [i32; M],
        init: i32,
    ) -> [__m512i; M] {
        let mut inits = [0; M];
        unrolled!(M, m => inits[m] = init.wrapping_sub(input_sums[m].wrapping_mul(128)));
        Self::dot::<8, 0, 8, M>(weights, inputs, inits)
    }
}
