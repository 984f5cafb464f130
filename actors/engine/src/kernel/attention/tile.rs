//! A tile of queries over one segment of positions, and the join of segments.

use std::ops::Range;

use super::cached::Cached;
use crate::kernel::cache::{CacheFormat, HeadOfPage, KvLayer, PAGE_POSITIONS, POSITIONS};
use crate::kernel::math;
use crate::kernel::simd::{Isa, Kernel, Simd, dispatch, unrolled};

/// Positions whose softmax is computed at once: their keys, values and scores
/// stay in the second-level cache between the passes. They are those of one page.
pub(super) const SEGMENT: usize = PAGE_POSITIONS;
/// Queries of the widest tile.
pub(super) const TILE_MAX: usize = 8;

/// Per query of a tile: values weighted by `exp(score - largest)`, the largest
/// score, and the sum of those weights.
pub(super) struct State<'a> {
    /// `(TILE_MAX, padded_dim)`
    sums: &'a mut [f32],
    largest: &'a mut [f32],
    weights: &'a mut [f32],
    padded_dim: usize,
}

impl<'a> State<'a> {
    pub(super) fn new(memory: &'a mut [f32], padded_dim: usize) -> Self {
        let (sums, memory) = memory.split_at_mut(TILE_MAX * padded_dim);
        let (largest, weights) = memory.split_at_mut(TILE_MAX);
        Self {
            sums,
            largest,
            weights,
            padded_dim,
        }
    }

    /// No position seen.
    pub(super) fn clear(&mut self) {
        self.weights.fill(0.0);
    }

    /// Takes in the next segment, where a query saw any of it.
    pub(super) fn join(&mut self, isa: Isa, part: &State<'_>, pairs: usize) {
        // SAFETY: the callers detected the set.
        unsafe {
            dispatch(
                isa,
                Join {
                    joined: self,
                    part,
                    pairs,
                },
            )
        };
    }

    pub(super) fn normalize(&self, isa: Isa, pair: usize, out: &mut [f32]) {
        let sums = &self.sums[pair * self.padded_dim..];
        let weight = self.weights[pair];
        // SAFETY: the callers detected the set.
        unsafe { dispatch(isa, Normalize { sums, weight, out }) };
    }
}

struct Normalize<'a> {
    sums: &'a [f32],
    weight: f32,
    out: &'a mut [f32],
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let inverse = 1.0 / self.weight;
        for (out, sum) in self.out.iter_mut().zip(self.sums) {
            *out = sum * inverse;
        }
    }
}

struct Join<'a, 'j, 'p> {
    joined: &'a mut State<'j>,
    part: &'a State<'p>,
    pairs: usize,
}

impl Kernel for Join<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self {
            joined,
            part,
            pairs,
        } = self;
        let dim = joined.padded_dim;
        for pair in 0..pairs {
            if part.weights[pair] == 0.0 {
                continue;
            }
            let sums = joined.sums[pair * dim..(pair + 1) * dim].iter_mut();
            let sums = sums.zip(&part.sums[pair * dim..(pair + 1) * dim]);
            if joined.weights[pair] == 0.0 {
                sums.for_each(|(sum, part)| *sum = *part);
                joined.largest[pair] = part.largest[pair];
                joined.weights[pair] = part.weights[pair];
                continue;
            }
            let (ours, theirs) = (joined.largest[pair], part.largest[pair]);
            let largest = if ours > theirs { ours } else { theirs };
            // SAFETY: `run`'s contract.
            let (old, new) = unsafe { (exp::<S>(ours - largest), exp::<S>(theirs - largest)) };
            sums.for_each(|(sum, part)| *sum = *sum * old + part * new);
            joined.largest[pair] = largest;
            joined.weights[pair] = joined.weights[pair] * old + part.weights[pair] * new;
        }
    }
}

