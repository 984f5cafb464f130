//! The control plane: who is there, who leads, what the plan is, how it goes.
//!
//! Small, rare and heavily checked, so these are copied out of the frame into
//! owned values. One enum, one frame kind.

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::{BootId, NodeId, PlanId, Term};

/// Everything one node may say to another outside the data plane.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(attr(doc = "Archived [`Control`]."))]
pub enum Control {
    /// Ten times a second, to every member.
    Heartbeat(Heartbeat),
    /// After a connection and when it changes: addresses of members, for those without mDNS.
    Peers(Vec<PeerAddress>),
    /// After a connection and when it changes: what the sender can do.
    Capability(Capability),
    /// Once a second: how the sender does.
    Status(NodeStatus),
    /// Leader to every member: load your stage of this plan.
    Propose(Box<Plan>),
    /// Stage owner to leader: the layers are loaded.
    Loaded(Loaded),
    /// Stage owner to leader: the layers cannot be loaded.
    LoadFailed(LoadFailed),
    /// Leader to every member: the plan has produced a token and is in force.
    Adopt(PlanId),
    /// Leader to every member: the plan will not be adopted; drop what was loaded for it.
    Abandon(Abandon),
    /// Follower of the log to every member, renewed every few seconds: send me your lines.
    LogsWanted(LogsWanted),
    /// Lines for a follower, oldest first.
    Logs(Vec<LogLine>),
    /// The sender leaves on purpose; what it holds is gone when it closes.
    Leave,
    /// Once a second, to every member: answer with a [`Control::Pong`], at once.
    Ping(Ping),
    /// The answer to a [`Control::Ping`].
    Pong(Pong),
}

/// A question for the round trip.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Ping`]."))]
pub struct Ping {
    /// Comes back as it is; the sender's business.
    pub number: u64,
    /// Zeros, of which the receiver sees how fast they come; empty but at the start of a link.
    pub filler: Vec<u8>,
}

/// An answer for the round trip.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Pong`]."))]
pub struct Pong {
    /// That of the ping.
    pub number: u64,
}

/// A node is alive, and what it thinks of the leadership.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Heartbeat`]."))]
pub struct Heartbeat {
    /// The sender's run.
    pub boot: BootId,
    /// The term that the sender has adopted.
    pub term: Term,
    /// Whether the sender leads or follows in that term, or looks for a leader.
    pub role: Role,
    /// The highest term number that the sender has seen anywhere.
    pub term_number_max: u64,
    /// Whom the sender hears: a link counts when both ends hear each other.
    pub hears: Vec<NodeId>,
}

/// A node's part in its term.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Role`]."), derive(Debug))]
#[repr(u8)]
pub enum Role {
    /// No leader that hears this node and is heard by it.
    Seeking = 0,
    /// Follows the term's leader.
    Following = 1,
    /// Leads the term.
    Leading = 2,
}

/// Where a member listens.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`PeerAddress`]."))]
pub struct PeerAddress {
    /// Who.
    pub node: NodeId,
    /// `ip:port` texts, as reached or announced.
    pub addresses: Vec<String>,
}

/// What a node can do, measured by itself.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Capability`]."))]
pub struct Capability {
    /// The name its user gave it.
    pub name: String,
    /// Its version of the program, for people.
    pub version: String,
    /// Memory that it may use for weights and caches.
    pub memory_bytes: u64,
    /// Threads for the engine.
    pub threads: u32,
    /// Weight bytes per second of layers through one row.
    pub decode_bytes_per_second: u64,
    /// Multiply-accumulates per second with a layer's weights, in a prefill.
    pub prefill_macs_per_second: u64,
    /// Time of a layer that its bytes do not account for.
    pub layer_nanos: u64,
    /// Bytes per second of the head through one row.
    pub head_bytes_per_second: u64,
    /// Cache bytes per second of attention in decode.
    pub cache_bytes_per_second: u64,
    /// Multiply-accumulates per second of attention, in a prefill.
    pub attention_macs_per_second: u64,
    /// Memory of its keys and values, in thousandths of what they take as 32-bit floats.
    pub kv_permille: u32,
    /// Of the time of its threads, what it gets in the long run, in thousandths; the speeds
    /// above are those of a moment.
    pub share_permille: u32,
    /// Names the machine: nodes of one machine tell the same number.
    pub host: u64,
    /// Cores of the machine that the node may run on.
    pub host_cores: u32,
    /// The model that its user asked for, if they named one.
    pub wish: Option<String>,
    /// What its GPU is called, if it computes on one.
    pub accelerator: Option<String>,
}

