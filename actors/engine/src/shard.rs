//! A contiguous range of a model's layers, ready to run rows.
//!
//! Keeps the books (slots, positions, what is first and last) and checks every
//! batch against them before anything is computed, so that an error leaves all
//! sequences as they were. The arithmetic is elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::device::Device;
use crate::embedding::Embedding;
use crate::error::EngineError;
use crate::file::ModelFile;
use crate::kernel::CacheFormat;
use crate::loaded::Origin;
use crate::placed::{Placed, wanted};
use crate::sample::{Draw, Sampled, sample};
use crate::spec::Spec;
use crate::stack::Stack;

/// How a shard computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputePath {
    /// The fastest path that this CPU and this model's quantisation have.
    Auto,
    /// candle's own operations.
    Portable,
}

/// How a shard is set up.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Most KV rows that a sequence may be opened with.
    pub context: usize,
    /// Threads that compute. The portable path takes candle's own pool instead.
    pub threads: usize,
    /// Which implementation runs.
    pub path: ComputePath,
    /// What computes. On a GPU it is always the portable path.
    pub device: Device,
    /// What the caches of keys and values are kept as. The portable path always
    /// keeps 32-bit floats.
    pub cache: CacheFormat,
    /// Whether the threads stay where they are put.
    pub binding: Threads,
}

/// Where compute threads run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// Where the system puts them.
    #[default]
    Free,
    /// Each worker on a core of its own; the first core is for the thread that runs
    /// the shard, which [`kernel::bind_caller`](crate::kernel::bind_caller) binds.
    Pinned,
}

impl Threads {
    /// Pinned when there is a thread for each core that this process may use. A decode
    /// step's threads sleep between steps, and a system that wakes one on the core of
    /// the other halves the speed for milliseconds. With fewer threads than cores it is
    /// the system's business which of them are free.
    pub fn for_count(threads: usize) -> Threads {
        match crate::kernel::cores_allowed() {
            Some(cores) if cores == threads && cores > 1 => Threads::Pinned,
            Some(_) | None => Threads::Free,
        }
    }
}

impl ShardOptions {
    /// Options for the CPU with the path chosen by what it can do, a cache of
    /// 32-bit floats, and threads that run where the system puts them.
    pub fn new(context: usize, threads: usize) -> ShardOptions {
        ShardOptions {
            context,
            threads,
            path: ComputePath::Auto,
            device: Device::Cpu,
            cache: CacheFormat::F32,
            binding: Threads::Free,
        }
    }
}

/// How far loading has come. The last report has `bytes_done == bytes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Decoder layers ready.
    pub layers_done: u32,
    /// Decoder layers asked for.
    pub layers_total: u32,
    /// Of the layers that are ready, those that were read; the others were in memory.
    pub layers_read: u32,
    /// Bytes of tensors ready.
    pub bytes_done: u64,
    /// Bytes of tensors asked for.
    pub bytes_total: u64,
}

/// Names one open sequence of one shard. Never reused by the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u64);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Rows of one or several sequences to run in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The rows, span after span.
    pub input: Input<'a>,
    /// Whose rows they are.
    pub spans: &'a [BatchSpan],
}

/// What enters a shard.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids, for the shard that embeds: all spans' tokens after each other.
    Tokens(&'a [u32]),
    /// Hidden rows, for every other shard: one slice per span, (rows, width) row-major.
    Hidden(&'a [&'a [f32]]),
}

/// Consecutive rows of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSpan {
    /// The sequence.
    pub slot: SlotId,
    /// Position of the first row; must be where the sequence's cache ends.
    pub position: u32,
    /// Number of rows, at least one.
    pub rows: u32,
    /// Which rows the head projects; other shards ignore it.
    pub logits: LogitRows,
}

/// Which of a span's rows are projected to logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// No row: a prefill chunk that is not the prompt's last.
    None,
    /// The last row: the next token is wanted.
    Last,
    /// Every row: scoring a text.
    All,
}

/// What leaves a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Hidden rows for the next shard: (all rows, width) in span order.
    Hidden(Vec<f32>),
    /// Logits from the last shard: (requested rows, vocabulary) in span order.
    Logits(Vec<f32>),
}

