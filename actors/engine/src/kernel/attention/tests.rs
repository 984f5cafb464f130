//! Oracle: the formula in `f64`. Everything else is bit equality.

use std::sync::Arc;

use super::{AttentionScratch, AttentionShape, Span, attention, attention_on};
use crate::kernel::{CacheFormat, CacheShape, Isa, KvCache, PAGE_POSITIONS, Pool, Stock};

fn number(i: usize, seed: usize) -> f32 {
    ((i * 7919 + seed * 104_729 + i * i % 641) % 2003) as f32 / 400.0 - 2.5
}

struct Case {
    shape: AttentionShape,
    format: CacheFormat,
    len: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
}

impl Case {
    fn new(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        window: Option<usize>,
        len: usize,
    ) -> Self {
        let scale = 1.0 / (head_dim as f32).sqrt();
        let numbers = |n, seed| (0..n).map(|i| number(i, seed)).collect();
        Self {
            shape: AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale,
                window,
            },
            format: CacheFormat::F32,
            len,
            keys: numbers(len * kv_heads * head_dim, 1),
            values: numbers(len * kv_heads * head_dim, 2),
            queries: numbers(len * heads * head_dim, 3),
        }
    }

    /// Of keys and values that half precision holds, kept in it.
    fn in_halves(mut self) -> Self {
        let halve = |numbers: Vec<f32>| {
            let numbers = numbers.into_iter();
            numbers.map(|x| half::f16::from_f32(x).to_f32()).collect()
        };
        self.format = CacheFormat::F16;
        self.keys = halve(self.keys);
        self.values = halve(self.values);
        self
    }

    /// Kept in integers.
    fn in_integers(mut self) -> Self {
        self.format = CacheFormat::I16;
        self
    }

    /// What the loops cover: tails of every kind, one and several segments,
    /// windows within, at and across segments.
    fn all() -> Vec<Self> {
        vec![
            Self::new(1, 1, 4, None, 1),
            Self::new(3, 1, 20, None, 18),
            Self::new(9, 3, 64, None, 70),
            Self::new(9, 3, 64, Some(16), 70),
            Self::new(4, 2, 80, None, 600),
            Self::new(2, 2, 16, Some(300), 700),
            Self::new(8, 1, 32, Some(1), 40),
            Self::new(3, 1, 20, None, 18).in_halves(),
            Self::new(4, 2, 80, Some(300), 600).in_halves(),
            Self::new(1, 1, 4, None, 1).in_integers(),
            Self::new(9, 3, 64, None, 70).in_integers(),
            Self::new(3, 1, 21, None, 600).in_integers(),
            Self::new(4, 2, 80, Some(300), 600).in_integers(),
        ]
    }

    fn cache(&self, rows: usize) -> KvCache {
        self.cache_from(&Arc::default(), rows)
    }

    /// Of pages from `stock`.
    fn cache_from(&self, stock: &Arc<Stock>, rows: usize) -> KvCache {
        let shape = CacheShape {
            layers: 1,
            kv_heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
            format: self.format,
        };
        let mut cache = KvCache::new(shape, stock);
        cache.reserve(0..rows).expect("memory");
        let width = self.shape.kv_heads * self.shape.head_dim;
        let rows = self
            .keys
            .chunks(width)
            .zip(self.values.chunks(width))
            .take(rows);
        for (position, (keys, values)) in rows.enumerate() {
            cache.write(0, position, keys, values);
        }
        cache
    }

    fn exact(&self, position: usize) -> Vec<f64> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            window,
        } = self.shape;
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let mut out = Vec::new();
        for head in 0..heads {
            let query = &self.queries[(position * heads + head) * head_dim..][..head_dim];
            let kv = |of: &[f32], at: usize, i: usize| {
                f64::from(of[(at * kv_heads + head / (heads / kv_heads)) * head_dim + i])
            };
            let score = |at| {
                let terms = (0..head_dim).map(|i| f64::from(query[i]) * kv(&self.keys, at, i));
                terms.sum::<f64>() * f64::from(scale)
            };
            let weights: Vec<f64> = (first..=position).map(|at| score(at).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..head_dim).map(|i| {
                let terms = weights.iter().enumerate();
                terms
                    .map(|(at, w)| w / sum * kv(&self.values, first + at, i))
                    .sum::<f64>()
            }));
        }
        out
    }

    /// Chunk by chunk, the cache holding no more than the chunk's rows.
    fn run(&self, pool: &Pool, chunk: usize) -> Vec<f32> {
        self.run_from(&Arc::default(), pool, chunk)
    }

    fn run_from(&self, stock: &Arc<Stock>, pool: &Pool, chunk: usize) -> Vec<f32> {
        self.run_on(Isa::detect(), stock, pool, chunk)
    }

    fn run_on(&self, isa: Isa, stock: &Arc<Stock>, pool: &Pool, chunk: usize) -> Vec<f32> {
        let width = self.shape.heads * self.shape.head_dim;
        let mut scratch = AttentionScratch::default();
        let mut out = vec![f32::NAN; self.len * width];
        for (index, out) in out.chunks_mut(chunk * width).enumerate() {
            let (position, rows) = (index * chunk, out.len() / width);
            let cache = self.cache_from(stock, position + rows);
            let spans = [Span {
                cache: cache.layer(0),
                position,
                rows,
            }];
            let q = (&self.queries[position * width..], width);
            attention_on(isa, pool, &self.shape, &spans, q, out, &mut scratch);
        }
        out
    }
}

