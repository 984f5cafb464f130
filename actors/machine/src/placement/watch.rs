//! What the leader sees of the plan in force, and the question whether another would be better.
//!
//! The judgement itself is the planner's; when it is asked for is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use cairn_planner::{
    Decision, DeviceId, History, Known, Link, Margin, Observed, Request, Strategy, check, review,
};
use cairn_wire::control::{Drift, LinkSeen, Plan, StageSeen};
use cairn_wire::id::{NodeId, PlanId};
use cairn_wire::limits::SEEN_MAX;

use super::request::{links, ranges};
use crate::Tick;

/// Between two judgements.
const REVIEW_MILLIS: u64 = 1_000;
/// A judgement that takes long is made the more rarely: it may cost one part in so many of a core.
const REVIEW_SHARE: u64 = 20;
/// Nodes tell of themselves once a second; what was told longer ago says nothing about now.
const STALE_MILLIS: u64 = 3_000;

/// What a node told of its stage and its links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its stage, while it decodes.
    pub stage: Option<StageSeen>,
    /// Its links.
    pub links: Vec<LinkSeen>,
}

/// A question for the planner: is there a better plan than the running one?
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Comes back with the answer.
    pub number: u64,
    /// The devices as they tell of themselves.
    pub request: Request,
    /// Who runs which layers.
    pub running: Vec<(DeviceId, Range<u32>)>,
    /// What their stages were seen to take.
    pub observed: Vec<Observed>,
    /// What earlier answers left behind.
    pub history: History,
}

/// The planner's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The plan to move to, if layers shall move, and by how much it is better in thousandths.
    pub better: Option<(cairn_planner::Plan, u64)>,
    /// For the next question.
    pub history: History,
}

impl Question {
    /// Asks the planner. May take a second.
    ///
    /// # Errors
    /// Why there is nothing to judge: the running split does not hold any more, or the planner
    /// made a plan that its own check refuses.
    pub fn judge(&self) -> Result<Judgement, String> {
        let judged = review(
            &self.request,
            &self.running,
            &self.observed,
            &self.history,
            Margin::calm(),
        );
        let judged = judged.map_err(|error| error.to_string())?;
        let better = match judged.decision {
            Decision::Stay | Decision::Wait { .. } => None,
            Decision::Move { gain_permille } => {
                check(&judged.candidate, &self.request).map_err(|faults| format!("{faults:?}"))?;
                Some((judged.candidate, gain_permille))
            }
        };
        Ok(Judgement {
            better,
            history: judged.history,
        })
    }
}

/// Whether speed has a say in a strategy's plans. A user's own list is the user's; equal shares,
/// and shares by memory, are the same however slow a device is.
pub(super) fn follows_speed(strategy: &Strategy) -> bool {
    match strategy {
        Strategy::Compute | Strategy::Balanced | Strategy::Optimal => true,
        Strategy::Uniform | Strategy::Memory | Strategy::Custom(_) => false,
    }
}

/// What was seen, and what is being asked.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: BTreeMap<NodeId, (Tick, Seen)>,
    pub(super) history: History,
    asked: Option<Asked>,
    number: u64,
    due: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    number: u64,
    plan: PlanId,
    at: Tick,
}

impl Watch {
    /// A node told of itself.
    pub(super) fn told(&mut self, now: Tick, from: NodeId, seen: Seen) {
        self.seen.insert(from, (now, seen));
    }

