//! What can go wrong in the engine, each case by its own name.
//!
//! Not one catch-all: the node turns these into an exit code or an HTTP
//! status, so every variant says who has to act.

use std::path::PathBuf;

/// Everything that the engine can refuse or fail at.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operating system refused to open, read or map the file.
    #[error("{path}: {action} failed at byte {offset}: {source}", path = path.display())]
    Io {
        /// The model file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Byte offset in the file.
        offset: u64,
        /// The cause.
        source: std::io::Error,
    },
    /// The file ends before something that its header promises.
    #[error(
        "{path}: truncated: {what} at byte {offset} needs {needed} bytes, the file has {length} in all",
        path = path.display()
    )]
    Truncated {
        /// The model file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Where it starts.
        offset: u64,
        /// How many bytes it needs from there.
        needed: u64,
        /// The length of the whole file.
        length: u64,
    },
    /// The file's header contradicts itself or the format.
    #[error("{path}: corrupt at byte {offset}: {reason}", path = path.display())]
    Corrupt {
        /// The model file.
        path: PathBuf,
        /// Where the contradiction was read.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A metadata key that the model family needs is absent or has a useless value.
    #[error("{path}: metadata `{key}`: {reason}", path = path.display())]
    Metadata {
        /// The model file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is absent or has the wrong shape.
    #[error("{path}: tensor `{tensor}`: {reason}", path = path.display())]
    Tensor {
        /// The model file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine has no decoder for this `general.architecture`.
    #[error("model family `{name}` is not supported (supported: {})", supported.join(", "))]
    UnsupportedFamily {
        /// The family that the file names.
        name: String,
        /// The families that the engine knows.
        supported: &'static [&'static str],
    },
    /// The family is known, one property of this model is not.
    #[error("{path}: {what} is not supported", path = path.display())]
    UnsupportedFeature {
        /// The model file.
        path: PathBuf,
        /// The property, by name and value.
        what: String,
    },
    /// A tensor that is needed has a quantisation without an implementation.
    #[error("tensor `{tensor}`: quantisation {quantisation} is not supported")]
    UnsupportedQuantisation {
        /// The tensor's name.
        tensor: String,
        /// The quantisation's name.
        quantisation: String,
    },
    /// The file's tokenizer cannot be built.
    #[error("{path}: tokenizer: {reason}", path = path.display())]
    Tokenizer {
        /// The model file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer could not cut a text into tokens.
    #[error("text cannot be tokenized: {reason}")]
    Encode {
        /// The tokenizer's message.
        reason: String,
    },
    /// The chat template does not parse, or refused the messages.
    #[error("chat template: {reason}")]
    Template {
        /// The template engine's message.
        reason: String,
    },
    /// A layer range that is empty, reversed or past the model's end.
    #[error("layers {first}..{end} are out of bounds: the model has {layers} layers")]
    LayerRange {
        /// First layer asked for.
        first: u32,
        /// One past the last layer asked for.
        end: u32,
        /// Layers in the model.
        layers: u32,
    },
    /// More cache rows were asked for than the shard's or the model's context.
    #[error("context of {asked} rows exceeds the limit of {limit}")]
    ContextTooLong {
        /// Rows asked for.
        asked: usize,
        /// Rows allowed.
        limit: usize,
    },
    /// A sequence would grow past the rows it was opened with.
    /// Effect: nothing was computed, the sequence is unchanged.
    #[error("sequence {slot}: {needed} rows needed, its cache holds {capacity}")]
    ContextFull {
        /// The sequence's slot.
        slot: u64,
        /// Rows it would need.
        needed: usize,
        /// Rows it was opened with.
        capacity: usize,
    },
    /// The slot was never opened here, or is closed.
    #[error("sequence {slot} is not open")]
    UnknownSlot {
        /// The slot's number.
        slot: u64,
    },
    /// A span does not continue where its sequence's cache ends.
    /// Effect: nothing was computed, the sequence is unchanged.
    #[error("sequence {slot}: rows at position {position} do not continue a cache of {rows} rows")]
    PositionGap {
        /// The sequence's slot.
        slot: u64,
        /// First position of the span.
        position: usize,
        /// Rows in the cache.
        rows: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {token} is outside the vocabulary of {vocabulary}")]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Number of tokens in the vocabulary.
        vocabulary: usize,
    },
    /// The batch's parts contradict each other or this shard's place in the model.
    #[error("batch: {reason}")]
    Batch {
        /// What is wrong.
        reason: String,
    },
    /// A matrix cannot be brought into the form that the kernels read.
    #[error("tensor `{tensor}`: {source}")]
    Pack {
        /// The tensor's name.
        tensor: String,
        /// Why not.
        source: crate::kernel::PackError,
    },
    /// The system has no address space for more of a sequence's cache.
    /// Effect: the batch was not run; all sequences are as they were.
    #[error("no memory for a cache of {rows} rows: {source}")]
    CacheMemory {
        /// Rows that it would have.
        rows: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// The device is not in this machine, or this build cannot use its kind.
    #[error("device {device}: {source}")]
    Device {
        /// The device that was asked for.
        device: crate::Device,
        /// candle's error.
        source: candle_core::Error,
    },
    /// The system has no memory for a matrix to measure with.
    #[error("no memory to measure with: {source}")]
    ProbeMemory {
        /// What the system said.
        source: std::io::Error,
    },
    /// A GPU has less memory free than the layers take.
    /// Effect: nothing was loaded.
    #[error("device {device}: {needed_bytes} bytes of weights for it, and {free_bytes} are free")]
    DeviceMemory {
        /// The GPU.
        device: crate::Device,
        /// What the layers take that are not there yet.
        needed_bytes: u64,
        /// What no program has taken.
        free_bytes: u64,
    },
    /// A tensor operation failed.
    #[error("{operation}: {source}")]
    Compute {
        /// The layer and operation.
        operation: String,
        /// candle's error.
        source: candle_core::Error,
    },
}

/// Names the operation that a candle error came from.
pub(crate) trait ComputeContext<T> {
    /// Turns a candle result into an engine result that names `operation`.
    fn during(self, operation: impl Into<String>) -> Result<T, EngineError>;
}

impl<T> ComputeContext<T> for candle_core::Result<T> {
    fn during(self, operation: impl Into<String>) -> Result<T, EngineError> {
        self.map_err(|source| EngineError::Compute {
            operation: operation.into(),
            source,
        })
    }
}
