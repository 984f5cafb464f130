//! The orders of a machine, with the frames among them held back while their link is full.
//!
//! Decides nothing. A frame that comes back unsent goes to the front of those for
//! its neighbour, and whatever is sent there later waits behind it.

use std::collections::{BTreeMap, VecDeque};

use cairn_wire::frame::DataFrame;
use cairn_wire::id::NodeId;

/// An order that may be a frame for a neighbour.
pub(crate) trait Order: Sized {
    /// The order to send a frame.
    fn send(to: NodeId, frame: DataFrame) -> Self;
    /// The frame and whom it is for, or the order itself.
    fn into_send(self) -> Result<(NodeId, DataFrame), Self>;
}

/// Orders in the order in which they were given.
#[derive(Debug)]
pub(crate) struct Outbox<O> {
    orders: VecDeque<O>,
    /// Frames by neighbour. A neighbour is in here while its link is full.
    waiting: BTreeMap<NodeId, VecDeque<DataFrame>>,
}

impl<O> Default for Outbox<O> {
    fn default() -> Self {
        Self {
            orders: VecDeque::new(),
            waiting: BTreeMap::new(),
        }
    }
}

impl<O: Order> Outbox<O> {
    pub(crate) fn push(&mut self, order: O) {
        self.orders.push_back(order);
    }

    pub(crate) fn send(&mut self, to: NodeId, frame: DataFrame) {
        self.orders.push_back(O::send(to, frame));
    }

    /// The link refused this frame: it waits.
    pub(crate) fn unsent(&mut self, to: NodeId, frame: DataFrame) {
        self.waiting.entry(to).or_default().push_front(frame);
    }

    /// The link has room: what waits for it is ordered again. What does not fit comes back.
    pub(crate) fn link_ready(&mut self, peer: NodeId) {
        for frame in self.waiting.remove(&peer).unwrap_or_default() {
            self.send(peer, frame);
        }
    }

    /// The neighbour is gone.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.waiting.remove(&peer);
    }

    /// Frames waiting for it.
    pub(crate) fn waiting(&self, peer: NodeId) -> usize {
        self.waiting.get(&peer).map_or(0, VecDeque::len)
    }

    /// The next order that can be carried out.
    pub(crate) fn poll(&mut self) -> Option<O> {
        loop {
            match self.orders.pop_front()?.into_send() {
                Ok((to, frame)) => match self.waiting.get_mut(&to) {
                    Some(queue) => queue.push_back(frame),
                    None => return Some(O::send(to, frame)),
                },
                Err(other) => return Some(other),
            }
        }
    }
}
