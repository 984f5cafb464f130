//! What the planner answers with: stages, what they will cost, and why.
//!
//! Plain data; nothing here decides.

use std::fmt;
use std::ops::Range;

use crate::device::DeviceId;

/// A complete answer. It passed [`crate::check()`] when it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In the order in which a row passes them; together every layer once.
    pub stages: Vec<Stage>,
    /// Layers that devices with memory to spare keep loaded for others. A stage may be
    /// covered by several of them, each with a part.
    pub standbys: Vec<Standby>,
    /// What it will cost to use.
    pub forecast: Forecast,
    /// Mean stage time over slowest stage time of one decode row: 1.0 when every stage
    /// takes equally long, towards 0 when one stage holds all others up.
    pub balance: f64,
    /// For every used device, what its loss means.
    pub survives: Vec<Survival>,
    /// For every device of the request, why it got what it got, in id order.
    pub reasons: Vec<Reason>,
    /// How good the plan is known to be.
    pub proof: Proof,
}

/// A contiguous range of layers on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Who runs it.
    pub device: DeviceId,
    /// Half-open, counted from zero.
    pub layers: Range<u32>,
    /// Devices that keep this whole range loaded, to take over at once.
    pub standbys: Vec<DeviceId>,
    /// Weights, cache and buffers, without headroom and without standby ranges.
    pub memory_bytes: u64,
}

/// Layers kept loaded by a device that does not run them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    /// Who holds them.
    pub device: DeviceId,
    /// Half-open; always inside one stage.
    pub layers: Range<u32>,
    /// Weights and cache, and buffers where the device has no stage.
    pub memory_bytes: u64,
}

/// What a plan will cost to use, before anything is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// Prompt length that the times are for.
    pub prompt_tokens: u32,
    /// Time to first token of that prompt on an idle cluster.
    pub ttft_micros: u64,
    /// Time per output token of a single stream.
    pub tpot_micros: u64,
    /// Of that, time on the wires.
    pub hops_micros: u64,
    /// Tokens per second of a single stream.
    pub tokens_per_second: f64,
    /// How many streams "many" is: the request's sequences.
    pub streams: u32,
    /// Groups that they best travel in: passes that are under way at once.
    pub groups: u32,
    /// Time per output token that each of the many streams sees.
    pub many_tpot_micros: u64,
    /// Tokens per second of all of them together.
    pub many_tokens_per_second: f64,
    /// One per stage, in stage order.
    pub stages: Vec<StageForecast>,
}

/// What one stage will be seen to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageForecast {
    /// Who runs it.
    pub device: DeviceId,
    /// One decode row.
    pub decode_micros: u64,
    /// The first full chunk of the prompt.
    pub prefill_chunk_micros: u64,
    /// Memory used, standby ranges included.
    pub memory_bytes: u64,
    /// Memory left above the headroom.
    pub free_bytes: u64,
}

/// What the loss of a device means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survival {
    /// The device that is lost.
    pub device: DeviceId,
    /// What happens then.
    pub loss: Loss,
}

/// How a cluster takes the loss of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Every layer it held is loaded elsewhere: the answer goes on.
    Covered,
    /// The remaining devices can hold the model, but have to load layers first.
    Reload,
    /// The remaining devices cannot hold the model.
    Short {
        /// Least memory that must be added, assuming that it can be filled without waste.
        bytes_missing: u64,
    },
}

impl Loss {
    /// Whether the cluster can still serve the model afterwards.
    pub fn is_survivable(&self) -> bool {
        match self {
            Self::Covered | Self::Reload => true,
            Self::Short { .. } => false,
        }
    }
}

/// Why a device got what it got; displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Whom it is about.
    pub device: DeviceId,
    /// What people call it.
    pub name: String,
    /// The cause.
    pub why: Why,
}