    /// Forgets those who left.
    pub(super) fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.seen.retain(|node, _| is_member(node));
    }

    /// This node leads anew. What another leader knew is in the plan that it left.
    pub(super) fn begin(&mut self, me: NodeId, in_force: Option<&Plan>) {
        self.asked = None;
        if let Some(plan) = in_force.filter(|plan| plan.id.term.leader != me) {
            let known = plan.explain.drifts.iter().map(known_of);
            self.history = History::told_by_another(known, plan.explain.shared_permille);
        }
    }

    /// When to look next; nothing while an answer is awaited.
    pub(super) fn deadline(&self) -> Option<Tick> {
        self.asked.is_none().then_some(self.due)
    }

    /// Whether it is time to look. Counts as looking.
    pub(super) fn look(&mut self, now: Tick) -> bool {
        let due = self.asked.is_none() && now >= self.due;
        if due {
            self.due = now.after_millis(REVIEW_MILLIS);
        }
        due
    }

    /// What is known of the links.
    pub(super) fn links(&self, now: Tick, request: &Request) -> Vec<Link> {
        let fresh = self.fresh(now);
        let seen: BTreeMap<NodeId, &[LinkSeen]> = fresh
            .map(|(node, seen)| (node, seen.links.as_slice()))
            .collect();
        links(&seen, request)
    }

    /// Whether the link between each two of these nodes was measured by one of them.
    pub(super) fn knows_links(&self, now: Tick, nodes: &BTreeSet<NodeId>) -> bool {
        let peers = |seen: &Seen| seen.links.iter().map(|link| link.peer).collect();
        let told: BTreeMap<NodeId, BTreeSet<NodeId>> = self
            .fresh(now)
            .map(|(node, seen)| (node, peers(seen)))
            .collect();
        let sees = |node, peer| told.get(node).is_some_and(|peers| peers.contains(peer));
        nodes.iter().enumerate().all(|(place, node)| {
            let mut others = nodes.iter().skip(place + 1);
            others.all(|other| sees(node, other) || sees(other, node))
        })
    }

    /// The question about the plan in force.
    pub(super) fn ask(&mut self, now: Tick, plan: &Plan, request: Request) -> Question {
        let stages = self.fresh(now).filter_map(|(node, seen)| {
            let stage = seen.stage.filter(|stage| stage.plan == plan.id)?;
            Some(Observed {
                device: DeviceId(node.0),
                decode_micros: stage.decode_micros,
            })
        });
        let observed = stages.collect();
        self.number += 1;
        self.asked = Some(Asked {
            number: self.number,
            plan: plan.id,
            at: now,
        });
        Question {
            number: self.number,
            request,
            running: ranges(plan),
            observed,
            history: self.history.clone(),
        }
    }

    /// The plan that an answer is about, if this is the answer that is awaited.
    pub(super) fn answered(&mut self, now: Tick, number: u64) -> Option<PlanId> {
        let asked = self.asked.take_if(|asked| asked.number == number)?;
        let pause = now.millis_since(asked.at).saturating_mul(REVIEW_SHARE);
        self.due = self.due.max(now.after_millis(pause));
        Some(asked.plan)
    }

    /// What whoever leads next must know.
    pub(super) fn drifts(&self) -> Vec<Drift> {
        let known = self.history.known().take(SEEN_MAX);
        known.map(|(id, known)| drift_of(id, known)).collect()
    }

    fn fresh(&self, now: Tick) -> impl Iterator<Item = (NodeId, &Seen)> {
        let recent = move |at: Tick| now.millis_since(at) <= STALE_MILLIS;
        let fresh = self.seen.iter().filter(move |(_, (at, _))| recent(*at));
        fresh.map(|(node, (_, seen))| (*node, seen))
    }
}

fn known_of(drift: &Drift) -> (DeviceId, Known) {
    let known = Known {
        drift: cairn_planner::Drift {
            forecast_micros: drift.forecast_micros,
            measured_micros: drift.measured_micros,
        },
        told: drift.told_bytes_per_second,
    };
    (DeviceId(drift.node.0), known)
}

fn drift_of(id: DeviceId, known: Known) -> Drift {
    Drift {
        node: NodeId(id.0),
        told_bytes_per_second: known.told,
        forecast_micros: known.drift.forecast_micros,
        measured_micros: known.drift.measured_micros,
    }
}
