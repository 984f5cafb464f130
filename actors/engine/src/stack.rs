//! One of the two decoders, behind one set of calls.
//!
//! Chooses nothing: the shard's options do.

use std::ops::Range;

use crate::error::EngineError;
use crate::file::ModelFile;
use crate::kept::{Place, place};
use crate::placed::Placed;
use crate::shard::{Report, ShardOptions, SlotId};
use crate::{fast, portable};

/// The layers of a shard and the caches of its sequences.
#[derive(Debug)]
pub(crate) enum Stack {
    Fast(Box<fast::Stack>),
    Portable(Box<portable::Stack>),
}

impl Stack {
    pub(crate) fn load(
        file: &ModelFile,
        layers: Range<u32>,
        options: &ShardOptions,
        report: &mut Report<'_>,
    ) -> Result<Stack, EngineError> {
        Ok(match place(options)? {
            Place::Fast => Stack::Fast(Box::new(fast::Stack::load(file, layers, options, report)?)),
            Place::Portable(device) => {
                let stack = portable::Stack::load(file, layers, device, report)?;
                Stack::Portable(Box::new(stack))
            }
        })
    }

    pub(crate) fn rouse(&self) {
        match self {
            Stack::Fast(stack) => stack.rouse(),
            // Its threads are candle's.
            Stack::Portable(_) => {}
        }
    }

    /// Calls `job` once for every item below `count`, several at once where threads are ours.
    pub(crate) fn each(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        match self {
            Stack::Fast(stack) => stack.each(count, job),
            Stack::Portable(_) => (0..count).for_each(job),
        }
    }

    pub(crate) fn open(&mut self, slot: SlotId, capacity: usize) -> Result<(), EngineError> {
        match self {
            Stack::Fast(stack) => {
                stack.open(slot);
                Ok(())
            }
            Stack::Portable(stack) => stack.open(slot, capacity),
        }
    }

    /// Opens a sequence that starts with the first `rows` rows of another.
    pub(crate) fn fork(
        &mut self,
        from: SlotId,
        slot: SlotId,
        rows: usize,
        capacity: usize,
    ) -> Result<(), EngineError> {
        match self {
            Stack::Fast(stack) => {
                stack.fork(from, slot, rows);
                Ok(())
            }
            Stack::Portable(stack) => stack.fork(from, slot, rows, capacity),
        }
    }

    pub(crate) fn close(&mut self, slot: SlotId) {
        match self {
            Stack::Fast(stack) => stack.close(slot),
            Stack::Portable(stack) => stack.close(slot),
        }
    }

    /// Runs `hidden` (rows, width) of `spans`, in order, through the layers in place. Before the
    /// head only the rows that it projects need come out.
    pub(crate) fn forward(
        &mut self,
        hidden: &mut [f32],
        spans: &[Placed],
    ) -> Result<(), EngineError> {
        match self {
            Stack::Fast(stack) => stack.forward(hidden, spans),
            Stack::Portable(stack) => stack.forward(hidden, spans),
        }
    }

    /// Logits (wanted rows, vocabulary) of the rows of `hidden` that `wanted` lists.
    pub(crate) fn project(
        &mut self,
        hidden: &[f32],
        wanted: &[usize],
    ) -> Result<Vec<f32>, EngineError> {
        match self {
            Stack::Fast(stack) => Ok(stack.project(hidden, wanted)),
            Stack::Portable(stack) => stack.project(hidden, wanted),
        }
    }

    /// Takes logits that nobody needs any more.
    pub(crate) fn recycle(&mut self, logits: Vec<f32>) {
        match self {
            Stack::Fast(stack) => stack.recycle(logits),
            Stack::Portable(_) => {}
        }
    }

    /// Bytes of the caches.
    pub(crate) fn kv_bytes(&self) -> u64 {
        match self {
            Stack::Fast(stack) => stack.kv_bytes(),
            Stack::Portable(stack) => stack.kv_bytes(),
        }
    }

    /// Bytes of the tensors of its layers and head.
    pub(crate) fn weight_bytes(&self) -> u64 {
        match self {
            Stack::Fast(stack) => {
                let blocks: u64 = stack.blocks().iter().map(|block| block.bytes()).sum();
                blocks + stack.head().map_or(0, fast::Head::bytes)
            }
            Stack::Portable(stack) => {
                let blocks: u64 = stack.blocks().iter().map(|block| block.bytes()).sum();
                blocks + stack.head().map_or(0, portable::Head::bytes)
            }
        }
    }

    /// Byte ranges of the file that its layers and head were read from.
    pub(crate) fn mapped(&self) -> Vec<Range<u64>> {
        let mut mapped = Vec::new();
        match self {
            Stack::Fast(stack) => {
                mapped.extend(
                    stack
                        .blocks()
                        .iter()
                        .flat_map(|block| block.mapped())
                        .cloned(),
                );
                mapped.extend(stack.head().iter().flat_map(|head| head.mapped()).cloned());
            }
            Stack::Portable(stack) => {
                mapped.extend(
                    stack
                        .blocks()
                        .iter()
                        .flat_map(|block| block.mapped())
                        .cloned(),
                );
                mapped.extend(stack.head().iter().flat_map(|head| head.mapped()).cloned());
            }
        }
        mapped
    }

    /// Where each layer's weights are, to tell whether two shards share them.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Vec<usize> {
        use std::sync::Arc;
        match self {
            Stack::Fast(stack) => stack
                .blocks()
                .iter()
                .map(|b| Arc::as_ptr(b).addr())
                .collect(),
            Stack::Portable(stack) => stack
                .blocks()
                .iter()
                .map(|b| Arc::as_ptr(b).addr())
                .collect(),
        }
    }
}