/// The vectors' exponential of one number, so that all use one.
#[inline(always)]
unsafe fn exp<S: Simd>(x: f32) -> f32 {
    let mut lanes = [0.0; 16];
    // SAFETY: the caller's contract; no set has more lanes.
    unsafe { S::store(lanes.as_mut_ptr(), math::exp::<S>(S::splat(x))) };
    lanes[0]
}

/// The vectors that hold these positions.
#[inline(always)]
fn whole_vectors<S: Simd>(positions: &Range<usize>) -> Range<usize> {
    positions.start / S::LANES * S::LANES..positions.end.next_multiple_of(S::LANES)
}

/// Puts a tile's queries, scaled, `padded_dim` apart and in the form that the cache's format wants.
pub(super) struct Gather<'a> {
    pub(super) cache: KvLayer<'a>,
    pub(super) sources: [&'a [f32]; TILE_MAX],
    pub(super) scale: f32,
    pub(super) queries: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = self.cache.shape();
        let queries = self.queries.chunks_exact_mut(shape.padded_dim());
        for (query, source) in queries.zip(self.sources) {
            let (numbers, padding) = query.split_at_mut(source.len());
            for (number, source) in numbers.iter_mut().zip(source) {
                *number = source * self.scale;
            }
            padding.fill(0.0);
            // SAFETY: `run`'s contract.
            unsafe {
                match shape.format {
                    CacheFormat::F32 => f32::round_query::<S>(query),
                    CacheFormat::F16 => u16::round_query::<S>(query),
                    CacheFormat::I16 => i32::round_query::<S>(query),
                }
            }
        }
    }
}

/// Sets those of `count` weights, the first of which is `position`'s, to zero that are not `seen`.
///
/// # Safety
/// As many weights are at `at`.
#[inline(always)]
unsafe fn hide(at: *mut f32, count: usize, position: usize, seen: &Range<usize>) {
    for place in (0..count).filter(|place| !seen.contains(&(position + place))) {
        // SAFETY: the caller's.
        unsafe { *at.add(place) = 0.0 };
    }
}

/// A tile's softmax over one segment and the values it weighs.
pub(super) struct SegmentTile<'a, 's> {
    pub(super) cache: KvLayer<'a>,
    pub(super) kv_head: usize,
    pub(super) segment: usize,
    /// Queries that matter.
    pub(super) pairs: usize,
    /// Positions that each query sees, in the whole sequence.
    pub(super) visible: [Range<usize>; TILE_MAX],
    /// `(TILE_MAX, padded_dim)`, scaled and in the form that the cache's format wants.
    pub(super) queries: &'a [f32],
    /// `(TILE_MAX, SEGMENT)`: scores, then weights in the form that the cache's format wants.
    pub(super) scores: &'a mut [f32],
    pub(super) part: &'a mut State<'s>,
}

impl Kernel for SegmentTile<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: `run`'s contract.
        unsafe {
            match self.cache.shape().format {
                CacheFormat::F32 => self.over::<S, f32>(),
                CacheFormat::F16 => self.over::<S, u16>(),
                CacheFormat::I16 => self.over::<S, i32>(),
            }
        }
    }
}

