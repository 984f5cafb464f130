//! How keys and values of each format of a cache are multiplied.

use std::ops::Range;

use super::tile::SEGMENT;
use crate::kernel::cache::{
    CacheShape, Float, HeadOfPage, MAX, POSITIONS, Stored, VALUE_MAX, larger, measure,
    round_in_place, unit_of_vector,
};
use crate::kernel::simd::{Simd, unrolled};

/// A format of a cache. Weights are the exponentials of a softmax.
///
/// # Safety
/// Methods need what [`Simd`] needs, and pointers to all that is multiplied.
pub(super) trait Cached: Stored {
    /// Brings a query of `padded_dim` floats into the form that [`Cached::score`] takes.
    unsafe fn round_query<S: Simd>(query: &mut [f32]);

    /// Scores of `M` queries, `padded_dim` apart, with `V` vectors of positions. Meanwhile it asks
    /// for the keys that come next, and for the values of these positions: both lie in runs of a
    /// head of a block, too short for the CPU's own prefetcher to be of use.
    unsafe fn score<S: Simd, const M: usize, const V: usize>(
        shape: &CacheShape,
        head: HeadOfPage<'_, Self>,
        keys: [*const Self; V],
        queries: *const f32,
    ) -> [[S::F; V]; M];

    /// A vector of weights, from `position` on, times the units of their values.
    unsafe fn scale_weights<S: Simd>(
        head: HeadOfPage<'_, Self>,
        position: usize,
        weights: S::F,
    ) -> S::F;

    /// Brings scaled weights of whole blocks into the form that [`Cached::weigh`] takes, and tells
    /// what one of its units is worth.
    unsafe fn round_weights<S: Simd>(weights: &mut [f32]) -> f32;

    /// Values times weights, position by position: the sums of `V` vectors of components for each
    /// of `M` queries. Weights are [`SEGMENT`] floats apart, and with them come their units.
    unsafe fn weigh<S: Simd, const M: usize, const V: usize>(
        padded_dim: usize,
        head: HeadOfPage<'_, Self>,
        positions: Range<usize>,
        component: usize,
        weights: (*const f32, [f32; M]),
    ) -> [[S::F; V]; M];
}

#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl<E: Float> Cached for E {
    #[inline(always)]
    unsafe fn round_query<S: Simd>(_query: &mut [f32]) {}

    #[inline(always)]
    unsafe fn score<S: Simd, const M: usize, const V: usize>(
        shape: &CacheShape,
        head: HeadOfPage<'_, E>,
        mut keys: [*const E; V],
        first_query: *const f32,
    ) -> [[S::F; V]; M] {
        let next = head.block_stride * (V * S::LANES).div_ceil(POSITIONS);
        let mut sums = [[S::splat(0.0); V]; M];
        // Pointers that move: an index would be checked for overflow at each use.
        let mut queries = [first_query; M];
        unrolled!(M, m => queries[m] = queries[m].wrapping_add(m.wrapping_mul(shape.padded_dim())));
        for _ in 0..shape.head_dim {
            let mut key = [S::splat(0.0); V];
            unrolled!(V, v => {
                S::prefetch(keys[v].wrapping_add(next).cast());
                S::prefetch_far(keys[v].wrapping_add(head.half).cast());
                key[v] = E::load::<S>(keys[v]);
                keys[v] = keys[v].wrapping_add(POSITIONS);
            });
            unrolled!(M, m => {
                let query = S::splat(*queries[m]);
                unrolled!(V, v => sums[m][v] = S::fma(query, key[v], sums[m][v]));
                queries[m] = queries[m].wrapping_add(1);
            });
        }
        sums
    }

    #[inline(always)]
    unsafe fn scale_weights<S: Simd>(
        _head: HeadOfPage<'_, E>,
        _position: usize,
        weights: S::F,
    ) -> S::F {
        weights
    }

    #[inline(always)]
    unsafe fn round_weights<S: Simd>(_weights: &mut [f32]) -> f32 {
        1.0
    }

    #[inline(always)]
    unsafe fn weigh<S: Simd, const M: usize, const V: usize>(
        padded_dim: usize,
        head: HeadOfPage<'_, E>,
        positions: Range<usize>,
        component: usize,
        (weights, _): (*const f32, [f32; M]),
    ) -> [[S::F; V]; M] {
        let mut sums = [[S::splat(0.0); V]; M];
        for block in positions.start / POSITIONS..positions.end.div_ceil(POSITIONS) {
            let mut values = head.block(block).1.as_ptr().add(component);
            let first = weights.add(block * POSITIONS);
            for position in 0..POSITIONS.min(positions.end - block * POSITIONS) {
                let weights = first.wrapping_add(position);
                let mut value = [S::splat(0.0); V];
                unrolled!(V, v => {
                    let at = values.wrapping_add(v * S::LANES);
                    S::prefetch(at.wrapping_add(head.block_stride).cast());
                    value[v] = E::load::<S>(at);
                });
                values = values.wrapping_add(padded_dim);
                unrolled!(M, m => {
                    let weight = S::splat(*weights.wrapping_add(m * SEGMENT));
                    unrolled!(V, v => sums[m][v] = S::fma(weight, value[v], sums[m][v]));
                });
            }
        }
        sums
    }
}