/// Which model: named for people and sources, identified by content.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`ModelRef`]."))]
pub struct ModelRef {
    /// A catalogue name, a Hub repository or a path.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Size of the file.
    pub file_bytes: u64,
    /// Decoder layers.
    pub layers: u32,
}

/// Who runs which layers, in pipeline order.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(attr(doc = "Archived [`Plan`]."))]
pub struct Plan {
    /// Its number; frames carry it.
    pub id: PlanId,
    /// What is run.
    pub model: ModelRef,
    /// KV rows that one sequence may have.
    pub context: u32,
    /// Sequences that every stage holds at once.
    pub sequences: u32,
    /// Stage 0 embeds, the last one samples. Together every layer once.
    pub stages: Vec<Stage>,
    /// Groups in which several streams go round the stages at first; the first stage finds out
    /// whether another number is better.
    pub groups: u16,
    /// Why it is as it is.
    pub explain: Explain,
}

/// One stage.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Stage`]."))]
pub struct Stage {
    /// The owner.
    pub node: NodeId,
    /// First layer.
    pub first: u32,
    /// One past the last layer.
    pub end: u32,
    /// Nodes that keep these layers, or parts of them, in memory once the plan is in force.
    pub standbys: Vec<Standby>,
    /// Memory that the planner counted for it.
    pub memory_bytes: u64,
}

/// Layers of a stage that another node than its owner keeps in memory.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Standby`]."))]
pub struct Standby {
    /// Who keeps them.
    pub node: NodeId,
    /// Which; within the stage.
    pub layers: LayerRange,
}

/// Some layers, at least one.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[rkyv(attr(doc = "Archived [`LayerRange`]."))]
pub struct LayerRange {
    /// First layer.
    pub first: u32,
    /// One past the last layer.
    pub end: u32,
}

/// The planner's account of a plan, for people.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[rkyv(attr(doc = "Archived [`Explain`]."))]
pub struct Explain {
    /// The strategy's name.
    pub strategy: String,
    /// Forecast time per output token of one stream.
    pub tpot_micros: u64,
    /// Forecast time to first token for a prompt of `ttft_prompt_tokens`.
    pub ttft_micros: u64,
    /// The prompt length that `ttft_micros` is for.
    pub ttft_prompt_tokens: u32,
    /// Of `tpot_micros`, time on the wires.
    pub hops_micros: u64,
    /// How many streams the next two speak of.
    pub many_streams: u32,
    /// Forecast time per output token that each of many streams sees.
    pub many_tpot_micros: u64,
    /// Forecast tokens of all of them together in a thousand seconds.
    pub many_tokens_per_kilosecond: u64,
    /// What was made as small as can be, in nanoseconds.
    pub objective_nanos: u64,
    /// No plan can be below; 0 when nothing was searched.
    pub lower_bound_nanos: u64,
    /// One per stage, in stage order.
    pub stages: Vec<StageForecast>,
    /// For every owner, what its loss means.
    pub survives: Vec<Survival>,
    /// Balance score in thousandths; 1000 is perfectly even.
    pub balance_permille: u32,
    /// One line per device: why this many layers, why none.
    pub reasons: Vec<Reason>,
    /// What the leader knew of devices that are not as fast as they told, so that whoever leads
    /// next does not give them their layers back.
    pub drifts: Vec<Drift>,
    /// What forecasts were off by where nothing else was known, in thousandths; 0 is unknown.
    pub shared_permille: u64,
}

/// What a device's stage was seen to take, beside what its own figures made the planner expect.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Drift`]."))]
pub struct Drift {
    /// The device.
    pub node: NodeId,
    /// Weight bytes per second that it told when that was seen.
    pub told_bytes_per_second: u64,
    /// Forecast for one decode row by that figure.
    pub forecast_micros: u64,
    /// Seen.
    pub measured_micros: u64,
}

/// What one stage is expected to do.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`StageForecast`]."))]
pub struct StageForecast {
    /// Time of one decode row.
    pub decode_micros: u64,
    /// Time of the first chunk of a prompt.
    pub prefill_chunk_micros: u64,
    /// Memory that its owner has left.
    pub free_bytes: u64,
}

/// What the loss of an owner means.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Survival`]."))]
pub struct Survival {
    /// The owner that is lost.
    pub node: NodeId,
    /// What happens then.
    pub loss: Loss,
}

/// How a cluster takes the loss of one owner.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Loss`]."), derive(Debug))]
#[repr(u8)]
pub enum Loss {
    /// Every layer that it held is loaded elsewhere.
    Covered = 0,
    /// The others can hold the model, but have to load layers first.
    Reload = 1,
    /// The others are that many bytes short.
    Short(u64) = 2,
}

