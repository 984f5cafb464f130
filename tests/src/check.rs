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
    /// When it went back to an older plan or took one of an older term than it is in, when a
    /// plan does not cover every layer once, or when two nodes know different plans by one name.
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
        let term = self.terms.get(&(node, boot)).copied().unwrap_or_default();
        assert!(
            term <= plan.id.term,
            "{node}: plan {} in term {term}",
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

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_wire::control::{Explain, ModelRef, Stage};

    const ONE: NodeId = NodeId([1; 32]);
    const BOOT: BootId = BootId(1);

    fn plan(number: u64, epoch: u64) -> Arc<Plan> {
        let leader = ONE;
        let term = Term { number, leader };
        Arc::new(Plan {
            id: PlanId { term, epoch },
            model: ModelRef {
                name: String::new(),
                sha256: [0; 32],
                file_bytes: 1,
                layers: 1,
            },
            context: 1,
            sequences: 1,
            stages: vec![Stage {
                node: ONE,
                first: 0,
                end: 1,
                standbys: Vec::new(),
                memory_bytes: 0,
            }],
            groups: 1,
            explain: Explain::default(),
        })
    }

    /// A checker that has seen node 1 lead term 2 with its plan of epoch 2.
    fn checker() -> Checker {
        let mut checker = Checker::default();
        let term = plan(2, 2).id.term;
        checker.leaders.insert(term, (ONE, BOOT));
        checker.leaders.insert(plan(1, 1).id.term, (ONE, BOOT));
        checker.terms.insert((ONE, BOOT), term);
        checker.plan(ONE, BOOT, &plan(2, 2));
        checker
    }

    #[test]
    fn a_later_plan_passes() {
        checker().plan(ONE, BOOT, &plan(2, 3));
    }

    #[test]
    #[should_panic(expected = "after a later one")]
    fn an_older_plan_is_noticed() {
        checker().plan(ONE, BOOT, &plan(2, 1));
    }

    #[test]
    #[should_panic(expected = "in term")]
    fn a_plan_of_a_past_term_is_noticed() {
        let other = NodeId([2; 32]);
        let mut checker = checker();
        checker.terms.insert((other, BOOT), plan(2, 2).id.term);
        checker.plan(other, BOOT, &plan(1, 1));
    }
}
