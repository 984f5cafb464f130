//! The engine's own CPU kernels: quantised products, attention over the cache,
//! norms, and the threads that they run on.
//!
//! Plain slices in and out; no tensors, no devices, no model. Each is chosen at
//! run time by CPU feature and reduces every output in one fixed order, so the
//! result does not depend on batch, chunking, threads or instruction set.

mod arena;
mod attention;
mod bands;
mod cache;
mod cores;
mod elementwise;
mod format;
mod math;
mod matmul;
mod pack;
mod pages;
mod place;
mod pool;
pub mod probe;
mod rows;
mod share;
mod simd;
mod weights;

pub use attention::{AttentionScratch, AttentionShape, Span, attention};
pub(crate) use bands::ROWS_MIN as BAND_ROWS_MIN;
pub use cache::{CacheFormat, CacheShape, KvCache, KvLayer, PAGE_POSITIONS, Stock};
pub use elementwise::{RopePairs, add, rms_norm, rms_norm_rows, rope};
pub use format::{BLOCK, Format};
pub use pack::{Expected, PackError, Packed};
pub use place::{RowShape, place, place_each};
pub(crate) use pool::SPIN;
pub use pool::{Pool, bind_caller, cores_allowed};
pub use rows::QuantizedRows;
pub use simd::Isa;
