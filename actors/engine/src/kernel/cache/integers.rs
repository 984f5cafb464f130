//! Keys and values as 16-bit integers, with a unit for each head of a position.
//!
//! Products of them are summed exactly in 32 bits: units are as small as that allows, or 16 bits.

use super::POSITIONS;
use crate::kernel::math;
use crate::kernel::simd::{Isa, Kernel, Simd, dispatch};

/// The most that a key's and a query's integers may be long, as vectors, before they are rounded:
/// their product is at most the product of their lengths (Cauchy and Schwarz), whatever part of
/// the components is summed.
pub(in crate::kernel) const LENGTH_MAX: f32 = 46_000.0;
/// With up to 4,096 components, each of which rounding moves by at most a half.
const _: () = assert!((LENGTH_MAX as u64 + 32).pow(2) < 1 << 31);
/// The largest magnitude of a value's integers.
pub(in crate::kernel) const VALUE_MAX: f32 = 16_383.0;
/// The largest integer of 16 bits.
pub(in crate::kernel) const MAX: f32 = i16::MAX as f32;

/// The larger of two units; what is not a number shows.
#[inline(always)]
pub(in crate::kernel) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// What numbers are multiplied with to be counted in units. Of the smallest it would overflow; so
/// small numbers count as zero.
#[inline(always)]
pub(in crate::kernel) fn inverse(unit: f32) -> f32 {
    if unit > 1e-36 { 1.0 / unit } else { 0.0 }
}

/// What units are made from. Sums are not a number where one of the numbers is not.
pub(in crate::kernel) struct Sizes {
    /// The largest magnitude.
    pub(in crate::kernel) largest: f32,
    /// The sum of the magnitudes.
    pub(in crate::kernel) sum: f32,
    /// The sum of the squares.
    squares: f32,
}

/// Measures some numbers; what is not asked for is not computed.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "its own contract")]
pub(in crate::kernel) unsafe fn measure<S: Simd>(numbers: &[f32]) -> Sizes {
    // No closures here: they could become functions that are compiled without the set.
    let mut sums = math::SumBySixteen::<S>::new();
    let mut squares = math::SumBySixteen::<S>::new();
    let mut largest = S::splat(0.0);
    for numbers in numbers.chunks(16) {
        let numbers = sixteen(numbers);
        for at in (0..16).step_by(S::LANES) {
            let number = S::load(numbers.as_ptr().add(at));
            let magnitude = S::max(number, S::sub(S::splat(0.0), number));
            sums.add(at, magnitude);
            squares.add(at, S::mul(number, number));
            largest = S::max(magnitude, largest);
        }
    }
    let mut lanes = [0.0; 16];
    S::store(lanes.as_mut_ptr(), largest);
    Sizes {
        largest: math::pairs(lanes, |a, b| if b > a { b } else { a }),
        sum: sums.total(),
        squares: squares.total(),
    }
}

/// Up to sixteen numbers, then zeros.
#[inline(always)]
fn sixteen(numbers: &[f32]) -> [f32; 16] {
    if let Some(numbers) = numbers.first_chunk() {
        return *numbers;
    }
    let mut padded = [0.0; 16];
    padded[..numbers.len()].copy_from_slice(numbers);
    padded
}

/// The unit of a key or a query.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "its own contract")]
pub(in crate::kernel) unsafe fn unit_of_vector<S: Simd>(numbers: &[f32]) -> f32 {
    let sizes = measure::<S>(numbers);
    larger(sizes.squares.sqrt() / LENGTH_MAX, sizes.largest / MAX)
}

/// Brings numbers to integers that begin where the floats did.
///
/// # Safety
/// As for [`Simd`]. There is a multiple of 16 of them.
#[inline(always)]
pub(in crate::kernel) unsafe fn round_in_place<S: Simd>(numbers: &mut [f32], unit: f32) {
    let at = numbers.as_mut_ptr();
    let inverse = inverse(unit);
    for position in (0..numbers.len()).step_by(S::LANES) {
        // SAFETY: a vector of them; what it becomes takes half its room.
        unsafe {
            let number = S::mul(S::load(at.add(position)), S::splat(inverse));
            S::store_i16(at.cast::<i16>().add(position), number);
        }
    }
}

/// Up to sixteen numbers in units of which `inverse` is the inverse, then zeros.
#[inline(always)]
#[expect(unsafe_op_in_unsafe_fn, reason = "its own contract")]
unsafe fn rounded<S: Simd>(numbers: &[f32], inverse: f32) -> [i16; 16] {
    let floats = sixteen(numbers);
    let mut integers = [0; 16];
    for at in (0..16).step_by(S::LANES) {
        let number = S::mul(S::load(floats.as_ptr().add(at)), S::splat(inverse));
        S::store_i16(integers.as_mut_ptr().add(at), number);
    }
    integers
}

/// Stores a head of one position, the `within`-th of a block.
pub(super) struct Store<'a> {
    pub(super) within: usize,
    pub(super) key: &'a [f32],
    /// The block's keys of that head, and below its values, each with their units.
    pub(super) keys: &'a mut [i32],
    pub(super) value: &'a [f32],
    pub(super) values: &'a mut [i32],
}

