//! Rows on their way through the layers: their positions, and attention to what came before.

use candle_core::{Device, Result as CandleResult, Tensor};

use super::Cache;
use super::ops::softmax;
use crate::placed::Placed;
use crate::rope::{Angles, Frequencies};
use crate::spec::Spec;

/// What all layers need to know of the rows of a pass.
pub(super) struct Rows<'a> {
    pub(super) spec: &'a Spec,
    /// (rows, 1, head_dim / 2)
    pub(super) cos: Tensor,
    /// (rows, 1, head_dim / 2)
    pub(super) sin: Tensor,
    pub(super) spans: Vec<Span<'a>>,
}

/// Consecutive rows of one sequence.
pub(super) struct Span<'a> {
    /// Which of the pass's rows is the first.
    pub(super) first: usize,
    pub(super) count: usize,
    position: usize,
    cache: &'a Cache,
    /// (count, 1, seen): what may be seen is 0, what may not is -inf; none for a single row
    /// that sees all.
    mask: Option<Tensor>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        spec: &'a Spec,
        frequencies: &Frequencies,
        spans: &[(Placed, &'a Cache)],
        device: &Device,
    ) -> CandleResult<Rows<'a>> {
        let mut angles = Angles::default();
        let positions = |(span, _): &(Placed, _)| span.position..span.position + span.rows;
        frequencies.angles(spans.iter().flat_map(positions), &mut angles);
        let count: usize = spans.iter().map(|(span, _)| span.rows).sum();
        let shape = (count, 1, spec.head_dim / 2);
        let mut first = 0;
        let spans = spans.iter().map(|(span, cache)| {
            let (position, count) = (span.position, span.rows);
            first += count;
            Ok(Span {
                first: first - count,
                count,
                position,
                cache,
                mask: mask(spec, position, count, device)?,
            })
        });
        Ok(Rows {
            spec,
            spans: spans.collect::<CandleResult<_>>()?,
            cos: Tensor::from_vec(angles.cos, shape, device)?,
            sin: Tensor::from_vec(angles.sin, shape, device)?,
        })
    }
}

impl Span<'_> {
    /// Puts keys and values into the cache of one layer and attends to all that is there:
    /// three times (count, heads or kv_heads, head_dim) -> (count, query width).
    pub(super) fn attend(
        &self,
        spec: &Spec,
        layer: usize,
        [query, key, value]: [Tensor; 3],
    ) -> CandleResult<Tensor> {
        let (count, dim, kv_heads) = (self.count, spec.head_dim, spec.kv_heads);
        let (keys, values) = &self.cache.layers[layer];
        let by_head = |rows: Tensor| rows.transpose(0, 1)?.contiguous();
        keys.slice_set(&by_head(key)?, 1, self.position)?;
        values.slice_set(&by_head(value)?, 1, self.position)?;

        let seen = self.position + count;
        let group = spec.heads / kv_heads;
        // (kv_heads, dim, seen)
        let keys = keys.narrow(1, 0, seen)?.transpose(1, 2)?;
        // (kv_heads, seen, dim)
        let values = values.narrow(1, 0, seen)?;
        // (kv_heads, count * group, dim)
        let query = query
            .reshape((count, kv_heads, group, dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((kv_heads, count * group, dim))?;
        let scores = (query.matmul(&keys)? * (1.0 / (dim as f64).sqrt()))?;
        let scores = match &self.mask {
            None => scores,
            Some(mask) => scores
                .reshape((kv_heads, count, group, seen))?
                .broadcast_add(mask)?
                .reshape((kv_heads, count * group, seen))?,
        };
        softmax(&scores)?
            .matmul(&values)?
            .reshape((kv_heads, count, group, dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((count, spec.query_width()))
    }
}

fn mask(
    spec: &Spec,
    position: usize,
    count: usize,
    device: &Device,
) -> CandleResult<Option<Tensor>> {
    let seen = position + count;
    let window = spec.window.unwrap_or(seen);
    if count == 1 && window >= seen {
        return Ok(None);
    }
    let value = |index: usize| {
        let (row, other) = (position + index / seen, index % seen);
        match other > row || other + window <= row {
            true => f32::NEG_INFINITY,
            false => 0.0,
        }
    };
    let mask: Vec<f32> = (0..count * seen).map(value).collect();
    Tensor::from_vec(mask, (count, 1, seen), device).map(Some)
}
