//! Questions to a plan, and the check of one that came from a peer.

use std::collections::BTreeSet;

use cairn_wire::control::Plan;
use cairn_wire::id::NodeId;

/// What is wrong with a plan. The sender is at fault; nothing is loaded for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanFault {
    /// It has no stages.
    Empty,
    /// Stage `stage` does not start where the one before it ends, or holds no layer.
    NotContiguous {
        /// Index of the stage.
        stage: usize,
    },
    /// The stages do not end with the model's last layer.
    NotWhole,
    /// A node owns two stages.
    OwnerTwice {
        /// The node.
        node: NodeId,
    },
    /// No KV rows or no sequences.
    NoRoom,
}

/// Checks that the stages cover every layer exactly once, on distinct nodes.
pub fn check(plan: &Plan) -> Result<(), PlanFault> {
    if plan.stages.is_empty() || plan.stages.len() > usize::from(u16::MAX) {
        return Err(PlanFault::Empty);
    }
    if plan.context == 0 || plan.sequences == 0 {
        return Err(PlanFault::NoRoom);
    }
    let mut next = 0;
    let mut owners = BTreeSet::new();
    for (index, stage) in plan.stages.iter().enumerate() {
        if stage.first != next || stage.end <= stage.first {
            return Err(PlanFault::NotContiguous { stage: index });
        }
        next = stage.end;
        if !owners.insert(stage.node) {
            return Err(PlanFault::OwnerTwice { node: stage.node });
        }
    }
    if next != plan.model.layers {
        return Err(PlanFault::NotWhole);
    }
    Ok(())
}

/// The index of the stage that `node` owns.
pub fn stage_of(plan: &Plan, node: NodeId) -> Option<u16> {
    let index = plan.stages.iter().position(|stage| stage.node == node)?;
    Some(u16::try_from(index).expect("the number of stages was checked"))
}

/// The owner of stage `index`, if there is such a stage.
pub fn owner(plan: &Plan, index: u16) -> Option<NodeId> {
    plan.stages.get(usize::from(index)).map(|stage| stage.node)
}

/// Why the devices without a stage have none, a line each.
pub fn left_out(plan: &Plan) -> impl Iterator<Item = &str> {
    let without = |node| plan.stages.iter().all(|stage| stage.node != node);
    let reasons = plan.explain.reasons.iter();
    reasons
        .filter(move |reason| without(reason.node))
        .map(|reason| reason.text.as_str())
}

/// The index of the last stage.
pub fn last_stage(plan: &Plan) -> u16 {
    u16::try_from(plan.stages.len() - 1).expect("a checked plan has 1 to 65,535 stages")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::plan;

    #[test]
    fn a_whole_plan_passes() {
        assert_eq!(check(&plan(&[(1, 0..3), (2, 3..4)])), Ok(()));
    }

    #[test]
    fn every_fault_is_found() {
        let cases = [
            (plan(&[]), PlanFault::Empty),
            (plan(&[(1, 1..3)]), PlanFault::NotContiguous { stage: 0 }),
            (
                plan(&[(1, 0..2), (2, 3..4)]),
                PlanFault::NotContiguous { stage: 1 },
            ),
            (
                plan(&[(1, 0..2), (2, 2..2)]),
                PlanFault::NotContiguous { stage: 1 },
            ),
            (
                plan(&[(1, 0..2), (1, 2..4)]),
                PlanFault::OwnerTwice {
                    node: crate::fixture::node(1),
                },
            ),
        ];
        for (plan, fault) in cases {
            assert_eq!(check(&plan), Err(fault));
        }
        let mut short = plan(&[(1, 0..2)]);
        short.model.layers = 3;
        assert_eq!(check(&short), Err(PlanFault::NotWhole));
        let mut roomless = plan(&[(1, 0..2)]);
        roomless.context = 0;
        assert_eq!(check(&roomless), Err(PlanFault::NoRoom));
    }
}
