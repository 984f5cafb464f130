//! The decoder on the engine's own kernels.
//!
//! Plain slices and buffers that are made once: a decode step allocates
//! nothing but its result, short lists of its sequences, and a page of the cache
//! now and then. The arithmetic is in [`crate::kernel`]; here is only its order.

mod block;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::EngineError;
use crate::file::ModelFile;
use crate::kernel::{
    AttentionScratch, AttentionShape, BAND_ROWS_MIN, CacheShape, KvCache, PAGE_POSITIONS, Packed,
    Pool, QuantizedRows, RowShape, Span, Stock, attention, place, place_each, rms_norm,
    rms_norm_rows,
};
use crate::loaded::Origin;
use crate::placed::{Placed, wanted};
use crate::rope::{Angles, Frequencies};
use crate::shard::{LogitRows, Report, ShardOptions, SlotId, Threads};
use crate::spec::Spec;
pub(crate) use block::{Block, Head, format};

/// Most rows that go through a layer together. More would read the weights less often, but by then
/// they are a small part of the work, and the buffers would outgrow the caches. Many threads take
/// more, so that each has a band of them.
fn pass_rows_max(threads: usize) -> usize {
    (threads * BAND_ROWS_MIN).clamp(256, 512)
}
/// Most rows that are projected together: their logits are the largest buffer of all.
const HEAD_ROWS_MAX: usize = 32;

/// The layers of one shard, the caches of its sequences, and what computes them.
#[derive(Debug)]
pub(crate) struct Stack {
    spec: Spec,
    frequencies: Frequencies,
    blocks: Vec<Arc<Block>>,
    head: Option<Arc<Head>>,
    caches: BTreeMap<SlotId, KvCache>,
    cache_shape: CacheShape,
    stock: Arc<Stock>,
    pool: Pool,
    scratch: Scratch,
}

/// Buffers that every layer uses in turn. They grow to the largest pass seen.
#[derive(Debug)]
struct Scratch {
    /// Normalised rows (rows, width).
    normed: QuantizedRows,
    /// Queries, keys and values (rows, query_width + 2 kv_width).
    projected: Vec<f32>,
    /// What attention gives (rows, query_width).
    mixed: QuantizedRows,
    /// The MLP's inner rows (rows, feed_forward).
    inner: QuantizedRows,
    /// Hidden rows that the head will project (rows, width).
    kept: Vec<f32>,
    /// Of an earlier pass, to be overwritten.
    logits: Vec<f32>,
    angles: Angles,
    attention: AttentionScratch,
}

/// A layer, shared with whoever holds it already.
pub(crate) fn load_block(
    file: &ModelFile,
    layer: u32,
) -> Result<(Arc<Block>, Origin), EngineError> {
    let load = || Block::load(file, layer);
    file.loaded().fast_blocks.get_or_load(layer, load)
}

/// The head, shared likewise.
pub(crate) fn load_head(file: &ModelFile) -> Result<Arc<Head>, EngineError> {
    let load = || Head::load(file);
    let (head, _) = file.loaded().fast_heads.get_or_load((), load)?;
    Ok(head)
}

impl Stack {
    pub(crate) fn load(
        file: &ModelFile,
        layers: Range<u32>,
        options: &ShardOptions,
        report: &mut Report<'_>,
    ) -> Result<Stack, EngineError> {
        let spec = file.spec().clone();
        let mut blocks = Vec::with_capacity(layers.len());
        for layer in layers.clone() {
            let (block, origin) = load_block(file, layer)?;
            report.layer(block.bytes(), origin);
            blocks.push(block);
        }
        let mut head = None;
        if layers.end == spec.layers {
            let loaded = load_head(file)?;
            report.head(loaded.bytes());
            head = Some(loaded);
        }
        Ok(Stack {
            frequencies: Frequencies::load(file)?,
            cache_shape: CacheShape {
                layers: blocks.len(),
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                format: options.cache,
            },
            stock: Stock::keeping(options.context.div_ceil(PAGE_POSITIONS)).into(),
            blocks,
            head,
            caches: BTreeMap::new(),
            pool: match options.binding {
                Threads::Free => Pool::new(options.threads),
                Threads::Pinned => Pool::pinned(options.threads),
            },
            scratch: Scratch::new(&spec),
            spec,
        })
    }

