//! Translation between the planner's words and the wire's.

use std::collections::BTreeMap;
use std::ops::Range;

use cairn_planner::{Detail, Device, DeviceId, Link, Request, Sharing, Strategy};
use cairn_wire::control::{
    Capability, Drift, Explain, LayerRange, LinkSeen, Loss, Plan, Reason, Stage, StageForecast,
    Standby, Survival,
};
use cairn_wire::id::{NodeId, PlanId};
use cairn_wire::limits::STANDBYS_MAX;

use super::{Config, ModelFacts};
use crate::pipeline::CHUNK_ROWS;

/// Memory that a node's process takes besides weights and cache.
const PROCESS_BYTES: u64 = 60 << 20;

/// The planner's question for these members.
pub fn to_request<'a>(
    config: &Config,
    facts: &ModelFacts,
    members: impl Iterator<Item = (&'a NodeId, &'a Capability)>,
) -> Request {
    let devices = members
        .map(|(node, capability)| device(*node, capability))
        .collect();
    Request {
        strategy: config.strategy.clone(),
        context_tokens: config.context.min(facts.context_max),
        sequences: config.sequences,
        prefill_chunk_rows: CHUNK_ROWS,
        buffer_bytes: PROCESS_BYTES,
        ..Request::new(facts.costs.clone(), devices)
    }
}

/// The running split in the planner's words.
pub(super) fn ranges(plan: &Plan) -> Vec<(DeviceId, Range<u32>)> {
    let stages = plan.stages.iter();
    stages
        .map(|stage| (DeviceId(stage.node.0), stage.first..stage.end))
        .collect()
}

/// The links between the request's devices, as their ends have seen them. A round trip is the
/// same both ways, so the shorter measurement counts: the longer one was disturbed.
pub(super) fn links(seen: &BTreeMap<NodeId, &[LinkSeen]>, request: &Request) -> Vec<Link> {
    let find = |node: DeviceId, peer: DeviceId| {
        let links = seen.get(&NodeId(node.0))?;
        links.iter().find(|link| link.peer.0 == peer.0)
    };
    let mut links = Vec::new();
    for to in &request.devices {
        for from in request.devices.iter().filter(|from| from.id != to.id) {
            let (here, there) = (find(to.id, from.id), find(from.id, to.id));
            let both = || here.into_iter().chain(there);
            let Some(round_trip) = both().map(|link| link.round_trip_micros).min() else {
                continue;
            };
            let speed = both()
                .map(|link| link.bytes_per_second)
                .find(|speed| *speed > 0);
            links.push(Link {
                from: from.id,
                to: to.id,
                round_trip_micros: coarse(round_trip),
                bytes_per_second: speed.map_or(request.default_link.bytes_per_second, coarse),
            });
        }
    }
    links
}

/// Four binary digits are as much as such a measurement is worth, and with three a hop that is
/// mostly wire would be off by an eighth. Links that are alike shall
/// look alike: the planner has far less to search then, and noise changes no question.
fn coarse(number: u64) -> u64 {
    let dropped = (u64::BITS - number.leading_zeros()).saturating_sub(4);
    let half = (1u64 << dropped) >> 1;
    (number.saturating_add(half) >> dropped) << dropped
}

/// What a plan was made with besides the devices' own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corrections {
    /// Devices that are not as fast as they told.
    pub drifts: Vec<Drift>,
    /// What the others are taken to be off by, in thousandths; 0 is unknown.
    pub shared_permille: u64,
}

/// A member as the planner sees it: with the speeds that it has in the long run.
fn device(node: NodeId, capability: &Capability) -> Device {
    let share = u64::from(capability.share_permille.clamp(1, 1000));
    let speed = |per_second: u64| {
        let lasting = u128::from(per_second) * u128::from(share) / 1000;
        u64::try_from(lasting).unwrap_or(u64::MAX).max(1)
    };
    Device {
        id: DeviceId(node.0),
        name: capability.name.clone(),
        memory_bytes: capability.memory_bytes,
        decode_bytes_per_second: speed(capability.decode_bytes_per_second),
        prefill_macs_per_second: speed(capability.prefill_macs_per_second),
        detail: Detail {
            layer_nanos: capability.layer_nanos.saturating_mul(1000) / share,
            head_bytes_per_second: Some(speed(capability.head_bytes_per_second)),
            cache_bytes_per_second: Some(speed(capability.cache_bytes_per_second)),
            attention_macs_per_second: Some(speed(capability.attention_macs_per_second)),
            kv_permille: Some(capability.kv_permille),
            sharing: Some(Sharing {
                host: capability.host,
                host_cores: capability.host_cores,
                threads: capability.threads,
                // At most a million.
                burst_permille: (1_000_000 / share) as u32,
            }),
        },
    }
}

