//! Exponential, SiLU and sums on vectors, with the same bits on every instruction
//! set. No libm: its results differ between systems.

use super::simd::{Simd, unrolled};

/// `e^x` to about 1.2e-7 relative, held between `e^-87` and `e^88`. Powers of
/// two come off the argument; the rest is Cephes' polynomial (S. Moshier,
/// `expf`).
///
/// One exponential is a chain of some twenty operations that wait for each other. `N` of them, at
/// most 8, go in step: the processor looks too few operations ahead to find the next chain.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn exp_each<S: Simd, const N: usize>(x: [S::F; N]) -> [S::F; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let splat = |value| S::splat(value);
        // Adding and taking away 1.5 * 2^23 rounds to an integer.
        let round = splat(12_582_912.0);
        let (mut r, mut n, mut p) = (x, x, [splat(1.987_569_1e-4); N]);
        // In this order what is not a number stays what it is.
        unrolled!(N, i => r[i] = S::max(splat(-87.0), S::min(splat(88.0), x[i])));
        unrolled!(N, i => n[i] = S::fma(r[i], splat(std::f32::consts::LOG2_E), round));
        unrolled!(N, i => n[i] = S::sub(n[i], round));
        // ln 2 in two parts, the first exact in few bits.
        unrolled!(N, i => r[i] = S::fma(n[i], splat(-0.693_359_4), r[i]));
        unrolled!(N, i => r[i] = S::fma(n[i], splat(2.121_944_4e-4), r[i]));
        for c in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ] {
            unrolled!(N, i => p[i] = S::fma(p[i], r[i], splat(c)));
        }
        unrolled!(N, i => p[i] = S::fma(p[i], S::mul(r[i], r[i]), r[i]));
        unrolled!(N, i => p[i] = S::add(p[i], splat(1.0)));
        unrolled!(N, i => p[i] = S::mul(p[i], S::exp2_integral(n[i])));
        p
    }
}

/// [`exp_each`] of one vector.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's contract.
    unsafe { exp_each::<S, 1>([x])[0] }
}

/// `x / (1 + e^-x)`, as [`exp_each`].
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn silu_each<S: Simd, const N: usize>(mut x: [S::F; N]) -> [S::F; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut negative = x;
        unrolled!(N, i => negative[i] = S::sub(S::splat(0.0), x[i]));
        let exps = exp_each::<S, N>(negative);
        unrolled!(N, i => x[i] = S::div(x[i], S::add(S::splat(1.0), exps[i])));
        x
    }
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
    pairs(sums, |a, b| a + b)
}

/// Sixteen numbers to one: the halves first, then their halves.
#[inline(always)]
pub(super) fn pairs(mut numbers: [f32; 16], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            numbers[i] = of(numbers[i], numbers[i + width]);
        }
        width /= 2;
    }
    numbers[0]
}

/// [`sum_by_sixteen`] of vectors that come one by one.
pub(super) struct SumBySixteen<S: Simd>([S::F; 2]);

impl<S: Simd> SumBySixteen<S> {
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the caller's contract.
        unsafe { Self([S::splat(0.0); 2]) }
    }

    /// Adds a vector whose first number is the `place`-th of all, a multiple of the lanes.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn add(&mut self, place: usize, numbers: S::F) {
        let sums = &mut self.0[place / S::LANES % (16 / S::LANES)];
        // SAFETY: the caller's contract.
        unsafe { *sums = S::add(*sums, numbers) };
    }

    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn total(self) -> f32 {
        let mut sums = [0.0; 16];
        for (at, vector) in (0..16).step_by(S::LANES).zip(self.0) {
            // SAFETY: the caller's contract; sixteen numbers are one or two vectors.
            unsafe { S::store(sums.as_mut_ptr().add(at), vector) };
        }
        pairs(sums, |a, b| a + b)
    }
}

#[cfg(test)]
mod tests;
