//! The swarm: what a connection consists of, and how many there may be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, Swarm};
use libp2p::tcp;

use crate::config::StartError;
use crate::multiplexer::Multiplexer;
use crate::noise::Channel;
use crate::streams::Streams;

/// From the first packet of a dial to the end of the transport's handshake.
const TRANSPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Strangers that may be in the transport's handshake at once; more are turned away.
const PENDING_INCOMING_MAX: u32 = 128;
/// Connections of one peer: one session's, and one more of a simultaneous dial or a restart.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
/// Streams that a peer may open: two are served, a third ends the connection.
const STREAMS_MAX: usize = 8;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    streams: Streams,
    limits: connection_limits::Behaviour,
}

/// The transport shares its port with whoever asks in the same way, so a second
/// node on one port would start and take half the connections. This asks otherwise.
pub(super) fn probe(listen: SocketAddr) -> Result<(), StartError> {
    if listen.port() == 0 {
        return Ok(());
    }
    std::net::TcpListener::bind(listen)
        .map(drop)
        .map_err(|error| listen_error(listen, error))
}

pub(super) fn listen_error(address: SocketAddr, source: io::Error) -> StartError {
    match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse(address),
        _ => StartError::Listen { address, source },
    }
}

/// Must be called within the runtime that will run it.
pub(super) fn swarm(keypair: Keypair) -> Result<Swarm<Behaviour>, StartError> {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    let builder = libp2p::SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), Channel::new, || {
            Multiplexer::new(STREAMS_MAX)
        })
        .map_err(|error| StartError::System {
            what: "a key for the encrypted channel",
            source: io::Error::other(error),
        })?;
    let swarm = builder
        .with_behaviour(|_| Behaviour {
            streams: Streams::default(),
            limits: connection_limits::Behaviour::new(limits),
        })
        .expect("the behaviour is built without a step that fails")
        .with_swarm_config(|config| config)
        .with_connection_timeout(TRANSPORT_TIMEOUT)
        .build();
    Ok(swarm)
}
