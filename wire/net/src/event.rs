//! What the host reports, and why things end. Facts only; what follows is the caller's decision.

use std::net::SocketAddr;

use cairn_wire::control::Control;
use cairn_wire::id::{BootId, NodeId};
use cairn_wire::{DataFrame, Violation, hello};

use crate::credit::CreditGuard;
use crate::link::ControlGuard;

/// One fact. For one peer they come in order: `Connected`, then any of `Control`,
/// `Data` and `LinkReady`, then `Disconnected`.
#[derive(Debug)]
pub enum Event {
    /// mDNS names a node of this cluster: a hint, not a proof, and repeated.
    Found {
        /// As announced.
        node: NodeId,
        /// As announced.
        boot: BootId,
        /// Nearest first; all worth dialling.
        addresses: Vec<SocketAddr>,
    },
    /// A session stands: both ends have proven identity and secret.
    Connected {
        /// Who.
        peer: NodeId,
        /// Which of its runs.
        boot: BootId,
        /// The other end of the connection; dialled or seen.
        address: SocketAddr,
        /// Whether this node dialled, so that `address` can be dialled again.
        origin: Origin,
        /// The peer's version of the program.
        version: String,
    },
    /// The session is over; frames not yet delivered are lost.
    Disconnected {
        /// With whom.
        peer: NodeId,
        /// Why.
        cause: Cause,
    },
    /// No session, for a reason with a name.
    Refused {
        /// With whom, as far as known.
        peer: Option<NodeId>,
        /// The other end.
        address: SocketAddr,
        /// Why.
        reason: Refusal,
    },
    /// A dialled address did not answer.
    Unreachable {
        /// Whom it was dialled for.
        peer: Option<NodeId>,
        /// As dialled.
        address: SocketAddr,
        /// The system's words.
        detail: String,
    },
    /// A control message.
    Control {
        /// From whom.
        peer: NodeId,
        /// It.
        message: Control,
        /// To be dropped when it has been dealt with.
        guard: ControlGuard,
    },
    /// A data frame; never a credit.
    Data {
        /// From whom.
        peer: NodeId,
        /// It.
        frame: DataFrame,
        /// The sender's credit; dropping it gives it back.
        guard: CreditGuard,
    },
    /// A link that answered `Full` has room again.
    LinkReady {
        /// Whose.
        peer: NodeId,
    },
    /// Looking for others does not work here; `dial` does.
    DiscoveryFailed {
        /// The cause, for people.
        detail: String,
    },
}

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This node.
    Dialled,
    /// The peer.
    Accepted,
}

/// Why two nodes have no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One end could not prove the other's secret.
    #[error("the cluster secrets differ")]
    WrongSecret,
    /// The clusters' names differ.
    #[error("the cluster names differ")]
    WrongCluster,
    /// The versions differ.
    #[error("protocol version {theirs} there, {ours} here")]
    WrongVersion {
        /// This node's.
        ours: u32,
        /// The peer's.
        theirs: u32,
    },
    /// Two live nodes have one identity.
    #[error("another live node has the same identity")]
    DuplicateIdentity,
    /// There is a session, or one under way; nothing is wrong.
    #[error("the two nodes are already linked")]
    AlreadyLinked,
    /// The address is this node's own.
    #[error("the address is this node's own")]
    SelfDial,
    /// Somebody else answered at the address.
    #[error("{found} answered where {expected} was expected")]
    WrongIdentity {
        /// Who was dialled.
        expected: NodeId,
        /// Who answered; all zero when it is no kind of node.
        found: NodeId,
    },
    /// The other end does not speak Cairn's protocols, or broke them at once.
    #[error("the other end does not speak the protocol: {detail}")]
    NotCairn {
        /// What it did.
        detail: String,
    },
    /// The other end did not finish the handshake in time.
    #[error("the other end did not finish the handshake in time")]
    Silent,
    /// A reason that a later version added.
    #[error("refused for a reason of a later version, number {0}")]
    Other(u8),
}

impl Refusal {
    pub(crate) fn from_wire(refusal: hello::Refusal, ours: u32, theirs: u32) -> Self {
        match refusal {
            hello::Refusal::WrongSecret => Refusal::WrongSecret,
            hello::Refusal::WrongCluster => Refusal::WrongCluster,
            hello::Refusal::WrongVersion => Refusal::WrongVersion { ours, theirs },
            hello::Refusal::DuplicateIdentity => Refusal::DuplicateIdentity,
            hello::Refusal::AlreadyLinked => Refusal::AlreadyLinked,
            hello::Refusal::Other(number) => Refusal::Other(number),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// This node closed it.
    #[error("closed here: {0}")]
    Here(#[from] CloseCause),
    /// The peer closed it, or its process ended.
    #[error("closed by the peer")]
    There,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The peer has given it up and dialled again.
    #[error("replaced by a newer session of the same peer")]
    Replaced,
}

/// Why a caller closes a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseCause {
    /// Nothing was heard for too long.
    #[error("the peer is silent")]
    Silent,
    /// The peer said that it leaves.
    #[error("the peer leaves")]
    Left,
    /// A message that was well formed and made no sense.
    #[error("the peer misbehaved")]
    Misbehaved,
    /// This node ends.
    #[error("this node shuts down")]
    Shutdown,
}

/// Why nothing was sent. *Effect* of each: the link is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No credit or no room; [`Event::LinkReady`] follows.
    #[error("the link is full")]
    Full,
    /// No session with that node.
    #[error("no link to that node")]
    NoLink,
    /// The message breaks a bound of the protocol: a bug of the caller.
    #[error("not a legal message: {0}")]
    Invalid(#[from] Violation),
}

/// A frame that was not sent, given back.
#[derive(Debug)]
pub struct Returned {
    /// It.
    pub frame: DataFrame,
    /// Why.
    pub why: Refused,
}
