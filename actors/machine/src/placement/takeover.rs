//! When an owner is lost: a split that the others have in memory, so that nothing is read.
//!
//! A stopgap. It takes what is there and does not look at speed; the strategy's own plan
//! is made while it serves.

use std::collections::BTreeMap;
use std::ops::Range;

use cairn_planner::DeviceId;
use cairn_wire::control::{LayerRange, Plan, Standing};
use cairn_wire::id::NodeId;

use crate::plan::joined;
use crate::view::View;

/// Tries before it is left to the planner; a household needs a handful.
const STEPS_MAX: u32 = 10_000;

/// A split of `plan`'s layers over those of `nodes` that have them, if a plan in force has lost
/// an owner and its standbys have loaded enough.
pub(super) fn takeover(
    plan: &Plan,
    view: &View,
    nodes: impl Iterator<Item = NodeId>,
    standing: &BTreeMap<NodeId, Standing>,
) -> Option<Vec<(DeviceId, Range<u32>)>> {
    view.missing_owner(plan)?;
    let held = nodes.map(|node| {
        let own = plan.stages.iter().filter(|stage| stage.node == node);
        let own = own.map(|stage| LayerRange {
            first: stage.first,
            end: stage.end,
        });
        let told = standing.get(&node).filter(|told| told.plan == plan.id);
        let told = told.into_iter().flat_map(|told| told.layers.clone());
        (node, joined(own.chain(told).collect()))
    });
    let mut search = Search {
        held: held.collect(),
        layers: plan.model.layers,
        steps: STEPS_MAX,
        chosen: Vec::new(),
    };
    search.cover(0).then_some(search.chosen)
}

/// Backtracking over who comes next. Whoever does takes all that it has: a stage that ends
/// earlier leaves more to the others, never less.
struct Search {
    held: BTreeMap<NodeId, Vec<LayerRange>>,
    layers: u32,
    steps: u32,
    chosen: Vec<(DeviceId, Range<u32>)>,
}

impl Search {
    fn cover(&mut self, from: u32) -> bool {
        if from >= self.layers {
            return true;
        }
        let is_free = |node: &NodeId| self.chosen.iter().all(|(device, _)| device.0 != node.0);
        let free = self.held.iter().filter(|(node, _)| is_free(node));
        let mut next: Vec<(u32, NodeId)> = free
            .filter_map(|(node, ranges)| {
                let has = |range: &&LayerRange| range.first <= from && from < range.end;
                Some((ranges.iter().find(has)?.end, *node))
            })
            .collect();
        // The furthest first: fewest stages.
        next.sort_unstable_by(|a, b| b.cmp(a));
        for (end, node) in next {
            if self.steps == 0 {
                return false;
            }
            self.steps -= 1;
            self.chosen.push((DeviceId(node.0), from..end));
            if self.cover(end) {
                return true;
            }
            self.chosen.pop();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{node, plan, plan_id};

    /// Stages of two layers on nodes 1, 2 and 3, of which `lost` is gone; the split that the
    /// nodes that stand by with these layers give.
    fn split(lost: u8, told: &[(u8, &[(u32, u32)])]) -> Option<Vec<(u8, Range<u32>)>> {
        let plan = plan(&[(1, 0..2), (2, 2..4), (3, 4..6)]);
        let there = [1, 2, 3, 4].into_iter().filter(|number| *number != lost);
        let view = View {
            nodes: there.map(node).collect(),
            ..View::default()
        };
        let standing = |ranges: &[(u32, u32)]| Standing {
            plan: plan_id(1),
            layers: ranges
                .iter()
                .map(|&(first, end)| LayerRange { first, end })
                .collect(),
        };
        let told = told.iter();
        let told = told.map(|(number, ranges)| (node(*number), standing(ranges)));
        let found = takeover(&plan, &view, view.nodes.iter().copied(), &told.collect())?;
        Some(
            found
                .into_iter()
                .map(|(device, layers)| (device.0[0], layers))
                .collect(),
        )
    }

    #[test]
    fn whoever_stands_by_takes_over() {
        assert_eq!(
            split(2, &[(1, &[(2, 4)])]),
            Some(vec![(1, 0..4), (3, 4..6)]),
            "a neighbour"
        );
        assert_eq!(
            split(2, &[(4, &[(2, 4)])]),
            Some(vec![(1, 0..2), (4, 2..4), (3, 4..6)]),
            "one without a stage"
        );
        assert_eq!(
            split(2, &[(1, &[(2, 3)]), (3, &[(3, 4)])]),
            Some(vec![(1, 0..3), (3, 3..6)]),
            "two with a part each"
        );
        assert_eq!(
            split(3, &[(1, &[(2, 6)])]),
            Some(vec![(1, 0..6)]),
            "a node has one stage, so it takes what lies between too"
        );
    }

    #[test]
    fn without_all_layers_nobody_does() {
        assert_eq!(split(9, &[(1, &[(2, 6)])]), None, "nobody is lost");
        assert_eq!(split(2, &[]), None);
        assert_eq!(split(2, &[(1, &[(2, 3)])]), None, "layer 3 is nowhere");
        assert_eq!(split(3, &[(1, &[(4, 6)])]), None, "a node has one stage");
    }
}