/// The plan as it is proposed.
pub fn to_wire(
    config: &Config,
    facts: &ModelFacts,
    id: PlanId,
    solved: &cairn_planner::Plan,
    corrections: Corrections,
) -> Plan {
    let stages: Vec<Stage> = solved
        .stages
        .iter()
        .map(|stage| Stage {
            node: NodeId(stage.device.0),
            first: stage.layers.start,
            end: stage.layers.end,
            standbys: standbys(solved, &stage.layers),
            memory_bytes: stage.memory_bytes,
        })
        .collect();
    let survives = solved.survives.iter();
    let survives = survives.map(|one| survival(one, &stages)).collect();
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
        groups: u16::try_from(solved.forecast.groups).unwrap_or(u16::MAX),
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
            survives,
            balance_permille: permille(solved.balance),
            reasons,
            drifts: corrections.drifts,
            shared_permille: corrections.shared_permille,
        },
        stages,
    }
}

/// Who keeps which layers of a stage. More pieces than a plan may name are none at all, because
/// a part of a stage saves nobody.
fn standbys(solved: &cairn_planner::Plan, stage: &Range<u32>) -> Vec<Standby> {
    let inside = |layers: &Range<u32>| stage.start <= layers.start && layers.end <= stage.end;
    let pieces = solved.standbys.iter().filter(|one| inside(&one.layers));
    let standbys: Vec<Standby> = pieces
        .map(|one| Standby {
            node: NodeId(one.device.0),
            layers: LayerRange {
                first: one.layers.start,
                end: one.layers.end,
            },
        })
        .collect();
    match standbys.len() > STANDBYS_MAX {
        true => Vec::new(),
        false => standbys,
    }
}

fn stage_forecast(stage: &cairn_planner::StageForecast) -> StageForecast {
    StageForecast {
        decode_micros: stage.decode_micros,
        prefill_chunk_micros: stage.prefill_chunk_micros,
        free_bytes: stage.free_bytes,
    }
}

fn survival(survival: &cairn_planner::Survival, stages: &[Stage]) -> Survival {
    let node = NodeId(survival.device.0);
    let stands_by = |stage: &Stage| stage.node == node && !stage.standbys.is_empty();
    Survival {
        node,
        loss: match survival.loss {
            cairn_planner::Loss::Covered if stages.iter().any(stands_by) => Loss::Covered,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::node;

    #[test]
    fn figures_are_rounded_to_four_binary_digits() {
        for (number, rounded) in [
            (0, 0),
            (1, 1),
            (7, 7),
            (15, 15),
            (17, 18),
            (100, 104),
            (109, 112),
            (300, 288),
            (117_000_000, 117_440_512),
        ] {
            assert_eq!(coarse(number), rounded, "{number}");
        }
        let largest = coarse(u64::MAX);
        assert!(largest > 0, "no overflow: {largest}");
    }

    #[test]
    fn both_ends_of_a_link_tell_of_it() {
        let device = |number| Device {
            id: DeviceId(node(number).0),
            name: String::new(),
            memory_bytes: 1,
            decode_bytes_per_second: 1,
            prefill_macs_per_second: 1,
            detail: Detail::default(),
        };
        let devices = [1, 2, 3].map(device).to_vec();
        let request = Request::new(cairn_planner::Model::default(), devices);
        let seen = |peer, round_trip_micros, bytes_per_second| LinkSeen {
            peer: node(peer),
            round_trip_micros,
            bytes_per_second,
        };
        let one = [seen(2, 64, 0)];
        let two = [seen(1, 80, 1 << 20), seen(9, 1, 1)];
        let told = BTreeMap::from([(node(1), &one[..]), (node(2), &two[..])]);
        let links: Vec<_> = links(&told, &request)
            .into_iter()
            .map(|link| {
                (
                    link.from.0[0],
                    link.to.0[0],
                    link.round_trip_micros,
                    link.bytes_per_second,
                )
            })
            .collect();
        assert_eq!(links, [(2, 1, 64, 1 << 20), (1, 2, 64, 1 << 20)]);
    }

    #[test]
    fn a_limited_node_is_planned_with_what_it_does_in_the_long_run() {
        let capability = Capability {
            name: "a".to_owned(),
            version: "0".to_owned(),
            memory_bytes: 1,
            threads: 2,
            decode_bytes_per_second: 1000,
            prefill_macs_per_second: 4000,
            layer_nanos: 30,
            head_bytes_per_second: 2000,
            cache_bytes_per_second: 600,
            attention_macs_per_second: 800,
            kv_permille: 500,
            share_permille: 250,
            host: 7,
            host_cores: 4,
            wish: None,
            accelerator: None,
        };
        let found = device(NodeId([1; 32]), &capability);
        assert_eq!(found.decode_bytes_per_second, 250);
        assert_eq!(found.prefill_macs_per_second, 1000);
        let detail = found.detail;
        assert_eq!(detail.layer_nanos, 120);
        assert_eq!(detail.head_bytes_per_second, Some(500));
        assert_eq!(detail.cache_bytes_per_second, Some(150));
        assert_eq!(detail.attention_macs_per_second, Some(200));
        assert_eq!(detail.kv_permille, Some(500));
        let sharing = detail.sharing.expect("it has told");
        assert_eq!((sharing.host, sharing.threads), (7, 2));
        assert_eq!(sharing.burst_permille, 4000);
    }
}
