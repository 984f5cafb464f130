//! What a node says to its peers: heartbeats, and addresses that they lack.

use cairn_wire::control::{Heartbeat, PeerAddress};
use cairn_wire::id::NodeId;
use cairn_wire::limits::NODES_MAX;

use super::{Membership, Output, PEERS_MAX, Standing};
use crate::Tick;

impl Membership {
    pub(super) fn send_heartbeats(&mut self) {
        let heartbeat = self.heartbeat();
        for peer in self.links.keys() {
            self.orders.push_back(Output::SendHeartbeat {
                peer: *peer,
                heartbeat: heartbeat.clone(),
            });
        }
    }

    pub(super) fn send_heartbeat(&mut self, peer: NodeId) {
        let heartbeat = self.heartbeat();
        self.orders
            .push_back(Output::SendHeartbeat { peer, heartbeat });
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            boot: self.config.boot,
            term: self.leadership.term,
            role: self.leadership.role,
            term_number_max: self.leadership.number_max,
            hears: self
                .links
                .iter()
                .filter(|(_, link)| link.said.is_some() && link.standing == Standing::In)
                .map(|(peer, _)| *peer)
                .take(NODES_MAX)
                .collect(),
        }
    }

    pub(super) fn send_peers(&mut self, peer: NodeId, list: Vec<PeerAddress>) {
        if !list.is_empty() {
            self.orders.push_back(Output::SendPeers { peer, list });
        }
    }

    pub(super) fn own_address(&self) -> Option<PeerAddress> {
        (!self.listening.is_empty()).then(|| PeerAddress {
            node: self.config.me,
            addresses: self.listening.clone(),
        })
    }

    /// Addresses of connected nodes that a peer does not hear, after those given.
    pub(super) fn lacking(&self, peer: NodeId, first: Option<PeerAddress>) -> Vec<PeerAddress> {
        first
            .into_iter()
            .chain(
                self.links
                    .keys()
                    .filter(|node| self.is_lacked_by(**node, peer))
                    .filter_map(|node| self.dialer.addresses(*node)),
            )
            .take(PEERS_MAX)
            .collect()
    }

    pub(super) fn is_lacked_by(&self, node: NodeId, peer: NodeId) -> bool {
        let said = self.links.get(&peer).and_then(|link| link.said.as_ref());
        node != peer && said.is_some_and(|said| !said.hears.contains(&node))
    }

    pub(super) fn gossip(&mut self, now: Tick) {
        if now < self.next_gossip {
            return;
        }
        self.next_gossip = now.after_millis(self.config.timing.gossip_millis);
        let peers: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in peers {
            let list = self.lacking(peer, None);
            self.send_peers(peer, list);
        }
    }
}