/// One line about one device.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Reason`]."))]
pub struct Reason {
    /// The device.
    pub node: NodeId,
    /// The line.
    pub text: String,
}

/// A stage is loaded.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Loaded`]."))]
pub struct Loaded {
    /// Of which plan.
    pub plan: PlanId,
    /// Index of the stage.
    pub stage: u16,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
}

/// A stage cannot be loaded.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`LoadFailed`]."))]
pub struct LoadFailed {
    /// Of which plan.
    pub plan: PlanId,
    /// Index of the stage.
    pub stage: u16,
    /// The cause, for people.
    pub detail: String,
}

/// A plan is given up.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Abandon`]."))]
pub struct Abandon {
    /// Which plan.
    pub plan: PlanId,
    /// The cause, for people.
    pub detail: String,
}

/// How a node does, as it tells the others.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`NodeStatus`]."))]
pub struct NodeStatus {
    /// Resident memory of the process.
    pub resident_bytes: u64,
    /// Weights in memory.
    pub weight_bytes: u64,
    /// Pages of the KV cache that are held; one that several sequences share counts once.
    pub kv_bytes: u64,
    /// Milliseconds since it started.
    pub uptime_millis: u64,
    /// Progress of a load in thousandths; 1000 when nothing loads.
    pub loading_permille: u32,
    /// Sequences that its stage holds now.
    pub sequences: u32,
    /// Rows waiting for the engine now.
    pub queue_rows: u32,
    /// Rows computed since start.
    pub rows_total: u64,
    /// Passes of the engine since start.
    pub forwards_total: u64,
    /// Time spent in them.
    pub forward_micros_total: u64,
    /// Frames dropped because their plan is not run here.
    pub frames_stale_total: u64,
    /// Frames that broke a rule.
    pub frames_refused_total: u64,
    /// Sequences that started with rows of an earlier one.
    pub prefix_hits_total: u64,
    /// Rows that were not computed again for it.
    pub prefix_rows_total: u64,
    /// What its stage was seen to take lately; none while it serves nothing.
    pub stage: Option<StageSeen>,
    /// What it sees of its links.
    pub links: Vec<LinkSeen>,
    /// What it stands by with; none while no plan names it as a standby.
    pub standing: Option<Standing>,
}

/// The standby layers that a node has in memory.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`Standing`]."))]
pub struct Standing {
    /// The plan that asked for them.
    pub plan: PlanId,
    /// Those that are loaded so far, in order, apart from each other.
    pub layers: Vec<LayerRange>,
}

/// What a stage was seen to take over the last seconds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`StageSeen`]."))]
pub struct StageSeen {
    /// The plan that it is a stage of.
    pub plan: PlanId,
    /// The engine's time for a pass of one decode row.
    pub decode_micros: u64,
    /// How long rows waited for the engine before a pass.
    pub queue_wait_micros: u64,
}

/// What a node sees of its link with a neighbour.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`LinkSeen`]."))]
pub struct LinkSeen {
    /// The neighbour.
    pub peer: NodeId,
    /// From this node to the neighbour's actors and back; 0 is not measured yet.
    pub round_trip_micros: u64,
    /// How fast large frames come from the neighbour; 0 is not measured yet.
    pub bytes_per_second: u64,
}

/// A request for log lines.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`LogsWanted`]."))]
pub struct LogsWanted {
    /// Only lines after this one of the receiver's own numbering; 0 starts with what it still has.
    pub after: u64,
    /// For how long to go on sending; 0 sends what there is and stops.
    pub for_millis: u32,
}

/// One line of a node's log.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(attr(doc = "Archived [`LogLine`]."))]
pub struct LogLine {
    /// The node's own count, from 1, without gaps but for lines dropped under load.
    pub number: u64,
    /// Microseconds since 1970, by the node's clock.
    pub unix_micros: u64,
    /// Its severity.
    pub level: LogLevel,
    /// Module that spoke.
    pub target: String,
    /// The text with its fields.
    pub text: String,
}

/// Severity, as `tracing` has it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[rkyv(attr(doc = "Archived [`LogLevel`]."), derive(Debug))]
#[repr(u8)]
pub enum LogLevel {
    /// Per frame.
    Trace = 0,
    /// Per request.
    Debug = 1,
    /// Lifecycle.
    Info = 2,
    /// Degraded and recovered.
    Warn = 3,
    /// An operator must act.
    Error = 4,
}
