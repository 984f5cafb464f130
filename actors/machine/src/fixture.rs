//! Small plans and nodes for the tests beside the machines.

use std::ops::Range;

use cairn_wire::control::{Explain, ModelRef, Plan, Stage};
use cairn_wire::id::{NodeId, PlanId, Term};

pub(crate) fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub(crate) fn plan_id(epoch: u64) -> PlanId {
    let term = Term {
        number: 1,
        leader: node(1),
    };
    PlanId { term, epoch }
}

/// A plan of epoch 1 led by node 1, with the given (node, layers).
pub(crate) fn plan(stages: &[(u8, Range<u32>)]) -> Plan {
    let layers = stages.last().map_or(0, |(_, range)| range.end);
    Plan {
        id: plan_id(1),
        model: ModelRef {
            name: "tiny".to_owned(),
            sha256: [0; 32],
            file_bytes: 1,
            layers,
        },
        context: 64,
        sequences: 4,
        stages: stages
            .iter()
            .map(|(number, range)| Stage {
                node: node(*number),
                first: range.start,
                end: range.end,
                standbys: Vec::new(),
                memory_bytes: 0,
            })
            .collect(),
        groups: u16::MAX,
        explain: Explain::default(),
    }
}
