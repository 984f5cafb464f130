//! What the membership machine is told and what it orders. Words only, no decisions.

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::control::{Heartbeat, PeerAddress, Role};
use cairn_wire::id::{BootId, NodeId, Term};

/// Who this node is and how patient it is.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// This run of it.
    pub boot: BootId,
    /// How long everything takes.
    pub timing: Timing,
    /// The last [`Output::PersistTerm`] of any earlier run of this node; 0 if there was none.
    pub first_term: u64,
}

/// Patience, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats to a peer, and between two looks at the timers.
    pub heartbeat_millis: u64,
    /// Silence after which a member is suspect: no new work should go to it.
    pub suspect_millis: u64,
    /// Silence after which a member is down and its connection is closed. Eight heartbeats:
    /// with four, pauses of 300 ms in a cluster of 50 already look like deaths.
    pub down_millis: u64,
    /// How long a node looks for a leader before it may claim to be one.
    pub settle_millis: u64,
    /// The same for a node that has met nobody since it started. mDNS needs up to 1.1 s; a
    /// node that leads itself sooner would load a whole model in vain.
    pub lonely_millis: u64,
    /// How long the node with the higher id leaves a dial to the other: two nodes that dial
    /// each other at once get two connections.
    pub yield_millis: u64,
    /// Pause after the first failed dial; doubles with every further one.
    pub redial_min_millis: u64,
    /// Longest pause between two dials.
    pub redial_max_millis: u64,
    /// A dial without an answer for this long has failed.
    pub dial_timeout_millis: u64,
    /// Between two looks at whom the others lack addresses of.
    pub gossip_millis: u64,
    /// A node without any peer for this long says why that may be.
    pub nobody_millis: u64,
    /// An address found so long ago, its node unseen since, is dialled no more.
    pub forget_millis: u64,
}

impl Timing {
    /// For nodes on one network, wired or wireless.
    pub const fn lan() -> Timing {
        Timing {
            heartbeat_millis: 100,
            suspect_millis: 400,
            down_millis: 800,
            settle_millis: 250,
            lonely_millis: 1_500,
            yield_millis: 2_000,
            redial_min_millis: 250,
            redial_max_millis: 5_000,
            dial_timeout_millis: 10_000,
            gossip_millis: 2_000,
            nobody_millis: 10_000,
            forget_millis: 600_000,
        }
    }
}

/// One dial, so that its answer finds it. Never used twice by one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// What the membership machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The addresses that this node itself listens on, all of them; again when they change.
    Listening {
        /// `ip:port` texts.
        addresses: Vec<String>,
    },
    /// Discovery says that a node of this cluster listens there. A hint: it may be gone.
    Found {
        /// Who announced it.
        node: NodeId,
        /// `ip:port` texts.
        addresses: Vec<String>,
    },
    /// The user named an address (`--peer`): dialled for ever, whoever answers there.
    Named {
        /// `ip:port` or `name:port`.
        address: String,
    },
    /// Discovery cannot send or hear multicast on any interface.
    MulticastMissing {
        /// The cause, for people.
        detail: String,
    },
    /// Discovery hears nodes of a cluster of another name.
    OtherClusterFound {
        /// That name.
        cluster: String,
    },
    /// A peer is connected and has proven the secret; heartbeats can flow. There is at most
    /// one connection per peer: a second with another boot replaces the first, and the driver
    /// says `Disconnected` for the first before `Connected` for the second.
    Connected {
        /// Who.
        peer: NodeId,
        /// Its run.
        boot: BootId,
        /// The dial that this answers; `None` if the peer dialled.
        dial: Option<DialId>,
    },
    /// The connection to a peer is over, whoever ended it.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// A dial did not end in a connection. Every dial is answered by this or by `Connected`.
    DialFailed {
        /// Which dial.
        dial: DialId,
        /// Why.
        failure: DialFailure,
    },
    /// A heartbeat from a connected peer.
    HeartbeatArrived {
        /// From whom.
        peer: NodeId,
        /// What it says.
        heartbeat: Heartbeat,
    },
    /// Addresses from a connected peer.
    PeersArrived {
        /// From whom.
        peer: NodeId,
        /// The addresses, the sender's own among them.
        list: Vec<PeerAddress>,
    },
    /// A connected peer leaves on purpose.
    LeaveArrived {
        /// Who.
        peer: NodeId,
    },
    /// The user stops this node.
    LeaveOrdered,
}

/// Why a dial did not end in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialFailure {
    /// Nothing answered, or not as a node does.
    Unreachable,
    /// It is connected already; this dial's connection was one too many.
    AlreadyConnected(NodeId),
    /// The address is this very node.
    Myself,
    /// Another run answers with this node's identity: its key was copied.
    Twin,
    /// The other end could not prove the cluster secret, or did not accept our proof.
    WrongSecret,
    /// The other end belongs to a cluster of another name.
    OtherCluster,
    /// The other end speaks another protocol version.
    OtherVersion,
}

