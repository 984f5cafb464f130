//! What the members can do and how they do: told by each, kept by all.
//!
//! Measures nothing itself; the actor does, when it is ordered to: while the node is idle,
//! and what it found before is in doubt.

mod doubt;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use cairn_wire::control::{Capability, Control, NodeStatus};
use cairn_wire::id::NodeId;

use crate::view::View;
use crate::{Machine, Tick};
use doubt::Doubts;
pub use doubt::{Calm, Doubt, Observed};

/// How often a node tells how it does.
const STATUS_MILLIS: u64 = 1_000;
/// After a newcomer: by then its link is measured, and its leader plans a little later.
const NEWCOMER_MILLIS: u64 = 300;

/// Facts for the capability machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The membership changed.
    Members(View),
    /// The actor measured this node.
    Measured {
        /// What it can do.
        capability: Capability,
        /// Whether something else ran meanwhile.
        calm: Calm,
    },
    /// The layers that this node serves are of another model than it was measured with.
    OtherModel,
    /// What a decode row takes on this node's stage; told with every status while rows are
    /// computed.
    Observed(Observed),
    /// The actor took this node's status, as ordered.
    StatusTaken(NodeStatus),
    /// A peer told what it can do.
    CapabilityArrived {
        /// Who.
        from: NodeId,
        /// What.
        capability: Capability,
    },
    /// A peer told how it does.
    StatusArrived {
        /// Who.
        from: NodeId,
        /// How.
        status: NodeStatus,
    },
}

/// Orders of the capability machine.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all orders are messages, and each lives for a moment"
)]
pub enum Output {
    /// Take this node's status and feed it back.
    TakeStatus,
    /// Measure this node, for this reason, and feed it back.
    Measure(Doubt),
    /// Send to a peer. Losing it is harmless: it is said again within a second.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Control,
    },
    /// The capabilities of the members, this node's among them once measured.
    Changed(BTreeMap<NodeId, Capability>),
}

/// Keeps the members' capabilities and statuses.
#[derive(Debug)]
pub struct CapabilityMachine {
    me: NodeId,
    view: View,
    capabilities: BTreeMap<NodeId, Capability>,
    statuses: BTreeMap<NodeId, NodeStatus>,
    next_status: Tick,
    doubts: Doubts,
    outputs: VecDeque<Output>,
}

impl CapabilityMachine {
    /// Knows nothing yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            view: View::default(),
            capabilities: BTreeMap::new(),
            statuses: BTreeMap::new(),
            next_status: Tick(0),
            doubts: Doubts::default(),
            outputs: VecDeque::new(),
        }
    }

    /// What each member can do, as far as it has told.
    pub fn capabilities(&self) -> &BTreeMap<NodeId, Capability> {
        &self.capabilities
    }

    /// How each member does, as far as it has told.
    pub fn statuses(&self) -> &BTreeMap<NodeId, NodeStatus> {
        &self.statuses
    }

    fn members_changed(&mut self, now: Tick, view: View) {
        let mine = self.capabilities.get(&self.me).cloned();
        for node in view.nodes.difference(&self.view.nodes) {
            self.next_status = self.next_status.min(now.after_millis(NEWCOMER_MILLIS));
            if let (Some(capability), true) = (&mine, *node != self.me) {
                self.outputs.push_back(Output::Send {
                    to: *node,
                    message: Control::Capability(capability.clone()),
                });
            }
        }
        // Only those who left are forgotten: a newcomer may tell before it is a member here.
        for node in self.view.nodes.difference(&view.nodes) {
            self.capabilities.remove(node);
            self.statuses.remove(node);
        }
        self.view = view;
        self.tell_changed();
    }

    fn broadcast(&mut self, message: &Control) {
        for node in self.view.nodes.iter().filter(|node| **node != self.me) {
            self.outputs.push_back(Output::Send {
                to: *node,
                message: message.clone(),
            });
        }
    }

    fn tell_changed(&mut self) {
        self.outputs
            .push_back(Output::Changed(self.capabilities.clone()));
    }
}

impl Machine for CapabilityMachine {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Members(view) => self.members_changed(now, view),
            Input::Measured { capability, calm } => {
                self.doubts.measured(now, calm);
                self.broadcast(&Control::Capability(capability.clone()));
                self.capabilities.insert(self.me, capability);
                self.tell_changed();
            }
            Input::OtherModel => self.doubts.doubt(Doubt::OtherModel),
            Input::Observed(observed) => self.doubts.observed(now, observed),
            Input::StatusTaken(status) => {
                if let Some(doubt) = self.doubts.look(now, &status) {
                    self.outputs.push_back(Output::Measure(doubt));
                }
                self.broadcast(&Control::Status(status.clone()));
                if let Some(mine) = self.capabilities.get(&self.me).cloned() {
                    self.broadcast(&Control::Capability(mine));
                }
                self.statuses.insert(self.me, status);
            }
            Input::CapabilityArrived { from, capability } => {
                let known = self.capabilities.insert(from, capability.clone());
                if known.as_ref() != Some(&capability) {
                    self.tell_changed();
                }
            }
            Input::StatusArrived { from, status } => {
                self.statuses.insert(from, status);
            }
        }
    }

    fn wake(&mut self, now: Tick) {
        if now >= self.next_status {
            self.next_status = now.after_millis(STATUS_MILLIS);
            self.outputs.push_back(Output::TakeStatus);
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn deadline(&self) -> Option<Tick> {
        Some(self.next_status)
    }
}
