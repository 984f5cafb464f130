//! What a node can tell about itself and the cluster: the shape of `status --json`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_machine::plan::{left_out, uncovered};
use cairn_machine::view::View;
use cairn_wire::control::{LinkSeen, Loss, NodeStatus, Plan, Stage, Standing};
use cairn_wire::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::capability::Told;
use crate::pipeline::Load;
use crate::wiring::Wiring;

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
    /// What the model is called.
    pub model: String,
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
    /// One line per device that has no layers: its name and why.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// What the loss of each owner means, in stage order.
    pub survives: Vec<SurvivalView>,
    /// How good it is known to be, where a search was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofView>,
}

/// What the loss of an owner means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurvivalView {
    /// The owner's name.
    pub node: String,
    /// `covered`: its layers are loaded elsewhere; `reload`: the others can hold them; `short`:
    /// they cannot.
    pub loss: String,
    /// Of a loss that is to be covered: layers that the standbys have yet to load.
    #[serde(default)]
    pub layers_missing: u32,
    /// What a short cluster lacks.
    pub bytes_missing: u64,
}

/// How good a plan is known to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProofView {
    /// What the search made as small as can be.
    pub objective_ms: f64,
    /// No plan can be below.
    pub lower_bound_ms: f64,
    /// Whether no better plan exists.
    pub exact: bool,
}

/// A stage of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageView {
    /// The owner's name.
    pub node: String,
    /// The owner's id, short.
    pub id: String,
    /// Half-open: first layer, one past the last.
    pub layers: [u32; 2],
    /// Memory that the planner counted.
    pub planned_memory_bytes: u64,
    /// Resident memory of the owner's process, once it has told; on a GPU, what its layers and
    /// caches take there.
    pub memory_bytes: u64,
    /// Memory that the owner has left by the plan.
    pub free_bytes: u64,
    /// Names of those who keep its layers, or parts of them, in memory or are about to.
    #[serde(default)]
    pub standbys: Vec<String>,
    /// Forecast time of one decode row in ms.
    pub decode_ms: f64,
    /// What a decode row was seen to take over the last seconds, in ms; none without traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_decode_ms: Option<f64>,
    /// How long rows waited for the engine meanwhile, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_wait_ms: Option<f64>,
    /// Forecast time of the first chunk of a prompt in ms.
    pub prefill_chunk_ms: f64,
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
    /// Of one token's time, what passes on the wires in ms.
    pub hops_ms: f64,
    /// Many streams at once.
    pub many: ManyView,
}

/// What many streams at once are expected to get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManyView {
    /// How many.
    pub streams: u32,
    /// All of them together.
    pub tokens_per_second: f64,
    /// Time per token that each of them sees, in ms.
    pub tpot_ms: f64,
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
    /// What its GPU is called, if it computes on one: the memory that it offers is that one's.
    #[serde(default)]
    pub accelerator: Option<String>,
    /// Threads that it offers.
    pub threads: u32,
    /// Measured weight bytes per second in decode.
    pub decode_bytes_per_second: u64,
    /// Resident memory of its process.
    pub resident_bytes: u64,
    /// Weights in memory.
    pub weight_bytes: u64,
    /// Layers that it keeps in memory for other nodes' stages.
    #[serde(default)]
    pub standby_layers: u32,
    /// Pages of the KV cache that are held; one that several sequences share counts once.
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
    /// Sequences that started with rows of an earlier one since start.
    pub prefix_hits_total: u64,
    /// Rows that were not computed again for it.
    pub prefix_rows_total: u64,
    /// Its links, as it sees them.
    #[serde(default)]
    pub links: Vec<LinkView>,
}

/// A link as one of its ends sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    /// The neighbour's name.
    pub node: String,
    /// To the neighbour's actors and back, in ms; the lower quartile of the last half minute.
    pub round_trip_ms: f64,
    /// How fast large frames come from there; none before one has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// Everything that a status is made from, taken at one moment.
pub(crate) struct Snapshot<'a> {
    pub(crate) wiring: &'a Wiring,
    pub(crate) me: NodeId,
    pub(crate) cluster: &'a str,
    pub(crate) name: &'a str,
    pub(crate) view: View,
    pub(crate) plan: Option<Arc<Plan>>,
    pub(crate) told: Told,
    pub(crate) waiting_for: String,
    pub(crate) load: Option<Load>,
}

