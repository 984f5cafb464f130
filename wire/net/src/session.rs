//! One connection's life after the transport: handshake, then frames both ways.

mod handshake;
mod traffic;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::id::NodeId;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use libp2p::swarm::Stream;
use tokio::sync::oneshot;

use self::handshake::Broken;
use self::traffic::Traffic;
use crate::event::{Cause, Event, Origin, Refusal};
use crate::roster::ConnectionNumber;
use crate::shared::Shared;
use crate::streams::Pair;

pub(crate) use self::handshake::Credentials;

/// From the transport's handshake to the end of ours.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a refused peer has to read why.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection whose two streams are open.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) connection: ConnectionNumber,
    pub(crate) peer: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) origin: Origin,
}

impl Session {
    /// Runs the session to its end, which it reports.
    pub(crate) async fn run(self, mut pair: Pair) {
        let (stop, mut stopped) = oneshot::channel();
        let handshake = tokio::time::timeout(
            HANDSHAKE_TIMEOUT,
            self.handshake(stop, &mut pair.control, &mut pair.data),
        );
        let outcome = tokio::select! {
            biased;
            _ = &mut stopped => Err(Broken::Yielded),
            outcome = handshake => outcome.unwrap_or(Err(Broken::Refused(Refusal::Silent))),
        };
        let outcome = outcome.map_err(|broken| self.settle(broken));
        let cause = match outcome {
            Ok((link, outbox)) => {
                let traffic = Traffic {
                    shared: &self.shared,
                    peer: self.peer,
                    link,
                };
                tokio::select! {
                    biased;
                    cause = &mut stopped => cause.unwrap_or(Cause::Replaced),
                    cause = traffic.run(outbox, pair) => cause,
                }
            }
            Err(broken) => {
                if let Broken::Refused(reason) = broken {
                    self.shared.emit(Event::Refused {
                        peer: Some(self.peer),
                        address: self.address,
                        reason,
                    });
                    // Unread bytes would turn the close into a reset, which may
                    // overtake the refusal.
                    drop(tokio::time::timeout(LINGER_TIMEOUT, linger(&mut pair.control)).await);
                }
                return;
            }
        };
        let was_link = self.shared.roster().forget(self.peer, self.connection);
        if was_link {
            self.shared.emit(Event::Disconnected {
                peer: self.peer,
                cause,
            });
        }
    }

    /// Ends this attempt in the roster and tells a peer that gave it up, for
    /// another attempt at the same pair, from one that broke off.
    fn settle(&self, broken: Broken) -> Broken {
        let mut roster = self.shared.roster();
        roster.forget(self.peer, self.connection);
        match broken {
            Broken::HungUp if roster.knows(&self.peer) => Broken::Yielded,
            Broken::HungUp => Broken::Refused(Refusal::NotCairn {
                detail: "it hung up during the handshake".to_owned(),
            }),
            broken @ (Broken::Refused(_) | Broken::Yielded) => broken,
        }
    }
}

/// Ends our half of a stream and waits for the peer's end.
async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.close().await?;
    let mut ignored = [0; 256];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// A process that dies resets its connections or ends them: both are the peer's doing.
fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::WriteZero
    )
}
