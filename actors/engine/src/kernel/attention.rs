//! Attention of a chunk of queries over the cache of their sequence: causal,
//! grouped heads, optionally within a sliding window.
//!
//! Scores never reach memory beyond one segment of positions per thread. The
//! softmax of a segment is exact; segments are joined as in Milakov and
//! Gimelshein, "Online normalizer calculation for softmax" (2018). Segments
//! lie at fixed positions, so that neither the chunk, nor the batch, nor the
//! number of threads, nor who computed which segment shows in the result.

use super::bands::Bands;
use super::cache::{KvLayer, POSITIONS};
use super::pool::Pool;
use super::share::Disjoint;
use super::simd::{Isa, dispatch};

mod cached;
mod tile;

use tile::{Gather, SEGMENT, SegmentTile, State, TILE_MAX};

/// The heads of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// What dot products are multiplied with, `head_dim^-0.5` as a rule.
    pub scale: f32,
    /// How many positions a query sees, itself included; `None` is all.
    pub window: Option<usize>,
}

/// Consecutive rows of one sequence. Keys and values of all of them are in the
/// cache already.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The sequence's cache of this layer.
    pub cache: KvLayer<'a>,
    /// The first row's position; the next rows follow it.
    pub position: usize,
    /// How many.
    pub rows: usize,
}

/// Reusable memory of [`attention`]: grows to what it has seen.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// Per thread.
    workers: Vec<Vec<f32>>,
    /// Results of single segments, where one tile is shared by threads.
    partial: Vec<f32>,
}

/// Rows of one key head that share a pass over its keys and values.
#[derive(Clone, Copy)]
struct Task<'a> {
    span: Span<'a>,
    /// The span's first row in the batch.
    first_row: usize,
    kv_head: usize,
    /// Of the `span.rows * group` pairs of row and head, the first and count.
    first_pair: usize,
    pairs: usize,
}

