//! Which plan is in force: the leader makes, proves and announces it, the others follow.
//!
//! A plan is adopted only after every stage has loaded and the pipeline has
//! produced a token. Solving, loading and probing are orders; nothing here blocks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cairn_planner::{Request, Strategy};
use cairn_wire::control::{
    Abandon, Capability, Control, LoadFailed, Loaded, ModelRef, Plan, Standing,
};
use cairn_wire::id::{NodeId, PlanId};

use crate::plan::{check, stage_of};
use crate::view::View;
use crate::{Machine, Tick};

mod follow;
mod lead;
mod request;
mod takeover;
mod watch;

#[cfg(test)]
mod tests;

use follow::Follower;
use lead::{Announcement, Leader};
pub use request::{Corrections, to_request, to_wire};
pub use watch::{Judgement, Question, Seen};

/// What the user decides about plans.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// How layers are shared out.
    pub strategy: Strategy,
    /// The model when no member asked for one.
    pub default_model: String,
    /// KV rows per sequence; capped by the model's own limit.
    pub context: u32,
    /// Sequences held at once.
    pub sequences: u32,
}

/// A model as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// What plans name it by.
    pub model: ModelRef,
    /// What its parts cost.
    pub costs: cairn_planner::Model,
    /// The longest context that it was trained for.
    pub context_max: u32,
}

/// Facts for the placement machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The membership changed.
    Members(View),
    /// The members' capabilities changed.
    Capabilities(BTreeMap<NodeId, Capability>),
    /// The answer to [`Output::Describe`].
    Described {
        /// The model asked about.
        name: String,
        /// Its facts, or why there are none.
        facts: Result<ModelFacts, String>,
    },
    /// The answer to [`Output::Solve`].
    Solved {
        /// The number of the question.
        question: u64,
        /// The plan, or why there is none.
        plan: Result<cairn_planner::Plan, String>,
    },
    /// A member told what it sees of its stage and its links; this node by [`Output::Look`].
    Seen {
        /// Who.
        from: NodeId,
        /// What.
        seen: Seen,
    },
    /// A node, maybe this one, told what it stands by with.
    Standing {
        /// Who.
        from: NodeId,
        /// With what; `None` is nothing.
        standing: Option<Standing>,
    },
    /// The answer to [`Output::Judge`].
    Judged {
        /// The number of the question.
        number: u64,
        /// The answer, or why there is none.
        result: Result<Box<Judgement>, String>,
    },
    /// This node's shard has loaded its stage of a plan, or cannot.
    StageLoaded {
        /// Which plan.
        plan: PlanId,
        /// Bytes of its weights, or the cause.
        result: Result<u64, String>,
    },
    /// The answer to [`Output::Probe`].
    Probed {
        /// Which plan.
        plan: PlanId,
        /// Whether a token came out.
        result: Result<(), String>,
    },
    /// A peer proposed a plan.
    Proposed {
        /// Who.
        from: NodeId,
        /// What; not checked yet.
        plan: Plan,
    },
    /// A peer has loaded its stage.
    Loaded {
        /// Who.
        from: NodeId,
        /// Of which plan.
        loaded: Loaded,
    },
    /// A peer cannot load its stage.
    LoadFailed {
        /// Who.
        from: NodeId,
        /// Of which plan, and why.
        failed: LoadFailed,
    },
    /// A peer says that a plan is in force.
    Adopt {
        /// Who.
        from: NodeId,
        /// Which plan.
        plan: PlanId,
    },
    /// A peer gave a plan up.
    Abandon {
        /// Who.
        from: NodeId,
        /// Which plan, and why.
        abandon: Abandon,
    },
}

/// Orders of the placement machine.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most orders are messages, and each lives for a moment"
)]
pub enum Output {
    /// Find the model's file and say what it holds. May take as long as a download.
    Describe {
        /// A name that a user gave.
        name: String,
    },
    /// Run the planner on this. May take a second.
    Solve {
        /// Comes back with the answer.
        question: u64,
        /// The question.
        request: Box<Request>,
    },
    /// Feed back what this node sees of its own stage and links.
    Look,
    /// Let the planner judge the plan in force ([`Question::judge`]). May take a second.
    Judge(Box<Question>),
    /// Send to a peer.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Control,
    },
    /// Load this node's stage of a plan.
    Load {
        /// The plan.
        plan: Arc<Plan>,
        /// Which stage of it.
        stage: u16,
    },
    /// Free what was loaded for a plan.
    Unload {
        /// Which plan.
        plan: PlanId,
    },
    /// Let a plan that is not in force yet produce a token.
    Probe {
        /// The plan.
        plan: Arc<Plan>,
    },
    /// This plan is in force.
    Adopted {
        /// The plan.
        plan: Arc<Plan>,
    },
    /// Something worth telling a person.
    Note(Note),
}

