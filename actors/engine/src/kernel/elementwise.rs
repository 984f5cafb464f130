//! What happens to rows between the products: norms, rotary positions, sums.
//!
//! Plain loops compiled once per instruction set; no fused multiply-add and
//! one fixed order of sums, so every set gives the same bits. Rotary angles
//! and their scalings are the model's business: cosines and sines come in.

use super::bands::STEP;
use super::math;
use super::pool::Pool;
use super::rows::QuantizedRows;
use super::share::Disjoint;
use super::simd::{Isa, Kernel, Simd, dispatch};

/// How rotary embedding pairs the components of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// Neighbours `(2i, 2i + 1)`: llama as GGUF stores it, "norm".
    Adjacent,
    /// `(i, i + dim / 2)`: "NeoX", as Qwen and Gemma have it.
    Halves,
}

/// `out = x / sqrt(mean(x^2) + epsilon) * weight` for each row of
/// `weight.len()`.
///
/// # Panics
/// When the lengths are not the same whole number of rows.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "rows in and out");
    assert!(
        !weight.is_empty() && x.len().is_multiple_of(weight.len()),
        "whole rows"
    );
    run(RmsNorm {
        x,
        weight,
        epsilon,
        out,
    });
}

/// [`rms_norm`] into `out`, `(n, cols)` with `n` rows of `x`, without the
/// 8-bit form: [`QuantizedRows::quantize`] adds it.
///
/// # Panics
/// As [`rms_norm`].
pub fn rms_norm_rows(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut QuantizedRows,
) {
    let cols = weight.len();
    assert_eq!(out.cols(), cols, "columns of the weight and of the rows");
    assert!(cols > 0 && x.len().is_multiple_of(cols), "whole rows");
    let n = x.len() / cols;
    let out = Disjoint::new(out.begin(n));
    pool.for_each(n.div_ceil(STEP), &|_, item| {
        let first = item * STEP * cols;
        let x = &x[first..x.len().min(first + STEP * cols)];
        // SAFETY: items are disjoint ranges of rows.
        rms_norm(x, weight, epsilon, unsafe { out.slice(first, x.len()) });
    });
}

/// Rotates the heads of one row, `(heads, head_dim)`, in place. `cos` and
/// `sin` are those of the row's position, one per rotated pair; components
/// beyond the pairs stay.
///
/// # Panics
/// When the lengths do not fit.
pub fn rope(pairs: RopePairs, row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    assert_eq!(cos.len(), sin.len(), "a cosine and a sine per pair");
    assert!(
        2 * cos.len() <= head_dim && row.len().is_multiple_of(head_dim),
        "whole heads"
    );
    run(Rotate {
        pairs,
        row,
        head_dim,
        cos,
        sin,
    });
}

/// `out = out + x` for each row of `x.len()`: a residual of as many rows, or a
/// bias for all.
///
/// # Panics
/// When `out` is not a whole number of `x`.
pub fn add(x: &[f32], out: &mut [f32]) {
    assert!(
        !x.is_empty() && out.len().is_multiple_of(x.len()),
        "whole rows"
    );
    run(Add { x, out });
}

fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the detected set is available; these kernels demand no more.
    unsafe { dispatch(Isa::detect(), kernel) }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let cols = self.weight.len();
        for (x, out) in self
            .x
            .chunks_exact(cols)
            .zip(self.out.chunks_exact_mut(cols))
        {
            let mean = math::sum_by_sixteen(x, |x| x * x) / cols as f32;
            let scale = 1.0 / (mean + self.epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

struct Rotate<'a> {
    pairs: RopePairs,
    row: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let angles = || self.cos.iter().zip(self.sin);
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let head = &mut head[..2 * self.cos.len()];
            match self.pairs {
                RopePairs::Adjacent => {
                    for ([x, y], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles())
                    {
                        (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                    }
                }
                RopePairs::Halves => {
                    let (xs, ys) = head.split_at_mut(self.cos.len());
                    for ((x, y), (cos, sin)) in xs.iter_mut().zip(ys).zip(angles()) {
                        (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                    }
                }
            }
        }
    }
}

struct Add<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for out in self.out.chunks_exact_mut(self.x.len()) {
            for (out, x) in out.iter_mut().zip(self.x) {
                *out += x;
            }
        }
    }
}

#[cfg(test)]
mod tests;
