//! What must hold after every step, whatever went wrong. Panics; the seed is told by the caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_machine::member::Members;
use cairn_wire::control::{Plan, Role};
use cairn_wire::id::{BootId, NodeId, PlanId, Term};

/// Remembers what was seen, over all nodes and all their runs.
#[derive(Debug, Default)]
pub struct Checker {
    leaders: BTreeMap<Term, (NodeId, BootId)>,
    terms: BTreeMap<(NodeId, BootId), Term>,
    plans: BTreeMap<PlanId, Arc<Plan>>,
    adopted: BTreeMap<(NodeId, BootId), PlanId>,
}

impl Checker {
    /// Looks at a node's membership after it has taken a step.
    ///
    /// # Panics
    /// When two runs lead one term, a term goes back, or a leader's term is not on its disk.
    pub fn members(&mut self, node: NodeId, boot: BootId, disk_term: u64, members: &Members) {
        let term = self.terms.entry((node, boot)).or_default();
        assert!(
            *term <= members.term,
            "{node}: term {} after {term}",
            members.term
        );
        *term = members.term;
        if members.role == Role::Leading {
            let leader = self.leaders.entry(members.term).or_insert((node, boot));
            assert_eq!(
                *leader,
                (node, boot),
                "two leaders in term {}",
                members.term
            );
            assert!(
                members.term.number <= disk_term,
                "leads a term that its disk forgets"
            );
        }
    }

    /// Looks at the plan that a node has in force after it has taken a step.
    ///
    /// # Panics
    /// When it went back to an older plan, when a plan does not cover every layer once, or
    /// when two nodes know different plans by one name.
    pub fn plan(&mut self, node: NodeId, boot: BootId, plan: &Arc<Plan>) {
        let before = self.adopted.insert((node, boot), plan.id);
        if before == Some(plan.id) {
            return;
        }
        assert!(
            before < Some(plan.id),
            "{node}: plan {} after a later one",
            plan.id
        );
        assert_eq!(cairn_machine::plan::check(plan), Ok(()));
        let known = self
            .plans
            .entry(plan.id)
            .or_insert_with(|| Arc::clone(plan));
        assert_eq!(known, plan, "one name for two plans");
        let led = self.leaders.get(&plan.id.term).map(|(leader, _)| *leader);
        assert_eq!(
            led,
            Some(plan.id.term.leader),
            "a plan of a term that nobody led"
        );
    }

    /// How many plans came into force anywhere so far.
    pub fn plans_adopted(&self) -> usize {
        self.plans.len()
    }

    /// How many terms had a leader so far.
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }
}

/// Whether the nodes agree: one leads, all the others follow it, everybody counts everybody.
pub fn agree<'a>(nodes: impl Iterator<Item = (NodeId, BootId, &'a Members)> + Clone) -> bool {
    let boots: BTreeMap<NodeId, BootId> =
        nodes.clone().map(|(node, boot, _)| (node, boot)).collect();
    let mut leading = 0;
    let mut terms = nodes.clone().map(|(_, _, members)| members.term);
    let term = terms.next();
    if terms.any(|other| Some(other) != term) {
        return false;
    }
    for (_, _, members) in nodes {
        match members.role {
            Role::Leading => leading += 1,
            Role::Following => {}
            Role::Seeking => return false,
        }
        let counted = members
            .members
            .iter()
            .map(|(node, member)| (*node, member.boot));
        if !counted.eq(boots.iter().map(|(node, boot)| (*node, *boot))) {
            return false;
        }
    }
    leading == 1 || boots.is_empty()
}
