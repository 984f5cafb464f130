//! What runs on the network thread: the swarm, its connections, and a task for each session.

mod connection;
mod dial;
mod transport;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::id::NodeId;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, TransportError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::connection::Connection;
use self::dial::Dial;
use self::transport::{Behaviour, BehaviourEvent, listen_error, probe, swarm};
use crate::address::{multiaddr, socket_addr};
use crate::config::{Interfaces, Mdns, StartError};
use crate::discovery::{Announcement, Discovery, Sighting};
use crate::event::{Cause, CloseCause, Event, Refusal};
use crate::session::Credentials;
use crate::shared::Shared;

/// While nobody is linked, everybody is asked again this often. Nothing announces that
/// a question was lost, and the daemon's own come ever more seldom: hence a period.
const ALONE_INTERVAL: Duration = Duration::from_secs(10);
/// Sessions have this long to end when the host does.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

/// What callers ask of the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Dial(SocketAddr, Option<NodeId>),
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
