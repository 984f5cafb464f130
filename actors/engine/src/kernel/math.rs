//! Exponential, SiLU and sums on vectors, with the same bits on every instruction
//! set. No libm: its results differ between systems.

use super::simd::Simd;

/// `e^x` to about 1.2e-7 relative, held between `e^-87` and `e^88`. Powers of
/// two come off the argument; the rest is Cephes' polynomial (S. Moshier,
/// `expf`).
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's contract.
    unsafe {
        let splat = |value| S::splat(value);
        // In this order what is not a number stays what it is.
        let x = S::max(splat(-87.0), S::min(splat(88.0), x));
        // Adding and taking away 1.5 * 2^23 rounds to an integer.
        let round = splat(12_582_912.0);
        let n = S::sub(S::fma(x, splat(std::f32::consts::LOG2_E), round), round);
        // ln 2 in two parts, the first exact in few bits.
        let r = S::fma(n, splat(-0.693_359_4), x);
        let r = S::fma(n, splat(2.121_944_4e-4), r);
        let mut p = splat(1.987_569_1e-4);
        for c in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ] {
            p = S::fma(p, r, splat(c));
        }
        let p = S::add(S::fma(p, S::mul(r, r), r), splat(1.0));
        S::mul(p, S::exp2_integral(n))
    }
}

/// `x / (1 + e^-x)`
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's contract.
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x)))) }
}

/// The sum of `of` over all numbers: sixteen running sums, then pairs. The
/// order is the same whatever the vectors' width.
#[inline(always)]
pub(super) fn sum_by_sixteen(numbers: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let (sixteens, rest) = numbers.as_chunks::<16>();
    for numbers in sixteens {
        for (sum, &number) in sums.iter_mut().zip(numbers) {
            *sum += of(number);
        }
    }
    for (sum, &number) in sums.iter_mut().zip(rest) {
        *sum += of(number);
    }
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests;
