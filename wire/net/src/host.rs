//! The network thread: the swarm, its connections, and a task for each session.
//!
//! A thread of its own with a runtime of its own, so that heartbeats never wait
//! behind anybody's work. One thread is no slower than several here.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::id::NodeId;
use futures::StreamExt;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::ConnectedPoint;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, TransportError, tcp, yamux};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::address::{multiaddr, node_id, peer_id, socket_addr};
use crate::config::{Interfaces, Mdns, StartError};
use crate::discovery::{Announcement, Discovery, Sighting};
use crate::event::{Cause, CloseCause, Event, Origin, Refusal};
use crate::noise::{Channel, is_own_identity};
use crate::session::{Credentials, HANDSHAKE_TIMEOUT, Session};
use crate::shared::Shared;
use crate::streams::{Opened, OpenedOn, Streams};

/// From the first packet of a dial to the end of the transport's handshake.
const TRANSPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// While nobody is linked, everybody is asked again this often.
const ALONE_INTERVAL: Duration = Duration::from_secs(10);
/// Sessions have this long to end when the host does.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);
/// Strangers that may be in the transport's handshake at once; more are turned away.
const PENDING_INCOMING_MAX: u32 = 128;
/// Connections of one peer: one session's, and one more of a simultaneous dial or a restart.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
/// Streams that a peer may open: two are served, a third ends the connection.
const STREAMS_MAX: usize = 8;

/// What callers ask of the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Dial(SocketAddr, Option<NodeId>),
}

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    streams: Streams,
    limits: connection_limits::Behaviour,
}

pub(crate) struct Host {
    shared: Arc<Shared>,
    credentials: Arc<Credentials>,
    swarm: Swarm<Behaviour>,
    mdns: Mdns,
    listen: SocketAddr,
    discovery: Option<Discovery>,
    dials: HashMap<ConnectionId, Dial>,
    connections: HashMap<ConnectionId, Connection>,
    sessions: JoinSet<ConnectionId>,
    deadlines: JoinSet<ConnectionId>,
    connections_total: u64,
}

/// A dial under way.
#[derive(Debug)]
struct Dial {
    address: SocketAddr,
    peer: Option<NodeId>,
}

/// A connection with an identity.
#[derive(Debug)]
struct Connection {
    peer: NodeId,
    address: SocketAddr,
    origin: Origin,
    /// Both streams are with a session.
    in_session: bool,
}

impl Host {
    /// Must be called within the runtime that will run it.
    pub(crate) fn new(
        shared: Arc<Shared>,
        credentials: Credentials,
        keypair: Keypair,
        listen: SocketAddr,
        mdns: Mdns,
    ) -> Result<Self, StartError> {
        probe(listen)?;
        let mut swarm = swarm(keypair)?;
        swarm
            .listen_on(multiaddr(listen))
            .map_err(|error| match error {
                TransportError::MultiaddrNotSupported(address) => {
                    listen_error(listen, io::Error::other(address.to_string()))
                }
                TransportError::Other(error) => listen_error(listen, error),
            })?;
        Ok(Self {
            shared,
            credentials: Arc::new(credentials),
            swarm,
            mdns,
            listen,
            discovery: None,
            dials: HashMap::new(),
            connections: HashMap::new(),
            sessions: JoinSet::new(),
            deadlines: JoinSet::new(),
            connections_total: 0,
        })
    }