/// What the membership machine orders. Carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to one of these addresses, in the order of preference.
    Dial {
        /// Comes back in the answer.
        dial: DialId,
        /// Who must answer there; `None` accepts any member of the cluster.
        node: Option<NodeId>,
        /// `ip:port` texts.
        addresses: Vec<String>,
    },
    /// End the connection; frames that are still in it must not be delivered any more.
    Close {
        /// To whom.
        peer: NodeId,
    },
    /// Send it now; if the link is full, drop it: the next one says more.
    SendHeartbeat {
        /// To whom.
        peer: NodeId,
        /// What to say.
        heartbeat: Heartbeat,
    },
    /// Send addresses.
    SendPeers {
        /// To whom.
        peer: NodeId,
        /// What to say.
        list: Vec<PeerAddress>,
    },
    /// Tell the peer that this node leaves.
    SendLeave {
        /// To whom.
        peer: NodeId,
    },
    /// Store it durably before the orders that follow: a later run must not claim it again.
    PersistTerm(u64),
    /// Who is in and who leads, for the other machines of this node.
    MembersChanged(Members),
    /// Something that people want to read.
    Event(Event),
}

/// Who is in and who leads, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The adopted term; never goes back in one run.
    pub term: Term,
    /// Whether this node leads, follows, or looks for a leader.
    pub role: Role,
    /// Everyone that this node hears and that hears this node; this node too.
    pub members: BTreeMap<NodeId, Member>,
    /// Pairs of members, the lower first, of which one does not hear the other. Kept by the
    /// leader alone: it hears both and must not plan a hop between them.
    pub deaf: BTreeSet<(NodeId, NodeId)>,
}

impl Members {
    /// Nobody yet, not even this node.
    pub fn nobody() -> Members {
        Members {
            term: Term::default(),
            role: Role::Seeking,
            members: BTreeMap::new(),
            deaf: BTreeSet::new(),
        }
    }

    /// The leader, unless this node looks for one.
    pub fn leader(&self) -> Option<NodeId> {
        match self.role {
            Role::Seeking => None,
            Role::Following | Role::Leading => Some(self.term.leader),
        }
    }
}

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its run: work that an earlier run held is gone.
    pub boot: BootId,
    /// Whether it has been heard lately.
    pub health: Health,
}

/// Whether a member has been heard lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Heard within `suspect_millis`.
    Sound,
    /// Silent for longer, but not yet given up: keep what it has, give it nothing new.
    Suspect,
}

/// Something that people want to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node is in.
    MemberJoined {
        /// Who.
        node: NodeId,
        /// Its run.
        boot: BootId,
    },
    /// A node is out.
    MemberLost {
        /// Who.
        node: NodeId,
        /// Why.
        cause: LossCause,
    },
    /// Another leader, another term, or none.
    LeaderChanged {
        /// The adopted term.
        term: Term,
        /// Its leader; `None` while this node looks for one.
        leader: Option<NodeId>,
    },
    /// An address refused this node, or was refused by it. Said once per address and reason.
    PeerRefused {
        /// Where.
        addresses: Vec<String>,
        /// Why.
        failure: DialFailure,
    },
    /// A peer broke a rule of this protocol; its connection is closed.
    PeerMisbehaved {
        /// Who.
        node: NodeId,
        /// Which rule.
        rule: &'static str,
    },
    /// Nobody was met for `nobody_millis`. Said once per such time.
    NobodyFound {
        /// What may be the cause, most certain first; never empty.
        causes: Vec<NobodyCause>,
    },
}

/// Why a member is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// Its connection ended: it was killed, or the network said so.
    Disconnected,
    /// Not a word for `down_millis`.
    Silent,
    /// It does not hear this node any more.
    Deaf,
    /// It said that it leaves.
    Left,
    /// It runs anew.
    Restarted,
    /// It broke a rule.
    Misbehaved,
    /// This node leaves.
    WeLeave,
}

/// Why nobody may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NobodyCause {
    /// A node answered but could not be let in.
    Refused {
        /// Where.
        addresses: Vec<String>,
        /// Why.
        failure: DialFailure,
    },
    /// Addresses are known, nothing answers there: a firewall, or the nodes are gone.
    Unreachable {
        /// Where.
        addresses: Vec<String>,
    },
    /// Nodes of a cluster of another name are there.
    OtherCluster {
        /// That name.
        cluster: String,
    },
    /// This device cannot use multicast: name a peer.
    MulticastMissing {
        /// The cause, for people.
        detail: String,
    },
    /// Nothing was announced at all: no other node runs, or multicast is blocked between them.
    NothingAnnounced,
}