    pub(crate) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_deref()
    }

    pub(crate) fn rouse(&self) {
        self.blocks[0].projections.expect(&self.pool, 1);
        self.pool.rouse();
    }

    pub(crate) fn each(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        self.pool.for_each(count, &|_, item| job(item));
    }

    pub(crate) fn open(&mut self, slot: SlotId) {
        let cache = KvCache::new(self.cache_shape, &self.stock);
        self.caches.insert(slot, cache);
    }

    /// Opens a sequence that shares the first `rows` rows of another.
    pub(crate) fn fork(&mut self, from: SlotId, slot: SlotId, rows: usize) {
        let cache = self.caches[&from].fork(rows);
        self.caches.insert(slot, cache);
    }

    /// Bytes of the pages of all caches, those that several share counted once.
    pub(crate) fn kv_bytes(&self) -> u64 {
        self.stock.bytes_in_use()
    }

    pub(crate) fn close(&mut self, slot: SlotId) {
        self.caches.remove(&slot);
    }

    /// Runs `hidden` (rows, width) of `spans`, in order, through the layers in place. Before the
    /// head only the rows that it projects come out.
    pub(crate) fn forward(
        &mut self,
        hidden: &mut [f32],
        spans: &[Placed],
    ) -> Result<(), EngineError> {
        for span in spans {
            let cache = self.caches.get_mut(&span.slot);
            let cache = cache.expect("the shard checked the slot");
            let end = span.position + span.rows;
            cache
                .reserve(span.position..end)
                .map_err(|source| EngineError::CacheMemory { rows: end, source })?;
        }
        let mut rest = hidden;
        for pass in passes(spans, pass_rows_max(self.pool.threads())) {
            let rows: usize = pass.iter().map(|span| span.rows).sum();
            let (mine, others) = rest.split_at_mut(rows * self.spec.width);
            rest = others;
            self.pass(mine, &pass);
        }
        Ok(())
    }

    fn pass(&mut self, hidden: &mut [f32], spans: &[Placed]) {
        let positions = spans
            .iter()
            .flat_map(|span| span.position..span.position + span.rows);
        self.frequencies.angles(positions, &mut self.scratch.angles);
        for index in 0..self.blocks.len() {
            let block = Arc::clone(&self.blocks[index]);
            self.store(&block, index, hidden, spans);
            if self.head.is_some() && index + 1 == self.blocks.len() {
                self.finish(&block, index, hidden, spans);
            } else {
                self.attend(&block, index, hidden, spans);
                let next = self.blocks.get(index + 1).cloned();
                let next = next.as_ref().map(|next| &next.projections);
                self.transform(&block, hidden, next);
            }
        }
    }

    /// The rest of the model's last layer, of which only the rows that the head projects are
    /// read: the others had to put their keys and values into the cache, no more.
    fn finish(&mut self, block: &Block, layer: usize, hidden: &mut [f32], spans: &[Placed]) {
        let wanted = wanted(spans);
        let width = self.spec.width;
        let stride = self.spec.query_width() + 2 * self.spec.kv_width();
        let mut kept = std::mem::take(&mut self.scratch.kept);
        kept.clear();
        for (index, &row) in wanted.iter().enumerate() {
            kept.extend_from_slice(&hidden[row * width..][..width]);
            let queries = row * stride..(row + 1) * stride;
            self.scratch.projected.copy_within(queries, index * stride);
        }
        if !wanted.is_empty() {
            let spans: Vec<Placed> = spans.iter().filter_map(Placed::wanted).collect();
            self.attend(block, layer, &mut kept, &spans);
            let head = Arc::clone(self.head.as_ref().expect("it finishes"));
            self.transform(block, &mut kept, Some(&head.output));
        }
        for (&row, kept) in wanted.iter().zip(kept.chunks_exact(width)) {
            hidden[row * width..][..width].copy_from_slice(kept);
        }
        self.scratch.kept = kept;
    }

    /// Norm, projections and RoPE; keys and values go to the cache.
    fn store(&mut self, block: &Block, layer: usize, hidden: &[f32], spans: &[Placed]) {
        let (spec, scratch, pool) = (&self.spec, &mut self.scratch, &self.pool);
        let rows = hidden.len() / spec.width;
        let epsilon = spec.norm_epsilon;
        rms_norm_rows(
            pool,
            hidden,
            &block.attention_norm,
            epsilon,
            &mut scratch.normed,
        );
        quantise(&mut scratch.normed, &[&block.projections], pool);
        let (query, kv) = (spec.query_width(), spec.kv_width());
        let stride = query + 2 * kv;
        scratch.projected.resize(rows * stride, 0.0);
        block.attention_output.expect(pool, rows);
        block
            .projections
            .matmul(pool, &scratch.normed, &mut scratch.projected);

        let half = spec.head_dim / 2;
        let shape = RowShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
        };
        if let Some(caches) = one_each(&mut self.caches, spans) {
            let angles = (&scratch.angles.cos[..], &scratch.angles.sin[..]);
            return place_each(pool, shape, caches, layer, &mut scratch.projected, angles);
        }
        let mut row = 0;
        for span in spans {
            let cache = self.caches.get_mut(&span.slot);
            let cache = cache.expect("the shard checked the slot");
            let mine = row..row + span.rows;
            let projected = &mut scratch.projected[mine.start * stride..mine.end * stride];
            let angles = mine.start * half..mine.end * half;
            let angles = (
                &scratch.angles.cos[angles.clone()],
                &scratch.angles.sin[angles],
            );
            place(
                pool,
                shape,
                (cache, layer, span.position),
                projected,
                angles,
            );
            row = mine.end;
        }
    }

    /// Attention of the queries that were projected; the result joins `hidden`.
    fn attend(&mut self, block: &Block, layer: usize, hidden: &mut [f32], spans: &[Placed]) {
        let (spec, scratch, pool) = (&self.spec, &mut self.scratch, &self.pool);
        let rows = hidden.len() / spec.width;
        let caches = &self.caches;
        let spans: Vec<Span<'_>> = spans
            .iter()
            .map(|span| Span {
                cache: caches[&span.slot].layer(layer),
                position: span.position,
                rows: span.rows,
            })
            .collect();
        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            window: spec.window,
        };
        let mixed = scratch.mixed.begin(rows);
        let stride = spec.query_width() + 2 * spec.kv_width();
        let queries = (&scratch.projected[..], stride);
        attention(pool, &shape, &spans, queries, mixed, &mut scratch.attention);
        quantise(&mut scratch.mixed, &[&block.attention_output], pool);
        block.gate.expect(pool, rows);
        block
            .attention_output
            .matmul_add(pool, &scratch.mixed, hidden);
    }

    /// Norm and gated MLP; the result joins `hidden`. `next` is what is multiplied after it.
    fn transform(&mut self, block: &Block, hidden: &mut [f32], next: Option<&Packed>) {
        let (spec, scratch, pool) = (&self.spec, &mut self.scratch, &self.pool);
        let rows = hidden.len() / spec.width;
        let epsilon = spec.norm_epsilon;
        rms_norm_rows(pool, hidden, &block.mlp_norm, epsilon, &mut scratch.normed);
        quantise(&mut scratch.normed, &[&block.gate, &block.up], pool);
        let inner = scratch.inner.begin(rows);
        block.down.expect(pool, rows);
        block
            .gate
            .matmul_silu_mul(&block.up, pool, &scratch.normed, inner);
        quantise(&mut scratch.inner, &[&block.down], pool);
        if let Some(next) = next {
            next.expect(pool, rows);
        }
        block.down.matmul_add(pool, &scratch.inner, hidden);
    }

    /// Logits (wanted rows, vocabulary) of the rows of `hidden` that `wanted` lists.
    pub(crate) fn project(&mut self, hidden: &[f32], wanted: &[usize]) -> Vec<f32> {
        let head = self.head.as_ref().expect("only the last shard projects");
        let (width, vocabulary) = (self.spec.width, self.spec.vocabulary);
        let mut logits = std::mem::take(&mut self.scratch.logits);
        logits.resize(wanted.len() * vocabulary, 0.0);
        let chunks = wanted.chunks(HEAD_ROWS_MAX);
        for (rows, out) in chunks.zip(logits.chunks_mut(HEAD_ROWS_MAX * vocabulary)) {
            let normed = self.scratch.normed.begin(rows.len());
            for (&row, normed) in rows.iter().zip(normed.chunks_exact_mut(width)) {
                let row = &hidden[row * width..][..width];
                rms_norm(row, &head.norm, self.spec.norm_epsilon, normed);
            }
            quantise(&mut self.scratch.normed, &[&head.output], &self.pool);
            if self.blocks.len() == self.spec.layers as usize {
                // Nobody else's weights come between this token and the next.
                self.blocks[0].projections.expect(&self.pool, rows.len());
            }
            head.output.matmul(&self.pool, &self.scratch.normed, out);
        }
        logits
    }

    /// Keeps the memory of logits for the next ones, unless it is much.
    pub(crate) fn recycle(&mut self, logits: Vec<f32>) {
        if logits.capacity() <= HEAD_ROWS_MAX * self.spec.vocabulary {
            self.scratch.logits = logits;
        }
    }
}

