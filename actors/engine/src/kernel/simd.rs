//! The vector operations that the kernels are written in, once per
//! instruction set, and the choice between instruction sets at run time.
//!
//! No kernel lives here. Each kernel is one generic body; [`dispatch`] compiles
//! it once per set and picks by what the CPU has, so the binary needs no
//! `target-cpu`. Every operation is exact or correctly rounded, and the bodies
//! fix the order of every reduction, so all sets give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, 8 lanes.
    Portable,
    /// AVX2 with FMA and F16C, 8 lanes.
    Avx2,
    /// AVX2 with AVX-VNNI, 8 lanes.
    AvxVnni,
    /// AVX-512 (F, BW, VL) with VNNI, 16 lanes.
    Avx512Vnni,
    /// NEON, 8 lanes.
    Neon,
    /// NEON with the dot product of 8-bit integers, 8 lanes.
    NeonDotprod,
}

impl Isa {
    /// Of each architecture, slowest first.
    pub const ALL: [Self; 6] = [
        Self::Portable,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Neon,
        Self::NeonDotprod,
    ];

    /// Its name, for people and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
        }
    }

    /// Whether this CPU runs it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni => false,
            // The architecture demands it.
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(not(target_arch = "aarch64"))]
            Self::NeonDotprod => false,
        }
    }

    /// The fastest that this CPU runs.
    #[must_use]
    pub fn detect() -> Self {
        let available = |isa: &Self| isa.is_available();
        Self::ALL
            .into_iter()
            .rfind(available)
            .unwrap_or(Self::Portable)
    }

    /// 32-bit lanes of its vectors, which is also the height of a weight strip.
    pub(super) const fn lanes(self) -> usize {
        match self {
            Self::Portable => portable::Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => avx2::Avx2::<false>::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => avx512::Avx512Vnni::LANES,
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni => portable::Portable::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonDotprod => neon::Neon::<true>::LANES,
            #[cfg(not(target_arch = "aarch64"))]
            Self::Neon | Self::NeonDotprod => portable::Portable::LANES,
        }
    }
}

/// A body that [`dispatch`] compiles for every instruction set. `run` and all
/// that it calls must be `#[inline(always)]`, or they are compiled without the
/// set's features.
pub(super) trait Kernel {
    type Output;

