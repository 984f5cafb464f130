//! A plan as a page for people and as JSON, whether it is served or only thought about.
//!
//! One shape for both: what a running node does not tell yet stays empty and is left out
//! of the picture. Decides nothing.

mod picture;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub(crate) use picture::{millis, render};

/// Everything that there is to show of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlanPage {
    /// `term@leader.epoch`; empty for a plan that nobody serves.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
    /// What is split; empty where the node does not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) model: String,
    /// The strategy that made it.
    pub(crate) strategy: String,
    /// `latency` or `throughput`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) objective: Option<String>,
    /// In pipeline order.
    pub(crate) stages: Vec<StagePage>,
    /// What it will cost to use.
    pub(crate) forecast: ForecastPage,
    /// What the last answer showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) measured: Option<MeasuredPage>,
    /// Mean stage time over slowest stage time: 1 is perfectly even.
    pub(crate) balance: f64,
    /// (Device, why): one line for each device, those left out included.
    pub(crate) reasons: Vec<(String, String)>,
    /// What the loss of each used device means, in stage order.
    #[serde(default)]
    pub(crate) survives: Vec<SurvivalPage>,
    /// How good the plan is known to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proof: Option<ProofPage>,
}

/// A stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StagePage {
    /// The device's name.
    pub(crate) node: String,
    /// Half-open: first layer, one past the last.
    pub(crate) layers: [u32; 2],
    /// Weights, cache and buffers that the planner counted, standby layers included.
    pub(crate) planned_memory_bytes: u64,
    /// Resident memory of the owner's process; zero when nothing runs.
    #[serde(default)]
    pub(crate) memory_bytes: u64,
    /// Memory left over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) free_bytes: Option<u64>,
    /// Forecast time of one decode row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) decode_ms: Option<f64>,
    /// What a decode row was seen to take over the last seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) measured_decode_ms: Option<f64>,
    /// Forecast time of the first chunk of a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefill_chunk_ms: Option<f64>,
    /// Devices that keep the stage, or parts of it, loaded.
    #[serde(default)]
    pub(crate) standbys: Vec<String>,
}

/// What a plan will cost to use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ForecastPage {
    /// Time to first token, for a prompt of `ttft_prompt_tokens`.
    pub(crate) ttft_ms: f64,
    /// The prompt length of `ttft_ms`.
    pub(crate) ttft_prompt_tokens: u32,
    /// One stream.
    pub(crate) tokens_per_second: f64,
    /// Of one token's time, what passes on the wires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hops_ms: Option<f64>,
    /// Many streams at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) many: Option<ManyPage>,
}

/// What many streams at once get.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ManyPage {
    /// How many.
    pub(crate) streams: u32,
    /// All of them together.
    pub(crate) tokens_per_second: f64,
    /// Time per token that each of them sees.
    pub(crate) tpot_ms: f64,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredPage {
    /// Time to first token.
    pub(crate) ttft_ms: f64,
    /// Decode speed.
    pub(crate) tokens_per_second: f64,
}

/// What the loss of a device means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SurvivalPage {
    /// The device that is lost.
    pub(crate) node: String,
    /// What happens then.
    pub(crate) loss: LossPage,
    /// Layers that the standbys have yet to load until the loss is covered.
    #[serde(default)]
    pub(crate) layers_missing: u32,
    /// For a short cluster, what would do; else zero.
    #[serde(default)]
    pub(crate) bytes_missing: u64,
}

/// How a cluster takes the loss of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LossPage {
    /// Every layer is loaded elsewhere.
    Covered,
    /// The others can hold the model, but must load layers first.
    Reload,
    /// The others cannot hold the model.
    Short,
}

/// How good a plan is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProofPage {
    /// The plan's objective: a token's time, or the time in which every stream gets one.
    pub(crate) objective_ms: f64,
    /// No plan can be below; zero when nothing was searched.
    pub(crate) lower_bound_ms: f64,
    /// Whether no better plan exists.
    pub(crate) exact: bool,
}
