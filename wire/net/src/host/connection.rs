//! Connections: from the peer's proven identity to a session on both streams, or an end.

use std::net::SocketAddr;
use std::sync::Arc;

use cairn_wire::id::NodeId;
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;

use super::Host;
use crate::address::{node_id, socket_addr};
use crate::event::{Origin, Refusal};
use crate::session::{HANDSHAKE_TIMEOUT, Session};
use crate::streams::{Opened, OpenedOn};

/// A connection with an identity.
#[derive(Debug)]
pub(super) struct Connection {
    peer: NodeId,
    address: SocketAddr,
    origin: Origin,
    /// Both streams are with a session.
    in_session: bool,
}

impl Host {
    pub(super) fn on_established(
        &mut self,
        peer: &PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let dial = self.dials.remove(&connection);
        let origin = match endpoint {
            ConnectedPoint::Dialer { .. } => Origin::Dialled,
            ConnectedPoint::Listener { .. } => Origin::Accepted,
        };
        let address = dial
            .map(|dial| dial.address)
            .or_else(|| socket_addr(endpoint.get_remote_address()));
        let (Some(address), Some(peer)) = (address, node_id(peer)) else {
            self.swarm.close_connection(connection);
            return;
        };
        let known = Connection {
            peer,
            address,
            origin,
            in_session: false,
        };
        self.connections.insert(connection, known);
        self.deadlines.spawn(async move {
            tokio::time::sleep(HANDSHAKE_TIMEOUT).await;
            connection
        });
    }

    pub(super) fn on_opened(&mut self, OpenedOn { connection, opened }: OpenedOn) {
        let Some(known) = self.connections.get_mut(&connection) else {
            return;
        };
        match opened {
            Opened::Pair(pair) => {
                known.in_session = true;
                self.connections_total += 1;
                let session = Session {
                    shared: Arc::clone(&self.shared),
                    credentials: Arc::clone(&self.credentials),
                    connection: self.connections_total,
                    peer: known.peer,
                    address: known.address,
                    origin: known.origin,
                };
                self.sessions.spawn(async move {
                    session.run(*pair).await;
                    connection
                });
            }
            Opened::Failed(detail) => {
                let (peer, address) = (known.peer, known.address);
                if !known.in_session {
                    self.refused(Some(peer), address, Refusal::NotCairn { detail });
                }
                self.swarm.close_connection(connection);
            }
        }
    }

    /// A connection whose streams never came.
    pub(super) fn expire(&mut self, connection: ConnectionId) {
        let silent = self
            .connections
            .get(&connection)
            .filter(|known| !known.in_session);
        if let Some(known) = silent {
            self.refused(Some(known.peer), known.address, Refusal::Silent);
            self.swarm.close_connection(connection);
        }
    }
}