#[test]
fn attention_is_the_formula() {
    let pool = Pool::new(2);
    for case in Case::all() {
        let out = case.run(&pool, case.len);
        let width = case.shape.heads * case.shape.head_dim;
        for (position, out) in out.chunks(width).enumerate() {
            for (i, (out, exact)) in out.iter().zip(case.exact(position)).enumerate() {
                // Values are within 2.5: weights are good to a few units of the
                // scores' rounding, which grows with their size (below 100).
                let most = match case.format {
                    CacheFormat::F32 | CacheFormat::F16 => 1e-4,
                    // A score is off by some 30,000th of it, and a value by as much.
                    CacheFormat::I16 => 1e-3,
                };
                let off = (f64::from(*out) - exact).abs();
                assert!(
                    off <= most,
                    "{:?} {position} [{i}]: {out} for {exact}",
                    case.shape
                );
            }
        }
    }
}

#[test]
fn chunks_and_threads_leave_no_trace() {
    let pools = [1, 2, 5].map(Pool::new);
    for case in Case::all() {
        let reference = case.run(&pools[0], case.len);
        for pool in &pools {
            for chunk in [1, 7, 64, case.len] {
                if case.len > 100 && chunk < 64 && pool.threads() != 2 {
                    continue;
                }
                let out = case.run(pool, chunk);
                let same = out
                    .iter()
                    .zip(&reference)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(
                    same,
                    "{:?} threads={} chunk={chunk}",
                    case.shape,
                    pool.threads()
                );
            }
        }
    }
}

#[test]
fn the_instruction_set_leaves_no_trace() {
    let pool = Pool::new(2);
    for case in Case::all() {
        let reference = case.run(&pool, case.len);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let out = case.run_on(isa, &Arc::default(), &pool, case.len);
            let same = out
                .iter()
                .zip(&reference)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{isa:?} {:?} {:?}", case.format, case.shape);
        }
    }
}

#[test]
fn sequences_of_one_batch_do_not_see_each_other() {
    let case = Case::new(9, 3, 64, None, 300);
    let width = 9 * 64;
    let alone = case.run(&Pool::new(1), case.len);
    let stride = width + 5;
    // (position, rows): few rows, which threads share, and enough for a band of them each.
    for spans in [
        vec![(299, 1), (0, 4), (280, 3)],
        vec![(299, 1), (0, 130), (100, 90), (280, 3)],
    ] {
        let caches: Vec<KvCache> = spans
            .iter()
            .map(|&(position, rows)| case.cache(position + rows))
            .collect();
        let positions: Vec<usize> = spans
            .iter()
            .flat_map(|&(position, rows)| position..position + rows)
            .collect();
        let mut q = vec![f32::NAN; positions.len() * stride];
        for (row, &position) in positions.iter().enumerate() {
            let query = &case.queries[position * width..][..width];
            q[row * stride..][..width].copy_from_slice(query);
        }
        let spans: Vec<Span<'_>> = spans
            .iter()
            .zip(&caches)
            .map(|(&(position, rows), cache)| Span {
                cache: cache.layer(0),
                position,
                rows,
            })
            .collect();
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads);
            let mut out = vec![f32::NAN; positions.len() * width];
            let scratch = &mut AttentionScratch::default();
            attention(&pool, &case.shape, &spans, (&q, stride), &mut out, scratch);
            for (row, &position) in positions.iter().enumerate() {
                assert_eq!(
                    &out[row * width..][..width],
                    &alone[position * width..][..width],
                    "row {row}, {threads} threads"
                );
            }
        }
    }
}

