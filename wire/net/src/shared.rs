//! What the network thread and its callers share: the roster, the sink, the addresses.
//!
//! Locks are held for a look-up, never over an `await` or a call to the sink.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_wire::id::NodeId;

use crate::event::Event;
use crate::roster::Roster;

/// Where events go. Called on the network thread: it must not wait.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

pub(crate) struct Shared {
    own: NodeId,
    sink: Sink,
    roster: Mutex<Roster>,
    listening: Mutex<Vec<SocketAddr>>,
}

impl Shared {
    pub(crate) fn new(own: NodeId, sink: Sink) -> Arc<Self> {
        Arc::new(Self {
            own,
            sink,
            roster: Mutex::new(Roster::new(own)),
            listening: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn own(&self) -> NodeId {
        self.own
    }

    pub(crate) fn emit(&self, event: Event) {
        (self.sink)(event);
    }

    pub(crate) fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listening(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}
