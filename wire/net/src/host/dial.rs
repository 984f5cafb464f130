//! Dials: whom this node asks for a connection, and what becomes of those that fail.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use cairn_wire::id::NodeId;
use libp2p::Multiaddr;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError};

use super::Host;
use crate::address::{multiaddr, node_id, peer_id, socket_addr};
use crate::event::{Event, Refusal};
use crate::noise::is_own_identity;

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) address: SocketAddr,
    pub(super) peer: Option<NodeId>,
}

impl Host {
    pub(super) fn dial(&mut self, address: SocketAddr, peer: Option<NodeId>) {
        let linked = peer.is_some_and(|peer| self.shared.roster().link(&peer).is_some());
        let under_way = self.dials.values().any(|dial| dial.address == address);
        if linked || under_way {
            return;
        }
        if self.is_own(address) {
            self.refused(peer, address, Refusal::SelfDial);
            return;
        }
        let unreachable = |detail: String| Event::Unreachable {
            peer,
            address,
            detail,
        };
        let options = match peer {
            // A port of its own: a redial from the listener's would meet the old
            // connection's remains.
            Some(node) => match peer_id(&node) {
                Some(id) => DialOpts::peer_id(id)
                    .addresses(vec![multiaddr(address)])
                    .condition(PeerCondition::Always)
                    .allocate_new_port()
                    .build(),
                None => {
                    let detail = "no key makes that identity".to_owned();
                    self.shared.emit(unreachable(detail));
                    return;
                }
            },
            None => DialOpts::unknown_peer_id()
                .address(multiaddr(address))
                .allocate_new_port()
                .build(),
        };
        let connection = options.connection_id();
        self.dials.insert(connection, Dial { address, peer });
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(connection, &error);
        }
    }

    pub(super) fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        let Some(Dial { address, peer }) = self.dials.remove(&connection) else {
            return;
        };
        match error {
            DialError::LocalPeerId { .. } => {
                self.refused(peer, address, Refusal::DuplicateIdentity);
            }
            DialError::WrongPeerId { obtained, .. } => {
                let reason = Refusal::WrongIdentity {
                    expected: peer.unwrap_or_default(),
                    found: node_id(obtained).unwrap_or_default(),
                };
                self.refused(peer, address, reason);
            }
            DialError::NoAddresses
            | DialError::DialPeerConditionFalse(_)
            | DialError::Aborted
            | DialError::Transport(_)
            | DialError::Denied { .. } => {
                let detail = root_cause(error);
                self.shared.emit(Event::Unreachable {
                    peer,
                    address,
                    detail,
                });
            }
        }
        if let (Some(discovery), Some(peer)) = (&self.discovery, peer) {
            discovery.doubt(&peer);
        }
    }

    pub(super) fn on_incoming_failed(&mut self, from: &Multiaddr, error: &ListenError) {
        let Some(address) = socket_addr(from) else {
            return;
        };
        let reason = match error {
            ListenError::LocalPeerId { .. } => Refusal::DuplicateIdentity,
            _ if causes(error).any(is_own_identity) => Refusal::DuplicateIdentity,
            ListenError::Aborted
            | ListenError::WrongPeerId { .. }
            | ListenError::Denied { .. }
            | ListenError::Transport(_) => Refusal::NotCairn {
                detail: root_cause(error),
            },
        };
        self.refused(None, address, reason);
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        let listening = self.shared.listening();
        let unspecified = address.ip().is_unspecified();
        listening
            .iter()
            .any(|own| own.port() == address.port() && (unspecified || own.ip() == address.ip()))
    }
}

/// The innermost message: the outer ones name layers that no user knows.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error)
        .last()
        .expect("an error is its own first cause")
        .to_string()
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        // An I/O error that wraps another leaves it out of its own chain.
        match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}