/// What a person may want to know about plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The leader proposes a plan.
    Proposing {
        /// Which.
        plan: PlanId,
        /// Its split.
        stages: usize,
    },
    /// An owner is gone, and the others have its layers in memory.
    TakingOver {
        /// Who is gone.
        lost: NodeId,
    },
    /// Layers move because another plan is better by what was measured.
    Replanning {
        /// Who is slower than forecast, which layers move, and what it gains.
        why: String,
    },
    /// The plan in force cannot be judged; it stays.
    NotJudged {
        /// Why.
        cause: String,
    },
    /// No plan can be made now; tried again when something changes.
    NoPlan {
        /// Why.
        cause: String,
    },
    /// A plan was given up.
    Abandoned {
        /// Which.
        plan: PlanId,
        /// Why.
        cause: String,
    },
    /// A node is left out of plans for a while.
    Excluded {
        /// Which.
        node: NodeId,
        /// Why.
        cause: String,
    },
    /// A peer broke the rules of planning; what it said is ignored.
    Refused {
        /// Who.
        from: NodeId,
        /// Which rule.
        cause: String,
    },
}

/// Decides which plan is in force on this node.
#[derive(Debug)]
pub struct PlacementMachine {
    me: NodeId,
    view: View,
    leader: Leader,
    follower: Follower,
    outputs: VecDeque<Output>,
}

