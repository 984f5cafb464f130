//! Who is in the cluster and who leads, as the other machines see it.

use std::collections::BTreeSet;

use cairn_wire::control::Plan;
use cairn_wire::id::{NodeId, Term};

use crate::member::Members;

/// The membership at one moment, made by the `member` machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The adopted term.
    pub term: Term,
    /// Its leader, while it is a member.
    pub leader: Option<NodeId>,
    /// All members, this node among them.
    pub nodes: BTreeSet<NodeId>,
    /// Pairs of members that do not hear each other, the lower first; empty unless this node leads.
    pub deaf: BTreeSet<(NodeId, NodeId)>,
}

impl From<&Members> for View {
    fn from(members: &Members) -> View {
        View {
            term: members.term,
            leader: members.leader(),
            nodes: members.members.keys().copied().collect(),
            deaf: members.deaf.clone(),
        }
    }
}

impl View {
    /// The first owner of a stage of `plan` that is not a member.
    pub fn missing_owner(&self, plan: &Plan) -> Option<NodeId> {
        let owners = plan.stages.iter().map(|stage| stage.node);
        owners.into_iter().find(|node| !self.nodes.contains(node))
    }

    /// Those of `nodes` that all hear each other: taken one by one, `first` before the others,
    /// each if it hears all taken so far. Not always the largest such set, but a stable one.
    pub fn mutual(&self, first: NodeId, nodes: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        if self.deaf.is_empty() {
            return nodes;
        }
        let mut taken = BTreeSet::new();
        let mut rest = nodes;
        let head = rest.take(&first);
        for node in head.into_iter().chain(rest) {
            let hears = |other: &NodeId| !self.deaf.contains(&(node.min(*other), node.max(*other)));
            if taken.iter().all(hears) {
                taken.insert(node);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::node;

    #[test]
    fn of_two_that_do_not_hear_each_other_one_is_taken() {
        let nodes: BTreeSet<NodeId> = [1, 2, 3, 4].map(node).into();
        let mut view = View::default();
        assert_eq!(view.mutual(node(1), nodes.clone()), nodes);
        view.deaf.insert((node(2), node(3)));
        assert_eq!(
            view.mutual(node(1), nodes.clone()),
            [1, 2, 4].map(node).into()
        );
        assert_eq!(
            view.mutual(node(3), nodes),
            [1, 3, 4].map(node).into(),
            "the first is always in"
        );
    }
}
