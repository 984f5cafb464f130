//! The decoder in candle's own tensor operations, on any candle device.
//!
//! The oracle for the kernels and the way onto other devices; not fast. On a
//! CPU each row is computed alone, because candle's matrix product rounds
//! differently for different row counts and the same row must give the same
//! bits in every batch. On a GPU that would cost too much: there all rows of a
//! batch are computed together, and what they were together with shows in the
//! last bits.

mod block;
mod load;
mod ops;
pub(crate) mod probe;
mod rows;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{Device, Module, Result as CandleResult, Tensor};

pub(crate) use block::Block;

use crate::error::{ComputeContext, EngineError};
use crate::file::ModelFile;
use crate::loaded::Origin;
use crate::placed::Placed;
use crate::rope::Frequencies;
use crate::shard::{Report, SlotId};
use crate::spec::Spec;
use crate::weights::MappedTensors;
use load::{Loader, check_room, held_bytes};
use ops::rms_norm;
use rows::Rows;

/// Rows that are projected at once on a GPU: each has a logit for every word.
const PROJECTED_ROWS_MAX: usize = 64;

/// The final norm and the projection to the vocabulary.
#[derive(Debug)]
pub(crate) struct Head {
    norm: Tensor,
    output: QMatMul,
    epsilon: f64,
    mapped: Vec<Range<u64>>,
    file_bytes: u64,
    held_bytes: u64,
}

/// The layers of one shard and the caches of its sequences.
#[derive(Debug)]
pub(crate) struct Stack {
    spec: Spec,
    frequencies: Frequencies,
    blocks: Vec<Arc<Block>>,
    head: Option<Arc<Head>>,
    caches: BTreeMap<SlotId, Cache>,
    device: Device,
}

/// Keys and values of one sequence, per layer (kv_heads, capacity, head_dim).
#[derive(Debug)]
struct Cache {
    layers: Vec<(Tensor, Tensor)>,
}

impl Head {
    fn load(file: &ModelFile, device: &Device) -> Result<Head, EngineError> {
        let layout = file.layout();
        let tensors = [&layout.output_norm, &layout.output];
        let map = MappedTensors::map(file, &tensors)?;
        let loader = Loader { map: &map, device };
        Ok(Head {
            norm: loader.vector(&layout.output_norm)?,
            output: loader.matrix(&layout.output)?,
            epsilon: f64::from(file.spec().norm_epsilon),
            mapped: map.ranges(),
            file_bytes: tensors.iter().map(|t| t.bytes.unwrap_or(0)).sum(),
            held_bytes: tensors.iter().map(|t| held_bytes(t)).sum(),
        })
    }

    /// Logits (rows, vocabulary) of hidden rows (rows, width).
    fn project(&self, rows: Vec<f32>) -> CandleResult<Vec<f32>> {
        let width = self.norm.dim(0)?;
        let shape = (rows.len() / width, width);
        let x = Tensor::from_vec(rows, shape, self.norm.device())?;
        let normed = rms_norm(&x, &self.norm, self.epsilon)?;
        self.output.forward(&normed)?.flatten_all()?.to_vec1()
    }

    /// Bytes that it takes where it was loaded to.
    pub(crate) fn bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(crate) fn mapped(&self) -> &[Range<u64>] {
        &self.mapped
    }
}

/// A layer on a device, shared with whoever holds it already.
pub(crate) fn load_block(
    file: &ModelFile,
    layer: u32,
    on: crate::Device,
) -> Result<(Arc<Block>, Origin), EngineError> {
    let load = || Block::load(file, layer, &on.open()?);
    file.loaded().portable_blocks.get_or_load((on, layer), load)
}

/// The head on a device, shared likewise.
pub(crate) fn load_head(file: &ModelFile, on: crate::Device) -> Result<Arc<Head>, EngineError> {
    let load = || Head::load(file, &on.open()?);
    let (head, _) = file.loaded().portable_heads.get_or_load(on, load)?;
    Ok(head)
}