impl PlacementMachine {
    /// Knows nobody yet.
    pub fn new(config: Config) -> Self {
        Self {
            me: config.me,
            view: View::default(),
            leader: Leader::new(config),
            follower: Follower::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The plan in force, if any.
    pub fn adopted(&self) -> Option<&Arc<Plan>> {
        self.follower.adopted.as_ref()
    }

    /// What this node waits for, in words, while it leads and no plan is in force.
    pub fn waiting_for(&self) -> String {
        self.leader.waiting_for()
    }

    fn leads(&self) -> bool {
        self.view.leader == Some(self.me)
    }

    fn members_changed(&mut self, now: Tick, view: View) {
        self.view = view;
        let nodes = &self.view.nodes;
        self.leader.watch.retain(|node| nodes.contains(node));
        self.leader.standing.retain(|node, _| nodes.contains(node));
        if self.leads() {
            let adopted = self.follower.adopted.clone();
            let view = &self.view;
            self.leader
                .members_changed(now, view, adopted, &mut self.outputs);
        } else {
            self.leader.step_down();
        }
        if let Some((from, plan)) = self.follower.early.take() {
            self.proposed(now, from, plan);
        }
        self.answer(now);
    }

    /// A plan arrives at its stages, the leader's own among them.
    fn proposed(&mut self, now: Tick, from: NodeId, plan: Plan) {
        if let Err(fault) = check(&plan) {
            self.refuse(from, format!("proposed a bad plan: {fault:?}"));
            return;
        }
        if plan.id.term.leader != from {
            self.refuse(from, format!("proposed the plan {} of another", plan.id));
            return;
        }
        if self.view.leader != Some(from) {
            // Its claim may still be on the way on another stream.
            self.follower.early = Some((from, plan));
            return;
        }
        if self.follower.newest() >= Some(plan.id) {
            // The first answer may have been lost.
            self.answer(now);
            return;
        }
        let stage = stage_of(&plan, self.me);
        self.follower
            .stage_new(Arc::new(plan), stage, &mut self.outputs);
    }

    fn stage_loaded(&mut self, now: Tick, plan: PlanId, result: Result<u64, String>) {
        self.follower.loaded(plan, result);
        self.answer(now);
    }

    /// Tells the leader how loading went, once there is something to tell. Saying it twice is harmless.
    fn answer(&mut self, now: Tick) {
        let Some((plan, stage, result)) = self.follower.answer(&self.view) else {
            return;
        };
        let to = plan.term.leader;
        if to == self.me {
            let outcome = result.map(|_| ());
            self.leader
                .stage_answered(now, self.me, plan, outcome, &mut self.outputs);
            return;
        }
        let message = match result {
            Ok(weight_bytes) => Control::Loaded(Loaded {
                plan,
                stage,
                weight_bytes,
            }),
            Err(detail) => Control::LoadFailed(LoadFailed {
                plan,
                stage,
                detail,
            }),
        };
        self.outputs.push_back(Output::Send { to, message });
    }

    fn adopt_arrived(&mut self, from: NodeId, plan: PlanId) {
        if plan.term.leader != from {
            self.refuse(from, format!("announced the plan {plan} of another"));
            return;
        }
        if plan.term < self.view.term {
            // Another leads by now, and its plan is on the way.
            return;
        }
        self.follower.adopt(plan, &mut self.outputs);
    }

    fn refuse(&mut self, from: NodeId, cause: String) {
        self.outputs
            .push_back(Output::Note(Note::Refused { from, cause }));
    }

    /// The leader's announcements reach its own node by the same way as the others.
    fn deliver_to_self(&mut self, now: Tick) {
        while let Some(announcement) = self.leader.to_self.pop_front() {
            match announcement {
                Announcement::Propose(plan) => self.proposed(now, self.me, *plan),
                Announcement::Adopt(plan) => self.follower.adopt(plan, &mut self.outputs),
                Announcement::Abandon(abandon) => {
                    self.follower.abandon(abandon.plan, &mut self.outputs);
                }
            }
        }
    }
}

impl Machine for PlacementMachine {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Members(view) => self.members_changed(now, view),
            Input::Capabilities(capabilities) => {
                self.leader.capabilities = capabilities;
                if self.leads() {
                    self.leader.consider(now, &self.view);
                }
            }
            Input::Described { name, facts } => {
                self.leader
                    .described(now, &self.view, name, facts, &mut self.outputs);
            }
            Input::Solved { question, plan } => {
                self.leader
                    .solved(now, &self.view, question, plan, &mut self.outputs);
            }
            Input::Seen { from, seen } => {
                self.leader.watch.told(now, from, seen);
                if self.leads() && from == self.me {
                    self.leader.looked(now, &self.view, &mut self.outputs);
                }
            }
            Input::Standing { from, standing } => self.leader.stands_by(from, standing),
            Input::Judged { number, result } => {
                self.leader
                    .judged(now, &self.view, number, result, &mut self.outputs);
            }
            Input::StageLoaded { plan, result } => self.stage_loaded(now, plan, result),
            Input::Probed { plan, result } => {
                self.leader
                    .probed(now, &self.view, plan, result, &mut self.outputs);
            }
            Input::Proposed { from, plan } => self.proposed(now, from, plan),
            Input::Loaded { from, loaded } => {
                let outputs = &mut self.outputs;
                self.leader
                    .stage_answered(now, from, loaded.plan, Ok(()), outputs);
            }
            Input::LoadFailed { from, failed } => {
                let outputs = &mut self.outputs;
                self.leader
                    .stage_answered(now, from, failed.plan, Err(failed.detail), outputs);
            }
            Input::Adopt { from, plan } => self.adopt_arrived(from, plan),
            Input::Abandon { from, abandon } => {
                if abandon.plan.term.leader == from {
                    self.follower.abandon(abandon.plan, &mut self.outputs);
                }
            }
        }
        self.deliver_to_self(now);
    }

    fn wake(&mut self, now: Tick) {
        if self.leads() {
            self.leader.wake(now, &self.view, &mut self.outputs);
        }
        self.deliver_to_self(now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn deadline(&self) -> Option<Tick> {
        if self.leads() {
            self.leader.deadline()
        } else {
            None
        }
    }
}

/// Members that reach each other, whose capability is known and that are not left out.
fn candidates(
    me: NodeId,
    view: &View,
    capabilities: &BTreeMap<NodeId, Capability>,
    excluded: &BTreeMap<NodeId, lead::Exclusion>,
) -> BTreeSet<NodeId> {
    let able = |node: &&NodeId| capabilities.contains_key(node) && !excluded.contains_key(node);
    let able = view.nodes.iter().filter(able).copied().collect();
    view.mutual(me, able)
}