/// `out = softmax(q k^T * scale) v` for each head: `q` is rows of `q_stride`
/// floats that begin with `(heads, head_dim)`; `out` is `(n, heads,
/// head_dim)`. Rows are those of `spans`, first to last.
///
/// # Panics
/// When shapes do not fit, or a span reaches past its cache.
pub fn attention(
    pool: &Pool,
    shape: &AttentionShape,
    spans: &[Span<'_>],
    (q, q_stride): (&[f32], usize),
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    attention_on(
        Isa::detect(),
        pool,
        shape,
        spans,
        (q, q_stride),
        out,
        scratch,
    );
}

fn attention_on(
    isa: Isa,
    pool: &Pool,
    shape: &AttentionShape,
    spans: &[Span<'_>],
    (q, q_stride): (&[f32], usize),
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    check(shape, spans, (q, q_stride), out);
    let rows = spans.iter().map(|span| span.rows).sum();
    let run = Run {
        isa,
        shape,
        spans,
        q,
        q_stride,
        out: Disjoint::new(out),
        padded_dim: shape.head_dim.next_multiple_of(POSITIONS),
        bands: Bands::new(rows, pool.threads()).count(),
    };
    let tasks = run.task_count();
    scratch
        .workers
        .resize_with(pool.threads().max(scratch.workers.len()), Vec::new);
    let worker_len = run.worker_len();
    for worker in &mut scratch.workers {
        worker.resize(worker_len.max(worker.len()), 0.0);
    }
    let segments_most = spans
        .iter()
        .map(|span| run.segments_of(span))
        .max()
        .unwrap_or(0);
    if pool.threads() > 1 && segments_most > 1 && tasks < 4 * pool.threads() {
        run.split(pool, scratch, tasks, segments_most);
    } else {
        let workers = Disjoint::new(&mut scratch.workers);
        pool.for_each(tasks, &|worker, task| {
            // SAFETY: no two running items share a worker.
            let memory = unsafe { &mut workers.slice(worker, 1)[0] };
            run.whole(&run.task(task), memory);
        });
    }
}

fn check(shape: &AttentionShape, spans: &[Span<'_>], (q, q_stride): (&[f32], usize), out: &[f32]) {
    let width = shape.heads * shape.head_dim;
    assert!(
        shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
        "{shape:?}"
    );
    assert!(shape.window != Some(0), "a query sees itself");
    let n: usize = spans.iter().map(|span| span.rows).sum();
    assert!(
        q_stride >= width,
        "a row of queries is shorter than its heads"
    );
    assert!(
        n == 0 || q.len() >= (n - 1) * q_stride + width,
        "fewer queries than rows"
    );
    assert_eq!(out.len(), n * width, "outputs of the rows");
    for span in spans {
        let cache = span.cache.shape();
        let cache = (cache.kv_heads, cache.head_dim);
        assert_eq!(
            cache,
            (shape.kv_heads, shape.head_dim),
            "heads of the cache"
        );
        assert!(
            span.position + span.rows <= span.cache.positions(),
            "rows past the cache"
        );
    }
}

/// One call under way, shared by the threads.
struct Run<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    spans: &'a [Span<'a>],
    q: &'a [f32],
    q_stride: usize,
    out: Disjoint<'a, f32>,
    padded_dim: usize,
    /// Parts of the tiles, one for each thread's rows.
    bands: usize,
}

impl Run<'_> {
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    fn tile(&self) -> usize {
        self.isa.lanes() / 2
    }

    fn tiles_of(&self, span: &Span<'_>) -> usize {
        (span.rows * self.group()).div_ceil(self.tile())
    }

    /// Segments from the start of the cache to the span's last row.
    fn segments_of(&self, span: &Span<'_>) -> usize {
        (span.position + span.rows).div_ceil(SEGMENT)
    }

    fn task_count(&self) -> usize {
        let tiles: usize = self.spans.iter().map(|span| self.tiles_of(span)).sum();
        tiles * self.shape.kv_heads
    }

    /// Tasks of a band follow each other, in a band those of a span, and of a span those that share
    /// keys.
    fn task(&self, index: usize) -> Task<'_> {
        let tiles: usize = self.spans.iter().map(|span| self.tiles_of(span)).sum();
        let edge = |band| tiles * band / self.bands;
        let mut left = index;
        for band in 0..self.bands {
            let (mut first_tile, mut first_row) = (0, 0);
            for span in self.spans {
                let end_tile = first_tile + self.tiles_of(span);
                let first = first_tile.max(edge(band));
                let count = end_tile.min(edge(band + 1)).saturating_sub(first);
                if left < count * self.shape.kv_heads {
                    let first_pair = (first - first_tile + left % count) * self.tile();
                    return Task {
                        span: *span,
                        first_row,
                        kv_head: left / count,
                        first_pair,
                        pairs: self.tile().min(span.rows * self.group() - first_pair),
                    };
                }
                left -= count * self.shape.kv_heads;
                first_row += span.rows;
                first_tile = end_tile;
            }
        }
        unreachable!("`index` is below `task_count`")
    }

    /// Floats of one [`State`]: sums of a tile, largest scores, weights.
    fn state_len(&self) -> usize {
        TILE_MAX * (self.padded_dim + 2)
    }

    /// Queries, scores, the state of a segment, and the joined state.
    fn worker_len(&self) -> usize {
        TILE_MAX * (self.padded_dim + SEGMENT) + 2 * self.state_len()
    }

    /// A task from its first segment to its last.
    fn whole(&self, task: &Task<'_>, memory: &mut [f32]) {
        let (queries, memory) = memory.split_at_mut(TILE_MAX * self.padded_dim);
        let (scores, memory) = memory.split_at_mut(TILE_MAX * SEGMENT);
        let (part, memory) = memory.split_at_mut(self.state_len());
        let joined = &mut memory[..self.state_len()];
        let (mut part, mut joined) = (self.state(part), self.state(joined));
        self.gather(task, queries);
        joined.clear();
        for segment in self.visible_segments(task) {
            self.segment(task, segment, queries, scores, &mut part);
            joined.join(self.isa, &part, task.pairs);
        }
        self.scatter(task, &joined);
    }

    /// Few tasks over many segments, as in decode: threads take segments.
    fn split(&self, pool: &Pool, scratch: &mut AttentionScratch, tasks: usize, segments: usize) {
        let state_len = self.state_len();
        let partial_len = tasks * segments * state_len;
        if scratch.partial.len() < partial_len {
            // Past the present need, so that a growing context seldom grows it.
            scratch.partial.resize(partial_len.next_power_of_two(), 0.0);
        }
        let partial = Disjoint::new(&mut scratch.partial);
        let workers = Disjoint::new(&mut scratch.workers);
        pool.for_each(tasks * segments, &|worker, item| {
            let (task, segment) = (self.task(item / segments), item % segments);
            if !self.visible_segments(&task).contains(&segment) {
                return;
            }
            // SAFETY: no two running items share a worker; items are disjoint.
            let (memory, part) = unsafe {
                (
                    &mut workers.slice(worker, 1)[0],
                    partial.slice(item * state_len, state_len),
                )
            };
            let (queries, memory) = memory.split_at_mut(TILE_MAX * self.padded_dim);
            self.gather(&task, queries);
            self.segment(&task, segment, queries, memory, &mut self.state(part));
        });
        for index in 0..tasks {
            let task = self.task(index);
            // SAFETY: the threads are done.
            let joined = unsafe { &mut workers.slice(0, 1)[0] };
            let mut joined = self.state(&mut joined[..state_len]);
            joined.clear();
            for segment in self.visible_segments(&task) {
                let item = index * segments + segment;
                // SAFETY: the threads are done.
                let part = unsafe { partial.slice(item * state_len, state_len) };
                joined.join(self.isa, &self.state(part), task.pairs);
            }
            self.scatter(&task, &joined);
        }
    }

    fn state<'s>(&self, memory: &'s mut [f32]) -> State<'s> {
        State::new(memory, self.padded_dim)
    }

    /// First visible and one past the last visible position of a pair.
    fn visible(&self, task: &Task<'_>, pair: usize) -> std::ops::Range<usize> {
        let end = task.span.position + (task.first_pair + pair) / self.group() + 1;
        end.saturating_sub(self.shape.window.unwrap_or(usize::MAX))..end
    }

    fn visible_segments(&self, task: &Task<'_>) -> std::ops::Range<usize> {
        let first = self.visible(task, 0).start;
        let end = self.visible(task, task.pairs - 1).end;
        first / SEGMENT..end.div_ceil(SEGMENT)
    }

    /// Row of the batch and head of a pair.
    fn row_and_head(&self, task: &Task<'_>, pair: usize) -> (usize, usize) {
        let pair = task.first_pair + pair;
        let head = task.kv_head * self.group() + pair % self.group();
        (task.first_row + pair / self.group(), head)
    }

    /// The tile's queries, scaled, `padded_dim` apart. Places without a pair
    /// repeat the last: computed along, never looked at.
    fn gather(&self, task: &Task<'_>, queries: &mut [f32]) {
        let head_dim = self.shape.head_dim;
        let sources = std::array::from_fn(|place| {
            let (row, head) = self.row_and_head(task, place.min(task.pairs - 1));
            &self.q[row * self.q_stride + head * head_dim..][..head_dim]
        });
        let gather = Gather {
            cache: task.span.cache,
            sources,
            scale: self.shape.scale,
            queries,
        };
        // SAFETY: the detected set is available.
        unsafe { dispatch(self.isa, gather) };
    }

    fn segment(
        &self,
        task: &Task<'_>,
        segment: usize,
        queries: &[f32],
        scores: &mut [f32],
        part: &mut State<'_>,
    ) {
        let last = task.pairs - 1;
        let visible = std::array::from_fn(|place| self.visible(task, place.min(last)));
        let tile = SegmentTile {
            cache: task.span.cache,
            kv_head: task.kv_head,
            segment,
            pairs: task.pairs,
            visible,
            queries,
            scores,
            part,
        };
        // SAFETY: the detected set is available; slices carry their lengths.
        unsafe { dispatch(self.isa, tile) };
    }

    fn scatter(&self, task: &Task<'_>, joined: &State<'_>) {
        let (heads, head_dim) = (self.shape.heads, self.shape.head_dim);
        for pair in 0..task.pairs {
            let (row, head) = self.row_and_head(task, pair);
            // SAFETY: each row and head belongs to one task.
            let out = unsafe { self.out.slice((row * heads + head) * head_dim, head_dim) };
            joined.normalize(self.isa, pair, out);
        }
    }
}

#[cfg(test)]
mod tests;