impl SegmentTile<'_, '_> {
    #[inline(always)]
    unsafe fn over<S: Simd, E: Cached>(self) {
        // SAFETY: `run`'s contract.
        unsafe {
            match self.pairs {
                0 | 1 => self.tile::<S, E, 1>(),
                2 => self.tile::<S, E, 2>(),
                3 => self.tile::<S, E, 3>(),
                4 => self.tile::<S, E, 4>(),
                _ => self.tile::<S, E, 8>(),
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, E: Cached, const M: usize>(mut self) {
        let dim = self.part.padded_dim;
        assert!(self.queries.len() >= M * dim && self.scores.len() >= M * SEGMENT);
        assert!(self.part.sums.len() >= M * dim && dim == self.cache.shape().padded_dim());
        // Blocks that anyone sees; the last query sees furthest.
        let origin = self.first_position();
        let end = self.visible[M - 1].end.min(origin + SEGMENT) - origin;
        let start = self.visible[0].start.max(origin) - origin;
        let blocks = start / POSITIONS..end.div_ceil(POSITIONS);
        let head = self.cache.head_of_page::<E>(self.segment, self.kv_head);
        // SAFETY: `run`'s contract; the sizes were asserted above.
        unsafe {
            self.score_blocks::<S, E, M>(head, blocks.clone());
            // All of the largest first: the search for one ends in a chain of waits.
            for m in 0..M {
                self.part.largest[m] = self.largest::<S>(m, &self.seen(m, &blocks));
            }
            let mut units = [0.0; M];
            for (m, unit) in units.iter_mut().enumerate() {
                self.weights::<S, E>(m, head, self.seen(m, &blocks), &blocks);
                let all = blocks.start * POSITIONS..blocks.end * POSITIONS;
                *unit = E::round_weights::<S>(&mut self.scores[m * SEGMENT..][all]);
            }
            self.weigh_values::<S, E, M>(head, blocks.start * POSITIONS..end, units);
        }
    }

    fn first_position(&self) -> usize {
        self.segment * SEGMENT
    }

    /// Scores of the given blocks, two vectors of positions at a time. Meanwhile it asks for the
    /// keys that come next, and for the values of these positions: both lie in runs of a head of
    /// a block, too short for the CPU's own prefetcher to be of use.
    #[inline(always)]
    unsafe fn score_blocks<S: Simd, E: Cached, const M: usize>(
        &mut self,
        head: HeadOfPage<'_, E>,
        blocks: Range<usize>,
    ) {
        let step = (2 * S::LANES).div_ceil(POSITIONS);
        let mut block = blocks.start;
        // SAFETY: `run`'s contract; a block has 16 positions of each component
        // and the scores a place for each position of the segment.
        unsafe {
            while block < blocks.end {
                let first = head.block(block).0.as_ptr();
                let scores = self.scores.as_mut_ptr().add(block * POSITIONS);
                if S::LANES < POSITIONS {
                    self.score::<S, E, M, 2>(head, [first, first.add(S::LANES)], scores);
                } else if block + 1 < blocks.end {
                    self.score::<S, E, M, 2>(
                        head,
                        [first, head.block(block + 1).0.as_ptr()],
                        scores,
                    );
                } else {
                    self.score::<S, E, M, 1>(head, [first], scores);
                }
                block += step;
            }
        }
    }

    #[inline(always)]
    unsafe fn score<S: Simd, E: Cached, const M: usize, const V: usize>(
        &self,
        head: HeadOfPage<'_, E>,
        keys: [*const E; V],
        scores: *mut f32,
    ) {
        let shape = self.cache.shape();
        // SAFETY: the caller's.
        unsafe {
            let sums = E::score::<S, M, V>(shape, head, keys, self.queries.as_ptr());
            for (m, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    S::store(scores.add(m * SEGMENT + v * S::LANES), sum);
                }
            }
        }
    }

    /// Positions of the segment that query `m` sees, counted from its first, within `blocks`.
    #[inline(always)]
    fn seen(&self, m: usize, blocks: &Range<usize>) -> Range<usize> {
        let first = self.first_position();
        let place = |position: usize| {
            let place = position.saturating_sub(first);
            place.clamp(blocks.start * POSITIONS, blocks.end * POSITIONS)
        };
        place(self.visible[m].start)..place(self.visible[m].end)
    }

    /// The largest score of query `m`, and minus infinity for the scores that lie in a vector
    /// with one that it sees and are none themselves.
    #[inline(always)]
    unsafe fn largest<S: Simd>(&mut self, m: usize, seen: &Range<usize>) -> f32 {
        let vectors = whole_vectors::<S>(seen);
        let scores = &mut self.scores[m * SEGMENT..(m + 1) * SEGMENT];
        scores[vectors.start..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..vectors.end].fill(f32::NEG_INFINITY);
        let scores = scores.as_ptr();
        // SAFETY: `run`'s contract; whole vectors of the scores.
        unsafe {
            let mut largest = S::splat(f32::NEG_INFINITY);
            for at in vectors.step_by(S::LANES) {
                largest = S::max(S::load(scores.add(at)), largest);
            }
            let mut lanes = [f32::NEG_INFINITY; 16];
            S::store(lanes.as_mut_ptr(), largest);
            math::pairs(lanes, |a, b| if b > a { b } else { a })
        }
    }

    /// Scores of query `m` to weights, zero where it does not see.
    #[inline(always)]
    unsafe fn weights<S: Simd, E: Cached>(
        &mut self,
        m: usize,
        head: HeadOfPage<'_, E>,
        seen: Range<usize>,
        blocks: &Range<usize>,
    ) {
        let vectors = whole_vectors::<S>(&seen);
        let scores = &mut self.scores[m * SEGMENT..(m + 1) * SEGMENT];
        scores[blocks.start * POSITIONS..vectors.start].fill(0.0);
        scores[vectors.end..blocks.end * POSITIONS].fill(0.0);
        let at = scores.as_mut_ptr();
        // SAFETY: `run`'s contract; whole vectors of the scores.
        unsafe {
            let largest = S::splat(self.part.largest[m]);
            let mut sums = math::SumBySixteen::<S>::new();
            let mut position = vectors.start;
            while position < vectors.end {
                if seen.start <= position && position + 4 * S::LANES <= seen.end {
                    let mut weights = [largest; 4];
                    unrolled!(4, v => {
                        let at = at.add(position + v * S::LANES);
                        weights[v] = S::sub(S::load(at), largest);
                    });
                    weights = math::exp_each::<S, 4>(weights);
                    unrolled!(4, v => {
                        let position = position + v * S::LANES;
                        sums.add(position, weights[v]);
                        S::store(at.add(position), E::scale_weights::<S>(head, position, weights[v]));
                    });
                    position += 4 * S::LANES;
                    continue;
                }
                let at = at.add(position);
                let mut weights = math::exp::<S>(S::sub(S::load(at), largest));
                if position < seen.start || position + S::LANES > seen.end {
                    // The exponential has no zero, and what scales it there may be anything.
                    S::store(at, weights);
                    hide(at, S::LANES, position, &seen);
                    weights = S::load(at);
                    S::store(at, E::scale_weights::<S>(head, position, weights));
                    hide(at, S::LANES, position, &seen);
                } else {
                    S::store(at, E::scale_weights::<S>(head, position, weights));
                }
                sums.add(position, weights);
                position += S::LANES;
            }
            self.part.weights[m] = sums.total();
        }
    }

    /// Values times weights, position by position: those from the first of a block to the last
    /// that anyone sees. What lies behind may be another sequence's.
    #[inline(always)]
    unsafe fn weigh_values<S: Simd, E: Cached, const M: usize>(
        &mut self,
        head: HeadOfPage<'_, E>,
        positions: Range<usize>,
        units: [f32; M],
    ) {
        let dim = self.part.padded_dim;
        let mut component = 0;
        while component < dim {
            // SAFETY: `run`'s contract; `dim` is a multiple of 16.
            unsafe {
                if dim - component >= 2 * S::LANES {
                    self.weigh::<S, E, M, 2>(head, positions.clone(), component, units);
                    component += 2 * S::LANES;
                } else {
                    self.weigh::<S, E, M, 1>(head, positions.clone(), component, units);
                    component += S::LANES;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn weigh<S: Simd, E: Cached, const M: usize, const V: usize>(
        &mut self,
        head: HeadOfPage<'_, E>,
        positions: Range<usize>,
        component: usize,
        units: [f32; M],
    ) {
        let dim = self.part.padded_dim;
        // SAFETY: the caller's.
        unsafe {
            let weights = (self.scores.as_ptr(), units);
            let sums = E::weigh::<S, M, V>(dim, head, positions, component, weights);
            for (m, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = m * dim + component + v * S::LANES;
                    S::store(self.part.sums.as_mut_ptr().add(at), sum);
                }
            }
        }
    }
}
