//! The question that a plan answers: which model, on what, for what use.
//!
//! Holds numbers only; reading a model file or a device belongs to the caller.

use std::ops::Range;

use crate::device::{Device, DeviceId, Link, LinkSpeed};

/// What one transformer layer costs. `..LayerCost::default()` suits dense layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerCost {
    /// Bytes that the layer's weights take in memory.
    pub weight_bytes: u64,
    /// Multiply-accumulates of one row through the weights.
    pub macs_per_row: u64,
    /// Cache bytes that one token leaves behind.
    pub kv_bytes_per_token: u64,
    /// Weight bytes that one decode row streams; `None` means all of them. A mixture
    /// of experts reads only the experts that it chose.
    pub active_bytes: Option<u64>,
    /// Multiply-accumulates of one row with one cached token, in attention.
    pub attention_macs_per_token: u64,
}

/// What stands before the first layer or after the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Bytes that it takes in memory.
    pub weight_bytes: u64,
    /// Bytes that one decode row streams: near nothing for an embedding lookup, all of
    /// the weights for an output projection.
    pub decode_bytes: u64,
    /// Multiply-accumulates of one row.
    pub macs_per_row: u64,
}

/// A model as the planner sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// In the order in which a row passes them.
    pub layers: Vec<LayerCost>,
    /// Held by the first stage.
    pub embedding: Part,
    /// Final norm and output projection, held by the last stage.
    pub head: Part,
    /// Bytes that embedding and head share: counted at both ends, but only once where
    /// one device holds both. Zero when the embedding is not tied.
    pub tied_bytes: u64,
    /// Bytes of one hidden row on the wire.
    pub hidden_bytes_per_row: u64,
}

/// What to optimise. The two are never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The time of one token of one stream: the *sum* of stages and hops.
    Latency,
    /// Tokens per second of many streams: set by the *slowest* stage.
    Throughput,
}

/// How the layers are shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Every device the same number of layers.
    Uniform,
    /// Layers in proportion to usable memory.
    Memory,
    /// Layers in proportion to measured decode speed.
    Compute,
    /// Layers in proportion to the mean of both shares.
    Balanced,
    /// The best plan for the objective, by search; may leave devices out.
    Optimal,
    /// The user's own list, checked and used as it is.
    Custom(Vec<(DeviceId, Range<u32>)>),
}

/// Everything that a plan depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is split.
    pub model: Model,
    /// Where it may go, in any order.
    pub devices: Vec<Device>,
    /// What is known of the wires, in any order.
    pub links: Vec<Link>,
    /// What holds for a pair without a link.
    pub default_link: LinkSpeed,
    /// How to share out.
    pub strategy: Strategy,
    /// What the optimal strategy optimises, and what every plan's proof is stated in.
    pub objective: Objective,
    /// Tokens that each sequence's cache must hold.
    pub context_tokens: u32,
    /// Sequences that are held and served at once.
    pub sequences: u32,
    /// Length of the prompt that the forecast speaks about; also the cache that a
    /// decode row reads.
    pub prompt_tokens: u32,
    /// Rows of one prefill chunk.
    pub prefill_chunk_rows: u32,
    /// Activation and network buffers that every used device needs.
    pub buffer_bytes: u64,
    /// Memory kept free on every device.
    pub headroom_bytes: u64,
    /// The device where prompts arrive, which need not hold a layer or be in the list.
    /// Without one, the first stage drives.
    pub driver: Option<DeviceId>,
    /// Steps the optimal search may take before it answers with the best found and a
    /// bound. A count rather than a time, because a plan must not depend on a clock.
    pub search_steps: u64,
}

/// Enough to close the proof on home clusters, and about a second at the most.
pub const SEARCH_STEPS: u64 = 10_000_000;

impl Request {
    /// A request with the defaults of a home cluster: optimal latency of one stream
    /// with 4,096 tokens of context over gigabit Ethernet.
    pub fn new(model: Model, devices: Vec<Device>) -> Self {
        Self {
            model,
            devices,
            links: Vec::new(),
            default_link: LinkSpeed::gigabit(),
            strategy: Strategy::Optimal,
            objective: Objective::Latency,
            context_tokens: 4096,
            sequences: 1,
            prompt_tokens: 512,
            prefill_chunk_rows: 256,
            buffer_bytes: 64 << 20,
            headroom_bytes: 0,
            driver: None,
            search_steps: SEARCH_STEPS,
        }
    }

    /// The device's name, or its short id when the request does not know it.
    pub fn name_of(&self, id: DeviceId) -> String {
        match self.devices.iter().find(|device| device.id == id) {
            Some(device) => device.name.clone(),
            None => id.to_string(),
        }
    }
}
