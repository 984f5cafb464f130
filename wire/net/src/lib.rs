//! The network: identity, connections, one kept stream per neighbour and plane.
//!
//! Carries what the `wire` crate defines and decides nothing about it: who is a
//! member, who leads and what a frame means is the caller's business. Every offer
//! is answered at once; nothing here waits for a peer.
#![forbid(unsafe_code)]

mod address;
mod config;
mod credit;
mod discovery;
mod event;
mod host;
mod link;
mod multiplexer;
mod noise;
mod roster;
mod session;
mod shared;
mod speed;
mod streams;
#[cfg(test)]
mod tests;
mod thread;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::Duration;

use cairn_wire::DataFrame;
use cairn_wire::control::Control;
use cairn_wire::hello::PROTOCOL_VERSION;
use cairn_wire::id::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::host::{Command, Host};
use crate::session::Credentials;
use crate::shared::Shared;

pub use crate::config::{Config, Identity, Interfaces, MDNS_PORT, Mdns, Secret, StartError};
pub use crate::credit::CreditGuard;
pub use crate::event::{Cause, CloseCause, Event, Origin, Refusal, Refused, Returned};
pub use crate::link::ControlGuard;
pub use crate::shared::Sink;
pub use crate::thread::Thread;

/// Dials waiting for the thread. Full: the dial is dropped, as a failed one would be.
const COMMANDS_MAX: usize = 1024;
/// With no interface up there is no address to wait for; the host starts all the same.
const LISTENING_TIMEOUT: Duration = Duration::from_secs(1);

/// A running host. Dropping it shuts it down.
#[derive(Debug)]
pub struct Net {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    end: thread::End,
}

/// Starts a host on its thread and waits until it listens.
///
/// `sink` is called on that thread with every [`Event`] and must not wait; it may
/// offer frames.
///
/// # Errors
/// See [`StartError`].
pub fn start(thread: Thread, config: Config, sink: Sink) -> Result<Net, StartError> {
    start_version(thread, config, sink, PROTOCOL_VERSION)
}

fn start_version(
    thread: Thread,
    config: Config,
    sink: Sink,
    version: u32,
) -> Result<Net, StartError> {
    let shared = Shared::new(config.identity.node(), sink);
    let credentials = Credentials {
        version,
        boot: config.boot,
        cluster: config::cluster_tag(&config.cluster),
        software: config.version,
        secret: config.secret,
    };
    let entered = thread.runtime().enter();
    let host = Host::new(
        Arc::clone(&shared),
        credentials,
        config.identity.keypair(),
        config.listen,
        config.mdns,
    )?;
    drop(entered);

    let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
    let (stop, stopped) = oneshot::channel();
    let (listening, is_listening) = oneshot::channel();
    let (up, is_up) = std_mpsc::channel();
    let end = thread.run(async move {
        let run = host.run(command_queue, stopped, listening);
        let tell = async {
            drop(tokio::time::timeout(LISTENING_TIMEOUT, is_listening).await);
            // The caller waits for exactly this.
            up.send(()).ok();
        };
        tokio::join!(run, tell);
    });
    // An error means that the thread has ended already, which dropping will tell.
    is_up.recv().ok();
    Ok(Net {
        shared,
        commands,
        running: Mutex::new(Some(Running { stop, end })),
    })
}

impl Net {
    /// This node.
    pub fn id(&self) -> NodeId {
        self.shared.own()
    }

    /// Addresses it can be reached at, as far as it knows.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.shared.listening().clone()
    }

    /// Tries to open a session; `Connected`, `Refused` or `Unreachable` follows, or
    /// nothing where the two are linked already or are about to be. With a name,
    /// nobody else is accepted in its place.
    pub fn dial(&self, address: SocketAddr, peer: Option<NodeId>) {
        if self
            .commands
            .try_send(Command::Dial(address, peer))
            .is_err()
        {
            tracing::warn!(%address, "too many dials at once: dropped");
        }
    }

    /// Ends the session with `peer` and its connection; `Disconnected` follows.
    pub fn close(&self, peer: NodeId, cause: CloseCause) {
        self.shared.roster().stop(&peer, &Cause::Here(cause));
    }

    /// Queues a control message. Never waits.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn offer_control(&self, peer: NodeId, message: &Control) -> Result<(), Refused> {
        let link = self.shared.roster().link(&peer);
        link.ok_or(Refused::NoLink)?.offer_control(message)
    }

    /// Queues a data frame, for one of the peer's credits. Never waits.
    ///
    /// # Errors
    /// The frame, and why it was not sent.
    pub fn offer(&self, peer: NodeId, frame: DataFrame) -> Result<(), Box<Returned>> {
        let link = self.shared.roster().link(&peer);
        match link {
            Some(link) => link.offer(frame),
            None => Err(Box::new(Returned {
                frame,
                why: Refused::NoLink,
            })),
        }
    }

    /// How fast large frames have come from `peer` lately, in bytes per second; nothing before
    /// one has come.
    pub fn received_bytes_per_second(&self, peer: NodeId) -> Option<u64> {
        self.shared.roster().link(&peer)?.speed.bytes_per_second()
    }

    /// Ends every session, takes the announcement back, stops the thread and waits
    /// for it, unless called by the sink. A second call does nothing.
    pub fn shutdown(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Running { stop, end }) = running else {
            return;
        };
        // The thread may have ended by itself.
        stop.send(()).ok();
        end.wait();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.shutdown();
    }
}
