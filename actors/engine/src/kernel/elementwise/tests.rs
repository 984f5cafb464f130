use super::*;
use crate::kernel::simd::dispatch;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7919 + seed * 104_729) % 2000) as f32 / 500.0 - 2.0)
        .collect()
}

#[test]
fn norms_are_those_of_the_formula_on_every_set() {
    for cols in [1, 3, 16, 33, 576] {
        let (x, weight) = (numbers(4 * cols, 1), numbers(cols, 2));
        let mut out = vec![0.0; x.len()];
        rms_norm(&x, &weight, 1e-5, &mut out);
        for (x, out) in x.chunks(cols).zip(out.chunks(cols)) {
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / cols as f64;
            let scale = 1.0 / (mean + 1e-5).sqrt();
            for ((x, weight), out) in x.iter().zip(&weight).zip(out) {
                let exact = f64::from(*x) * scale * f64::from(*weight);
                assert!((f64::from(*out) - exact).abs() <= 1e-6 * exact.abs());
            }
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut again = vec![0.0; x.len()];
            let kernel = RmsNorm {
                x: &x,
                weight: &weight,
                epsilon: 1e-5,
                out: &mut again,
            };
            // SAFETY: the set is available.
            unsafe { dispatch(isa, kernel) };
            assert_eq!(out, again, "{isa:?}");
        }
        let mut rows = QuantizedRows::new(1, cols);
        rms_norm_rows(&Pool::new(2), &x.repeat(5), &weight, 1e-5, &mut rows);
        assert_eq!(rows.floats(), out.repeat(5));
    }
}

#[test]
fn rotation_turns_each_pair_and_nothing_else() {
    let (head_dim, heads) = (10, 3);
    let angles = [0.1f32, 0.7, -1.3, 2.0];
    let (cos, sin) = (angles.map(f32::cos), angles.map(f32::sin));
    for pairs in [RopePairs::Adjacent, RopePairs::Halves] {
        let before = numbers(head_dim * heads, 3);
        let mut after = before.clone();
        rope(pairs, &mut after, head_dim, &cos, &sin);
        for (before, after) in before.chunks(head_dim).zip(after.chunks(head_dim)) {
            for (i, angle) in angles.into_iter().enumerate() {
                let (x, y) = match pairs {
                    RopePairs::Adjacent => (2 * i, 2 * i + 1),
                    RopePairs::Halves => (i, i + angles.len()),
                };
                let (sin, cos) = f64::from(angle).sin_cos();
                let (from_x, from_y) = (f64::from(before[x]), f64::from(before[y]));
                assert!((f64::from(after[x]) - (from_x * cos - from_y * sin)).abs() < 1e-6);
                assert!((f64::from(after[y]) - (from_x * sin + from_y * cos)).abs() < 1e-6);
            }
            assert_eq!(before[8..], after[8..]);
        }
    }
}

#[test]
fn sums_repeat_a_bias() {
    for n in [1, 7, 8, 16, 31, 100] {
        let (residual, bias) = (numbers(n, 4), numbers(n, 5));
        let mut sums = residual.repeat(3);
        add(&bias, &mut sums);
        for (i, sum) in sums.iter().enumerate() {
            assert_eq!(*sum, residual[i % n] + bias[i % n]);
        }
    }
}