impl Scratch {
    fn new(spec: &Spec) -> Scratch {
        Scratch {
            normed: QuantizedRows::new(1, spec.width),
            projected: Vec::new(),
            mixed: QuantizedRows::new(1, spec.query_width()),
            inner: QuantizedRows::new(1, spec.feed_forward),
            kept: Vec::new(),
            logits: Vec::new(),
            angles: Angles::default(),
            attention: AttentionScratch::default(),
        }
    }
}

/// Makes the 8-bit form of `rows` if one of its `readers` wants it.
fn quantise(rows: &mut QuantizedRows, readers: &[&Packed], pool: &Pool) {
    if readers.iter().any(|reader| reader.wants_quantized()) {
        rows.quantize(pool);
    }
}

/// The caches of `spans` and where their rows go, if there are several and each has one row of a
/// sequence of its own.
fn one_each<'c>(
    caches: &'c mut BTreeMap<SlotId, KvCache>,
    spans: &[Placed],
) -> Option<Vec<(&'c mut KvCache, usize)>> {
    if spans.len() < 2 || spans.iter().any(|span| span.rows != 1) {
        return None;
    }
    let slots = || spans.iter().map(|span| span.slot);
    let (first, last) = (slots().min()?, slots().max()?);
    let mut found: Vec<Option<(&mut KvCache, usize)>> = spans.iter().map(|_| None).collect();
    for (slot, cache) in caches.range_mut(first..=last) {
        let mut mine = spans.iter().zip(&mut found);
        if let Some((span, found)) = mine.find(|(span, _)| span.slot == *slot) {
            *found = Some((cache, span.position));
        }
        if mine.any(|(span, _)| span.slot == *slot) {
            return None;
        }
    }
    found.into_iter().collect()
}

/// Cuts `spans` into runs of at most `rows_max` rows.
fn passes(spans: &[Placed], rows_max: usize) -> Vec<Vec<Placed>> {
    let mut passes = vec![Vec::new()];
    let mut room = rows_max;
    for span in spans {
        let mut rest = *span;
        while rest.rows > 0 {
            if room == 0 {
                passes.push(Vec::new());
                room = rows_max;
            }
            let rows = rest.rows.min(room);
            let logits = match rest.logits {
                LogitRows::Last if rows < rest.rows => LogitRows::None,
                logits => logits,
            };
            let pass = passes.last_mut().expect("starts with one");
            pass.push(Placed {
                rows,
                logits,
                ..rest
            });
            rest.position += rows;
            rest.rows -= rows;
            room -= rows;
        }
    }
    passes
}