    /// Runs until `stop`; says on `listening` when the first address is up.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut stop: oneshot::Receiver<()>,
        listening: oneshot::Sender<()>,
    ) {
        let mut listening = Some(listening);
        let mut alone = tokio::time::interval(ALONE_INTERVAL);
        alone.set_missed_tick_behavior(MissedTickBehavior::Delay);
        alone.reset();
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                Some(ended) = self.sessions.join_next() => {
                    // A session that panicked has no connection to name; its deadline
                    // is long past, so the peer's end is what will close it.
                    if let Ok(connection) = ended {
                        self.swarm.close_connection(connection);
                    }
                }
                Some(Ok(connection)) = self.deadlines.join_next() => self.expire(connection),
                event = self.swarm.select_next_some() => self.on_swarm(event, &mut listening),
                Some(command) = commands.recv() => match command {
                    Command::Dial(address, peer) => self.dial(address, peer),
                },
                sighting = next_sighting(&mut self.discovery) => self.on_sighting(sighting),
                _ = alone.tick() => self.look_again_if_alone(),
            }
        }
        self.stop().await;
    }

    fn on_swarm(
        &mut self,
        event: SwarmEvent<BehaviourEvent>,
        listening: &mut Option<oneshot::Sender<()>>,
    ) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                self.on_listening(&address);
                if let Some(listening) = listening.take() {
                    // The caller may have stopped waiting.
                    listening.send(()).ok();
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let gone = socket_addr(&address);
                self.shared.listening().retain(|known| Some(*known) != gone);
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_established(&peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.connections.remove(&connection_id);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => self.on_dial_failed(connection_id, &error),
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                ..
            } => self.on_incoming_failed(&send_back_addr, &error),
            SwarmEvent::Behaviour(BehaviourEvent::Streams(opened)) => self.on_opened(opened),
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "the listener reports an error");
            }
            // Dialing, incoming, listener closed: what matters of them comes as one of the above.
            _ => {}
        }
    }

    fn on_listening(&mut self, address: &Multiaddr) {
        let Some(address) = socket_addr(address) else {
            return;
        };
        self.shared.listening().push(address);
        if self.discovery.is_some() {
            return;
        }
        if let Mdns::On { port, interfaces } = self.mdns.clone() {
            let listen = SocketAddr::new(self.listen.ip(), address.port());
            self.discover(port, &interfaces, listen);
        }
    }

    fn discover(&mut self, port: u16, interfaces: &Interfaces, listen: SocketAddr) {
        let announcement = Announcement {
            node: self.shared.own(),
            boot: self.credentials.boot,
            cluster: self.credentials.cluster,
            listen,
        };
        match Discovery::start(port, interfaces, announcement) {
            Ok(discovery) => self.discovery = Some(discovery),
            Err(error) => self.shared.emit(Event::DiscoveryFailed {
                detail: error.to_string(),
            }),
        }
    }

    fn on_established(
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

    fn on_opened(&mut self, OpenedOn { connection, opened }: OpenedOn) {
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
    fn expire(&mut self, connection: ConnectionId) {
        let silent = self
            .connections
            .get(&connection)
            .filter(|known| !known.in_session);
        if let Some(known) = silent {
            self.refused(Some(known.peer), known.address, Refusal::Silent);
            self.swarm.close_connection(connection);
        }
    }

    fn dial(&mut self, address: SocketAddr, peer: Option<NodeId>) {
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

    fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
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

    fn on_incoming_failed(&mut self, from: &Multiaddr, error: &ListenError) {
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

    fn on_sighting(&mut self, sighting: Sighting) {
        if sighting.node == self.shared.own() {
            let address = sighting.addresses[0];
            self.refused(Some(sighting.node), address, Refusal::DuplicateIdentity);
            return;
        }
        self.shared.emit(Event::Found {
            node: sighting.node,
            boot: sighting.boot,
            addresses: sighting.addresses,
        });
    }

    fn look_again_if_alone(&mut self) {
        let alone = !self.shared.roster().has_links();
        if let (true, Some(discovery)) = (alone, &mut self.discovery) {
            discovery.look_again();
        }
    }

    fn refused(&self, peer: Option<NodeId>, address: SocketAddr, reason: Refusal) {
        self.shared.emit(Event::Refused {
            peer,
            address,
            reason,
        });
    }

    /// Ends every session, says goodbye, closes every connection.
    async fn stop(mut self) {
        self.shared
            .roster()
            .stop_all(&Cause::Here(CloseCause::Shutdown));
        let closing = async {
            while let Some(ended) = self.sessions.join_next().await {
                if let Ok(connection) = ended {
                    self.swarm.close_connection(connection);
                }
            }
            while !self.connections.is_empty() {
                if let SwarmEvent::ConnectionClosed { connection_id, .. } =
                    self.swarm.select_next_some().await
                {
                    self.connections.remove(&connection_id);
                }
            }
        };
        // What does not close by itself closes with the thread.
        drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, closing).await);
        if let Some(discovery) = self.discovery.take() {
            discovery.stop().await;
        }
    }
}

async fn next_sighting(discovery: &mut Option<Discovery>) -> Sighting {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => std::future::pending().await,
    }
}

/// The transport shares its port with whoever asks in the same way, so a second
/// node on one port would start and take half the connections. This asks otherwise.
fn probe(listen: SocketAddr) -> Result<(), StartError> {
    if listen.port() == 0 {
        return Ok(());
    }
    std::net::TcpListener::bind(listen)
        .map(drop)
        .map_err(|error| listen_error(listen, error))
}

fn listen_error(address: SocketAddr, source: io::Error) -> StartError {
    match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse(address),
        _ => StartError::Listen { address, source },
    }
}

fn swarm(keypair: Keypair) -> Result<Swarm<Behaviour>, StartError> {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    let multiplexer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        config
    };
    let builder = libp2p::SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            Channel::new,
            multiplexer,
        )
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
