//! Runs a range of one language model's layers on one device.
//!
//! No async, no network, no printing, and no clock but to measure speed: bytes and rows in, rows and
//! logits out. Whatever the split of the layers, the chunks of a prompt, the
//! batch or the number of threads, the same rows give the same bits: every
//! output element is reduced in one fixed order.
//!
//! The way in: [`ModelFile::open`] reads a GGUF header; [`Shard::load`] maps and
//! loads a range of layers; [`Shard::open`] gives a sequence its KV cache;
//! [`Shard::forward`] runs a [`Batch`] of rows; [`sample()`] picks a token.

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(missing_docs)]

mod device;
mod embedding;
mod error;
mod fast;
mod file;
mod gguf;
mod kept;
#[expect(
    unsafe_code,
    reason = "intrinsics, threads and mapped memory; each use says why it is sound"
)]
pub mod kernel;
mod layout;
mod loaded;
mod placed;
mod portable;
pub mod probe;
mod rope;
mod sample;
mod shard;
mod spec;
mod stack;
mod stopwatch;
mod template;
pub mod throughput;
mod tokenizer;
mod weights;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;

pub use device::{Accelerator, AcceleratorMemory, Device};
pub use error::EngineError;
pub use file::{LayerCost, LayerCosts, ModelFile};
pub use gguf::TensorType;
pub use kept::KeptLayer;
pub use kernel::CacheFormat;
pub use sample::{Draw, Sampled, SamplerParams, sample};
pub use shard::{
    Batch, BatchSpan, ComputePath, Input, LoadProgress, LogitRows, Output, Shard, ShardMemory,
    ShardOptions, SlotId, Threads,
};
pub use spec::{FAMILIES, Family, Rope, Spec, Tied};
pub use stopwatch::Clock;
pub use template::{ChatMessage, ChatTemplate, GenerationPrompt};
pub use tokenizer::{DecodeStream, SpecialTokens, Tokenizer};