/// Products as large as their lengths allow, and weights that all meet the largest values.
#[test]
fn integers_do_not_overflow() {
    let pool = Pool::new(1);
    for head_dim in [2, 16, 64, 512] {
        let mut case = Case::new(1, 1, head_dim, None, 300).in_integers();
        case.shape.scale = 1.0 / head_dim as f32;
        case.queries.fill(3.0);
        let width = head_dim;
        for (position, (key, value)) in case
            .keys
            .chunks_mut(width)
            .zip(case.values.chunks_mut(width))
            .enumerate()
        {
            // One position in each segment is looked at, after as many as came before it.
            let sign = if position % 256 == 40 { 1.0 } else { -1.0 };
            key.fill(3.0 * sign);
            value.fill(2.0 * sign);
        }
        let out = case.run(&pool, case.len);
        for (position, row) in out.chunks(width).enumerate() {
            let sees = match position {
                0..40 => 0,
                40..296 => 1,
                _ => 2,
            };
            // exp(9) to exp(-9)
            let (one, others) = (
                f64::from(sees),
                f64::from(position as u32 + 1) - f64::from(sees),
            );
            let share = one / (one + others * (-18f64).exp());
            let exact = 2.0 * share - 2.0 * (1.0 - share);
            let off = row.iter().map(|out| (f64::from(*out) - exact).abs());
            assert!(off.fold(0.0, f64::max) < 1e-3, "{head_dim}, {position}");
        }
    }
}

#[test]
fn a_rewritten_position_replaces_the_old() {
    let case = Case::new(2, 1, 16, None, 20);
    let mut cache = case.cache(20);
    let width = 16;
    cache.write(0, 19, &[9.0; 16], &[9.0; 16]);
    cache.write(0, 19, &case.keys[19 * width..], &case.values[19 * width..]);
    let mut out = vec![0.0; 2 * width];
    let spans = [Span {
        cache: cache.layer(0),
        position: 19,
        rows: 1,
    }];
    let q = (&case.queries[19 * 2 * width..], 2 * width);
    attention(
        &Pool::new(1),
        &case.shape,
        &spans,
        q,
        &mut out,
        &mut AttentionScratch::default(),
    );
    assert_eq!(out, case.run(&Pool::new(1), 20)[19 * 2 * width..]);
}

#[test]
#[should_panic(expected = "rows past the cache")]
fn a_span_past_its_cache_is_refused() {
    let case = Case::new(1, 1, 4, None, 2);
    let cache = case.cache(2);
    let spans = [Span {
        cache: cache.layer(0),
        position: 256,
        rows: 1,
    }];
    let scratch = &mut AttentionScratch::default();
    attention(
        &Pool::new(1),
        &case.shape,
        &spans,
        (&[0.0; 4], 4),
        &mut [0.0; 4],
        scratch,
    );
}

#[test]
fn what_a_page_held_before_leaves_no_trace() {
    let pool = Pool::new(2);
    for case in Case::all() {
        let pages = case.len.div_ceil(PAGE_POSITIONS);
        let stock = Arc::new(Stock::keeping(pages));
        let mut full = case.cache_from(&stock, pages * PAGE_POSITIONS);
        let nothing = vec![f32::NAN; case.shape.kv_heads * case.shape.head_dim];
        for position in 0..pages * PAGE_POSITIONS {
            full.write(0, position, &nothing, &nothing);
        }
        drop(full);
        for chunk in [1, 7, case.len] {
            let right = case.run(&pool, chunk);
            assert_eq!(case.run_from(&stock, &pool, chunk), right, "{chunk}");
        }
    }
}