/// The most that a segment's weights may sum up to, so that the sums of their products with a
/// component of its values fit into 32 bits.
const WEIGHT_SUM_MAX: f32 = 128_000.0;
/// Rounding moves each by at most a half.
const _: () =
    assert!(VALUE_MAX as u64 * (WEIGHT_SUM_MAX as u64 + 1_000 + SEGMENT as u64) < 1 << 31);

/// 16-bit integers by twos in a word.
#[expect(unsafe_op_in_unsafe_fn, reason = "one contract for all, on the trait")]
impl Cached for i32 {
    /// To words; the last float is what one is worth.
    #[inline(always)]
    unsafe fn round_query<S: Simd>(query: &mut [f32]) {
        let unit = unit_of_vector::<S>(query);
        round_in_place::<S>(query, unit);
        query[query.len() - 1] = unit;
    }

    #[inline(always)]
    unsafe fn score<S: Simd, const M: usize, const V: usize>(
        shape: &CacheShape,
        head: HeadOfPage<'_, i32>,
        mut keys: [*const i32; V],
        first_query: *const f32,
    ) -> [[S::F; V]; M] {
        let dim = shape.padded_dim();
        let next = head.block_stride * (V * S::LANES).div_ceil(POSITIONS);
        let mut sums = [[S::splat_i32(0); V]; M];
        let mut queries = [first_query.cast::<i32>(); M];
        unrolled!(M, m => queries[m] = queries[m].wrapping_add(m.wrapping_mul(dim)));
        for _ in 0..shape.head_dim.div_ceil(2) {
            let mut key = [S::splat_i32(0); V];
            unrolled!(V, v => {
                S::prefetch(keys[v].wrapping_add(next).cast());
                S::prefetch_far(keys[v].wrapping_add(head.half).cast());
                key[v] = S::load_i32(keys[v]);
                keys[v] = keys[v].wrapping_add(POSITIONS);
            });
            unrolled!(M, m => {
                let query = S::splat_i32(*queries[m]);
                unrolled!(V, v => sums[m][v] = S::dot_pairs(sums[m][v], query, key[v]));
                queries[m] = queries[m].wrapping_add(1);
            });
        }
        let mut scores = [[S::splat(0.0); V]; M];
        let padding = (dim - shape.head_dim) / 2 * POSITIONS;
        unrolled!(V, v => {
            let unit = S::load(keys[v].wrapping_add(padding).cast());
            unrolled!(M, m => {
                let query_unit = *first_query.add((m + 1) * dim - 1);
                let unit = S::mul(unit, S::splat(query_unit));
                scores[m][v] = S::mul(S::to_f32(sums[m][v]), unit);
            });
        });
        scores
    }

    #[inline(always)]
    unsafe fn scale_weights<S: Simd>(
        head: HeadOfPage<'_, i32>,
        position: usize,
        weights: S::F,
    ) -> S::F {
        let behind = head
            .block_at(position / POSITIONS)
            .wrapping_add(2 * head.half);
        let units = behind.wrapping_sub(POSITIONS - position % POSITIONS);
        S::mul(weights, S::load(units.cast()))
    }

    /// To integers, which begin where the floats did.
    #[inline(always)]
    unsafe fn round_weights<S: Simd>(weights: &mut [f32]) -> f32 {
        let sizes = measure::<S>(weights);
        let unit = larger(sizes.sum / WEIGHT_SUM_MAX, sizes.largest / MAX);
        round_in_place::<S>(weights, unit);
        unit
    }

    #[inline(always)]
    unsafe fn weigh<S: Simd, const M: usize, const V: usize>(
        padded_dim: usize,
        head: HeadOfPage<'_, i32>,
        positions: Range<usize>,
        component: usize,
        (weights, units): (*const f32, [f32; M]),
    ) -> [[S::F; V]; M] {
        let mut sums = [[S::splat_i32(0); V]; M];
        let first_block = positions.start / POSITIONS;
        // They begin where the first block's floats did.
        let mut weights = weights.add(first_block * POSITIONS).cast::<i32>();
        for block in first_block..positions.end.div_ceil(POSITIONS) {
            let mut values = head.block(block).1.as_ptr().add(component);
            let count = POSITIONS.min(positions.end - block * POSITIONS);
            // Behind an odd last position is a weight of zero.
            for _ in 0..count.div_ceil(2) {
                let mut value = [S::splat_i32(0); V];
                unrolled!(V, v => {
                    let at = values.wrapping_add(v * S::LANES);
                    S::prefetch(at.wrapping_add(head.block_stride).cast());
                    value[v] = S::load_i32(at);
                });
                values = values.wrapping_add(padded_dim);
                unrolled!(M, m => {
                    let weight = S::splat_i32(*weights.wrapping_add(m * SEGMENT));
                    unrolled!(V, v => sums[m][v] = S::dot_pairs(sums[m][v], weight, value[v]));
                });
                weights = weights.wrapping_add(1);
            }
        }
        let mut floats = [[S::splat(0.0); V]; M];
        unrolled!(M, m => {
            let unit = S::splat(units[m]);
            unrolled!(V, v => floats[m][v] = S::mul(S::to_f32(sums[m][v]), unit));
        });
        floats
    }
}
