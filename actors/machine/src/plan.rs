//! Questions to a plan, and the check of one that came from a peer.

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::control::{LayerRange, Plan, Stage, Standing};
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

/// The layers that `node` keeps in memory for others.
pub fn standby_of(plan: &Plan, node: NodeId) -> Vec<LayerRange> {
    let standbys = plan.stages.iter().flat_map(|stage| &stage.standbys);
    let mine = standbys.filter(|standby| standby.node == node);
    joined(mine.map(|standby| standby.layers).collect())
}

/// How many layers of an owner's stage no standby has told to have in memory. All of them, where
/// the plan has none stand by.
pub fn uncovered(plan: &Plan, owner: NodeId, standing: &BTreeMap<NodeId, &Standing>) -> u32 {
    let stages = plan.stages.iter().filter(|stage| stage.node == owner);
    let missing = stages.flat_map(|stage| {
        let is_missing = |layer: &u32| !is_kept(plan, stage, *layer, standing);
        (stage.first..stage.end).filter(is_missing)
    });
    u32::try_from(missing.count()).expect("layers are counted in u32")
}

fn is_kept(plan: &Plan, stage: &Stage, layer: u32, standing: &BTreeMap<NodeId, &Standing>) -> bool {
    stage.standbys.iter().any(|standby| {
        let told = standing.get(&standby.node);
        let told = told.filter(|standing| standing.plan == plan.id);
        let mut ranges = told.iter().flat_map(|standing| &standing.layers);
        ranges.any(|range| range.first <= layer && layer < range.end)
    })
}

/// Ranges in order, those that touch or overlap as one.
pub fn joined(mut ranges: Vec<LayerRange>) -> Vec<LayerRange> {
    ranges.sort_unstable();
    let mut joined: Vec<LayerRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.first <= last.end => last.end = last.end.max(range.end),
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

/// The index of the last stage.
pub fn last_stage(plan: &Plan) -> u16 {
    u16::try_from(plan.stages.len() - 1).expect("a checked plan has 1 to 65,535 stages")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{node, plan};
    use cairn_wire::control::Standby;

    fn range(first: u32, end: u32) -> LayerRange {
        LayerRange { first, end }
    }

    #[test]
    fn a_stage_is_covered_once_its_standbys_have_loaded() {
        let mut plan = plan(&[(1, 0..3), (2, 3..6)]);
        plan.stages[1].standbys = [(1, 3, 5), (3, 5, 6)]
            .map(|(number, first, end)| Standby {
                node: node(number),
                layers: range(first, end),
            })
            .into();
        assert_eq!(standby_of(&plan, node(1)), [range(3, 5)]);
        assert_eq!(standby_of(&plan, node(2)), []);
        let told = |id, first, end| Standing {
            plan: id,
            layers: vec![range(first, end)],
        };
        let (one, three) = (told(plan.id, 3, 4), told(plan.id, 5, 6));
        let told_both = BTreeMap::from([(node(1), &one), (node(3), &three)]);
        assert_eq!(uncovered(&plan, node(2), &told_both), 1);
        assert_eq!(uncovered(&plan, node(1), &told_both), 3, "nobody stands by");
        let whole = told(plan.id, 3, 5);
        let told_all = BTreeMap::from([(node(1), &whole), (node(3), &three)]);
        assert_eq!(uncovered(&plan, node(2), &told_all), 0);
        let stale = told(crate::fixture::plan_id(9), 3, 5);
        let told_stale = BTreeMap::from([(node(1), &stale), (node(3), &three)]);
        assert_eq!(uncovered(&plan, node(2), &told_stale), 2, "of another plan");
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let ranges = vec![range(4, 6), range(0, 2), range(2, 3), range(5, 7)];
        assert_eq!(joined(ranges), [range(0, 3), range(4, 7)]);
    }

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
                PlanFault::OwnerTwice { node: node(1) },
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
