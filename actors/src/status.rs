//! What a node can tell about itself and the cluster: the shape of `status --json`.

use serde::{Deserialize, Serialize};

/// Whether prompts can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A plan is adopted and whole: it has produced a token.
    Ready,
    /// No plan yet.
    Starting,
    /// A plan was adopted, but a stage of it is gone.
    Degraded,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Whether prompts can be answered.
    pub state: State,
    /// What is being waited for, or what is wrong, when not ready.
    pub detail: String,
    /// The cluster's name.
    pub cluster: String,
    /// The answering node's id, short.
    pub id: String,
    /// The answering node's name.
    pub name: String,
    /// The leader's id, short.
    pub leader: Option<String>,
    /// The number of the current term.
    pub term: u64,
    /// What is served.
    pub model: Option<ModelView>,
    /// The adopted plan.
    pub plan: Option<PlanView>,
    /// All members, by name.
    pub nodes: Vec<NodeView>,
    /// Answers in progress that arrived at this node.
    pub requests_running: u32,
    /// Requests waiting at this node.
    pub requests_waiting: u32,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelView {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file, hex.
    pub sha256: String,
    /// Size of its file.
    pub file_bytes: u64,
    /// Its decoder layers.
    pub layers: u32,
    /// KV rows that a sequence may have under the plan.
    pub context: u32,
}

/// A plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanView {
    /// `term@leader.epoch`.
    pub id: String,
    /// The strategy that made it.
    pub strategy: String,
    /// In pipeline order.
    pub stages: Vec<StageView>,
    /// What the planner expects.
    pub forecast: ForecastView,
    /// What this node has measured, as a driver.
    pub measured: Option<MeasuredView>,
    /// 1 is perfectly even.
    pub balance: f64,
    /// One line per device: (node name, why).
    pub reasons: Vec<(String, String)>,
}

/// A stage of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// The owner's name.
    pub node: String,
    /// The owner's id, short.
    pub id: String,
    /// Half-open: first layer, one past the last.
    pub layers: [u32; 2],
    /// Memory that the planner counted.
    pub planned_memory_bytes: u64,
    /// Resident memory of the owner's process, once it has told.
    pub memory_bytes: u64,
}

/// What the planner expects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForecastView {
    /// Time to first token in ms, for a prompt of `ttft_prompt_tokens`.
    pub ttft_ms: f64,
    /// The prompt length of `ttft_ms`.
    pub ttft_prompt_tokens: u32,
    /// One stream.
    pub tokens_per_second: f64,
}

/// What was measured over the last answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredView {
    /// Time to first token of the last answer in ms.
    pub ttft_ms: f64,
    /// Decode speed of the last answer.
    pub tokens_per_second: f64,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its id, short.
    pub id: String,
    /// Whether it answered this query.
    pub me: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Its program's version.
    pub version: String,
    /// Its layers under the adopted plan, half-open.
    pub layers: Option<[u32; 2]>,
    /// Memory that it offers.
    pub memory_usable_bytes: u64,
    /// Threads that it offers.
    pub threads: u32,
    /// Measured weight bytes per second in decode.
    pub decode_bytes_per_second: u64,
    /// Resident memory of its process.
    pub resident_bytes: u64,
    /// Weights in memory.
    pub weight_bytes: u64,
    /// KV cache allotted.
    pub kv_bytes: u64,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Share of a running load that is done; 1 when nothing loads.
    pub loading: f64,
    /// Sequences on its stage now.
    pub sequences: u32,
    /// Rows computed since start.
    pub rows_total: u64,
    /// Mean time of an engine pass in ms.
    pub forward_ms: f64,
    /// Frames dropped as stale since start.
    pub frames_stale_total: u64,
    /// Frames refused since start.
    pub frames_refused_total: u64,
}
