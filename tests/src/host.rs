//! The machines of one node, joined as the actors join them. Knows no network and no faults.

use std::collections::VecDeque;

use cairn_machine::member::{self, Membership, Timing};
use cairn_machine::{Machine, Tick};
use cairn_wire::codec::Plane;
use cairn_wire::control::Control;
use cairn_wire::id::{BootId, NodeId};

/// What a run of a node starts from.
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// The node.
    pub me: NodeId,
    /// This run of it.
    pub boot: BootId,
    /// What its disk holds of earlier runs.
    pub first_term: u64,
}

/// What the world tells a host.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Something about discovery or a connection.
    Member(member::Input),
    /// The bytes of a frame from a connected peer.
    Arrived {
        /// From whom.
        peer: NodeId,
        /// On which stream.
        plane: Plane,
        /// The frame.
        bytes: Vec<u8>,
    },
}

/// What a host orders from the world.
#[derive(Clone, Debug)]
pub enum Order {
    /// Connect.
    Dial {
        /// Comes back in the answer.
        dial: member::DialId,
        /// Who must answer; anyone if `None`.
        node: Option<NodeId>,
        /// Where.
        addresses: Vec<String>,
    },
    /// End a connection.
    Close {
        /// To whom.
        peer: NodeId,
    },
    /// Put a frame on a stream.
    Send {
        /// To whom.
        peer: NodeId,
        /// On which stream.
        plane: Plane,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Write to the disk.
    PersistTerm(u64),
    /// Show to people.
    Event(member::Event),
}

/// One run of a node.
#[derive(Debug)]
pub struct Host {
    member: Membership,
    orders: VecDeque<Order>,
}

impl Host {
    /// A node that has just started.
    pub fn new(birth: Birth, now: Tick) -> Host {
        let config = member::Config {
            me: birth.me,
            boot: birth.boot,
            timing: Timing::lan(),
            first_term: birth.first_term,
        };
        Host {
            member: Membership::new(config, now),
            orders: VecDeque::new(),
        }
    }

    /// Takes in one fact.
    pub fn handle(&mut self, now: Tick, fact: Fact) {
        match fact {
            Fact::Member(input) => self.member.handle(now, input),
            Fact::Arrived { peer, plane, bytes } => self.arrived(now, peer, plane, &bytes),
        }
        self.drain();
    }

    /// Advances timers.
    pub fn wake(&mut self, now: Tick) {
        if self.member.deadline().is_some_and(|due| due <= now) {
            self.member.wake(now);
        }
        self.drain();
    }

    /// The next order.
    pub fn poll(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// When to wake it.
    pub fn deadline(&self) -> Option<Tick> {
        self.member.deadline()
    }

    /// Who is in and who leads, as this node sees it.
    pub fn members(&self) -> &member::Members {
        self.member.members()
    }

    /// Panics if a machine contradicts itself.
    pub fn check_invariants(&self) {
        self.member.check_invariants();
    }

    fn arrived(&mut self, now: Tick, peer: NodeId, plane: Plane, bytes: &[u8]) {
        match plane {
            Plane::Control => {
                let message = Control::decode(bytes).expect("hosts send only what they encoded");
                self.control_arrived(now, peer, message);
            }
            Plane::Data => unreachable!("no machine sends rows yet"),
        }
    }

    fn control_arrived(&mut self, now: Tick, peer: NodeId, message: Control) {
        match message {
            Control::Heartbeat(heartbeat) => {
                let input = member::Input::HeartbeatArrived { peer, heartbeat };
                self.member.handle(now, input);
            }
            Control::Peers(list) => {
                let input = member::Input::PeersArrived { peer, list };
                self.member.handle(now, input);
            }
            Control::Leave => self
                .member
                .handle(now, member::Input::LeaveArrived { peer }),
            Control::Capability(_)
            | Control::Status(_)
            | Control::Propose(_)
            | Control::Loaded(_)
            | Control::LoadFailed(_)
            | Control::Adopt(_)
            | Control::Abandon(_)
            | Control::LogsWanted(_)
            | Control::Logs(_) => {}
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.member.poll() {
            match output {
                member::Output::Dial {
                    dial,
                    node,
                    addresses,
                } => self.orders.push_back(Order::Dial {
                    dial,
                    node,
                    addresses,
                }),
                member::Output::Close { peer } => self.orders.push_back(Order::Close { peer }),
                member::Output::SendHeartbeat { peer, heartbeat } => {
                    self.send(peer, &Control::Heartbeat(heartbeat));
                }
                member::Output::SendPeers { peer, list } => {
                    self.send(peer, &Control::Peers(list));
                }
                member::Output::SendLeave { peer } => self.send(peer, &Control::Leave),
                member::Output::PersistTerm(number) => {
                    self.orders.push_back(Order::PersistTerm(number));
                }
                member::Output::MembersChanged(_) => {}
                member::Output::Event(event) => self.orders.push_back(Order::Event(event)),
            }
        }
    }

    fn send(&mut self, peer: NodeId, message: &Control) {
        let frame = message.encode().expect("machines keep the wire's bounds");
        self.orders.push_back(Order::Send {
            peer,
            plane: Plane::Control,
            bytes: frame.bytes().to_vec(),
        });
    }
}