/// What a shard holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMemory {
    /// Bytes of the tensors that it keeps in memory; the embedding's table is not among them.
    pub weight_bytes: u64,
    /// As [`Shard::kv_bytes`].
    pub kv_bytes: u64,
    /// Byte ranges of the file that it has mapped at any time, sorted, before rounding to pages.
    pub mapped: Vec<Range<u64>>,
}

/// Layers `[first, end)` of one model, with the embedding if `first` is 0 and
/// the head if `end` is the model's last.
#[derive(Debug)]
pub struct Shard {
    file: Arc<ModelFile>,
    layers: Range<u32>,
    context: usize,
    embedding: Option<Embedding>,
    stack: Stack,
    slots: BTreeMap<SlotId, Slot>,
    slots_opened: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    rows: usize,
    capacity: usize,
}

impl Shard {
    /// Loads `layers` of `file`. Layers that another shard or a [`crate::KeptLayer`] of the same
    /// `file` holds are shared.
    ///
    /// # Errors
    /// [`EngineError::LayerRange`] when the range is empty or out of bounds,
    /// [`EngineError::ContextTooLong`] when the model was not made for that many rows,
    /// [`EngineError::UnsupportedQuantisation`] when a needed tensor has no implementation,
    /// [`EngineError::Device`] when the device is not there.
    pub fn load(
        file: &Arc<ModelFile>,
        layers: Range<u32>,
        options: &ShardOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Shard, EngineError> {
        let spec = file.spec();
        if layers.start >= layers.end || layers.end > spec.layers {
            return Err(EngineError::LayerRange {
                first: layers.start,
                end: layers.end,
                layers: spec.layers,
            });
        }
        check_context(options.context, spec.context_max)?;
        let mut report = Report::new(file, &layers, progress);
        let embedding = match layers.start {
            0 => Some(Embedding::new(file)?),
            _ => None,
        };
        let stack = Stack::load(file, layers.clone(), options, &mut report)?;
        Ok(Shard {
            file: Arc::clone(file),
            layers,
            context: options.context,
            stack,
            embedding,
            slots: BTreeMap::new(),
            slots_opened: 0,
        })
    }

    /// The layers that this shard runs.
    pub fn layers(&self) -> Range<u32> {
        self.layers.clone()
    }

    /// The whole model's shape.
    pub fn spec(&self) -> &Spec {
        self.file.spec()
    }

    /// Opens a sequence with room for `capacity` rows.
    ///
    /// # Errors
    /// [`EngineError::ContextTooLong`] when that is more than the shard's context, or none.
    pub fn open(&mut self, capacity: usize) -> Result<SlotId, EngineError> {
        check_context(capacity, self.context)?;
        let id = SlotId(self.slots_opened);
        self.stack.open(id, capacity)?;
        self.slots_opened += 1;
        self.slots.insert(id, Slot { rows: 0, capacity });
        Ok(id)
    }

    /// Opens a sequence with room for `capacity` rows that starts with the first `rows` rows of
    /// another, as if they had been run again. Both hold the same memory for what they share.
    ///
    /// # Errors
    /// [`EngineError::UnknownSlot`] when the other is not open, [`EngineError::PositionGap`] when
    /// it has fewer rows, [`EngineError::ContextTooLong`] as for [`Shard::open`].
    pub fn fork(
        &mut self,
        from: SlotId,
        rows: usize,
        capacity: usize,
    ) -> Result<SlotId, EngineError> {
        let source = self.slots.get(&from);
        let has = source
            .ok_or(EngineError::UnknownSlot { slot: from.0 })?
            .rows;
        if rows > has || rows > capacity {
            return Err(EngineError::PositionGap {
                slot: from.0,
                position: rows,
                rows: has.min(capacity),
            });
        }
        check_context(capacity, self.context)?;
        let id = SlotId(self.slots_opened);
        self.stack.fork(from, id, rows, capacity)?;
        self.slots_opened += 1;
        self.slots.insert(id, Slot { rows, capacity });
        Ok(id)
    }

    /// Wakes the threads that compute, for a batch that is about to come: preparing that
    /// takes about as long.
    pub fn rouse(&self) {
        self.stack.rouse();
    }

    /// Keeps the rows of a sequence for [`Shard::fork`]; it gets no more.
    pub fn retain(&mut self, slot: SlotId) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.capacity = slot.rows;
        }
    }

    /// Forgets a sequence and returns its memory, of which the shard keeps up to one context for
    /// the next. A slot that is not open is left alone.
    pub fn close(&mut self, slot: SlotId) {
        if self.slots.remove(&slot).is_some() {
            self.stack.close(slot);
        }
    }

    /// Forgets the rows of a sequence from position `rows` on, so that they can be run again.
    pub fn truncate(&mut self, slot: SlotId, rows: usize) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.rows = slot.rows.min(rows);
        }
    }

    /// Rows in a sequence's cache; `None` when it is not open.
    pub fn rows(&self, slot: SlotId) -> Option<usize> {
        self.slots.get(&slot).map(|slot| slot.rows)
    }

    /// Runs `batch` through the shard's layers and appends its rows to the caches.
    ///
    /// A sequence may appear more than once, its later span continuing the earlier one.
    ///
    /// # Errors
    /// Everything that is wrong with the batch is found before anything is computed, and every
    /// error leaves the sequences as they were.
    pub fn forward(&mut self, batch: &Batch<'_>) -> Result<Output, EngineError> {
        let placed = self.place(batch.spans)?;
        let mut hidden = self.enter(batch, &placed)?;
        self.stack.forward(&mut hidden, &placed)?;
        let output = if self.layers.end == self.spec().layers {
            Output::Logits(self.stack.project(&hidden, &wanted(&placed))?)
        } else {
            Output::Hidden(hidden)
        };
        for span in &placed {
            let slot = self.slots.get_mut(&span.slot).expect("place() found it");
            slot.rows = span.position + span.rows;
        }
        Ok(output)
    }

    /// [`sample()`] of each row of `logits` (draws, vocabulary) on the threads that compute. The
    /// memory of the logits goes into those of the next pass.
    ///
    /// # Panics
    /// When there are more draws than rows.
    pub fn sample_each(&mut self, mut logits: Vec<f32>, draws: &[Draw<'_>]) -> Vec<Sampled> {
        let rows = logits.chunks_mut(self.spec().vocabulary);
        let rows: Vec<Mutex<&mut [f32]>> = rows.map(Mutex::new).collect();
        assert!(draws.len() <= rows.len(), "a row for each draw");
        let tokens: Vec<OnceLock<Sampled>> = draws.iter().map(|_| OnceLock::new()).collect();
        self.stack.each(draws.len(), &|index| {
            let draw = &draws[index];
            let mut row = rows[index].lock().unwrap_or_else(PoisonError::into_inner);
            tokens[index]
                .get_or_init(|| sample(&mut row, &draw.params, draw.position, draw.history));
        });
        self.stack.recycle(logits);
        let tokens = tokens.into_iter().map(OnceLock::into_inner);
        tokens.map(|token| token.expect("every item ran")).collect()
    }

    /// Bytes of the caches of open sequences, rows that several share counted once. The system
    /// provides them when they are first touched.
    pub fn kv_bytes(&self) -> u64 {
        self.stack.kv_bytes()
    }

    /// What this shard holds now.
    pub fn memory(&self) -> ShardMemory {
        let mut mapped = self.stack.mapped();
        mapped.sort_by_key(|range| range.start);
        ShardMemory {
            weight_bytes: self.stack.weight_bytes(),
            kv_bytes: self.kv_bytes(),
            mapped,
        }
    }

    /// Layers that both shards hold in the same memory.
    #[cfg(test)]
    fn shared_with(&self, other: &Shard) -> usize {
        let (ours, theirs) = (self.stack.addresses(), other.stack.addresses());
        ours.iter()
            .filter(|address| theirs.contains(address))
            .count()
    }

    /// Checks each span against its sequence, counting the batch's earlier spans.
    fn place(&self, spans: &[BatchSpan]) -> Result<Vec<Placed>, EngineError> {
        let mut placed: Vec<Placed> = Vec::with_capacity(spans.len());
        for span in spans {
            let slot = self
                .slots
                .get(&span.slot)
                .ok_or(EngineError::UnknownSlot { slot: span.slot.0 })?;
            let before = placed.iter().rev().find(|other| other.slot == span.slot);
            let rows = before.map_or(slot.rows, |other| other.position + other.rows);
            let (position, count) = (span.position as usize, span.rows as usize);
            if count == 0 {
                return Err(batch_error(format!(
                    "a span of no rows for sequence {}",
                    span.slot
                )));
            }
            if position != rows {
                return Err(EngineError::PositionGap {
                    slot: span.slot.0,
                    position,
                    rows,
                });
            }
            if rows + count > slot.capacity {
                return Err(EngineError::ContextFull {
                    slot: span.slot.0,
                    needed: rows + count,
                    capacity: slot.capacity,
                });
            }
            placed.push(Placed {
                slot: span.slot,
                position,
                rows: count,
                logits: span.logits,
            });
        }
        if placed.is_empty() {
            return Err(batch_error("no spans".into()));
        }
        Ok(placed)
    }

    /// The hidden rows that the first layer starts from: (all rows, width).
    fn enter(&self, batch: &Batch<'_>, placed: &[Placed]) -> Result<Vec<f32>, EngineError> {
        let spec = self.spec();
        let total: usize = placed.iter().map(|span| span.rows).sum();
        match (batch.input, &self.embedding) {
            (Input::Tokens(tokens), Some(embedding)) => {
                if tokens.len() != total {
                    return Err(batch_error(format!(
                        "{} tokens for spans of {total} rows",
                        tokens.len()
                    )));
                }
                if let Some(&token) = tokens.iter().find(|&&t| t as usize >= spec.vocabulary) {
                    return Err(EngineError::TokenOutOfRange {
                        token,
                        vocabulary: spec.vocabulary,
                    });
                }
                let mut hidden = vec![0.0; total * spec.width];
                embedding.look_up(&self.file, tokens, &mut hidden)?;
                Ok(hidden)
            }
            (Input::Hidden(slices), None) => {
                let fits = slices.len() == placed.len()
                    && slices
                        .iter()
                        .zip(placed)
                        .all(|(slice, span)| slice.len() == span.rows * spec.width);
                if !fits {
                    return Err(batch_error(format!(
                        "hidden slices of {:?} elements for spans of {:?} rows of {}",
                        slices.iter().map(|slice| slice.len()).collect::<Vec<_>>(),
                        placed.iter().map(|span| span.rows).collect::<Vec<_>>(),
                        spec.width
                    )));
                }
                Ok(slices.concat())
            }
            (Input::Tokens(_), None) => Err(batch_error(format!(
                "tokens for a shard that starts at layer {}",
                self.layers.start
            ))),
            (Input::Hidden(_), Some(_)) => {
                Err(batch_error("hidden rows for the shard that embeds".into()))
            }
        }
    }
}