impl Store<'_> {
    pub(super) fn run(self) {
        // SAFETY: the detected set is available; slices carry their lengths.
        unsafe { dispatch(Isa::detect(), self) }
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl Kernel for Store<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (keys, units) = self.keys.split_at_mut(self.keys.len() - POSITIONS);
        let unit = unit_of_vector::<S>(self.key);
        units[self.within] = unit.to_bits().cast_signed();
        let (pairs, _) = keys.as_chunks_mut::<POSITIONS>();
        for (pairs, key) in pairs.chunks_exact_mut(8).zip(self.key.chunks(16)) {
            let key = rounded::<S>(key, inverse(unit));
            for (pair, &[low, high]) in pairs.iter_mut().zip(key.as_chunks().0) {
                pair[self.within] = (i32::from(low) & 0xffff) | i32::from(high) << 16;
            }
        }

        let (values, units) = self.values.split_at_mut(self.values.len() - POSITIONS);
        let Sizes { largest, sum, .. } = measure::<S>(self.value);
        let unit = if sum.is_nan() {
            sum
        } else {
            largest / VALUE_MAX
        };
        units[self.within] = unit.to_bits().cast_signed();
        let padded_dim = values.len() / (POSITIONS / 2);
        let row = &mut values[self.within / 2 * padded_dim..][..padded_dim];
        let shift = 16 * (self.within % 2);
        for (words, value) in row.chunks_exact_mut(16).zip(self.value.chunks(16)) {
            let value = rounded::<S>(value, inverse(unit));
            for (word, value) in words.iter_mut().zip(value) {
                let other = *word & !(0xffff << shift);
                *word = other | (i32::from(value) & 0xffff) << shift;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (keys, values) of a block, all of whose positions were written on `isa`.
    fn stored(isa: Isa, head: &[f32]) -> [Vec<i32>; 2] {
        let half = POSITIONS * (head.len().next_multiple_of(16) / 2 + 1);
        let [mut keys, mut values] = [(); 2].map(|()| vec![0; half]);
        for within in 0..POSITIONS {
            let turned: Vec<f32> = (0..head.len())
                .map(|i| head[(i + within) % head.len()])
                .collect();
            let store = Store {
                within,
                key: &turned,
                keys: &mut keys,
                value: &turned,
                values: &mut values,
            };
            // SAFETY: the callers ask for what is available.
            unsafe { dispatch(isa, store) };
        }
        [keys, values]
    }

    fn heads() -> Vec<Vec<f32>> {
        let number = |i: usize, seed: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 - 1000.7;
        let mut heads: Vec<Vec<f32>> = [1, 2, 5, 16, 33, 64, 200]
            .iter()
            .map(|&len| (0..len).map(|i| number(i, len) * 1e-3).collect())
            .collect();
        heads.push(vec![0.0; 20]);
        heads.push(vec![1e-38; 20]);
        heads.push([vec![3e4], vec![1e-3; 63]].concat());
        heads
    }

    #[test]
    fn a_number_is_within_half_a_unit() {
        for head in heads() {
            let [keys, values] = stored(Isa::detect(), &head);
            let padded_dim = head.len().next_multiple_of(16);
            let unit = |words: &[i32], within: usize| {
                f32::from_bits(words[words.len() - POSITIONS + within].cast_unsigned())
            };
            for within in 0..POSITIONS {
                let largest = head.iter().fold(0f32, |most, x| most.max(x.abs()));
                let [key_unit, value_unit] = [unit(&keys, within), unit(&values, within)];
                let length = head.iter().map(|x| x * x).sum::<f32>().sqrt();
                assert!(key_unit <= 1.001 * (length / LENGTH_MAX).max(largest / MAX));
                assert!(value_unit <= 1.001 * largest / VALUE_MAX);
                for i in 0..head.len() {
                    let number = head[(i + within) % head.len()];
                    let half = |word: i32, high: bool| (word >> if high { 16 } else { 0 }) as i16;
                    let key = half(keys[i / 2 * POSITIONS + within], i % 2 == 1);
                    let value = half(values[within / 2 * padded_dim + i], within % 2 == 1);
                    for (integer, unit) in [(key, key_unit), (value, value_unit)] {
                        let off = (f32::from(integer) * unit - number).abs();
                        assert!(
                            off <= 0.501 * unit.max(2e-36),
                            "{number}: {integer} of {unit}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_stores_the_same() {
        for head in heads() {
            let reference = stored(Isa::Portable, &head);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                assert_eq!(stored(isa, &head), reference, "{isa:?}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_shows_in_the_unit() {
        let [keys, values] = stored(Isa::detect(), &[1.0, f32::NAN, 2.0]);
        for words in [keys, values] {
            let units = &words[words.len() - POSITIONS..];
            assert!(
                units
                    .iter()
                    .all(|unit| f32::from_bits(unit.cast_unsigned()).is_nan())
            );
        }
    }
}
