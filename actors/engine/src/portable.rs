//! The decoder in candle's own tensor operations, on any candle device.
//!
//! The oracle for the kernels and the way onto other devices; not fast. On a
//! CPU each row is computed alone, because candle's matrix product rounds
//! differently for different row counts and the same row must give the same
//! bits in every batch. On a GPU that would cost too much: there the rows of a
//! span are computed together, and where a prompt is cut shows in the last bits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{D, Device, Module, Result as CandleResult, Tensor};

use crate::error::{ComputeContext, EngineError};
use crate::file::ModelFile;
use crate::gguf::TensorInfo;
use crate::loaded::Origin;
use crate::rope::{Angles, Frequencies};
use crate::shard::{Placed, Report, SlotId};
use crate::spec::Spec;
use crate::weights::MappedTensors;

/// One decoder layer's weights.
#[derive(Debug)]
pub(crate) struct Block {
    attention_norm: Tensor,
    query: QMatMul,
    key: QMatMul,
    value: QMatMul,
    attention_output: QMatMul,
    mlp_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
    mapped: Vec<Range<u64>>,
    bytes: u64,
}

/// The final norm and the projection to the vocabulary.
#[derive(Debug)]
pub(crate) struct Head {
    norm: Tensor,
    output: QMatMul,
    epsilon: f64,
    mapped: Vec<Range<u64>>,
    bytes: u64,
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

/// Keys and values of one sequence, per layer (capacity, kv_heads, head_dim).
#[derive(Debug)]
struct Cache {
    layers: Vec<(Tensor, Tensor)>,
}

/// Loads tensors out of a mapping onto a device.
struct Loader<'a> {
    map: &'a MappedTensors,
    device: &'a Device,
}

impl Loader<'_> {
    fn quantised(&self, tensor: &TensorInfo) -> Result<QTensor, EngineError> {
        let kind = tensor
            .kind
            .candle()
            .ok_or_else(|| EngineError::UnsupportedQuantisation {
                tensor: tensor.name.clone(),
                quantisation: tensor.kind.to_string(),
            })?;
        // The file lists the fastest-varying dimension first, candle last.
        let shape: Vec<usize> = tensor
            .dimensions
            .iter()
            .rev()
            .map(|&n| n as usize)
            .collect();
        let bytes = Cow::Borrowed(self.map.bytes(tensor));
        QStorage::from_data(bytes, self.device, kind)
            .and_then(|storage| QTensor::new(storage, shape))
            .during(&tensor.name)
    }

    fn matrix(&self, tensor: &TensorInfo) -> Result<QMatMul, EngineError> {
        QMatMul::from_qtensor(self.quantised(tensor)?).during(&tensor.name)
    }

    fn vector(&self, tensor: &TensorInfo) -> Result<Tensor, EngineError> {
        self.quantised(tensor)?
            .dequantize(self.device)
            .during(&tensor.name)
    }
}

