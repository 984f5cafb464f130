//! Who is linked, and which of several attempts at one pair may go on.
//!
//! Two nodes that dial each other at once must end with one session, not with two or
//! none. The node with the lower id is the arbiter of a pair: it has at most one
//! attempt under way, whoever dialled. The other follows: an attempt that the arbiter
//! began replaces its own. No IO, no clock.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_wire::hello::Refusal;
use cairn_wire::id::{BootId, NodeId};
use tokio::sync::oneshot;

use crate::event::Cause;
use crate::link::Link;

/// Tells a session's task to end, and why.
pub(crate) type Stop = oneshot::Sender<Cause>;

/// Names a connection within this process.
pub(crate) type ConnectionNumber = u64;

#[derive(Debug)]
pub(crate) struct Roster {
    own: NodeId,
    peers: HashMap<NodeId, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    attempt: Option<Attempt>,
    linked: Option<Linked>,
}

#[derive(Debug)]
struct Attempt {
    connection: ConnectionNumber,
    dialled: bool,
    stop: Stop,
}

#[derive(Debug)]
struct Linked {
    connection: ConnectionNumber,
    boot: BootId,
    link: Arc<Link>,
    stop: Stop,
}

/// What a new session does to an older one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Established {
    /// There was none.
    First,
    /// There was one; it is told to end and will not report it.
    Replaced,
}

impl Roster {
    pub(crate) fn new(own: NodeId) -> Self {
        Self {
            own,
            peers: HashMap::new(),
        }
    }

    pub(crate) fn link(&self, peer: &NodeId) -> Option<Arc<Link>> {
        let linked = self.peers.get(peer)?.linked.as_ref()?;
        Some(Arc::clone(&linked.link))
    }

    /// Whether there is a link or an attempt.
    pub(crate) fn knows(&self, peer: &NodeId) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|peer| peer.linked.is_some() || peer.attempt.is_some())
    }

    pub(crate) fn has_links(&self) -> bool {
        self.peers.values().any(|peer| peer.linked.is_some())
    }

    /// Whether this node may speak first on a connection that it dialled.
    pub(crate) fn begin_dialled(
        &mut self,
        peer: NodeId,
        connection: ConnectionNumber,
        stop: Stop,
    ) -> Result<(), Refusal> {
        let entry = self.peers.entry(peer).or_default();
        if entry.linked.is_some() || entry.attempt.is_some() {
            return Err(Refusal::AlreadyLinked);
        }
        entry.attempt = Some(Attempt {
            connection,
            dialled: true,
            stop,
        });
        Ok(())
    }

    /// Whether this node answers a peer that spoke first.
    pub(crate) fn begin_accepted(
        &mut self,
        peer: NodeId,
        boot: BootId,
        connection: ConnectionNumber,
        stop: Stop,
    ) -> Result<(), Refusal> {
        let is_arbiter = self.own < peer;
        let entry = self.peers.entry(peer).or_default();
        if let Some(linked) = &entry.linked {
            if linked.boot != boot {
                return Err(Refusal::DuplicateIdentity);
            }
            // To the arbiter its own link is the truth. The other side must believe
            // an arbiter that starts anew: it has lost the session.
            if is_arbiter {
                return Err(Refusal::AlreadyLinked);
            }
        }
        let own_attempt = entry.attempt.as_ref().is_some_and(|a| a.dialled);
        if is_arbiter && own_attempt {
            return Err(Refusal::AlreadyLinked);
        }
        let attempt = Attempt {
            connection,
            dialled: false,
            stop,
        };
        // A peer has one attempt under way, so an older one of its own is dead too.
        if let Some(older) = entry.attempt.replace(attempt) {
            end(older.stop, Cause::Replaced);
        }
        Ok(())
    }

    /// Turns an attempt into the link, unless another has taken its place.
    pub(crate) fn establish(
        &mut self,
        peer: NodeId,
        connection: ConnectionNumber,
        boot: BootId,
        link: Arc<Link>,
    ) -> Result<Established, Refusal> {
        let entry = self.peers.entry(peer).or_default();
        let attempt = entry
            .attempt
            .take_if(|attempt| attempt.connection == connection)
            .ok_or(Refusal::AlreadyLinked)?;
        let linked = Linked {
            connection,
            boot,
            link,
            stop: attempt.stop,
        };
        match entry.linked.replace(linked) {
            None => Ok(Established::First),
            Some(older) => {
                end(older.stop, Cause::Replaced);
                Ok(Established::Replaced)
            }
        }
    }

    /// Forgets whatever `connection` was. Says whether it was the link.
    pub(crate) fn forget(&mut self, peer: NodeId, connection: ConnectionNumber) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else {
            return false;
        };
        entry.attempt.take_if(|a| a.connection == connection);
        let was_link = entry
            .linked
            .take_if(|l| l.connection == connection)
            .is_some();
        if entry.attempt.is_none() && entry.linked.is_none() {
            self.peers.remove(&peer);
        }
        was_link
    }

    /// Tells everything about `peer` to end; their tasks forget themselves.
    pub(crate) fn stop(&mut self, peer: &NodeId, cause: &Cause) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        entry.stop(cause);
    }

    /// Tells everything to end.
    pub(crate) fn stop_all(&mut self, cause: &Cause) {
        self.peers.values_mut().for_each(|peer| peer.stop(cause));
    }
}

impl Peer {
    fn stop(&mut self, cause: &Cause) {
        let attempt = self.attempt.iter_mut().map(|attempt| &mut attempt.stop);
        let linked = self.linked.iter_mut().map(|linked| &mut linked.stop);
        for stop in attempt.chain(linked) {
            // The entry stays until its task forgets it, with a stop that nobody hears.
            let (spent, _) = oneshot::channel();
            end(std::mem::replace(stop, spent), cause.clone());
        }
    }
}

fn end(stop: Stop, cause: Cause) {
    // A task that does not listen any more is ending already.
    stop.send(cause).ok();
}

#[cfg(test)]
mod tests;
