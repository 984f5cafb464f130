//! The exponential of many numbers at once, the same on every machine.
//!
//! The system's `exp` is one call per number, which for a whole vocabulary
//! costs a tenth of a small model's decode step, and rounds as each system
//! likes. This one is plain arithmetic that the compiler turns into vectors.

/// Below this the exponential is no normal f32 and counts as zero.
const LEAST: f32 = -87.0;
/// Adding and taking this away rounds to an integer: 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first with so few bits that small multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// 1/2! to 1/7!, the last first.
const TERMS: [f32; 6] = [
    1.984_127e-4,
    1.388_889e-3,
    8.333_334e-3,
    4.166_667e-2,
    1.666_666_7e-1,
    0.5,
];

const LANES: usize = 16;

/// e^x for x at most 0, within two units in the last place.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let bounded = x.max(LEAST);
    let power = bounded * std::f32::consts::LOG2_E + ROUND;
    let whole = power - ROUND;
    let rest = bounded - whole * LN_2_HIGH - whole * LN_2_LOW;
    let mut sum = TERMS[0];
    for term in &TERMS[1..] {
        sum = sum * rest + term;
    }
    let fraction = sum * rest * rest + rest + 1.0;
    // The low bits of `power` are the integer itself; 127 is the exponent's bias.
    let exponent = power.to_bits().wrapping_add(127) << 23;
    let scaled = fraction * f32::from_bits(exponent);
    if x < LEAST { 0.0 } else { scaled }
}

/// The sum of e^((x - top) * scale), in one fixed order; no x is above `top`.
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "functions of a set that was asked for")
)]
pub(super) fn sum_of_exp(values: &[f32], top: f32, scale: f32) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has it.
            return unsafe { sum_avx512(values, top, scale) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has it.
            return unsafe { sum_avx2(values, top, scale) };
        }
    }
    sum(values, top, scale)
}

/// The same operations in wider vectors. None is fused with another, so the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(values: &[f32], top: f32, scale: f32) -> f64 {
    sum(values, top, scale)
}

/// As above.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(values: &[f32], top: f32, scale: f32) -> f64 {
    sum(values, top, scale)
}

#[inline(always)]
fn sum(values: &[f32], top: f32, scale: f32) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        // A loop: `map` would be a function of its own, compiled without the set.
        let mut exponentials = [0.0f32; LANES];
        for (exponential, x) in exponentials.iter_mut().zip(chunk) {
            *exponential = exp((x - top) * scale);
        }
        for (lane, exponential) in lanes.iter_mut().zip(exponentials) {
            *lane += f64::from(exponential);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(exp((x - top) * scale));
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_exponential() {
        let mut worst = 0.0f64;
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let right = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / right - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "relative error {worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-87.1), 0.0);
    }

    #[test]
    fn sums_every_element_once() {
        for count in 0..70 {
            let values: Vec<f32> = (0..count).map(|i| -(i as f32) / 7.0).collect();
            let right: f64 = values.iter().map(|&x| (f64::from(x) * 0.5).exp()).sum();
            let ours = sum_of_exp(&values, 0.0, 0.5);
            assert!(
                (ours - right).abs() <= 1e-6 * right,
                "{count}: {ours} {right}"
            );
            assert_eq!(ours, sum(&values, 0.0, 0.5), "{count}: another set's bits");
        }
    }
}