impl Block {
    pub(crate) fn load(
        file: &ModelFile,
        layer: u32,
        device: &Device,
    ) -> Result<Block, EngineError> {
        let tensors = &file.layout().layers[layer as usize];
        let map = MappedTensors::map(file, &tensors.all())?;
        let loader = Loader { map: &map, device };
        Ok(Block {
            attention_norm: loader.vector(&tensors.attention_norm)?,
            query: loader.matrix(&tensors.query)?,
            key: loader.matrix(&tensors.key)?,
            value: loader.matrix(&tensors.value)?,
            attention_output: loader.matrix(&tensors.attention_output)?,
            mlp_norm: loader.vector(&tensors.mlp_norm)?,
            gate: loader.matrix(&tensors.gate)?,
            up: loader.matrix(&tensors.up)?,
            down: loader.matrix(&tensors.down)?,
            mapped: map.ranges(),
            bytes: tensors.all().iter().map(|t| t.bytes.unwrap_or(0)).sum(),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// (rows, width) -> (rows, width), the rows being consecutive positions of one sequence.
    fn forward(
        &self,
        x: &Tensor,
        rows: &Rows<'_>,
        cache: &(Tensor, Tensor),
    ) -> CandleResult<Tensor> {
        let epsilon = f64::from(rows.spec.norm_epsilon);
        let normed = rms_norm(x, &self.attention_norm, epsilon)?;
        let x = (x + self.attention(&normed, rows, cache)?)?;
        let normed = rms_norm(&x, &self.mlp_norm, epsilon)?;
        let gate = self.gate.forward(&normed)?;
        let up = self.up.forward(&normed)?;
        x + self.down.forward(&(gate.silu()? * up)?)?
    }

    fn attention(
        &self,
        x: &Tensor,
        rows: &Rows<'_>,
        (keys, values): &(Tensor, Tensor),
    ) -> CandleResult<Tensor> {
        let spec = rows.spec;
        let (count, dim) = (rows.count, spec.head_dim);
        let query = self.query.forward(x)?.reshape((count, spec.heads, dim))?;
        let key = self.key.forward(x)?.reshape((count, spec.kv_heads, dim))?;
        let value = self
            .value
            .forward(x)?
            .reshape((count, spec.kv_heads, dim))?;
        let query = rows.rotate(&query)?;
        keys.slice_set(&rows.rotate(&key)?, 0, rows.position)?;
        values.slice_set(&value.contiguous()?, 0, rows.position)?;

        let seen = rows.position + count;
        let group = spec.heads / spec.kv_heads;
        // (kv_heads, dim, seen)
        let keys = keys.narrow(0, 0, seen)?.permute((1, 2, 0))?.contiguous()?;
        // (kv_heads, seen, dim)
        let values = values.narrow(0, 0, seen)?.transpose(0, 1)?.contiguous()?;
        // (kv_heads, count * group, dim)
        let query = query
            .reshape((count, spec.kv_heads, group, dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((spec.kv_heads, count * group, dim))?;
        let scores = (query.matmul(&keys)? * (1.0 / (dim as f64).sqrt()))?;
        let scores = match &rows.mask {
            None => scores,
            Some(mask) => scores
                .reshape((spec.kv_heads, count, group, seen))?
                .broadcast_add(mask)?
                .reshape((spec.kv_heads, count * group, seen))?,
        };
        let mixed = softmax(&scores)?.matmul(&values)?;
        let mixed = mixed
            .reshape((spec.kv_heads, count, group, dim))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((count, spec.query_width()))?;
        self.attention_output.forward(&mixed)
    }
}

impl Head {
    pub(crate) fn load(file: &ModelFile, device: &Device) -> Result<Head, EngineError> {
        let layout = file.layout();
        let tensors = [&layout.output_norm, &layout.output];
        let map = MappedTensors::map(file, &tensors)?;
        let loader = Loader { map: &map, device };
        Ok(Head {
            norm: loader.vector(&layout.output_norm)?,
            output: loader.matrix(&layout.output)?,
            epsilon: f64::from(file.spec().norm_epsilon),
            mapped: map.ranges(),
            bytes: tensors.iter().map(|t| t.bytes.unwrap_or(0)).sum(),
        })
    }

    /// Appends the logits of one hidden row (width) to `logits` (vocabulary each).
    fn project(&self, row: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        let project = || {
            let x = Tensor::from_slice(row, (1, row.len()), self.norm.device())?;
            let normed = rms_norm(&x, &self.norm, self.epsilon)?;
            self.output
                .forward(&normed)?
                .flatten_all()?
                .to_vec1::<f32>()
        };
        logits.extend(project().during("head")?);
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
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
        let mut blocks = Vec::with_capacity(layers.len());
        for layer in layers.clone() {
            let (block, origin) = load_block(file, layer, on)?;
            report.layer(block.bytes(), origin);
            blocks.push(block);
        }
        let mut head = None;
        if layers.end == spec.layers {
            let loaded = load_head(file, on)?;
            report.head(loaded.bytes());
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
        let mut logits = Vec::with_capacity(wanted.len() * self.spec.vocabulary);
        for &row in wanted {
            let start = row * self.spec.width;
            head.project(&hidden[start..start + self.spec.width], &mut logits)?;
        }
        Ok(logits)
    }

    pub(crate) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    pub(crate) fn open(&mut self, slot: SlotId, capacity: usize) -> Result<(), EngineError> {
        let shape = (capacity, self.spec.kv_heads, self.spec.head_dim);
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
        let copy = |from: &Tensor, to: &Tensor| to.slice_set(&from.narrow(0, 0, rows)?, 0, 0);
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
        let width = self.spec.width;
        let mut rest = hidden;
        for span in spans {
            let (mine, others) = rest.split_at_mut(span.rows * width);
            rest = others;
            let step = if self.device.is_cpu() { 1 } else { span.rows };
            for (index, chunk) in mine.chunks_mut(step * width).enumerate() {
                self.run(chunk, span.slot, span.position + index * step)?;
            }
        }
        Ok(())
    }

    fn run(&self, chunk: &mut [f32], slot: SlotId, position: usize) -> Result<(), EngineError> {
        let cache = self.caches.get(&slot).expect("the shard checked the slot");
        let count = chunk.len() / self.spec.width;
        let rows = Rows::new(self, position, count).during("RoPE")?;
        let shape = (count, self.spec.width);
        let mut x = Tensor::from_slice(chunk, shape, &self.device).during("hidden rows")?;
        for (index, (block, cache)) in self.blocks.iter().zip(&cache.layers).enumerate() {
            x = block
                .forward(&x, &rows, cache)
                .during(format!("layer {index} of the shard"))?;
        }
        let values = x.flatten_all().and_then(|x| x.to_vec1::<f32>());
        chunk.copy_from_slice(&values.during("hidden rows")?);
        Ok(())
    }
}

impl Block {
    pub(crate) fn mapped(&self) -> &[Range<u64>] {
        &self.mapped
    }
}

/// What all layers need to know about some consecutive rows of one sequence.
struct Rows<'a> {
    spec: &'a Spec,
    position: usize,
    count: usize,
    /// (count, 1, head_dim / 2, 1)
    cos: Tensor,
    /// (count, 1, head_dim / 2, 1)
    sin: Tensor,
    /// (count, 1, seen): what may be seen is 0, what may not is -inf; none for a single row that sees all.
    mask: Option<Tensor>,
}

impl<'a> Rows<'a> {
    fn new(stack: &'a Stack, position: usize, count: usize) -> CandleResult<Rows<'a>> {
        let mut angles = Angles::default();
        stack
            .frequencies
            .angles(position..position + count, &mut angles);
        let shape = (count, 1, stack.spec.head_dim / 2, 1);
        let seen = position + count;
        let window = stack.spec.window.unwrap_or(seen);
        let hidden = |index: usize| {
            let (row, other) = (position + index / seen, index % seen);
            other > row || other + window <= row
        };
        let mask: Option<Vec<f32>> = (count > 1 || window < seen).then(|| {
            let value = |index| {
                if hidden(index) {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            };
            (0..count * seen).map(value).collect()
        });
        Ok(Rows {
            spec: &stack.spec,
            position,
            count,
            cos: Tensor::from_vec(angles.cos, shape, &stack.device)?,
            sin: Tensor::from_vec(angles.sin, shape, &stack.device)?,
            mask: match mask {
                None => None,
                Some(mask) => Some(Tensor::from_vec(mask, (count, 1, seen), &stack.device)?),
            },
        })
    }

    /// Rotates adjacent pairs: (count, heads, head_dim) -> the same.
    fn rotate(&self, x: &Tensor) -> CandleResult<Tensor> {
        let (count, heads, dim) = x.dims3()?;
        let pairs = x.reshape((count, heads, dim / 2, 2))?;
        let (a, b) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?);
        let first = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let second = (a.broadcast_mul(&self.sin)? + b.broadcast_mul(&self.cos)?)?;
        Tensor::cat(&[first, second], 3)?.reshape((count, heads, dim))
    }
}

fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> CandleResult<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + epsilon)?.sqrt()?)?
        .broadcast_mul(weight)
}

fn softmax(x: &Tensor) -> CandleResult<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}