/// The causes that a device can hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It got the strategy's share.
    Share {
        /// Layers given.
        layers: u32,
        /// Layers that the strategy alone would have given.
        wanted: u32,
        /// What limited it, if anything.
        limit: Limit,
    },
    /// The search gave it layers.
    Chosen {
        /// Layers given.
        layers: u32,
        /// What ended its range.
        limit: Limit,
        /// Its decode speed as a percentage of the fastest device's.
        speed_percent: u64,
    },
    /// The user's own list says so.
    Listed {
        /// Layers given.
        layers: u32,
    },
    /// The user's own list leaves it out.
    Unlisted,
    /// It cannot hold even one layer.
    TooSmall {
        /// Missing for the smallest layer.
        bytes_missing: u64,
    },
    /// There are fewer layers than devices, and others come first.
    MoreDevicesThanLayers,
    /// No plan was found in which it gains anything: with it as an extra stage the
    /// objective would be worse by this much at least.
    Slower {
        /// Loss in thousandths of the plan's objective.
        worse_permille: u64,
    },
    /// It has room, but the others hold all layers already at no worse objective.
    NotNeeded,
}

/// What ended a device's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// One more layer would not fit.
    MemoryFull,
    /// It has room for more; time decided.
    Time,
    /// It holds the whole model.
    WholeModel,
    /// It holds its share.
    Share,
    /// It holds more than its share, because others cannot hold theirs.
    OthersFull,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.why {
            Why::Share {
                layers,
                wanted,
                limit,
            } if layers == wanted => write!(f, "{layers} layers, {limit}"),
            Why::Share {
                layers,
                wanted,
                limit,
            } => write!(f, "{layers} layers instead of {wanted}: {limit}"),
            Why::Chosen {
                layers,
                limit,
                speed_percent,
            } => write!(
                f,
                "{layers} layers, {limit}; streams weights at {speed_percent} % of the fastest"
            ),
            Why::Listed { layers } => write!(f, "{layers} layers, as listed"),
            Why::Unlisted => write!(f, "left out: not in the list"),
            Why::TooSmall { bytes_missing } => write!(
                f,
                "left out: {} short of holding one layer",
                Bytes(*bytes_missing)
            ),
            Why::MoreDevicesThanLayers => {
                write!(f, "left out: more devices than layers, others come first")
            }
            Why::Slower { worse_permille } => write!(
                f,
                "left out: with it the plan would be {}.{} % slower",
                worse_permille / 10,
                worse_permille % 10
            ),
            Why::NotNeeded => write!(
                f,
                "left out: others hold every layer and it would gain nothing"
            ),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryFull => "its memory is full",
            Self::Time => "more would be slower",
            Self::WholeModel => "the whole model: not splitting is best",
            Self::Share => "its share",
            Self::OthersFull => "others cannot hold their share",
        })
    }
}

/// How good a plan is known to be, for the objective of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The plan's objective: one token's time (latency), or the time in which every
    /// sequence advances by a token (throughput).
    pub objective_nanos: u64,
    /// No plan can be better than this. Equal to the objective when the plan is proven
    /// best; zero when nothing was searched.
    pub lower_bound_nanos: u64,
}

impl Proof {
    /// Whether no better plan exists.
    pub fn is_exact(&self) -> bool {
        self.objective_nanos == self.lower_bound_nanos
    }

    /// How much better a plan could be at most, in thousandths of this one.
    pub fn gap_permille(&self) -> u64 {
        let gap = self.objective_nanos.saturating_sub(self.lower_bound_nanos);
        let permille = u128::from(gap) * 1000 / u128::from(self.objective_nanos.max(1));
        u64::try_from(permille).unwrap_or(1000)
    }
}

/// Shows a byte count as people say it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let (unit, name) = match bytes {
            0..1_000 => return write!(f, "{bytes} B"),
            1_000..1_000_000 => (1_000, "kB"),
            1_000_000..1_000_000_000 => (1_000_000, "MB"),
            _ => (1_000_000_000, "GB"),
        };
        // One decimal, rounded up: a shortfall that is filled must be enough.
        let tenths = (bytes / (unit / 10)) + u64::from(!bytes.is_multiple_of(unit / 10));
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
}
