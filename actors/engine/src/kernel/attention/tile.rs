//! A tile of queries over one segment of positions, and the join of segments.

use std::ops::Range;

use crate::kernel::cache::{CacheFormat, Element, HeadOfPage, KvLayer, PAGE_POSITIONS, POSITIONS};
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

    pub(super) fn normalized(&self, pair: usize, out: &mut [f32]) {
        let inverse = 1.0 / self.weights[pair];
        let sums = &self.sums[pair * self.padded_dim..];
        for (out, sum) in out.iter_mut().zip(sums) {
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

/// A tile's softmax over one segment and the values it weighs.
pub(super) struct SegmentTile<'a, 's> {
    pub(super) cache: KvLayer<'a>,
    pub(super) kv_head: usize,
    pub(super) segment: usize,
    /// Queries that matter.
    pub(super) pairs: usize,
    /// Positions that each query sees, in the whole sequence.
    pub(super) visible: [Range<usize>; TILE_MAX],
    /// `(TILE_MAX, padded_dim)`, scaled.
    pub(super) queries: &'a [f32],
    /// `(TILE_MAX, SEGMENT)`
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
            }
        }
    }
}

impl SegmentTile<'_, '_> {
    #[inline(always)]
    unsafe fn over<S: Simd, E: Element>(self) {
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
    unsafe fn tile<S: Simd, E: Element, const M: usize>(mut self) {
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
            for m in 0..M {
                self.weights::<S>(m, self.seen(m, &blocks), &blocks);
            }
            self.weigh_values::<S, E, M>(head, blocks.start * POSITIONS..end);
        }
    }

    fn first_position(&self) -> usize {
        self.segment * SEGMENT
    }

    /// Scores of the given blocks, two vectors of positions at a time. Meanwhile it asks for the
    /// keys that come next, and for the values of these positions: both lie in runs of a head of
    /// a block, too short for the CPU's own prefetcher to be of use.
    #[inline(always)]
    unsafe fn score_blocks<S: Simd, E: Element, const M: usize>(
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
    unsafe fn score<S: Simd, E: Element, const M: usize, const V: usize>(
        &self,
        head: HeadOfPage<'_, E>,
        mut keys: [*const E; V],
        scores: *mut f32,
    ) {
        let dim = self.part.padded_dim;
        let next = head.block_stride * (V * S::LANES).div_ceil(POSITIONS);
        // SAFETY: the caller's; any address may be asked for.
        unsafe {
            let mut sums = [[S::splat(0.0); V]; M];
            // Pointers that move: an index would be checked for overflow at each use.
            let mut queries = [self.queries.as_ptr(); M];
            unrolled!(M, m => queries[m] = queries[m].wrapping_add(m.wrapping_mul(dim)));
            let values = dim.wrapping_mul(POSITIONS);
            for _ in 0..self.cache.shape().head_dim {
                let mut key = [S::splat(0.0); V];
                unrolled!(V, v => {
                    S::prefetch(keys[v].wrapping_add(next).cast());
                    S::prefetch_far(keys[v].wrapping_add(values).cast());
                    key[v] = E::load::<S>(keys[v]);
                    keys[v] = keys[v].wrapping_add(POSITIONS);
                });
                unrolled!(M, m => {
                    let query = S::splat(*queries[m]);
                    unrolled!(V, v => sums[m][v] = S::fma(query, key[v], sums[m][v]));
                    queries[m] = queries[m].wrapping_add(1);
                });
            }
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
    unsafe fn weights<S: Simd>(&mut self, m: usize, seen: Range<usize>, blocks: &Range<usize>) {
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
                        S::store(at.add(position + v * S::LANES), weights[v]);
                        sums.add(position + v * S::LANES, weights[v]);
                    });
                    position += 4 * S::LANES;
                    continue;
                }
                let at = at.add(position);
                let mut weights = math::exp::<S>(S::sub(S::load(at), largest));
                S::store(at, weights);
                if position < seen.start || position + S::LANES > seen.end {
                    // The exponential has no zero.
                    for lane in (0..S::LANES).filter(|lane| !seen.contains(&(position + lane))) {
                        *at.add(lane) = 0.0;
                    }
                    weights = S::load(at);
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
    unsafe fn weigh_values<S: Simd, E: Element, const M: usize>(
        &mut self,
        head: HeadOfPage<'_, E>,
        positions: Range<usize>,
    ) {
        let dim = self.part.padded_dim;
        let mut component = 0;
        while component < dim {
            // SAFETY: `run`'s contract; `dim` is a multiple of 16.
            unsafe {
                if dim - component >= 2 * S::LANES {
                    self.weigh::<S, E, M, 2>(head, positions.clone(), component);
                    component += 2 * S::LANES;
                } else {
                    self.weigh::<S, E, M, 1>(head, positions.clone(), component);
                    component += S::LANES;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn weigh<S: Simd, E: Element, const M: usize, const V: usize>(
        &mut self,
        head: HeadOfPage<'_, E>,
        positions: Range<usize>,
        component: usize,
    ) {
        let dim = self.part.padded_dim;
        let next = head.block_stride;
        // SAFETY: the caller's; any address may be asked for.
        unsafe {
            let mut sums = [[S::splat(0.0); V]; M];
            for block in positions.start / POSITIONS..positions.end.div_ceil(POSITIONS) {
                let mut values = head.block(block).1.as_ptr().add(component);
                let first = self.scores.as_ptr().add(block * POSITIONS);
                for position in 0..POSITIONS.min(positions.end - block * POSITIONS) {
                    let weights = first.wrapping_add(position);
                    let mut value = [S::splat(0.0); V];
                    unrolled!(V, v => {
                        let at = values.wrapping_add(v * S::LANES);
                        S::prefetch(at.wrapping_add(next).cast());
                        value[v] = E::load::<S>(at);
                    });
                    values = values.wrapping_add(dim);
                    unrolled!(M, m => {
                        let weight = S::splat(*weights.wrapping_add(m * SEGMENT));
                        unrolled!(V, v => sums[m][v] = S::fma(weight, value[v], sums[m][v]));
                    });
                }
            }
            for (m, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    let at = m * dim + component + v * S::LANES;
                    S::store(self.part.sums.as_mut_ptr().add(at), sum);
                }
            }
        }
    }
}
