//! The leader's half: describe the model, solve, propose, wait for the loads, probe, announce.
//!
//! What it announces goes to every member and to this node's own follower half,
//! which alone holds plans.

mod judge;
mod making;
mod question;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cairn_wire::control::{Abandon, Capability, Control, Plan, Standing};
use cairn_wire::id::{NodeId, PlanId, Term};

use super::request::Corrections;
use super::watch::Watch;
use super::{Config, ModelFacts, Note, Output, to_wire};
use crate::Tick;
use crate::view::View;
use making::{Basis, Kind, Making};

/// Members often arrive together; planning waits until none has for so long.
const SETTLE_MILLIS: u64 = 400;
/// A proposal is repeated to those who have not answered: they may have joined its term late.
const REPEAT_MILLIS: u64 = 2_000;
/// After a failure that nothing in sight explains, the next try waits so long.
const RETRY_MILLIS: u64 = 5_000;
/// A node that failed to load is left out of plans for so long.
const EXCLUDE_MILLIS: u64 = 60_000;

/// Why a node is left out, until when.
#[derive(Clone, Debug)]
pub(super) struct Exclusion {
    until: Tick,
}

/// What the leader says about a plan.
#[derive(Clone, Debug)]
pub(super) enum Announcement {
    /// Load your stage.
    Propose(Box<Plan>),
    /// It is in force.
    Adopt(PlanId),
    /// It will not be in force.
    Abandon(Abandon),
}

/// The plan in the making and what it needs.
#[derive(Debug)]
pub(super) struct Leader {
    config: Config,
    pub(super) capabilities: BTreeMap<NodeId, Capability>,
    /// Announcements for this node's own follower half, taken by the caller.
    pub(super) to_self: VecDeque<Announcement>,
    /// What the members tell of their stages; the leader judges its plan by it.
    pub(super) watch: Watch,
    /// What the members stand by with.
    pub(super) standing: BTreeMap<NodeId, Standing>,
    excluded: BTreeMap<NodeId, Exclusion>,
    facts: Option<ModelFacts>,
    making: Making,
    /// What the plan in force, or the last failure, was for.
    made_for: Option<Basis>,
    /// The term that this node led last.
    term: Term,
    in_force: Option<Arc<Plan>>,
    /// Who was told of the plan in force.
    told: BTreeSet<NodeId>,
    epoch: u64,
    question: u64,
    trouble: String,
    /// Why the plan in force could not be judged, said once.
    unjudged: Option<String>,
}