impl Stack {
    pub(crate) fn load(
        file: &ModelFile,
        layers: Range<u32>,
        on: crate::Device,
        report: &mut Report<'_>,
    ) -> Result<Stack, EngineError> {
        let spec = file.spec().clone();
        let device = on.open()?;
        check_room(file, &layers, on)?;
        let mut blocks = Vec::with_capacity(layers.len());
        for layer in layers.clone() {
            let (block, origin) = load_block(file, layer, on)?;
            report.layer(block.file_bytes(), origin);
            blocks.push(block);
        }
        let mut head = None;
        if layers.end == spec.layers {
            let loaded = load_head(file, on)?;
            report.head(loaded.file_bytes);
            head = Some(loaded);
        }
        Ok(Stack {
            spec,
            frequencies: Frequencies::load(file)?,
            blocks,
            head,
            caches: BTreeMap::new(),
            device,
        })
    }

    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_deref()
    }

    /// Logits (wanted rows, vocabulary) of the rows of `hidden` that `wanted` lists.
    pub(crate) fn project(
        &self,
        hidden: &[f32],
        wanted: &[usize],
    ) -> Result<Vec<f32>, EngineError> {
        let head = self.head.as_ref().expect("only the last shard projects");
        let width = self.spec.width;
        let at_once = if self.device.is_cpu() {
            1
        } else {
            PROJECTED_ROWS_MAX
        };
        let mut logits = Vec::with_capacity(wanted.len() * self.spec.vocabulary);
        for wanted in wanted.chunks(at_once) {
            let rows = wanted.iter().map(|&row| &hidden[row * width..][..width]);
            let rows = rows.collect::<Vec<_>>().concat();
            logits.extend(head.project(rows).during("head")?);
        }
        Ok(logits)
    }

    pub(crate) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    pub(crate) fn open(&mut self, slot: SlotId, capacity: usize) -> Result<(), EngineError> {
        let shape = (self.spec.kv_heads, capacity, self.spec.head_dim);
        let zeros = || Tensor::zeros(shape, candle_core::DType::F32, &self.device);
        let layer = |_| Ok((zeros()?, zeros()?));
        let layers: CandleResult<Vec<_>> = (0..self.blocks.len()).map(layer).collect();
        let layers = layers.during("KV cache")?;
        self.caches.insert(slot, Cache { layers });
        Ok(())
    }

    /// Opens a sequence with a copy of the first `rows` rows of another: candle's operations
    /// take a cache as one tensor, so its pages could not be shared.
    pub(crate) fn fork(
        &mut self,
        from: SlotId,
        slot: SlotId,
        rows: usize,
        capacity: usize,
    ) -> Result<(), EngineError> {
        self.open(slot, capacity)?;
        if rows == 0 {
            return Ok(());
        }
        let copy = |from: &Tensor, to: &Tensor| {
            to.slice_set(&from.narrow(1, 0, rows)?.contiguous()?, 1, 0)
        };
        let pairs = self.caches[&from].layers.iter();
        let mut pairs = pairs.zip(&self.caches[&slot].layers);
        let copied = pairs.try_for_each(|(from, to)| {
            copy(&from.0, &to.0)?;
            copy(&from.1, &to.1)
        });
        copied.during("KV cache")
    }

    /// Bytes of all caches, as large as their sequences may grow.
    pub(crate) fn kv_bytes(&self) -> u64 {
        let layers = self.caches.values().flat_map(|cache| &cache.layers);
        let numbers = layers.map(|(keys, values)| keys.elem_count() + values.elem_count());
        (numbers.sum::<usize>() * size_of::<f32>()) as u64
    }

    pub(crate) fn close(&mut self, slot: SlotId) {
        self.caches.remove(&slot);
    }

    /// Runs `hidden` (rows, width) of `spans`, in order, through the layers in place.
    pub(crate) fn forward(
        &mut self,
        hidden: &mut [f32],
        spans: &[Placed],
    ) -> Result<(), EngineError> {
        if !self.device.is_cpu() {
            return self.run(hidden, spans);
        }
        let alone = spans.iter().flat_map(|span| {
            (0..span.rows).map(|index| Placed {
                position: span.position + index,
                rows: 1,
                ..*span
            })
        });
        let mut rows = hidden.chunks_mut(self.spec.width).zip(alone);
        rows.try_for_each(|(row, span)| self.run(row, &[span]))
    }

    fn run(&self, hidden: &mut [f32], spans: &[Placed]) -> Result<(), EngineError> {
        let caches = spans.iter().map(|span| {
            let cache = self.caches.get(&span.slot);
            (*span, cache.expect("the shard checked the slot"))
        });
        let caches: Vec<_> = caches.collect();
        let rows = Rows::new(&self.spec, &self.frequencies, &caches, &self.device);
        let rows = rows.during("positions")?;
        let shape = (hidden.len() / self.spec.width, self.spec.width);
        let x = Tensor::from_slice(hidden, shape, &self.device);
        let mut x = x.during("hidden rows")?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block
                .forward(&x, &rows, index)
                .during(format!("layer {index} of the shard"))?;
        }
        let values = x.flatten_all().and_then(|x| x.to_vec1::<f32>());
        hidden.copy_from_slice(&values.during("hidden rows")?);
        Ok(())
    }
}
