//! Translations between this crate's names and the transport's. Nothing is resolved.

use std::net::{IpAddr, SocketAddr};

use cairn_wire::id::NodeId;
use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::{Multiaddr, Protocol};

pub(crate) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// None for what is not `/ip4|ip6/…/tcp/…`.
pub(crate) fn socket_addr(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// None when no key has these bytes: whoever announced them made them up.
pub(crate) fn peer_id(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// None for a peer with another kind of key.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Identity;

    #[test]
    fn names_survive_the_translation() {
        for seed in 0..16 {
            let node = Identity::from_seed([seed; 32]).node();
            let peer = peer_id(&node).expect("a real key");
            assert_eq!(node_id(&peer), Some(node));
        }
        for address in ["127.0.0.1:9", "[::1]:65535"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(socket_addr(&multiaddr(address)), Some(address));
        }
    }
}