impl Leader {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            capabilities: BTreeMap::new(),
            to_self: VecDeque::new(),
            watch: Watch::default(),
            standing: BTreeMap::new(),
            excluded: BTreeMap::new(),
            facts: None,
            making: Making::Rest,
            made_for: None,
            term: Term::default(),
            in_force: None,
            told: BTreeSet::new(),
            epoch: 0,
            question: 0,
            trouble: String::new(),
            unjudged: None,
        }
    }

    pub(super) fn waiting_for(&self) -> String {
        match &self.making {
            Making::Rest if self.trouble.is_empty() => "members to join".to_owned(),
            Making::Rest => self.trouble.clone(),
            Making::Settle { .. } if self.trouble.is_empty() => "members to settle".to_owned(),
            Making::Settle { .. } => self.trouble.clone(),
            Making::Look { .. } => "this node's links".to_owned(),
            Making::Describe { basis } => format!("the file of model {}", basis.model),
            Making::Solve { .. } => "the planner".to_owned(),
            Making::Load { waiting, .. } => {
                let names: Vec<_> = waiting.iter().map(|node| self.name(*node)).collect();
                format!("layers to load on {}", names.join(", "))
            }
            Making::Probe { .. } => "the first token".to_owned(),
        }
    }

    /// Called only while this node leads.
    pub(super) fn members_changed(
        &mut self,
        now: Tick,
        view: &View,
        adopted: Option<Arc<Plan>>,
        outputs: &mut VecDeque<Output>,
    ) {
        self.in_force = adopted;
        if let Some(plan) = &self.in_force
            && view.missing_owner(plan).is_some()
        {
            // Should the owner come back, it comes with empty hands.
            self.made_for = None;
        }
        let renewed = std::mem::replace(&mut self.term, view.term) != view.term;
        if renewed {
            // Whoever made this node renew its term holds later plans than those of the old one.
            self.made_for = None;
            self.told.clear();
            self.watch.begin(self.config.me, self.in_force.as_deref());
        }
        self.told.retain(|node| view.nodes.contains(node));
        self.excluded.retain(|node, _| view.nodes.contains(node));
        let hindrance = match &self.making {
            Making::Load { plan, .. } | Making::Probe { plan, .. } => {
                let lost = view.missing_owner(plan);
                let lost = lost.map(|node| format!("{} left", self.name(node)));
                lost.or_else(|| renewed.then(|| "its term is over".to_owned()))
            }
            Making::Rest
            | Making::Settle { .. }
            | Making::Look { .. }
            | Making::Describe { .. }
            | Making::Solve { .. } => None,
        };
        if let Some(cause) = hindrance {
            self.give_up(now, view, &cause, outputs);
        }
        self.consider(now, view);
    }

    /// Another node leads now, or none: what is half made is dropped.
    pub(super) fn step_down(&mut self) {
        self.making = Making::Rest;
        self.made_for = None;
        self.told.clear();
    }

    /// Starts planning when what the last plan was made for has changed.
    pub(super) fn consider(&mut self, now: Tick, view: &View) {
        let wanted = self.basis(view);
        if wanted.nodes.is_empty() {
            return;
        }
        match &mut self.making {
            Making::Rest if self.made_for.as_ref() == Some(&wanted) => {}
            Making::Rest | Making::Settle { .. } => self.making = self.making.pushed_back(now),
            Making::Describe { basis } if basis.model == wanted.model => *basis = wanted,
            Making::Describe { .. } => self.restart(now),
            // What it is made for is asked after that.
            Making::Look { .. } => {}
            // A plan whose owners are all there is finished first: members who
            // trickle in must not keep the others from ever being served.
            Making::Solve { .. } | Making::Load { .. } | Making::Probe { .. } => {}
        }
    }

    pub(super) fn wake(&mut self, now: Tick, view: &View, outputs: &mut VecDeque<Output>) {
        self.excluded.retain(|_, exclusion| now < exclusion.until);
        match &mut self.making {
            Making::Settle { at, link_waits } if now >= *at => {
                let link_waits = *link_waits;
                self.making = Making::Look { link_waits };
                outputs.push_back(Output::Look);
            }
            Making::Load {
                plan,
                waiting,
                repeat_at,
                ..
            } if now >= *repeat_at => {
                let owners: BTreeSet<NodeId> = plan.stages.iter().map(|stage| stage.node).collect();
                if view.mutual(self.config.me, owners.clone()) != owners {
                    let cause = "not all of its owners reach each other";
                    self.give_up(now, view, cause, outputs);
                    return;
                }
                *repeat_at = now.after_millis(REPEAT_MILLIS);
                for to in waiting.iter().filter(|node| **node != self.config.me) {
                    let message = Control::Propose(Box::new(Plan::clone(plan)));
                    outputs.push_back(Output::Send { to: *to, message });
                }
            }
            Making::Rest => {
                self.consider(now, view);
                if self.is_watching() && self.watch.look(now) {
                    outputs.push_back(Output::Look);
                }
            }
            Making::Settle { .. }
            | Making::Look { .. }
            | Making::Describe { .. }
            | Making::Solve { .. }
            | Making::Load { .. }
            | Making::Probe { .. } => {}
        }
    }

    /// This node has told what it sees: it goes on with the plan that waits for that, or with
    /// the judgement of the plan in force.
    pub(super) fn looked(&mut self, now: Tick, view: &View, outputs: &mut VecDeque<Output>) {
        let Making::Look { link_waits } = self.making else {
            self.ask(now, view, outputs);
            return;
        };
        let again = match self.may_wait_for_links(now, view) {
            true => Making::waiting_for_links(now, link_waits),
            false => None,
        };
        match again {
            Some(again) => self.making = again,
            None => self.begin(now, view, outputs),
        }
    }

    pub(super) fn deadline(&self) -> Option<Tick> {
        match &self.making {
            Making::Settle { at, .. } => Some(*at),
            Making::Load { repeat_at, .. } => Some(*repeat_at),
            Making::Rest => {
                // An exclusion that ends may allow a better plan.
                let ends = self.excluded.values().map(|exclusion| exclusion.until);
                let look = self.watch.deadline().filter(|_| self.is_watching());
                ends.chain(look).min()
            }
            Making::Look { .. }
            | Making::Describe { .. }
            | Making::Solve { .. }
            | Making::Probe { .. } => None,
        }
    }

    pub(super) fn described(
        &mut self,
        now: Tick,
        view: &View,
        name: String,
        facts: Result<ModelFacts, String>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Making::Describe { basis } = &self.making else {
            return;
        };
        if basis.model != name {
            return;
        }
        match facts {
            Ok(facts) => {
                self.facts = Some(facts);
                let basis = basis.clone();
                self.solve(now, view, basis, outputs);
            }
            Err(cause) => self.no_plan(now, cause, outputs),
        }
    }

    pub(super) fn solved(
        &mut self,
        now: Tick,
        view: &View,
        question: u64,
        plan: Result<cairn_planner::Plan, String>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Making::Solve {
            basis,
            question: asked,
        } = &self.making
        else {
            return;
        };
        if *asked != question {
            return;
        }
        let basis = basis.clone();
        match plan {
            Ok(plan) => self.propose(now, view, basis, &plan, outputs),
            Err(_) if basis.kind == Kind::Takeover => {
                let request = self.corrected(now, view, &basis);
                self.order_plan(basis, Kind::Usual, request, outputs);
            }
            Err(cause) => {
                self.made_for = Some(basis);
                self.no_plan(now, cause, outputs);
            }
        }
    }

    /// A member told what it stands by with.
    pub(super) fn stands_by(&mut self, node: NodeId, standing: Option<Standing>) {
        match standing {
            Some(standing) => self.standing.insert(node, standing),
            None => self.standing.remove(&node),
        };
    }

    pub(super) fn stage_answered(
        &mut self,
        now: Tick,
        from: NodeId,
        answered: PlanId,
        result: Result<(), String>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Making::Load {
            basis,
            plan,
            waiting,
            ..
        } = &mut self.making
        else {
            return;
        };
        if plan.id != answered || !waiting.contains(&from) {
            return;
        }
        match result {
            Ok(()) => {
                waiting.remove(&from);
                if waiting.is_empty() {
                    let (basis, plan) = (basis.clone(), Arc::clone(plan));
                    outputs.push_back(Output::Probe {
                        plan: Arc::clone(&plan),
                    });
                    self.making = Making::Probe { basis, plan };
                }
            }
            Err(cause) => self.exclude(now, from, cause, outputs),
        }
    }

    /// Announces the plan in the making if the probe succeeded.
    pub(super) fn probed(
        &mut self,
        now: Tick,
        view: &View,
        probed: PlanId,
        result: Result<(), String>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Making::Probe { basis, plan } = &self.making else {
            return;
        };
        if plan.id != probed {
            return;
        }
        if let Err(cause) = result {
            self.give_up(now, view, &cause, outputs);
            return;
        }
        self.made_for = Some(basis.clone());
        self.in_force = Some(Arc::clone(plan));
        self.trouble.clear();
        self.making = Making::Rest;
        self.announce(Announcement::Adopt(probed), outputs);
        // Who came meanwhile was left aside until now.
        self.consider(now, view);
    }

    fn propose(
        &mut self,
        now: Tick,
        view: &View,
        basis: Basis,
        solved: &cairn_planner::Plan,
        outputs: &mut VecDeque<Output>,
    ) {
        let facts = self.facts.as_ref().expect("a solved plan has a model");
        self.epoch += 1;
        let id = PlanId {
            term: view.term,
            epoch: self.epoch,
        };
        let corrections = Corrections {
            drifts: self.watch.drifts(),
            shared_permille: self.watch.history.shared_permille().unwrap_or(0),
        };
        let mut plan = to_wire(&self.config, facts, id, solved, corrections);
        if basis.kind == Kind::Takeover {
            plan.explain.strategy = "takeover".to_owned();
        }
        if view.missing_owner(&plan).is_some() {
            self.restart(now);
            return;
        }
        let same = self.in_force.as_ref().is_some_and(|old| {
            old.stages == plan.stages && old.model == plan.model && old.context == plan.context
        });
        if same && view.nodes.is_subset(&self.told) {
            self.made_for = Some(basis);
            self.making = Making::Rest;
            return;
        }
        outputs.push_back(Output::Note(Note::Proposing {
            plan: id,
            stages: plan.stages.len(),
        }));
        self.told = view.nodes.clone();
        self.announce(Announcement::Propose(Box::new(plan.clone())), outputs);
        self.making = Making::loading(now, basis, plan);
    }

    fn exclude(&mut self, now: Tick, node: NodeId, cause: String, outputs: &mut VecDeque<Output>) {
        let until = now.after_millis(EXCLUDE_MILLIS);
        self.excluded.insert(node, Exclusion { until });
        self.trouble = format!("{} cannot load its layers: {cause}", self.name(node));
        outputs.push_back(Output::Note(Note::Excluded { node, cause }));
        let trouble = self.trouble.clone();
        self.abandon(&trouble, outputs);
        self.restart(now);
    }

    fn give_up(&mut self, now: Tick, view: &View, cause: &str, outputs: &mut VecDeque<Output>) {
        self.abandon(cause, outputs);
        self.trouble = cause.to_owned();
        self.making = match view.nodes.len() {
            1 => Making::waiting_until(now.after_millis(RETRY_MILLIS)),
            _ => Making::settling(now),
        };
    }

    fn abandon(&mut self, cause: &str, outputs: &mut VecDeque<Output>) {
        let (Making::Load { plan, .. } | Making::Probe { plan, .. }) = &self.making else {
            return;
        };
        let plan = plan.id;
        let detail = cause.to_owned();
        self.announce(Announcement::Abandon(Abandon { plan, detail }), outputs);
        // They know this plan, not the one in force: who is new must still be told of that.
        self.told.clear();
        let cause = cause.to_owned();
        outputs.push_back(Output::Note(Note::Abandoned { plan, cause }));
    }

    fn no_plan(&mut self, now: Tick, cause: String, outputs: &mut VecDeque<Output>) {
        self.trouble.clone_from(&cause);
        outputs.push_back(Output::Note(Note::NoPlan { cause }));
        self.making = Making::waiting_until(now.after_millis(RETRY_MILLIS));
    }

    fn restart(&mut self, now: Tick) {
        self.making = Making::settling(now);
    }

    fn announce(&mut self, announcement: Announcement, outputs: &mut VecDeque<Output>) {
        for to in self.told.iter().filter(|node| **node != self.config.me) {
            let message = match &announcement {
                Announcement::Propose(plan) => Control::Propose(plan.clone()),
                Announcement::Adopt(plan) => Control::Adopt(*plan),
                Announcement::Abandon(abandon) => Control::Abandon(abandon.clone()),
            };
            outputs.push_back(Output::Send { to: *to, message });
        }
        self.to_self.push_back(announcement);
    }

    fn name(&self, node: NodeId) -> String {
        match self.capabilities.get(&node) {
            Some(capability) => capability.name.clone(),
            None => node.to_string(),
        }
    }
}