impl Snapshot<'_> {
    pub(crate) fn status(&self) -> Status {
        let (state, detail) = self.state();
        let load = self.load;
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Status {
            state,
            detail,
            cluster: self.cluster.to_owned(),
            id: self.me.to_string(),
            name: self.name.to_owned(),
            leader: self.view.leader.map(|leader| leader.to_string()),
            term: self.view.term.number,
            model: self.plan.as_deref().map(model_view),
            plan: self.plan.as_deref().map(|plan| self.plan_view(plan)),
            nodes: self.nodes(),
            requests_running: load.map_or(0, |load| narrow(load.running)),
            requests_waiting: load.map_or(0, |load| narrow(load.waiting)),
        }
    }

    fn state(&self) -> (State, String) {
        let Some(plan) = &self.plan else {
            return (State::Starting, format!("waiting for {}", self.waiting_for));
        };
        match self.view.missing_owner(plan) {
            None => (State::Ready, String::new()),
            Some(node) => {
                let name = self.node_name(node);
                (State::Degraded, format!("{name} is gone; replanning"))
            }
        }
    }

    /// Also of a node that is gone: the others speak of it still.
    fn node_name(&self, node: NodeId) -> String {
        self.wiring.name(node)
    }

    fn stage_view(&self, plan: &Plan, index: usize) -> StageView {
        let stage = &plan.stages[index];
        let expected = plan.explain.stages.get(index);
        let status = self.told.statuses.get(&stage.node);
        let seen = status.and_then(|status| status.stage);
        let seen = seen.filter(|seen| seen.plan == plan.id);
        StageView {
            node: self.node_name(stage.node),
            id: stage.node.to_string(),
            layers: [stage.first, stage.end],
            planned_memory_bytes: stage.memory_bytes,
            memory_bytes: status.map_or(0, |status| self.used_bytes(stage.node, status)),
            free_bytes: expected.map_or(0, |stage| stage.free_bytes),
            standbys: self.standbys(stage),
            decode_ms: expected.map_or(0.0, |stage| stage.decode_micros as f64 / 1e3),
            measured_decode_ms: seen.map(|seen| seen.decode_micros as f64 / 1e3),
            queue_wait_ms: seen.map(|seen| seen.queue_wait_micros as f64 / 1e3),
            prefill_chunk_ms: expected.map_or(0.0, |stage| stage.prefill_chunk_micros as f64 / 1e3),
        }
    }

    /// Of the memory that the node offers. What else a program has on a GPU is the driver's, and no
    /// part of what the planner counts.
    fn used_bytes(&self, node: NodeId, status: &NodeStatus) -> u64 {
        let capability = self.told.capabilities.get(&node);
        match capability.and_then(|capability| capability.accelerator.as_ref()) {
            Some(_) => status.weight_bytes.saturating_add(status.kv_bytes),
            None => status.resident_bytes,
        }
    }

    fn standbys(&self, stage: &Stage) -> Vec<String> {
        let nodes: BTreeSet<NodeId> = stage.standbys.iter().map(|one| one.node).collect();
        nodes.into_iter().map(|node| self.node_name(node)).collect()
    }

    /// What the members stand by with.
    fn standing(&self) -> BTreeMap<NodeId, &Standing> {
        let members = self.told.statuses.iter();
        let members = members.filter(|(node, _)| self.view.nodes.contains(node));
        members
            .filter_map(|(node, status)| Some((*node, status.standing.as_ref()?)))
            .collect()
    }

    fn plan_view(&self, plan: &Plan) -> PlanView {
        let explain = &plan.explain;
        let stages = (0..plan.stages.len()).map(|index| self.stage_view(plan, index));
        let standing = self.standing();
        let survives = explain.survives.iter().map(|survival| {
            let (loss, layers_missing, bytes_missing) = match survival.loss {
                Loss::Covered => match uncovered(plan, survival.node, &standing) {
                    0 => ("covered", 0, 0),
                    layers => ("reload", layers, 0),
                },
                Loss::Reload => ("reload", 0, 0),
                Loss::Short(bytes) => ("short", 0, bytes),
            };
            SurvivalView {
                node: self.node_name(survival.node),
                loss: loss.to_owned(),
                layers_missing,
                bytes_missing,
            }
        });
        let reasons = explain
            .reasons
            .iter()
            .map(|reason| (self.node_name(reason.node), reason.text.clone()));
        let micros_per_token = explain.tpot_micros.max(1) as f64;
        PlanView {
            id: plan.id.to_string(),
            model: plan.model.name.clone(),
            strategy: explain.strategy.clone(),
            stages: stages.collect(),
            forecast: ForecastView {
                ttft_ms: explain.ttft_micros as f64 / 1e3,
                ttft_prompt_tokens: explain.ttft_prompt_tokens,
                tokens_per_second: 1e6 / micros_per_token,
                hops_ms: explain.hops_micros as f64 / 1e3,
                many: ManyView {
                    streams: explain.many_streams,
                    tokens_per_second: explain.many_tokens_per_kilosecond as f64 / 1e3,
                    tpot_ms: explain.many_tpot_micros as f64 / 1e3,
                },
            },
            measured: self
                .load
                .and_then(|load| load.measured)
                .map(|speed| MeasuredView {
                    ttft_ms: speed.ttft_ms,
                    tokens_per_second: speed.tokens_per_second,
                }),
            balance: f64::from(explain.balance_permille) / 1e3,
            reasons: reasons.collect(),
            left_out: left_out(plan).map(str::to_owned).collect(),
            survives: survives.collect(),
            proof: (explain.lower_bound_nanos > 0).then(|| ProofView {
                objective_ms: explain.objective_nanos as f64 / 1e6,
                lower_bound_ms: explain.lower_bound_nanos as f64 / 1e6,
                exact: explain.lower_bound_nanos == explain.objective_nanos,
            }),
        }
    }

    fn nodes(&self) -> Vec<NodeView> {
        let mut nodes: Vec<NodeView> = self.view.nodes.iter().map(|id| self.node(*id)).collect();
        nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        nodes
    }

    fn node(&self, id: NodeId) -> NodeView {
        let capability = self.told.capabilities.get(&id);
        let status = self.told.statuses.get(&id).cloned().unwrap_or_default();
        let stages = self.plan.iter().flat_map(|plan| &plan.stages);
        let stage = stages.into_iter().find(|stage| stage.node == id);
        NodeView {
            name: self.node_name(id),
            id: id.to_string(),
            me: id == self.me,
            leader: self.view.leader == Some(id),
            version: capability.map_or_else(String::new, |c| c.version.clone()),
            layers: stage.map(|stage| [stage.first, stage.end]),
            memory_usable_bytes: capability.map_or(0, |c| c.memory_bytes),
            accelerator: capability.and_then(|c| c.accelerator.clone()),
            threads: capability.map_or(0, |c| c.threads),
            decode_bytes_per_second: capability.map_or(0, |c| c.decode_bytes_per_second),
            resident_bytes: status.resident_bytes,
            weight_bytes: status.weight_bytes,
            standby_layers: status
                .standing
                .iter()
                .flat_map(|standing| &standing.layers)
                .map(|range| range.end - range.first)
                .sum(),
            kv_bytes: status.kv_bytes,
            uptime_ms: status.uptime_millis,
            loading: f64::from(status.loading_permille) / 1e3,
            sequences: status.sequences,
            rows_total: status.rows_total,
            forward_ms: status.forward_micros_total as f64
                / status.forwards_total.max(1) as f64
                / 1e3,
            frames_stale_total: status.frames_stale_total,
            frames_refused_total: status.frames_refused_total,
            prefix_hits_total: status.prefix_hits_total,
            prefix_rows_total: status.prefix_rows_total,
            links: status.links.iter().map(|link| self.link(link)).collect(),
        }
    }

    fn link(&self, link: &LinkSeen) -> LinkView {
        LinkView {
            node: self.node_name(link.peer),
            round_trip_ms: link.round_trip_micros as f64 / 1e3,
            bytes_per_second: (link.bytes_per_second > 0).then_some(link.bytes_per_second),
        }
    }
}

fn model_view(plan: &Plan) -> ModelView {
    let digits = plan.model.sha256.iter().map(|byte| format!("{byte:02x}"));
    ModelView {
        name: plan.model.name.clone(),
        sha256: digits.collect(),
        file_bytes: plan.model.file_bytes,
        layers: plan.model.layers,
        context: plan.context,
    }
}
