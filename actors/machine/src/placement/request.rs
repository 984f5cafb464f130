//! Translation between the planner's words and the wire's.

use cairn_planner::{Device, DeviceId, Request, Strategy};
use cairn_wire::control::{
    Capability, Explain, Loss, Plan, Reason, Stage, StageForecast, Survival,
};
use cairn_wire::id::{NodeId, PlanId};

use super::{Config, ModelFacts};

/// Memory that a node's process takes besides weights and cache.
const PROCESS_BYTES: u64 = 60 << 20;

/// The planner's question for these members.
pub fn to_request<'a>(
    config: &Config,
    facts: &ModelFacts,
    members: impl Iterator<Item = (&'a NodeId, &'a Capability)>,
) -> Request {
    let devices = members
        .map(|(node, capability)| Device {
            id: DeviceId(node.0),
            name: capability.name.clone(),
            memory_bytes: capability.memory_bytes,
            decode_bytes_per_second: capability.decode_bytes_per_second.max(1),
            prefill_macs_per_second: capability.prefill_macs_per_second.max(1),
        })
        .collect();
    Request {
        strategy: config.strategy.clone(),
        context_tokens: config.context.min(facts.context_max),
        sequences: config.sequences,
        buffer_bytes: PROCESS_BYTES,
        driver: Some(DeviceId(config.me.0)),
        ..Request::new(facts.costs.clone(), devices)
    }
}

/// The plan as it is proposed.
pub fn to_wire(
    config: &Config,
    facts: &ModelFacts,
    id: PlanId,
    solved: &cairn_planner::Plan,
) -> Plan {
    let stages = solved
        .stages
        .iter()
        .map(|stage| Stage {
            node: NodeId(stage.device.0),
            first: stage.layers.start,
            end: stage.layers.end,
            // Nodes do not load for others yet, so a plan must not claim that they do.
            standbys: Vec::new(),
            memory_bytes: stage.memory_bytes,
        })
        .collect();
    let reasons = solved
        .reasons
        .iter()
        .map(|reason| Reason {
            node: NodeId(reason.device.0),
            text: reason.to_string(),
        })
        .collect();
    Plan {
        id,
        model: facts.model.clone(),
        context: config.context.min(facts.context_max),
        sequences: config.sequences,
        stages,
        explain: Explain {
            strategy: strategy_name(&config.strategy).to_owned(),
            tpot_micros: solved.forecast.tpot_micros,
            ttft_micros: solved.forecast.ttft_micros,
            ttft_prompt_tokens: solved.forecast.prompt_tokens,
            hops_micros: solved.forecast.hops_micros,
            many_streams: solved.forecast.streams,
            many_tpot_micros: solved.forecast.many_tpot_micros,
            // Far below 2^53, so the cast is exact enough.
            many_tokens_per_kilosecond: (solved.forecast.many_tokens_per_second * 1e3) as u64,
            objective_nanos: solved.proof.objective_nanos,
            lower_bound_nanos: solved.proof.lower_bound_nanos,
            stages: solved.forecast.stages.iter().map(stage_forecast).collect(),
            survives: solved.survives.iter().map(survival).collect(),
            balance_permille: permille(solved.balance),
            reasons,
        },
    }
}

fn stage_forecast(stage: &cairn_planner::StageForecast) -> StageForecast {
    StageForecast {
        decode_micros: stage.decode_micros,
        prefill_chunk_micros: stage.prefill_chunk_micros,
        free_bytes: stage.free_bytes,
    }
}

fn survival(survival: &cairn_planner::Survival) -> Survival {
    Survival {
        node: NodeId(survival.device.0),
        loss: match survival.loss {
            // Standbys are planned, but not loaded yet.
            cairn_planner::Loss::Covered | cairn_planner::Loss::Reload => Loss::Reload,
            cairn_planner::Loss::Short { bytes_missing } => Loss::Short(bytes_missing),
        },
    }
}

fn strategy_name(strategy: &Strategy) -> &'static str {
    match strategy {
        Strategy::Uniform => "uniform",
        Strategy::Memory => "memory",
        Strategy::Compute => "compute",
        Strategy::Balanced => "balanced",
        Strategy::Optimal => "optimal",
        Strategy::Custom(_) => "custom",
    }
}

fn permille(share: f64) -> u32 {
    // A score between 0 and 1, so the cast cannot lose more than rounding.
    (share.clamp(0.0, 1.0) * 1000.0).round() as u32
}