fn check_context(asked: usize, limit: usize) -> Result<(), EngineError> {
    if asked == 0 || asked > limit {
        return Err(EngineError::ContextTooLong { asked, limit });
    }
    Ok(())
}

fn batch_error(reason: String) -> EngineError {
    EngineError::Batch { reason }
}

/// Counts what is loaded and tells the caller.
pub(crate) struct Report<'a> {
    now: LoadProgress,
    tell: &'a mut dyn FnMut(LoadProgress),
}

impl<'a> Report<'a> {
    fn new(
        file: &ModelFile,
        layers: &Range<u32>,
        tell: &'a mut dyn FnMut(LoadProgress),
    ) -> Report<'a> {
        let costs = file.layer_costs();
        let mine = &costs.layers[layers.start as usize..layers.end as usize];
        let mut bytes_total: u64 = mine.iter().map(|layer| layer.weight_bytes).sum();
        if layers.end == file.spec().layers {
            bytes_total += costs.head_bytes;
        }
        let now = LoadProgress {
            layers_done: 0,
            layers_total: layers.end - layers.start,
            layers_read: 0,
            bytes_done: 0,
            bytes_total,
        };
        tell(now);
        Report { now, tell }
    }

    pub(crate) fn layer(&mut self, bytes: u64, origin: Origin) {
        self.now.layers_done += 1;
        self.now.layers_read += u32::from(origin == Origin::File);
        self.now.bytes_done += bytes;
        (self.tell)(self.now);
    }

    pub(crate) fn head(&mut self, bytes: u64) {
        self.now.bytes_done += bytes;
        (self.tell)(self.now);
    }
}

#[cfg(test)]
mod tests;
