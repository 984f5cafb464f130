//! Puts rows at their positions: rotates queries and keys, and stores keys and
//! values in the cache.
//!
//! Rows are shared out by the cache's blocks, so that no two threads write one; single rows of
//! several sequences one by one, as each has a cache of its own.

use super::cache::{KvCache, PAGE_POSITIONS, POSITIONS, Writer};
use super::elementwise::{RopePairs, rope};
use super::pool::Pool;
use super::share::Disjoint;

/// Below this many rows, the work is smaller than waking a worker.
const ROWS_MIN: usize = 16;

/// A row of queries, keys and values: `(heads + 2 * kv_heads, head_dim)`.
#[derive(Clone, Copy, Debug)]
pub struct RowShape {
    /// Query heads.
    pub heads: usize,
    /// Key heads, and value heads.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
}

impl RowShape {
    fn len(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Rotates the queries and keys of `rows`, `(n, row)`, in place and stores keys
/// and values in a layer of `cache` from `position` on. `cos` and `sin` are `(n, pairs)`.
///
/// # Panics
/// When lengths do not fit or the positions are not reserved.
pub fn place(
    pool: &Pool,
    shape: RowShape,
    (cache, layer, position): (&mut KvCache, usize, usize),
    rows: &mut [f32],
    (cos, sin): (&[f32], &[f32]),
) {
    let row_len = shape.len();
    assert!(rows.len().is_multiple_of(row_len), "whole rows");
    let n = rows.len() / row_len;
    if n == 0 {
        return;
    }
    assert!(cos.len().is_multiple_of(n), "angles of each row");
    let pairs = cos.len() / n;
    let (mut done, mut rest) = (0, rows);
    while done < n {
        let (page, within) = (
            (position + done) / PAGE_POSITIONS,
            (position + done) % PAGE_POSITIONS,
        );
        let count = (n - done).min(PAGE_POSITIONS - within);
        let (mine, others) = rest.split_at_mut(count * row_len);
        let angles = done * pairs..(done + count) * pairs;
        let angles = (&cos[angles.clone()], &sin[angles]);
        let writer = cache.writer(layer, page);
        place_in_page(pool, shape, (&writer, within), mine, angles);
        (done, rest) = (done + count, others);
    }
}

/// As [`place`], for rows of one page and a position in it.
fn place_in_page(
    pool: &Pool,
    shape: RowShape,
    (writer, position): (&Writer<'_>, usize),
    rows: &mut [f32],
    (cos, sin): (&[f32], &[f32]),
) {
    let row_len = shape.len();
    let n = rows.len() / row_len;
    let pairs = cos.len() / n;
    let rows = Disjoint::new(rows);
    let block = |index: usize| {
        let begin = (position / POSITIONS + index) * POSITIONS;
        for at in begin.max(position)..(begin + POSITIONS).min(position + n) {
            let index = at - position;
            let angles = index * pairs..(index + 1) * pairs;
            // SAFETY: a position belongs to one block and a block to one item.
            unsafe {
                let row = rows.slice(index * row_len, row_len);
                put(shape, row, (&cos[angles.clone()], &sin[angles]), writer, at);
            }
        }
    };
    let blocks = (position + n).div_ceil(POSITIONS) - position / POSITIONS;
    if n < ROWS_MIN {
        (0..blocks).for_each(block);
    } else {
        pool.for_each(blocks, &|_, index| block(index));
    }
}

/// Rotates one row and stores its keys and values at a position of the writer's page.
///
/// # Safety
/// As [`Writer::write`].
unsafe fn put(
    shape: RowShape,
    row: &mut [f32],
    (cos, sin): (&[f32], &[f32]),
    writer: &Writer<'_>,
    position: usize,
) {
    let queries_len = shape.heads * shape.head_dim;
    let keys_len = shape.kv_heads * shape.head_dim;
    let (rotated, values) = row.split_at_mut(queries_len + keys_len);
    rope(RopePairs::Adjacent, rotated, shape.head_dim, cos, sin);
    // SAFETY: the caller's.
    unsafe { writer.write(position, &rotated[queries_len..], values) };
}

/// As [`place`], for one row of each of several sequences, at a position of its own.
///
/// # Panics
/// As [`place`]; when there are not as many rows as caches.
pub fn place_each(
    pool: &Pool,
    shape: RowShape,
    caches: Vec<(&mut KvCache, usize)>,
    layer: usize,
    rows: &mut [f32],
    (cos, sin): (&[f32], &[f32]),
) {
    let (n, row_len) = (caches.len(), shape.len());
    assert_eq!(rows.len(), n * row_len, "a row for each cache");
    let pairs = cos.len() / n.max(1);
    let writers: Vec<(Writer<'_>, usize)> = caches
        .into_iter()
        .map(|(cache, position)| {
            let writer = cache.writer(layer, position / PAGE_POSITIONS);
            (writer, position % PAGE_POSITIONS)
        })
        .collect();
    let rows = Disjoint::new(rows);
    pool.for_each(n, &|_, index| {
        let (writer, position) = &writers[index];
        let angles = index * pairs..(index + 1) * pairs;
        // SAFETY: each item has its own row, and its own cache: they were borrowed for writing.
        unsafe {
            let row = rows.slice(index * row_len, row_len);
            put(
                shape,
                row,
                (&cos[angles.clone()], &sin[angles]),
                writer,
                *position,
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cache::{CacheFormat, CacheShape, Stock};

    #[test]
    fn threads_and_chunks_leave_no_trace() {
        let shape = RowShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 6,
        };
        let numbers = |n: usize| (0..n).map(|i| (i * 7 % 23) as f32 * 0.3 - 3.0);
        // Across the end of a page.
        let (first, n) = (PAGE_POSITIONS - 21, 53);
        let (cos, sin): (Vec<f32>, Vec<f32>) = (
            numbers(n * 3).map(f32::cos).collect(),
            numbers(n * 3).map(f32::sin).collect(),
        );
        let run = |threads: usize, chunk: usize| {
            let pool = Pool::new(threads);
            let cache = CacheShape {
                layers: 2,
                kv_heads: 2,
                head_dim: 6,
                format: CacheFormat::F32,
            };
            let mut cache = KvCache::new(cache, &Stock::default().into());
            cache.reserve(0..first + n).expect("memory");
            let mut rows: Vec<f32> = numbers(n * shape.len()).collect();
            for (index, rows) in rows.chunks_mut(chunk * shape.len()).enumerate() {
                let angles = index * chunk * 3..index * chunk * 3 + rows.len() / shape.len() * 3;
                let at = (&mut cache, 1, first + index * chunk);
                place(&pool, shape, at, rows, (&cos[angles.clone()], &sin[angles]));
            }
            let layer = cache.layer(1);
            let stored: Vec<f32> = [(0, 0), (0, 1), (1, 0), (1, 1)]
                .map(|(page, head)| layer.head_of_page::<f32>(page, head))
                .iter()
                .flat_map(|head| (0..PAGE_POSITIONS / POSITIONS).map(|block| head.block(block)))
                .flat_map(|(keys, values)| [keys, values].concat())
                .collect();
            (rows, stored)
        };
        let whole = run(1, n);
        for (threads, chunk) in [(1, 1), (1, 20), (3, n), (3, 17)] {
            assert!(run(threads, chunk) == whole, "{threads} {chunk}");
        }
    }

    #[test]
    fn a_row_of_each_sequence_is_placed_as_alone() {
        let shape = RowShape {
            heads: 2,
            kv_heads: 1,
            head_dim: 6,
        };
        let format = CacheShape {
            layers: 2,
            kv_heads: 1,
            head_dim: 6,
            format: CacheFormat::F32,
        };
        let positions = [3, PAGE_POSITIONS, 15, 0, 40];
        let numbers = |n: usize| (0..n).map(|i| (i * 7 % 23) as f32 * 0.3 - 3.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = (
            numbers(positions.len() * 3).map(f32::cos).collect(),
            numbers(positions.len() * 3).map(f32::sin).collect(),
        );
        let run = |together: bool| {
            let pool = Pool::new(3);
            let mut caches = positions.map(|position| {
                let mut cache = KvCache::new(format, &Stock::default().into());
                cache.reserve(0..position + 1).expect("memory");
                cache
            });
            let mut rows: Vec<f32> = numbers(positions.len() * shape.len()).collect();
            let each = caches.iter_mut().zip(positions);
            if together {
                place_each(&pool, shape, each.collect(), 1, &mut rows, (&cos, &sin));
            } else {
                for (index, (cache, position)) in each.enumerate() {
                    let row = &mut rows[index * shape.len()..][..shape.len()];
                    let angles = (&cos[index * 3..][..3], &sin[index * 3..][..3]);
                    place(&pool, shape, (cache, 1, position), row, angles);
                }
            }
            let stored: Vec<f32> = caches
                .iter()
                .zip(positions)
                .flat_map(|(cache, position)| {
                    let head = cache
                        .layer(1)
                        .head_of_page::<f32>(position / PAGE_POSITIONS, 0);
                    let (keys, values) = head.block(position % PAGE_POSITIONS / POSITIONS);
                    [keys, values].concat()
                })
                .collect();
            (rows, stored)
        };
        assert!(run(true) == run(false));
    }
}
