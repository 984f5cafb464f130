//! Who is in the cluster and who leads, as the other machines see it.

use std::collections::BTreeSet;

use cairn_wire::control::Plan;
use cairn_wire::id::{NodeId, Term};

/// The membership at one moment, made by the `member` machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The adopted term.
    pub term: Term,
    /// Its leader, while it is a member.
    pub leader: Option<NodeId>,
    /// All members, this node among them.
    pub nodes: BTreeSet<NodeId>,
}

impl View {
    /// The first owner of a stage of `plan` that is not a member.
    pub fn missing_owner(&self, plan: &Plan) -> Option<NodeId> {
        let owners = plan.stages.iter().map(|stage| stage.node);
        owners.into_iter().find(|node| !self.nodes.contains(node))
    }
}