    /// # Safety
    /// The CPU has the features of `S`; what else `Self` demands holds.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `kernel` compiled for `isa`.
///
/// # Safety
/// `isa` is available; what `K` demands holds.
pub(super) unsafe fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    debug_assert!(isa.is_available());
    match isa {
        // SAFETY: plain Rust runs everywhere; the rest is the caller's promise.
        Isa::Portable => unsafe { kernel.run::<portable::Portable>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller promises that the set is available.
        Isa::Avx2 => unsafe { avx2::enter(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller promises that the set is available.
        Isa::AvxVnni => unsafe { avx2::enter_vnni(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller promises that the set is available.
        Isa::Avx512Vnni => unsafe { avx512::enter(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => {
            unreachable!("not available on this architecture")
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the architecture has NEON; the rest is the caller's promise.
        Isa::Neon => unsafe { neon::enter(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the caller promises that the set is available.
        Isa::NeonDotprod => unsafe { neon::enter_dotprod(kernel) },
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon | Isa::NeonDotprod => unreachable!("not available on this architecture"),
    }
}

/// Asks for a cache line, but only into the second-level cache; the address need not be valid.
#[inline(always)]
pub(super) fn fetch_far(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: an instruction of every x86-64; any address may be asked for.
    unsafe {
        avx2::Avx2::<false>::prefetch_far(at);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: an instruction of every aarch64; any address may be asked for.
    unsafe {
        neon::Neon::<false>::prefetch_far(at);
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// The nearest integer, half to even, of a float below 2^22 in magnitude; of others something.
/// No call, where there is no rounding instruction.
#[inline(always)]
pub(super) fn nearest(value: f32) -> i32 {
    // Adding 1.5 * 2^23 leaves the integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let rounded = (value + ROUND).to_bits();
    rounded.wrapping_sub(ROUND.to_bits()).cast_signed()
}

/// Vectors of `LANES` 32-bit lanes.
///
/// # Safety
/// Every method needs the CPU features of its set, and pointers that are valid
/// for the vector's width (no alignment asked).
pub(super) trait Simd: Copy {
    /// Lanes of a vector.
    const LANES: usize;
    /// Activation rows that share one pass over a weight strip: as many as the
    /// registers hold.
    const TILE: usize;

    /// `LANES` 32-bit floats.
    type F: Copy;
    /// `LANES` 32-bit integers.
    type I: Copy;
    /// `4 * LANES` bytes: four consecutive inputs for each lane's output row.
    type B: Copy;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, value: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` where either is not a number.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: `b` where either is not a number.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// 2 to the power of an integral value in -126..=127.
    unsafe fn exp2_integral(value: Self::F) -> Self::F;

    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    unsafe fn load_u8(from: *const u8) -> Self::F;
    unsafe fn load_i8(from: *const i8) -> Self::F;
    /// The low and the high half of each byte.
    unsafe fn load_nibbles(from: *const u8) -> [Self::F; 2];
    unsafe fn to_f32(value: Self::I) -> Self::F;
    /// The floats whose bits these are.
    unsafe fn from_bits(bits: Self::I) -> Self::F;

    unsafe fn load_i32(from: *const i32) -> Self::I;
    unsafe fn splat_i32(value: i32) -> Self::I;
    /// `sum + a0 * b0 + a1 * b1` in each lane, whose two signed 16-bit halves those are. Exact
    /// while it fits into 32 bits and no half is the least of its kind.
    unsafe fn dot_pairs(sum: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// `LANES` 16-bit integers, the nearest to floats within -32767..=32767, half to even; others
    /// give unspecified integers.
    unsafe fn store_i16(to: *mut i16, value: Self::F);

    /// The largest magnitude of 32 floats, by the order of their bits: one that
    /// is not a number comes out on top.
    unsafe fn magnitude(from: *const f32) -> f32;
    /// 32 floats times `factor`, to the nearest integers, half to even, as
    /// bytes; and the sums of the two halves. Products are within -127..=127;
    /// others give unspecified bytes.
    unsafe fn to_bytes(from: *const f32, factor: f32, to: *mut i8) -> [i32; 2];

    /// Asks for a cache line; the address need not be valid.
    unsafe fn prefetch(at: *const u8);
    /// Asks for a cache line, but only into the second-level cache.
    unsafe fn prefetch_far(at: *const u8);
    /// Asks for a cache line that will be used once.
    unsafe fn prefetch_once(at: *const u8);
    unsafe fn bytes(from: *const u8) -> Self::B;
    unsafe fn and(a: Self::B, mask: u8) -> Self::B;
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    /// Each byte shifted right (`N > 0`) or left (`N < 0`); the bits that come
    /// from the neighbour byte are for the caller to mask off.
    unsafe fn shift<const N: i32>(a: Self::B) -> Self::B;

    /// For each of `M` rows and each lane `init + sum of weight * input` over the
    /// groups `FROM..FROM + COUNT` of four inputs; weights unsigned, of at most
    /// `BITS` <= 6 bits. Exact.
    unsafe fn dot<const BITS: u32, const FROM: usize, const COUNT: usize, const M: usize>(
        weights: &[Self::B; 8],
        inputs: [*const i8; M],
        inits: [i32; M],
    ) -> [Self::I; M];

    /// Signed 8-bit weights in the form that [`Simd::dot_signed`] wants.
    unsafe fn signed(weights: Self::B) -> Self::B;
    /// For each of `M` rows and each lane `init + sum of weight * input` over all 32
    /// inputs, whose plain sums are `input_sums`. Inputs are at least -127. Exact.
    unsafe fn dot_signed<const M: usize>(
        weights: &[Self::B; 8],
        inputs: [*const i8; M],
        input_sums: [i32; M],
        init: i32,
    ) -> [Self::I; M];
}

/// `unrolled!(N, i => body)`: `body` for each `i` below the constant `N`, at
/// most 8, written out. The compiler gives up on unrolling long bodies, and a
/// loop would keep its accumulators in memory; a closure would not be compiled
/// with the set's features.
macro_rules! unrolled {
    ($n:expr, $i:ident => $body:expr) => {
        unrolled!(@each $n, $i => $body, 0 1 2 3 4 5 6 7)
    };
    (@each $n:expr, $i:ident => $body:expr, $($at:literal)*) => {
        $(if $at < $n {
            let $i: usize = $at;
            $body
        })*
    };
}
pub(super) use unrolled;
